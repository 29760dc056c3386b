//! The exchanges of one downstream connection: how many are in progress, and since when there is none.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::telemetry::WorkerTelemetry;
use crate::telemetry::counters::Counters;

/// The exchanges of one downstream connection.
pub struct Load {
    open: Cell<u32>,
    idle_since: Cell<Instant>,
    served: Cell<u64>,
    telemetry: Arc<WorkerTelemetry>,
}

impl Load {
    /// A connection without exchanges.
    pub fn new(telemetry: Arc<WorkerTelemetry>) -> Rc<Self> {
        Rc::new(Self { open: Cell::new(0), idle_since: Cell::new(Instant::now()), served: Cell::new(0), telemetry })
    }

    /// Number of exchanges in progress.
    pub fn open(&self) -> u32 {
        self.open.get()
    }

    /// Number of exchanges so far.
    pub fn served(&self) -> u64 {
        self.served.get()
    }

    /// When the last exchange ended.
    pub fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    /// Notes activity until `at` that belongs to no exchange; false: it does not extend the idle time.
    pub fn touch(&self, at: Instant) -> bool {
        let later = at > self.idle_since.get();
        if later {
            self.idle_since.set(at);
        }
        later
    }

    pub(super) fn began(&self) {
        self.open.set(self.open.get() + 1);
        self.served.set(self.served.get() + 1);
        self.counters().requests.add(1);
    }

    pub(super) fn ended(&self, now: Instant) {
        self.open.set(self.open.get() - 1);
        self.idle_since.set(now);
    }

    pub(super) fn telemetry(&self) -> &WorkerTelemetry {
        &self.telemetry
    }

    /// The worker's counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.telemetry.counters
    }
}
