//! The facts about a session besides its sockets, from accept to its end, and the recording of the end: series,
//! counters, recent errors, access log. Values that can be determined at the end are not stored.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::listener::L4Listener;
use super::timer::Tick;
use super::upstreams::{L4Upstream, Pick};
use crate::base::error::{Error, Kind};
use crate::base::limit::{AddressPermit, Permit};
use crate::config::model;
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::access_log::SessionRecord;
use crate::telemetry::recent::Place;
use crate::telemetry::series::{Ended, Phases};
use crate::upstream::balance::EndpointIndex;
use crate::upstream::balance::hash::key_of_connection;
use crate::upstream::endpoint::Endpoint;

/// What a session took from the limits, given back when it is dropped.
pub struct Admission {
    _process: Permit,
    _listener: Option<Permit>,
    /// Of the client's address, known once it is accepted, or once a PROXY header has named it.
    address: Option<Box<AddressPermit>>,
}

/// What is said of a connection past `max_connections_per_ip`.
pub const TOO_MANY: &str = "too many connections from its address";

/// A session's life.
pub struct Life {
    listener: Rc<L4Listener>,
    /// Where it leads, once that is known.
    pub target: Option<Target>,
    /// Endpoints that were tried.
    pub attempts: u32,
    /// Microseconds that the last connection took to be made.
    connect: u32,
    /// When something was last moved.
    pub moved: Tick,
    began: Instant,
    peer: Option<SocketAddr>,
    told: Option<Box<Told>>,
    admission: Admission,
}

/// Where a session leads.
pub struct Target {
    upstream: Rc<L4Upstream>,
    pick: Option<Pick>,
}

/// What a PROXY header and a ClientHello told.
#[derive(Debug, Default)]
pub struct Told {
    /// The client.
    pub client: Option<SocketAddr>,
    /// The address that it connected to.
    pub local: Option<SocketAddr>,
    /// What else the header said.
    pub tlvs: Box<[u8]>,
    /// The name it asked for.
    pub sni: Option<Box<str>>,
}

/// How a session came to its end.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// What went wrong; `None`: both sides had ended.
    pub outcome: Option<Kind>,
    /// Why.
    pub reason: &'static str,
    /// Bytes that the endpoint got of the client.
    pub bytes_in: u64,
    /// Bytes that the client got of the endpoint.
    pub bytes_out: u64,
}

impl Admission {
    /// Of the process, and of the listener and the address where those have a limit.
    pub fn new(process: Permit, listener: Option<Permit>, address: Option<AddressPermit>) -> Self {
        Self { _process: process, _listener: listener, address: address.map(Box::new) }
    }

    /// Counts it for the client's address, where the listener limits that; false: it has too many already.
    pub fn admit(&mut self, listener: &L4Listener, client: Option<SocketAddr>) -> bool {
        let (Some(limits), Some(client)) = (&listener.spec.per_address, client) else { return true };
        self.address = limits.acquire(client.ip()).map(Box::new);
        self.address.is_some()
    }
}

impl Life {
    /// A life that begins.
    pub fn new(listener: Rc<L4Listener>, peer: Option<SocketAddr>, admission: Admission, now: Instant) -> Self {
        Self { listener, target: None, attempts: 0, connect: 0, moved: 0, began: now, peer, told: None, admission }
    }

    /// Where it came in.
    pub fn listener(&self) -> &Rc<L4Listener> {
        &self.listener
    }

    /// Its listener's configuration.
    pub fn config(&self) -> &model::Listener {
        self.listener.config()
    }

    /// When it was accepted.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// The other end of the connection; `None` on a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The client, as a PROXY header of a trusted proxy tells it.
    pub fn client(&self) -> Option<SocketAddr> {
        self.told.as_ref().and_then(|told| told.client).or(self.peer)
    }

    /// Counts the session for a client that a header has named; false: its address has too many.
    pub fn admit_client(&mut self) -> bool {
        let client = self.client();
        self.admission.admit(&self.listener, client)
    }

    /// The address that the client connected to, where a PROXY header tells it.
    pub fn local(&self) -> Option<SocketAddr> {
        self.told.as_ref().and_then(|told| told.local)
    }

    /// What else a PROXY header told.
    pub fn tlvs(&self) -> &[u8] {
        self.told.as_ref().map_or(&[], |told| &told.tlvs)
    }

    /// The name in the ClientHello.
    pub fn sni(&self) -> Option<&str> {
        self.told.as_ref().and_then(|told| told.sni.as_deref())
    }

    /// To be filled in with what is told.
    pub fn told(&mut self) -> &mut Told {
        self.told.get_or_insert_default()
    }

    /// The hash of what is to stay with its endpoint.
    pub fn key(&self, upstream: &L4Upstream) -> Option<u64> {
        let sni = self.told.as_ref().and_then(|told| told.sni.as_deref());
        key_of_connection(&upstream.config().hash_on, sni, self.client().map(|client| client.ip()))
    }

    /// The connection that was begun at `attempt` stands.
    pub fn connected(&mut self, attempt: Instant, now: Instant) {
        let took = now.saturating_duration_since(attempt);
        self.connect = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        if let Some(pick) = self.target.as_ref().and_then(|target| target.pick.as_ref()) {
            pick.endpoint().connected(took);
        }
    }

    /// When its time is up: nothing moved for too long, or it is too old. `moved` is the moment of its last movement.
    pub fn deadline(&self, moved: Instant) -> Instant {
        let idle = match &self.target {
            Some(target) => moved + self.listener.session_idle(&target.upstream),
            None => moved + self.config().timeouts.handshake,
        };
        self.cut_at().map_or(idle, |cut| idle.min(cut))
    }

    /// When it is too old.
    pub fn cut_at(&self) -> Option<Instant> {
        self.config().timeouts.max_age.and_then(|age| self.began.checked_add(age))
    }

    /// Tells of the end.
    pub fn tell(mut self, ending: Ending, telemetry: &WorkerTelemetry, now: Instant) {
        let total = now.saturating_duration_since(self.began);
        let connect = Duration::from_micros(self.connect.into()).min(total);
        let phases = Phases { connect, body: total - connect, total, ..Phases::default() };
        let Ending { outcome, reason, bytes_in, bytes_out } = ending;
        let ended = Ended { status: 0, outcome, reason, phases, bytes_in, bytes_out };
        self.listener.measured.series.ended(&ended);
        let upstream = self.target.as_ref().map(|target| &target.upstream);
        if let Some(upstream) = upstream {
            upstream.measured().series.ended(&ended);
        }
        telemetry.counters.outcome(outcome);
        let endpoint = self.target.as_ref().and_then(|target| target.pick.as_ref()).map(|pick| &pick.endpoint().label);
        if let Some(kind) = outcome {
            let listener = &self.listener.measured.name;
            let place = Place { listener, route: None, upstream: upstream.map(|upstream| upstream.name()), endpoint };
            telemetry.recent.note(kind, reason, 0, place);
        }
        if let Some(logger) = &self.listener.logger {
            let record = SessionRecord {
                at: SystemTime::now() - total,
                mode: self.config().mode.as_str(),
                client: self.client().map(|client| client.ip()),
                peer: self.peer,
                listener: Arc::clone(&self.listener.spec.name),
                upstream: upstream.map(|upstream| Arc::clone(upstream.name())),
                endpoint: endpoint.cloned(),
                attempts: self.attempts,
                sni: self.told.as_mut().and_then(|told| told.sni.take()),
            };
            logger.log_session(&record, &ended);
        }
    }
}

impl Target {
    /// An upstream, no endpoint yet.
    pub fn new(upstream: Rc<L4Upstream>) -> Self {
        Self { upstream, pick: None }
    }

    /// An endpoint of an upstream.
    pub fn picked(upstream: Rc<L4Upstream>, pick: Pick) -> Self {
        Self { upstream, pick: Some(pick) }
    }

    /// The upstream.
    pub fn upstream(&self) -> &Rc<L4Upstream> {
        &self.upstream
    }

    /// The endpoint.
    ///
    /// # Errors
    /// None was picked: a fault of ours.
    pub fn endpoint(&self) -> Result<&Arc<Endpoint>, Error> {
        self.pick.as_ref().map(Pick::endpoint).ok_or_else(|| Error::internal("an upstream without an endpoint"))
    }

    /// The endpoint's place among those it was picked from.
    pub fn index(&self) -> Option<EndpointIndex> {
        self.pick.as_ref().map(Pick::index)
    }

    /// Notes that a connection to the endpoint came to nothing.
    pub fn failed(&self, kind: Kind) {
        if let Some(pick) = &self.pick {
            pick.endpoint().state.connect_failed(kind, SystemTime::now());
            pick.endpoint().failed(kind);
        }
    }
}
