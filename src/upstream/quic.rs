//! Raw QUIC to an endpoint: connections shared by the streams of many clients, connections for one client alone, and,
//! for endpoints of other kinds, the socket of one stream. The pool opens another shared connection when streams are
//! used up.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use quinn::{RecvStream, SendStream};
use tokio::time::Instant;

use super::connector;
use super::pool::EndpointPool;
use super::sessions::{Life, Multiplexed, Place, Sessions};
use super::silence::Heard;
use super::worker::{Pick, WorkerEndpoint, WorkerUpstream};
use crate::base::drain::Flag;
use crate::base::error::{Error, Kind, Retry};
use crate::base::stream_code::StreamCode;
use crate::body::ledger::Measured;
use crate::body::phase_clock::PhaseClock;
use crate::net::io::Socket;
use crate::net::timer;
use crate::telemetry::counters::Counters;
use crate::transport::quic::client::Early;
use crate::transport::quic::{self, Connection};

/// One shared connection.
pub(super) struct Shared {
    life: Life,
    connection: Connection,
    /// Whether the endpoint answered the handshake and took what was sent ahead of it.
    early: Cell<EarlyData>,
    heard: Heard,
    /// Raised when it was taken: streams that it was not taken of end, and keep what they hold until then.
    settled: Rc<Flag>,
}

/// What became of what was sent before the endpoint had answered (0-RTT, RFC 9001 §4.6).
#[derive(Clone, Copy, PartialEq, Eq)]
enum EarlyData {
    /// It is not known yet.
    Sent,
    /// It was taken, or nothing was sent.
    Taken,
    /// The endpoint answered, and took nothing of it.
    Refused,
    /// The endpoint did not answer.
    Unanswered,
}

/// A stream's place on its connection, to be kept as long as the stream.
pub struct StreamPlace(Place<Shared>);

/// A stream of a shared connection.
pub type Placed = ((SendStream, RecvStream), StreamPlace);

/// Shared connections of one worker to one endpoint. An endpoint that allows so few streams that these do not do is full.
const MAX_CONNECTIONS: usize = 32;

impl WorkerUpstream {
    /// A stream on a connection to the endpoint that others use too; nothing was sent on it. Waits for connections of others
    /// twice the connect timeout at the most, and once for its own and for a stream on that. Cancel-safe.
    ///
    /// # Errors
    /// The endpoint could not be reached or allows no more streams: always worth another endpoint.
    pub async fn quic_stream(&self, pick: &Pick, clock: &PhaseClock) -> Result<Placed, Error> {
        let (endpoint, pool) = (&pick.endpoint, &pick.endpoint.pool);
        let mut until = None;
        loop {
            if let Some(placed) = pool.quic.find(Shared::open_now) {
                self.pools.counters().upstream_reuses.add(1);
                return Ok(placed);
            }
            if pool.connecting.under_way() > 0 {
                let limit = self.upstream().config.timeouts.connect * 2;
                pool.connecting.wait(*until.get_or_insert_with(|| Instant::now() + limit)).await?;
                continue;
            }
            if pool.quic.len() >= MAX_CONNECTIONS {
                return Err(full());
            }
            let attempt = pool.connecting.attempt();
            let opened = self.quic_opened(endpoint, clock).await;
            if let Err(error) = &opened {
                pool.connecting.failed(error);
            }
            // After the connection was shared or the failure noted: those who wait look again now.
            drop(attempt);
            return opened;
        }
    }

    async fn quic_opened(&self, endpoint: &Rc<WorkerEndpoint>, clock: &PhaseClock) -> Result<Placed, Error> {
        let (upstream, counters) = (self.upstream(), self.pools.counters());
        let (reached, sources) = (&endpoint.endpoint, &self.sources);
        // Not right after it came to nothing.
        let may_be_early = !endpoint.pool.waits_for_handshake.take();
        let (connection, early) =
            connector::connect_quic(upstream, reached, counters, clock, sources, may_be_early).await?;
        let shared = Shared::start(connection, &endpoint.pool, early.is_some());
        if let Some(early) = early {
            let limit = upstream.config.timeouts.connect;
            let counters = Arc::clone(counters);
            tokio::task::spawn_local(see_through(Rc::clone(&shared), Rc::clone(endpoint), early, limit, counters));
        }
        // With the first stream's place the connection is not idle while that is waited for.
        let place = shared.stream();
        match timer::timeout(upstream.config.timeouts.connect, shared.connection.open_bi()).await {
            Ok(Ok(stream)) => Ok((stream, place)),
            Ok(Err(error)) => {
                let reason = "the endpoint closed the connection before a stream was opened";
                Err(Error::upstream(Kind::ConnectionTerminated, Retry::Always, reason).because(error))
            }
            Err(timer::Elapsed) => Err(full()),
        }
    }

    /// A connection to the endpoint for one client alone; whoever holds it closes it. Cancel-safe.
    ///
    /// # Errors
    /// The endpoint could not be reached: always worth another.
    pub async fn quic_connection(&self, pick: &Pick, clock: &PhaseClock) -> Result<Connection, Error> {
        let (upstream, counters) = (self.upstream(), self.pools.counters());
        let endpoint = &pick.endpoint.endpoint;
        Ok(connector::connect_quic(upstream, endpoint, counters, clock, &self.sources, false).await?.0)
    }

    /// A connection of TCP or to a Unix socket for one stream, on which `preface` was sent. Cancel-safe.
    ///
    /// # Errors
    /// The endpoint could not be reached: always worth another.
    pub async fn plain_socket(&self, pick: &Pick, clock: &PhaseClock, preface: Option<&[u8]>) -> Result<Socket, Error> {
        let (upstream, counters) = (self.upstream(), self.pools.counters());
        connector::plain(upstream, &pick.endpoint.endpoint, counters, clock, &self.sources, preface).await
    }

    /// What this worker measures of its sessions.
    pub fn sessions_measured(&self) -> &Rc<Measured> {
        self.sessions_measured.get_or_init(|| self.pools.sessions_measured(&self.upstream().name))
    }
}

/// Waits for the end of a handshake that something was sent ahead of. Where it was not taken, the streams of the connection are
/// void: sessions begin anew on another, whose handshake is waited for.
async fn see_through(
    shared: Rc<Shared>,
    endpoint: Rc<WorkerEndpoint>,
    early: Early,
    limit: Duration,
    counters: Arc<Counters>,
) {
    let became = match timer::timeout(limit, early.is_taken()).await {
        Ok(true) => EarlyData::Taken,
        Ok(false) if shared.connection.close_reason().is_none() => EarlyData::Refused,
        _ => EarlyData::Unanswered,
    };
    shared.early.set(became);
    if became == EarlyData::Taken {
        return shared.settled.raise();
    }
    shared.life.pool().waits_for_handshake.set(true);
    shared.retire();
    if became == EarlyData::Unanswered {
        let kind = Kind::ConnectionTimeout;
        counters.upstream_connect_failures.add(1);
        endpoint.endpoint.state.connect_failed(kind, SystemTime::now());
        endpoint.endpoint.failed(kind);
        quic::close(&shared.connection, StreamCode::Timeout);
    }
}

impl Shared {
    /// Shares a new connection; `early`: its handshake is under way still.
    fn start(connection: Connection, pool: &Rc<EndpointPool>, early: bool) -> Rc<Self> {
        let settled = Rc::<Flag>::default();
        if !early {
            settled.raise();
        }
        let shared = Rc::new(Self {
            life: Life::new(pool, false),
            connection,
            heard: Heard::default(),
            early: Cell::new(if early { EarlyData::Sent } else { EarlyData::Taken }),
            settled,
        });
        shared.begin();
        let watched = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            let error = watched.connection.closed().await;
            tracing::debug!(%error, "a QUIC connection to an endpoint ended");
            watched.ended();
        });
        shared
    }

    /// A stream, where the endpoint allows one more at once.
    fn open_now(self: &Rc<Self>) -> Option<Placed> {
        if self.life.is_retired() || !self.serves() {
            return None;
        }
        let mut cx = Context::from_waker(Waker::noop());
        match pin!(self.connection.open_bi()).poll(&mut cx) {
            Poll::Ready(Ok(stream)) => Some((stream, self.stream())),
            _ => None,
        }
    }
}

impl Multiplexed for Shared {
    type Stream = StreamPlace;

    fn life(&self) -> &Life {
        &self.life
    }

    fn among(pool: &EndpointPool) -> &Sessions<Self> {
        &pool.quic
    }

    /// Only trying tells.
    fn free(&self) -> usize {
        usize::from(!self.life.is_retired())
    }

    fn serves(&self) -> bool {
        self.heard.answers(&self.connection.stats(), self.life.pool().now())
    }

    fn close(&self) {
        quic::close(&self.connection, StreamCode::Closing);
    }
}

impl From<Place<Shared>> for StreamPlace {
    fn from(place: Place<Shared>) -> Self {
        Self(place)
    }
}

impl StreamPlace {
    fn shared(&self) -> &Rc<Shared> {
        self.0.session()
    }

    /// Raised once it is known that the endpoint takes what was sent ahead of its answer to the handshake; mostly at once.
    pub fn settled(&self) -> Rc<Flag> {
        Rc::clone(&self.shared().settled)
    }

    /// Whether the endpoint is known to have taken what it was sent.
    pub fn was_heard(&self) -> bool {
        self.shared().early.get() == EarlyData::Taken
    }

    /// What a stream came to that it was not.
    pub fn unheard(&self) -> StreamCode {
        match self.shared().early.get() {
            EarlyData::Refused => StreamCode::Closing,
            _ if self.shared().connection.close_reason().is_none() => StreamCode::Closing,
            _ => StreamCode::Timeout,
        }
    }

    /// The connection takes no new streams any more, as its endpoint said.
    pub fn retire(&self) {
        self.shared().retire();
    }
}

fn full() -> Error {
    let reason = "the endpoint allows no more streams";
    Error::upstream(Kind::ConnectionLimitReached, Retry::Always, reason)
}
