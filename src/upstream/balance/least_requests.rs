//! The fewest requests in progress relative to weight. A small set is scanned completely; of a large one a few are
//! drawn by weight, which approximates the minimum without reading a cache line of every endpoint. Ties rotate by
//! weight.

use super::EndpointIndex;
use super::random::Lots;
use super::round_robin::Schedule;

/// Up to here every endpoint is looked at: each look may fetch a cache line that another worker wrote.
const LOOK_AT_ALL: usize = 16;
/// Endpoints drawn from a larger set. Two are enough against pile-ups; a few more bring the spread near to a full look.
const DRAWS: usize = 5;

/// What is precomputed from the weights.
#[derive(Clone, Debug)]
pub struct LeastRequests {
    weights: Box<[u32]>,
    turns: Schedule,
    lots: Lots,
}

impl LeastRequests {
    /// The policy over these weights; zero counts as one.
    pub fn new(weights: &[u32]) -> Self {
        let weights: Box<[u32]> = weights.iter().map(|&weight| weight.max(1)).collect();
        Self { turns: Schedule::new(&weights), lots: Lots::new(&weights), weights }
    }

    /// Where one worker of several begins its turns.
    pub fn first_cursor(&self, worker: usize, workers: usize) -> u32 {
        self.turns.first_cursor(worker, workers)
    }

    /// The least loaded that is not in `tried`, or whose turn it is where all are.
    pub fn pick(
        &self,
        cursor: &mut u32,
        mut chance: impl FnMut() -> u64,
        load: impl Fn(EndpointIndex) -> u32,
        tried: &[EndpointIndex],
    ) -> Option<EndpointIndex> {
        // Whoever's turn it is wins every tie, so that endpoints at rest are used by weight.
        let turn = self.turns.pick(cursor, tried)?;
        let mut least = (turn, load(turn));
        if least.1 == 0 || tried.contains(&turn) {
            return Some(turn);
        }
        let mut look = |index: EndpointIndex| {
            if index != least.0 && !tried.contains(&index) {
                let load = load(index);
                if self.is_less((index, load), least) {
                    least = (index, load);
                }
            }
        };
        let count = self.weights.len();
        if count <= LOOK_AT_ALL {
            // From the one after it and around: ties among the others do not all fall to the first of the set.
            (1..count).for_each(|step| look(EndpointIndex(((turn.place() + step) % count) as u32)));
        } else {
            (0..DRAWS).filter_map(|_| self.lots.draw(chance())).for_each(&mut look);
        }
        Some(least.0)
    }

    /// Whether `a` has fewer in flight for its weight than `b`.
    fn is_less(&self, a: (EndpointIndex, u32), b: (EndpointIndex, u32)) -> bool {
        let weight = |index: EndpointIndex| u64::from(self.weights[index.place()]);
        u64::from(a.1) * weight(b.0) < u64::from(b.1) * weight(a.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_for_its_weight_is_picked() {
        let policy = LeastRequests::new(&[1, 1, 4]);
        let loads = [3, 2, 7];
        for cursor in 0..6 {
            let picked = policy.pick(&mut { cursor }, || 0, |i| loads[i.place()], &[]);
            assert_eq!(picked, Some(EndpointIndex(2)), "7 of 4 are fewer than 2 of 1");
        }
    }

    #[test]
    fn open_requests_even_out_by_weight() {
        for count in [4usize, 100] {
            let weights: Vec<u32> = (0..count as u32).map(|i| 1 + i % 3).collect();
            let policy = LeastRequests::new(&weights);
            let mut rng = fastrand::Rng::with_seed(3);
            let (mut cursor, mut loads) = (0, vec![0u32; count]);
            for _ in 0..count * 200 {
                let picked = policy.pick(&mut cursor, || rng.u64(..), |i| loads[i.place()], &[]).unwrap();
                loads[picked.place()] += 1;
            }
            let shares: Vec<f64> = loads.iter().zip(&weights).map(|(l, w)| f64::from(*l) / f64::from(*w)).collect();
            let (low, high) = shares.iter().fold((f64::MAX, 0f64), |(low, high), s| (low.min(*s), high.max(*s)));
            assert!(high / low < 1.2, "{count} endpoints: {low} to {high}");
        }
    }
}
