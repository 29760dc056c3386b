//! How much of what costs us something a peer may do without asking for anything useful. Each request gives it more, and
//! so does time, so that an honest peer never runs out.

use std::cell::Cell;

use tokio::time::Instant;

/// What is left of it.
#[derive(Debug)]
pub(super) struct Allowance {
    left: Cell<u64>,
    most: u64,
    per_second: u64,
    refilled: Cell<Instant>,
}

impl Allowance {
    pub(super) fn new(most: u64, per_second: u64) -> Self {
        Self { left: Cell::new(most), most, per_second, refilled: Cell::new(Instant::now()) }
    }

    /// Takes `cost`; `false` when there is not so much left.
    pub(super) fn take(&self, cost: u64) -> bool {
        if self.left.get() < cost {
            self.refill();
        }
        let left = self.left.get();
        self.left.set(left.saturating_sub(cost));
        left >= cost
    }

    /// Something useful was asked for.
    pub(super) fn give(&self, amount: u64) {
        self.left.set((self.left.get() + amount).min(self.most));
    }

    /// The clock is read only when nothing is left.
    fn refill(&self) {
        let now = Instant::now();
        let gained = now.saturating_duration_since(self.refilled.get()).as_millis() as u64 * self.per_second / 1000;
        self.refilled.set(now);
        self.give(gained);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_runs_out_and_comes_back() {
        let allowance = Allowance::new(10, 5);
        assert!(allowance.take(10));
        assert!(!allowance.take(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(allowance.take(5));
        assert!(!allowance.take(1));
        allowance.give(100);
        assert!(allowance.take(10));
        assert!(!allowance.take(1), "never more than the most");
    }
}
