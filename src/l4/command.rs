//! Commands of the control thread to a layer 4 worker: a queue, and a wake-up of its event loop.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use mio::Waker;

use crate::base::id::SocketId;
use crate::base::limit::Limit;
use crate::snapshot::{Listening, Snapshot};
use crate::telemetry::WorkerTelemetry;
use crate::upstream::endpoint_set::EndpointSet;

/// What is asked of a worker.
pub enum Command {
    /// Put a generation in force.
    Apply(Apply),
    /// Pick from these endpoints from now on.
    Endpoints {
        /// The name of the upstream.
        upstream: Arc<str>,
        /// Its endpoints.
        set: Arc<EndpointSet>,
    },
    /// Accept what waits and no more, let sessions and flows end by themselves, and leave when none is open.
    Drain,
    /// Reset what is open, and leave.
    Cut,
    /// Leave now.
    Stop,
}

/// A generation and the sockets it wants.
pub struct Apply {
    /// The generation.
    pub snapshot: Arc<Snapshot>,
    /// Every bound address that is wanted; what is not here goes, and its sessions end by themselves.
    pub listening: Vec<Listening>,
    /// Called when it is in force, with what could not be listened on.
    pub applied: Box<dyn FnOnce(Failures) + Send>,
}

/// Sockets that a worker cannot watch.
pub type Failures = Vec<(SocketId, io::Error)>;

/// What a worker is made of; crosses into its thread.
pub struct Setup {
    /// Its number, from 0.
    pub id: usize,
    /// How many there are.
    pub workers: usize,
    /// What it tells of itself.
    pub telemetry: Arc<WorkerTelemetry>,
    /// Open connections of the process.
    pub process_limit: Arc<Limit>,
}

/// The way to a worker, from any thread.
#[derive(Clone)]
pub struct Orders {
    queue: Sender<Command>,
    waker: Arc<Waker>,
}

impl Orders {
    /// A way to the worker whose event loop `waker` wakes, and the end of the queue that it looks at.
    pub(super) fn new(waker: Waker) -> (Self, Receiver<Command>) {
        let (queue, commands) = mpsc::channel();
        (Self { queue, waker: Arc::new(waker) }, commands)
    }

    /// Sends a command. One that has left needs to be told nothing.
    pub fn send(&self, command: Command) {
        if self.queue.send(command).is_ok() {
            // The event loop looks at the queue once a second as well, when it shows that it runs.
            let _ = self.waker.wake();
        }
    }
}
