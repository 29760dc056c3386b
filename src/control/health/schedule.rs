//! The schedule of active checks (sans-io): each endpoint once per interval, slightly shifted every time, so that
//! endpoints, and proxies that started together, are not checked all at once.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// How far a check may be moved, of its interval, to either side.
const SHIFT: f64 = 0.1;

/// Numbers of checks and when each is due. One that is under way is not in it.
#[derive(Debug, Default)]
pub struct Schedule {
    due: BTreeSet<(Instant, u64)>,
}

impl Schedule {
    /// A check that begins now.
    pub fn add(&mut self, number: u64, now: Instant) {
        self.due.insert((now, number));
    }

    /// Takes the next check that is due; it is under way until [`Schedule::done`].
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        let first = self.due.first().copied().filter(|(due, _)| *due <= now)?;
        self.due.remove(&first);
        Some(first.1)
    }

    /// A check that was begun at `began` is over; the next is due an interval later, moved by `chance` (uniform in `0..1`), and
    /// never before now.
    pub fn done(&mut self, number: u64, began: Instant, interval: Duration, chance: f64, now: Instant) {
        let moved = interval.mul_f64(1.0 - SHIFT + 2.0 * SHIFT * chance.clamp(0.0, 1.0));
        self.due.insert(((began + moved).max(now), number));
    }

    /// Forgets the checks that are not wanted any more.
    pub fn retain(&mut self, wanted: impl Fn(u64) -> bool) {
        self.due.retain(|(_, number)| wanted(*number));
    }

    /// When the next check is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_check_that_took_long_is_followed_at_once_and_not_before() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.add(1, start);
        assert_eq!(schedule.take(start), Some(1));
        assert_eq!((schedule.take(start), schedule.next()), (None, None), "it is under way");
        let late = start + Duration::from_secs(9);
        schedule.done(1, start, Duration::from_secs(5), 0.5, late);
        assert_eq!(schedule.next(), Some(late));
    }

    proptest! {
        #[test]
        fn every_check_comes_once_in_its_interval(count in 1u64..40, interval in 1u64..60, seed: u64) {
            let (mut schedule, start) = (Schedule::default(), Instant::now());
            let interval = Duration::from_secs(interval);
            let mut rng = fastrand::Rng::with_seed(seed);
            (0..count).for_each(|number| schedule.add(number, start));
            let mut last: Vec<Option<Instant>> = vec![None; count as usize];
            for _ in 0..count * 10 {
                let now = schedule.next().unwrap();
                let number = schedule.take(now).unwrap();
                if let Some(last) = last[number as usize].replace(now) {
                    let gap = (now - last).as_secs_f64() / interval.as_secs_f64();
                    prop_assert!((0.89..=1.11).contains(&gap), "{gap}");
                }
                schedule.done(number, now, interval, rng.f64(), now);
            }
            schedule.retain(|number| number == 0);
            prop_assert_eq!(schedule.take(start + 1_000 * interval), Some(0));
            prop_assert_eq!(schedule.next(), None);
        }
    }
}
