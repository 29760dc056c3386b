//! HTTP/3 connections to an endpoint. Each is shared by as many requests as its windows and the endpoint allow; the
//! pool opens another one when they are used up. The counterpart of `http2` over QUIC.

mod handshake;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use quinn::ConnectionStats;

use self::handshake::Handshake;
use super::client::{Answer, SendFailure, StreamPlace, Upgraded};
use super::endpoint::EndpointState;
use super::failure::{self, Progress};
use super::pool::EndpointPool;
use super::sessions::{Life, Multiplexed, Place, Sessions};
use super::silence::Heard;
use crate::base::error::{Error, Kind, Retry};
use crate::body::Body;
use crate::body::incoming::Incoming;
use crate::body::interim::Hearing;
use crate::body::tunnel::{Http3Tunnel, Outgoing, TunnelBody};
use crate::config::model::QuicTransport;
use crate::http3::{Closed, Code, Config, SendError, Sender, client};
use crate::net::timer;
use crate::telemetry::counters::Counters;
use crate::transport::quic::client::Early;
use crate::transport::quic::{self, Connection};

/// Streams on one connection, however many the endpoint allows and the windows bear: as on HTTP/2.
pub(super) const MAX_STREAMS: usize = super::http2::MAX_STREAMS;
/// Bytes of an answer's field section, as on HTTP/1 and HTTP/2.
const MAX_FIELD_SECTION: u64 = 64 * 1024;

/// One connection and its streams.
pub(super) struct Shared {
    life: Life,
    /// Dropping it lets open streams finish and then closes the connection.
    sender: RefCell<Option<Sender>>,
    connection: Connection,
    counters: Arc<Counters>,
    /// Bytes of it that were counted already: received, sent.
    counted: Cell<(u64, u64)>,
    max_streams: usize,
    /// Where it was made for what the endpoint said by Alt-Svc: what that is judged by.
    alternative: Option<(Arc<EndpointState>, u16)>,
    handshake: Handshake,
    heard: Heard,
}

/// A stream in the hands of one request.
pub struct Http3(Place<Shared>);

/// Its place on the connection while the answer's body comes.
pub struct StreamGuard {
    _place: Place<Shared>,
}

/// On what terms a connection is used.
pub(super) struct Terms<'a> {
    /// Its windows.
    pub(super) quic: &'a QuicTransport,
    /// The endpoint that said by Alt-Svc that HTTP/3 is to be had at this port.
    pub(super) alternative: Option<(Arc<EndpointState>, u16)>,
    /// Its handshake, where that is still under way, and how long it may take.
    pub(super) early: Option<(Early, Duration)>,
}

/// Starts HTTP/3 on a new connection and spawns the task that drives it.
pub(super) fn start(
    connection: Connection,
    pool: &Rc<EndpointPool>,
    counters: &Arc<Counters>,
    terms: Terms<'_>,
) -> Http3 {
    let (sender, driver) = client::start(connection.clone(), config());
    let shared = Rc::new(Shared {
        life: Life::new(pool, false),
        sender: RefCell::new(Some(sender)),
        connection,
        counters: Arc::clone(counters),
        counted: Cell::default(),
        max_streams: streams_within(terms.quic),
        alternative: terms.alternative,
        handshake: Handshake::new(terms.early.is_some()),
        heard: Heard::default(),
    });
    shared.begin();
    tokio::task::spawn_local(drive(Rc::clone(&shared), driver));
    if let Some((early, limit)) = terms.early {
        tokio::task::spawn_local(see_through(Rc::clone(&shared), early, limit));
    }
    shared.stream()
}

/// What endpoints are promised.
pub(super) fn config() -> Rc<Config> {
    Rc::new(Config { max_field_section_size: MAX_FIELD_SECTION, ..Config::default() })
}

/// As many as may all be stalled by clients who read nothing while the connection still moves: the window of a connection is no
/// less than those of its streams together.
fn streams_within(quic: &QuicTransport) -> usize {
    let borne = quic.connection_window / quic.stream_window.max(1);
    (borne as usize).clamp(1, MAX_STREAMS)
}

async fn drive(shared: Rc<Shared>, driver: impl Future<Output = Closed>) {
    let closed = driver.await;
    tracing::debug!(code = %closed.code, reason = closed.reason, side = ?closed.side, "an HTTP/3 connection ended");
    if let Some((endpoint, _)) = &shared.alternative
        && quic::fell_silent(&shared.connection)
    {
        endpoint.alternative.broke(endpoint.age());
    }
    shared.meter();
    shared.ended();
}

/// Waits for the end of a handshake that something was sent ahead of. Where the endpoint did not take it, what was sent on this
/// connection is void, its control stream too: another one begins anew.
async fn see_through(shared: Rc<Shared>, early: Early, limit: Duration) {
    let taken = matches!(timer::timeout(limit, early.is_taken()).await, Ok(true));
    shared.handshake.end(taken);
    if !taken {
        shared.life.pool().waits_for_handshake.set(true);
        shared.retire();
        quic::close(&shared.connection, Code::NO_ERROR.value());
    }
}

impl Shared {
    /// Whether requests still have a place on it.
    fn takes_requests(&self) -> bool {
        let sender = self.sender.borrow();
        let takes = !self.life.is_retired() && !self.heard.is_given_up();
        takes && sender.as_ref().is_some_and(|sender| sender.is_open() && !sender.is_going_away())
    }

    /// Whether what it was made for still stands.
    fn is_wanted(&self) -> bool {
        let offered = |endpoint: &EndpointState| endpoint.alternative.port(endpoint.age());
        self.alternative.as_ref().is_none_or(|(endpoint, port)| offered(endpoint) == Some(*port))
    }

    /// Counts what passed since the last time; whoever shows it sees it this late.
    fn meter(&self) -> ConnectionStats {
        let stats = self.connection.stats();
        let (received, sent) = (stats.udp_rx.bytes, stats.udp_tx.bytes);
        let (before, sent_before) = self.counted.replace((received, sent));
        self.counters.bytes_upstream_in.add(received - before);
        self.counters.bytes_upstream_out.add(sent - sent_before);
        stats
    }
}

impl Multiplexed for Shared {
    type Stream = Http3;

    fn life(&self) -> &Life {
        &self.life
    }

    fn among(pool: &EndpointPool) -> &Sessions<Self> {
        &pool.http3
    }

    fn free(&self) -> usize {
        let waits = self.sender.borrow().as_ref().is_some_and(|sender| !sender.has_capacity());
        if waits || !self.takes_requests() {
            return 0;
        }
        self.max_streams.saturating_sub(self.life.open())
    }

    fn serves(&self) -> bool {
        self.heard.answers(&self.meter(), self.life.pool().now()) && self.takes_requests() && self.is_wanted()
    }

    fn close(&self) {
        self.sender.take();
    }
}

impl From<Place<Shared>> for Http3 {
    fn from(place: Place<Shared>) -> Self {
        Self(place)
    }
}

impl Http3 {
    pub(super) fn is_reused(&self) -> bool {
        self.0.is_reused()
    }

    /// Whether the endpoint takes extended CONNECT (RFC 9220 §3), once it has said so. Cancel-safe.
    pub(super) async fn takes_connect(&self) -> bool {
        let sender = self.0.session().sender.borrow().clone();
        match sender {
            Some(sender) => sender.connect_protocol_allowed().await,
            None => false,
        }
    }

    /// Sends one request on this stream. Dropping the future cancels it.
    pub(super) fn send(self, mut request: Request<Body>) -> Pin<Box<dyn Future<Output = Result<Answer, SendFailure>>>> {
        let sender = self.0.session().sender.borrow().clone();
        *request.version_mut() = Version::HTTP_3;
        // RFC 9114 §4.3.1: `:authority` takes its place, from the URI.
        request.headers_mut().remove(header::HOST);
        if let Some((_, port)) = &self.0.session().alternative {
            say_where(&mut request, *port);
        }
        let outgoing = (request.method() == Method::CONNECT).then(|| {
            let (outgoing, sent) = TunnelBody::begin();
            *request.body_mut() = Body::Tunnel(sent);
            outgoing
        });
        // Boxed: it would lie in the future of every request, of those on HTTP/1 and HTTP/2 too.
        Box::pin(self.exchange(sender, request, outgoing))
    }

    /// `outgoing`: our direction of the tunnel that is asked for.
    async fn exchange(
        self,
        sender: Option<Sender>,
        request: Request<Body>,
        outgoing: Option<Outgoing>,
    ) -> Result<Answer, SendFailure> {
        let shared = self.0.session();
        let early = !shared.handshake.is_done() && handshake::may_go_early(&request);
        let ready = early || shared.handshake.ended_well().await;
        let Some(sender) = sender.filter(|_| ready) else {
            return Err(SendFailure::new(failure::session_gone(), Some(request)));
        };
        let client_knows = request.headers().contains_key("early-data");
        let hearing = Hearing::of(&request);
        let hear = move |head: Response<()>| {
            if let Some(hearing) = hearing {
                hearing.hear(head.status(), head.headers());
            }
        };
        match sender.send(request, hear).await {
            Ok(response) if self.is_disowned(response.status()) => {
                Err(SendFailure::new(unprocessed("the endpoint does not answer for this host over HTTP/3"), None))
            }
            Ok(response) if early && handshake::wants_to_wait(response.status(), client_knows) => {
                shared.handshake.ended_well().await;
                Err(SendFailure::new(unprocessed("the endpoint wants no early data"), None))
            }
            Ok(response) if response.status().is_success() && outgoing.is_some() => {
                let (head, body) = response.into_parts();
                let upgraded = outgoing.map(|outgoing| {
                    let tunnel = Http3Tunnel::new(outgoing, body.into(), Some(Box::new(self.0)));
                    Upgraded::ready(Box::new(tunnel))
                });
                Ok(Answer { response: Response::from_parts(head, Incoming::none()), upgraded, stream: None })
            }
            Ok(response) => {
                let response = response.map(Incoming::from);
                Ok(Answer {
                    response,
                    upgraded: None,
                    stream: Some(StreamPlace::Http3(StreamGuard { _place: self.0 })),
                })
            }
            // Safe, so that it may be sent again whatever has become of it.
            Err(failed) if early && !shared.handshake.is_done() => {
                shared.retire();
                shared.life.pool().waits_for_handshake.set(true);
                let error = unprocessed("the endpoint took no early data").because(failed.error);
                Err(SendFailure::new(error, failed.request))
            }
            Err(failed) => Err(self.failed(failed)),
        }
    }

    /// RFC 7838 §6: with a 421 an alternative says that it is none, and that nothing was done. Tells also that it works.
    fn is_disowned(&self, status: StatusCode) -> bool {
        let Some((endpoint, _)) = &self.0.session().alternative else { return false };
        if status != StatusCode::MISDIRECTED_REQUEST {
            endpoint.alternative.worked(|| endpoint.age());
            return false;
        }
        endpoint.alternative.broke(endpoint.age());
        self.0.session().retire();
        true
    }

    fn failed(self, failed: SendError<Body>) -> SendFailure {
        let shared = self.0.session();
        let why = failed.error;
        let error = match &failed.request {
            Some(_) => failure::not_taken(why),
            // An endpoint that does not like our certificate says so when the handshake is over for us (RFC 8446 §4.4.4).
            None => match quic::refusal(&shared.connection) {
                Some(refusal) => refusal,
                None => failure::http3(why, Progress { reused: self.is_reused(), received: false }),
            },
        };
        // At once, not when the connection's task gets to see it: the next try must not land here again.
        if !shared.takes_requests() {
            shared.retire();
        }
        SendFailure::new(error, failed.request)
    }
}

/// Nothing was done for the request: it may be sent again.
fn unprocessed(reason: &'static str) -> Error {
    Error::upstream(Kind::ConnectionTerminated, Retry::Always, reason)
}

/// RFC 7838 §5: the endpoint is told which of its offers was taken.
fn say_where(request: &mut Request<Body>, port: u16) {
    let host = request.uri().host().unwrap_or_default();
    if let Ok(value) = HeaderValue::try_from(format!("{host}:{port}")) {
        request.headers_mut().insert(HeaderName::from_static("alt-used"), value);
    }
}

#[cfg(test)]
mod tests;
