//! The endpoints of an upstream at one moment, with the selector computed from them: immutable, and replaced as one
//! value, so that a pick never sees a partial change.

use std::sync::Arc;

use super::balance::{EndpointIndex, Selector};
use super::endpoint::Endpoint;
use super::health::state::why_none;
use crate::config::model::Balance;

/// The endpoints and the policy over them. Empty while no name of the upstream has resolved, or none of its endpoints is
/// ready.
pub struct EndpointSet {
    endpoints: Box<[Arc<Endpoint>]>,
    /// With those that are drained, unhealthy or ejected, which no pick meets.
    all: Box<[Arc<Endpoint>]>,
    selector: Selector,
}

impl EndpointSet {
    /// A set in this order. Endpoints that are not ready now are in it, but not to be picked.
    pub fn new(balance: Balance, endpoints: Vec<Arc<Endpoint>>) -> Self {
        let all: Box<[_]> = endpoints.into();
        let endpoints: Box<[_]> = all.iter().filter(|endpoint| endpoint.state.is_ready()).cloned().collect();
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        let total = all.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
        let identity = |index: EndpointIndex| endpoints[index.place()].address.to_string();
        let selector = Selector::new(balance, &weights, total, identity);
        Self { endpoints, all, selector }
    }

    /// The endpoints to pick from, in the order of the configuration and, for a name, of its addresses.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The same with those that are not ready among them.
    pub fn all(&self) -> &[Arc<Endpoint>] {
        &self.all
    }

    /// Why a pick gives none: the reason that goes with [`Kind::DestinationUnavailable`](crate::base::error::Kind).
    pub fn why_none(&self) -> &'static str {
        why_none(self.all.iter().map(|endpoint| endpoint.state.state()))
    }

    /// The policy.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Whether requests in flight are to be counted.
    pub fn counts_requests(&self) -> bool {
        self.selector.asks_for_load()
    }

    /// Whether picks ask for a key: a hash of what is to stay with its endpoint.
    pub fn asks_for_key(&self) -> bool {
        self.selector.asks_for_key()
    }

    /// Picks as [`Selector::pick`] does, with the loads and latencies of these endpoints.
    pub fn pick(&self, key: Option<u64>, cursor: &mut u32, tried: &[EndpointIndex]) -> Option<EndpointIndex> {
        let load = |index: EndpointIndex| self.endpoints[index.place()].state.in_flight();
        let latency = |index: EndpointIndex| self.endpoints[index.place()].latency();
        self.selector.pick(key, cursor, || fastrand::u64(..), load, latency, tried)
    }
}
