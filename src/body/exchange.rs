//! One request and its response on a downstream connection: which side is awaited, until when, and how it ended. The
//! future of the request, the body of the response and the task that drives them share it; it is `!Send`, without atomics.

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

/// Which side is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// None: bytes are moving, or the proxy is working.
    Nobody,
    /// The endpoint, for the head of its response.
    Answer,
    /// The endpoint, for more of its body.
    Origin,
    /// The client, to read pending bytes.
    Client,
}

/// The state of the request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    /// There is none, or it was sent completely.
    Done,
    /// Waiting for the client to send more.
    AwaitsClient,
    /// Waiting for the endpoint to take more.
    AwaitsEndpoint,
}

/// One request and its response.
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
    /// 0 until the head of a response is passed on.
    status: Cell<u16>,
    received: Cell<u64>,
    sent: Cell<u64>,
    ledger: RefCell<Ledger>,
    in_flight: RefCell<Option<Box<dyn Any>>>,
}

impl Exchange {
    /// An exchange that starts now.
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

    /// Reuses an earlier exchange of the connection if nothing else holds it, which saves the allocation and keeps its
    /// entry in the timer wheel.
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

    /// When it started.
    pub fn began(&self) -> Instant {
        self.clock.began()
    }

    /// The worker's counters.
    pub(super) fn counters(&self) -> &Counters {
        self.load.counters()
    }

    /// The clock of its phases.
    pub fn clock(&self) -> &PhaseClock {
        &self.clock
    }

    /// What the exchange belongs to, and where its end is recorded. Must not be held across a call that may end it.
    pub fn ledger(&self) -> RefMut<'_, Ledger> {
        self.ledger.borrow_mut()
    }

    /// Sets the deadline of the whole exchange, counted from its start.
    pub fn limit_total(&self, total: Duration) {
        self.total_until.set(Some(self.began() + total));
    }

    /// Sets how long the endpoint may be silent within bodies.
    pub fn limit_stream_idle(&self, stream_idle: Duration) {
        self.limits.set(Limits { stream_idle, ..self.limits.get() });
    }

    /// How long the client may stall.
    pub fn client_stall(&self) -> Duration {
        self.limits.get().client_stall
    }

    /// Holds the guard that counts the request as in progress at its endpoint, until the exchange ends.
    pub fn hold(&self, in_flight: Option<Box<dyn Any>>) {
        self.in_flight.replace(in_flight);
    }

    /// Notes the state of the request body.
    pub fn note_upload(&self, upload: Upload) {
        self.upload.set(upload);
        self.upload_moved.set(Instant::now());
    }

    /// Notes that the head of the response, with this status, is passed on to the client.
    pub fn note_status(&self, status: u16) {
        self.status.set(status);
        if self.clock.phase() != Phase::Body {
            self.clock.enter(Phase::Body, Instant::now());
        }
        if self.finished.get() {
            self.end();
        }
    }

    /// Notes that the head of an endpoint's response has arrived.
    pub fn note_first_byte(&self) {
        self.clock.enter(Phase::Body, Instant::now());
    }

    /// Notes that an attempt has failed; until the next one no endpoint is awaited.
    pub fn note_attempt_failed(&self) {
        self.clock.enter(Phase::Queue, Instant::now());
    }

    /// Notes that the exchange has become a tunnel, to which the deadlines on bodies do not apply.
    pub fn note_tunnel(&self) {
        self.tunnelled.set(true);
    }

    /// Notes bytes of the request body.
    pub fn note_received(&self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
    }

    /// Notes bytes of the response body that were passed on.
    pub fn note_sent(&self, bytes: u64) {
        self.sent.set(self.sent.get() + bytes);
    }

    /// Notes why the exchange fails; only the first reason is kept.
    pub fn note_failure(&self, kind: Kind, reason: &'static str) {
        if self.failed.get().is_none() {
            self.failed.set(Some((kind, reason)));
        }
    }

    /// Notes that the whole response body was passed on. The exchange ends once the head was passed on too.
    pub fn finish(&self) {
        self.finished.set(true);
        self.waiting.set(Waiting::Nobody);
        if self.status.get() != 0 {
            self.end();
        }
    }

    /// Starts waiting for the head of a response; see `poll_answer_overdue`.
    pub fn await_answer(&self) {
        let now = Instant::now();
        self.clock.enter(Phase::FirstByte, now);
        self.upload_moved.set(now);
        self.waiting.set(Waiting::Answer);
        self.until.set(None);
    }

    /// Ready if the head of the response is overdue: `limit` after `await_answer` or after the endpoint last took bytes
    /// of the request body. Otherwise registers the task's waker.
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
                // The client's own deadline is enforced where its body is read.
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

    /// Whether the endpoint is awaited, and not the client with its request body.
    pub fn awaits_endpoint(&self) -> bool {
        !matches!(self.upload.get(), Upload::AwaitsClient)
    }

    /// Ready if the deadline of the whole exchange has passed; for phases that have a deadline of their own.
    pub fn poll_total_overdue(&self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some(total) = self.total_until.get() else { return Poll::Pending };
        self.timer.set(total);
        self.timer.poll_expired(cx).map(|()| overdue())
    }

    /// Notes that more of the response body is awaited; ready if it is overdue.
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

    /// The error if the deadline of the whole exchange has passed; checked before bytes are passed on.
    pub fn past_total(&self) -> Option<Error> {
        self.total_until.get().is_some_and(|total| total <= Instant::now()).then(overdue)
    }

    /// Notes that bytes were passed on, so that the client is awaited.
    pub fn note_handed_on(&self) {
        if self.limits.get().judge_client || self.total_until.get().is_some() {
            self.waiting.set(Waiting::Client);
            self.arm(Instant::now() + self.limits.get().client_stall);
        } else {
            self.waiting.set(Waiting::Nobody);
        }
    }

    /// For the task that drives the exchange: ready if the client read nothing for too long, or if the deadline of the
    /// whole exchange passed while the body was not polled. The stream must then be reset.
    pub fn poll_client_overdue(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.get() != Waiting::Client || self.tunnelled.get() || self.timer.poll_expired(cx).is_pending() {
            return Poll::Pending;
        }
        if self.total_until.get().is_some_and(|total| total <= Instant::now()) {
            self.note_failure(Kind::ExchangeTimeout, OVERDUE);
        } else if self.limits.get().judge_client {
            self.note_failure(Kind::ClientStall, "the client took no more of the answer in time");
        } else {
            // `protocol::link` enforces the client's deadline; here only the total one is enforced.
            self.arm(Instant::now() + self.limits.get().client_stall);
            return self.timer.poll_expired(cx);
        }
        Poll::Ready(())
    }

    /// Like `poll_client_overdue`, for a stream that buffers part of the response: the client is awaited even if the
    /// endpoint is awaited too, or if everything was passed on.
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
