//! Which endpoint takes a request: pure functions from weights, loads, a cursor and chance to an index. The selector is
//! computed once per endpoint set; what moves per request is one number that each worker keeps for itself.

pub mod hash;
pub mod least_requests;
pub mod random;
pub mod round_robin;

use crate::config::model::Balance;
use least_requests::LeastRequests;
use random::Lots;
use round_robin::Schedule;

/// The place of an endpoint inside its set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointIndex(pub u32);

impl EndpointIndex {
    pub(crate) fn place(self) -> usize {
        self.0 as usize
    }
}

/// A policy with what it precomputed from the weights.
#[derive(Clone, Debug)]
pub enum Selector {
    /// In turn, by weight.
    RoundRobin(Schedule),
    /// By chance, by weight.
    Random(Lots),
    /// The fewest requests in flight for its weight.
    LeastRequests(LeastRequests),
}

impl Selector {
    /// The selector of `balance` over these weights; a weight of zero counts as one.
    pub fn new(balance: Balance, weights: &[u32]) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(Schedule::new(weights)),
            Balance::Random => Self::Random(Lots::new(weights)),
            Balance::P2cEwma | Balance::RingHash | Balance::Maglev | Balance::LeastRequests => {
                Self::LeastRequests(LeastRequests::new(weights))
            }
        }
    }

    /// Whether `pick` asks for loads, so that requests in flight must be counted.
    pub fn asks_for_load(&self) -> bool {
        matches!(self, Self::LeastRequests(_))
    }

    /// Whether `pick` asks for a key.
    pub fn asks_for_key(&self) -> bool {
        false
    }

    /// Where the cursor of one worker starts, so that workers do not all begin with the first endpoint.
    pub fn first_cursor(&self, worker: usize, workers: usize) -> u32 {
        match self {
            Self::RoundRobin(schedule) => schedule.first_cursor(worker, workers),
            Self::Random(_) => 0,
            Self::LeastRequests(least) => least.first_cursor(worker, workers),
        }
    }

    /// Picks an endpoint that is not in `tried`; one that is when there is no other; `None` only of an empty set.
    /// `chance` gives uniform 64-bit numbers, `load` the requests in flight at an endpoint.
    pub fn pick(
        &self,
        _key: Option<u64>,
        cursor: &mut u32,
        chance: impl FnMut() -> u64,
        load: impl Fn(EndpointIndex) -> u32,
        tried: &[EndpointIndex],
    ) -> Option<EndpointIndex> {
        match self {
            Self::RoundRobin(schedule) => schedule.pick(cursor, tried),
            Self::Random(lots) => lots.pick(chance, tried),
            Self::LeastRequests(least) => least.pick(cursor, chance, load, tried),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const POLICIES: [Balance; 3] = [Balance::RoundRobin, Balance::Random, Balance::LeastRequests];

    fn tried_from(mask: &[bool], weights: usize) -> Vec<EndpointIndex> {
        (0..weights).filter(|i| mask[i % mask.len()]).map(|i| EndpointIndex(i as u32)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn never_picks_a_tried_endpoint_while_another_exists(
            weights in prop::collection::vec(1u32..2_000, 1..60),
            mask in prop::collection::vec(any::<bool>(), 1..60),
            loads in prop::collection::vec(0u32..20, 1..60),
            seed: u64,
            start: u32,
        ) {
            let tried = tried_from(&mask, weights.len());
            for policy in POLICIES {
                let selector = Selector::new(policy, &weights);
                let mut rng = fastrand::Rng::with_seed(seed);
                let mut cursor = start;
                for _ in 0..50 {
                    let load = |i: EndpointIndex| loads[i.place() % loads.len()];
                    let index = selector.pick(None, &mut cursor, || rng.u64(..), load, &tried).unwrap();
                    prop_assert!(index.place() < weights.len());
                    prop_assert!(tried.len() == weights.len() || !tried.contains(&index), "{policy:?}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn picks_are_spread_by_weight(weights in prop::collection::vec(1u32..20, 1..9), seed: u64) {
            let total: u32 = weights.iter().sum();
            let rounds = 200 * total as usize;
            for policy in POLICIES {
                let selector = Selector::new(policy, &weights);
                let mut rng = fastrand::Rng::with_seed(seed);
                let mut cursor = 0;
                let mut picked = vec![0usize; weights.len()];
                for _ in 0..rounds {
                    // Every request ends before the next begins: with equal loads, weights alone decide.
                    picked[selector.pick(None, &mut cursor, || rng.u64(..), |_| 0, &[]).unwrap().place()] += 1;
                }
                for (weight, picked) in weights.iter().zip(picked) {
                    let expected = 200.0 * f64::from(*weight);
                    let tolerance = if policy == Balance::Random { 7.0 * expected.sqrt() } else { 1.0 };
                    prop_assert!((picked as f64 - expected).abs() <= tolerance, "{policy:?}: {picked} for {expected}");
                }
            }
        }
    }

    #[test]
    fn an_empty_set_gives_nothing() {
        for policy in POLICIES {
            assert_eq!(Selector::new(policy, &[]).pick(None, &mut 0, || 0, |_| 0, &[]), None);
        }
    }

    #[test]
    fn workers_begin_at_different_endpoints() {
        for policy in [Balance::RoundRobin, Balance::LeastRequests] {
            let selector = Selector::new(policy, &[1; 8]);
            let first: HashSet<_> = (0..4)
                .map(|worker| {
                    let mut cursor = selector.first_cursor(worker, 4);
                    selector.pick(None, &mut cursor, || 0, |_| 0, &[])
                })
                .collect();
            assert_eq!(first.len(), 4);
        }
    }
}
