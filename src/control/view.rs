//! The state that the control thread publishes for the admin and observe listeners, the embedder and the log. Readers
//! and writer never wait for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::reload::{Control, Refused, Report};
use super::requests::Trigger;
use crate::base::addr::Address;
use crate::base::limit::Limit;
use crate::config::Config;
use crate::snapshot::Snapshot;
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::counters::ControlCounters;

/// One proxy as it is now; readable from any thread.
pub struct View {
    /// When it began to serve.
    pub started_at: SystemTime,
    begun: Instant,
    is_draining: AtomicBool,
    snapshot: ArcSwap<Snapshot>,
    config: ArcSwap<Config>,
    addresses: ArcSwap<Vec<(Arc<str>, Address)>>,
    own: ArcSwap<Vec<(&'static str, Address)>>,
    last_reload: ArcSwapOption<LastReload>,
    workers: Arc<[Arc<WorkerTelemetry>]>,
    process_limit: Arc<Limit>,
    control: Arc<ControlCounters>,
}

/// How the last reload ended.
#[derive(Clone, Debug)]
pub struct LastReload {
    /// When it ended.
    pub at: SystemTime,
    /// Who asked.
    pub trigger: Trigger,
    /// What it did, or why nothing has changed.
    pub result: Result<Report, Arc<str>>,
}

impl View {
    /// The view of a control thread that has just put `config` in force.
    pub fn new(control: &mut Control, config: Arc<Config>) -> Self {
        Self {
            started_at: SystemTime::now(),
            begun: Instant::now(),
            is_draining: AtomicBool::new(false),
            snapshot: ArcSwap::new(Arc::clone(control.snapshot())),
            config: ArcSwap::new(config),
            addresses: ArcSwap::from_pointee(control.addresses()),
            own: ArcSwap::default(),
            last_reload: ArcSwapOption::empty(),
            workers: Arc::clone(control.workers().telemetry()),
            process_limit: Arc::clone(control.process_limit()),
            control: Arc::clone(control.counters()),
        }
    }

    /// Shows the generation that is in force now.
    pub fn renew(&self, control: &Control, config: Arc<Config>) {
        self.snapshot.store(Arc::clone(control.snapshot()));
        self.config.store(config);
        self.addresses.store(Arc::new(control.addresses()));
    }

    /// Shows how a reload ended.
    pub fn reloaded(&self, trigger: Trigger, result: &Result<Report, Refused>) {
        let result = match result {
            Ok(report) => Ok(report.clone()),
            Err(refused) => Err(refused.to_string().into()),
        };
        self.last_reload.store(Some(Arc::new(LastReload { at: SystemTime::now(), trigger, result })));
    }

    /// Shows that a drain has begun.
    pub fn begin_drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Whether it is on its way out.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// How long it has served.
    pub fn uptime(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The generation in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Where each listener accepts: its name and an address, with the ports that the kernel picked.
    pub fn addresses(&self) -> Arc<Vec<(Arc<str>, Address)>> {
        self.addresses.load_full()
    }

    /// Shows where the proxy's own listeners accept.
    pub fn show_own(&self, addresses: Vec<(&'static str, Address)>) {
        self.own.store(Arc::new(addresses));
    }

    /// Where `admin` and `observe` accept, as far as there are such.
    pub fn own_addresses(&self) -> Arc<Vec<(&'static str, Address)>> {
        self.own.load_full()
    }

    /// How the last reload ended; `None`: there was none.
    pub fn last_reload(&self) -> Option<Arc<LastReload>> {
        self.last_reload.load_full()
    }

    /// What each worker tells of itself.
    pub fn workers(&self) -> &Arc<[Arc<WorkerTelemetry>]> {
        &self.workers
    }

    /// Connections of clients that the process allows, and how many there are.
    pub fn process_limit(&self) -> &Arc<Limit> {
        &self.process_limit
    }

    /// What the control thread counts.
    pub fn control(&self) -> &Arc<ControlCounters> {
        &self.control
    }
}
