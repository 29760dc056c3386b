//! The state of one downstream connection: what is in progress on it, and which deadline is next. Its `io` reports the bytes
//! that pass; the drivers in `http` and `http3` poll it for a verdict.

mod io;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

pub use self::io::{LinkIo, Track};
use super::wire::Refusal;
use crate::body::exchange::Exchange;
use crate::body::load::Load;
use crate::body::tunnel::PumpPlace;
use crate::http3::Informational;
use crate::net::timer::Timer;
use crate::telemetry::counters::Counters;
use crate::transport::Channel;
use crate::transport::quic::Established;

/// The deadlines of a connection.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// From accept, or from the first byte of a later head, to the last byte of the head.
    pub header: Duration,
    /// How long the client may read nothing of a pending response.
    pub client_stall: Duration,
    /// How long the connection may be idle between requests.
    pub idle: Duration,
    /// Age after which it is closed gracefully; `None`: never.
    pub max_age: Option<Duration>,
    /// Time from the graceful close to the forced one.
    pub drain: Duration,
}

/// What to do with a connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A head is overdue.
    HeaderLate,
    /// It was idle for too long.
    IdleLate,
    /// It was idle for a moment: free its buffers.
    Park,
    /// The client does not read.
    Stalled,
    /// Close it gracefully: finish what is in progress.
    Retire,
    /// It did not end in time after the graceful close: close it now.
    Cut,
    /// A response broke off within its body.
    Broken,
}

/// Takes over the connection after an upgrade (RFC 9110 §7.8).
pub type Tunnel = Box<dyn FnOnce(Rc<Link>, Channel, Bytes) -> Pin<Box<dyn Future<Output = ()>>>>;

/// The state shared by the parts of one connection.
pub struct Link {
    load: Rc<Load>,
    deadlines: Deadlines,
    is_draining: Rc<dyn Fn() -> bool>,
    timer: Timer,
    armed: Cell<Option<Instant>>,
    born: Instant,
    retired: Cell<Option<Instant>>,
    head_since: Cell<Option<Instant>>,
    /// No head and no body of a request is being received.
    at_boundary: Cell<bool>,
    blocked_since: Cell<Option<Instant>>,
    /// No written byte is still in a buffer.
    flushed: Cell<bool>,
    refusal: Cell<Option<Refusal>>,
    tunnel: RefCell<Option<Tunnel>>,
    pump: RefCell<Option<Rc<PumpPlace>>>,
    was_cut: Cell<bool>,
    supervised: RefCell<Option<Rc<Exchange>>>,
    informational: RefCell<Option<Informational>>,
    early: RefCell<Option<Established>>,
}

/// Idle time after which a connection frees its buffers. Short, because the buffers are most of an idle connection's
/// memory; long compared with the pause between two requests of a busy client.
const PARK_AFTER: Duration = Duration::from_millis(100);

impl Link {
    /// For a connection that starts now.
    pub fn new(load: Rc<Load>, deadlines: Deadlines, is_draining: Rc<dyn Fn() -> bool>) -> Rc<Self> {
        Rc::new(Self {
            load,
            deadlines,
            is_draining,
            timer: Timer::new(),
            armed: Cell::new(None),
            born: Instant::now(),
            retired: Cell::new(None),
            head_since: Cell::new(None),
            at_boundary: Cell::new(true),
            blocked_since: Cell::new(None),
            flushed: Cell::new(true),
            refusal: Cell::new(None),
            tunnel: RefCell::new(None),
            pump: RefCell::new(None),
            was_cut: Cell::new(false),
            supervised: RefCell::new(None),
            informational: RefCell::new(None),
            early: RefCell::new(None),
        })
    }

    /// The count of the connection's exchanges.
    pub fn load(&self) -> &Rc<Load> {
        &self.load
    }

    /// Sets what takes over the connection once the 101 was sent.
    pub fn switch_to(&self, tunnel: Tunnel) {
        self.tunnel.replace(Some(tunnel));
    }

    /// What takes over the connection, if it was upgraded.
    pub fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.take()
    }

    /// Whether the connection is upgraded after the current response.
    pub fn is_switching(&self) -> bool {
        self.tunnel.borrow().is_some()
    }

    /// Sets where the pump of the tunnel goes that starts with the next response (HTTP/2).
    pub fn expect_pump(&self, place: Rc<PumpPlace>) {
        self.pump.replace(Some(place));
    }

    pub(super) fn take_pump_place(&self) -> Option<Rc<PumpPlace>> {
        self.pump.take()
    }

    /// Whether the connection was closed by force, because it did not end in time after the graceful close.
    pub fn was_cut(&self) -> bool {
        self.was_cut.get()
    }

    /// Sets the exchange of the stream that is spawned next (HTTP/2, HTTP/3).
    pub fn supervise(&self, exchange: Rc<Exchange>) {
        self.supervised.replace(Some(exchange));
    }

    pub(super) fn take_supervised(&self) -> Option<Rc<Exchange>> {
        self.supervised.take()
    }

    /// Sets the channel for interim responses to the next request (HTTP/3).
    pub(super) fn offer(&self, informational: Informational) {
        self.informational.replace(Some(informational));
    }

    /// The channel for interim responses to the current request, if there is one.
    pub fn take_informational(&self) -> Option<Informational> {
        self.informational.take()
    }

    /// Notes that the handshake is not complete yet (0-RTT); `established` reports when it is.
    pub fn begin_early(&self, established: Established) {
        self.early.replace(Some(established));
    }

    /// Reports the end of the handshake; `None` once it is complete.
    pub(super) fn established(&self) -> Option<Established> {
        self.early.borrow().as_ref().filter(|established| !established.is_complete()).cloned()
    }

    /// Whether the data may be a replay, because the handshake is not complete (RFC 8470).
    pub fn is_early(&self) -> bool {
        self.early.borrow().as_ref().is_some_and(|established| !established.is_complete())
    }

    /// Whether the graceful close has begun.
    pub fn is_retired(&self) -> bool {
        self.retired.get().is_some()
    }

    /// Whether the current response is the last one, because the graceful close has begun or is about to.
    pub fn is_leaving(&self) -> bool {
        self.is_retired() || (self.is_draining)()
    }

    /// Whether the connection has served no request yet. Even during a drain its first request is awaited, within the
    /// deadline on heads: clients do not retry on a connection that was never used, so the request would be lost.
    fn is_fresh(&self) -> bool {
        self.load.served() == 0
    }

    pub(super) fn retire(&self) {
        self.retired.set(Some(Instant::now()));
    }

    /// Whether hyper's connection may be dropped: the last request was read completely, and its response was sent and
    /// flushed. The caller still has to keep bytes that were read ahead.
    pub(super) fn is_at_rest(&self) -> bool {
        self.load.open() == 0 && self.flushed.get() && self.head_since.get().is_none() && self.at_boundary.get()
    }

    pub(super) fn is_at_boundary(&self) -> bool {
        self.at_boundary.get()
    }

    /// The refusal of a head, once all responses before it are sent.
    pub(super) fn due_refusal(&self) -> Option<Refusal> {
        if self.load.open() > 0 || !self.flushed.get() {
            return None;
        }
        self.refusal.get()
    }

    /// The next deadline and its verdict.
    fn next_deadline(&self, http1: bool) -> (Option<Instant>, Verdict) {
        let limits = &self.deadlines;
        let mut next = (None, Verdict::IdleLate);
        let mut consider = |at: Instant, verdict| {
            if next.0.is_none_or(|before| at < before) {
                next = (Some(at), verdict);
            }
        };
        if let Some(since) = self.blocked_since.get() {
            consider(since + limits.client_stall, Verdict::Stalled);
        }
        if self.load.open() == 0 {
            if let Some(since) = self.head_since.get() {
                consider(since + limits.header, Verdict::HeaderLate);
            } else if self.load.served() == 0 {
                // `idle_since` is when it was accepted, unless HTTP/3 has seen the beginning of a head.
                consider(self.load.idle_since() + limits.header, Verdict::HeaderLate);
            } else if self.retired.get().is_none() {
                // Not after the graceful close has begun: `IdleLate` would be repeated until the client reacts.
                consider(self.load.idle_since() + limits.idle, Verdict::IdleLate);
                if http1 && self.is_at_rest() {
                    consider(self.load.idle_since() + PARK_AFTER, Verdict::Park);
                }
            }
        } else if let Some(since) = self.head_since.get()
            && !http1
        {
            // On HTTP/2 an unfinished head blocks all streams. On HTTP/1 it waits behind the current exchange, and on
            // HTTP/3 each stream has its own deadline.
            consider(since + limits.header, Verdict::HeaderLate);
        }
        match self.retired.get() {
            Some(since) => consider(since + limits.drain, Verdict::Cut),
            None => limits.max_age.into_iter().for_each(|age| consider(self.born + age, Verdict::Retire)),
        }
        next
    }

    /// What to do now, or pending until the next deadline. The timer is only set for an earlier deadline; a later one is
    /// found when the timer fires.
    pub(super) fn poll_verdict(&self, http1: bool, cx: &mut Context<'_>) -> Poll<Verdict> {
        if self.retired.get().is_none() && !self.is_fresh() && (self.is_draining)() {
            return Poll::Ready(Verdict::Retire);
        }
        loop {
            let (deadline, verdict) = self.next_deadline(http1);
            if let Some(at) = deadline
                && self.armed.get().is_none_or(|armed| at < armed)
            {
                self.armed.set(Some(at));
                self.timer.set(at);
            }
            ready!(self.timer.poll_expired(cx));
            self.armed.set(None);
            self.timer.clear();
            if deadline.is_some_and(|at| at <= Instant::now()) {
                self.was_cut.set(verdict == Verdict::Cut);
                return Poll::Ready(verdict);
            }
        }
    }

    /// Ends when the connection must be closed by force. For upgraded connections, whose other deadlines the relay
    /// enforces. Cancel-safe.
    pub async fn cut(&self) {
        poll_fn(|cx| {
            loop {
                if self.retired.get().is_none() && (self.is_draining)() {
                    self.retire();
                }
                let limits = &self.deadlines;
                let until = match self.retired.get() {
                    Some(since) => Some(since + limits.drain),
                    None => limits.max_age.map(|age| self.born + age),
                };
                match until {
                    Some(until) => self.timer.set(until),
                    None => self.timer.clear(),
                }
                ready!(self.timer.poll_expired(cx));
                if self.retired.get().is_some() {
                    return Poll::Ready(());
                }
                self.retire();
            }
        })
        .await;
    }

    fn counters(&self) -> &Counters {
        self.load.counters()
    }
}
