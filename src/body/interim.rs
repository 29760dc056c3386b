//! Interim answers (RFC 9110 §15.2) on their way from an endpoint to a client that takes them, which is one that speaks
//! HTTP/3: hyper's servers have no way to send any. Who hears them on the endpoint's side must be `Send` for hyper, so that
//! the client's end stays in a table of this thread and only its number travels with the request.

use std::cell::{Cell, RefCell};

use http::{HeaderMap, Request, Response, StatusCode};
use rustc_hash::FxHashMap;

use super::Body;
use crate::http3::Informational;

thread_local! {
    static CLIENTS: RefCell<FxHashMap<u64, Client>> = RefCell::default();
    static NEXT: Cell<u64> = const { Cell::new(1) };
}

/// Where interim answers go, and what takes away the fields that must not pass.
type Client = (Informational, fn(&mut HeaderMap));

/// The client's end of the interim answers to one request. What comes after it was dropped goes nowhere.
pub struct Interim {
    client: Informational,
    fields: fn(&mut HeaderMap),
    /// The place in the table; 0: none was asked for yet. Never given twice, as who hears may outlive its request.
    number: Cell<u64>,
    /// The client waits for a word before it sends its body.
    expects: Cell<bool>,
}

/// Who hears the interim answers on the endpoint's side; travels with the request, as an extension of it.
#[derive(Clone, Copy, Debug)]
pub struct Hearing(u64);

impl Interim {
    /// The end of this client. `expects`: its request said `Expect: 100-continue`; `fields` takes away those that must
    /// not pass.
    pub fn new(client: Informational, expects: bool, fields: fn(&mut HeaderMap)) -> Self {
        Self { client, fields, number: Cell::new(0), expects: Cell::new(expects) }
    }

    /// Has the client send its body if it waits for a word (RFC 9110 §10.1.1), and passes on what comes ahead of the
    /// answer to `request`; `multiplexed`: it is not HTTP/1.1 that it goes over.
    pub fn accompany(&self, request: &mut Request<Body>, multiplexed: bool) {
        if self.expects.take() {
            self.client.send(of(StatusCode::CONTINUE));
        }
        if self.number.get() == 0 {
            let number = NEXT.replace(NEXT.get() + 1);
            self.number.set(number);
            CLIENTS.with_borrow_mut(|clients| clients.insert(number, (self.client.clone(), self.fields)));
        }
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
        if matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS) {
            return;
        }
        CLIENTS.with_borrow(|clients| {
            let Some((client, strip)) = clients.get(&self.0) else { return };
            let mut head = of(status);
            *head.headers_mut() = fields.clone();
            strip(head.headers_mut());
            client.send(head);
        });
    }
}

fn of(status: StatusCode) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = status;
    head
}
