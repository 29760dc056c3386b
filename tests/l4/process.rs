//! The program as a process of its own: what it holds open and what it takes of memory are nobody else's.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::*;

/// `tidegate run`, with what it counts to be asked for.
pub struct Process {
    child: Child,
    folder: TempDir,
    head: &'static str,
}

const HEAD: &str = "[server]\nworkers = 1\ndrain_timeout = \"20s\"\nobserve.bind = \"127.0.0.1:0\"\n";

impl Process {
    /// Listeners and upstreams are `text`; [`relay`]'s own head is replaced by one that has something to ask.
    pub fn start(text: &str) -> Self {
        Self::start_with(HEAD, text)
    }

    pub fn start_with(head: &'static str, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tidegate.toml");
        fs::write(&file, Self::whole(head, text)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("run")
            .arg("--config")
            .arg(&file)
            .env("NO_COLOR", "1")
            .env_remove("TIDEGATE_LOG")
            .stderr(File::create(folder.path().join("log")).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = Self { child, folder, head };
        assert!(eventually(|| process.log().contains("ready generation=1")), "{}", process.log());
        process
    }

    fn whole(head: &str, text: &str) -> String {
        format!("{head}{}", text.replace("[server]\nworkers = 1\n", ""))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Where a listener is.
    pub fn address(&self, listener: &str) -> SocketAddr {
        let log = self.log();
        let name = [format!("listener={listener} "), format!("listener=\"{listener}\" ")];
        let line = log.lines().find(|line| name.iter().any(|name| line.contains(name))).unwrap();
        let address = line.split("address=").nth(1).unwrap();
        address.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub fn connect(&self, listener: &str) -> TcpStream {
        patient(TcpStream::connect(self.address(listener)).unwrap())
    }

    /// Replaces the configuration; returns when it is in force.
    pub fn reload(&self, text: &str) {
        let generation = self.metric("tidegate_generation");
        fs::write(self.folder.path().join("tidegate.toml"), Self::whole(self.head, text)).unwrap();
        self.signal(Signal::HUP);
        assert!(eventually(|| self.metric("tidegate_generation") > generation), "{}", self.log());
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit status, once it left by itself.
    pub fn wait(&mut self, after: &str) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "{after}: it does not leave:\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// What is behind a name, with its labels, on `/metrics`.
    pub fn metric(&self, name: &str) -> u64 {
        let mut observe = self.connect("server.observe");
        observe.write_all(b"GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        observe.read_to_string(&mut answer).unwrap();
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.trim_start_matches("{}").strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name}")).parse::<f64>().unwrap() as u64
    }

    /// How many sessions of a listener ended so.
    pub fn outcome(&self, listener: &str, kind: &str) -> u64 {
        self.metric(&format!("tidegate_session_outcomes_total{{listener=\"{listener}\",kind=\"{kind}\"}}"))
    }

    /// Descriptors that it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Memory that is its own and resident, in bytes.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    /// Waits until nothing is open.
    pub fn empties(&self, after: &str) {
        let open = || (self.metric("tidegate_sessions"), self.metric("tidegate_connections"));
        assert!(eventually(|| open() == (0, 0)), "{after}: {:?} are still open", open());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
