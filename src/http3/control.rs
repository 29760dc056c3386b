//! What the owner of a server's connection sees of it and can ask of it while `server::serve` drives it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use tokio::time::Instant;

use super::error::{Code, Error, Side};

/// A connection of a server, as its owner sees it.
#[derive(Debug)]
pub struct Control {
    open: Cell<usize>,
    served: Cell<u64>,
    idle_since: Cell<Instant>,
    moved: Cell<u64>,
    dropped: Cell<u64>,
    order: Cell<Order>,
    driver: RefCell<Option<Waker>>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The code that was sent or came; H3_NO_ERROR for a clean end and where the transport failed.
    pub code: Code,
    /// In words.
    pub reason: &'static str,
    /// Who closed it.
    pub side: Side,
}

/// What was asked of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Serve,
    Drain,
    Close(Code),
}

impl Control {
    /// A connection that begins now.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            open: Cell::new(0),
            served: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            moved: Cell::new(0),
            dropped: Cell::new(0),
            order: Cell::new(Order::Serve),
            driver: RefCell::new(None),
        })
    }

    /// Requests in progress, from the first byte of their stream to the last byte handed to the transport.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Requests that were begun.
    pub fn served(&self) -> u64 {
        self.served.get()
    }

    /// Since when nothing is under way; of no meaning while something is.
    pub fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    /// Bytes of bodies that were read or taken by the transport, both ways: it stands still when the connection does.
    pub fn moved(&self) -> u64 {
        self.moved.get()
    }

    /// Datagrams that were not given to anybody: no room, or no request that takes any.
    pub fn dropped_datagrams(&self) -> u64 {
        self.dropped.get()
    }

    /// Says GOAWAY now and closes when nothing is under way. Does nothing the second time.
    pub fn drain(&self) {
        if self.order.get() == Order::Serve {
            self.order(Order::Drain);
        }
    }

    /// Whether [`Self::drain`] or [`Self::close`] was asked for.
    pub fn is_leaving(&self) -> bool {
        self.order.get() != Order::Serve
    }

    /// Closes at once: what is under way is cut.
    pub fn close(&self, code: Code) {
        self.order(Order::Close(code));
    }

    fn order(&self, order: Order) {
        self.order.set(order);
        self.wake();
    }

    /// Has the driver look again.
    pub(super) fn wake(&self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    pub(super) fn current_order(&self) -> Order {
        self.order.get()
    }

    /// Keeps the driver's waker.
    pub(super) fn watch(&self, cx: &Context<'_>) {
        let mut driver = self.driver.borrow_mut();
        match &*driver {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => *driver = Some(cx.waker().clone()),
        }
    }

    pub(super) fn note_moved(&self, bytes: u64) {
        self.moved.set(self.moved.get() + bytes);
    }

    pub(super) fn note_dropped(&self, datagrams: u64) {
        self.dropped.set(self.dropped.get() + datagrams);
    }

    /// A request begins; it is under way until what this gives is dropped.
    pub(super) fn begin(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        self.served.set(self.served.get() + 1);
        Open(Rc::clone(self))
    }

    /// Another part of a request that is under way.
    pub(super) fn share(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        Open(Rc::clone(self))
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Open(Rc<Control>);

impl Drop for Open {
    fn drop(&mut self) {
        let open = self.0.open.get() - 1;
        self.0.open.set(open);
        if open == 0 {
            self.0.idle_since.set(Instant::now());
            // A driver waits for this only when it is to go.
            if self.0.is_leaving() {
                self.0.wake();
            }
        }
    }
}

impl From<Error> for Closed {
    fn from(error: Error) -> Self {
        Self { code: error.code(), reason: error.reason(), side: error.side() }
    }
}
