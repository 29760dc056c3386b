//! Choosing an endpoint: pure functions from weights, loads, a cursor and a random number to an index. The selector is
//! computed once for each endpoint set; the only state per request is a cursor of each worker.

pub mod hash;
pub mod least_requests;
pub mod maglev;
pub mod p2c_ewma;
pub mod random;
pub mod ring_hash;
pub mod round_robin;

use crate::config::model::Balance;
use least_requests::LeastRequests;
use maglev::Maglev;
use p2c_ewma::P2cEwma;
use random::Lots;
use ring_hash::RingHash;
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
    /// Of two the one that answers sooner for its load.
    P2cEwma(P2cEwma),
    /// By a key, on a ring.
    RingHash(RingHash),
    /// By a key, from a table.
    Maglev(Maglev),
}

impl Selector {
    /// The selector of `balance` over these weights; a weight of zero counts as one. The policies that hash ask for the
    /// identity of an endpoint, its address, and for the sum of the weights with those that are out for now.
    pub fn new(
        balance: Balance,
        weights: &[u32],
        total_weight: u64,
        identity: impl Fn(EndpointIndex) -> String,
    ) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(Schedule::new(weights)),
            Balance::Random => Self::Random(Lots::new(weights)),
            Balance::LeastRequests => Self::LeastRequests(LeastRequests::new(weights)),
            Balance::P2cEwma => Self::P2cEwma(P2cEwma::new(weights)),
            Balance::RingHash => Self::RingHash(RingHash::new(weights, total_weight, identity)),
            Balance::Maglev => Self::Maglev(Maglev::new(weights, identity)),
        }
    }

    /// Whether `pick` asks for loads, so that requests in flight must be counted.
    pub fn asks_for_load(&self) -> bool {
        matches!(self, Self::LeastRequests(_) | Self::P2cEwma(_))
    }

    /// Whether `pick` asks for a key.
    pub fn asks_for_key(&self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_))
    }

    /// Where the cursor of one worker starts, so that workers do not all begin with the first endpoint.
    pub fn first_cursor(&self, worker: usize, workers: usize) -> u32 {
        match self {
            Self::RoundRobin(schedule) => schedule.first_cursor(worker, workers),
            Self::LeastRequests(least) => least.first_cursor(worker, workers),
            Self::Random(_) | Self::P2cEwma(_) | Self::RingHash(_) | Self::Maglev(_) => 0,
        }
    }

    /// Picks an endpoint that is not in `tried`; one that is when there is no other; `None` only of an empty set. One key is
    /// given one endpoint, and with the same `tried` the same other; without a key the policies that hash pick by chance.
    /// `chance` gives uniform 64-bit numbers, `load` the requests in flight at an endpoint, `latency` its smoothed latency in
    /// nanoseconds.
    pub fn pick(
        &self,
        key: Option<u64>,
        cursor: &mut u32,
        mut chance: impl FnMut() -> u64,
        load: impl Fn(EndpointIndex) -> u32,
        latency: impl Fn(EndpointIndex) -> Option<f32>,
        tried: &[EndpointIndex],
    ) -> Option<EndpointIndex> {
        match self {
            Self::RoundRobin(schedule) => schedule.pick(cursor, tried),
            Self::Random(lots) => lots.pick(chance, tried),
            Self::LeastRequests(least) => least.pick(cursor, chance, load, tried),
            Self::P2cEwma(two) => two.pick(chance, load, latency, tried),
            Self::RingHash(ring) => ring.pick(key.unwrap_or_else(&mut chance), tried),
            Self::Maglev(table) => table.pick(key.unwrap_or_else(&mut chance), tried),
        }
    }
}

#[cfg(test)]
mod tests;
