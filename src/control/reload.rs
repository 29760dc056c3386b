//! The life of generations: the first at start, later ones by reloads. Compile and bind first, and only then change
//! anything: a fault leaves the current generation unchanged. What the new generation also uses (sockets, pools,
//! tickets, counts, endpoint states) is kept.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::access_log::AccessLogs;
use super::cert_watch;
use super::compile::{compile, own_listeners};
use super::diff::{diff, shorten};
use super::discovery::{Change, Discovery, SystemResolver};
use super::endpoint_drain::{self, Unknown};
use super::files::Files;
use super::health::{Health, Network};
use super::limits;
pub use super::refused::Refused;
use super::requests::{EndpointDrain, Trigger};
use super::sockets::{Changes, ListeningSockets, Shares};
use super::workers::Workers;
use crate::base::addr::Address;
use crate::base::id::Generation;
use crate::base::limit::Limit;
use crate::config::{Config, Faults, Reading};
use crate::net::inherited::InheritedSocket;
use crate::snapshot::Snapshot;
use crate::telemetry::counters::ControlCounters;
use crate::telemetry::log;
use crate::upstream::registry::Registry;

/// What is in force, and everything needed to change it; lives on the control thread.
pub struct Control {
    registry: Arc<Registry>,
    config: Arc<Config>,
    snapshot: Arc<Snapshot>,
    sockets: ListeningSockets,
    workers: Workers,
    discovery: Discovery<SystemResolver>,
    health: Health<Network>,
    access_logs: AccessLogs,
    counters: Arc<ControlCounters>,
    files: Files,
    /// What the descriptor limit allows.
    process_limit: Arc<Limit>,
}

/// What the control thread is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The files of the configuration may say something else.
    FilesChanged,
    /// A worker left that nobody had asked to: its number.
    WorkerLeft(Option<usize>),
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The generation now in force.
    pub generation: Generation,
    /// Its listeners.
    pub listeners: usize,
    /// Its routes.
    pub routes: usize,
    /// Its upstreams.
    pub upstreams: usize,
    /// What became of the bound addresses.
    pub sockets: Changes,
    /// What changed, a line each, at most [`MOST_LINES`](super::diff::MOST_LINES); one line that says so where nothing did.
    pub changes: Vec<String>,
}

/// A first generation with every address bound and nobody accepting yet: what only root may do is done, and what clients
/// can reach has not begun.
pub struct Prepared {
    registry: Arc<Registry>,
    config: Arc<Config>,
    snapshot: Snapshot,
    sockets: ListeningSockets,
    shares: Shares,
    discovery: Discovery<SystemResolver>,
    connections: u32,
}

impl Prepared {
    /// Starts the workers; returns when all of them accept.
    ///
    /// # Errors
    /// As [`Refused`]; then nothing is left behind.
    pub async fn start(self) -> Result<Control, Refused> {
        let Self { registry, config, mut snapshot, sockets, shares, discovery, connections } = self;
        // By who serves, so that the file can be opened anew later.
        let counters = Arc::<ControlCounters>::default();
        let mut access_logs = AccessLogs::new(Arc::clone(&counters.access_log));
        let access_log = access_logs.prepare(config.server.access_log.as_ref())?;
        snapshot.access_log = access_log.log();
        access_logs.commit(access_log);
        let snapshot = Arc::new(snapshot);
        let process_limit = Arc::new(Limit::new(connections));
        let workers = Workers::start(&snapshot, shares, &process_limit).await?;
        let mut files = Files::default();
        counters.generation.add(1);
        files.put_in_force(&config);
        let mut health = Health::new(Arc::clone(&registry), Network);
        // Nothing is out yet that could come in by it.
        health.replace(&snapshot.upstreams);
        let mut control = Control {
            registry,
            config,
            snapshot,
            sockets,
            workers,
            discovery,
            health,
            access_logs,
            counters,
            files,
            process_limit,
        };
        control.warn();
        control.sockets.log(&control.snapshot);
        Ok(control)
    }
}

impl Control {
    /// Compiles the first generation and binds every address, or takes the one of `inherited` that stands for it.
    ///
    /// # Errors
    /// As [`Refused`]; then nothing is left behind.
    pub async fn prepare(config: &Arc<Config>, inherited: Vec<InheritedSocket>) -> Result<Prepared, Refused> {
        if let Err(error) = limits::raise_descriptor_limit() {
            warn!(%error, "cannot raise the file descriptor limit");
        }
        let descriptors = limits::descriptor_limit();
        let connections = limits::connections_within(descriptors);
        let registry = Arc::new(Registry::new());
        let snapshot = compile(config, None, &registry, Generation(1))?;
        log::configure(&config.server.log);
        let workers = config.server.workers;
        info!(workers, descriptors, connections, "starting");
        let mut sockets = ListeningSockets::new(workers);
        sockets.inherit(inherited);
        let plan = sockets.plan(config, &snapshot.quic_keys).map_err(Refused::Bind)?;
        let mut discovery = Discovery::new(Arc::clone(&registry), SystemResolver::new());
        resolve(&mut discovery, &snapshot).await;
        let (shares, _) = sockets.commit(plan, &snapshot);
        let config = Arc::clone(config);
        Ok(Prepared { registry, config, snapshot, sockets, shares, discovery, connections })
    }

    /// Puts a configuration in force in the place of the one before. Blocks on reading the certificate files.
    ///
    /// # Errors
    /// As [`Refused`]; logged and counted, and nothing has changed.
    pub async fn reload(&mut self, config: &Arc<Config>, trigger: Trigger) -> Result<Report, Refused> {
        let result = self.try_reload(config).await;
        if result.is_err() {
            self.registry.keep_away_from(own_listeners(&self.config).map(|own| own.bind.clone()).collect());
        }
        match &result {
            Ok(report) => {
                self.counters.reloads.add(1);
                info!(
                    trigger = trigger.name(),
                    generation = report.generation.0,
                    listeners = report.listeners,
                    routes = report.routes,
                    upstreams = report.upstreams,
                    addresses_kept = report.sockets.kept,
                    addresses_opened = report.sockets.opened,
                    addresses_closed = report.sockets.closed,
                    "reloaded: {}",
                    report.changes.join("; ")
                );
            }
            Err(refused) => self.refused(refused, trigger),
        }
        result
    }

    /// Logs and counts a configuration that did not even come to a reload.
    pub fn refused(&mut self, refused: &Refused, trigger: Trigger) {
        if !self.files.refuse(refused.to_string(), trigger) {
            return;
        }
        self.counters.reload_failures.add(1);
        self.access_logs.reopen();
        let generation = self.snapshot.generation.0;
        error!(trigger = trigger.name(), "reload refused, generation {generation} stays in force\n{refused}");
    }

    async fn try_reload(&mut self, config: &Arc<Config>) -> Result<Report, Refused> {
        let generation = Generation(self.snapshot.generation.0 + 1);
        let mut next = compile(config, Some(&self.snapshot), &self.registry, generation)?;
        let access_log = self.access_logs.prepare(config.server.access_log.as_ref())?;
        self.sockets.let_go(config).await;
        let plan = self.sockets.plan(config, &next.quic_keys).map_err(Refused::Bind)?;
        if config.listeners.iter().any(|listener| listener.mode.is_layer4()) {
            self.workers.start_layer4(&self.snapshot).await?;
        }

        // Nothing from here on fails.
        next.access_log = access_log.log();
        self.access_logs.commit(access_log);
        log::configure(&config.server.log);
        let next = Arc::new(next);
        resolve(&mut self.discovery, &next).await;
        if config.server.workers != self.workers.count() {
            let (running, wanted) = (self.workers.count(), config.server.workers);
            warn!(running, wanted, "the number of workers changes only with a restart");
        }
        let (shares, sockets) = self.sockets.commit(plan, &next);
        let failed = self.workers.apply(&next, shares).await;
        for (worker, id, error) in failed {
            error!(worker, socket = id.0, %error, "a worker cannot accept on one of its sockets");
        }
        let before = std::mem::replace(&mut self.snapshot, next);
        let healed = self.health.replace(&self.snapshot.upstreams);
        self.tell(healed);
        enforce_limits(&before, &self.snapshot);
        self.workers.retain_series(&self.snapshot.series());
        let changes = account(&before, &self.snapshot, diff(&self.config, config));
        self.config = Arc::clone(config);
        self.files.put_in_force(config);
        self.counters.generation.add(1);
        self.warn();
        self.sockets.log(&self.snapshot);
        Ok(Report {
            generation,
            listeners: self.snapshot.listeners.len(),
            routes: config.routes.len(),
            upstreams: self.snapshot.upstreams.len(),
            sockets,
            changes,
        })
    }

    /// Tells the workers what names resolve to, which endpoints are well and what certificates became, until something happens that is not for
    /// the control alone to settle. Cancel-safe.
    pub async fn watch(&mut self) -> Event {
        loop {
            tokio::select! {
                changes = self.discovery.changed() => {
                    self.tell(changes);
                    let healed = self.health.replace(&self.snapshot.upstreams);
                    self.tell(healed);
                }
                changes = self.health.changed() => self.tell(changes),
                changed = self.files.changed() => {
                    if changed.configuration {
                        return Event::FilesChanged;
                    }
                    self.look_at_certificates();
                }
                left = self.workers.next_left() => return Event::WorkerLeft(left),
            }
        }
    }

    fn tell(&self, changes: Vec<Change>) {
        for change in changes {
            self.workers.set_endpoints(&change.upstream.name, &change.endpoints);
        }
    }

    /// Watches what was just read; see [`Files::note`].
    pub fn note(&mut self, reading: &Reading) {
        self.files.note(reading, &self.config);
    }

    /// Whether files that changed by themselves say something else than what is in force.
    pub fn is_news(&mut self, result: &Result<Config, Faults>) -> bool {
        self.files.is_news(result, &self.config)
    }

    fn look_at_certificates(&mut self) {
        for upstream in self.files.look_at_certificates(&self.snapshot, &self.counters) {
            // With the same endpoints the workers find other pools: those of what is trusted now.
            self.workers.set_endpoints(&upstream.name, &upstream.endpoints.load());
        }
    }

    /// Takes an endpoint out of the picks of every worker, in this generation and later ones, or puts it back; see
    /// [`endpoint_drain::drain`].
    ///
    /// # Errors
    /// The upstream, or the endpoint in it, is not known.
    pub fn drain_endpoint(&self, order: &EndpointDrain) -> Result<Vec<Arc<str>>, Unknown> {
        endpoint_drain::drain(order, &self.snapshot, &self.registry, &self.workers)
    }

    /// Where each listener accepts.
    pub fn addresses(&self) -> Vec<(Arc<str>, Address)> {
        self.sockets.addresses(&self.snapshot)
    }

    /// Closes the control thread's descriptors of the listening sockets, so that the workers' are the last.
    pub fn close_sockets(&mut self) {
        self.sockets.close();
    }

    /// The generation in force.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The worker threads.
    pub fn workers(&mut self) -> &mut Workers {
        &mut self.workers
    }

    /// Connections of clients that the process allows, and how many there are.
    pub fn process_limit(&self) -> &Arc<Limit> {
        &self.process_limit
    }

    /// Waits until what was logged is written, when every worker has left; the last thing before the process ends.
    pub fn finish_access_log(&mut self) {
        self.access_logs.finish();
    }

    /// What the control thread counts.
    pub fn counters(&self) -> &Arc<ControlCounters> {
        &self.counters
    }

    /// What is odd about the generation in force and no fault.
    fn warn(&self) {
        let connections = self.process_limit.max();
        for listener in &self.snapshot.listeners {
            for certificates in listener.tls.iter().map(|tls| tls.certificates()) {
                for warning in certificates.warnings() {
                    warn!(listener = %listener.name, "{}", warning.what);
                }
            }
            if let Some(max_connections) = listener.config.limits.max_connections.filter(|max| *max > connections) {
                let listener = &*listener.name;
                warn!(listener, max_connections, connections, "the file descriptor limit allows fewer connections");
            }
        }
    }
}

/// Gives the names of a generation that is about to be in force the time to resolve, so that its first request finds
/// endpoints. The workers get them with the snapshot.
async fn resolve(discovery: &mut Discovery<SystemResolver>, snapshot: &Snapshot) {
    discovery.replace(&snapshot.upstreams);
    discovery.settle(RESOLVE_TIMEOUT).await;
}

/// What is told of a reload: the changed keys, and files that hold something new under the same name.
fn account(before: &Snapshot, now: &Snapshot, mut changes: Vec<String>) -> Vec<String> {
    changes.extend(cert_watch::renewed(before, now));
    if changes.is_empty() {
        changes.push("nothing changed".to_owned());
    }
    shorten(changes)
}

/// Puts the limits of a generation in force on the counts it shares with the one before, and lifts those it dropped,
/// so that no accept loop waits on a limit that is no longer there.
fn enforce_limits(before: &Snapshot, now: &Snapshot) {
    now.listeners.iter().for_each(|listener| listener.enforce_limits());
    for limit in before.listeners.iter().filter_map(|listener| listener.limit.as_ref()) {
        if !now.listeners.iter().filter_map(|listener| listener.limit.as_ref()).any(|kept| Arc::ptr_eq(kept, limit)) {
            limit.set_max(u32::MAX);
        }
    }
}

/// How long a start or a reload waits for names: a name server that is down shall not keep the rest from being served.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);
