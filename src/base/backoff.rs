//! Exponential back-off with jitter (sans-io): how long to wait before the next try. The caller supplies the random
//! number, so that tests are reproducible.

use std::time::Duration;

/// Waits that double from `first` to `max` while tries keep failing.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// The wait after the first failure, and the longest one.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0 }
    }

    /// Counts a failure and says how long to wait. `chance` is uniform in `0..1`: the wait lies between half of the step
    /// and the whole of it, so that those who failed together do not come back together.
    pub fn failed(&mut self, chance: f64) -> Duration {
        let doublings = self.failures.min(31);
        self.failures = self.failures.saturating_add(1);
        let step = self.first.saturating_mul(1 << doublings).min(self.max);
        step.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }

    /// Forgets the failures.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_wait() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let waits: Vec<u64> = (0..7).map(|_| backoff.failed(1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        backoff.succeeded();
        assert_eq!(backoff.failed(1.0), Duration::from_secs(1));
    }

    #[test]
    fn never_overflows_and_keeps_within_half_and_whole() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for step in 0..200 {
            let wait = backoff.failed(fastrand::f64());
            assert!(wait <= Duration::from_secs(5) && wait >= Duration::from_millis(50), "{step}: {wait:?}");
        }
    }
}
