//! What the owner of a server's connection sees of it and can ask of it while `server::serve` drives it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use tokio::time::Instant;

use super::error::{Code, Error, Side};

/// A connection of a server, as its owner sees it.
#[derive(Debug)]
pub struct Control {
    open: Cell<usize>,
    served: Cell<u64>,
    idle_since: Cell<Instant>,
    moved: Cell<u64>,
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
            order: Cell::new(Order::Serve),
            driver: RefCell::new(None),
        })
    }

    /// Requests under way, from the first byte of their stream to the last byte handed to the transport.
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
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}

impl From<Error> for Closed {
    fn from(error: Error) -> Self {
        Self { code: error.code(), reason: error.reason(), side: error.side() }
    }
}
