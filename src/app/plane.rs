//! The control thread's loop: starts everything in order, executes requests, and shuts down in order.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::config::{self, Config};
use crate::control::admin::OwnListeners;
use crate::control::capacity;
use crate::control::privileges;
use crate::control::reload::{Control, Event, Refused, Report};
use crate::control::requests::{Request, Requests, Trigger};
use crate::control::signals::Signals;
use crate::control::supervision::Supervision;
use crate::control::view::View;

use super::{ExitReason, Options};

/// The control thread's own.
pub(super) struct Plane {
    control: Control,
    pub(super) view: Arc<View>,
    own: OwnListeners,
    /// The way back to this loop, for the admin listener.
    orders: mpsc::UnboundedSender<Request>,
    requests: Requests,
    config_path: Option<PathBuf>,
    supervision: Rc<Supervision>,
}

impl Plane {
    pub(super) async fn start(
        config: Config,
        mut options: Options,
        orders: mpsc::UnboundedSender<Request>,
        asked: mpsc::UnboundedReceiver<Request>,
    ) -> Result<Self, Refused> {
        // Before anything accepts: a signal that comes meanwhile waits and is not lost.
        let signals = options.install_signals.then(Signals::install).transpose()?;
        let config = Arc::new(config);
        let own = OwnListeners::default();
        let planned = own.plan(&config)?;
        let prepared = Control::prepare(&config, options.supervision.take_sockets()).await?;
        // Everything that only root may do stands above, everything that clients can reach below.
        privileges::give_up(config.server.identity.as_ref())?;
        let mut control = prepared.start().await?;
        if let Some(path) = options.config_path.as_deref().filter(|_| config.server.watch) {
            control.note(&config::read(path));
        }
        capacity::warn_of_shortages(&config);
        let view = Arc::new(View::new(&mut control, config));
        let mut own = own;
        own.commit(planned, &view, &orders)?;
        info!(generation = control.snapshot().generation.0, "ready");
        let supervision = Rc::new(options.supervision);
        supervision.ready(&serving(&control));
        let (watched, workers) = (Rc::clone(&supervision), Arc::clone(view.workers()));
        tokio::task::spawn_local(async move { watched.watch(&workers).await });
        let requests = Requests::new(asked, signals);
        Ok(Self { control, view, own, orders, requests, config_path: options.config_path, supervision })
    }

    pub(super) async fn run(mut self) -> ExitReason {
        let reason = self.serve().await;
        self.leave().await;
        info!(reason = ?reason, "stopped");
        reason
    }

    async fn serve(&mut self) -> ExitReason {
        loop {
            // Every arm is cancel-safe.
            tokio::select! {
                request = self.requests.next() => match request {
                    Request::ReloadFile(trigger, answer) => {
                        self.supervision.reloading();
                        answer.give(self.reload_file(trigger).await);
                    }
                    Request::Reload(config, trigger, answer) => {
                        self.supervision.reloading();
                        answer.give(self.reload(*config, trigger).await);
                    }
                    Request::DrainEndpoint(order, answer) => drop(answer.send(self.control.drain_endpoint(&order))),
                    Request::Drain(trigger) => {
                        return match self.delay_drain(trigger).await {
                            Some(reason) => reason,
                            None => self.drain().await,
                        };
                    }
                    Request::Interrupt => return self.drain().await,
                    Request::Stop => return ExitReason::Stopped,
                },
                event = self.control.watch() => match event {
                    Event::FilesChanged => self.files_changed().await,
                    Event::WorkerLeft(worker) => {
                        error!(worker, "a worker died; stopping, because its connections and its share of new ones are lost");
                        return ExitReason::WorkerGone;
                    }
                },
            }
        }
    }

    async fn reload(&mut self, config: Config, trigger: Trigger) -> Result<Report, Refused> {
        let config = Arc::new(config);
        let result = match self.own.plan(&config) {
            Ok(planned) => {
                let result = self.control.reload(&config, trigger).await;
                if result.is_ok() {
                    self.view.renew(&self.control, config);
                    if let Err(error) = self.own.commit(planned, &self.view, &self.orders) {
                        error!(%error, "cannot poll the admin or observe listener");
                    }
                }
                result
            }
            Err(refused) => {
                self.control.refused(&refused, trigger);
                Err(refused)
            }
        };
        self.reloaded(trigger, &result);
        result
    }

    fn reloaded(&self, trigger: Trigger, result: &Result<Report, Refused>) {
        self.view.reloaded(trigger, result);
        let serving = serving(&self.control);
        match result {
            Ok(_) => self.supervision.ready(&serving),
            Err(refused) => self.supervision.ready(&format!("{serving}; reload refused: {}", refused.summary())),
        }
    }

    async fn reload_file(&mut self, trigger: Trigger) -> Result<Report, Refused> {
        let read = match &self.config_path {
            Some(path) => {
                let reading = config::read(path);
                self.control.note(&reading);
                reading.result.map_err(Refused::from)
            }
            None => Err(Refused::NoFile),
        };
        self.put(read, trigger).await
    }

    /// As [`Plane::reload_file`], unless the files say what is in force.
    async fn files_changed(&mut self) {
        let Some(path) = &self.config_path else { return };
        let reading = config::read(path);
        self.control.note(&reading);
        if self.control.is_news(&reading.result) {
            self.supervision.reloading();
            // Nobody asked, so nobody waits for the answer.
            drop(self.put(reading.result.map_err(Refused::from), Trigger::Watch).await);
        }
    }

    async fn put(&mut self, read: Result<Config, Refused>, trigger: Trigger) -> Result<Report, Refused> {
        match read {
            Ok(config) => self.reload(config, trigger).await,
            Err(refused) => {
                self.control.refused(&refused, trigger);
                let result = Err(refused);
                self.reloaded(trigger, &result);
                result
            }
        }
    }

    /// Goes on as before for `drain_delay`, but for saying that it is on its way out, so that load balancers send their
    /// clients elsewhere before connections are refused. Over at once when asked again by whoever asked; a TERM that follows an
    /// order of the admin listener is no second order: it is how Kubernetes goes on after a preStop hook. `Some`: there is
    /// nothing to drain.
    async fn delay_drain(&mut self, mut asked: Trigger) -> Option<ExitReason> {
        let (delay, timeout) = {
            let server = &self.control.snapshot().server;
            (server.drain_delay, server.drain_timeout)
        };
        if delay.is_zero() {
            return None;
        }
        self.view.begin_drain();
        info!(delay_s = delay.as_secs_f64(), "stopping: the drain begins after the delay");
        self.supervision.stopping("waiting for load balancers to notice", delay + timeout + STOP_TIMEOUT);
        let over = tokio::time::sleep(delay);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return None,
                request = self.requests.next() => match request {
                    Request::Drain(again) if again == asked => return None,
                    Request::Drain(other) => {
                        info!(trigger = other.name(), "another request to stop: the delay continues");
                        asked = other;
                    }
                    Request::Interrupt => return None,
                    Request::Stop => return Some(ExitReason::Stopped),
                    reload => reload.refuse(),
                },
                event = self.control.watch() => match event {
                    // As a reload that is asked for: past doing.
                    Event::FilesChanged => {}
                    Event::WorkerLeft(worker) => {
                        error!(worker, "a worker died while stopping");
                        return Some(ExitReason::WorkerGone);
                    }
                },
            }
        }
    }

    /// Waits until every connection has ended, at most for `drain_timeout`, unless told to leave at once.
    async fn drain(&mut self) -> ExitReason {
        let timeout = self.control.snapshot().server.drain_timeout;
        let connections = self.control.workers().open_connections();
        info!(connections, timeout_s = timeout.as_secs_f64(), "draining");
        self.view.begin_drain();
        self.supervision.stopping(&format!("draining, {connections} connections open"), timeout + STOP_TIMEOUT);
        self.control.close_sockets();
        let workers = self.control.workers();
        let drained = async {
            workers.drain().await;
            workers.all_left().await;
        };
        let told = self.requests.until_leave();
        let reason = tokio::select! {
            () = drained => return ExitReason::Drained,
            () = told => ExitReason::Stopped,
            () = tokio::time::sleep(timeout) => ExitReason::DrainTimeout { connections: 0 },
        };
        let connections = self.control.workers().open_connections();
        warn!(connections, "stopping with open connections");
        match reason {
            ExitReason::DrainTimeout { .. } => {
                // The connections reach the same deadline a little later and reset what is unfinished. The end of the
                // process would close it cleanly, and an answer without a length would look complete.
                self.control.workers().cut();
                let _ = tokio::time::timeout(CUT_TIMEOUT, self.control.workers().all_left()).await;
                ExitReason::DrainTimeout { connections }
            }
            other => other,
        }
    }

    async fn leave(&mut self) {
        self.control.close_sockets();
        let workers = self.control.workers();
        workers.stop();
        if tokio::time::timeout(STOP_TIMEOUT, workers.all_left()).await.is_err() {
            error!("a worker does not stop; exiting without it");
            workers.abandon();
        }
        workers.join();
        self.control.finish_access_log();
    }
}

/// What the service manager shows of a process that serves.
fn serving(control: &Control) -> String {
    let snapshot = control.snapshot();
    let (listeners, upstreams) = (snapshot.listeners.len(), snapshot.upstreams.len());
    format!("serving generation {} (listeners: {listeners}, upstreams: {upstreams})", snapshot.generation.0)
}

/// How long connections may take to cut themselves once a drain has run out of time.
const CUT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a worker may take to leave once it was told to: it only drops what it has.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
