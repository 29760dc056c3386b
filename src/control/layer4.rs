//! The layer 4 threads as seen by the control thread. They start when a generation first has a listener for them, and
//! then stay.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::base::id::SocketId;
use crate::base::limit::Limit;
use crate::l4::command::{Apply, Command, Failures, Orders, Setup};
use crate::l4::worker;
use crate::snapshot::{Listening, Snapshot};
use crate::telemetry::WorkerTelemetry;

/// Every worker of layer 4.
pub(super) struct Layer4 {
    orders: Vec<Orders>,
    threads: Vec<JoinHandle<()>>,
}

impl Layer4 {
    /// Starts a worker for each telemetry, none of which listens yet, and waits until all of them run. `left` is told a
    /// worker's number, counted from `first`, when it leaves.
    ///
    /// # Errors
    /// The system has no thread or no event queue for one of them.
    pub(super) async fn start(
        snapshot: &Arc<Snapshot>,
        telemetry: &[Arc<WorkerTelemetry>],
        process_limit: &Arc<Limit>,
        left: (usize, UnboundedSender<usize>),
    ) -> io::Result<Self> {
        let (first, told) = left;
        let workers = telemetry.len();
        let mut layer4 = Self { orders: Vec::with_capacity(workers), threads: Vec::with_capacity(workers) };
        let mut ready = Vec::with_capacity(workers);
        for (id, telemetry) in telemetry.iter().enumerate() {
            let (apply, done) = application(snapshot, Vec::new());
            let setup =
                Setup { id, workers, telemetry: Arc::clone(telemetry), process_limit: Arc::clone(process_limit) };
            let told = told.clone();
            let left = Box::new(move |id| {
                let _ = told.send(first + id);
            });
            let (thread, orders) = worker::spawn(setup, apply, left)?;
            layer4.threads.push(thread);
            layer4.orders.push(orders);
            ready.push(done);
        }
        for done in ready {
            done.await.map_err(|_| io::Error::other("a worker of layer 4 could not begin"))?;
        }
        Ok(layer4)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.orders.len()
    }

    /// Puts a generation in force on every worker and waits until it is. Says which sockets a worker could not watch.
    pub(super) async fn apply(
        &self,
        snapshot: &Arc<Snapshot>,
        shares: Vec<Vec<Listening>>,
    ) -> Vec<(usize, SocketId, io::Error)> {
        let mut pending = Vec::with_capacity(shares.len());
        for (orders, listening) in self.orders.iter().zip(shares) {
            let (apply, done) = application(snapshot, listening);
            orders.send(Command::Apply(apply));
            pending.push(done);
        }
        let mut failed = Vec::new();
        for (worker, done) in pending.into_iter().enumerate() {
            // One that is gone is noticed elsewhere and ends the process.
            failed.extend(done.await.unwrap_or_default().into_iter().map(|(id, error)| (worker, id, error)));
        }
        failed
    }

    /// Sends a command to each of them.
    pub(super) fn tell(&self, mut command: impl FnMut() -> Command) {
        self.orders.iter().for_each(|orders| orders.send(command()));
    }

    /// Waits for the threads, which were told to leave.
    pub(super) fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic was told by the panic itself.
            let _ = thread.join();
        }
    }

    /// Leaves threads to themselves that do not leave.
    pub(super) fn abandon(&mut self) {
        self.threads.clear();
    }
}

impl Drop for Layer4 {
    /// A start that failed half-way leaves no thread behind.
    fn drop(&mut self) {
        self.tell(|| Command::Stop);
        self.join();
    }
}

fn application(snapshot: &Arc<Snapshot>, listening: Vec<Listening>) -> (Apply, oneshot::Receiver<Failures>) {
    let (applied, done) = oneshot::channel();
    // Nobody waits for it when the control thread is gone.
    let applied = Box::new(move |failed| drop(applied.send(failed)));
    (Apply { snapshot: Arc::clone(snapshot), listening, applied }, done)
}
