//! A worker: an OS thread with its own runtime, listening sockets and pools. Everything in here is `!Send`. The control
//! thread sends it `Command`s; each command is executed completely before a connection runs again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalRuntime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tracing::{debug, error};

use super::listeners::{self, Arrival, WorkerListener};
use super::quic::Endpoints;
use crate::base::drain::{Flag, Tally};
use crate::base::id::SocketId;
use crate::base::limit::Limit;
use crate::net::handoff::Loads;
use crate::net::{sys, timer};
use crate::snapshot::{ListenerSpec, Listening, Snapshot, WorkerSnapshot};
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::access_log::{AccessLog, Flushes, Logger};
use crate::telemetry::counters::Counters;
use crate::upstream::endpoint_set::EndpointSet;
use crate::upstream::origin::Origins;
use crate::upstream::pool::Pools;

/// Task polls between two checks of the sockets. More means larger batches per system call and less precise timers.
/// When no task is ready the runtime checks at once, so an idle proxy is not slower.
const EVENT_INTERVAL: u32 = 1024;

/// Interval of a worker's heartbeat.
const BEAT: Duration = Duration::from_secs(1);

/// A command from the control thread or another worker.
pub enum Command {
    /// Put a generation in force.
    Apply(Apply),
    /// Serve a connection that another worker accepted.
    Socket(Box<Arrival>),
    /// Use these endpoints from now on.
    Endpoints {
        /// The name of the upstream.
        upstream: Arc<str>,
        /// Its endpoints.
        set: Arc<EndpointSet>,
    },
    /// Stop accepting, close all connections gracefully, hand none over; then report.
    Drain(oneshot::Sender<()>),
    /// Stop as soon as nothing is in progress. Sent after every worker has reported that it drains, so that no
    /// connection is on its way to a stopped worker.
    Finish,
    /// Stop now.
    Stop,
}

/// A generation and its sockets.
pub struct Apply {
    /// The generation.
    pub snapshot: Arc<Snapshot>,
    /// All bound addresses of the generation; any other is closed.
    pub listening: Vec<Listening>,
    /// Reports that it is in force, with the sockets that could not be listened on.
    pub applied: oneshot::Sender<Vec<(SocketId, io::Error)>>,
}

/// The parts of a worker, sent to its thread.
pub struct Setup {
    /// Its number, from 0.
    pub id: usize,
    /// Its telemetry.
    pub telemetry: Arc<WorkerTelemetry>,
    /// Open connections of every worker.
    pub loads: Arc<Loads>,
    /// Open connections of the process.
    pub process_limit: Arc<Limit>,
    /// The command queues of all workers, its own included.
    pub workers: Arc<[UnboundedSender<Command>]>,
    /// Its own command queue.
    pub commands: UnboundedReceiver<Command>,
}

/// One worker, as seen by its own tasks.
pub struct Worker {
    id: usize,
    telemetry: Arc<WorkerTelemetry>,
    loads: Arc<Loads>,
    process_limit: Arc<Limit>,
    workers: Arc<[UnboundedSender<Command>]>,
    pools: Rc<Pools>,
    current: RefCell<Rc<WorkerSnapshot>>,
    listeners: RefCell<BTreeMap<SocketId, Rc<WorkerListener>>>,
    quic: Endpoints,
    draining: Flag,
    under_way: Rc<Tally>,
}

impl Worker {
    /// Its number, from 0.
    pub fn id(&self) -> usize {
        self.id
    }

    /// Its telemetry; this worker's thread is the only writer.
    pub fn telemetry(&self) -> &Arc<WorkerTelemetry> {
        &self.telemetry
    }

    /// Its process-wide counters.
    pub fn counters(&self) -> &Counters {
        &self.telemetry.counters
    }

    /// The generation in force. A request keeps the one it started with.
    pub fn current(&self) -> Rc<WorkerSnapshot> {
        Rc::clone(&self.current.borrow())
    }

    /// Its connections to endpoints.
    pub fn pools(&self) -> &Rc<Pools> {
        &self.pools
    }

    /// Whether the process is stopping. Tasks that wait on timers are woken when that begins.
    pub fn is_draining(&self) -> bool {
        self.draining.is_raised()
    }

    pub(super) fn loads(&self) -> &Loads {
        &self.loads
    }

    pub(super) fn process_limit(&self) -> &Arc<Limit> {
        &self.process_limit
    }

    /// Its endpoints for QUIC.
    pub(super) fn quic(&self) -> &Endpoints {
        &self.quic
    }

    /// Accept loops and connections, which a drain waits for.
    pub(super) fn under_way(&self) -> &Rc<Tally> {
        &self.under_way
    }

    /// Sends to another worker; returns the command if that worker is gone.
    pub(super) fn send_to(&self, other: usize, command: Command) -> Result<(), Command> {
        self.workers[other].send(command).map_err(|unsent| unsent.0)
    }

    pub(super) fn attach(&self, snapshot: Arc<Snapshot>) -> Rc<WorkerSnapshot> {
        let logger = logger(snapshot.access_log.as_ref(), self.current.borrow().logger.as_ref());
        Rc::new(attach(&self.pools, snapshot, &self.telemetry, logger))
    }

    fn new(setup: &Setup, first: Arc<Snapshot>) -> Rc<Self> {
        let pools = Pools::new(setup.id, setup.workers.len(), Arc::clone(&setup.telemetry));
        let logger = logger(first.access_log.as_ref(), None);
        let current = Rc::new(attach(&pools, first, &setup.telemetry, logger));
        Rc::new(Self {
            id: setup.id,
            telemetry: Arc::clone(&setup.telemetry),
            loads: Arc::clone(&setup.loads),
            process_limit: Arc::clone(&setup.process_limit),
            workers: Arc::clone(&setup.workers),
            pools,
            current: RefCell::new(current),
            listeners: RefCell::default(),
            quic: Endpoints::default(),
            draining: Flag::default(),
            under_way: Rc::default(),
        })
    }

    /// Listeners and routes change together, so that a request never sees a listener of one generation and a route of
    /// another.
    fn apply(self: &Rc<Self>, apply: Apply) {
        self.current.replace(self.attach(apply.snapshot));
        let failed = self.listen(apply.listening);
        self.pools.retire_unused();
        // Connections of removed listeners check their flags.
        timer::wake_all();
        // If the control thread is gone, nobody waits for the report.
        let _ = apply.applied.send(failed);
    }

    fn listen(self: &Rc<Self>, listening: Vec<Listening>) -> Vec<(SocketId, io::Error)> {
        let mut failed = Vec::new();
        let mut before = self.listeners.take();
        let mut wanted = BTreeMap::new();
        for Listening { id, spec, socket } in listening {
            let spec = ListenerSpec::clone(&spec);
            let listener = match before.remove(&id) {
                Some(listener) => {
                    listener.renew(spec, self.current());
                    listener
                }
                None => {
                    let port = socket.as_ref().and_then(|opened| opened.socket.local_address().port());
                    WorkerListener::new(id, port, spec, self.current())
                }
            };
            if let Some(Err(error)) = socket.map(|opened| listeners::listen(self, &listener, opened)) {
                failed.push((id, error));
            }
            wanted.insert(id, listener);
        }
        before.values().for_each(|gone| gone.drain());
        self.listeners.replace(wanted);
        failed
    }

    fn set_endpoints(&self, upstream: &str, set: &Arc<EndpointSet>) {
        let current = self.current();
        let place = current.snapshot.upstreams.iter().position(|known| &*known.name == upstream);
        if let Some(attached) = place.and_then(|place| current.upstreams.get(place)) {
            attached.set_endpoints(Arc::clone(set));
        }
    }

    fn drain(&self) {
        self.draining.raise();
        self.listeners.borrow().values().for_each(|listener| listener.drain());
        timer::wake_all();
    }

    /// Executes commands until the worker must stop.
    async fn run(self: Rc<Self>, mut commands: UnboundedReceiver<Command>) {
        let mut finishing = false;
        loop {
            let command = tokio::select! {
                biased;
                // Both are cancel-safe. Commands come first, so that a connection handed over counts before the check
                // for emptiness.
                command = commands.recv() => command,
                () = self.under_way.emptied(), if finishing => None,
            };
            match command {
                Some(Command::Apply(apply)) => self.apply(apply),
                Some(Command::Socket(arrival)) => {
                    let listener = self.listeners.borrow().get(&arrival.socket_id()).cloned();
                    listeners::arrived(&self, listener, *arrival);
                }
                Some(Command::Endpoints { upstream, set }) => self.set_endpoints(&upstream, &set),
                Some(Command::Drain(draining)) => {
                    self.drain();
                    let _ = draining.send(());
                }
                Some(Command::Finish) => finishing = true,
                Some(Command::Stop) | None => break,
            }
        }
        self.pools.close_idle();
        debug!(worker = self.id, "worker stopped");
    }
}

fn attach(
    pools: &Rc<Pools>,
    snapshot: Arc<Snapshot>,
    telemetry: &Arc<WorkerTelemetry>,
    logger: Option<Rc<Logger>>,
) -> WorkerSnapshot {
    let upstreams = snapshot.upstreams.iter().map(|upstream| pools.attach(upstream)).collect();
    WorkerSnapshot::new(snapshot, upstreams, Origins::new(Rc::clone(pools)), Arc::clone(telemetry), logger)
}

/// This worker's end of an access log; the existing one, if the log is unchanged.
fn logger(log: Option<&Arc<AccessLog>>, before: Option<&Rc<Logger>>) -> Option<Rc<Logger>> {
    let log = log?;
    if let Some(before) = before.filter(|before| Arc::ptr_eq(before.access_log(), log)) {
        return Some(Rc::clone(before));
    }
    let logger = Rc::new(log.logger());
    let flushes = logger.flushes();
    tokio::task::spawn_local(async move {
        while flushes.lines_wait().await {
            timer::sleep(Flushes::DELAY).await;
            flushes.flush();
        }
    });
    Some(logger)
}

/// Starts a worker's thread with its first generation. `left` gets its number when it ends for any reason.
///
/// # Errors
/// The system cannot create the thread. Errors inside the thread are reported through `first.applied`, which is dropped
/// if the thread could not start.
pub fn spawn(setup: Setup, first: Apply, left: UnboundedSender<usize>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("worker-{}", setup.id)).spawn(move || {
        let _left = Left { worker: setup.id, told: left };
        match runtime() {
            Ok(runtime) => runtime.block_on(serve(setup, first)),
            Err(error) => error!(worker = setup.id, %error, "cannot create the worker's runtime"),
        }
    })
}

async fn serve(setup: Setup, first: Apply) {
    timer::start();
    let worker = Worker::new(&setup, Arc::clone(&first.snapshot));
    tokio::task::spawn_local(beat(Rc::clone(&worker)));
    worker.apply(first);
    worker.run(setup.commands).await;
}

/// The heartbeat, once a second. It also measures how late it runs, which is how long any other ready task waited, and
/// does periodic work.
async fn beat(worker: Rc<Worker>) {
    let telemetry = worker.telemetry();
    telemetry.beat_first();
    loop {
        telemetry.beat(timer::lateness(BEAT).await);
        worker.quic.count_dropped();
        sys::give_back_memory();
    }
}

fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build_local(Default::default())
}

/// Reports the end of a worker, also if a panic unwinds its thread.
struct Left {
    worker: usize,
    told: UnboundedSender<usize>,
}

impl Drop for Left {
    fn drop(&mut self) {
        let _ = self.told.send(self.worker);
    }
}
