//! An upstream on one worker, for sessions and flows: the endpoint set and a cursor into it, the next source address,
//! and its metrics. Plain cells, owned by the worker's thread.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::addr::Address;
use crate::body::ledger::Measured;
use crate::config::model;
use crate::net::socket::Sources;
use crate::net::{connecting, datagram};
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::series::Scope;
use crate::upstream::Upstream;
use crate::upstream::balance::EndpointIndex;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::endpoint_set::EndpointSet;
use crate::upstream::health::state::Bar;

/// An upstream as one worker of layer 4 uses it.
pub struct L4Upstream {
    upstream: Arc<Upstream>,
    set: RefCell<Arc<EndpointSet>>,
    cursor: Cell<u32>,
    sources: Sources,
    measured: Rc<Measured>,
}

/// An endpoint chosen for a session or flow. Where the policy looks at loads it counts as under way until this is dropped.
pub struct Pick {
    endpoint: Arc<Endpoint>,
    index: EndpointIndex,
    counted: bool,
}

impl L4Upstream {
    /// The side of one worker of `workers`. The `before` of an earlier generation lends its place in the order of picks.
    pub fn new(
        upstream: Arc<Upstream>,
        telemetry: &WorkerTelemetry,
        (worker, workers): (usize, usize),
        before: Option<&Self>,
    ) -> Rc<Self> {
        let set = upstream.endpoints.load_full();
        let cursor = before.map_or_else(|| set.selector().first_cursor(worker, workers), |before| before.cursor.get());
        let measured = Measured::new(telemetry, Scope::UpstreamSessions, &upstream.name);
        let sources = Sources::new(&upstream.config.source, worker);
        Rc::new(Self { set: RefCell::new(set), cursor: Cell::new(cursor), sources, measured, upstream })
    }

    /// What was configured.
    pub fn config(&self) -> &model::Upstream {
        &self.upstream.config
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.upstream.name
    }

    /// What this worker measures of it.
    pub fn measured(&self) -> &Rc<Measured> {
        &self.measured
    }

    /// Replaces the endpoints. Sessions and flows keep the one they have.
    pub fn set_endpoints(&self, set: Arc<EndpointSet>) {
        self.set.replace(set);
    }

    /// Whether picks ask for a key.
    pub fn asks_for_key(&self) -> bool {
        self.set.borrow().asks_for_key()
    }

    /// Whether there is an endpoint to pick.
    pub fn has_any(&self) -> bool {
        !self.set.borrow().endpoints().is_empty()
    }

    /// Whether `endpoint` is still one of them, well or not.
    pub fn has(&self, endpoint: &Endpoint) -> bool {
        self.set.borrow().all().iter().any(|known| Arc::ptr_eq(&known.state, &endpoint.state))
    }

    /// Why a pick gives none.
    pub fn why_none(&self) -> &'static str {
        self.set.borrow().why_none()
    }

    /// Picks an endpoint that is not in `tried`; one that is where there is no other. `key`: the hash of what is to stay with
    /// its endpoint.
    pub fn pick(&self, key: Option<u64>, tried: &[EndpointIndex]) -> Option<Pick> {
        let set = self.set.borrow();
        let mut cursor = self.cursor.get();
        let index = set.pick(key, &mut cursor, tried);
        self.cursor.set(cursor);
        let index = index?;
        let endpoint = Arc::clone(set.endpoints().get(index.0 as usize)?);
        let counted = set.counts_requests();
        if counted {
            endpoint.state.request_began();
        }
        Some(Pick { endpoint, index, counted })
    }

    /// The endpoint at `address`, where there is one that is well, or drained by an operator's word.
    pub fn pick_at(&self, address: SocketAddr) -> Option<Pick> {
        let set = self.set.borrow();
        let keeps = |endpoint: &Endpoint| endpoint.state.is_ready() || endpoint.state.has(Bar::Drained);
        let is_there = |endpoint: &&Arc<Endpoint>| endpoint.address == Address::Socket(address) && keeps(endpoint);
        let endpoint = Arc::clone(set.all().iter().find(is_there)?);
        // Where it is not among those to be picked, no index is another's.
        let place = set.endpoints().iter().position(|known| Arc::ptr_eq(known, &endpoint));
        let index = EndpointIndex(place.and_then(|place| u32::try_from(place).ok()).unwrap_or(u32::MAX));
        let counted = set.counts_requests();
        if counted {
            endpoint.state.request_began();
        }
        Some(Pick { endpoint, index, counted })
    }

    /// Begins a connection to `endpoint`, from the source whose turn it is.
    ///
    /// # Errors
    /// It cannot be begun, or failed at once.
    pub fn begin(&self, endpoint: &Endpoint) -> io::Result<OwnedFd> {
        connecting::begin(&endpoint.address, &self.config().socket, &self.sources)
    }

    /// A socket for datagrams to `address` alone, from the source whose turn it is.
    ///
    /// # Errors
    /// No way leads there, or nothing is left to get there with.
    pub fn connect_datagrams(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        datagram::connect(address, &self.sources, &self.config().socket)
    }
}

impl Pick {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Its place in the set it was picked from.
    pub fn index(&self) -> EndpointIndex {
        self.index
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        if self.counted {
            self.endpoint.state.request_ended();
        }
    }
}
