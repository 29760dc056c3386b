//! Sockets killed at every stage of a session, by either side, before and after a reload and while the process drains:
//! the other side learns of it as what it is, the end has its word, and nothing stays open.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use crate::process::Process;
use crate::support::*;

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Accepted, and connected to its endpoint; no byte.
    Connected,
    /// Half of a ClientHello was sent.
    HalfHello,
    /// Nobody answers the attempt to connect.
    Connecting,
    /// The same where it is given up soon.
    GivingUp,
    /// The client sends and the endpoint takes nothing.
    Upload,
    /// The endpoint sends and the client takes nothing.
    Download,
    /// The client has ended its bytes, and the endpoint heard it.
    ClientEnded,
    /// The endpoint has ended its bytes, and the client heard it.
    EndpointEnded,
}

/// What happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    ClientResets,
    ClientEnds,
    EndpointResets,
    EndpointEnds,
}

const CASES: &[(Stage, Act, &str)] = &[
    (Stage::Connected, Act::ClientResets, "client_gone"),
    (Stage::Connected, Act::ClientEnds, "ok"),
    (Stage::Connected, Act::EndpointResets, "connection_terminated"),
    (Stage::Connected, Act::EndpointEnds, "ok"),
    (Stage::HalfHello, Act::ClientResets, "client_gone"),
    (Stage::HalfHello, Act::ClientEnds, "client_gone"),
    (Stage::Connecting, Act::ClientResets, "client_gone"),
    (Stage::GivingUp, Act::ClientEnds, "connection_timeout"),
    (Stage::Upload, Act::ClientResets, "client_gone"),
    (Stage::Upload, Act::ClientEnds, "ok"),
    (Stage::Upload, Act::EndpointResets, "connection_terminated"),
    (Stage::Upload, Act::EndpointEnds, "ok"),
    (Stage::Download, Act::ClientResets, "client_gone"),
    (Stage::Download, Act::ClientEnds, "ok"),
    (Stage::Download, Act::EndpointResets, "connection_terminated"),
    (Stage::Download, Act::EndpointEnds, "ok"),
    (Stage::ClientEnded, Act::ClientResets, "client_gone"),
    (Stage::ClientEnded, Act::EndpointResets, "connection_terminated"),
    (Stage::ClientEnded, Act::EndpointEnds, "ok"),
    (Stage::EndpointEnded, Act::ClientResets, "client_gone"),
    (Stage::EndpointEnded, Act::ClientEnds, "ok"),
    (Stage::EndpointEnded, Act::EndpointResets, "connection_terminated"),
];

/// The endpoints of one run, answered by the test itself.
struct World {
    endpoint: TcpListener,
    stuck: SocketAddr,
    _queued: Vec<TcpStream>,
}

impl World {
    fn new() -> Self {
        let (stuck, queued) = stuck();
        Self { endpoint: TcpListener::bind("127.0.0.1:0").unwrap(), stuck, _queued: queued }
    }

    /// `turn` makes it another one.
    fn text(&self, turn: u32) -> String {
        let (stuck, endpoint) = (self.stuck, self.endpoint.local_addr().unwrap());
        let more = format!("limits = {{ max_connections = {} }}", 1000 + turn);
        let first = relay(&[endpoint], &more, "");
        let hopeless = |name: &str, patience: &str| {
            format!(
                "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\nmode = \"tcp\"\nupstream = \"{name}\"\n\
                 [upstream.{name}]\nendpoints = [\"{stuck}\"]\ntimeouts = {{ connect = \"{patience}\" }}\n"
            )
        };
        let (long, brief) = (hopeless("stuck", "60s"), hopeless("brief", "1s"));
        format!(
            "{first}\n[[listener]]\nname = \"hello\"\nbind = \"127.0.0.1:0\"\nmode = \"tls-passthrough\"\nsni = {{ \
             default = \"to\" }}\n{long}{brief}"
        )
    }
}

/// An address that no connection to comes about: its queue is full. With those who fill it.
fn stuck() -> (SocketAddr, Vec<TcpStream>) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&listener, 0).unwrap();
    let address = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
    std::mem::forget(listener);
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
    (address, std::iter::from_fn(connect).take(10).collect())
}

/// One session of `stage`.
struct Scene {
    listener: &'static str,
    client: TcpStream,
    endpoint: Option<TcpStream>,
    /// Bytes that were sent and not taken yet.
    sent: usize,
}

fn reach(stage: Stage, process: &Process, world: &World) -> Scene {
    let listener = match stage {
        Stage::HalfHello => "hello",
        Stage::Connecting => "stuck",
        Stage::GivingUp => "brief",
        _ => "relay",
    };
    let mut client = process.connect(listener);
    if stage == Stage::HalfHello {
        client.write_all(&include_bytes!("../hellos/curl.bin")[..200]).unwrap();
    }
    if matches!(stage, Stage::HalfHello | Stage::Connecting | Stage::GivingUp) {
        assert!(eventually(|| process.metric("tidegate_sessions") == 1));
        return Scene { listener, client, endpoint: None, sent: 0 };
    }
    let mut endpoint = patient(world.endpoint.accept().unwrap().0);
    let mut sent = 0;
    match stage {
        Stage::Upload => sent = fill(&mut client),
        Stage::Download => sent = fill(&mut endpoint),
        Stage::ClientEnded => {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(end_of(&mut endpoint), Ok(vec![]));
        }
        Stage::EndpointEnded => {
            endpoint.shutdown(Shutdown::Write).unwrap();
            assert_eq!(end_of(&mut client), Ok(vec![]));
        }
        _ => {}
    }
    Scene { listener, client, endpoint: Some(endpoint), sent }
}

/// Writes until nothing more is taken, with everything on the way full.
fn fill(stream: &mut TcpStream) -> usize {
    let (piece, mut sent, mut refused) = ([7; 16 << 10], 0, 0);
    stream.set_nonblocking(true).unwrap();
    while refused < 10 {
        match stream.write(&piece) {
            Ok(count) => (sent, refused) = (sent + count, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refused += 1;
                sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

/// Whether the stream breaks. Who has heard the end already reads no reset any more, but finds the connection broken.
fn is_reset(stream: &mut TcpStream) -> bool {
    match end_of(stream) {
        Ok(_) => eventually(|| stream.take_error().unwrap().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)),
        Err(error) => error == ErrorKind::ConnectionReset,
    }
}

/// `one` does it, `other` learns of it.
fn part(mut one: TcpStream, mut other: Option<TcpStream>, resets: bool, scene: (Stage, usize), to: bool) {
    let (stage, sent) = scene;
    if resets {
        // What came before it may be lost with it, but never the reset.
        reset(one);
        if let Some(other) = &mut other {
            assert!(is_reset(other), "{stage:?}");
        }
        return;
    }
    one.shutdown(Shutdown::Write).unwrap();
    let Some(mut other) = other else {
        // It led nowhere yet.
        let _ = end_of(&mut one);
        return;
    };
    // `to`: what is on the way is the other's.
    let heard = end_of(&mut other).map(|bytes| bytes.len());
    assert_eq!(heard, Ok(if to { sent } else { 0 }), "{stage:?}");
    let _ = other.shutdown(Shutdown::Write);
    let back = end_of(&mut one).map(|bytes| bytes.len());
    assert_eq!(back, Ok(if to { 0 } else { sent }), "{stage:?}");
}

fn carry_out(stage: Stage, act: Act, scene: Scene) {
    let Scene { client, endpoint, sent, .. } = scene;
    match (act, endpoint) {
        (Act::ClientResets | Act::ClientEnds, endpoint) => {
            part(client, endpoint, act == Act::ClientResets, (stage, sent), stage == Stage::Upload);
        }
        (_, Some(endpoint)) => {
            part(endpoint, Some(client), act == Act::EndpointResets, (stage, sent), stage == Stage::Download);
        }
        (_, None) => unreachable!(),
    }
}

/// `reloads`: in between, in every stage.
fn kill_everywhere(reloads: bool) {
    let world = World::new();
    let process = Process::start(&world.text(0));
    let mut turn = 0;
    for &(stage, act, outcome) in CASES {
        let (mut held, mut grew, mut repeat, mut repeats) = (0, 0, 0, 4);
        while repeat < repeats {
            let scene = reach(stage, &process, &world);
            let listener = scene.listener;
            let before = process.outcome(listener, outcome);
            if reloads {
                turn += 1;
                process.reload(&world.text(turn));
            }
            carry_out(stage, act, scene);
            let what = format!("{stage:?}, {act:?}");
            process.empties(&what);
            assert_eq!(process.outcome(listener, outcome), before + 1, "{what}: not {outcome}");
            // The first ones open what is kept for those that follow: pipes. A later one may be the first to need one more;
            // what is lost is lost every time.
            if repeat < 2 {
                held = process.descriptors();
            } else if !eventually(|| process.descriptors() <= held) {
                let more = process.descriptors();
                grew += 1;
                assert!(grew < 3, "{what}: {held} descriptors, then {more}");
                (held, repeats) = (more, repeat + 3);
            }
            repeat += 1;
        }
    }
    assert!(!process.log().contains("panicked"), "{}", process.log());
}

#[test]
fn nothing_stays_open_wherever_a_socket_is_killed() {
    kill_everywhere(false);
}

#[test]
fn nothing_stays_open_where_a_reload_came_between() {
    kill_everywhere(true);
}

#[test]
fn a_drain_ends_well_wherever_the_last_socket_is_killed() {
    for &(stage, act, _) in CASES {
        let world = World::new();
        let mut process = Process::start(&world.text(0));
        let scene = reach(stage, &process, &world);
        process.signal(Signal::TERM);
        assert!(eventually(|| process.log().contains("draining")));
        carry_out(stage, act, scene);
        let what = format!("{stage:?}, {act:?}");
        assert!(process.wait(&what).success(), "{what}: {}", process.log());
    }
}

#[test]
fn whatever_stage_a_session_is_at_a_drain_that_takes_too_long_resets_it() {
    for stage in [Stage::Connected, Stage::HalfHello, Stage::Connecting, Stage::Upload, Stage::ClientEnded] {
        let world = World::new();
        let head = "[server]\nworkers = 1\ndrain_timeout = \"100ms\"\nobserve.bind = \"127.0.0.1:0\"\n";
        let mut process = Process::start_with(head, &world.text(0));
        let mut scene = reach(stage, &process, &world);
        process.signal(Signal::TERM);
        process.wait(&format!("{stage:?}"));
        assert!(is_reset(&mut scene.client), "{stage:?}");
        if let Some(mut endpoint) = scene.endpoint {
            assert!(is_reset(&mut endpoint), "{stage:?}");
        }
        assert!(!process.log().contains("panicked"), "{}", process.log());
    }
}
