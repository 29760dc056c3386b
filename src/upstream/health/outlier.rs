//! Ejection: an endpoint that failed real traffic several times in a row is out for a while, and for longer each time
//! it fails again soon after (sans-io). Whether it may be ejected depends on the remaining endpoints.

use std::time::Duration;

use tokio::time::Instant;

/// Times in a row past which an ejection lasts no longer.
const MAX_TIMES: u32 = 10;

/// The ejections of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ejection {
    until: Option<Instant>,
    /// In a row.
    times: u32,
    /// How long the last one was to last.
    lasted: Duration,
    /// When it was let in again.
    back: Option<Instant>,
}

impl Ejection {
    /// Ejects it until the moment that this gives: `eject_for` from now, as often as it was ejected in a row. A row ends once
    /// an endpoint stayed in for as long as it had been out.
    pub fn eject(&mut self, now: Instant, eject_for: Duration) -> Instant {
        let proved_itself = self.back.is_none_or(|back| now >= back + self.lasted);
        self.times = if proved_itself { 1 } else { (self.times + 1).min(MAX_TIMES) };
        self.lasted = eject_for.saturating_mul(self.times);
        let until = now + self.lasted;
        self.until = Some(until);
        until
    }

    /// Lets it in again, at its time or before; what it did stays in mind.
    pub fn let_back(&mut self, now: Instant) {
        if self.until.take().is_some() {
            self.back = Some(now);
        }
    }

    /// When it is to be let in; `None`: it is in.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// How often in a row it was ejected.
    pub fn times(&self) -> u32 {
        self.times
    }
}

/// Who would be left of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crew {
    /// All of its endpoints.
    pub all: usize,
    /// Those that are ejected.
    pub ejected: usize,
    /// Those that are picked, without the one that is judged.
    pub others_ready: usize,
}

/// Why an endpoint is not ejected although it failed often enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Spared {
    /// An endpoint that fails is better than none.
    #[error("no other endpoint of the upstream is ready")]
    TheLast,
    /// More than this at once is rarely the endpoints' fault.
    #[error("as many endpoints as `max_ejected` allows are ejected already")]
    Enough,
}

impl Crew {
    /// Whether one more may be ejected: the share of `max_ejected` percent is rounded down, but one always may, unless nobody
    /// would be left.
    ///
    /// # Errors
    /// Why not.
    pub fn may_lose(&self, max_ejected: u8) -> Result<(), Spared> {
        if self.others_ready == 0 {
            return Err(Spared::TheLast);
        }
        let allowed = (self.all * usize::from(max_ejected) / 100).max(1);
        if self.ejected < allowed { Ok(()) } else { Err(Spared::Enough) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_time_in_a_row_lasts_longer_up_to_ten_times() {
        let (mut ejection, mut now) = (Ejection::default(), Instant::now());
        for times in 1..=12u32 {
            let until = ejection.eject(now, 30 * SECOND);
            assert_eq!(until - now, 30 * SECOND * times.min(10));
            assert_eq!(ejection.until(), Some(until));
            ejection.let_back(until);
            assert_eq!(ejection.until(), None);
            now = until + SECOND;
        }
    }

    #[test]
    fn a_row_ends_once_it_was_in_for_as_long_as_it_was_out() {
        let (mut ejection, start) = (Ejection::default(), Instant::now());
        ejection.eject(start, 30 * SECOND);
        ejection.let_back(start + 30 * SECOND);
        let again = start + 45 * SECOND;
        assert_eq!(ejection.eject(again, 30 * SECOND), again + 60 * SECOND);
        ejection.let_back(again + 60 * SECOND);
        let later = again + 120 * SECOND;
        assert_eq!(ejection.eject(later, 30 * SECOND), later + 30 * SECOND);
        assert_eq!(ejection.times(), 1);
    }

    #[test]
    fn one_may_be_ejected_unless_it_is_the_last() {
        let crew = |all, ejected, others_ready| Crew { all, ejected, others_ready };
        assert_eq!(crew(1, 0, 0).may_lose(100), Err(Spared::TheLast));
        assert_eq!(crew(2, 0, 1).may_lose(1), Ok(()), "one may always be, whatever the share");
        assert_eq!(crew(3, 1, 1).may_lose(50), Err(Spared::Enough), "half of three is one");
        assert_eq!(crew(4, 1, 2).may_lose(50), Ok(()));
        assert_eq!(crew(4, 3, 0).may_lose(100), Err(Spared::TheLast));
        assert_eq!(crew(10, 0, 0).may_lose(100), Err(Spared::TheLast), "the others may be out for other reasons");
    }

    proptest! {
        #[test]
        fn ejection_alone_never_empties_an_upstream(all in 1usize..50, max_ejected in 1u8..=100, seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut out = vec![false; all];
            for _ in 0..200 {
                let who = rng.usize(..all);
                if out[who] {
                    out[who] = false;
                    continue;
                }
                let ejected = out.iter().filter(|out| **out).count();
                let crew = Crew { all, ejected, others_ready: all - ejected - 1 };
                if crew.may_lose(max_ejected).is_ok() {
                    out[who] = true;
                }
                let ejected = out.iter().filter(|out| **out).count();
                prop_assert!(ejected < all);
                prop_assert!(ejected <= (all * usize::from(max_ejected) / 100).max(1));
            }
        }
    }
}
