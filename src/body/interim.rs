//! Interim (1xx) responses (RFC 9110 §15.2) from an endpoint to a client that takes them, which is an HTTP/3 client,
//! because hyper's servers cannot send any; and 100 (Continue) for clients that wait with their body. hyper requires
//! the receiver on the endpoint's side to be `Send`, so the client's end is kept in a table of this thread, and only
//! its number travels with the request.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use http::{HeaderMap, Request, Response, StatusCode};
use rustc_hash::FxHashMap;

use super::Body;
use super::request::Source;
use crate::http3::Informational;

thread_local! {
    static CLIENTS: RefCell<FxHashMap<u64, Client>> = RefCell::default();
    static NEXT: Cell<u64> = const { Cell::new(1) };
}

#[derive(Clone)]
struct Client {
    /// The channel to the client.
    to: Option<Informational>,
    /// Removes fields that must not be forwarded.
    fields: fn(&mut HeaderMap),
    /// The body that waits for the endpoint's 100.
    waits: Option<Rc<Source>>,
}

/// The client's end for one request. Interim responses that arrive after it was dropped are discarded.
pub struct Interim {
    to: Option<Informational>,
    fields: fn(&mut HeaderMap),
    /// The place in the table; 0: none yet. Never reused, because a receiver may outlive its request.
    number: Cell<u64>,
    /// The request has `Expect: 100-continue`.
    expects: bool,
}

/// Receives interim responses on the endpoint's side; an extension of the request.
#[derive(Clone, Copy, Debug)]
pub struct Hearing(u64);

impl Interim {
    /// The end of a client that takes interim responses, or waits for a 100 (`expects`: its request has `Expect:
    /// 100-continue`); `None`: neither. `fields` removes those that must not be forwarded.
    pub fn new(to: Option<Informational>, expects: bool, fields: fn(&mut HeaderMap)) -> Option<Self> {
        (to.is_some() || expects).then(|| Self { to, fields, number: Cell::new(0), expects })
    }

    /// Does not read the body of a waiting client until the endpoint asks for it.
    pub fn hold_back(&self, source: &Source) {
        if self.expects {
            source.expect(self.to.clone());
        }
    }

    /// Forwards the interim responses to `request`; `multiplexed`: not over HTTP/1.1. `source`: its body, if it waits
    /// for this endpoint's 100.
    pub fn accompany(&self, request: &mut Request<Body>, multiplexed: bool, source: Option<&Rc<Source>>) {
        if self.number.get() == 0 {
            self.number.set(NEXT.replace(NEXT.get() + 1));
        }
        let client = Client { to: self.to.clone(), fields: self.fields, waits: source.cloned() };
        CLIENTS.with_borrow_mut(|clients| clients.insert(self.number.get(), client));
        let hearing = Hearing(self.number.get());
        if multiplexed {
            request.extensions_mut().insert(hearing);
        } else {
            hyper::ext::on_informational(request, move |answer| hearing.hear(answer.status(), answer.headers()));
        }
    }
}

impl Drop for Interim {
    fn drop(&mut self) {
        if self.number.get() != 0 {
            CLIENTS.with_borrow_mut(|clients| clients.remove(&self.number.get()));
        }
    }
}

impl Hearing {
    /// The receiver of a request, if it has one.
    pub fn of(request: &Request<Body>) -> Option<Self> {
        request.extensions().get().copied()
    }

    /// Handles an interim response from an endpoint. RFC 9110 §15.2: it is forwarded, unless the proxy itself asked for
    /// it; 100 is sent by whoever reads the body.
    pub fn hear(self, status: StatusCode, fields: &HeaderMap) {
        // The table must not be borrowed during the calls.
        let Some(client) = CLIENTS.with_borrow(|clients| clients.get(&self.0).cloned()) else { return };
        match status {
            StatusCode::CONTINUE => {
                if let Some(source) = client.waits {
                    source.go_on();
                }
            }
            StatusCode::SWITCHING_PROTOCOLS => {}
            status => {
                let Some(to) = client.to else { return };
                let mut head = Response::new(());
                *head.status_mut() = status;
                *head.headers_mut() = fields.clone();
                (client.fields)(head.headers_mut());
                to.send(head);
            }
        }
    }
}
