//! Smooth weighted round robin: a schedule that contains each endpoint as often as its weight, spread evenly. A pick is
//! one load and one addition.

use super::EndpointIndex;

/// The longest schedule of weights that differ: 32 KiB. Past it, weights are scaled down to fit, an error of at most one
/// part in eight thousand.
const MAX_SCHEDULE: u64 = 8192;

/// The order of the picks, repeated for ever.
#[derive(Clone, Debug)]
pub struct Schedule {
    order: Box<[EndpointIndex]>,
}

impl Schedule {
    /// The schedule of these weights; zero counts as one.
    pub fn new(weights: &[u32]) -> Self {
        let weights = scaled(weights);
        let mut order: Vec<(u32, u32, EndpointIndex)> = Vec::new();
        for (index, &weight) in weights.iter().enumerate() {
            // The k-th of w turns belongs at (k + ½) / w of the round (Webster's method): at any moment no endpoint is
            // more than one turn from its share.
            order.extend((0..weight).map(|turn| (2 * turn + 1, weight, EndpointIndex(index as u32))));
        }
        order.sort_by(|(turn_a, weight_a, a), (turn_b, weight_b, b)| {
            let (left, right) = (u64::from(*turn_a) * u64::from(*weight_b), u64::from(*turn_b) * u64::from(*weight_a));
            left.cmp(&right).then(a.cmp(b))
        });
        Self { order: order.into_iter().map(|(_, _, index)| index).collect() }
    }

    /// Where one worker of several begins.
    pub fn first_cursor(&self, worker: usize, workers: usize) -> u32 {
        (self.order.len() * worker / workers.max(1)) as u32
    }

    /// The next in turn that is not in `tried`, or the next in turn where all are.
    pub fn pick(&self, cursor: &mut u32, tried: &[EndpointIndex]) -> Option<EndpointIndex> {
        let first = self.next(cursor)?;
        let mut index = first;
        for _ in 0..self.order.len() {
            if !tried.contains(&index) {
                return Some(index);
            }
            index = self.next(cursor)?;
        }
        Some(first)
    }

    /// The next in turn.
    pub fn next(&self, cursor: &mut u32) -> Option<EndpointIndex> {
        // A cursor may point past the end after the set was replaced by a smaller one.
        let index = match self.order.get(*cursor as usize) {
            Some(index) => *index,
            None => {
                *cursor = 0;
                *self.order.first()?
            }
        };
        *cursor += 1;
        Some(index)
    }
}

/// The weights divided by what they have in common, and scaled down where their sum would be too long a schedule.
fn scaled(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().fold(0, |divisor, &weight| gcd(divisor, weight.max(1))).max(1);
    let reduced = weights.iter().map(|&weight| weight.max(1) / divisor);
    let total: u64 = reduced.clone().map(u64::from).sum();
    let max = MAX_SCHEDULE.max(weights.len() as u64);
    if total <= max {
        return reduced.collect();
    }
    reduced.map(|weight| ((u64::from(weight) * max / total) as u32).max(1)).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(weights: &[u32]) -> Vec<u32> {
        Schedule::new(weights).order.iter().map(|index| index.0).collect()
    }

    #[test]
    fn equal_weights_go_in_the_order_of_the_file() {
        assert_eq!(order(&[7, 7, 7]), [0, 1, 2]);
    }

    #[test]
    fn a_heavy_endpoint_is_interrupted_by_the_light_ones() {
        assert_eq!(order(&[5, 1, 1]), [0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(order(&[2, 1]), [0, 1, 0]);
    }

    #[test]
    fn huge_weights_still_make_a_short_schedule() {
        let schedule = Schedule::new(&[u32::MAX, u32::MAX - 1, 1]);
        assert!(schedule.order.len() as u64 <= MAX_SCHEDULE + 3);
        assert!(schedule.order.contains(&EndpointIndex(2)));
    }

    #[test]
    fn a_cursor_past_the_end_starts_over() {
        assert_eq!(Schedule::new(&[1, 1]).pick(&mut 99, &[]), Some(EndpointIndex(0)));
    }

    proptest! {
        #[test]
        fn no_endpoint_is_ever_far_from_its_share(weights in prop::collection::vec(1u32..30, 1..10)) {
            let order = order(&weights);
            let total: u32 = scaled(&weights).iter().sum();
            let mut picked = vec![0f64; weights.len()];
            for (step, index) in order.iter().enumerate() {
                picked[*index as usize] += 1.0;
                for (weight, picked) in scaled(&weights).iter().zip(&picked) {
                    let share = f64::from(*weight) * (step + 1) as f64 / f64::from(total);
                    prop_assert!((picked - share).abs() <= weights.len() as f64 / 2.0 + 1.0);
                }
            }
        }
    }
}
