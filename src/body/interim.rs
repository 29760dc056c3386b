//! Interim answers (RFC 9110 §15.2) on their way from an endpoint to a client that takes them, which is one that speaks
//! HTTP/3 (hyper's servers have no way to send any), and the endpoint's word to a client that waits with its body. Who hears
//! them on the endpoint's side must be `Send` for hyper, so that the client's end stays in a table of this thread and only
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
    /// Where interim answers go.
    to: Option<Informational>,
    /// Takes away the fields that must not pass.
    fields: fn(&mut HeaderMap),
    /// The body that waits for a word of the endpoint.
    waits: Option<Rc<Source>>,
}

/// The client's end of the interim answers to one request. What comes after it was dropped goes nowhere.
pub struct Interim {
    to: Option<Informational>,
    fields: fn(&mut HeaderMap),
    /// The place in the table; 0: none was asked for yet. Never given twice, as who hears may outlive its request.
    number: Cell<u64>,
    /// Its request said `Expect: 100-continue`.
    expects: bool,
}

/// Who hears the interim answers on the endpoint's side; travels with the request, as an extension of it.
#[derive(Clone, Copy, Debug)]
pub struct Hearing(u64);

impl Interim {
    /// The end of a client that takes interim answers, or waits for a word (`expects`: its request said
    /// `Expect: 100-continue`); `None`: it does neither. `fields` takes away those that must not pass.
    pub fn new(to: Option<Informational>, expects: bool, fields: fn(&mut HeaderMap)) -> Option<Self> {
        (to.is_some() || expects).then(|| Self { to, fields, number: Cell::new(0), expects })
    }

    /// Nobody reads the body of a client that waits for a word, until it gets one.
    pub fn hold_back(&self, source: &Source) {
        if self.expects {
            source.expect(self.to.clone());
        }
    }

    /// Passes on what comes ahead of the answer to `request`; `multiplexed`: it is not HTTP/1.1 that it goes over.
    /// `source`: its body, which waits for a word of this endpoint.
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
    /// Who goes with a request, if anybody does.
    pub fn of(request: &Request<Body>) -> Option<Self> {
        request.extensions().get().copied()
    }

    /// An endpoint sent this. RFC 9110 §15.2: it is forwarded, unless it was us who asked for it; 100 is said by whoever
    /// reads the body.
    pub fn hear(self, status: StatusCode, fields: &HeaderMap) {
        // Nothing is called while the table is borrowed.
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
