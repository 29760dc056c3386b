//! A worker's listening sockets. Each has an accept loop, which takes permits first, hands a connection to a worker
//! that has clearly fewer, and otherwise spawns `connection::serve`. A reload replaces the configuration of a socket,
//! not the socket.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::connection;
use super::introduction::{self, Expected};
use super::quic::{self, QuicSide};
use super::worker::{Command, Worker};
use crate::base::drain::{Entry, Flag};
use crate::base::id::SocketId;
use crate::base::limit::{AddressPermit, Limit, Permit};
use crate::net::accept;
use crate::net::handoff::HandedOver;
use crate::net::io::Socket;
use crate::proxy::context::Profile;
use crate::snapshot::{ListenerSpec, Opened, Snapshot, WorkerSnapshot};

/// One bound address on one worker.
pub struct WorkerListener {
    id: SocketId,
    port: Option<u16>,
    /// The generation and the listener in it, replaced together. A removed listener keeps its last generation, because
    /// its number may mean another listener in the next one.
    now: RefCell<(Rc<WorkerSnapshot>, Rc<Profile>)>,
    draining: Flag,
    /// Its QUIC side, if it has one.
    pub(super) quic: QuicSide,
    /// When it was last logged that a limit keeps clients waiting.
    full_logged: Cell<Option<Instant>>,
}

impl WorkerListener {
    pub(super) fn new(id: SocketId, port: Option<u16>, spec: ListenerSpec, generation: Rc<WorkerSnapshot>) -> Rc<Self> {
        let now = RefCell::new(with_profile(spec, generation, port));
        let (draining, quic) = (Flag::default(), QuicSide::default());
        Rc::new(Self { id, port, now, draining, quic, full_logged: Cell::default() })
    }

    /// The generation for its requests, and the listener in it. Connections read it for each request, so that a reload
    /// applies to open ones.
    pub fn now(&self) -> (Rc<WorkerSnapshot>, Rc<Profile>) {
        self.now.borrow().clone()
    }

    /// The current listener, with values computed for its connections.
    pub fn profile(&self) -> Rc<Profile> {
        Rc::clone(&self.now.borrow().1)
    }

    /// The current listener.
    pub fn spec(&self) -> Rc<ListenerSpec> {
        Rc::clone(&self.now.borrow().1.spec)
    }

    /// Whether its connections are being closed gracefully, because it was removed or the process stops.
    pub fn is_draining(&self) -> bool {
        self.draining.is_raised()
    }

    pub(super) fn renew(&self, spec: ListenerSpec, generation: Rc<WorkerSnapshot>) {
        self.now.replace(with_profile(spec, generation, self.port));
        self.quic.renew(self);
    }

    /// The port of its address; `None` on a Unix socket.
    pub(super) fn port(&self) -> Option<u16> {
        self.port
    }

    pub(super) fn id(&self) -> SocketId {
        self.id
    }

    pub(super) fn draining(&self) -> &Flag {
        &self.draining
    }

    /// Logs that a limit keeps clients waiting, but not for each of them.
    pub(super) fn warn_full(&self, limit: &str, connections: u32, what: &str) {
        let now = Instant::now();
        if self.full_logged.get().is_none_or(|last| now - last >= FULL_LOG_INTERVAL) {
            self.full_logged.set(Some(now));
            warn!(listener = %self.spec().name, limit, connections, "connection limit reached: {what}");
        }
    }

    /// Ends its accept loop once the backlog is empty, and closes its connections gracefully.
    pub(super) fn drain(&self) {
        self.draining.raise();
    }
}

/// The spec is a copy of this worker's own; see [`ListenerSpec`].
fn with_profile(
    spec: ListenerSpec,
    generation: Rc<WorkerSnapshot>,
    port: Option<u16>,
) -> (Rc<WorkerSnapshot>, Rc<Profile>) {
    let profile = Profile::new(Rc::new(spec), &generation, port);
    (generation, Rc::new(profile))
}

/// The permits of a connection, which stay with it.
#[derive(Debug)]
pub struct Admission {
    _listener: Option<Permit>,
    _process: Permit,
    address: Option<AddressPermit>,
}

impl Admission {
    /// With permits of the listener, if it has a limit, and of the process.
    pub(super) fn new(listener: Option<Permit>, process: Permit) -> Self {
        Self { _listener: listener, _process: process, address: None }
    }

    /// Takes a permit for the client's address, if the listener limits that; false: it has too many connections.
    pub(super) fn take_address(&mut self, spec: &ListenerSpec, client: Option<SocketAddr>) -> bool {
        let (Some(limits), Some(client)) = (&spec.per_address, client) else { return true };
        self.address = limits.acquire(client.ip());
        self.address.is_some()
    }

    /// Like [`take_address`](Self::take_address); also counts and logs a refusal.
    fn admit_address(&mut self, worker: &Worker, spec: &ListenerSpec, client: Option<SocketAddr>) -> bool {
        let is_admitted = self.take_address(spec, client);
        if !is_admitted {
            worker.counters().connections_refused.add(1);
            let client = client.map(tracing::field::display);
            debug!(listener = %spec.name, client.addr = client, "closed: too many connections from this address");
        }
        is_admitted
    }
}

/// The resources of an open connection, released when it is dropped. If the connection continues elsewhere (an upgrade,
/// a tunnel), this must go along: a drain waits for it.
pub struct ConnectionPermit {
    admission: Admission,
    _under_way: Entry,
    worker: Rc<Worker>,
}

impl ConnectionPermit {
    pub(super) fn new(worker: &Rc<Worker>, admission: Admission) -> Self {
        worker.counters().connections_open.add(1);
        worker.loads().opened(worker.id());
        Self { admission, _under_way: worker.under_way().enter(), worker: Rc::clone(worker) }
    }
}

impl ConnectionPermit {
    /// Counts the connection for the client in its PROXY header; false: it must be closed.
    pub(super) fn admit_client(&mut self, spec: &ListenerSpec, client: Option<SocketAddr>) -> bool {
        self.admission.admit_address(&self.worker, spec, client)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.worker.counters().connections_open.sub(1);
        self.worker.loads().closed(self.worker.id());
    }
}

/// A connection on its way to another worker.
pub struct Arrival {
    socket_id: SocketId,
    /// Used if the listener is removed before the connection arrives.
    last: (Arc<Snapshot>, ListenerSpec),
    connection: HandedOver<Admission>,
}

/// Starts accepting connections, or QUIC packets, on a socket.
///
/// # Errors
/// The system does not let this worker's runtime poll the socket.
pub(super) fn listen(worker: &Rc<Worker>, listener: &Rc<WorkerListener>, opened: Opened) -> io::Result<()> {
    let Opened { socket, open, steering } = opened;
    if let Some(steering) = steering {
        return quic::listen(worker, listener, socket, steering, open);
    }
    let source = socket.into_listener()?;
    let (worker, listener) = (Rc::clone(worker), Rc::clone(listener));
    tokio::task::spawn_local(async move {
        let _under_way = worker.under_way().enter();
        let admitted = async || admitted(&worker, &listener).await;
        let take = |socket, remote, admission| accepted(&worker, &listener, socket, remote, admission);
        accept::accept_loop(source, admitted, listener.draining.raised(), take).await;
        drop(open);
    });
    Ok(())
}

/// Takes over a connection that another worker accepted.
pub(super) fn arrived(worker: &Rc<Worker>, listener: Option<Rc<WorkerListener>>, arrival: Arrival) {
    worker.loads().arrived(worker.id());
    let listener = listener.unwrap_or_else(|| {
        let (snapshot, spec) = arrival.last;
        let gone = WorkerListener::new(arrival.socket_id, None, spec, worker.attach(snapshot));
        gone.drain();
        gone
    });
    serve_raw(worker, &listener, arrival.connection);
}

impl Arrival {
    pub(super) fn socket_id(&self) -> SocketId {
        self.socket_id
    }
}

/// Waits until the limits allow another connection.
async fn admitted(worker: &Worker, listener: &WorkerListener) -> Admission {
    let of_listener = match &listener.spec().limit {
        Some(limit) => Some(permit(limit, listener, "max_connections").await),
        None => None,
    };
    let process = permit(worker.process_limit(), listener, "the descriptor limit").await;
    Admission::new(of_listener, process)
}

async fn permit(limit: &Arc<Limit>, listener: &WorkerListener, name: &str) -> Permit {
    if let Some(permit) = limit.acquire() {
        return permit;
    }
    listener.warn_full(name, limit.max(), "new clients wait in the queue");
    limit.acquired().await
}

fn accepted(
    worker: &Rc<Worker>,
    listener: &Rc<WorkerListener>,
    socket: Socket,
    remote: Option<SocketAddr>,
    mut admission: Admission,
) {
    worker.counters().connections_accepted.add(1);
    let profile = listener.profile();
    // With a PROXY header, the client is counted once it is known.
    if introduction::expected(&profile, remote) == Expected::Nothing
        && !admission.admit_address(worker, &profile.spec, remote)
    {
        return;
    }
    match better_worker(worker, &socket) {
        Some(other) => hand_over(worker, listener, other, socket, remote, admission),
        None => start(worker, listener, socket, remote, admission),
    }
}

/// A worker with clearly fewer connections. Not for a Unix socket, which has one backlog for all workers: a free one
/// takes from it.
fn better_worker(worker: &Worker, socket: &Socket) -> Option<usize> {
    if worker.is_draining() || !matches!(socket, Socket::Tcp(_)) {
        return None;
    }
    worker.loads().better_worker(worker.id())
}

fn hand_over(
    worker: &Rc<Worker>,
    listener: &Rc<WorkerListener>,
    other: usize,
    socket: Socket,
    remote: Option<SocketAddr>,
    permit: Admission,
) {
    let socket = match socket.into_raw() {
        Ok(socket) => socket,
        Err(error) => return debug!(%error, "a connection could not be handed to another worker"),
    };
    let (generation, profile) = listener.now();
    let last = (Arc::clone(&generation.snapshot), ListenerSpec::clone(&profile.spec));
    let arrival = Arrival { socket_id: listener.id, last, connection: HandedOver { socket, remote, permit } };
    worker.loads().sent_to(other);
    match worker.send_to(other, Command::Socket(Box::new(arrival))) {
        Ok(()) => worker.counters().connections_handed_over.add(1),
        // The other worker is gone, so serve the connection here.
        Err(Command::Socket(arrival)) => {
            worker.loads().arrived(other);
            serve_raw(worker, listener, arrival.connection);
        }
        Err(_) => {}
    }
}

fn serve_raw(worker: &Rc<Worker>, listener: &Rc<WorkerListener>, connection: HandedOver<Admission>) {
    match connection.socket.into_socket() {
        Ok(socket) => start(worker, listener, socket, connection.remote, connection.permit),
        Err(error) => debug!(%error, "a connection could not be handed to another worker"),
    }
}

/// The only place where connections are spawned, each with the permit that a drain waits for.
fn start(
    worker: &Rc<Worker>,
    listener: &Rc<WorkerListener>,
    socket: Socket,
    remote: Option<SocketAddr>,
    admission: Admission,
) {
    let permit = ConnectionPermit::new(worker, admission);
    tokio::task::spawn_local(connection::serve(Rc::clone(worker), Rc::clone(listener), socket, remote, permit));
}

/// Interval of the log message about a reached limit, for each socket of a worker.
const FULL_LOG_INTERVAL: Duration = Duration::from_secs(10);
