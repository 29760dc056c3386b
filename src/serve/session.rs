//! A session on an HTTP worker: a stream of a raw QUIC connection, or a TCP connection that becomes one. Chooses an
//! endpoint, connects, relays, and records the end like layer 4 does.

mod ending;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::Connection;
use smallvec::SmallVec;

use self::ending::{Ending, ending, refused};
use super::listeners::WorkerListener;
use super::worker::Worker;
use crate::base::drain::Flag;
use crate::base::error::{Error, Kind, Retry};
use crate::base::id::UpstreamId;
use crate::base::stream_code::StreamCode;
use crate::body::phase_clock::{Phase, PhaseClock};
use crate::config::model::{SendProxyProtocol, UpstreamProtocol};
use crate::net::proxy_protocol::{self, Transport};
use crate::net::timer::{self, Instant};
use crate::protocol::quic_stream::end::{End, Stream};
use crate::protocol::quic_stream::{Keeps, Over, Relay, Side};
use crate::proxy::context::Profile;
use crate::snapshot::WorkerSnapshot;
use crate::telemetry::access_log::SessionRecord;
use crate::telemetry::recent::Place;
use crate::telemetry::series::Ended;
use crate::upstream::balance::EndpointIndex;
use crate::upstream::balance::hash::key_of_connection;
use crate::upstream::quic::StreamPlace;
use crate::upstream::worker::{Pick, WorkerUpstream};

/// What the sessions of a listener have in common; they keep the generation that they began with.
pub(super) struct Ground {
    pub(super) worker: Rc<Worker>,
    pub(super) generation: Rc<WorkerSnapshot>,
    pub(super) profile: Rc<Profile>,
}

/// Whose a session is.
#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    /// The client, as a PROXY header of a trusted proxy tells it.
    pub(super) address: Option<SocketAddr>,
    /// The other end of its connection; `None` on a Unix socket.
    pub(super) peer: Option<SocketAddr>,
    /// The address that it connected to.
    pub(super) local: Option<SocketAddr>,
    /// What else a PROXY header told.
    pub(super) tlvs: Box<[u8]>,
    /// The name it asked for.
    pub(super) sni: Option<Rc<str>>,
}

/// Where a session leads.
pub(super) enum Way {
    /// To an endpoint of an upstream: a connection, or a stream of a shared one.
    Shared(UpstreamId),
    /// To the endpoint at the other end of a connection that the client has alone.
    Own(Rc<Own>),
    /// The same, over a stream that goes there alone.
    OwnUnidirectional(Rc<Own>),
    /// To a stream that such an endpoint opened.
    Opened(Rc<Own>, Stream),
}

/// A connection to an endpoint that one client has alone.
pub(super) struct Own {
    pub(super) connection: Connection,
    pub(super) upstream: Rc<WorkerUpstream>,
    pub(super) pick: Pick,
}

/// One session.
struct Session {
    ground: Rc<Ground>,
    client: Rc<Client>,
    at: SystemTime,
    clock: PhaseClock,
    upstream: Option<Rc<WorkerUpstream>>,
    endpoint: Option<Arc<str>>,
    attempts: u32,
}

/// The endpoint's end of a session, and what is held for as long as it lives.
struct Joined {
    end: End,
    preface: Vec<u8>,
    /// Counted as under way until it is dropped.
    _pick: Option<Pick>,
    place: Option<StreamPlace>,
}

/// Endpoints that one session tries, the first included: who waits has others to turn to as well.
const MAX_ATTEMPTS: u32 = 4;
/// How long the last bytes of a session may take to be acknowledged before its connection may be closed.
const LAST_BYTES: Duration = Duration::from_secs(30);

impl Ground {
    /// What holds for sessions that begin now.
    pub(super) fn new(worker: &Rc<Worker>, listener: &WorkerListener) -> Rc<Self> {
        let (generation, profile) = listener.now();
        Rc::new(Self { worker: Rc::clone(worker), generation, profile })
    }

    /// The upstream of this number.
    pub(super) fn upstream(&self, id: UpstreamId) -> Result<&Rc<WorkerUpstream>, Error> {
        self.generation.upstream(id).ok_or_else(|| Error::internal("a listener that leads nowhere"))
    }

    /// Picks an endpoint of `upstream` for `client`.
    pub(super) fn pick(
        &self,
        upstream: &WorkerUpstream,
        client: &Client,
        tried: &[EndpointIndex],
    ) -> Result<Pick, Error> {
        let key = match upstream.asks_for_key() {
            false => None,
            true => {
                let address = client.address.map(|client| client.ip());
                key_of_connection(&upstream.upstream().config.hash_on, client.sni.as_deref(), address)
            }
        };
        upstream.pick(key, tried)
    }
}

/// What of a session is kept for another endpoint, by whether its own is known to take what was sent early.
fn keeps(settled: Option<&Rc<Flag>>) -> Keeps {
    match settled {
        None => Keeps::Nothing,
        Some(settled) if settled.is_raised() => Keeps::First,
        Some(settled) => Keeps::AllUntil(Rc::clone(settled)),
    }
}

/// Relays between `downstream` and wherever `way` leads until both have ended, or `cut` says why they must.
pub(super) async fn relay(
    ground: Rc<Ground>,
    client: Rc<Client>,
    downstream: Relay,
    way: Way,
    cut: impl Future<Output = (Kind, &'static str)>,
) {
    let worker = Rc::clone(&ground.worker);
    worker.counters().sessions.add(1);
    worker.counters().sessions_open.add(1);
    let clock = PhaseClock::new(Instant::now());
    let at = SystemTime::now();
    let mut session = Session { ground, client, at, clock, upstream: None, endpoint: None, attempts: 0 };
    let mut relay = downstream;
    let (ending, joined) = session.run(&mut relay, way, cut).await;
    worker.counters().sessions_open.sub(1);
    session.tell(ending, relay.moved());
    drop(session);
    let _ = timer::timeout(LAST_BYTES, relay.taken()).await;
    // Its connection may be closed from now on.
    drop(joined);
}

impl Session {
    async fn run(
        &mut self,
        relay: &mut Relay,
        mut way: Way,
        cut: impl Future<Output = (Kind, &'static str)>,
    ) -> (Ending, Option<Joined>) {
        let mut cut = pin!(cut);
        let mut tried = SmallVec::<[EndpointIndex; 4]>::new();
        let mut refusal = None;
        loop {
            let connected = tokio::select! {
                biased;
                connected = self.connected(&mut way, &mut tried, refusal.take()) => connected,
                // Dropped, the attempt is given up: nothing of the client was sent.
                (kind, reason) = &mut cut => {
                    relay.cut(StreamCode::TooOld.number());
                    return (Some((kind, reason)), None);
                }
            };
            let mut joined = match connected {
                Ok(joined) => joined,
                Err(error) => {
                    relay.cut(StreamCode::for_kind(error.kind()).number());
                    return (Some((error.kind(), error.reason())), None);
                }
            };
            self.clock.enter(Phase::Body, Instant::now());
            let end = std::mem::replace(&mut joined.end, End::Stream(Stream::nothing()));
            let settled = joined.place.as_ref().map(StreamPlace::settled);
            let keeps = keeps(settled.as_ref());
            relay.join(end, std::mem::take(&mut joined.preface), keeps);
            // What waits for the end of a handshake is woken by it.
            let cut_or_settled = poll_fn(|cx| {
                if let Some(settled) = settled.as_ref().filter(|settled| !settled.is_raised()) {
                    let _ = pin!(settled.raised()).poll(cx);
                }
                cut.as_mut().poll(cx)
            });
            let counters = self.ground.worker.counters();
            let over = relay.run(self.idle(), cut_or_settled, |up, down| {
                counters.bytes_downstream_in.add(up);
                counters.bytes_upstream_out.add(up);
                counters.bytes_upstream_in.add(down);
                counters.bytes_downstream_out.add(down);
            });
            let over = over.await;
            if let (Over::Broken(Side::Upstream, code), Some(place)) = (&over, &joined.place) {
                // What was sent early to nobody may be sent to another.
                let code = if place.was_heard() { *code } else { place.unheard().number() };
                if self.attempts < MAX_ATTEMPTS && relay.take_back(code) {
                    refusal = Some(refused(code));
                    if code == StreamCode::Closing.number() {
                        // The same endpoint, over another connection: whoever takes its place answers there.
                        place.retire();
                        tried.pop();
                    }
                    continue;
                }
            }
            return (ending(over, relay), Some(joined));
        }
    }

    /// The next endpoint's end.
    async fn connected(
        &mut self,
        way: &mut Way,
        tried: &mut SmallVec<[EndpointIndex; 4]>,
        mut failure: Option<Error>,
    ) -> Result<Joined, Error> {
        let id = match way {
            Way::Shared(id) => *id,
            Way::Own(own) => {
                let stream = Box::pin(self.own(own, own.connection.open_bi())).await?;
                let mut stream = Stream::bidirectional(stream);
                stream.announce();
                let preface = self.preface(&own.upstream);
                return Ok(Joined { end: End::Stream(stream), preface, _pick: None, place: None });
            }
            Way::OwnUnidirectional(own) => {
                let stream = Box::pin(self.own(own, own.connection.open_uni())).await?;
                let end = End::Stream(Stream::outgoing(stream));
                return Ok(Joined { end, preface: Vec::new(), _pick: None, place: None });
            }
            Way::Opened(own, stream) => {
                self.leads_to(own);
                let stream = std::mem::replace(stream, Stream::nothing());
                return Ok(Joined { end: End::Stream(stream), preface: Vec::new(), _pick: None, place: None });
            }
        };
        let upstream = Rc::clone(self.ground.upstream(id)?);
        self.upstream = Some(Rc::clone(&upstream));
        loop {
            let pick = match self.ground.pick(&upstream, &self.client, tried) {
                Ok(pick) if !tried.contains(&pick.index()) && self.attempts < MAX_ATTEMPTS => pick,
                Err(error) => return Err(failure.unwrap_or(error)),
                Ok(_) => return Err(failure.unwrap_or_else(|| Error::internal("an endpoint that was never tried"))),
            };
            tried.push(pick.index());
            self.attempts += 1;
            self.endpoint = Some(Arc::clone(&pick.label()));
            let began = Instant::now();
            match self.joined(&upstream, &pick).await {
                Ok(joined) => {
                    pick.endpoint().connected(began.elapsed());
                    return Ok(Joined { _pick: Some(pick), ..joined });
                }
                // Another would fare no better.
                Err(error) if error.side() == crate::base::error::Side::Internal => return Err(error),
                Err(error) => {
                    self.clock.enter(Phase::Queue, Instant::now());
                    failure = Some(error);
                }
            }
        }
    }

    async fn joined(&self, upstream: &WorkerUpstream, pick: &Pick) -> Result<Joined, Error> {
        let preface = self.preface(upstream);
        if upstream.upstream().config.protocol == UpstreamProtocol::Quic {
            let (parts, place) = upstream.quic_stream(pick, &self.clock).await?;
            let mut stream = Stream::bidirectional(parts);
            stream.announce();
            return Ok(Joined { end: End::Stream(stream), preface, _pick: None, place: Some(place) });
        }
        let preface = Some(&*preface).filter(|preface| !preface.is_empty());
        let socket = upstream.plain_socket(pick, &self.clock, preface).await?;
        Ok(Joined { end: End::Socket(socket), preface: Vec::new(), _pick: None, place: None })
    }

    /// A stream of the client's own connection to an endpoint.
    async fn own<S>(
        &mut self,
        own: &Own,
        opening: impl Future<Output = Result<S, quinn::ConnectionError>>,
    ) -> Result<S, Error> {
        self.leads_to(own);
        self.attempts = 1;
        match timer::timeout(own.upstream.upstream().config.timeouts.connect, opening).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                let reason = "the connection to the endpoint was lost";
                Err(Error::upstream(Kind::ConnectionTerminated, Retry::Never, reason).because(error))
            }
            Err(timer::Elapsed) => {
                let reason = "the endpoint allows no more streams";
                Err(Error::upstream(Kind::ConnectionLimitReached, Retry::Never, reason))
            }
        }
    }

    fn leads_to(&mut self, own: &Own) {
        self.upstream = Some(Rc::clone(&own.upstream));
        self.endpoint = Some(Arc::clone(&own.pick.label()));
    }

    /// What the endpoint is told of the client before everything else.
    fn preface(&self, upstream: &WorkerUpstream) -> Vec<u8> {
        let (version, client) = (upstream.upstream().config.send_proxy_protocol, &self.client);
        let mut preface = Vec::new();
        if version != SendProxyProtocol::Off {
            let carrier = Transport::Stream;
            proxy_protocol::write(&mut preface, version, carrier, client.address, client.local, &client.tlvs);
        }
        preface
    }

    /// The silence that ends it.
    fn idle(&self) -> Duration {
        let of_upstream = self.upstream.as_ref().map(|upstream| upstream.upstream().config.timeouts.stream_idle);
        let timeouts = &self.ground.profile.spec.config.timeouts;
        timeouts.session_idle.or(of_upstream).unwrap_or(timeouts.idle)
    }

    fn tell(&self, ending: Ending, (bytes_in, bytes_out): (u64, u64)) {
        let Self { ground, client, .. } = self;
        let (outcome, reason) = ending.map_or((None, ""), |(kind, reason)| (Some(kind), reason));
        let phases = self.clock.read(Instant::now());
        let ended = Ended { status: 0, outcome, reason, phases, bytes_in, bytes_out };
        ground.profile.measured.series.ended(&ended);
        if let Some(upstream) = &self.upstream {
            upstream.sessions_measured().series.ended(&ended);
        }
        let telemetry = ground.worker.telemetry();
        telemetry.counters.outcome(outcome);
        let upstream = self.upstream.as_ref().map(|upstream| &upstream.upstream().name);
        if let Some(kind) = outcome {
            let listener = &ground.profile.measured.name;
            let place = Place { listener, route: None, upstream, endpoint: self.endpoint.as_ref() };
            telemetry.recent.note(kind, reason, 0, place);
        }
        if let Some(logger) = &ground.profile.logger {
            let record = SessionRecord {
                at: self.at,
                mode: ground.profile.spec.config.mode.as_str(),
                client: client.address.map(|client| client.ip()),
                peer: client.peer,
                listener: Arc::clone(&ground.profile.spec.name),
                upstream: upstream.cloned(),
                endpoint: self.endpoint.clone(),
                attempts: self.attempts,
                sni: client.sni.as_deref().map(Box::from),
            };
            logger.log_session(&record, &ended);
        }
    }
}
