//! A session before both connections are established: reads the PROXY header and the ClientHello if needed, picks an
//! endpoint and connects to it, and tries another one on failure. Until then no byte of the client was relayed, so a
//! retry is safe.

pub mod preface;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use mio::Registry;
use mio::unix::SourceFd;
use smallvec::SmallVec;

use super::life::{Life, Target};
use super::listener::L4Listener;
use super::relay::{Relay, interest, reset_on_close};
use super::session::{Readiness, Side};
use super::sni::HelloReader;
use super::token::Source;
use super::upstreams::L4Upstream;
use crate::base::addr::canonical;
use crate::base::error::{Error, Kind, Retry, Side as Blame};
use crate::config::model::{ProxyProtocol, SendProxyProtocol};
use crate::net::connect::explain;
use crate::net::connecting;
use crate::net::proxy_protocol::{self, Transport};
use crate::route::l4::Layer4;
use crate::telemetry::WorkerTelemetry;
use crate::upstream::balance::EndpointIndex;

/// A session that is not yet between two connections.
pub struct Opening {
    client: OwnedFd,
    phase: Phase,
    /// What the client has sent and its endpoint is to get.
    bytes: Vec<u8>,
    /// What was heard of the client meanwhile.
    heard: Readiness,
    is_watched: bool,
    tried: SmallVec<[EndpointIndex; 4]>,
    /// The connection that is being made, and whether it is watched.
    endpoint: Option<(OwnedFd, bool)>,
    /// The attempt that is under way.
    attempt: Instant,
    /// Why the last one came to nothing.
    failure: Option<Error>,
}

enum Phase {
    Header,
    Hello(HelloReader),
    Connecting,
}

/// How far it came.
pub enum Advance {
    /// It waits for one of its sockets, or for its deadline.
    Waits,
    /// Both connections stand.
    /// The endpoint's, and whether it is watched.
    Opened((OwnedFd, bool)),
    /// It came to nothing.
    Failed(Error),
}

/// What it needs of the worker.
pub struct Ground<'a> {
    /// The number that events name the session by.
    pub key: u32,
    /// Where sockets are watched.
    pub registry: &'a Registry,
    /// What the worker counts.
    pub telemetry: &'a WorkerTelemetry,
    /// What bytes are received into.
    pub buffer: &'a mut [u8],
    /// The worker's clock.
    pub now: Instant,
}

/// Endpoints that one session tries, the first included: who waits has others to turn to as well.
const MAX_ATTEMPTS: u32 = 4;

impl Opening {
    /// A connection of a client of `listener` that was just accepted.
    ///
    /// # Errors
    /// It is to be closed, unheard.
    pub fn new(client: OwnedFd, listener: &L4Listener, life: &Life, now: Instant) -> Result<Self, (OwnedFd, Error)> {
        let phase = match preface::expects_header(listener, life.peer()) {
            Ok(true) => Phase::Header,
            Ok(false) => Self::after_header(listener),
            Err(error) => return Err((client, error)),
        };
        Ok(Self {
            client,
            phase,
            bytes: Vec::new(),
            heard: Readiness { readable: true, ..Readiness::default() },
            is_watched: false,
            tried: SmallVec::new(),
            endpoint: None,
            attempt: now,
            failure: None,
        })
    }

    fn after_header(listener: &L4Listener) -> Phase {
        match &*listener.way {
            Layer4::To(_) => Phase::Connecting,
            Layer4::ByHello(_) => Phase::Hello(HelloReader::default()),
        }
    }

    /// What an event said of one side.
    pub fn ready(&mut self, side: Side, readiness: Readiness) {
        if side == Side::Client {
            self.heard.readable |= readiness.readable || readiness.fault;
            self.heard.drains |= readiness.drains;
            self.heard.fault |= readiness.fault;
        }
    }

    /// Goes on as far as it can without waiting.
    pub fn advance(&mut self, life: &mut Life, ground: &mut Ground<'_>) -> Advance {
        match self.go_on(life, ground) {
            Ok(Some(endpoint)) => Advance::Opened(endpoint),
            Ok(None) => match self.watch(ground) {
                Ok(()) => Advance::Waits,
                Err(error) => Advance::Failed(Error::internal("a socket cannot be watched").because(error)),
            },
            Err(error) => Advance::Failed(error),
        }
    }

    fn go_on(&mut self, life: &mut Life, ground: &mut Ground<'_>) -> Result<Option<(OwnedFd, bool)>, Error> {
        loop {
            let asked = match &mut self.phase {
                Phase::Header => match self.read_header(life, ground.telemetry)? {
                    true => continue,
                    false => self.receive(ground.buffer)?,
                },
                Phase::Hello(_) => match self.read_hello(life, ground.telemetry)? {
                    true => continue,
                    false => self.receive(ground.buffer)?,
                },
                Phase::Connecting => return self.connect(life, ground),
            };
            if !asked {
                return Ok(None);
            }
        }
    }

    fn connect(&mut self, life: &mut Life, ground: &Ground<'_>) -> Result<Option<(OwnedFd, bool)>, Error> {
        if self.heard.fault && !matches!(rustix::net::sockopt::socket_error(&self.client), Ok(Ok(()))) {
            return Err(gone("the connection was reset"));
        }
        loop {
            if let Some((endpoint, is_watched)) = self.endpoint.take() {
                let Some(target) = &life.target else { return Err(Error::internal("a connection to nobody")) };
                match connecting::progress(&endpoint, &target.endpoint()?.address) {
                    Ok(true) => {
                        life.connected(self.attempt, ground.now);
                        return Ok(Some((endpoint, is_watched)));
                    }
                    Ok(false) => {
                        self.endpoint = Some((endpoint, is_watched));
                        return Ok(None);
                    }
                    Err(error) => self.failed(error, life, ground.telemetry)?,
                }
            }
            self.begin(life, ground)?;
        }
    }

    /// Begins a connection to the next endpoint.
    fn begin(&mut self, life: &mut Life, ground: &Ground<'_>) -> Result<(), Error> {
        loop {
            let upstream = self.upstream(life)?;
            let key = if upstream.asks_for_key() { life.key(&upstream) } else { None };
            let pick = match upstream.pick(key, &self.tried) {
                Some(pick) if self.tried.contains(&pick.index()) => None,
                Some(_) if life.attempts == MAX_ATTEMPTS => None,
                None if self.failure.is_none() => return Err(out(&upstream)),
                pick => pick,
            };
            let Some(pick) = pick else {
                return Err(self.failure.take().unwrap_or_else(|| out(&upstream)));
            };
            self.tried.push(pick.index());
            life.attempts += 1;
            self.attempt = ground.now;
            ground.telemetry.counters.upstream_connects.add(1);
            let begun = upstream.begin(pick.endpoint());
            life.target = Some(Target::picked(upstream, pick));
            match begun {
                Ok(endpoint) => {
                    self.endpoint = Some((endpoint, false));
                    return Ok(());
                }
                Err(error) => self.failed(error, life, ground.telemetry)?,
            }
        }
    }

    fn upstream(&self, life: &Life) -> Result<Rc<L4Upstream>, Error> {
        let upstream = match (&life.target, &*life.listener().way) {
            (Some(target), _) => Some(target.upstream()),
            (None, Layer4::To(upstream)) => life.listener().upstream(*upstream),
            (None, Layer4::ByHello(_)) => None,
        };
        upstream.cloned().ok_or_else(|| Error::internal("a listener that leads nowhere"))
    }

    /// Notes that an attempt came to nothing.
    ///
    /// # Errors
    /// It is no fault of the endpoint: another would fare no better.
    fn failed(&mut self, error: io::Error, life: &Life, telemetry: &WorkerTelemetry) -> Result<(), Error> {
        self.note(explain(error), life, telemetry)
    }

    fn note(&mut self, error: Error, life: &Life, telemetry: &WorkerTelemetry) -> Result<(), Error> {
        telemetry.counters.upstream_connect_failures.add(1);
        if error.side() == Blame::Internal {
            return Err(error);
        }
        if let Some(target) = &life.target {
            target.failed(error.kind());
        }
        self.failure = Some(error);
        Ok(())
    }

    /// Its time is up: an attempt is given up for the next, anything else ends here.
    pub fn overdue(&mut self, life: &mut Life, ground: &mut Ground<'_>) -> Advance {
        let late = match self.phase {
            Phase::Header => {
                ground.telemetry.counters.proxy_headers_refused.add(1);
                (Kind::RequestHeaderTimeout, "the PROXY header did not come in time")
            }
            Phase::Hello(_) => (Kind::ClientStall, "the ClientHello did not come in time"),
            Phase::Connecting => {
                self.endpoint = None;
                let reason = "the endpoint did not answer the connection attempt";
                let error = Error::upstream(Kind::ConnectionTimeout, Retry::Always, reason);
                return match self.note(error, life, ground.telemetry) {
                    Ok(()) => self.advance(life, ground),
                    Err(error) => Advance::Failed(error),
                };
            }
        };
        Advance::Failed(Error::downstream(late.0, late.1))
    }

    /// When it is overdue.
    pub fn deadline(&self, life: &Life) -> Instant {
        match (&self.phase, &life.target) {
            (Phase::Connecting, Some(target)) => self.attempt + target.upstream().config().timeouts.connect,
            // One for the header, and one for the ClientHello behind it.
            (Phase::Hello(_), _) if life.config().proxy_protocol != ProxyProtocol::Off => {
                life.began() + 2 * life.config().timeouts.handshake
            }
            _ => life.began() + life.config().timeouts.handshake,
        }
    }

    fn watch(&mut self, ground: &Ground<'_>) -> io::Result<()> {
        if !self.is_watched {
            watch(&self.client, Source::Client(ground.key), false, ground.registry)?;
            self.is_watched = true;
        }
        if let Some((endpoint, is_watched)) = &mut self.endpoint
            && !*is_watched
        {
            watch(endpoint, Source::Endpoint(ground.key), true, ground.registry)?;
            *is_watched = true;
        }
        Ok(())
    }

    /// The session between the client and the endpoint it was opened to.
    pub fn into_relay(self, (endpoint, is_watched): (OwnedFd, bool), life: &Life) -> Relay {
        let mut preface = Vec::new();
        if let Some(target) = &life.target {
            let version = target.upstream().config().send_proxy_protocol;
            if version != SendProxyProtocol::Off {
                let local = life.local().or_else(|| local_address(&self.client));
                proxy_protocol::write(&mut preface, version, Transport::Stream, life.client(), local, life.tlvs());
            }
        }
        if preface.is_empty() {
            preface = self.bytes;
        } else {
            preface.extend_from_slice(&self.bytes);
        }
        let mut relay = Relay::new(self.client, endpoint, preface);
        let session = relay.session();
        if self.is_watched {
            session.watched(Side::Client, false);
        }
        if is_watched {
            session.watched(Side::Endpoint, true);
        }
        session.ready(Side::Client, self.heard);
        relay
    }

    /// Closes what is open; with `reset` the client learns that something failed.
    pub fn close(self, reset: bool) {
        if reset {
            reset_on_close(&self.client);
        }
    }
}

fn watch(socket: &OwnedFd, source: Source, writes: bool, registry: &Registry) -> io::Result<()> {
    registry.register(&mut SourceFd(&socket.as_raw_fd()), source.token(), interest(writes))
}

fn local_address(socket: &impl AsFd) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok().map(canonical)
}

fn gone(reason: &'static str) -> Error {
    Error::downstream(Kind::ClientGone, reason)
}

fn out(upstream: &L4Upstream) -> Error {
    Error::upstream(Kind::DestinationUnavailable, Retry::Never, upstream.why_none())
}
