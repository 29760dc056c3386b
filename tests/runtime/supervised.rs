//! Under a service manager: what it is told, the sockets it hands over, the user it is left for. The tests are the manager.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Process, answering, forwarding};
use crate::support::{Client, Origin, PATIENCE, eventually};

/// Where the process tells how it fares.
struct Notices {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Notices {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, folder }
    }

    fn start(&self, configuration: &str) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("run").env("NOTIFY_SOCKET", self.folder.path().join("notify")).env("WATCHDOG_USEC", "200000");
        Process::of(&mut command, configuration)
    }

    /// The next notice but for signs of life.
    fn next(&self) -> String {
        loop {
            let notice = self.any();
            if notice != "WATCHDOG=1" {
                return notice;
            }
        }
    }

    fn any(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("no notice came");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

/// Runs the program as systemd would: the sockets as descriptors 3 and 4, for the process that becomes the program.
fn activated(names: &str, sockets: Vec<OwnedFd>, configuration: &str) -> Process {
    let count = sockets.len();
    let mut command = Command::new("sh");
    let mut sockets = sockets.into_iter();
    command.stdin(sockets.next().unwrap());
    if let Some(second) = sockets.next() {
        command.stdout(second);
    }
    let script = "exec 3<&0 4>&1 </dev/null >/dev/null; LISTEN_PID=$$ exec \"$0\" run";
    command.args(["-c", script, env!("CARGO_BIN_EXE_tidegate")]);
    command.env("LISTEN_FDS", count.to_string()).env("LISTEN_FDNAMES", names);
    Process::of(&mut command, configuration)
}

fn on(bind: &str, configuration: &str) -> String {
    configuration.replace("127.0.0.1:0", bind)
}

fn with_server(lines: &str, configuration: &str) -> String {
    format!("[server]\n{lines}\n{configuration}")
}

/// The whole answer of a Unix socket.
fn ask(path: &Path, target: &str) -> String {
    let mut client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
        .write_all(format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_manager_is_told_of_every_step() {
    let notices = Notices::new();
    let mut process = notices.start(&answering("old"));
    let ready = notices.next();
    assert!(ready.starts_with(&format!("READY=1\nMAINPID={}\nSTATUS=serving generation 1", process.id())), "{ready}");
    assert_eq!(Client::at(process.address()).get("/").status, 200);
    assert!(eventually(|| notices.any() == "WATCHDOG=1"));

    process.signal(Signal::HUP);
    assert!(notices.next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(notices.next().contains("STATUS=serving generation 2"));

    fs::write(process.file(), answering("new").replace("bind", "unknown = 1\nbind")).unwrap();
    process.signal(Signal::HUP);
    assert!(notices.next().starts_with("RELOADING=1"));
    let refused = notices.next();
    assert!(refused.starts_with("READY=1"), "{refused}");
    assert!(
        refused.contains("generation 2") && refused.contains("reload refused: tidegate.toml:3: unknown key"),
        "{refused}"
    );

    process.signal(Signal::TERM);
    let stopping = notices.next();
    assert!(stopping.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000\n"), "{stopping}");
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn an_inherited_socket_is_shared_by_the_workers_and_kept_by_a_reload() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // As while the service is restarted: who comes waits.
    let mut early = Client::at(address);
    early.send("/");
    let site = with_server("workers = 3", &on(&address.to_string(), &answering("old")));
    let mut process = activated("web.socket", vec![socket.try_clone().unwrap().into()], &site);
    let line = process.wait_for("listening");
    assert!(line.contains("inherited=") && line.contains("web.socket"), "{line}");
    assert_eq!(early.receive().body, "old");

    fs::write(process.file(), site.replace("old", "new")).unwrap();
    process.signal(Signal::HUP);
    process.wait_for("reloaded");
    assert_eq!(early.get("/").body, "new");
    for _ in 0..30 {
        assert_eq!(Client::at(address).get("/").body, "new");
    }

    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), Some(0));
    // The giver holds it still: who comes now waits for the next process.
    let mut late = Client::at(address);
    late.send("/");
    let _next = activated("web.socket", vec![socket.into()], &site);
    assert_eq!(late.receive().body, "old");
}

#[test]
fn sockets_are_known_by_path_and_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gate.sock");
    let (unix, named) = (UnixListener::bind(&path).unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = named.local_addr().unwrap();
    // No process could bind this address.
    let binds = "192.0.2.1:443\"\n[[listener]]\nname = \"local\"\nbind = \"unix:".to_owned() + path.to_str().unwrap();
    let mut process = activated("x:web", vec![unix.into(), named.into()], &on(&binds, &answering("hello")));
    process.wait_for("ready");
    assert_eq!(Client::at(address).get("/").body, "hello");
    let answer = ask(&path, "/");
    assert!(answer.ends_with("hello"), "{answer}");
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), Some(0));
    assert!(path.exists());
}

#[test]
fn a_socket_that_nobody_wants_is_told() {
    let (wanted, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = wanted.local_addr().unwrap();
    let site = on(&address.to_string(), &answering("x"));
    let mut process = activated("one:two", vec![wanted.into(), other.into()], &site);
    let line = process.wait_for("a socket passed by the service manager is not used");
    assert!(line.contains("two"), "{line}");
    process.wait_for("ready");
    assert_eq!(Client::at(address).get("/").body, "x");
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("run").env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    let mut process = Process::of(&mut command, &answering("x"));
    assert_eq!(Client::at(process.address()).get("/").body, "x");
}

#[test]
fn accepting_goes_on_for_the_delay_of_a_drain() {
    let folder = tempfile::tempdir().unwrap();
    let observe = folder.path().join("observe.sock");
    let lines = format!("drain_delay = \"2s\"\nobserve.bind = \"unix:{}\"", observe.display());
    let mut process = Process::start(&with_server(&lines, &answering("x")));
    let address = process.address();
    assert!(ask(&observe, "/readyz").starts_with("HTTP/1.1 200"));
    let mut kept = Client::at(address);
    assert_eq!(kept.get("/").status, 200);
    process.signal(Signal::TERM);
    process.wait_for("the drain begins after the delay");
    assert!(ask(&observe, "/readyz").starts_with("HTTP/1.1 503"));
    assert_eq!(Client::at(address).get("/").status, 200);
    assert!(!kept.get("/").says_close());
    process.wait_for("draining");
    assert_eq!(process.exit_code(), Some(0));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_second_term_and_an_int_shorten_the_delay() {
    for second in [Signal::TERM, Signal::INT] {
        let mut process = Process::start(&with_server("drain_delay = \"1h\"", &answering("x")));
        process.address();
        process.signal(Signal::TERM);
        process.wait_for("the drain begins after the delay");
        process.signal(second);
        process.wait_for("draining");
        assert_eq!(process.exit_code(), Some(0));
    }
}

#[test]
fn a_term_after_an_order_of_the_admin_listener_does_not_shorten_the_delay() {
    let folder = tempfile::tempdir().unwrap();
    let admin = folder.path().join("admin.sock");
    let lines = format!("drain_delay = \"1h\"\nadmin.bind = \"unix:{}\"", admin.display());
    let mut process = Process::start(&with_server(&lines, &answering("x")));
    let address = process.address();
    let mut stream = UnixStream::connect(&admin).unwrap();
    stream
        .write_all(b"POST /drain HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    process.wait_for("the drain begins after the delay");
    // As the kubelet after a preStop hook.
    process.signal(Signal::TERM);
    process.wait_for("the delay continues");
    assert_eq!(Client::at(address).get("/").status, 200);
    process.signal(Signal::TERM);
    process.wait_for("draining");
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn an_int_waits_for_no_load_balancer() {
    let origin = Origin::start();
    let mut process = Process::start(&with_server("drain_delay = \"1h\"", &forwarding(&origin)));
    let mut client = Client::at(process.address());
    client.send("/slow");
    let _never_answered = origin.next_request();
    process.signal(Signal::INT);
    process.wait_for("draining");
    process.signal(Signal::INT);
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn root_is_given_up_for_good_and_on_every_thread() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let site = with_server("workers = 2\nuser = \"nobody\"", &on("127.0.0.1:0", &answering("x")));
    let mut process = Process::start(&site);
    let line = process.wait_for("dropped root privileges");
    assert!(line.contains("nobody"), "{line}");
    let address = process.address();
    assert_eq!(Client::at(address).get("/").body, "x");

    let threads: Vec<_> = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap().collect();
    assert!(threads.len() >= 4, "{threads:?}");
    for thread in threads {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line =
                status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {status}"));
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        for name in ["Uid:", "Gid:"] {
            assert!(field(name).iter().all(|id| id == "65534"), "{status}");
        }
        assert!(field("Groups:").iter().all(|id| id == "65534"), "{status}");
        for name in ["CapEff:", "CapPrm:", "CapAmb:"] {
            assert_eq!(field(name), ["0000000000000000"], "{status}");
        }
    }
    // A file that only root can read, and a port that only root can bind: refused, and what is in force stays.
    let folder = process.file().parent().unwrap().to_owned();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["key.pem", "cert.pem"] {
        fs::write(folder.join(name), "secret").unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let tls = "tls.certificates = [{ cert = \"cert.pem\", key = \"key.pem\" }]\n[[route]]";
    fs::write(process.file(), site.replace("[[route]]", tls)).unwrap();
    process.signal(Signal::HUP);
    process.wait_for("reload refused");
    process.wait_for("the user of the process must be able to read it");
    let lowest: u16 =
        fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap().trim().parse().unwrap();
    if lowest > 7 {
        fs::write(process.file(), on("127.0.0.1:7", &site)).unwrap();
        process.signal(Signal::HUP);
        process.wait_for("reload refused");
        process.wait_for("where `server.user` took it away, restart to bind another");
    }
    assert_eq!(Client::at(address).get("/").body, "x");
}

#[test]
fn an_unknown_user_is_a_fault_of_the_configuration() {
    let site = with_server("user = \"no-such-user\"", &answering("x"));
    let mut process = Process::start(&site);
    process.wait_for("unknown user `no-such-user`");
    assert_eq!(process.exit_code(), Some(1));
}
