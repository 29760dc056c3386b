//! A moving average of latencies that adopts a peak at once and decays slowly (sans-io: the caller supplies the time).
//! It is one atomic, shared by all workers, so that a reader never sees a value with the time of another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The time in which a value falls to 1/e of itself while nothing is measured, or is measured as nothing.
pub const DECAY: Duration = Duration::from_secs(10);

/// The average. Moments are counted from whatever the callers agree on, in milliseconds modulo 2³²: a value that was left
/// alone for 49 days may look fresh.
#[derive(Debug, Default)]
pub struct Ewma {
    /// The moment above, nanoseconds as an `f32` below; 0: nothing was ever measured.
    cell: AtomicU64,
}

impl Ewma {
    /// Takes in a latency. One above the average becomes the average; one below draws it down by the time that has passed,
    /// so that a thousand answers of one moment weigh no more than one.
    pub fn record(&self, now: Duration, latency: Duration) {
        self.renew(now, |value, kept| {
            let latency = nanos(latency);
            let average = value * kept + latency * (1.0 - kept);
            // Within the millisecond of the last value nothing has moved, and nothing is written.
            if latency >= value { Some(latency) } else { (kept < 1.0).then_some(average) }
        });
    }

    /// As [`Ewma::record`] for what shows how slow something is but not how fast: it only ever raises the average.
    pub fn raise(&self, now: Duration, latency: Duration) {
        self.renew(now, |value, kept| Some(nanos(latency)).filter(|latency| *latency > value * kept));
    }

    /// The average in nanoseconds, less what was forgotten since; `None` before the first measurement.
    pub fn value(&self, now: Duration) -> Option<f32> {
        let (stamp, value) = unpack(self.cell.load(Ordering::Relaxed))?;
        Some(value * kept(now, stamp))
    }

    /// The average as it was last written.
    pub fn last(&self) -> Option<Duration> {
        let (_, value) = unpack(self.cell.load(Ordering::Relaxed))?;
        Some(Duration::from_nanos(value as u64))
    }

    fn renew(&self, now: Duration, next: impl Fn(f32, f32) -> Option<f32>) {
        // Whoever loses the race tries again with the winner's value.
        let _ = self.cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |cell| {
            let (value, kept) = match unpack(cell) {
                Some((stamp, value)) => (value, kept(now, stamp)),
                None => (0.0, 0.0),
            };
            next(value, kept).map(|value| pack(now, value))
        });
    }
}

/// The part of a value that is left by now.
fn kept(now: Duration, stamp: u32) -> f32 {
    let elapsed = moment(now).wrapping_sub(stamp);
    // Of two writers the later may bring the earlier moment.
    if elapsed == 0 || elapsed > u32::MAX / 2 {
        return 1.0;
    }
    (-(elapsed as f32) / DECAY.as_millis() as f32).exp()
}

fn moment(now: Duration) -> u32 {
    now.as_millis() as u32
}

/// Never zero, which would read as nothing measured.
fn nanos(latency: Duration) -> f32 {
    (latency.as_nanos() as f32).max(1.0)
}

fn pack(now: Duration, value: f32) -> u64 {
    u64::from(moment(now)) << 32 | u64::from(value.max(1.0).to_bits())
}

fn unpack(cell: u64) -> Option<(u32, f32)> {
    (cell != 0).then(|| ((cell >> 32) as u32, f32::from_bits(cell as u32)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn value(ewma: &Ewma, now: Duration) -> f32 {
        ewma.value(now).unwrap()
    }

    #[test]
    fn nothing_measured_is_not_fast() {
        let ewma = Ewma::default();
        assert_eq!(ewma.value(MS), None);
        ewma.record(Duration::ZERO, Duration::ZERO);
        assert!(value(&ewma, Duration::ZERO) > 0.0, "even no time at all was measured");
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let ewma = Ewma::default();
        ewma.record(MS, 5 * MS);
        ewma.record(2 * MS, 500 * MS);
        assert_eq!(value(&ewma, 2 * MS), 5e8);
        let later = 2 * MS + DECAY;
        assert!((value(&ewma, later) / 5e8 - (-1f32).exp()).abs() < 1e-3);
        ewma.record(later, 5 * MS);
        assert!(value(&ewma, later) < 2e8 && value(&ewma, later) > 5e6);
    }

    #[test]
    fn what_only_raises_never_lowers() {
        let ewma = Ewma::default();
        ewma.record(MS, 50 * MS);
        ewma.raise(2 * MS, MS);
        assert_eq!(ewma.last(), Some(50 * MS));
        ewma.raise(2 * MS, 80 * MS);
        assert_eq!(ewma.last(), Some(80 * MS));
    }

    #[test]
    fn many_answers_of_one_moment_weigh_as_one() {
        let (often, once) = (Ewma::default(), Ewma::default());
        for (ewma, times) in [(&often, 10_000), (&once, 1)] {
            ewma.record(MS, 100 * MS);
            (0..times).for_each(|_| ewma.record(1_001 * MS, MS));
        }
        assert_eq!(often.value(1_001 * MS), once.value(1_001 * MS));
    }

    #[test]
    fn a_clock_that_wraps_or_steps_back_does_no_harm() {
        let ewma = Ewma::default();
        let end = Duration::from_millis(u64::from(u32::MAX));
        ewma.record(end, 10 * MS);
        assert!((value(&ewma, end + 2 * MS) - 1e7).abs() < 1e4);
        assert_eq!(value(&ewma, end - 5 * MS), 1e7);
    }

    proptest! {
        #[test]
        fn stays_within_what_was_measured(steps in prop::collection::vec((0u64..5_000, 1u64..10_000), 1..100)) {
            let ewma = Ewma::default();
            let (mut now, mut most) = (Duration::ZERO, Duration::ZERO);
            for (pause, latency) in steps {
                now += Duration::from_millis(pause);
                let latency = Duration::from_micros(latency);
                most = most.max(latency);
                ewma.record(now, latency);
                let value = value(&ewma, now);
                prop_assert!(value > 0.0 && value <= most.as_nanos() as f32 * 1.001, "{value} of {most:?}");
                prop_assert!(value >= latency.as_nanos() as f32 * 0.999, "never below the last: a peak is believed");
            }
        }
    }
}
