//! Communication with a service manager (systemd): inherited sockets (sd_listen_fds(3)), notifications (sd_notify(3))
//! and the watchdog. Without the manager's environment variables, this does nothing.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, error, info, warn};

use crate::net::inherited::InheritedSocket;
use crate::net::sys::{self, Inheritance};
use crate::telemetry::WorkerTelemetry;

/// The line to the service manager; the default is that there is none.
#[derive(Debug, Default)]
pub struct Supervision {
    notify: Option<(UnixDatagram, SocketAddr)>,
    /// How long the manager waits for a sign of life.
    watchdog: Option<Duration>,
    sockets: Vec<InheritedSocket>,
    stopping: Cell<bool>,
}

impl Supervision {
    /// Takes what the environment says out of it, so that no other process believes it is meant. For the program itself,
    /// before it starts a thread. What cannot be taken is told in the log.
    pub fn of_environment() -> Self {
        if [NOTIFY_SOCKET, "LISTEN_FDS"].iter().all(|variable| std::env::var_os(variable).is_none()) {
            return Self::default();
        }
        let watchdog = sd_notify::watchdog_enabled();
        let variables = [NOTIFY_SOCKET, "WATCHDOG_USEC", "WATCHDOG_PID"];
        let Inheritance { descriptors, values } = match sys::take_inheritance(&variables) {
            Ok(taken) => taken,
            Err(error) => {
                warn!(%error, "cannot use the sockets passed by the service manager");
                return Self::default();
            }
        };
        let mut sockets = Vec::with_capacity(descriptors.len());
        for (descriptor, name) in descriptors {
            match InheritedSocket::new(descriptor, name.clone()) {
                Ok(socket) => {
                    info!(name, address = %socket.local_address(), "socket passed by the service manager");
                    sockets.push(socket);
                }
                Err(error) => warn!(name, %error, "a socket passed by the service manager is not used"),
            }
        }
        let path = values.into_iter().next().flatten();
        let notify = path.and_then(|path| match line_to(&path) {
            Ok(line) => Some(line),
            Err(error) => {
                warn!(%error, path = %path.display(), "cannot send notifications to the service manager");
                None
            }
        });
        Self { notify, watchdog, sockets, stopping: Cell::default() }
    }

    /// The sockets that were handed over; the second time there are none.
    pub fn take_sockets(&mut self) -> Vec<InheritedSocket> {
        std::mem::take(&mut self.sockets)
    }

    /// A generation is in force, the first or a later one, or a reload was refused and the old one stays.
    pub fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::MainPid(std::process::id()), NotifyState::Status(status)]);
    }

    /// A reload begins. [`Supervision::ready`] ends it, however it went.
    pub fn reloading(&self) {
        let Ok(now) = NotifyState::monotonic_usec_now() else { return };
        self.tell(&[NotifyState::Reloading, now, NotifyState::Status("reloading")]);
    }

    /// The process is on its way out and may take this long; a shorter patience of the manager is extended.
    pub fn stopping(&self, status: &str, within: Duration) {
        self.stopping.set(true);
        let microseconds = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
        let states = [NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(microseconds), NotifyState::Status(status)];
        self.tell(&states);
    }

    /// Gives the sign of life at half of the time that the manager waits for it, as long as every worker's heartbeat moves:
    /// the manager restarts a process of which a worker hangs. Never ends where a watchdog is wanted. While the process
    /// leaves, workers leave one by one and are not looked at; the drain has a deadline of its own.
    pub async fn watch(&self, workers: &[Arc<WorkerTelemetry>]) {
        // Heartbeats are a second apart; a shorter patience would take a living worker for a dead one.
        let patience = self.watchdog.unwrap_or_default() / 2;
        self.watch_with(workers, patience.max(SHORTEST_PATIENCE)).await;
    }

    async fn watch_with(&self, workers: &[Arc<WorkerTelemetry>], patience: Duration) {
        let Some(watchdog) = self.watchdog else { return };
        let mut ticks = interval((watchdog / 2).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_told = false;
        loop {
            ticks.tick().await;
            match hung(workers, patience).filter(|_| !self.stopping.get()) {
                None => {
                    is_told = false;
                    self.tell(&[NotifyState::Watchdog]);
                }
                Some(worker) if !is_told => {
                    is_told = true;
                    let silent_s = workers[worker].since_heartbeat().as_secs_f64();
                    error!(worker, silent_s, "a worker hangs: watchdog notifications stop");
                }
                Some(_) => {}
            }
        }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        let Some((socket, manager)) = &self.notify else { return };
        // A line break would begin another assignment.
        let lines: Vec<_> = states.iter().map(|state| state.to_string().replace(['\n', '\r'], " ")).collect();
        // Never waits: a manager that does not read must not hold the process up.
        if let Err(error) = socket.send_to_addr(lines.join("\n").as_bytes(), manager) {
            debug!(%error, "the service manager was not notified");
        }
    }
}

/// The first worker that has shown no heartbeat for longer than `patience`.
fn hung(workers: &[Arc<WorkerTelemetry>], patience: Duration) -> Option<usize> {
    workers.iter().position(|worker| worker.has_begun() && worker.since_heartbeat() > patience)
}

/// A socket to speak from, and the address: a path, or a name in the abstract namespace behind an `@`.
fn line_to(address: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let manager = match address.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, manager))
}

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// Three heartbeats.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the line ends, and the line.
    fn supervisor(watchdog: Option<Duration>) -> (UnixDatagram, Supervision, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listening = UnixDatagram::bind(&path).unwrap();
        listening.set_nonblocking(true).unwrap();
        let notify = Some(line_to(path.as_os_str()).unwrap());
        (listening, Supervision { notify, watchdog, ..Supervision::default() }, folder)
    }

    fn told(listening: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 4096];
        std::iter::from_fn(|| {
            listening.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
        })
        .collect()
    }

    #[test]
    fn tells_each_step_of_a_life() {
        let (listening, line, _folder) = supervisor(None);
        line.ready("generation 1");
        line.reloading();
        line.ready("refused:\nREADY=0");
        line.stopping("draining", Duration::from_secs(35));
        let told = told(&listening);
        let pid = std::process::id();
        assert_eq!(told[0], format!("READY=1\nMAINPID={pid}\nSTATUS=generation 1"));
        assert!(told[1].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{}", told[1]);
        assert_eq!(told[2], format!("READY=1\nMAINPID={pid}\nSTATUS=refused: READY=0"));
        assert_eq!(told[3], "STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000\nSTATUS=draining");
    }

    #[test]
    fn an_abstract_address_is_understood() {
        let name = format!("tidegate-test-{}", std::process::id());
        let listening = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        listening.set_nonblocking(true).unwrap();
        let notify = Some(line_to(OsStr::new(&format!("@{name}"))).unwrap());
        Supervision { notify, ..Supervision::default() }.ready("x");
        assert_eq!(told(&listening).len(), 1);
    }

    #[test]
    fn nothing_happens_without_anybody_to_tell() {
        let line = Supervision::default();
        line.ready("x");
        line.reloading();
        line.stopping("x", Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_hears_at_half_of_its_time() {
        let (listening, line, _folder) = supervisor(Some(Duration::from_secs(30)));
        // Its heartbeat is by the real clock, which stands still beside the paused one.
        let workers = [Arc::new(WorkerTelemetry::default())];
        assert!(tokio::time::timeout(Duration::from_secs(40), line.watch(&workers)).await.is_err());
        // At 0, 15 and 30 seconds.
        assert_eq!(told(&listening), ["WATCHDOG=1"; 3]);
    }

    #[tokio::test]
    async fn a_worker_whose_heartbeat_stands_still_hangs_until_the_process_leaves() {
        let (listening, line, _folder) = supervisor(Some(Duration::from_millis(100)));
        let [living, hanging] = [(); 2].map(|()| Arc::new(WorkerTelemetry::default()));
        tokio::time::sleep(Duration::from_millis(20)).await;
        living.beat_first();
        let patience = hanging.since_heartbeat() - Duration::from_millis(5);
        let workers = [living, hanging];
        assert_eq!(hung(&workers, patience), Some(1));
        assert_eq!(hung(&workers, Duration::from_secs(60)), None);
        let watched = async |time| tokio::time::timeout(time, line.watch_with(&workers, patience)).await;
        assert!(watched(Duration::from_millis(20)).await.is_err());
        assert!(told(&listening).is_empty());
        line.stopping("draining", Duration::ZERO);
        assert!(watched(Duration::from_millis(20)).await.is_err());
        assert_eq!(told(&listening).last().map(String::as_str), Some("WATCHDOG=1"));
    }

    #[tokio::test(start_paused = true)]
    async fn no_watchdog_is_no_wait() {
        let (listening, line, _folder) = supervisor(None);
        line.watch(&[]).await;
        assert!(told(&listening).is_empty());
    }
}
