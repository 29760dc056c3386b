//! The program itself: signals and exit codes.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{Client, Origin, PATIENCE};

/// `tidegate run` with a file.
pub struct Process {
    child: Child,
    log: BufReader<ChildStderr>,
    folder: TempDir,
}

impl Process {
    pub fn start(configuration: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("run");
        Self::of(&mut command, configuration)
    }

    /// Of a command that runs `tidegate run` where the file is.
    pub fn of(command: &mut Command, configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tidegate.toml"), configuration).unwrap();
        let mut child = command
            .current_dir(folder.path())
            .env("NO_COLOR", "1")
            .env_remove("TIDEGATE_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log, folder }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("tidegate.toml")
    }

    /// Reads the log up to a line with `text`.
    pub fn wait_for(&mut self, text: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            let read = self.log.read_line(&mut line).unwrap();
            assert!(read > 0, "the log ended without {text:?}:\n{seen}");
            if line.contains(text) {
                return line;
            }
            seen.push_str(&line);
        }
    }

    /// Waits until it serves, and says where.
    pub fn address(&mut self) -> SocketAddr {
        let line = self.wait_for("listening");
        let address = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
        let address = address.parse().unwrap();
        self.wait_for("ready");
        address
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::yield_now();
        }
        panic!("it did not leave");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn answering(text: &str) -> String {
    format!("[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = {{ body = \"{text}\" }}\n")
}

pub fn forwarding(origin: &Origin) -> String {
    let address = origin.address();
    format!(
        "[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n[[route]]\nupstream = \"app\"\n\
         [upstream.app]\nendpoints = [\"{address}\"]\n"
    )
}

#[test]
fn hup_reloads_the_file_and_a_fault_in_it_changes_nothing() {
    let mut process = Process::start(&answering("old"));
    let address = process.address();
    let mut client = Client::at(address);
    assert_eq!(client.get("/").body, "old");

    std::fs::write(process.file(), answering("new")).unwrap();
    process.signal(Signal::HUP);
    process.wait_for("reloaded");
    assert_eq!(client.get("/").body, "new");

    std::fs::write(process.file(), answering("broken").replace("respond", "respnod")).unwrap();
    process.signal(Signal::HUP);
    process.wait_for("reload refused");
    process.wait_for("respnod");
    assert_eq!(client.get("/").body, "new");
    assert_eq!(Client::at(address).get("/").body, "new");
}

#[test]
fn a_second_hup_waits_for_the_first() {
    let mut process = Process::start(&answering("old"));
    let address = process.address();
    // The first reload waits for a name that nobody knows; meanwhile everything is served as before.
    let waiting = answering("first")
        + "[[route]]\npath = \"/x\"\nupstream = \"x\"\n[upstream.x]\nendpoints = [\"dns:none.invalid:80\"]\n";
    std::fs::write(process.file(), waiting).unwrap();
    process.signal(Signal::HUP);
    let body = Client::at(address).get("/").body;
    assert!(body == "old" || body == "first");
    std::fs::write(process.file(), answering("second")).unwrap();
    process.signal(Signal::HUP);
    process.signal(Signal::HUP);
    process.wait_for("reloaded");
    while Client::at(address).get("/").body != "second" {}
    process.signal(Signal::TERM);
    process.wait_for("draining");
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn hup_while_draining_is_told_and_not_done() {
    let origin = Origin::start();
    let mut process = Process::start(&forwarding(&origin));
    let mut client = Client::at(process.address());
    client.send("/slow");
    let request = origin.next_request();
    process.signal(Signal::TERM);
    process.wait_for("draining");
    std::fs::write(process.file(), answering("new")).unwrap();
    process.signal(Signal::HUP);
    process.wait_for("the process is stopping");
    request.answer("late");
    assert_eq!(client.receive().body, "late");
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn hup_without_a_file_is_told_and_changes_nothing() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let mut process = Process::of(command.args(["proxy", "--from", "127.0.0.1:0", "--to", "127.0.0.1:9"]), "");
    let address = process.address();
    process.signal(Signal::HUP);
    process.wait_for("reload refused");
    process.wait_for("without a configuration file");
    assert_eq!(Client::at(address).get("/").status, 502);
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn what_changed_is_logged() {
    let mut process = Process::start(&answering("old"));
    process.address();
    process.signal(Signal::HUP);
    process.wait_for("reloaded: nothing changed");
    std::fs::write(process.file(), answering("new")).unwrap();
    process.signal(Signal::HUP);
    let line = process.wait_for("reloaded: route ");
    assert!(line.contains(": respond") && line.contains("trigger=\"signal\""), "{line}");
}

#[test]
fn term_drains_and_leaves_with_0() {
    let origin = Origin::start();
    let mut process = Process::start(&forwarding(&origin));
    let mut client = Client::at(process.address());
    client.send("/slow");
    let request = origin.next_request();
    process.signal(Signal::TERM);
    process.wait_for("draining");
    request.answer("late");
    assert_eq!(client.receive().body, "late");
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn the_second_int_leaves_at_once() {
    let origin = Origin::start();
    let mut process = Process::start(&forwarding(&origin));
    let mut client = Client::at(process.address());
    client.send("/slow");
    let _never_answered = origin.next_request();
    process.signal(Signal::INT);
    process.wait_for("draining");
    process.signal(Signal::INT);
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn an_address_in_use_ends_with_3_and_a_fault_with_1() {
    let mut first = Process::start(&answering("x"));
    let address = first.address();
    let mut second = Process::start(&answering("x").replace("127.0.0.1:0", &address.to_string()));
    assert_eq!(second.exit_code(), Some(3));
    let mut third = Process::start(&answering("x").replace("bind", "bnid"));
    assert_eq!(third.exit_code(), Some(1));
}
