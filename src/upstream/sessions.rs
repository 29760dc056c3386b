//! Connections that many requests share: HTTP/2, HTTP/3 and raw QUIC. This module decides how long one takes streams,
//! stays in its pool, and when it closes; protocol-specific parts implement [`Multiplexed`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::time::Instant;

use super::pool::EndpointPool;

/// A connection that many requests share.
pub(super) trait Multiplexed: Sized {
    /// A stream used by one request.
    type Stream: From<Place<Self>>;

    /// The state of its life.
    fn life(&self) -> &Life;

    /// Where a pool keeps connections of this kind.
    fn among(pool: &EndpointPool) -> &Sessions<Self>;

    /// Number of further streams that may be opened.
    fn free(&self) -> usize;

    /// Whether the endpoint still accepts streams on it. Checked at each sweep of its pool.
    fn serves(&self) -> bool {
        true
    }

    /// Closes it. Called when no stream is open and none will be; more than once if it ends by itself.
    fn close(&self);

    /// Counts a new connection, and shares it unless it serves only one request.
    fn begin(self: &Rc<Self>) {
        let life = self.life();
        life.pool.connection_opened();
        if !life.is_retired() {
            Self::among(&life.pool).0.borrow_mut().push(Rc::clone(self));
        }
    }

    /// Opens a stream; the caller has checked that one is available.
    fn stream(self: &Rc<Self>) -> Self::Stream {
        Place::take(self).into()
    }

    /// Takes no further streams. Open ones finish, then the connection closes. Removes it from the pool.
    fn retire(self: &Rc<Self>) {
        let life = self.life();
        if !life.retired.replace(true) {
            Self::among(&life.pool).0.borrow_mut().retain(|other| !Rc::ptr_eq(other, self));
        }
        if life.is_idle() {
            self.close();
        }
    }

    /// It has ended.
    fn ended(self: &Rc<Self>) {
        self.retire();
        self.life().pool.connection_closed();
    }
}

/// The life of a connection: the streams on it, and whether it takes more.
pub(super) struct Life {
    pool: Rc<EndpointPool>,
    open: Cell<usize>,
    served: Cell<bool>,
    /// Takes no more streams: too old, going away, or broken.
    retired: Cell<bool>,
    idle_since: Cell<Instant>,
    expires: Instant,
}

impl Life {
    /// For a new connection; `alone`: it serves only one request.
    pub(super) fn new(pool: &Rc<EndpointPool>, alone: bool) -> Self {
        Self {
            open: Cell::new(0),
            served: Cell::new(false),
            retired: Cell::new(alone),
            idle_since: Cell::new(pool.now()),
            expires: pool.expiry(),
            pool: Rc::clone(pool),
        }
    }

    pub(super) fn pool(&self) -> &EndpointPool {
        &self.pool
    }

    /// Number of open streams.
    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.get() == 0
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Whether it may stay in the pool: in use, or not idle for too long, and not too old.
    fn stays(&self, now: Instant) -> bool {
        let idle_for_too_long = self.is_idle() && now >= self.idle_since.get() + self.pool.idle_timeout();
        !self.is_retired() && !idle_for_too_long && now < self.expires
    }
}

/// The place of a stream on its connection, from before the request is sent until the response body ends.
pub(super) struct Place<S: Multiplexed> {
    session: Rc<S>,
    reused: bool,
}

impl<S: Multiplexed> Place<S> {
    /// The next place; the caller has checked that one is available.
    pub(super) fn take(session: &Rc<S>) -> Self {
        let life = session.life();
        life.open.set(life.open.get() + 1);
        Self { session: Rc::clone(session), reused: life.served.replace(true) }
    }

    pub(super) fn session(&self) -> &Rc<S> {
        &self.session
    }

    /// Whether the connection has served other requests before.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }
}

impl<S: Multiplexed> Drop for Place<S> {
    fn drop(&mut self) {
        let life = self.session.life();
        life.open.set(life.open.get() - 1);
        if !life.is_idle() {
            return;
        }
        life.idle_since.set(life.pool.now());
        if life.is_retired() || !life.pool.keeps(life.expires) {
            self.session.retire();
        }
    }
}

/// The connections to one endpoint that take streams.
pub(super) struct Sessions<S>(RefCell<Vec<Rc<S>>>);

impl<S> Default for Sessions<S> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<S: Multiplexed> Sessions<S> {
    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// A stream on the connection with the most capacity; of equals, the first, so that surplus connections become idle
    /// and close.
    pub(super) fn take_stream(&self) -> Option<S::Stream> {
        let sessions = self.0.borrow();
        let mut best: Option<(&Rc<S>, usize)> = None;
        for session in sessions.iter() {
            let free = session.free();
            if free > best.map_or(0, |(_, most)| most) {
                best = Some((session, free));
            }
        }
        best.map(|(session, _)| session.stream())
    }

    /// The first result of `ask` that is not `None`. `ask` may change the list, and even retire connections.
    pub(super) fn find<T>(&self, ask: impl Fn(&Rc<S>) -> Option<T>) -> Option<T> {
        let mut place = 0;
        loop {
            let session = Rc::clone(self.0.borrow().get(place)?);
            if let Some(found) = ask(&session) {
                return Some(found);
            }
            // If it was removed, another one is now at its place.
            let stands = self.0.borrow().get(place).is_some_and(|other| Rc::ptr_eq(other, &session));
            place += usize::from(stands);
        }
    }

    /// Retires all of them.
    pub(super) fn retire(&self) {
        let sessions = self.0.borrow().clone();
        sessions.iter().for_each(Multiplexed::retire);
    }

    /// Retires those that may not stay.
    pub(super) fn sweep(&self, now: Instant) {
        let sessions = self.0.borrow().clone();
        sessions
            .iter()
            .filter(|session| !(session.serves() && session.life().stays(now)))
            .for_each(Multiplexed::retire);
    }
}
