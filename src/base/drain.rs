//! Draining: take no new work, finish what is in progress. A `Tally` counts work in progress on one worker and wakes
//! whoever waits for its end; a `Flag` requests the end. Both belong to one thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// A flag that rises once and stays up; who waits is woken.
#[derive(Debug, Default)]
pub struct Flag {
    raised: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

impl Flag {
    /// Raises it.
    pub fn raise(&self) {
        self.raised.set(true);
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// Whether it is up.
    pub fn is_raised(&self) -> bool {
        self.raised.get()
    }

    /// Ends when it is up. Cancel-safe. For the few that wait (accept loops): a connection looks at [`is_raised`]
    /// (`Flag::is_raised`) when its timers are woken.
    ///
    /// [`is_raised`]: Flag::is_raised
    pub async fn raised(&self) {
        poll_fn(|cx| {
            if self.raised.get() {
                return Poll::Ready(());
            }
            keep_waker(&mut self.wakers.borrow_mut(), cx.waker());
            Poll::Pending
        })
        .await;
    }
}

/// What is under way on one worker.
#[derive(Debug, Default)]
pub struct Tally {
    open: Cell<usize>,
    wakers: RefCell<Vec<Waker>>,
}

impl Tally {
    /// Counts one up until the entry is dropped.
    pub fn enter(self: &Rc<Self>) -> Entry {
        self.open.set(self.open.get() + 1);
        Entry { tally: Rc::clone(self) }
    }

    /// How much is under way.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Ends when nothing is under way. Cancel-safe.
    pub async fn emptied(&self) {
        poll_fn(|cx| {
            if self.open.get() == 0 {
                return Poll::Ready(());
            }
            keep_waker(&mut self.wakers.borrow_mut(), cx.waker());
            Poll::Pending
        })
        .await;
    }
}

/// One thing under way; ends when dropped.
#[derive(Debug)]
pub struct Entry {
    tally: Rc<Tally>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let open = self.tally.open.get() - 1;
        self.tally.open.set(open);
        if open == 0 {
            for waker in self.tally.wakers.take() {
                waker.wake();
            }
        }
    }
}

fn keep_waker(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|kept| kept.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::Context;

    use super::*;

    #[test]
    fn waits_until_the_last_entry_is_dropped() {
        let tally = Rc::new(Tally::default());
        let (first, second) = (tally.enter(), tally.enter());
        let mut context = Context::from_waker(Waker::noop());
        let mut emptied = Box::pin(tally.emptied());
        assert!(emptied.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert!(emptied.as_mut().poll(&mut context).is_pending());
        drop(second);
        assert!(emptied.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn a_flag_stays_up() {
        let flag = Flag::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut raised = Box::pin(flag.raised());
        assert!(raised.as_mut().poll(&mut context).is_pending());
        flag.raise();
        assert!(raised.as_mut().poll(&mut context).is_ready());
        assert!(Box::pin(flag.raised()).as_mut().poll(&mut context).is_ready());
    }
}
