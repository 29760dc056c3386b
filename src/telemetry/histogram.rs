//! Histograms of durations with fixed bucket bounds, so that those of several workers and routes can be added. One
//! thread observes; any number read.

use std::ops::AddAssign;
use std::time::Duration;

use super::counters::Cell64;

/// The upper bounds of the buckets, each counted in; what is longer than the last goes into one bucket more.
pub const BOUNDS: [Duration; BOUND_COUNT] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// Counts durations by bucket. Cells of a single writer: see [`Cell64`].
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Cell64; BOUND_COUNT + 1],
    sum_nanos: Cell64,
}

/// What histograms counted together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramTotals {
    /// How many durations fell between a bound and the one before it; the last is for those past all bounds.
    pub buckets: [u64; BOUND_COUNT + 1],
    /// All durations added up.
    pub sum: Duration,
}

impl Histogram {
    /// Counts a duration. Only the thread that owns the histogram may call it.
    pub fn observe(&self, duration: Duration) {
        let nanos = duration.as_nanos() as u64;
        self.buckets[bucket_of(nanos)].add(1);
        self.sum_nanos.add(nanos);
    }

    /// What was counted, from any thread.
    pub fn read(&self) -> HistogramTotals {
        HistogramTotals {
            buckets: std::array::from_fn(|bucket| self.buckets[bucket].value()),
            sum: Duration::from_nanos(self.sum_nanos.value()),
        }
    }
}

impl HistogramTotals {
    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl AddAssign<&HistogramTotals> for HistogramTotals {
    fn add_assign(&mut self, other: &HistogramTotals) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(bucket, more)| *bucket += more);
        self.sum += other.sum;
    }
}

/// The bucket of a duration, without a search: each bound is at least twice the one before, so that between a power of
/// two and the next there is at most one.
fn bucket_of(nanos: u64) -> usize {
    let below = usize::from(BOUNDS_BELOW[(nanos | 1).ilog2() as usize]);
    below + usize::from(nanos > BOUNDS_NANOS[below])
}

/// How many bounds there are.
pub const BOUND_COUNT: usize = 16;

/// With one behind them that nothing exceeds.
const BOUNDS_NANOS: [u64; BOUND_COUNT + 1] = {
    let mut nanos = [u64::MAX; BOUND_COUNT + 1];
    let mut bound = 0;
    while bound < BOUND_COUNT {
        nanos[bound] = BOUNDS[bound].as_nanos() as u64;
        bound += 1;
    }
    nanos
};

/// By power of two: how many bounds are below it.
const BOUNDS_BELOW: [u8; u64::BITS as usize] = {
    let mut below = [0; u64::BITS as usize];
    let mut power = 0;
    while power < below.len() {
        while BOUNDS_NANOS[below[power] as usize] < 1 << power {
            below[power] += 1;
        }
        power += 1;
    }
    below
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for duration in [Duration::ZERO, BOUNDS[0], BOUNDS[0] + Duration::from_nanos(1), BOUNDS[15]] {
            histogram.observe(duration);
        }
        histogram.observe(Duration::from_secs(61));
        let totals = histogram.read();
        assert_eq!((totals.buckets[0], totals.buckets[1], totals.buckets[15], totals.buckets[16]), (2, 1, 1, 1));
        assert_eq!(totals.count(), 5);
        assert_eq!(totals.sum, Duration::from_secs(121) + BOUNDS[0] * 2 + Duration::from_nanos(1));
    }

    #[test]
    fn each_bound_is_at_least_twice_the_one_before() {
        assert!(BOUNDS.is_sorted_by(|one, next| *one * 2 <= *next));
    }

    #[test]
    fn the_bucket_is_what_a_search_would_find() {
        let around = |nanos: u64| [nanos.saturating_sub(1), nanos, nanos.saturating_add(1)];
        let powers = (0..u64::BITS).map(|power| 1 << power);
        for nanos in BOUNDS_NANOS.into_iter().chain(powers).chain([0]).flat_map(around) {
            let found = BOUNDS.iter().filter(|bound| u128::from(nanos) > bound.as_nanos()).count();
            assert_eq!(bucket_of(nanos), found, "{nanos}");
        }
    }

    #[test]
    fn histograms_are_summed_by_bucket() {
        let (one, two) = (Histogram::default(), Histogram::default());
        one.observe(Duration::from_millis(3));
        two.observe(Duration::from_millis(4));
        let mut totals = one.read();
        totals += &two.read();
        assert_eq!((totals.buckets[3], totals.sum), (2, Duration::from_millis(7)));
    }
}
