//! The lookup table of Google's Maglev (Eisenbud et al., NSDI 2016, §3.4): each endpoint has a permutation of the
//! table's places and takes the next free one in turn, by weight. Shares are exact to a fraction of a percent, and a
//! pick is one division; an endpoint that leaves moves its own keys and a few others.

use super::EndpointIndex;
use super::hash::{key_of, second_of};

/// Places of the table, a prime, so that every step visits each of them: 256 KiB, and below 1 % off for 650 endpoints.
const PLACES: u64 = 65_537;
/// No endpoint has the place.
const FREE: u32 = u32::MAX;

/// The table.
#[derive(Clone, Debug)]
pub struct Maglev {
    /// Empty without endpoints.
    table: Box<[u32]>,
    endpoints: u32,
}

struct Candidate {
    index: u32,
    weight: u64,
    /// Turns it has had, in units of weight times the heaviest.
    had: u64,
    next: u64,
    skip: u64,
}

impl Maglev {
    /// The table of these weights, zero counting as one; `identity` is the address of an endpoint.
    pub fn new(weights: &[u32], identity: impl Fn(EndpointIndex) -> String) -> Self {
        let endpoints = weights.len() as u32;
        let heaviest = u64::from(weights.iter().copied().max().unwrap_or(1).max(1));
        // By address: proxies with the same list in another order agree.
        let mut named: Vec<(String, u32)> =
            (0..endpoints).map(|index| (identity(EndpointIndex(index)), index)).collect();
        named.sort_unstable();
        let mut candidates: Vec<Candidate> = named
            .iter()
            .map(|(name, index)| Candidate {
                index: *index,
                weight: u64::from(weights[*index as usize].max(1)),
                had: 0,
                next: key_of(name.as_bytes()) % PLACES,
                skip: second_of(name.as_bytes()) % (PLACES - 1) + 1,
            })
            .collect();
        if candidates.is_empty() {
            return Self { table: Box::default(), endpoints };
        }
        let mut table = vec![FREE; PLACES as usize];
        let (mut left, mut round) = (PLACES, 0);
        while left > 0 {
            round += 1;
            // The heaviest has a turn in every round, the others as often as their weight is of its.
            let due = candidates.iter_mut().filter(|candidate| round * candidate.weight >= candidate.had + heaviest);
            for candidate in due.take(left as usize) {
                candidate.had += heaviest;
                candidate.take(&mut table);
                left -= 1;
            }
        }
        Self { table: table.into(), endpoints }
    }

    /// The endpoint of the key; while it is in `tried`, the next one that is not, in the order of the table. Where all are,
    /// its own.
    pub fn pick(&self, key: u64, tried: &[EndpointIndex]) -> Option<EndpointIndex> {
        if self.table.is_empty() {
            return None;
        }
        let (before, after) = self.table.split_at((key % PLACES) as usize);
        let round = after.iter().chain(before).map(|index| EndpointIndex(*index));
        let own = round.clone().next()?;
        if !tried.contains(&own) {
            return Some(own);
        }
        // Of more endpoints than places some stand nowhere.
        let mut rest = round.chain((0..self.endpoints).map(EndpointIndex));
        Some(rest.find(|index| !tried.contains(index)).unwrap_or(own))
    }
}

impl Candidate {
    /// Takes the next free place of its permutation; there is one.
    fn take(&mut self, table: &mut [u32]) {
        loop {
            let place = self.next as usize;
            self.next = (self.next + self.skip) % PLACES;
            if table[place] == FREE {
                table[place] = self.index;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_same_for_ever() {
        // Proxies of different versions side by side agree only while this holds.
        let table = Maglev::new(&[1, 1, 1], |index| format!("10.0.0.{}:80", index.0));
        let picks: Vec<u32> = (0..12u64).map(|n| table.pick(key_of(&n.to_le_bytes()), &[]).unwrap().0).collect();
        assert_eq!(picks, [1, 2, 0, 1, 0, 0, 0, 1, 0, 2, 0, 1]);
    }

    #[test]
    fn shares_are_what_the_weights_say() {
        let weights = [1, 2, 5];
        let table = Maglev::new(&weights, |index| index.0.to_string());
        for (index, weight) in weights.iter().enumerate() {
            let places = table.table.iter().filter(|owner| **owner == index as u32).count() as f64;
            let share = f64::from(*weight) / 8.0 * PLACES as f64;
            assert!((places - share).abs() < 8.0, "{places} for {share}");
        }
    }

    #[test]
    fn weights_far_apart_end_in_a_full_table() {
        let mut weights = vec![1; 99];
        weights.push(65_535);
        let table = Maglev::new(&weights, |index| index.0.to_string());
        assert!(!table.table.contains(&FREE));
        let tried: Vec<_> = (1..100).map(EndpointIndex).collect();
        assert_eq!(table.pick(7, &tried), Some(EndpointIndex(0)));
    }
}
