//! The composition root: the control thread, the order in which things start, and the order in which they leave.
//! Start: compile, bind everything, workers, then ready. Leave: stop accepting, ask every connection to go, wait for
//! them at most `drain_timeout`. Nothing is global: several proxies may run in one process.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::base::addr::Address;
use crate::config::{self, Config};
use crate::control::reload::{Control, Refused, Report};
use crate::control::signals::{self, Signals};
use crate::telemetry::counters::{ControlCounters, Counters, Totals};

/// How a proxy is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// What HUP reads again; `None`: there is no file.
    pub config_path: Option<PathBuf>,
    /// Whether signals are taken from the process; not where the proxy is embedded.
    pub install_signals: bool,
}

/// A proxy that runs. Dropping it stops it at once.
pub struct Running {
    requests: mpsc::UnboundedSender<Request>,
    shared: Arc<Shared>,
    control: Option<JoinHandle<ExitReason>>,
}

/// Why a proxy left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It was asked to, and every connection had ended.
    Drained,
    /// It was asked to, and these connections had not ended within `drain_timeout`.
    DrainTimeout {
        /// How many were cut.
        connections: u64,
    },
    /// It was told to leave at once.
    Stopped,
    /// A worker was gone that nobody had asked to leave: a fault of ours.
    WorkerGone,
}

/// What others may look at while it runs.
struct Shared {
    addresses: ArcSwap<Vec<(Arc<str>, Address)>>,
    workers: Arc<[Arc<Counters>]>,
    control: Arc<ControlCounters>,
}

/// What the control thread is asked from outside.
enum Request {
    Reload(Box<Config>, std_mpsc::Sender<Result<Report, Refused>>),
    Drain,
    Stop,
}

/// Starts a proxy and returns when every worker accepts.
///
/// # Errors
/// As [`Refused`]: the configuration (a certificate, say) or the system is at fault; then nothing is left behind.
pub fn start(config: Config, options: Options) -> Result<Running, Refused> {
    let (requests, asked) = mpsc::unbounded_channel();
    let (started, start) = std_mpsc::channel();
    let control = std::thread::Builder::new().name("control".into()).spawn(move || {
        let runtime = match Builder::new_current_thread().enable_all().build_local(Default::default()) {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = started.send(Err(error.into()));
                return ExitReason::Stopped;
            }
        };
        runtime.block_on(async move {
            match Plane::start(&config, options, asked).await {
                Ok(plane) => {
                    let _ = started.send(Ok(Arc::clone(&plane.shared)));
                    plane.run().await
                }
                Err(refused) => {
                    let _ = started.send(Err(refused));
                    ExitReason::Stopped
                }
            }
        })
    })?;
    match start.recv() {
        Ok(Ok(shared)) => Ok(Running { requests, shared, control: Some(control) }),
        Ok(Err(refused)) => {
            let _ = control.join();
            Err(refused)
        }
        Err(_) => Err(io::Error::other("the control thread is gone").into()),
    }
}

impl Running {
    /// Where each listener accepts: its name and an address, with the ports that the kernel picked.
    pub fn addresses(&self) -> Vec<(String, Address)> {
        let addresses = self.shared.addresses.load();
        addresses.iter().map(|(listener, address)| (listener.to_string(), address.clone())).collect()
    }

    /// The first address of the listener of this name.
    pub fn address_of(&self, listener: &str) -> Option<Address> {
        let addresses = self.shared.addresses.load();
        addresses.iter().find(|(name, _)| &**name == listener).map(|(_, address)| address.clone())
    }

    /// Puts a configuration in force and waits until it is.
    ///
    /// # Errors
    /// As [`Refused`]; then nothing has changed.
    pub fn reload(&self, config: Config) -> Result<Report, Refused> {
        let (answered, answer) = std_mpsc::channel();
        self.requests.send(Request::Reload(Box::new(config), answered)).map_err(|_| Refused::Leaving)?;
        answer.recv().unwrap_or(Err(Refused::Leaving))
    }

    /// What all workers counted.
    pub fn counters(&self) -> Totals {
        Counters::sum(&self.shared.workers)
    }

    /// What each worker counted.
    pub fn worker_counters(&self) -> &[Arc<Counters>] {
        &self.shared.workers
    }

    /// What the control thread counted.
    pub fn control_counters(&self) -> &ControlCounters {
        &self.shared.control
    }

    /// Begins a drain, as TERM does. Returns at once; [`Running::wait`] tells how it ended.
    pub fn drain(&self) {
        let _ = self.requests.send(Request::Drain);
    }

    /// Has it leave at once, as a second INT does.
    pub fn stop(&self) {
        let _ = self.requests.send(Request::Stop);
    }

    /// Waits until it has left.
    pub fn wait(mut self) -> ExitReason {
        self.join()
    }

    fn join(&mut self) -> ExitReason {
        // A control thread that is gone without an answer has told its panic.
        self.control.take().map_or(ExitReason::Stopped, |control| control.join().unwrap_or(ExitReason::WorkerGone))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}

impl ExitReason {
    /// 0, also where a drain ran out of time; 3 where a worker was gone.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(if self == ExitReason::WorkerGone { 3 } else { 0 })
    }
}

/// The control thread's own.
struct Plane {
    control: Control,
    shared: Arc<Shared>,
    asked: mpsc::UnboundedReceiver<Request>,
    signals: Option<Signals>,
    config_path: Option<PathBuf>,
}

impl Plane {
    async fn start(
        config: &Config,
        options: Options,
        asked: mpsc::UnboundedReceiver<Request>,
    ) -> Result<Self, Refused> {
        // Before anything accepts: a signal that comes meanwhile waits and is not lost.
        let signals = options.install_signals.then(Signals::install).transpose()?;
        let mut control = Control::start(config).await?;
        let shared = Arc::new(Shared {
            addresses: ArcSwap::from_pointee(control.addresses()),
            workers: Arc::clone(control.workers().counters()),
            control: Arc::clone(control.counters()),
        });
        info!(generation = control.snapshot().generation.0, "ready");
        Ok(Self { control, shared, asked, signals, config_path: options.config_path })
    }

    async fn run(mut self) -> ExitReason {
        let reason = self.serve().await;
        self.leave().await;
        info!(reason = ?reason, "stopped");
        reason
    }

    async fn serve(&mut self) -> ExitReason {
        loop {
            // Every arm is cancel-safe.
            tokio::select! {
                request = next_request(&mut self.asked, &mut self.signals) => match request {
                    Wanted::ReloadFile => self.reload_file().await,
                    Wanted::Reload(config, answered) => {
                        let _ = answered.send(self.reload(&config).await);
                    }
                    Wanted::Drain => return self.drain().await,
                    Wanted::Leave => return ExitReason::Stopped,
                },
                worker = self.control.watch() => {
                    error!(worker, "a worker is gone; leaving, since its connections and its share of new ones are lost");
                    return ExitReason::WorkerGone;
                }
            }
        }
    }

    async fn reload(&mut self, config: &Config) -> Result<Report, Refused> {
        let report = self.control.reload(config).await?;
        self.shared.addresses.store(Arc::new(self.control.addresses()));
        Ok(report)
    }

    async fn reload_file(&mut self) {
        let Some(path) = &self.config_path else {
            return warn!("asked to reload, but this proxy was started without a file");
        };
        match config::load(path) {
            // Told by the reload itself.
            Ok(config) => drop(self.reload(&config).await),
            Err(faults) => self.control.refused(&faults.into()),
        }
    }

    /// Waits until every connection has ended, at most for `drain_timeout`, unless told to leave at once.
    async fn drain(&mut self) -> ExitReason {
        let timeout = self.control.snapshot().server.drain_timeout;
        let connections = self.control.workers().open_connections();
        info!(connections, timeout_s = timeout.as_secs_f64(), "draining");
        self.control.close_sockets();
        let workers = self.control.workers();
        let drained = async {
            workers.drain().await;
            workers.all_left().await;
        };
        let told = leave_requested(&mut self.asked, &mut self.signals);
        let reason = tokio::select! {
            () = drained => return ExitReason::Drained,
            () = told => ExitReason::Stopped,
            () = tokio::time::sleep(timeout) => ExitReason::DrainTimeout { connections: 0 },
        };
        let connections = self.control.workers().open_connections();
        warn!(connections, "leaving with connections open");
        match reason {
            ExitReason::DrainTimeout { .. } => {
                // The connections reach the same deadline a little later and reset what is unfinished. The end of the
                // process would close it cleanly, and an answer without a length would look complete.
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
            error!("a worker does not leave; the process ends without it");
            workers.abandon();
        }
        workers.join();
    }
}

/// What is wanted of the control thread, from either side.
enum Wanted {
    Reload(Box<Config>, std_mpsc::Sender<Result<Report, Refused>>),
    ReloadFile,
    Drain,
    Leave,
}

async fn next_request(asked: &mut mpsc::UnboundedReceiver<Request>, signals: &mut Option<Signals>) -> Wanted {
    tokio::select! {
        request = asked.recv() => match request {
            Some(Request::Reload(config, answered)) => Wanted::Reload(config, answered),
            Some(Request::Drain) => Wanted::Drain,
            // Whoever could ask is gone.
            Some(Request::Stop) | None => Wanted::Leave,
        },
        request = next_signal(signals) => match request {
            signals::Request::Reload => Wanted::ReloadFile,
            signals::Request::Drain => Wanted::Drain,
            signals::Request::Leave => Wanted::Leave,
        },
    }
}

async fn next_signal(signals: &mut Option<Signals>) -> signals::Request {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

/// Ends when the process is told to leave at once; everything else is past doing.
async fn leave_requested(asked: &mut mpsc::UnboundedReceiver<Request>, signals: &mut Option<Signals>) {
    loop {
        match next_request(asked, signals).await {
            Wanted::Leave => return,
            Wanted::Reload(_, answered) => drop(answered.send(Err(Refused::Leaving))),
            Wanted::ReloadFile => warn!("asked to reload while draining: not done"),
            Wanted::Drain => {}
        }
    }
}

/// How long connections may take to cut themselves once a drain has run out of time.
const CUT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a worker may take to leave once it was told to: it only drops what it has.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
