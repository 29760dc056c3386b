//! A hash ring: each endpoint has many points on it, by weight, and a key belongs to the first point at or after its
//! hash. The points depend only on the address, so that proxies with the same endpoints agree, in any order, and an
//! endpoint that leaves moves only its own keys.

use super::EndpointIndex;
use super::hash::key_of;

/// Points for one unit of weight: shares come within about 8 % of what the weights say.
const POINTS: u64 = 160;
/// The most points of a ring, 3 MiB: past it every endpoint has a half, a quarter, … of them. By halves, so that a list that
/// grows or shrinks keeps its scale, and with it every point, for long.
const MAX_POINTS: u64 = 1 << 18;

/// The ring.
#[derive(Clone, Debug)]
pub struct RingHash {
    /// Ascending.
    points: Box<[u64]>,
    /// Whose each point is.
    owners: Box<[EndpointIndex]>,
}

impl RingHash {
    /// The ring of these weights, zero counting as one; `identity` is the address of an endpoint. `total` is the sum of the
    /// weights with those endpoints that are out for now: it sets the scale, so that one that leaves for a while moves no
    /// key of the others.
    pub fn new(weights: &[u32], total: u64, identity: impl Fn(EndpointIndex) -> String) -> Self {
        let halvings = halvings(total.max(weights.iter().map(|weight| u64::from(*weight)).sum()));
        let mut ring = Vec::new();
        for (place, &weight) in weights.iter().enumerate() {
            let index = EndpointIndex(place as u32);
            let mut point = identity(index);
            point.push('#');
            let name = point.len();
            for n in 0..((u64::from(weight.max(1)) * POINTS) >> halvings).max(1) {
                point.truncate(name);
                point.push_str(itoa::Buffer::new().format(n));
                ring.push((key_of(point.as_bytes()), index));
            }
        }
        // Two points in one place: whoever comes first in the list has it, a chance of one in millions.
        ring.sort_unstable();
        let (points, owners): (Vec<_>, Vec<_>) = ring.into_iter().unzip();
        Self { points: points.into(), owners: owners.into() }
    }

    /// The endpoint of the key; while it is in `tried`, the next one round the ring. Where all are, its own.
    pub fn pick(&self, key: u64, tried: &[EndpointIndex]) -> Option<EndpointIndex> {
        let at = self.points.partition_point(|point| *point < key);
        let (before, after) = self.owners.split_at(at);
        let mut round = after.iter().chain(before).copied();
        let own = round.clone().next()?;
        Some(round.find(|owner| !tried.contains(owner)).unwrap_or(own))
    }
}

/// How often the points of every endpoint are halved for the ring to keep its bound.
fn halvings(total: u64) -> u32 {
    let points = total.saturating_mul(POINTS);
    (0..u64::BITS).find(|halvings| points >> halvings <= MAX_POINTS).unwrap_or(u64::BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(weights: &[u32]) -> RingHash {
        RingHash::new(weights, 0, |index| format!("10.0.0.{}:80", index.0))
    }

    #[test]
    fn the_points_are_the_same_for_ever() {
        // Proxies of different versions side by side agree only while this holds.
        let ring = ring(&[1, 1, 1]);
        let picks: Vec<u32> = (0..12u64).map(|n| ring.pick(key_of(&n.to_le_bytes()), &[]).unwrap().0).collect();
        assert_eq!(picks, [2, 1, 1, 0, 2, 2, 1, 0, 1, 0, 2, 0]);
    }

    #[test]
    fn a_ring_is_bounded_whatever_the_weights() {
        let huge = RingHash::new(&[65_535; 40], 0, |index| index.0.to_string());
        assert!(huge.points.len() as u64 <= MAX_POINTS && huge.points.len() as u64 > MAX_POINTS / 4);
        let uneven = RingHash::new(&[65_535, 1], 0, |index| index.0.to_string());
        assert!(uneven.owners.contains(&EndpointIndex(1)), "a light endpoint keeps a point");
    }

    #[test]
    fn one_that_is_out_for_a_while_does_not_change_the_scale() {
        let weights = [900u32, 900];
        let with = RingHash::new(&weights, 1_800, |index| index.0.to_string());
        let without = RingHash::new(&weights[..1], 1_800, |index| index.0.to_string());
        let own = |ring: &RingHash| {
            let points = ring.points.iter().zip(&ring.owners).filter(|(_, owner)| owner.0 == 0);
            points.map(|(point, _)| *point).collect::<Vec<_>>()
        };
        assert_eq!(own(&with), own(&without));
    }
}
