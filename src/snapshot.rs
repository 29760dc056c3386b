//! One compiled generation of the configuration: listeners, routes, upstreams. `control::compile` makes it completely
//! or not at all; workers receive it in an `Arc` and wrap it in an `Rc` of their own. It is immutable, except for the
//! endpoint sets of `dns:` names, which discovery replaces.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::id::{Generation, ListenerId, SocketId, UpstreamId};
use crate::base::limit::{Limit, PerAddress};
use crate::body::ledger::Measured;
use crate::config::model;
use crate::net::bind::{BoundSocket, Group};
use crate::route::action::Route;
use crate::route::connection_ids::ConnectionIds;
use crate::route::egress::Egress;
use crate::route::l4::Layer4;
use crate::route::table::Table;
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::access_log::{AccessLog, Logger};
use crate::telemetry::series::{self, Scope};
use crate::transport::quic::keys::Keys;
use crate::transport::quic::steering::Steering;
use crate::transport::tls::server::ServerTls;
use crate::upstream::Upstream;
use crate::upstream::origin::Origins;
use crate::upstream::worker::WorkerUpstream;

/// One compiled configuration.
pub struct Snapshot {
    /// Its number, counted from 1.
    pub generation: Generation,
    /// `[server]`.
    pub server: model::Server,
    /// By [`ListenerId`].
    pub listeners: Vec<Arc<ListenerSpec>>,
    /// Which request goes where.
    pub routes: Arc<Table>,
    /// By [`UpstreamId`].
    pub upstreams: Vec<Arc<Upstream>>,
    /// Where there is one. It stays the same from one generation to the next while its configuration does.
    pub access_log: Option<Arc<AccessLog>>,
    /// The keys of QUIC. They stay the same from one generation to the next while the file that they come from is the same.
    pub quic_keys: Keys,
}

/// One listener, compiled. Cheap to clone: a worker keeps a copy of its own, so that a request touches no counter
/// that other workers touch.
#[derive(Clone)]
pub struct ListenerSpec {
    /// Its number in this snapshot.
    pub id: ListenerId,
    /// Its name, unique.
    pub name: Arc<str>,
    /// As it was written.
    pub config: Arc<model::Listener>,
    /// Where TLS ends here. Tickets stay valid from one generation to the next.
    pub tls: Option<Arc<ServerTls>>,
    /// With a mode of layer 4: where its connections or datagrams go.
    pub layer4: Option<Arc<Layer4>>,
    /// With mode forward: where clients may go, and how.
    pub egress: Option<Arc<Egress>>,
    /// Which endpoint gave which connection ID, where QUIC is told apart by its ClientHello; kept across generations.
    pub connection_ids: Option<Arc<ConnectionIds>>,
    /// Its `max_connections`, where one is written; the count stays across generations. The process has a limit of
    /// its own beside it.
    pub limit: Option<Arc<Limit>>,
    /// Its `max_connections_per_ip`, where one is written; the counts stay across generations.
    pub per_address: Option<Arc<PerAddress>>,
}

/// One bound address of a generation, on its way to one worker.
pub struct Listening {
    /// Its number.
    pub id: SocketId,
    /// What accepts there.
    pub spec: Arc<ListenerSpec>,
    /// `None`: the worker has it already.
    pub socket: Option<Opened>,
}

/// A socket on its way to the worker that reads it.
pub struct Opened {
    /// The worker's member of the group, or its descriptor of the one socket.
    pub socket: BoundSocket,
    /// Tells the control thread, by being dropped, that it is closed.
    pub open: Arc<Group>,
    /// Where QUIC connections are taken: what joins the workers of the address.
    pub steering: Option<Arc<Steering>>,
}

/// A snapshot as one worker holds it; a request clones the `Rc` around it and touches no counter that others touch.
pub struct WorkerSnapshot {
    /// The generation.
    pub snapshot: Arc<Snapshot>,
    /// By [`UpstreamId`].
    pub upstreams: Vec<Rc<WorkerUpstream>>,
    /// What clients name who are pointed at a proxy.
    pub origins: Origins,
    /// This worker's end of the access log, where there is one.
    pub logger: Option<Rc<Logger>>,
    /// Whether an endpoint of any upstream is told of clients by a PROXY header.
    pub tells_of_clients: bool,
    /// Where this worker's series are.
    telemetry: Arc<WorkerTelemetry>,
    /// By [`RouteId`]; a route that nobody asked for yet costs a pointer.
    routes: Box<[OnceCell<Rc<Measured>>]>,
}

impl WorkerSnapshot {
    /// A generation for the worker of `telemetry`, with the worker's sides of its upstreams.
    pub fn new(
        snapshot: Arc<Snapshot>,
        upstreams: Vec<Rc<WorkerUpstream>>,
        origins: Origins,
        telemetry: Arc<WorkerTelemetry>,
        logger: Option<Rc<Logger>>,
    ) -> Self {
        let routes = snapshot.routes.routes().iter().map(|_| OnceCell::new()).collect();
        let tells = |upstream: &Arc<Upstream>| upstream.config.send_proxy_protocol != model::SendProxyProtocol::Off;
        let tells_of_clients = snapshot.upstreams.iter().any(tells);
        Self { snapshot, upstreams, origins, logger, tells_of_clients, telemetry, routes }
    }

    /// What this worker measures of a listener.
    pub fn listener_measured(&self, listener: &ListenerSpec) -> Rc<Measured> {
        Measured::new(&self.telemetry, listener.scope(), &listener.name)
    }

    /// What this worker measures of a route.
    pub fn route_measured(&self, route: &Route) -> Option<&Rc<Measured>> {
        let place = self.routes.get(route.id.0 as usize)?;
        Some(place.get_or_init(|| {
            let series = self.telemetry.series.series(Scope::Route, &self.snapshot.series_of(route));
            Rc::new(Measured { name: Arc::clone(&route.name), series })
        }))
    }

    /// This worker's side of an upstream.
    pub fn upstream(&self, id: UpstreamId) -> Option<&Rc<WorkerUpstream>> {
        self.upstreams.get(id.0 as usize)
    }
}

impl Snapshot {
    /// The listener of this name.
    pub fn listener(&self, name: &str) -> Option<&Arc<ListenerSpec>> {
        self.listeners.iter().find(|listener| &*listener.name == name)
    }

    /// The name that a route is counted under: its own, or one for all past `server.metrics.max_routes`.
    pub fn series_of(&self, route: &Route) -> Arc<str> {
        if route.id.0 < self.server.metrics.max_routes { Arc::clone(&route.name) } else { series::others() }
    }

    /// Every name that this generation counts under.
    pub fn series(&self) -> HashSet<(Scope, Arc<str>)> {
        let listeners = self.listeners.iter().map(|listener| (listener.scope(), Arc::clone(&listener.name)));
        let routes = self.routes.routes().iter().map(|route| (Scope::Route, self.series_of(route)));
        let upstreams = self.upstreams.iter().flat_map(|upstream| {
            [Scope::Upstream, Scope::UpstreamSessions].map(|scope| (scope, Arc::clone(&upstream.name)))
        });
        let egress = self.listeners.iter().filter_map(|listener| listener.egress.as_ref());
        let egress = egress.map(|egress| (Scope::Upstream, Arc::clone(&egress.cleartext.name)));
        listeners.chain(routes).chain(upstreams).chain(egress).collect()
    }

    /// The upstream of this name.
    pub fn upstream_named(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|upstream| &*upstream.name == name)
    }

    /// The upstream of this number, if this snapshot has it.
    pub fn upstream(&self, id: UpstreamId) -> Option<&Arc<Upstream>> {
        self.upstreams.get(id.0 as usize)
    }
}

impl ListenerSpec {
    /// What is measured of it: requests, or sessions.
    pub fn scope(&self) -> Scope {
        if self.config.mode.relays() { Scope::ListenerSessions } else { Scope::Listener }
    }

    /// Puts the limits of this generation in force on the counts it shares with the one before.
    pub fn enforce_limits(&self) {
        if let (Some(limit), Some(max)) = (&self.limit, self.config.limits.max_connections) {
            limit.set_max(max);
        }
        if let (Some(limits), Some(max)) = (&self.per_address, self.config.limits.max_connections_per_ip) {
            limits.set_max(max);
        }
    }
}
