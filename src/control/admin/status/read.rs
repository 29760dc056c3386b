//! Fills a [`Status`] from the view, in one pass over the series of all workers.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::traffic::Counted;
use super::{
    CertificateStatus, Connections, EndpointAlternative, EndpointCheck, EndpointOutlier, EndpointStatus, Handshakes,
    Hist, LastFailure, Layer4, Listener, Pool, Quic, RecentError, Reload, Route, Status, Tunnels, UpstreamStatus,
    Worker,
};
use crate::config::model::{self, RouteAction};
use crate::config::{Config, match_text};
use crate::control::view::{LastReload, View};
use crate::snapshot::{ListenerSpec, Snapshot};
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::calendar;
use crate::telemetry::counters::{Counters, Totals};
use crate::telemetry::histogram::BOUNDS;
use crate::telemetry::recent::{Incident, Recent};
use crate::telemetry::series::{self, Scope};
use crate::upstream::Upstream;
use crate::upstream::alternative::{Offered, Stage};
use crate::upstream::endpoint::{Endpoint, EndpointState};

impl Status {
    /// Reads everything, at this moment.
    pub fn read(view: &View) -> Self {
        let (snapshot, config) = (view.snapshot(), view.config());
        let workers = view.workers();
        let totals = Counters::sum(workers.iter().map(|worker| &*worker.counters));
        let counted = Counted::read(workers);
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started_at: time(view.started_at),
            now: time(SystemTime::now()),
            uptime_seconds: view.uptime().as_secs_f64(),
            state: if view.is_draining() { "draining" } else { "ready" }.into(),
            generation: snapshot.generation.0,
            last_reload: view.last_reload().map(|last| Reload::of(&last, snapshot.generation.0)),
            workers: workers
                .iter()
                .filter(|worker| worker.has_begun())
                .enumerate()
                .map(|(id, worker)| Worker::of(id, worker))
                .collect(),
            connections: Connections::of(&totals, view.process_limit().max()),
            handshakes: Handshakes::of(&totals),
            pool: Pool { connects: totals.upstream_connects, reuses: totals.upstream_reuses, retries: totals.retries },
            tunnels: Tunnels { open: totals.tunnels_open, started: totals.tunnels },
            bounds_seconds: BOUNDS.iter().map(|bound| bound.as_secs_f64()).collect(),
            quic: Quic::of(&totals),
            layer4: Layer4::of(&totals),
            traffic: counted.all_of(Scope::Listener),
            listeners: snapshot.listeners.iter().map(|spec| Listener::of(spec, view, &counted)).collect(),
            routes: routes(&snapshot, &config, &counted),
            upstreams: snapshot.upstreams.iter().map(|upstream| UpstreamStatus::of(upstream, &counted)).collect(),
            certificates: snapshot.listeners.iter().flat_map(|spec| certificates(spec)).collect(),
            errors: Recent::merged(workers.iter().map(|worker| &worker.recent))
                .into_iter()
                .map(RecentError::of)
                .collect(),
        }
    }
}

impl Reload {
    fn of(last: &LastReload, in_force: u64) -> Self {
        let (result, generation, changes, error) = match &last.result {
            Ok(report) => ("ok", report.generation.0, report.changes.clone(), None),
            Err(reason) => ("refused", in_force, Vec::new(), Some(reason.to_string())),
        };
        let trigger = last.trigger.name().into();
        Self { at: time(last.at), result: result.into(), trigger, generation, changes, error }
    }
}

impl Worker {
    fn of(id: usize, worker: &WorkerTelemetry) -> Self {
        Self {
            id,
            plane: worker.plane.as_str().into(),
            connections_open: worker.counters.connections_open.value(),
            requests: worker.counters.requests.value(),
            loop_lag: Hist::of(&worker.lag.read()),
            last_heartbeat_seconds_ago: worker.since_heartbeat().as_secs_f64(),
        }
    }
}

impl Connections {
    fn of(totals: &Totals, max: u32) -> Self {
        Self {
            open: totals.connections_open,
            accepted: totals.connections_accepted,
            refused: totals.connections_refused,
            max,
            parked: totals.parked,
        }
    }
}

impl Handshakes {
    fn of(totals: &Totals) -> Self {
        Self {
            tls12: totals.handshakes_tls12 + totals.handshakes_tls12_resumed,
            tls13: totals.handshakes_tls13 + totals.handshakes_tls13_resumed,
            resumed: totals.handshakes_resumed(),
            failed: totals.handshakes_failed,
        }
    }
}

impl Quic {
    fn of(totals: &Totals) -> Self {
        Self {
            connections: totals.quic_connections,
            early_data: totals.early_data_accepted,
            moved: totals.quic_moved,
            handshakes_failed: totals.quic_handshakes_failed,
            retries_sent: totals.quic_retries_sent,
            refused: totals.quic_refused,
            datagrams_dropped: totals.quic_datagrams_dropped,
            datagrams_steered: totals.quic_steered,
        }
    }
}

impl Layer4 {
    fn of(totals: &Totals) -> Self {
        Self {
            sessions_open: totals.sessions_open,
            sessions: totals.sessions,
            sessions_spliced: totals.sessions_spliced,
            flows_open: totals.flows_open,
            flows: totals.flows,
            datagrams_in: totals.datagrams_in,
            datagrams_out: totals.datagrams_out,
            datagrams_dropped: totals.datagrams_dropped,
            hellos_refused: totals.hellos_refused,
            proxy_headers_refused: totals.proxy_headers_refused,
        }
    }
}

impl Listener {
    fn of(spec: &ListenerSpec, view: &View, counted: &Counted) -> Self {
        let addresses = view.addresses();
        let own = addresses.iter().filter(|(name, _)| *name == spec.name);
        let (config, relays) = (&spec.config, spec.config.mode.relays());
        Self {
            name: Arc::clone(&spec.name),
            mode: config.mode.as_str().into(),
            addresses: own.map(|(_, address)| address.to_string()).collect(),
            protocols: config.protocols.words().filter(|_| !relays).map(Into::into).collect(),
            tls: spec.tls.is_some(),
            max_connections: config.limits.max_connections,
            traffic: counted.of(Scope::Listener, &spec.name),
            sessions: relays.then(|| counted.sessions_of(Scope::ListenerSessions, &spec.name).unwrap_or_default()),
        }
    }
}

fn routes(snapshot: &Snapshot, config: &Config, counted: &Counted) -> Vec<Route> {
    let max = snapshot.server.metrics.max_routes as usize;
    let mut routes: Vec<_> = config
        .routes
        .iter()
        .take(max)
        .map(|route| Route {
            name: Arc::clone(&route.name),
            matches: match_text(route),
            action: action(route, config),
            traffic: counted.of(Scope::Route, &route.name),
        })
        .collect();
    let more = config.routes.len().saturating_sub(max);
    if more > 0 {
        let name = series::others();
        let traffic = counted.of(Scope::Route, &name);
        routes.push(Route { name, matches: format!("{more} more routes"), action: String::new(), traffic });
    }
    routes
}

fn action(route: &model::Route, config: &Config) -> String {
    match &route.action {
        RouteAction::Redirect { to, status } => format!("redirect {} to {}", status.as_u16(), to.source()),
        RouteAction::Respond { status, .. } => format!("respond {}", status.as_u16()),
        RouteAction::Forward(forward) => {
            let name = |index: usize| &*config.upstreams[index].name;
            match forward.upstreams.as_slice() {
                [(only, _)] => format!("upstream {}", name(*only)),
                several => {
                    let shares = several.iter().map(|(index, weight)| format!("{} ({weight})", name(*index)));
                    format!("upstreams {}", shares.collect::<Vec<_>>().join(", "))
                }
            }
        }
    }
}

impl UpstreamStatus {
    fn of(upstream: &Upstream, counted: &Counted) -> Self {
        let set = upstream.endpoints.load();
        let counts = set.counts_requests();
        let protocol = upstream.config.protocol.as_str();
        let balance = upstream.config.balance.as_str();
        Self {
            name: Arc::clone(&upstream.name),
            protocol: protocol.into(),
            balance: balance.into(),
            tls: upstream.tls.is_some(),
            traffic: counted.of(Scope::Upstream, &upstream.name),
            sessions: counted.sessions_of(Scope::UpstreamSessions, &upstream.name),
            endpoints: set
                .all()
                .iter()
                .map(|endpoint| EndpointStatus::of(endpoint, counts, upstream.config.alt_svc))
                .collect(),
        }
    }
}

impl EndpointStatus {
    fn of(endpoint: &Endpoint, counts_requests: bool, learns: bool) -> Self {
        let state = &endpoint.state;
        let standing = state.standing().clone();
        Self {
            address: Arc::clone(&endpoint.label),
            weight: endpoint.weight,
            state: state.state().as_str().into(),
            check: standing.last_check.as_ref().map(|last| EndpointCheck {
                at: time(last.at),
                took_seconds: last.took.as_secs_f64(),
                failure: last.failure.as_deref().map(str::to_owned),
                passed: standing.checks_passed,
                failed: standing.checks_failed,
            }),
            outlier: endpoint.watch.outlier.as_ref().map(|_| EndpointOutlier {
                failures_in_a_row: state.failures_in_a_row(),
                ejected_until: standing.ejected_until.map(time),
                ejections: standing.ejections,
            }),
            latency_seconds: state.latency().filter(|_| endpoint.watch.latency).map(|latency| latency.as_secs_f64()),
            in_flight: counts_requests.then(|| state.in_flight()),
            connect_failures: state.connect_failures(),
            last_failure: state
                .last_connect_failure()
                .map(|(kind, at)| LastFailure { kind: kind.as_str().into(), at: time(at) }),
            alternative: EndpointAlternative::of(state).filter(|_| learns),
        }
    }
}

impl EndpointAlternative {
    fn of(state: &EndpointState) -> Option<Self> {
        let age = state.age();
        let Offered { port, until, stage } = state.alternative.offered(age)?;
        // The endpoint's own time has no date.
        let date = |at: Duration| time(SystemTime::now() + at - age);
        let at = match stage {
            Stage::Offered => None,
            Stage::Used(at) | Stage::Resting(at) => Some(date(at)),
        };
        let failures = state.alternative.failures_in_all();
        Some(Self { port, stage: stage.as_str().into(), at, offered_until: date(until), failures })
    }
}

fn certificates(spec: &ListenerSpec) -> Vec<CertificateStatus> {
    let Some(tls) = &spec.tls else { return Vec::new() };
    let store = tls.certificates();
    let shown = store.certificates().map(|certificate| CertificateStatus {
        listener: Arc::clone(&spec.name),
        names: certificate.names.iter().cloned().chain(certificate.addresses.iter().map(ToString::to_string)).collect(),
        file: certificate.file.display().to_string(),
        not_after: time(certificate.not_after),
        days_left: certificate.days_left(),
    });
    shown.collect()
}

impl RecentError {
    fn of(incident: Incident) -> Self {
        Self {
            kind: incident.kind.as_str().into(),
            reason: incident.reason.into(),
            count: incident.count,
            last_at: time(incident.last),
            status: (incident.status != 0).then_some(incident.status),
            listener: incident.listener,
            route: incident.route,
            upstream: incident.upstream,
            endpoint: incident.endpoint,
        }
    }
}

fn time(at: SystemTime) -> String {
    let mut text = Vec::with_capacity(24);
    calendar::rfc3339(&mut text, at);
    String::from_utf8(text).unwrap_or_default()
}
