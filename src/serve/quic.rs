//! The QUIC connections of a worker: an accept loop for each UDP address, which never waits for a client. Limits and
//! address validation come first, then the handshake within its deadline, in a task of its own; then HTTP/3 or raw
//! streams, depending on the listener.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::listeners::{Admission, ConnectionPermit, WorkerListener};
use super::worker::Worker;
use super::{http3, streams};
use crate::base::addr::canonical;
use crate::base::drain::{Flag, Tally};
use crate::base::error::Error;
use crate::base::id::SocketId;
use crate::config::model::{Mode, RetryPolicy};
use crate::net::bind::{BoundSocket, Group};
use crate::net::timer;
use crate::transport::quic::steering::{Open, Steering};
use crate::transport::quic::{Incoming, Place, QuicAccepted, QuicListener, handshake};

/// The QUIC side of a listener on one worker; empty for an address of TCP.
#[derive(Default)]
pub(super) struct QuicSide {
    endpoint: OnceCell<Rc<QuicListener>>,
    /// Handshakes under way.
    opening: Rc<Tally>,
}

/// The endpoints of a worker, those that drain among them: one whose address is wanted again goes on with its socket.
#[derive(Default)]
pub(super) struct Endpoints {
    known: RefCell<BTreeMap<SocketId, Known>>,
}

struct Known {
    endpoint: Weak<QuicListener>,
    /// Raised when another listener takes clients from the endpoint.
    replaced: Rc<Flag>,
}

impl QuicSide {
    /// Serves new connections with what the listener is now.
    pub(super) fn renew(&self, listener: &WorkerListener) {
        let spec = listener.spec();
        if let (Some(endpoint), Some(tls)) = (self.endpoint.get(), &spec.tls)
            && let Err(error) = endpoint.renew(&spec.config, tls)
        {
            debug!(listener = %spec.name, %error, "cannot apply the new QUIC settings; the old ones stay in use");
        }
    }
}

impl Endpoints {
    /// Counts what the kernel dropped.
    pub(super) fn count_dropped(&self) {
        self.known.borrow_mut().retain(|_, known| match known.endpoint.upgrade() {
            Some(endpoint) => {
                endpoint.count_dropped();
                true
            }
            None => false,
        });
    }

    /// Takes the endpoint of an address from the listener that drains it.
    fn take_over(&self, id: SocketId) -> Option<Rc<QuicListener>> {
        let known = self.known.borrow_mut().remove(&id)?;
        known.replaced.raise();
        known.endpoint.upgrade()
    }

    fn insert(&self, id: SocketId, endpoint: &Rc<QuicListener>) -> Rc<Flag> {
        let replaced = Rc::<Flag>::default();
        let known = Known { endpoint: Rc::downgrade(endpoint), replaced: Rc::clone(&replaced) };
        self.known.borrow_mut().insert(id, known);
        replaced
    }
}

/// Begins to take connections on `socket`; `open` is dropped when it is closed.
///
/// # Errors
/// The system does not let this worker's runtime watch the socket.
pub(super) fn listen(
    worker: &Rc<Worker>,
    listener: &Rc<WorkerListener>,
    socket: BoundSocket,
    steering: Arc<Steering>,
    open: Arc<Group>,
) -> io::Result<()> {
    let spec = listener.spec();
    let tls = spec.tls.as_ref().ok_or_else(|| io::Error::other("QUIC without certificates"))?;
    let endpoint = match worker.quic().take_over(listener.id()) {
        // The descriptor is one more of the same socket.
        Some(endpoint) => {
            endpoint.renew(&spec.config, tls)?;
            endpoint
        }
        None => {
            let place = Place { worker: worker.id(), telemetry: Arc::clone(worker.telemetry()), open };
            QuicListener::open(socket, steering, place, &spec.config, tls)?
        }
    };
    let replaced = worker.quic().insert(listener.id(), &endpoint);
    let _ = listener.quic.endpoint.set(Rc::clone(&endpoint));
    tokio::task::spawn_local(accept_loop(Rc::clone(worker), Rc::clone(listener), endpoint, replaced));
    Ok(())
}

/// Takes connections until the listener drains, then refuses them until those of all workers have ended, and closes the socket.
async fn accept_loop(worker: Rc<Worker>, listener: Rc<WorkerListener>, endpoint: Rc<QuicListener>, replaced: Rc<Flag>) {
    let _under_way = worker.under_way().enter();
    let mut drained = std::pin::pin!(drained(&listener, &endpoint));
    let mut batch = 0;
    loop {
        let incoming = tokio::select! {
            biased;
            // All are cancel-safe.
            () = replaced.raised() => return,
            () = &mut drained => break,
            incoming = endpoint.next() => incoming,
        };
        let Some(incoming) = incoming else { break };
        arrived(&worker, &listener, &endpoint, incoming);
        batch += 1;
        if batch == BATCH {
            batch = 0;
            // A flood of connections must not starve those that are open.
            tokio::task::yield_now().await;
        }
    }
    // Whatever is left has had its time.
    let code = if listener.spec().config.mode.serves_requests() { HTTP3_NO_ERROR } else { 0 };
    endpoint.close(code, "the listener is closed");
    // What connections say last is sent, and what clients still send is answered for a moment.
    let _ = timer::timeout(LAST_WORDS, endpoint.idle()).await;
}

/// Ends when a drain has begun and no worker has a connection left, or when they had their time.
async fn drained(listener: &WorkerListener, endpoint: &QuicListener) {
    listener.draining().raised().await;
    let limit = listener.now().0.snapshot.server.drain_timeout;
    let _ = timer::timeout(limit, endpoint.steering().emptied()).await;
}

/// One client that wants a connection.
fn arrived(worker: &Rc<Worker>, listener: &Rc<WorkerListener>, endpoint: &Rc<QuicListener>, incoming: Incoming) {
    let remote = canonical(incoming.remote_address());
    if listener.is_draining() {
        return refuse(worker, incoming, remote, "the listener closes");
    }
    let spec = listener.spec();
    let is_proven = incoming.remote_address_validated();
    let must_prove = match spec.config.quic.retry {
        RetryPolicy::Always => true,
        RetryPolicy::Auto => listener.quic.opening.open() >= MOST_OPENING,
        RetryPolicy::Off => false,
    };
    if must_prove && !is_proven {
        return retry(worker, incoming);
    }
    let Some(mut admission) = admit(worker, listener) else {
        return refuse(worker, incoming, remote, "a limit on connections is reached");
    };
    if !admission.take_address(&spec, Some(remote)) {
        // Somebody else may have written this address, to keep its owner out.
        return if is_proven {
            refuse(worker, incoming, remote, "its address has too many")
        } else {
            retry(worker, incoming)
        };
    }
    worker.counters().connections_accepted.add(1);
    let connecting = match endpoint.accept(incoming) {
        Ok(connecting) => connecting,
        Err(error) => return debug!(client.addr = %remote, %error, "a QUIC connection could not be started"),
    };
    let permit = ConnectionPermit::new(worker, admission);
    let (opening, open) = (listener.quic.opening.enter(), endpoint.steering().opened());
    let (worker, listener) = (Rc::clone(worker), Rc::clone(listener));
    let early_data = endpoint.takes_early_data();
    tokio::task::spawn_local(async move {
        let limit = listener.spec().config.timeouts.handshake;
        // Boxed, so that an open connection does not hold the room that this took.
        let accepted = Box::pin(handshake(connecting, early_data, limit)).await;
        drop(opening);
        match accepted {
            Ok(accepted) => serve(&worker, listener, accepted, Held { _permit: permit, _open: open }).await,
            Err(error) => failed(&worker, remote, &error),
        }
    });
}

/// What an open connection holds; given back when it is dropped. A drain waits for it.
pub(super) struct Held {
    _permit: ConnectionPermit,
    _open: Open,
}

async fn serve(worker: &Rc<Worker>, listener: Rc<WorkerListener>, accepted: QuicAccepted, held: Held) {
    let counters = worker.counters();
    counters.quic_connections.add(1);
    counters.handshake(false, accepted.accepted.resumed);
    if accepted.early {
        counters.early_data_accepted.add(1);
    }
    let connection = accepted.connection.clone();
    let began_at = connection.remote_address();
    let serving = Rc::clone(worker);
    match &listener.spec().config.mode {
        Mode::Quic(_) => streams::serve(serving, listener, accepted, held).await,
        _ => http3::serve(serving, listener, accepted, held).await,
    }
    // RFC 9000 §9: quinn follows a client silently.
    if connection.remote_address() != began_at {
        worker.counters().quic_moved.add(1);
    }
}

fn admit(worker: &Worker, listener: &WorkerListener) -> Option<Admission> {
    let spec = listener.spec();
    let of_listener = match &spec.limit {
        Some(limit) => Some(limit.acquire().or_else(|| {
            listener.warn_full("max_connections", limit.max(), REFUSED);
            None
        })?),
        None => None,
    };
    let limit = worker.process_limit();
    let process = limit.acquire().or_else(|| {
        listener.warn_full("the descriptor limit", limit.max(), REFUSED);
        None
    })?;
    Some(Admission::new(of_listener, process))
}

/// RFC 9000 §5.2.2: CONNECTION_REFUSED, without anything kept.
fn refuse(worker: &Worker, incoming: Incoming, remote: SocketAddr, reason: &'static str) {
    worker.counters().quic_refused.add(1);
    debug!(client.addr = %remote, reason, "a QUIC connection was refused");
    incoming.refuse();
}

/// RFC 9000 §8.1.2: the client comes again with a token, and nothing is kept until then.
fn retry(worker: &Worker, incoming: Incoming) {
    match incoming.retry() {
        Ok(()) => worker.counters().quic_retries_sent.add(1),
        // It has been asked before: its address is proven.
        Err(error) => error.into_incoming().refuse(),
    }
}

fn failed(worker: &Worker, remote: SocketAddr, error: &Error) {
    worker.counters().quic_handshakes_failed.add(1);
    debug!(
        client.addr = %remote,
        kind = error.kind().as_str(),
        reason = error.reason(),
        source = std::error::Error::source(error).map(tracing::field::display),
        "QUIC handshake failed"
    );
}

/// First packets that are looked at in a row before others have their turn.
const BATCH: u32 = 64;
/// Handshakes of one listener on one worker that may be under way before clients have to prove their addresses: a flood of
/// invented ones costs a signature each.
const MOST_OPENING: usize = 100;
/// How long closed connections may take to say so.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// RFC 9114 §8.1.
const HTTP3_NO_ERROR: u32 = 0x100;
const REFUSED: &str = "new clients are refused";
