//! Executes the steps of a session on its two sockets: receive, send, splice, shut down, register. Small messages pass
//! through the worker's shared buffer; data that the other side does not accept at once is kept in a buffer of its
//! size.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use rustix::pipe::SpliceFlags;

use super::pipes::{Pipe, Pipes};
use super::session::{Got, Method, Over, Put, Readiness, Session, Side, Step, Turn};
use super::token::Source;
use crate::config::model::SocketOptions;
use crate::net::socket;

/// The two sockets of a session, and what was read from one and not yet written to the other.
pub struct Relay {
    session: Session,
    sockets: [OwnedFd; 2],
    /// By the side that it came from.
    carried: [Carried; 2],
}

/// What is between two sockets.
#[derive(Debug, Default)]
enum Carried {
    #[default]
    Nothing,
    Bytes(Box<Kept>),
    /// A pipe and the bytes in it.
    Piped(Pipe, u32),
}

/// Bytes that the other side has not taken yet.
#[derive(Debug)]
struct Kept {
    bytes: Box<[u8]>,
    written: usize,
}

/// What all sessions of a worker use in turn.
pub struct Tools {
    /// What copies go through.
    pub buffer: Box<[u8]>,
    /// What bulk goes through.
    pub pipes: Pipes,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Until one of the sockets is ready.
    Waits,
    /// It goes on when others had their turn.
    Yields,
    /// The session has ended.
    Over(Over),
}

/// Bytes in the worker's buffer that are not written yet.
struct Fresh {
    from: Side,
    begin: usize,
    end: usize,
}

/// What is asked of a pipe at once. No socket has more to give: a pipe is full first.
const SPLICE: usize = 1 << 30;

impl Relay {
    /// A session between two sockets that are connected; `preface` goes to the endpoint before anything else.
    pub fn new(client: OwnedFd, endpoint: OwnedFd, preface: Vec<u8>) -> Self {
        let session = Session::new(preface.len() as u32);
        let carried = if preface.is_empty() { Carried::Nothing } else { Carried::keep(preface.into()) };
        Self { session, sockets: [client, endpoint], carried: [carried, Carried::Nothing] }
    }

    /// The sans-io part, to be told what is known.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The sans-io part.
    pub fn state(&self) -> &Session {
        &self.session
    }

    /// Bytes that the endpoint got of the client, and the client of the endpoint.
    pub fn passed(&self) -> (u64, u64) {
        (self.session.passed(Side::Client), self.session.passed(Side::Endpoint))
    }

    /// What an event said of one side.
    pub fn ready(&mut self, side: Side, readiness: Readiness) {
        self.session.ready(side, readiness);
    }

    /// Has the kernel ask a silent endpoint whether it is still there.
    pub fn keep_alive(&self, options: &SocketOptions) {
        // A Unix socket has nothing of the kind.
        let _ = socket::keep_alive(&self.sockets[Side::Endpoint as usize], options);
    }

    /// Does what can be done in one turn. `key` is the number that events name the session by.
    ///
    /// # Errors
    /// A socket cannot be watched; the session has to end.
    pub fn run(&mut self, key: u32, turn: &mut Turn, tools: &mut Tools, registry: &Registry) -> io::Result<Stop> {
        let mut fresh = None;
        let stop = loop {
            let step = self.session.next(turn);
            if fresh.as_ref().is_some_and(|fresh: &Fresh| !fresh.is_for(step)) {
                self.keep(&mut fresh, &tools.buffer);
            }
            match step {
                Step::Read { from, by: Method::Copy } => fresh = self.receive(from, &mut tools.buffer, turn),
                Step::Read { from, by: Method::Splice } => self.splice_in(from, &mut tools.pipes, turn),
                Step::Write { to, by: Method::Copy } => match &mut fresh {
                    Some(fresh) => self.send_fresh(to, fresh, &tools.buffer),
                    None => self.send_kept(to),
                },
                Step::Write { to, by: Method::Splice } => self.splice_out(to),
                Step::Finish { to } => {
                    let done = rustix::net::shutdown(&self.sockets[to as usize], Shutdown::Write).is_ok();
                    self.session.finished(to, done);
                }
                Step::Inspect { side } => {
                    let broken =
                        !matches!(rustix::net::sockopt::socket_error(&self.sockets[side as usize]), Ok(Ok(())));
                    self.session.inspected(side, broken);
                }
                Step::Watch { side, writes } => self.watch(key, side, writes, registry)?,
                Step::Wait => break Stop::Waits,
                Step::Yield => break Stop::Yields,
                Step::Over(over) => break Stop::Over(over),
            }
        };
        self.give_back(&mut tools.pipes);
        Ok(stop)
    }

    fn receive(&mut self, from: Side, buffer: &mut [u8], turn: &mut Turn) -> Option<Fresh> {
        let room = buffer.len();
        let got = match retry_on_intr(|| {
            rustix::net::recv(&self.sockets[from as usize], &mut *buffer, RecvFlags::empty())
        }) {
            Ok((0, _)) => Got::End,
            Ok((count, _)) => {
                self.session.read(from, Method::Copy, Got::Bytes { count: count as u32, drained: count < room }, turn);
                return Some(Fresh { from, begin: 0, end: count });
            }
            Err(Errno::AGAIN) => Got::Nothing,
            Err(_) => Got::Failed,
        };
        self.session.read(from, Method::Copy, got, turn);
        None
    }

    fn send_fresh(&mut self, to: Side, fresh: &mut Fresh, buffer: &[u8]) {
        let put = send(&self.sockets[to as usize], &buffer[fresh.begin..fresh.end]);
        match put {
            Put::Bytes { count, .. } => fresh.begin += count as usize,
            Put::Nothing => {}
            Put::Failed => fresh.begin = fresh.end,
        }
        self.session.wrote(to, put);
    }

    fn send_kept(&mut self, to: Side) {
        let carried = &mut self.carried[to.other() as usize];
        let Carried::Bytes(kept) = carried else { return self.session.wrote(to, Put::Failed) };
        let put = send(&self.sockets[to as usize], &kept.bytes[kept.written..]);
        if let Put::Bytes { count, .. } = put {
            kept.written += count as usize;
        }
        if put == Put::Failed || kept.written == kept.bytes.len() {
            *carried = Carried::Nothing;
        }
        self.session.wrote(to, put);
    }

    /// Puts aside what the buffer holds: it is needed for something else.
    fn keep(&mut self, fresh: &mut Option<Fresh>, buffer: &[u8]) {
        if let Some(Fresh { from, begin, end }) = fresh.take()
            && begin < end
        {
            self.carried[from as usize] = Carried::keep(buffer[begin..end].into());
        }
    }

    fn splice_in(&mut self, from: Side, pipes: &mut Pipes, turn: &mut Turn) {
        let carried = &mut self.carried[from as usize];
        if !matches!(carried, Carried::Piped(..)) {
            let Some(pipe) = pipes.take() else { return self.session.without_pipe(from) };
            *carried = Carried::Piped(pipe, 0);
        }
        let Carried::Piped(pipe, inside) = carried else { return };
        // Only into an empty pipe: then "nothing" can only mean the socket.
        let got = match splice(self.sockets[from as usize].as_fd(), pipe.writing(), SPLICE) {
            Ok(0) => Got::End,
            Ok(count) => {
                *inside = count as u32;
                Got::Bytes { count: count as u32, drained: false }
            }
            Err(Errno::AGAIN) => Got::Nothing,
            // A socket that cannot be spliced from.
            Err(Errno::INVAL) => return self.session.without_pipe(from),
            Err(_) => Got::Failed,
        };
        self.session.read(from, Method::Splice, got, turn);
    }

    fn splice_out(&mut self, to: Side) {
        let Carried::Piped(pipe, inside) = &mut self.carried[to.other() as usize] else {
            return self.session.wrote(to, Put::Failed);
        };
        let put = match splice(pipe.reading(), self.sockets[to as usize].as_fd(), *inside as usize) {
            // A pipe that holds bytes gives some.
            Ok(0) => Put::Failed,
            Ok(count) => {
                *inside -= count as u32;
                Put::Bytes { count: count as u32, full: false }
            }
            Err(Errno::AGAIN) => Put::Nothing,
            Err(_) => Put::Failed,
        };
        self.session.wrote(to, put);
    }

    fn watch(&mut self, key: u32, side: Side, writes: bool, registry: &Registry) -> io::Result<()> {
        let descriptor = self.sockets[side as usize].as_raw_fd();
        let token = match side {
            Side::Client => Source::Client(key),
            Side::Endpoint => Source::Endpoint(key),
        };
        if self.session.is_watched(side) {
            registry.reregister(&mut SourceFd(&descriptor), token.token(), interest(writes))?;
        } else {
            registry.register(&mut SourceFd(&descriptor), token.token(), interest(writes))?;
        }
        self.session.watched(side, writes);
        Ok(())
    }

    /// Pipes that nothing is to be written from any more go back to the others.
    fn give_back(&mut self, pipes: &mut Pipes) {
        for from in Side::BOTH {
            if self.session.held(from) == 0 {
                self.carried[from as usize].empty(pipes);
            }
        }
    }

    /// Closes both sockets; those named get a reset in the place of an end.
    pub fn close(mut self, reset: &[Side], pipes: &mut Pipes) {
        reset.iter().for_each(|side| reset_on_close(&self.sockets[*side as usize]));
        self.carried.iter_mut().for_each(|carried| carried.empty(pipes));
    }
}

impl Fresh {
    /// Whether `step` is to write these bytes.
    fn is_for(&self, step: Step) -> bool {
        step == Step::Write { to: self.from.other(), by: Method::Copy }
    }
}

impl Carried {
    fn keep(bytes: Box<[u8]>) -> Self {
        Self::Bytes(Box::new(Kept { bytes, written: 0 }))
    }

    fn empty(&mut self, pipes: &mut Pipes) {
        if let Self::Piped(pipe, inside) = std::mem::take(self) {
            pipes.give(pipe, inside == 0);
        }
    }
}

/// What a socket of a session is watched for. Urgent marks count: a read ends before one, though more waits behind it.
pub fn interest(writes: bool) -> Interest {
    let reads = Interest::READABLE.add(Interest::PRIORITY);
    if writes { reads.add(Interest::WRITABLE) } else { reads }
}

/// Has a socket send a reset when it is closed.
pub fn reset_on_close(socket: &OwnedFd) {
    // A Unix socket has no resets; it is closed as it is.
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> Put {
    match retry_on_intr(|| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)) {
        Ok(count) => Put::Bytes { count: count as u32, full: count < bytes.len() },
        Err(Errno::AGAIN) => Put::Nothing,
        Err(_) => Put::Failed,
    }
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, count: usize) -> rustix::io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    retry_on_intr(|| rustix::pipe::splice(from, None, to, None, count, flags))
}
