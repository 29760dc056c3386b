//! Power of two choices: of two endpoints drawn by weight, the one with the lower expected response time, which is its
//! smoothed latency times its requests in progress. A slow endpoint gets fewer requests at once, and is tried again as
//! its peak decays.

use super::EndpointIndex;
use super::random::Lots;

/// What an endpoint that was never measured is taken for while a first request is on its way there, in nanoseconds: slow, so
/// that a burst does not pile up on what may be dead, and equal, so that at the start the fewest in flight decide.
const UNMEASURED: f32 = 1e9;
/// Draws until two differ; past them any other than the first is taken by weight.
const DRAWS: usize = 3;

/// What is precomputed from the weights.
#[derive(Clone, Debug)]
pub struct P2cEwma {
    weights: Box<[u32]>,
    lots: Lots,
}

impl P2cEwma {
    /// The policy over these weights; zero counts as one.
    pub fn new(weights: &[u32]) -> Self {
        Self { weights: weights.iter().map(|&weight| weight.max(1)).collect(), lots: Lots::new(weights) }
    }

    /// The cheaper of two that are not in `tried`; the only one where there is no second; any where all are tried. `latency`
    /// is in nanoseconds, `None` where nothing was measured yet: such an endpoint is tried first, by one request at a time.
    pub fn pick(
        &self,
        mut chance: impl FnMut() -> u64,
        load: impl Fn(EndpointIndex) -> u32,
        latency: impl Fn(EndpointIndex) -> Option<f32>,
        tried: &[EndpointIndex],
    ) -> Option<EndpointIndex> {
        let first = self.lots.pick(&mut chance, tried)?;
        let Some(second) = self.another(&mut chance, first, tried) else { return Some(first) };
        let cost = |index: EndpointIndex| {
            let in_flight = load(index);
            let latency = match latency(index) {
                None if in_flight == 0 => return 0.0,
                measured => measured.unwrap_or(UNMEASURED),
            };
            f64::from(latency) * (f64::from(in_flight) + 1.0) / f64::from(self.weights[index.place()])
        };
        Some(if cost(second) < cost(first) { second } else { first })
    }

    /// One more, by weight, that is neither the first nor in `tried`.
    fn another(
        &self,
        chance: &mut impl FnMut() -> u64,
        first: EndpointIndex,
        tried: &[EndpointIndex],
    ) -> Option<EndpointIndex> {
        let fits = |index: &EndpointIndex| *index != first && !tried.contains(index);
        match (self.weights.len(), first.place()) {
            (0 | 1, _) => return None,
            (2, place) => return Some(EndpointIndex(1 - place as u32)).filter(fits),
            _ => {}
        }
        if let Some(drawn) = (0..DRAWS).filter_map(|_| self.lots.draw(chance())).find(fits) {
            return Some(drawn);
        }
        self.lots.pick_but(chance, |index| !fits(&index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f32 = 1e6;

    #[test]
    fn of_two_the_one_that_answers_sooner_for_its_load_is_picked() {
        let policy = P2cEwma::new(&[1, 1]);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut pick = |latencies: [f32; 2], loads: [u32; 2]| {
            let picked = policy.pick(|| rng.u64(..), |i| loads[i.place()], |i| Some(latencies[i.place()]), &[]);
            picked.unwrap().0
        };
        for _ in 0..50 {
            assert_eq!(pick([5.0 * MS, 20.0 * MS], [0, 0]), 0);
            assert_eq!(pick([5.0 * MS, 20.0 * MS], [2, 0]), 0, "5 × 3 is less than 20 × 1");
            assert_eq!(pick([5.0 * MS, 20.0 * MS], [4, 0]), 1);
        }
    }

    #[test]
    fn what_was_never_measured_is_tried_by_one_at_a_time() {
        let policy = P2cEwma::new(&[1, 1, 1]);
        let mut rng = fastrand::Rng::with_seed(2);
        let latency = |i: EndpointIndex| (i.0 != 2).then_some(MS);
        let (mut idle, mut busy) = (0, 0);
        for _ in 0..3_000 {
            idle += u32::from(policy.pick(|| rng.u64(..), |_| 0, latency, &[]).unwrap().0 == 2);
            busy += u32::from(policy.pick(|| rng.u64(..), |i| u32::from(i.0 == 2), latency, &[]).unwrap().0 == 2);
        }
        assert!(idle > 1_800, "two in three draws meet it: {idle}");
        assert_eq!(busy, 0);
    }

    #[test]
    fn before_anything_is_measured_the_fewest_in_flight_decide() {
        let policy = P2cEwma::new(&[1, 1, 1, 1]);
        let mut rng = fastrand::Rng::with_seed(3);
        let mut loads = [0u32; 4];
        for _ in 0..400 {
            let picked = policy.pick(|| rng.u64(..), |i| loads[i.place()], |_| None, &[]).unwrap();
            loads[picked.place()] += 1;
        }
        assert!(loads.iter().all(|load| (95..=105).contains(load)), "{loads:?}");
    }

    /// A seeded simulation: endpoints that answer one after the other, a client that asks at a steady rate.
    #[test]
    fn a_slow_endpoint_gets_little_and_what_is_open_evens_out_by_weight() {
        for (weights, speeds) in [(vec![1, 1, 1, 1], [10.0, 10.0, 10.0, 1.0]), (vec![1, 2, 3, 2], [1.0, 2.0, 3.0, 2.0])]
        {
            let policy = P2cEwma::new(&weights);
            let mut rng = fastrand::Rng::with_seed(4);
            let mut open: [Vec<f64>; 4] = Default::default();
            let latencies = speeds.map(|speed| MS * 10.0 / speed as f32);
            let (mut now, mut picked) = (0.0, [0u32; 4]);
            for _ in 0..20_000 {
                now += 1.0;
                open.iter_mut().for_each(|open| open.retain(|until| *until > now));
                let load = |i: EndpointIndex| open[i.place()].len() as u32;
                let index = policy.pick(|| rng.u64(..), load, |i| Some(latencies[i.place()]), &[]).unwrap();
                picked[index.place()] += 1;
                open[index.place()].push(now + 10.0 / speeds[index.place()]);
            }
            if weights[3] == 1 {
                assert!(picked[3] < 600, "ten times as slow, a few percent of the requests: {picked:?}");
                assert!(picked[..3].iter().all(|count| *count > 5_500), "{picked:?}");
            } else {
                assert!(picked[2] > picked[1] && picked[1] > picked[0], "{picked:?}");
            }
        }
    }
}
