//! The connections of a pool that many requests share: HTTP/2's and HTTP/3's. Each says itself how many streams it has left.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::time::Instant;

/// A connection that many requests share.
pub(super) trait Multiplexed {
    /// A stream in the hands of one request.
    type Stream;

    /// How many more streams may be opened.
    fn free(&self) -> usize;

    /// Whether it may stay in the pool: used, or idle for not too long, and not too old.
    fn stays(&self, now: Instant) -> bool;

    /// Opens a stream; the caller has made sure that there is one.
    fn stream(self: &Rc<Self>) -> Self::Stream;

    /// Takes no more streams; open ones finish, then the connection closes. Takes itself out of the pool.
    fn retire(self: &Rc<Self>);
}

/// Those of one endpoint.
pub(super) struct Sessions<S>(RefCell<Vec<Rc<S>>>);

impl<S> Default for Sessions<S> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<S: Multiplexed> Sessions<S> {
    pub(super) fn share(&self, session: Rc<S>) {
        self.0.borrow_mut().push(session);
    }

    pub(super) fn unshare(&self, session: &Rc<S>) {
        self.0.borrow_mut().retain(|other| !Rc::ptr_eq(other, session));
    }

    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// A stream on the session with the most room; the first of equals, so that surplus sessions become idle and close.
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

    /// What `ask` gives for the first that it gives anything for.
    pub(super) fn find<T>(&self, ask: impl Fn(&Rc<S>) -> Option<T>) -> Option<T> {
        self.0.borrow().iter().find_map(ask)
    }

    /// Gives all of them up.
    pub(super) fn retire(&self) {
        let sessions = self.0.borrow().clone();
        sessions.iter().for_each(Multiplexed::retire);
    }

    /// Gives up those that may not stay.
    pub(super) fn sweep(&self, now: Instant) {
        let over: Vec<_> = self.0.borrow().iter().filter(|session| !session.stays(now)).cloned().collect();
        over.iter().for_each(Multiplexed::retire);
    }
}
