//! The listening TCP and Unix sockets of one worker. Connections are accepted in batches, each after taking a permit,
//! so that clients of a full listener wait in the kernel's backlog. Sockets without permits are tried again a little
//! later.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::net::SocketFlags;
use tracing::{debug, error, warn};

use super::life::{Admission, TOO_MANY};
use super::listener::L4Listener;
use super::opening::preface;
use super::token::Source;
use crate::base::addr::{Address, canonical};
use crate::base::limit::{Limit, Permit};
use crate::net::accept::is_of_one_connection;
use crate::net::bind::{BoundSocket, Group};
use crate::net::socket::is_exhausted;
use crate::telemetry::counters::Counters;

/// One listening socket.
pub struct Acceptor {
    socket: OwnedFd,
    is_tcp: bool,
    listener: Rc<L4Listener>,
    state: State,
    /// The last pause after an error of the listener itself.
    pause: Duration,
    is_draining: bool,
    full_logged: Option<Instant>,
    _open: Arc<Group>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Somebody may be waiting.
    Ready,
    /// Nobody was; an event follows.
    Empty,
    /// Nobody is taken in before then.
    Until(Instant),
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Batch {
    /// The socket goes on.
    Open,
    /// It was to be closed when nobody waits, and nobody does.
    Drained,
}

/// A connection that was taken in.
pub type Accepted = (OwnedFd, Option<SocketAddr>, Admission);

/// Accepted in a row before others have their turn.
const BATCH: u32 = 64;
/// How often a full listener is asked again: other workers, and the other plane, give permits back unseen.
const RETRY: Duration = Duration::from_millis(20);
/// The longest pause after an error of the listener.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often one socket says that clients wait.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

impl Acceptor {
    /// Begins to accept on `socket`; `open` is dropped when it is closed.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn listen(
        number: u32,
        listener: Rc<L4Listener>,
        socket: BoundSocket,
        open: Arc<Group>,
        registry: &Registry,
    ) -> io::Result<Self> {
        let is_tcp = matches!(socket.local_address(), Address::Socket(_));
        let socket: OwnedFd = if is_tcp { socket.into_tcp()?.into() } else { socket.into_unix()?.into() };
        let token = Source::Listener(number).token();
        registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self {
            socket,
            is_tcp,
            listener,
            state: State::Ready,
            pause: Duration::ZERO,
            is_draining: false,
            full_logged: None,
            _open: open,
        })
    }

    /// What accepts here from now on.
    pub fn renew(&mut self, listener: Rc<L4Listener>) {
        self.listener = listener;
    }

    /// Whoever waits is still taken in; then the socket is to be closed.
    pub fn drain(&mut self) {
        self.is_draining = true;
        // Past what events have said: what is acknowledged already would be reset by the close.
        if self.state == State::Empty {
            self.state = State::Ready;
        }
    }

    /// Somebody waits.
    pub fn ready(&mut self) {
        if self.state == State::Empty {
            self.state = State::Ready;
        }
    }

    /// When it wants to be asked; `None`: an event comes first.
    pub fn wakes(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Ready => Some(now),
            State::Empty => None,
            State::Until(at) => Some(at),
        }
    }

    /// Takes in some of those who wait.
    pub fn accept(
        &mut self,
        process: &Arc<Limit>,
        counters: &Counters,
        now: Instant,
        mut take: impl FnMut(Accepted, &Rc<L4Listener>),
    ) -> Batch {
        if self.wakes(now).is_none_or(|at| at > now) {
            return Batch::Open;
        }
        self.state = State::Ready;
        for _ in 0..BATCH {
            let Some((process, listener)) = self.permits(process, now) else {
                self.state = State::Until(now + RETRY);
                return Batch::Open;
            };
            match self.accept_one() {
                Ok((socket, peer)) => {
                    self.pause = Duration::ZERO;
                    counters.connections_accepted.add(1);
                    let mut admission = Admission::new(process, listener, None);
                    if self.admit(peer, &mut admission) {
                        take((socket, peer, admission), &self.listener);
                    } else {
                        counters.connections_refused.add(1);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.state = State::Empty;
                    return if self.is_draining { Batch::Drained } else { Batch::Open };
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) if self.is_draining && !is_exhausted(&error) => return Batch::Drained,
                Err(error) => {
                    self.back_off(&error, now);
                    return Batch::Open;
                }
            }
        }
        Batch::Open
    }

    fn permits(&mut self, process: &Arc<Limit>, now: Instant) -> Option<(Permit, Option<Permit>)> {
        let of_listener = match &self.listener.spec.limit {
            Some(limit) => match limit.acquire() {
                Some(permit) => Some(permit),
                None => return self.full("max_connections", limit.max(), now),
            },
            None => None,
        };
        match process.acquire() {
            Some(permit) => Some((permit, of_listener)),
            None => self.full("the descriptor limit", process.max(), now),
        }
    }

    /// An operator must know why clients wait, but not at every one of them.
    fn full<T>(&mut self, limit: &str, connections: u32, now: Instant) -> Option<T> {
        if self.full_logged.is_none_or(|last| now - last >= LOG_INTERVAL) {
            self.full_logged = Some(now);
            warn!(listener = %self.listener.spec.name, limit, connections, "connection limit reached: new clients wait in the backlog");
        }
        None
    }

    fn accept_one(&self) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        // Every option is inherited from the listening socket.
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        if self.is_tcp {
            let (socket, peer) = rustix::net::acceptfrom_with(&self.socket, flags)?;
            Ok((socket, peer.and_then(|peer| SocketAddr::try_from(peer).ok()).map(canonical)))
        } else {
            Ok((rustix::net::accept_with(&self.socket, flags)?, None))
        }
    }

    fn admit(&self, peer: Option<SocketAddr>, admission: &mut Admission) -> bool {
        // Where a proxy speaks for its clients it is they who are counted, when they are known.
        let is_client = matches!(preface::expects_header(&self.listener, peer), Ok(false));
        if !is_client || admission.admit(&self.listener, peer) {
            return true;
        }
        let listener = &self.listener.spec.name;
        debug!(%listener, client.addr = peer.map(tracing::field::display), "closed at accept: {TOO_MANY}");
        false
    }

    fn back_off(&mut self, error: &io::Error, now: Instant) {
        if self.pause.is_zero() {
            error!(%error, "cannot accept connections; clients wait in the backlog in the backlog");
        }
        self.pause = (self.pause * 2).clamp(RETRY, LONGEST_PAUSE);
        self.state = State::Until(now + self.pause);
    }
}
