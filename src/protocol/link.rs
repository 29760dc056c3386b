//! One downstream connection while it lives: what is under way on it, and which deadline is next. Its `io` tells it
//! what passes; the driver in `http` asks it for a verdict.

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
    /// Accept, or the first byte of a later head, to the head's last byte.
    pub header: Duration,
    /// The client takes none of what we have for it.
    pub client_stall: Duration,
    /// Between requests.
    pub idle: Duration,
    /// Age after which it is asked to go.
    pub max_age: Option<Duration>,
    /// What is still open so long after it was asked to go is cut.
    pub drain: Duration,
}

/// What is to be done with a connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A head is not complete in time.
    HeaderLate,
    /// Nothing was asked for too long.
    IdleLate,
    /// It was idle for a moment: give its buffers back.
    Park,
    /// The client takes nothing.
    Stalled,
    /// It is to finish what is under way and go.
    Retire,
    /// It was asked to go and has not gone.
    Cut,
    /// An answer broke off inside its body.
    Broken,
}

/// What takes a connection over after its protocol was switched (RFC 9110 §7.8).
pub type Tunnel = Box<dyn FnOnce(Rc<Link>, Channel, Bytes) -> Pin<Box<dyn Future<Output = ()>>>>;

/// What the parts of one connection share.
pub struct Link {
    load: Rc<Load>,
    deadlines: Deadlines,
    is_draining: Rc<dyn Fn() -> bool>,
    timer: Timer,
    armed: Cell<Option<Instant>>,
    born: Instant,
    retired: Cell<Option<Instant>>,
    head_since: Cell<Option<Instant>>,
    /// No head and no body of a request is under way.
    at_boundary: Cell<bool>,
    blocked_since: Cell<Option<Instant>>,
    /// Nothing that was written waits in a buffer.
    flushed: Cell<bool>,
    refusal: Cell<Option<Refusal>>,
    tunnel: RefCell<Option<Tunnel>>,
    pump: RefCell<Option<Rc<PumpPlace>>>,
    was_cut: Cell<bool>,
    supervised: RefCell<Option<Rc<Exchange>>>,
    informational: RefCell<Option<Informational>>,
    early: RefCell<Option<Established>>,
}

/// A connection that was idle so long gives its buffers back. Short, since a held buffer is the larger part of an idle
/// connection's memory; long against the pause between two requests of a busy client.
const PARK_AFTER: Duration = Duration::from_millis(100);

impl Link {
    /// A connection that begins now.
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

    /// The exchanges of the connection.
    pub fn load(&self) -> &Rc<Load> {
        &self.load
    }

    /// Hands over what takes the connection once a 101 was sent.
    pub fn switch_to(&self, tunnel: Tunnel) {
        self.tunnel.replace(Some(tunnel));
    }

    /// What takes the connection over, if it was switched.
    pub fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.take()
    }

    /// Whether something takes the connection over after the answer under way.
    pub fn is_switching(&self) -> bool {
        self.tunnel.borrow().is_some()
    }

    /// Says where the pump of a tunnel belongs that begins with the answer which is about to be handed on (HTTP/2).
    pub fn expect_pump(&self, place: Rc<PumpPlace>) {
        self.pump.replace(Some(place));
    }

    pub(super) fn take_pump_place(&self) -> Option<Rc<PumpPlace>> {
        self.pump.take()
    }

    /// Whether the connection was cut, as it was asked to go and did not.
    pub fn was_cut(&self) -> bool {
        self.was_cut.get()
    }

    /// Names the exchange of the stream that is about to be spawned (HTTP/2, HTTP/3).
    pub fn supervise(&self, exchange: Rc<Exchange>) {
        self.supervised.replace(Some(exchange));
    }

    pub(super) fn take_supervised(&self) -> Option<Rc<Exchange>> {
        self.supervised.take()
    }

    /// Says where interim answers to the next request go (HTTP/3).
    pub(super) fn offer(&self, informational: Informational) {
        self.informational.replace(Some(informational));
    }

    /// Where interim answers to the request go that is being taken up, where they go anywhere.
    pub fn take_informational(&self) -> Option<Informational> {
        self.informational.take()
    }

    /// The handshake is not over yet (0-RTT); `established` tells when it is.
    pub fn begin_early(&self, established: Established) {
        self.early.replace(Some(established));
    }

    /// What tells that the handshake is over, while it is not.
    pub(super) fn established(&self) -> Option<Established> {
        self.early.borrow().as_ref().filter(|established| !established.is_complete()).cloned()
    }

    /// Whether somebody else may have recorded and sent what comes now: the handshake is not over (RFC 8470).
    pub fn is_early(&self) -> bool {
        self.early.borrow().as_ref().is_some_and(|established| !established.is_complete())
    }

    /// Whether the connection was asked to go.
    pub fn is_retired(&self) -> bool {
        self.retired.get().is_some()
    }

    /// Whether the answer under way is to be the last: the connection was asked to go, or is about to be.
    pub fn is_leaving(&self) -> bool {
        self.is_retired() || (self.is_draining)()
    }

    /// A client that was accepted has a request on its way: it is served before the connection goes, under the
    /// deadline of a first head. Closed instead, it would be lost: clients retry on reused connections only.
    fn is_fresh(&self) -> bool {
        self.load.served() == 0
    }

    pub(super) fn retire(&self) {
        self.retired.set(Some(Instant::now()));
    }

    /// Whether hyper's connection holds nothing that must not be lost: the request was read to its end, its answer has
    /// ended and was flushed. The caller still looks for bytes that were read ahead.
    pub(super) fn is_at_rest(&self) -> bool {
        self.load.open() == 0 && self.flushed.get() && self.head_since.get().is_none() && self.at_boundary.get()
    }

    pub(super) fn is_at_boundary(&self) -> bool {
        self.at_boundary.get()
    }

    /// The refused head, once nothing is under way before it.
    pub(super) fn due_refusal(&self) -> Option<Refusal> {
        if self.load.open() > 0 || !self.flushed.get() {
            return None;
        }
        self.refusal.get()
    }

    /// The next deadline with what it means.
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
                // Which is when it began, unless HTTP/3 has seen a head that is on its way.
                consider(self.load.idle_since() + limits.header, Verdict::HeaderLate);
            } else if self.retired.get().is_none() {
                // Once asked to go it is only waited for: a client that does not answer must not be found idle for ever.
                consider(self.load.idle_since() + limits.idle, Verdict::IdleLate);
                if http1 && self.is_at_rest() {
                    consider(self.load.idle_since() + PARK_AFTER, Verdict::Park);
                }
            }
        } else if let Some(since) = self.head_since.get()
            && !http1
        {
            // On HTTP/2 an unfinished head blocks every stream; on HTTP/1 it waits behind the exchange under way. On
            // HTTP/3 each stream has its own.
            consider(since + limits.header, Verdict::HeaderLate);
        }
        match self.retired.get() {
            Some(since) => consider(since + limits.drain, Verdict::Cut),
            None => limits.max_age.into_iter().for_each(|age| consider(self.born + age, Verdict::Retire)),
        }
        next
    }

    /// What is to be done now, or pending until the next deadline. The timer is only touched when a deadline is sooner
    /// than it; later ones are found when it fires.
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

    /// Ends when the connection was asked to go and its time is up; for a connection whose protocol was switched, whose
    /// other deadlines the relay keeps.
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
