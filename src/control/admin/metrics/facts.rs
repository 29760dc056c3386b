//! All values of a scrape, read from the workers and the generation in force before the first line is written, so that
//! they are as consistent as possible without stopping anything.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::process::Process;
use crate::control::view::View;
use crate::snapshot::{ListenerSpec, Snapshot};
use crate::telemetry::counters::{Counters, Totals};
use crate::telemetry::histogram::HistogramTotals;
use crate::telemetry::series::{Scope, SeriesKey, SeriesTotals};
use crate::telemetry::{Plane, WorkerTelemetry};
use crate::upstream::Upstream;
use crate::upstream::endpoint::EndpointState;
use crate::upstream::health::state::State;

/// What a scrape tells.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) totals: Totals,
    pub(super) requests_in_flight: u64,
    pub(super) workers: Vec<WorkerFacts>,
    pub(super) listeners: Vec<ListenerFacts>,
    /// Those that were used.
    pub(super) routes: Vec<(Arc<str>, SeriesTotals)>,
    pub(super) upstreams: Vec<UpstreamFacts>,
    /// Open and allowed.
    pub(super) process_permits: (u32, u32),
    /// In force and refused.
    pub(super) reloads: (u64, u64),
    pub(super) certificate_swaps: (u64, u64),
    /// When the last one ended, and whether it was put in force.
    pub(super) last_reload: Option<(SystemTime, bool)>,
    /// Lines dropped and writes failed, where there is an access log.
    pub(super) access_log: Option<(u64, u64)>,
    pub(super) generation: u64,
    pub(super) is_draining: bool,
    pub(super) started_at: SystemTime,
    pub(super) process: Process,
}

#[derive(Debug)]
pub(super) struct WorkerFacts {
    pub(super) plane: Plane,
    pub(super) requests: u64,
    pub(super) connections: u64,
    pub(super) lag: HistogramTotals,
    pub(super) since_heartbeat: Duration,
}

#[derive(Debug)]
pub(super) struct ListenerFacts {
    pub(super) name: Arc<str>,
    /// Its sessions and flows where it is of layer 4, else its requests.
    pub(super) series: SeriesTotals,
    pub(super) is_layer4: bool,
    /// Open and allowed, where the listener has a limit.
    pub(super) permits: Option<(u32, u32)>,
    /// The first name of each certificate, and when it ends.
    pub(super) certificates: Vec<(String, SystemTime)>,
}

#[derive(Debug)]
pub(super) struct UpstreamFacts {
    pub(super) name: Arc<str>,
    pub(super) series: SeriesTotals,
    /// Where layer 4 relayed to it.
    pub(super) sessions: Option<SeriesTotals>,
    pub(super) endpoints: Vec<EndpointFacts>,
}

#[derive(Debug)]
pub(super) struct EndpointFacts {
    pub(super) label: Arc<str>,
    pub(super) state: State,
    /// Passed and failed, where the endpoint is asked.
    pub(super) checks: Option<(u64, u64)>,
    /// Where real traffic is judged.
    pub(super) ejections: Option<u64>,
    /// Where the policy counts them.
    pub(super) in_flight: Option<u32>,
    pub(super) connect_failures: u64,
    /// What its HTTP/3 is at, where one is offered, and how often it failed; where that is listened to.
    pub(super) alternative: Option<(Option<&'static str>, u64)>,
}

impl Facts {
    pub(super) fn read(view: &View) -> Self {
        let limit = view.process_limit();
        let control = view.control();
        let mut facts = Self::of_workers(view.workers(), &view.snapshot());
        facts.process_permits = (limit.open(), limit.max());
        facts.reloads = (control.reloads.value(), control.reload_failures.value());
        facts.certificate_swaps = (control.certificate_swaps.value(), control.certificate_failures.value());
        let losses = &control.access_log;
        // Over every log that there was, so that the counts of a reload go on.
        facts.access_log = view.snapshot().access_log.as_ref().map(|_| (losses.dropped(), losses.write_errors()));
        facts.last_reload = view.last_reload().map(|last| (last.at, last.result.is_ok()));
        facts.is_draining = view.is_draining();
        facts.started_at = view.started_at;
        facts.process = Process::read();
        facts
    }

    /// What the workers counted, by the names of a generation.
    pub(super) fn of_workers(workers: &[Arc<WorkerTelemetry>], snapshot: &Snapshot) -> Self {
        let mut series = summed(workers);
        let mut taken = |scope, name: &Arc<str>| series.remove(&(scope, Arc::clone(name)));
        let listeners = snapshot.listeners.iter().map(|listener| {
            let is_layer4 = listener.config.mode.relays();
            let scope = if is_layer4 { Scope::ListenerSessions } else { Scope::Listener };
            ListenerFacts::of(listener, is_layer4, taken(scope, &listener.name).unwrap_or_default())
        });
        let listeners = listeners.collect();
        let upstreams = snapshot.upstreams.iter().map(|upstream| {
            let series = taken(Scope::Upstream, &upstream.name).unwrap_or_default();
            UpstreamFacts::of(upstream, series, taken(Scope::UpstreamSessions, &upstream.name))
        });
        let upstreams: Vec<_> = upstreams.collect();
        // What clients name goes out under one name for each listener, whatever they name.
        let outbound = snapshot.listeners.iter().filter_map(|listener| listener.egress.as_ref());
        let outbound = outbound.map(|egress| {
            let name = Arc::clone(&egress.cleartext.name);
            let series = taken(Scope::Upstream, &name).unwrap_or_default();
            UpstreamFacts { name, series, sessions: None, endpoints: Vec::new() }
        });
        let outbound: Vec<_> = outbound.collect();
        let upstreams = upstreams.into_iter().chain(outbound).collect();
        // Routes past `max_routes` share a name: the first of them takes what all have.
        let routes = snapshot.routes.routes().iter().filter_map(|route| {
            let name = snapshot.series_of(route);
            taken(Scope::Route, &name).map(|totals| (name, totals))
        });
        Self {
            totals: Counters::sum(workers.iter().map(|worker| &*worker.counters)),
            requests_in_flight: workers.iter().map(|worker| requests_in_flight(&worker.counters)).sum(),
            workers: workers.iter().filter(|worker| worker.has_begun()).map(|worker| WorkerFacts::of(worker)).collect(),
            listeners,
            routes: routes.collect(),
            upstreams,
            process_permits: (0, 0),
            reloads: (0, 0),
            certificate_swaps: (0, 0),
            last_reload: None,
            access_log: None,
            generation: snapshot.generation.0,
            is_draining: false,
            started_at: SystemTime::UNIX_EPOCH,
            process: Process::default(),
        }
    }
}

/// Requests in progress on one worker. Those of layer 4 have none: what ends there is in `ended` alone.
fn requests_in_flight(counters: &Counters) -> u64 {
    let totals = Counters::sum([counters]);
    totals.requests.saturating_sub(totals.ended())
}

/// What all workers counted, by name.
fn summed(workers: &[Arc<WorkerTelemetry>]) -> HashMap<SeriesKey, SeriesTotals> {
    let mut sums: HashMap<SeriesKey, SeriesTotals> = HashMap::new();
    for (key, series) in workers.iter().flat_map(|worker| worker.series.all()) {
        *sums.entry(key).or_default() += &series.read();
    }
    sums
}

impl WorkerFacts {
    fn of(worker: &WorkerTelemetry) -> Self {
        Self {
            plane: worker.plane,
            requests: worker.counters.requests.value(),
            connections: worker.counters.connections_open.value(),
            lag: worker.lag.read(),
            since_heartbeat: worker.since_heartbeat(),
        }
    }
}

impl ListenerFacts {
    fn of(listener: &ListenerSpec, is_layer4: bool, series: SeriesTotals) -> Self {
        let mut certificates: Vec<(String, SystemTime)> = Vec::new();
        let store = listener.tls.as_ref().map(|tls| tls.certificates());
        for certificate in store.iter().flat_map(|store| store.certificates()) {
            let address = || certificate.addresses.first().map(ToString::to_string);
            let name = certificate.names.first().cloned().or_else(address).unwrap_or_default();
            match certificates.iter_mut().find(|(known, _)| *known == name) {
                // The same name by two keys: the one that ends first is the one to look after.
                Some((_, not_after)) => *not_after = certificate.not_after.min(*not_after),
                None => certificates.push((name, certificate.not_after)),
            }
        }
        Self {
            name: Arc::clone(&listener.name),
            series,
            is_layer4,
            permits: listener.limit.as_ref().map(|limit| (limit.open(), limit.max())),
            certificates,
        }
    }
}

impl UpstreamFacts {
    fn of(upstream: &Upstream, series: SeriesTotals, sessions: Option<SeriesTotals>) -> Self {
        let set = upstream.endpoints.load();
        // A sample that stands twice would cost the whole scrape.
        let mut seen = HashSet::new();
        let endpoints = set.all().iter().filter(|endpoint| seen.insert(Arc::clone(&endpoint.label)));
        let endpoints = endpoints.map(|endpoint| {
            let standing = endpoint.state.standing();
            EndpointFacts {
                label: Arc::clone(&endpoint.label),
                state: endpoint.state.state(),
                checks: upstream.config.health.as_ref().map(|_| (standing.checks_passed, standing.checks_failed)),
                ejections: upstream.config.outlier.as_ref().map(|_| standing.ejections),
                in_flight: set.counts_requests().then(|| endpoint.state.in_flight()),
                connect_failures: endpoint.state.connect_failures(),
                alternative: upstream.config.alt_svc.then(|| alternative(&endpoint.state)),
            }
        });
        Self { name: Arc::clone(&upstream.name), series, sessions, endpoints: endpoints.collect() }
    }
}

fn alternative(state: &EndpointState) -> (Option<&'static str>, u64) {
    let known = &state.alternative;
    (known.offered(state.age()).map(|offered| offered.stage.as_str()), known.failures_in_all())
}
