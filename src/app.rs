//! The composition root: the control thread, and the order of start and shutdown. Start: compile, bind everything,
//! start the workers, then report readiness. Shutdown: stop accepting, close connections gracefully, and wait for them
//! at most `drain_timeout`. There is no global state: several proxies may run in one process.

mod exit;
mod plane;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::JoinHandle;

use tokio::runtime::Builder;
use tokio::sync::mpsc;

use crate::base::addr::Address;
use crate::config::Config;
use crate::control::reload::{Refused, Report};
use crate::control::requests::{Answer, Request, Trigger};
use crate::control::supervision::Supervision;
use crate::control::view::View;
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::counters::{ControlCounters, Counters, Totals};

pub use exit::ExitReason;
use plane::Plane;

/// How a proxy is started.
#[derive(Debug, Default)]
pub struct Options {
    /// What HUP reads again; `None`: there is no file.
    pub config_path: Option<PathBuf>,
    /// Whether signals are taken from the process; not where the proxy is embedded.
    pub install_signals: bool,
    /// The line to the service manager, and the sockets it handed over.
    pub supervision: Supervision,
}

/// A proxy that runs. Dropping it stops it at once.
pub struct Running {
    requests: mpsc::UnboundedSender<Request>,
    view: Arc<View>,
    control: Option<JoinHandle<ExitReason>>,
}

/// Starts a proxy and returns when every worker accepts.
///
/// # Errors
/// As [`Refused`]: the configuration (a certificate, say) or the system is at fault; then nothing is left behind.
pub fn start(config: Config, options: Options) -> Result<Running, Refused> {
    let (requests, asked) = mpsc::unbounded_channel();
    let orders = requests.clone();
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
            match Plane::start(config, options, orders, asked).await {
                Ok(plane) => {
                    let _ = started.send(Ok(Arc::clone(&plane.view)));
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
        Ok(Ok(view)) => Ok(Running { requests, view, control: Some(control) }),
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
        let addresses = self.view.addresses();
        addresses.iter().map(|(listener, address)| (listener.to_string(), address.clone())).collect()
    }

    /// The first address of the listener of this name.
    pub fn address_of(&self, listener: &str) -> Option<Address> {
        let addresses = self.view.addresses();
        addresses.iter().find(|(name, _)| &**name == listener).map(|(_, address)| address.clone())
    }

    /// Where `admin` or `observe` accepts, if it is configured.
    pub fn own_address(&self, name: &str) -> Option<Address> {
        self.view.own_addresses().iter().find(|(own, _)| *own == name).map(|(_, address)| address.clone())
    }

    /// Puts a configuration in force and waits until it is.
    ///
    /// # Errors
    /// As [`Refused`]; then nothing has changed.
    pub fn reload(&self, config: Config) -> Result<Report, Refused> {
        self.ask(|answer| Request::Reload(Box::new(config), Trigger::Embedder, answer))
    }

    /// Reads the file again, puts it in force and waits until it is.
    ///
    /// # Errors
    /// As [`Refused`]; then nothing has changed.
    pub fn reload_file(&self) -> Result<Report, Refused> {
        self.ask(|answer| Request::ReloadFile(Trigger::Embedder, answer))
    }

    fn ask(&self, request: impl FnOnce(Answer) -> Request) -> Result<Report, Refused> {
        let (answered, answer) = std_mpsc::channel();
        let told = Answer::to(move |result| drop(answered.send(result)));
        self.requests.send(request(told)).map_err(|_| Refused::Leaving)?;
        answer.recv().unwrap_or(Err(Refused::Leaving))
    }

    /// What all workers counted.
    pub fn counters(&self) -> Totals {
        Counters::sum(self.view.workers().iter().map(|worker| &*worker.counters))
    }

    /// What each worker that runs tells of itself, those of layer 4 behind the others.
    pub fn worker_telemetry(&self) -> &[Arc<WorkerTelemetry>] {
        let workers = self.view.workers();
        let running = workers.iter().take_while(|worker| worker.has_begun()).count();
        &workers[..running]
    }

    /// What the control thread counted.
    pub fn control_counters(&self) -> &ControlCounters {
        self.view.control()
    }

    /// Begins a drain, as TERM does. Returns at once; [`Running::wait`] tells how it ended.
    pub fn drain(&self) {
        let _ = self.requests.send(Request::Drain(Trigger::Embedder));
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
