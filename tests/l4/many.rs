//! Thousands of sessions at once in one process: all echo, and an idle one costs next to nothing.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use mio::{Events, Interest, Poll, Token};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::process::Process;
use crate::support::*;

const SESSIONS: usize = 9_000;
/// Descriptors that each of the three processes needs.
const DESCRIPTORS: u64 = 2 * SESSIONS as u64 + 500;
/// What is to be echoed by another process: each has descriptors of its own.
const ECHO: &str = "TIDEGATE_TEST_ECHO";

/// The other process: echoes on the listening socket that is its standard input.
#[test]
fn an_echo_for_another_test() {
    if std::env::var_os(ECHO).is_none() {
        return;
    }
    raise_descriptors();
    let listener = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    listener.set_nonblocking(true).unwrap();
    let mut listener = mio::net::TcpListener::from_std(listener);
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&mut listener, Token(usize::MAX), Interest::READABLE).unwrap();
    let (mut streams, mut events) = (HashMap::new(), Events::with_capacity(1024));
    let mut next = 0;
    loop {
        poll.poll(&mut events, None).unwrap();
        for event in &events {
            if event.token() == Token(usize::MAX) {
                while let Ok((mut stream, _)) = listener.accept() {
                    poll.registry().register(&mut stream, Token(next), Interest::READABLE).unwrap();
                    streams.insert(next, stream);
                    next += 1;
                }
            } else if let Some(stream) = streams.get_mut(&event.token().0)
                && !echo(stream)
            {
                streams.remove(&event.token().0);
            }
        }
    }
}

/// Whether it is still open. What is echoed here is small: it always fits.
fn echo(stream: &mut mio::net::TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => stream.write_all(&buffer[..count]).unwrap(),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

struct Echo(Child);

impl Echo {
    fn start(listener: TcpListener) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "many::an_echo_for_another_test", "--nocapture"]).env(ECHO, "1");
        Self(command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether there are enough of them.
fn raise_descriptors() -> bool {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.is_none_or(|most| most >= DESCRIPTORS)
}

/// Every session sends before any is listened to.
fn all_echo(sessions: &mut [TcpStream], seed: usize) {
    let text = |number: usize| format!("{:015}\n", number * 7 + seed);
    for (number, session) in sessions.iter_mut().enumerate() {
        session.write_all(text(number).as_bytes()).unwrap();
    }
    let mut back = [0; 16];
    for (number, session) in sessions.iter_mut().enumerate() {
        session.read_exact(&mut back).unwrap_or_else(|error| panic!("session {number}: {error}"));
        assert_eq!(str::from_utf8(&back).unwrap(), text(number), "session {number}");
    }
}

#[test]
fn nine_thousand_sessions_echo_at_once() {
    if !raise_descriptors() {
        println!("not run: a process may have no more than {:?} descriptors", getrlimit(Resource::Nofile).maximum);
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _echo = Echo::start(listener);
    let process = Process::start(&relay(&[address], "", ""));
    // What is made once is made by these.
    let mut first: Vec<_> = (0..100).map(|_| process.connect("relay")).collect();
    all_echo(&mut first, 1);
    drop(first);
    process.empties("the first hundred");
    let (before, descriptors) = (process.memory(), process.descriptors());
    let relay = process.address("relay");
    let mut sessions: Vec<_> = (0..SESSIONS).map(|_| patient(TcpStream::connect(relay).unwrap())).collect();
    all_echo(&mut sessions, 2);
    assert_eq!(process.metric("tidegate_sessions"), SESSIONS as u64);
    assert!(process.descriptors().abs_diff(descriptors + 2 * SESSIONS) <= 2, "{} are open", process.descriptors());
    let each = process.memory().saturating_sub(before) / SESSIONS as u64;
    println!("{SESSIONS} sessions are open, {each} bytes of memory each");
    // Nothing of the kernel's is in it; pages that are half used are, and what the crowd took while it came. What a session
    // holds is in `l4::tcp`'s own test, what many of them do in `benches/side_by_side/sessions`.
    assert!(each <= 1024, "{each} bytes for each session");
    all_echo(&mut sessions, 3);
    drop(sessions);
    process.empties("all");
    assert!(eventually(|| process.descriptors() <= descriptors), "{descriptors} before, {} now", process.descriptors());
    echoes(&mut process.connect("relay"), b"and once more");
}
