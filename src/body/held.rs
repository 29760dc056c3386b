//! Counts the buffered bytes of bodies in a gauge of the worker.

use std::cell::Cell;
use std::rc::Rc;

use super::exchange::Exchange;

/// Bytes that are counted as held until it is dropped.
pub(super) struct Held {
    exchange: Rc<Exchange>,
    bytes: Cell<u64>,
}

impl Held {
    /// Nothing yet.
    pub(super) fn new(exchange: &Rc<Exchange>) -> Self {
        Self { exchange: Rc::clone(exchange), bytes: Cell::new(0) }
    }

    /// So many.
    pub(super) fn set(&self, bytes: u64) {
        let before = self.bytes.replace(bytes);
        let gauge = &self.exchange.counters().body_bytes_buffered;
        gauge.add(bytes);
        gauge.sub(before);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}
