//! The request body on its way to an endpoint. Its bytes come from a `Source` that outlives one attempt, so that a
//! request can be retried from the beginning as long as everything that was read is still kept (at most `replay`
//! bytes). The client's stall deadline and the limit on bodies are enforced here.

mod attempt;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use tokio::time::Instant;

pub use self::attempt::{RequestBody, take_looked_at};
use super::base64::Decoder;
use super::exchange::{Exchange, Upload};
use super::expecting::Expecting;
use super::held::Held;
use super::incoming::{self, Incoming};
use super::kept::{Gathered, Kept};
use crate::base::error::{Error, Kind};
use crate::http3::Informational;
use crate::net::timer::{self, Timer};

/// The body of one request, for all its attempts.
pub struct Source {
    incoming: RefCell<Incoming>,
    /// Read before the endpoint was chosen.
    ahead: RefCell<Option<Box<Frame<Bytes>>>>,
    exchange: Rc<Exchange>,
    timer: Timer,
    /// Whether the timer is running.
    armed: Cell<bool>,
    kept: RefCell<Kept>,
    /// Bytes received from the client.
    received: Cell<u64>,
    max: u64,
    trailers: fn(&mut HeaderMap),
    abandoned: Cell<bool>,
    /// Some of it was given to an attempt.
    touched: Cell<bool>,
    /// There will be no further attempts.
    settled: Cell<bool>,
    failure: RefCell<Option<Error>>,
    waker: RefCell<Option<Waker>>,
    /// Whoever sends it, who may not look at it for as long as the endpoint takes nothing.
    carrier: RefCell<Option<Waker>>,
    /// The client waits for a word before it sends anything.
    expecting: RefCell<Option<Box<Expecting>>>,
    /// It is base64 (gRPC-Web text).
    text: RefCell<Option<Box<Decoder>>>,
}

impl Source {
    /// The body of a request. `max` is its limit in bytes, `replay` the bytes kept for retries, and `trailers` removes
    /// the trailer fields that must not be forwarded.
    pub fn new(
        incoming: Incoming,
        exchange: Rc<Exchange>,
        max: Option<u64>,
        replay: u64,
        trailers: fn(&mut HeaderMap),
    ) -> Rc<Self> {
        exchange.note_upload(Upload::AwaitsEndpoint);
        Rc::new(Self {
            incoming: RefCell::new(incoming),
            ahead: RefCell::default(),
            exchange,
            timer: Timer::new(),
            armed: Cell::new(false),
            kept: RefCell::new(Kept::new(replay)),
            received: Cell::new(0),
            max: max.unwrap_or(u64::MAX),
            trailers,
            abandoned: Cell::new(false),
            touched: Cell::new(false),
            settled: Cell::new(false),
            failure: RefCell::new(None),
            waker: RefCell::new(None),
            carrier: RefCell::new(None),
            expecting: RefCell::new(None),
            text: RefCell::new(None),
        })
    }

    /// The client waits for a 100; `client`: the proxy has to send it.
    pub fn expect(&self, client: Option<Informational>) {
        self.expecting.replace(Some(Box::new(Expecting::new(client))));
    }

    /// Whether the client is still waiting for a 100.
    pub fn is_expecting(&self) -> bool {
        self.expecting.borrow().as_ref().is_some_and(|expecting| !expecting.is_over())
    }

    /// Asks a waiting client for its body.
    pub fn go_on(&self) {
        if let Some(expecting) = &*self.expecting.borrow() {
            expecting.go_on();
        }
    }

    /// Decodes the body from base64.
    pub fn read_as_text(&self) {
        self.text.replace(Some(Box::default()));
    }

    /// Reads the body ahead, to its end or until `limit` bytes are buffered. Called before the first attempt.
    ///
    /// # Errors
    /// Those of reading the body.
    pub async fn fill(&self, limit: u64) -> Result<(), Error> {
        self.go_on();
        // Read into one buffer, instead of keeping each chunk.
        let keeps_none = std::mem::replace(&mut self.kept.borrow_mut().overflowed, true);
        let held = Held::new(&self.exchange);
        let mut gathered = Gathered::default();
        while gathered.length < limit && !self.kept.borrow().ended {
            let Some(frame) = poll_fn(|cx| self.poll_incoming(cx)).await.transpose()? else { break };
            if let Ok(data) = frame.into_data() {
                gathered.take_in(&data);
                held.set(gathered.length);
            }
        }
        let mut kept = self.kept.borrow_mut();
        kept.room = if keeps_none { 0 } else { kept.room.saturating_sub(gathered.length) };
        kept.frames = gathered.into_frames();
        kept.overflowed = false;
        kept.held = Some(held);
        Ok(())
    }

    /// Puts a frame that was already read in front of the rest.
    pub fn put_ahead(&self, frame: Frame<Bytes>) {
        self.ahead.replace(Some(Box::new(frame)));
    }

    /// Whether no attempt has been given any of it yet.
    pub fn is_untouched(&self) -> bool {
        !self.touched.get()
    }

    /// Whether another attempt can send it from the beginning.
    pub fn is_replayable(&self) -> bool {
        self.is_untouched() || !self.kept.borrow().overflowed
    }

    /// Why reading it failed. Over HTTP/2, hyper only resets the stream and does not return the cause.
    pub fn take_failure(&self) -> Option<Error> {
        self.failure.take()
    }

    /// A body that reads it from the beginning.
    pub fn attempt(self: &Rc<Self>) -> RequestBody {
        RequestBody::new(Rc::clone(self))
    }

    /// There will be no further attempts: bytes kept for one are freed as soon as they are sent.
    pub fn settle(self: &Rc<Self>) {
        self.settled.set(true);
        if Rc::strong_count(self) == 1 {
            self.kept.borrow_mut().release();
        }
    }

    /// Nobody wants the rest: the answer is complete, or the exchange over. A body that is still being sent fails, and the
    /// client is not held until whoever sends it gets to see that.
    pub fn abandon(&self) {
        self.abandoned.set(true);
        drop(self.incoming.replace(Incoming::none()));
        self.ahead.take();
        if let Some(expecting) = &*self.expecting.borrow() {
            expecting.wake();
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        if let Some(carrier) = self.carrier.take() {
            carrier.wake();
        }
    }

    /// Wakes the task when the rest is not wanted any more.
    pub fn carried_by(&self, cx: &Context<'_>) {
        let mut carrier = self.carrier.borrow_mut();
        match &*carrier {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => *carrier = Some(cx.waker().clone()),
        }
    }

    /// Whether nobody wants the rest, should there be one.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.get()
    }

    /// Whether there is a rest, and nobody wants it.
    pub fn is_cut(&self) -> bool {
        self.abandoned.get() && !self.kept.borrow().ended
    }

    fn poll_incoming(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = match self.ahead.take() {
            Some(frame) => Poll::Ready(Some(Ok(*frame))),
            None => Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.armed.set(false);
                self.exchange.note_upload(Upload::AwaitsEndpoint);
                Poll::Ready(self.take_in(frame).transpose())
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(broken(error)))),
            Poll::Ready(None) => {
                if self.text.borrow().as_ref().is_some_and(|text| !text.is_complete()) {
                    return Poll::Ready(Some(Err(Error::downstream(Kind::HttpRequestError, NO_TEXT))));
                }
                self.kept.borrow_mut().ended = true;
                self.exchange.note_upload(Upload::Done);
                Poll::Ready(None)
            }
            Poll::Pending => {
                if !self.armed.replace(true) {
                    self.exchange.note_upload(Upload::AwaitsClient);
                    self.timer.set(Instant::now() + self.exchange.client_stall());
                }
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                self.timer.poll_expired(cx).map(|()| Some(Err(Error::downstream(Kind::ClientStall, SILENT))))
            }
        }
    }

    fn take_in(&self, frame: Frame<Bytes>) -> Result<Option<Frame<Bytes>>, Error> {
        let mut kept = self.kept.borrow_mut();
        match frame.into_data() {
            Ok(data) => {
                let received = self.received.get() + data.len() as u64;
                self.received.set(received);
                self.exchange.note_received(data.len() as u64);
                if received > self.max {
                    let reason = "the request's body is larger than allowed";
                    return Err(Error::downstream(Kind::RequestBodyTooLarge, reason));
                }
                let data = match &mut *self.text.borrow_mut() {
                    Some(text) => text.decode(&data).map_err(|_| Error::downstream(Kind::HttpRequestError, NO_TEXT))?,
                    None => data,
                };
                if !kept.overflowed {
                    kept.keep(&data);
                }
                let incoming = self.incoming.borrow();
                if incoming.is_end_stream() && self.text.borrow().is_none() {
                    kept.ended = true;
                    self.exchange.note_upload(Upload::Done);
                } else if incoming.size_hint().exact() == Some(0) {
                    // On HTTP/2 and HTTP/3 END_STREAM may still follow, and a reader that counts bytes would not read
                    // on.
                    self.exchange.note_upload(Upload::Done);
                }
                Ok(Some(Frame::data(data)))
            }
            Err(frame) => {
                kept.ended = true;
                self.exchange.note_upload(Upload::Done);
                let Ok(mut fields) = frame.into_trailers() else { return Ok(None) };
                (self.trailers)(&mut fields);
                if fields.is_empty() {
                    return Ok(None);
                }
                kept.trailers = Some(fields.clone());
                Ok(Some(Frame::trailers(fields)))
            }
        }
    }
}

/// The first frame of a body of unknown length; `None`: there is none, END_STREAM only came after the head.
///
/// # Errors
/// The client's fault: the body broke off, or nothing came within `client_stall`.
pub async fn first_frame(incoming: &mut Incoming, client_stall: Duration) -> Result<Option<Frame<Bytes>>, Error> {
    let first = poll_fn(|cx| Pin::new(&mut *incoming).poll_frame(cx));
    match timer::timeout(client_stall, first).await {
        Ok(frame) => frame.transpose().map_err(broken),
        Err(timer::Elapsed) => Err(Error::downstream(Kind::ClientStall, SILENT)),
    }
}

const NO_TEXT: &str = "the request's body is not the base64 that its type announces";
const SILENT: &str = "the client stopped sending its body";

/// Why a client's body broke off: its framing is invalid, or the client is gone.
fn broken(error: incoming::Error) -> Error {
    if error.is_malformed() {
        let reason = "the framing of the request's body is malformed";
        return Error::downstream(Kind::HttpRequestError, reason).because(error);
    }
    Error::downstream(Kind::ClientGone, "the client disconnected during the request body").because(error)
}
