//! An upstream as used by one worker: a cursor into the endpoint set, and connection pools. `pick` chooses an endpoint;
//! `session` returns a connection to it: a pooled one, a stream on a shared one, or a new one.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use tokio::time::Instant;

use super::Upstream;
use super::balance::EndpointIndex;
use super::client::Session;
use super::connector;
use super::endpoint::{Endpoint, Spoken};
use super::endpoint_set::EndpointSet;
use super::http2::MAX_STREAMS;
use super::pool::{EndpointPool, Pools};
use super::{alternative, http1, http2, http3};
use crate::base::error::{Error, Kind, Retry};
use crate::body::ledger::Measured;
use crate::body::phase_clock::PhaseClock;
use crate::config::model::UpstreamProtocol;
use crate::net::socket::Sources;
use crate::net::timer;
use crate::telemetry::counters::Counters;

/// Concurrent connection attempts to an endpoint whose protocol is not known yet (ALPN). With one, a burst of requests to an
/// HTTP/1 endpoint would wait for a whole handshake; without a limit, an HTTP/2 endpoint would get as many connections as
/// there are requests. This applies only until the first handshake with the endpoint, on any worker, has completed.
const MAX_UNASKED: usize = 4;

/// An upstream as one worker uses it.
pub struct WorkerUpstream {
    upstream: Arc<Upstream>,
    pub(super) pools: Rc<Pools>,
    set: RefCell<Rc<WorkerSet>>,
    cursor: Cell<u32>,
    pub(super) sources: Sources,
    measured: Rc<Measured>,
    pub(super) sessions_measured: OnceCell<Rc<Measured>>,
}

/// An endpoint set with this worker's pools, in the same order.
struct WorkerSet {
    set: Arc<EndpointSet>,
    endpoints: Box<[Rc<WorkerEndpoint>]>,
    counts_requests: bool,
}

pub(super) struct WorkerEndpoint {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) pool: Rc<EndpointPool>,
    /// The endpoint's label, in an `Rc` of this worker, to avoid an atomic count per request.
    label: Rc<Arc<str>>,
    /// Whether its Alt-Svc is used (`alt_svc`).
    learns: bool,
    /// A connection to the port in its Alt-Svc is being tried.
    trying: Cell<bool>,
}

/// An endpoint chosen for a request. If the policy uses load, the request counts as in progress until this is dropped, so
/// keep it as long as the response body.
pub struct Pick {
    pub(super) endpoint: Rc<WorkerEndpoint>,
    index: EndpointIndex,
    counted: bool,
}

/// A request that waits for a connection made by another request; adds its waiting time to the counters when dropped.
struct Wait<'a> {
    counters: &'a Counters,
    began: Instant,
}

impl WorkerUpstream {
    pub(super) fn new(pools: Rc<Pools>, upstream: Arc<Upstream>) -> Rc<Self> {
        let set = Rc::new(WorkerSet::new(&pools, &upstream, upstream.endpoints.load_full()));
        let (worker, workers) = pools.worker();
        let cursor = Cell::new(set.set.selector().first_cursor(worker, workers));
        let sources = Sources::new(&upstream.config.source, worker);
        let measured = pools.measured(&upstream.name);
        let (set, sessions_measured) = (RefCell::new(set), OnceCell::new());
        Rc::new(Self { upstream, pools, set, cursor, sources, measured, sessions_measured })
    }

    /// The upstream.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Its metrics on this worker.
    pub fn measured(&self) -> &Rc<Measured> {
        &self.measured
    }

    /// Replaces the endpoints, after DNS or a reload changed them. Connections to endpoints that remain are kept.
    pub fn set_endpoints(&self, set: Arc<EndpointSet>) {
        let set = Rc::new(WorkerSet::new(&self.pools, &self.upstream, set));
        self.set.replace(set);
        self.pools.retire_unused();
    }

    /// Whether `pick` needs a key (hash policies).
    pub fn asks_for_key(&self) -> bool {
        self.set.borrow().set.asks_for_key()
    }

    /// Picks an endpoint that is not in `tried`, or one that is if there is no other. `key` is the hash for hash policies.
    ///
    /// # Errors
    /// The upstream has no endpoint to pick: its names did not resolve yet, or none of its endpoints is ready.
    pub fn pick(&self, key: Option<u64>, tried: &[EndpointIndex]) -> Result<Pick, Error> {
        let set = self.set.borrow();
        let mut cursor = self.cursor.get();
        let picked = set.set.pick(key, &mut cursor, tried);
        self.cursor.set(cursor);
        let Some(index) = picked else {
            return Err(Error::upstream(Kind::DestinationUnavailable, Retry::Never, set.set.why_none()));
        };
        let endpoint = Rc::clone(&set.endpoints[index.place()]);
        if set.counts_requests {
            endpoint.endpoint.state.request_began();
        }
        Ok(Pick { endpoint, index, counted: set.counts_requests })
    }

    /// A session with the picked endpoint: a pooled one if there is one, unless `fresh` requires an HTTP/1 connection that
    /// was never used. HTTP/2 sessions are shared even then, because a failed one is not handed out again. Waits at most
    /// twice the connect timeout for connections made by other requests, and once for its own; `clock` is advanced through
    /// the phases of connecting. A `preface` is sent first on a new connection that serves only this request. Cancel-safe.
    ///
    /// # Errors
    /// The endpoint could not be reached. A retry is always safe, because nothing was sent.
    pub async fn session(
        &self,
        pick: &Pick,
        fresh: bool,
        clock: &PhaseClock,
        preface: Option<&[u8]>,
    ) -> Result<Session, Error> {
        let endpoint = &pick.endpoint;
        if preface.is_some() {
            return Box::pin(self.connect(endpoint, clock, preface)).await;
        }
        match self.pooled(endpoint, fresh) {
            Some(session) => Ok(session),
            // Boxed: connecting needs a large future, which would lie in the future of every request.
            None => Box::pin(self.made(endpoint, fresh, clock)).await,
        }
    }

    /// A pooled session, if there is one; `fresh` as for [`session`](Self::session).
    pub fn at_hand(&self, pick: &Pick, fresh: bool) -> Option<Session> {
        self.pooled(&pick.endpoint, fresh)
    }

    /// A new connection, or a pooled one that is returned in the meantime.
    async fn made(&self, endpoint: &Rc<WorkerEndpoint>, fresh: bool, clock: &PhaseClock) -> Result<Session, Error> {
        let connecting = &endpoint.pool.connecting;
        let mut waiting = None;
        while match self.speaks(endpoint) {
            Spoken::Http1 => false,
            Spoken::Unknown => connecting.under_way() >= MAX_UNASKED,
            // One connection serves as many waiting requests as it has streams.
            Spoken::Http2 | Spoken::Http3 => connecting.under_way() * MAX_STREAMS > connecting.waiting(),
        } {
            // Counts the waiting time when it is dropped, however this future ends.
            let wait = waiting.get_or_insert_with(|| Wait::begin(self.pools.counters()));
            connecting.wait(wait.began + self.upstream.config.timeouts.connect * 2).await?;
            if let Some(session) = self.pooled(endpoint, fresh) {
                return Ok(session);
            }
        }
        drop(waiting);
        let attempt = connecting.attempt();
        let session = self.connect(endpoint, clock, None).await;
        if let Err(error) = &session {
            connecting.failed(error);
        }
        // Only now, after the session was shared or the failure noted: this wakes the waiting requests.
        drop(attempt);
        session
    }

    async fn connect(
        &self,
        endpoint: &WorkerEndpoint,
        clock: &PhaseClock,
        preface: Option<&[u8]>,
    ) -> Result<Session, Error> {
        let (upstream, counters) = (&self.upstream, self.pools.counters());
        if self.speaks(endpoint) == Spoken::Http3 {
            let (reached, sources) = (&endpoint.endpoint, &self.sources);
            // Not right after early data was rejected.
            let may_be_early = !endpoint.pool.waits_for_handshake.take();
            let (connection, early) =
                connector::connect_quic(upstream, reached, counters, clock, sources, may_be_early).await?;
            let early = early.map(|early| (early, upstream.config.timeouts.connect));
            let terms = http3::Terms { quic: &upstream.config.quic.transport, alternative: None, early };
            return Ok(Session::Http3(http3::start(connection, &endpoint.pool, counters, terms)));
        }
        let connecting =
            connector::connect(upstream, &endpoint.endpoint, counters, clock, &self.sources, preface, false);
        let connected = connecting.await?;
        if connected.http2 {
            Ok(Session::Http2(http2::start(connected, &endpoint.pool).await?))
        } else {
            Ok(Session::Http1(http1::start(connected, &endpoint.pool).await?))
        }
    }

    fn pooled(&self, endpoint: &Rc<WorkerEndpoint>, fresh: bool) -> Option<Session> {
        let (spoken, pool) = (self.speaks(endpoint), &endpoint.pool);
        // A retry (`fresh`) does not use the alternative, which may have caused the failure.
        let alternative = if endpoint.learns && !fresh { self.over_alternative(endpoint) } else { None };
        let mut session = alternative.or_else(|| match spoken {
            Spoken::Http1 | Spoken::Unknown if !fresh => pool.take_idle().map(Session::Http1),
            Spoken::Http3 => pool.http3.take_stream().map(Session::Http3),
            _ => None,
        });
        if session.is_none() && matches!(spoken, Spoken::Http2 | Spoken::Unknown) {
            session = pool.http2.take_stream().map(Session::Http2);
        }
        if session.is_some() {
            self.pools.counters().upstream_reuses.add(1);
        }
        session
    }

    /// A stream on an HTTP/3 connection to the port in the endpoint's Alt-Svc. If there is no connection yet, one is tried in
    /// the background for later requests.
    fn over_alternative(&self, endpoint: &Rc<WorkerEndpoint>) -> Option<Session> {
        let state = &endpoint.endpoint.state;
        let port = state.alternative.port(state.age())?;
        let session = endpoint.pool.http3.take_stream().map(Session::Http3);
        if session.is_none() && !endpoint.trying.replace(true) {
            let sources = Sources::new(&self.upstream.config.source, self.pools.worker().0);
            let (upstream, counters) = (Arc::clone(&self.upstream), Arc::clone(self.pools.counters()));
            tokio::task::spawn_local(Rc::clone(endpoint).try_alternative(upstream, port, sources, counters));
        }
        session
    }

    /// The endpoint's protocol: as configured, or as last negotiated by ALPN.
    fn speaks(&self, endpoint: &WorkerEndpoint) -> Spoken {
        match (self.upstream.config.protocol, &self.upstream.tls) {
            (UpstreamProtocol::Http1, _) | (UpstreamProtocol::Auto, None) => Spoken::Http1,
            (UpstreamProtocol::Http2, _) => Spoken::Http2,
            (UpstreamProtocol::Http3 | UpstreamProtocol::Quic, _) => Spoken::Http3,
            (UpstreamProtocol::Auto, Some(_)) => endpoint.endpoint.state.spoken(),
        }
    }
}

impl WorkerSet {
    fn new(pools: &Pools, upstream: &Upstream, set: Arc<EndpointSet>) -> Self {
        let endpoints = set.endpoints().iter().map(|endpoint| {
            let pool = pools.pool(upstream, endpoint);
            pool.attach();
            Rc::new(WorkerEndpoint {
                endpoint: Arc::clone(endpoint),
                pool,
                label: Rc::new(Arc::clone(&endpoint.label)),
                learns: upstream.config.alt_svc,
                trying: Cell::new(false),
            })
        });
        Self { endpoints: endpoints.collect(), counts_requests: set.counts_requests(), set }
    }
}

impl WorkerEndpoint {
    /// Makes the connection of [`WorkerUpstream::over_alternative`]. A failure does not count against the endpoint, which
    /// still works over its usual protocol.
    async fn try_alternative(
        self: Rc<Self>,
        upstream: Arc<Upstream>,
        port: u16,
        sources: Sources,
        counters: Arc<Counters>,
    ) {
        let connecting = connector::alternative(&upstream, &self.endpoint, port, &sources);
        let state = &self.endpoint.state;
        match timer::timeout(upstream.config.timeouts.connect, connecting).await {
            Ok(Ok(connection)) => {
                let alternative = Some((Arc::clone(state), port));
                let terms = http3::Terms { quic: &upstream.config.quic.transport, alternative, early: None };
                tracing::debug!(endpoint = %self.endpoint.label, port, "switching to HTTP/3, as offered by Alt-Svc");
                // The session is dropped; its connection stays in the pool.
                drop(http3::start(connection, &self.pool, &counters, terms));
            }
            failed => {
                let error = failed.ok().and_then(Result::err);
                let reason = error.as_ref().map_or("no answer in time", Error::reason);
                tracing::debug!(endpoint = %self.endpoint.label, port, reason, "HTTP/3 was offered by Alt-Svc but cannot be reached");
                state.alternative.broke(state.age());
            }
        }
        self.trying.set(false);
    }
}

impl<'a> Wait<'a> {
    fn begin(counters: &'a Counters) -> Self {
        counters.upstream_waits.add(1);
        Self { counters, began: Instant::now() }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.counters.upstream_wait_nanos.add(self.began.elapsed().as_nanos() as u64);
    }
}

impl Drop for WorkerEndpoint {
    fn drop(&mut self) {
        self.pool.detach();
    }
}

impl Pick {
    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint.endpoint
    }

    /// Remembers the Alt-Svc of a response, if the upstream uses it.
    pub fn hear(&self, fields: &HeaderMap) {
        if self.endpoint.learns {
            let state = &self.endpoint.endpoint.state;
            state.alternative.hear(alternative::said(fields), state.age());
        }
    }

    /// Its name in logs and status.
    pub fn label(&self) -> Rc<Arc<str>> {
        Rc::clone(&self.endpoint.label)
    }

    /// Its place in the set, for `tried` of the next pick.
    pub fn index(&self) -> EndpointIndex {
        self.index
    }

    /// Whether the request counts as in progress while this lives; if not, it may be dropped early.
    pub fn is_counted(&self) -> bool {
        self.counted
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        if self.counted {
            self.endpoint.endpoint.state.request_ended();
        }
    }
}

#[cfg(test)]
mod tests;
