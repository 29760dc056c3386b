//! The worker threads as seen by the control thread: start, command, wait, stop.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use super::layer4::Layer4;
use super::sockets::Shares;
use crate::base::id::SocketId;
use crate::base::limit::Limit;
use crate::l4::command::Command as Layer4Command;
use crate::net::handoff::Loads;
use crate::serve::worker::{self, Apply, Command, Setup};
use crate::snapshot::{Listening, Snapshot};
use crate::telemetry::series::SeriesKey;
use crate::telemetry::{Plane, WorkerTelemetry};
use crate::upstream::endpoint_set::EndpointSet;

/// Every worker of the process.
pub struct Workers {
    commands: Arc<[UnboundedSender<Command>]>,
    /// Of those that serve requests, and behind them of those of layer 4, whether they run yet or not.
    telemetry: Arc<[Arc<WorkerTelemetry>]>,
    threads: Vec<JoinHandle<()>>,
    layer4: Option<Layer4>,
    process_limit: Arc<Limit>,
    /// Numbers of workers that left, those of layer 4 behind the others.
    left: UnboundedReceiver<usize>,
    left_sender: UnboundedSender<usize>,
    running: usize,
}

/// Workers are gone that nobody asked to leave: a fault of ours, told on stderr by the panic.
#[derive(Debug, thiserror::Error)]
#[error("worker {0} is gone")]
pub struct WorkerGone(pub usize);

impl Workers {
    /// Starts one worker for each share and waits until all of them accept.
    ///
    /// # Errors
    /// The system has no thread or no runtime for one of them, or does not let it watch its sockets.
    pub async fn start(snapshot: &Arc<Snapshot>, shares: Shares, process_limit: &Arc<Limit>) -> io::Result<Self> {
        let count = shares.http.len();
        let (commands, queues): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        let commands: Arc<[_]> = commands.into();
        let planes = [Plane::Http, Plane::Layer4].into_iter().flat_map(|plane| std::iter::repeat_n(plane, count));
        let telemetry: Arc<[_]> = planes.map(|plane| Arc::new(WorkerTelemetry::of(plane))).collect();
        let loads = Arc::new(Loads::new(count));
        let (left_sender, left) = mpsc::unbounded_channel();
        let mut workers = Self {
            commands,
            telemetry,
            threads: Vec::with_capacity(count),
            layer4: None,
            process_limit: Arc::clone(process_limit),
            left,
            left_sender,
            running: 0,
        };
        let mut ready = Vec::with_capacity(count);
        for (id, (listening, queue)) in shares.http.into_iter().zip(queues).enumerate() {
            let (applied, done) = oneshot::channel();
            let setup = Setup {
                id,
                telemetry: Arc::clone(&workers.telemetry[id]),
                loads: Arc::clone(&loads),
                process_limit: Arc::clone(process_limit),
                workers: Arc::clone(&workers.commands),
                commands: queue,
            };
            let first = Apply { snapshot: Arc::clone(snapshot), listening, applied };
            workers.threads.push(worker::spawn(setup, first, workers.left_sender.clone())?);
            workers.running += 1;
            ready.push(done);
        }
        for (id, done) in ready.into_iter().enumerate() {
            let failed = done.await.map_err(|_| io::Error::other(WorkerGone(id)))?;
            if let Some((_, error)) = failed.into_iter().next() {
                return Err(error);
            }
        }
        if shares.layer4.iter().any(|share| !share.is_empty()) {
            workers.start_layer4(snapshot).await?;
            if let Some((_, _, error)) = workers.apply_layer4(snapshot, shares.layer4).await.into_iter().next() {
                return Err(error);
            }
        }
        Ok(workers)
    }

    /// Starts the threads of layer 4, if they do not run yet: a generation is on its way that needs them.
    ///
    /// # Errors
    /// The system has no thread or no event queue for one of them.
    pub async fn start_layer4(&mut self, snapshot: &Arc<Snapshot>) -> io::Result<()> {
        if self.layer4.is_none() {
            let count = self.count();
            let left = (count, self.left_sender.clone());
            let layer4 = Layer4::start(snapshot, &self.telemetry[count..], &self.process_limit, left).await?;
            self.running += layer4.count();
            self.layer4 = Some(layer4);
        }
        Ok(())
    }

    async fn apply_layer4(
        &self,
        snapshot: &Arc<Snapshot>,
        shares: Vec<Vec<Listening>>,
    ) -> Vec<(usize, SocketId, io::Error)> {
        match &self.layer4 {
            Some(layer4) => layer4.apply(snapshot, shares).await,
            None => Vec::new(),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.commands.len()
    }

    /// What each of them tells.
    pub fn telemetry(&self) -> &Arc<[Arc<WorkerTelemetry>]> {
        &self.telemetry
    }

    /// Forgets what was counted under names of listeners, routes and upstreams that are gone.
    pub fn retain_series(&self, names: &HashSet<SeriesKey>) {
        self.telemetry.iter().for_each(|telemetry| telemetry.series.retain(|key| names.contains(key)));
    }

    /// Open connections of clients.
    pub fn open_connections(&self) -> u64 {
        self.telemetry.iter().map(|telemetry| telemetry.counters.connections_open.value()).sum()
    }

    /// Puts a generation in force on every worker and waits until it is. Says which sockets a worker could not watch.
    pub async fn apply(&self, snapshot: &Arc<Snapshot>, shares: Shares) -> Vec<(usize, SocketId, io::Error)> {
        let mut pending = Vec::with_capacity(self.count());
        for (commands, listening) in self.commands.iter().zip(shares.http) {
            let (applied, done) = oneshot::channel();
            // One that is gone is noticed elsewhere and ends the process.
            let _ = commands.send(Command::Apply(Apply { snapshot: Arc::clone(snapshot), listening, applied }));
            pending.push(done);
        }
        let mut failed = self.apply_layer4(snapshot, shares.layer4).await;
        for (worker, done) in pending.into_iter().enumerate() {
            failed.extend(done.await.unwrap_or_default().into_iter().map(|(id, error)| (worker, id, error)));
        }
        failed
    }

    /// Gives every worker a new set of endpoints.
    pub fn set_endpoints(&self, upstream: &Arc<str>, set: &Arc<EndpointSet>) {
        self.tell(|| Command::Endpoints { upstream: Arc::clone(upstream), set: Arc::clone(set) });
        self.tell_layer4(|| Layer4Command::Endpoints { upstream: Arc::clone(upstream), set: Arc::clone(set) });
    }

    /// Has every worker accept no more and ask its connections to go, and lets each leave once they are gone.
    pub async fn drain(&self) {
        // Those of layer 4 hand nothing over, so each leaves when it has nothing left.
        self.tell_layer4(|| Layer4Command::Drain);
        let mut pending = Vec::with_capacity(self.count());
        self.tell(|| {
            let (draining, done) = oneshot::channel();
            pending.push(done);
            Command::Drain(draining)
        });
        for done in pending {
            let _ = done.await;
        }
        // From here on no worker hands a connection over, so that one without connections may leave.
        self.tell(|| Command::Finish);
    }

    /// Has the workers of layer 4 reset what is open and leave; the connections of the others have a deadline of their own.
    pub fn cut(&self) {
        self.tell_layer4(|| Layer4Command::Cut);
    }

    /// Has every worker leave now.
    pub fn stop(&self) {
        self.tell(|| Command::Stop);
        self.tell_layer4(|| Layer4Command::Stop);
    }

    /// The number of the next worker that left; `None` when none is left. Cancel-safe.
    pub async fn next_left(&mut self) -> Option<usize> {
        if self.running == 0 {
            return None;
        }
        let left = self.left.recv().await;
        self.running -= 1;
        left
    }

    /// Waits until every worker has left. Cancel-safe.
    pub async fn all_left(&mut self) {
        while self.next_left().await.is_some() {}
    }

    /// Waits for the threads of workers that left or were stopped.
    pub fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic was told by the panic itself.
            let _ = thread.join();
        }
        self.layer4.iter_mut().for_each(Layer4::join);
    }

    /// Leaves threads to themselves that do not leave: the end of the process ends them.
    pub fn abandon(&mut self) {
        self.threads.clear();
        self.layer4.iter_mut().for_each(Layer4::abandon);
    }

    fn tell_layer4(&self, command: impl FnMut() -> Layer4Command) {
        if let Some(layer4) = &self.layer4 {
            layer4.tell(command);
        }
    }

    fn tell(&self, mut command: impl FnMut() -> Command) {
        for commands in self.commands.iter() {
            // One that has left needs to be told nothing.
            let _ = commands.send(command());
        }
    }
}

impl Drop for Workers {
    /// A start that failed half-way leaves no thread behind.
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}
