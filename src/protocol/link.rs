//! One downstream connection while it lives: which deadline is next, and the I/O that hyper reads and writes through.
//! Bytes pass a tracker on their way in, so that an incomplete head is held back until it is whole, a refused one never
//! reaches hyper, and the deadlines know what is under way.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::wire::{Fed, Refusal};
use crate::body::exchange::{Exchange, Load};
use crate::net::sys::poll_read_inspected;
use crate::net::timer::Timer;
use crate::telemetry::counters::Counters;
use crate::transport::Channel;

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
    supervised: RefCell<Option<Rc<Exchange>>>,
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
            supervised: RefCell::new(None),
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

    /// Names the exchange whose stream hyper is about to spawn (HTTP/2).
    pub fn supervise(&self, exchange: Rc<Exchange>) {
        self.supervised.replace(Some(exchange));
    }

    pub(super) fn take_supervised(&self) -> Option<Rc<Exchange>> {
        self.supervised.take()
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
                consider(self.born + limits.header, Verdict::HeaderLate);
            } else {
                consider(self.load.idle_since() + limits.idle, Verdict::IdleLate);
                if http1 && self.is_at_rest() {
                    consider(self.load.idle_since() + PARK_AFTER, Verdict::Park);
                }
            }
        } else if let Some(since) = self.head_since.get()
            && !http1
        {
            // On HTTP/2 an unfinished head blocks every stream; on HTTP/1 it waits behind the exchange under way.
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
                return Poll::Ready(verdict);
            }
        }
    }

    /// Ends when the connection was asked to go and its time is up; for a connection whose protocol was switched.
    pub async fn cut(&self) {
        poll_fn(|cx| {
            loop {
                match ready!(self.poll_verdict(true, cx)) {
                    Verdict::Cut => return Poll::Ready(()),
                    Verdict::Retire => self.retire(),
                    // The relay keeps the other deadlines.
                    _ => return Poll::Pending,
                }
            }
        })
        .await;
    }

    fn counters(&self) -> &Counters {
        self.load.counters()
    }
}

/// What follows the bytes of a client.
pub trait Track {
    /// Says how many of `bytes` may go on. What is not released is shown again with more behind it.
    fn feed(&mut self, bytes: &[u8]) -> Fed;
    /// Whether a head has begun and is not complete, beyond what is held back.
    fn is_in_head(&self) -> bool;
    /// Whether no head and no body is under way.
    fn is_at_boundary(&self) -> bool;
}

/// What hyper reads and writes through.
pub struct LinkIo<T> {
    channel: Channel,
    link: Rc<Link>,
    tracker: T,
    /// Bytes that were read and not given to hyper: an incomplete head, or what a parked connection woke up with.
    held: Vec<u8>,
    /// How many of them may go to hyper.
    released: usize,
}

impl<T: Track + Unpin> LinkIo<T> {
    /// Puts `channel` behind `tracker`; `first` are bytes that were read before.
    pub fn new(channel: Channel, link: Rc<Link>, tracker: T, first: Vec<u8>) -> Self {
        link.head_since.set(None);
        let mut io = Self { channel, link, tracker, held: first, released: 0 };
        io.look_at_held();
        io
    }

    /// The channel and what was not given to hyper.
    pub fn into_channel(self) -> (Channel, Vec<u8>) {
        (self.channel, self.held)
    }

    /// Shows the tracker what is held beyond what is released already.
    fn look_at_held(&mut self) {
        while self.link.refusal.get().is_none() && self.released < self.held.len() {
            match self.tracker.feed(&self.held[self.released..]) {
                Fed::Release(0) => break,
                Fed::Release(more) => self.released += more,
                Fed::Refuse(refusal) => self.link.refusal.set(Some(refusal)),
            }
        }
        self.note_head();
    }

    fn note_head(&self) {
        self.link.at_boundary.set(self.held.is_empty() && self.tracker.is_at_boundary());
        if self.tracker.is_in_head() || self.released < self.held.len() {
            if self.link.head_since.get().is_none() {
                self.link.head_since.set(Some(Instant::now()));
            }
        } else if self.link.head_since.get().is_some() {
            self.link.head_since.set(None);
        }
    }

    fn give_released(&mut self, cursor: &mut ReadBufCursor<'_>) {
        let length = self.released.min(cursor.remaining());
        cursor.put_slice(&self.held[..length]);
        self.released -= length;
        self.held.drain(..length);
        if self.held.is_empty() {
            self.held = Vec::new();
            // The last of it may have been the end of a request: hyper need not read again to be at rest.
            self.note_head();
        }
    }

    /// Reads behind what is held, until a head is complete.
    fn poll_read_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut scratch = [std::mem::MaybeUninit::uninit(); 4096];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.channel).poll_read(cx, &mut buffer))?;
        self.link.counters().bytes_downstream_in.add(buffer.filled().len() as u64);
        self.held.extend_from_slice(buffer.filled());
        let more = !buffer.filled().is_empty();
        self.look_at_held();
        Poll::Ready(Ok(more))
    }

    /// Reads straight into hyper's buffer; what must not go there yet is held back.
    fn poll_read_direct(&mut self, cx: &mut Context<'_>, cursor: &mut ReadBufCursor<'_>) -> Poll<io::Result<bool>> {
        let Self { channel, link, tracker, held, .. } = self;
        let (read, released) = ready!(poll_read_inspected(Pin::new(channel), cx, cursor, |bytes| {
            let mut released = 0;
            while released < bytes.len() {
                match tracker.feed(&bytes[released..]) {
                    Fed::Release(0) => break,
                    Fed::Release(more) => released += more,
                    Fed::Refuse(refusal) => {
                        link.refusal.set(Some(refusal));
                        break;
                    }
                }
            }
            held.extend_from_slice(&bytes[released..]);
            released
        }))?;
        self.link.counters().bytes_downstream_in.add(read as u64);
        self.note_head();
        Poll::Ready(Ok(read == 0 || released > 0))
    }
}

impl<T: Track + Unpin> Read for LinkIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.released > 0 {
                self.give_released(&mut cursor);
                return Poll::Ready(Ok(()));
            }
            // The driver looks at the refusal after each poll; hyper waits for bytes that never come.
            if self.link.refusal.get().is_some() {
                return Poll::Pending;
            }
            if self.held.is_empty() {
                if ready!(self.poll_read_direct(cx, &mut cursor))? {
                    return Poll::Ready(Ok(()));
                }
            } else if !ready!(self.poll_read_held(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: Track + Unpin> LinkIo<T> {
    fn note_write(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.link.flushed.set(false);
        match &written {
            Poll::Ready(Ok(length)) => {
                self.link.counters().bytes_downstream_out.add(*length as u64);
                self.link.blocked_since.set(None);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.note_blocked(),
        }
        written
    }

    fn note_blocked(&self) {
        if self.link.blocked_since.get().is_none() {
            self.link.blocked_since.set(Some(Instant::now()));
        }
    }
}

impl<T: Track + Unpin> Write for LinkIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.channel).poll_write(cx, bytes);
        self.note_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.channel).poll_write_vectored(cx, slices);
        self.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.channel.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.channel).poll_flush(cx);
        match &flushed {
            Poll::Ready(_) => {
                self.link.flushed.set(true);
                self.link.blocked_since.set(None);
            }
            Poll::Pending => self.note_blocked(),
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_shutdown(cx)
    }
}
