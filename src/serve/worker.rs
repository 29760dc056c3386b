//! A worker: an OS thread with a runtime of its own, its share of the listening sockets and its own pools. Everything
//! in here is `!Send`; the control thread speaks to it through `Command`s, and each command is carried out whole
//! before a connection runs again.

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

/// Polls of tasks between two looks at the sockets. More means larger batches per system call and later timers; while
/// no task is ready the runtime looks at once, so that an idle proxy answers no later.
const EVENT_INTERVAL: u32 = 1024;

/// How often a worker shows that it runs.
const BEAT: Duration = Duration::from_secs(1);

/// What the control thread, or another worker, asks of a worker.
pub enum Command {
    /// Put a generation in force.
    Apply(Apply),
    /// Serve a connection that another worker accepted.
    Socket(Box<Arrival>),
    /// Pick from these endpoints from now on.
    Endpoints {
        /// The name of the upstream.
        upstream: Arc<str>,
        /// Its endpoints.
        set: Arc<EndpointSet>,
    },
    /// Accept no more, ask every connection to go, hand nothing over; then say so.
    Drain(oneshot::Sender<()>),
    /// Leave as soon as nothing is under way. Sent when every worker has said that it drains, so that no connection is
    /// on its way to one that left.
    Finish,
    /// Leave now.
    Stop,
}

/// A generation and the sockets it wants.
pub struct Apply {
    /// The generation.
    pub snapshot: Arc<Snapshot>,
    /// Every bound address that is wanted; what is not here goes.
    pub listening: Vec<Listening>,
    /// Told when it is in force, with what could not be listened on.
    pub applied: oneshot::Sender<Vec<(SocketId, io::Error)>>,
}

/// What a worker is made of; crosses into its thread.
pub struct Setup {
    /// Its number, from 0.
    pub id: usize,
    /// What it tells of itself.
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

/// One worker, as its own tasks see it.
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

    /// What it tells of itself; this worker's thread is the only writer.
    pub fn telemetry(&self) -> &Arc<WorkerTelemetry> {
        &self.telemetry
    }

    /// What it counts of everything.
    pub fn counters(&self) -> &Counters {
        &self.telemetry.counters
    }

    /// The generation in force. A request keeps the one it began with.
    pub fn current(&self) -> Rc<WorkerSnapshot> {
        Rc::clone(&self.current.borrow())
    }

    /// Its connections to endpoints.
    pub fn pools(&self) -> &Rc<Pools> {
        &self.pools
    }

    /// Whether the process is on its way out. Tasks that wait on timers are woken when it begins.
    pub fn is_draining(&self) -> bool {
        self.draining.is_raised()
    }

    pub(super) fn loads(&self) -> &Loads {
        &self.loads
    }

    pub(super) fn process_limit(&self) -> &Arc<Limit> {
        &self.process_limit
    }

    /// Where it takes QUIC connections.
    pub(super) fn quic(&self) -> &Endpoints {
        &self.quic
    }

    /// Accept loops and connections: what a drain waits for.
    pub(super) fn under_way(&self) -> &Rc<Tally> {
        &self.under_way
    }

    /// Sends to another worker; gives the command back where that one is gone.
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

    /// Specs and routes change in one step: a request never meets a listener of one generation and a route of another.
    fn apply(self: &Rc<Self>, apply: Apply) {
        self.current.replace(self.attach(apply.snapshot));
        let failed = self.listen(apply.listening);
        self.pools.retire_unused();
        // Connections of listeners that went look at their flags.
        timer::wake_all();
        // Nobody waits for it when the control thread is gone, and then nothing is left to tell.
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

    /// Carries out commands until it is time to leave.
    async fn run(self: Rc<Self>, mut commands: UnboundedReceiver<Command>) {
        let mut finishing = false;
        loop {
            let command = tokio::select! {
                biased;
                // Both are cancel-safe. A connection that was handed over is taken in before emptiness is judged.
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

/// This worker's end of an access log: the one that it has, where the log is the same as before.
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

/// Starts a worker's thread with its first generation. `left` is sent its number when it leaves, however that comes.
///
/// # Errors
/// The system has no thread for it. What happens inside the thread is told through `first.applied`, which is dropped
/// where the thread could not begin.
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

/// Shows once a second that the worker runs, and how late it came to it: whatever else was ready by then waited as long.
/// What is to be done now and then is done then too.
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

/// Tells that a worker left, also where a fault of ours unwinds its thread.
struct Left {
    worker: usize,
    told: UnboundedSender<usize>,
}

impl Drop for Left {
    fn drop(&mut self) {
        let _ = self.told.send(self.worker);
    }
}
