//! One request and its answer on a downstream connection: which side is waited for and until when, and how it ended.
//! The request's future, its answer's body and the task that drives them share it; it is `!Send` and costs plain stores.

mod limits;

use std::any::Any;
use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

pub use self::limits::Limits;
use super::ledger::Ledger;
use super::load::Load;
use super::phase_clock::{Phase, PhaseClock};
use crate::base::error::{Error, Kind, Retry};
use crate::net::timer::Timer;
use crate::telemetry::counters::Counters;
use crate::telemetry::series::{Ended, Phases};

/// Who is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Nobody: bytes move, or the proxy itself is at work.
    Nobody,
    /// The endpoint, for the head of its answer.
    Answer,
    /// The endpoint, for more of its body.
    Origin,
    /// The client, to take what there is for it.
    Client,
}

/// How far the request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    /// There is none, or it was sent whole.
    Done,
    /// The client has yet to send what we want.
    AwaitsClient,
    /// The endpoint has yet to take what we have.
    AwaitsEndpoint,
}

/// One request and its answer.
pub struct Exchange {
    load: Rc<Load>,
    timer: Timer,
    waiting: Cell<Waiting>,
    until: Cell<Option<Instant>>,
    limits: Cell<Limits>,
    total_until: Cell<Option<Instant>>,
    upload: Cell<Upload>,
    upload_moved: Cell<Instant>,
    clock: PhaseClock,
    tunnelled: Cell<bool>,
    open: Cell<bool>,
    finished: Cell<bool>,
    failed: Cell<Option<(Kind, &'static str)>>,
    /// Zero until the head of an answer is handed on.
    status: Cell<u16>,
    received: Cell<u64>,
    sent: Cell<u64>,
    ledger: RefCell<Ledger>,
    in_flight: RefCell<Option<Box<dyn Any>>>,
}

impl Exchange {
    /// An exchange that begins now.
    pub fn begin(load: &Rc<Load>, limits: Limits) -> Rc<Self> {
        let now = Instant::now();
        let exchange = Self {
            load: Rc::clone(load),
            timer: Timer::new(),
            waiting: Cell::new(Waiting::Nobody),
            until: Cell::new(None),
            limits: Cell::new(limits),
            total_until: Cell::new(None),
            upload: Cell::new(Upload::Done),
            upload_moved: Cell::new(now),
            clock: PhaseClock::new(now),
            tunnelled: Cell::new(false),
            open: Cell::new(false),
            finished: Cell::new(false),
            failed: Cell::new(None),
            status: Cell::new(0),
            received: Cell::new(0),
            sent: Cell::new(0),
            ledger: RefCell::default(),
            in_flight: RefCell::new(None),
        };
        exchange.open();
        Rc::new(exchange)
    }

    /// Uses an earlier exchange of the connection again, where nobody holds it: it keeps its place in the timer wheel.
    pub fn begin_again(self: Rc<Self>, limits: Limits) -> Rc<Self> {
        if Rc::strong_count(&self) > 1 || self.open.get() {
            return Self::begin(&self.load, limits);
        }
        let now = Instant::now();
        self.waiting.set(Waiting::Nobody);
        self.until.set(None);
        self.limits.set(limits);
        self.total_until.set(None);
        self.upload.set(Upload::Done);
        self.upload_moved.set(now);
        self.clock.restart(now);
        self.tunnelled.set(false);
        self.finished.set(false);
        self.failed.set(None);
        self.status.set(0);
        self.received.set(0);
        self.sent.set(0);
        self.open();
        self
    }

    fn open(&self) {
        self.open.set(true);
        self.load.began();
    }

    /// When it began.
    pub fn began(&self) -> Instant {
        self.clock.began()
    }

    /// The worker's counters.
    pub(super) fn counters(&self) -> &Counters {
        self.load.counters()
    }

    /// How long its phases take.
    pub fn clock(&self) -> &PhaseClock {
        &self.clock
    }

    /// Whose it is, and where it is entered once it has ended. Not to be held across a call that may end it.
    pub fn ledger(&self) -> RefMut<'_, Ledger> {
        self.ledger.borrow_mut()
    }

    /// Bounds the whole exchange, from its beginning.
    pub fn limit_total(&self, total: Duration) {
        self.total_until.set(Some(self.began() + total));
    }

    /// Sets the origin's deadline inside bodies.
    pub fn limit_stream_idle(&self, stream_idle: Duration) {
        self.limits.set(Limits { stream_idle, ..self.limits.get() });
    }

    /// How long the client may stall.
    pub fn client_stall(&self) -> Duration {
        self.limits.get().client_stall
    }

    /// Holds what counts a request as under way at an endpoint until the exchange ends.
    pub fn hold(&self, in_flight: Option<Box<dyn Any>>) {
        self.in_flight.replace(in_flight);
    }

    /// Notes where the request's body stands.
    pub fn note_upload(&self, upload: Upload) {
        self.upload.set(upload);
        self.upload_moved.set(Instant::now());
    }

    /// Notes the status that the client gets; its answer's head is handed on.
    pub fn note_status(&self, status: u16) {
        self.status.set(status);
        if self.clock.phase() != Phase::Body {
            self.clock.enter(Phase::Body, Instant::now());
        }
        if self.finished.get() {
            self.end();
        }
    }

    /// Notes that the head of an endpoint's answer is here.
    pub fn note_first_byte(&self) {
        self.clock.enter(Phase::Body, Instant::now());
    }

    /// Notes that nothing is awaited of an endpoint until the next attempt.
    pub fn note_attempt_failed(&self) {
        self.clock.enter(Phase::Queue, Instant::now());
    }

    /// Notes that what follows the answer's head is another protocol: nobody's taking or giving is judged any more.
    pub fn note_tunnel(&self) {
        self.tunnelled.set(true);
    }

    /// Notes bytes of the request's body.
    pub fn note_received(&self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
    }

    /// Notes bytes of the answer's body that were handed on.
    pub fn note_sent(&self, bytes: u64) {
        self.sent.set(self.sent.get() + bytes);
    }

    /// Notes why the exchange fails; the first word stands.
    pub fn note_failure(&self, kind: Kind, reason: &'static str) {
        if self.failed.get().is_none() {
            self.failed.set(Some((kind, reason)));
        }
    }

    /// Everything of the answer's body was handed on; the exchange ends as soon as its head was, too.
    pub fn finish(&self) {
        self.finished.set(true);
        self.waiting.set(Waiting::Nobody);
        if self.status.get() != 0 {
            self.end();
        }
    }

    /// Waits for the head of an answer, `limit` from now or from the last byte of the body that the endpoint took.
    pub fn await_answer(&self) {
        let now = Instant::now();
        self.clock.enter(Phase::FirstByte, now);
        self.upload_moved.set(now);
        self.waiting.set(Waiting::Answer);
        self.until.set(None);
    }

    /// Whether the answer's head is overdue. Keeps the task's waker otherwise.
    pub fn poll_answer_overdue(&self, limit: Duration, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            if self.until.get().is_none() {
                self.arm(self.upload_moved.get() + limit);
            }
            if self.timer.poll_expired(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if self.total_until.get().is_some_and(|total| total <= now) {
                return Poll::Ready(overdue());
            }
            match self.upload.get() {
                // The client's own deadline is kept where its body is read.
                Upload::AwaitsClient => self.arm(now + limit),
                _ if self.upload_moved.get() + limit > now => self.arm(self.upload_moved.get() + limit),
                Upload::AwaitsEndpoint => {
                    let reason = "the endpoint took no more of the request's body in time";
                    return Poll::Ready(Error::upstream(Kind::ConnectionWriteTimeout, Retry::Never, reason));
                }
                Upload::Done => {
                    let reason = "the endpoint did not begin its answer in time";
                    return Poll::Ready(Error::upstream(Kind::HttpResponseTimeout, Retry::Never, reason));
                }
            }
        }
    }

    /// Whether it is not the client that is waited for with its body.
    pub fn awaits_endpoint(&self) -> bool {
        !matches!(self.upload.get(), Upload::AwaitsClient)
    }

    /// Whether the whole exchange took too long; for phases that keep their own deadline.
    pub fn poll_total_overdue(&self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some(total) = self.total_until.get() else { return Poll::Pending };
        self.timer.set(total);
        self.timer.poll_expired(cx).map(|()| overdue())
    }

    /// Notes that the origin's next bytes are awaited, and says whether they are overdue.
    pub fn poll_origin_overdue(&self, cx: &mut Context<'_>) -> Poll<Error> {
        if self.waiting.get() != Waiting::Origin {
            self.waiting.set(Waiting::Origin);
            self.arm(Instant::now() + self.limits.get().stream_idle);
        }
        if self.timer.poll_expired(cx).is_pending() {
            return Poll::Pending;
        }
        if self.total_until.get().is_some_and(|total| total <= Instant::now()) {
            return Poll::Ready(overdue());
        }
        let reason = "the endpoint fell silent inside its body";
        Poll::Ready(Error::upstream(Kind::HttpResponseStalled, Retry::Never, reason))
    }

    /// Whether the whole exchange took too long, for bytes that are there and would be handed on.
    pub fn past_total(&self) -> Option<Error> {
        self.total_until.get().is_some_and(|total| total <= Instant::now()).then(overdue)
    }

    /// Notes that bytes were handed on and the client is to take them.
    pub fn note_handed_on(&self) {
        if self.limits.get().judge_client || self.total_until.get().is_some() {
            self.waiting.set(Waiting::Client);
            self.arm(Instant::now() + self.limits.get().client_stall);
        } else {
            self.waiting.set(Waiting::Nobody);
        }
    }

    /// For the task that drives the exchange: whether the client took nothing for too long, or the whole is overdue
    /// while nobody polls the body. Then the stream is to be reset.
    pub fn poll_client_overdue(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.get() != Waiting::Client || self.tunnelled.get() || self.timer.poll_expired(cx).is_pending() {
            return Poll::Pending;
        }
        if self.total_until.get().is_some_and(|total| total <= Instant::now()) {
            self.note_failure(Kind::ExchangeTimeout, OVERDUE);
        } else if self.limits.get().judge_client {
            self.note_failure(Kind::ClientStall, "the client took no more of the answer in time");
        } else {
            // The connection judges it; only the deadline for the whole is kept here.
            self.arm(Instant::now() + self.limits.get().client_stall);
            return self.timer.poll_expired(cx);
        }
        Poll::Ready(())
    }

    /// The same, for a stream that holds something of the answer: it is the client that is waited for, even where more is
    /// awaited of the endpoint too, or everything was handed on.
    pub fn poll_taking_overdue(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.get() != Waiting::Client && !self.tunnelled.get() {
            self.waiting.set(Waiting::Client);
            self.arm(Instant::now() + self.limits.get().client_stall);
        }
        self.poll_client_overdue(cx)
    }

    fn arm(&self, until: Instant) {
        let until = self.total_until.get().map_or(until, |total| total.min(until));
        self.until.set(Some(until));
        self.timer.set(until);
    }

    /// Counts the exchange once: when its answer was handed on, or when it is dropped before.
    fn end(&self) {
        if !self.open.replace(false) {
            return;
        }
        self.in_flight.replace(None);
        let load = &self.load;
        let now = Instant::now();
        load.ended(now);
        let failed = self.failed.get().or((!self.finished.get()).then_some((Kind::ClientGone, GONE)));
        let ledger = self.ledger.take();
        let debugged = tracing::enabled!(tracing::Level::DEBUG);
        let ended = Ended {
            status: self.status.get(),
            outcome: failed.map(|(kind, _)| kind),
            reason: failed.map_or("", |(_, reason)| reason),
            phases: if debugged || ledger.record.is_some() { self.clock.read(now) } else { self.clock.outline(now) },
            bytes_in: self.received.get(),
            bytes_out: self.sent.get(),
        };
        if ended.status != 0 {
            load.counters().response(ended.status);
        }
        load.counters().outcome(ended.outcome);
        ledger.close(&ended, load.telemetry());
        if debugged {
            let Phases { queue, connect, tls, first_byte, body, total } = ended.phases;
            tracing::debug!(
                status = ended.status,
                outcome = ended.outcome.map_or("ok", Kind::as_str),
                ?queue,
                ?connect,
                ?tls,
                ?first_byte,
                ?body,
                ?total,
                "exchange ended"
            );
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end();
    }
}

fn overdue() -> Error {
    Error::upstream(Kind::ExchangeTimeout, Retry::Never, OVERDUE)
}

const OVERDUE: &str = "the request took longer than its route allows";
const GONE: &str = "the client disconnected before the response was complete";
