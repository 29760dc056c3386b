//! A network that loses, doubles, delays and reorders datagrams as a seed says, in a time that passes by itself, between
//! endpoints that are set up as ours are. Nothing of it waits; keys and connection IDs alone differ from run to run.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncUdpSocket, Connection, ConnectionError, Endpoint, EndpointConfig, ReadError, TokioRuntime, UdpPoller,
    WriteError,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Site;
use crate::config::model::{UpstreamProtocol, UpstreamQuic, UpstreamTls};
use crate::transport::quic::congestion::Leaving;
use crate::transport::quic::{self, client, handshake, params};
use crate::transport::tls::client::ClientTls;

/// What a network does to datagrams; shares are of a thousand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) lost: u32,
    pub(crate) doubled: u32,
    /// Held up for as long as the way takes, so that others overtake them.
    pub(crate) late: u32,
    /// One way.
    pub(crate) delay: Duration,
    /// What is larger is lost.
    pub(crate) mtu: usize,
}

impl Weather {
    pub(crate) const FAIR: Self = Self { lost: 0, doubled: 0, late: 0, delay: Duration::from_millis(20), mtu: 1500 };

    /// Bad in a way of its own for each seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self {
            lost: random.u32(0..100),
            doubled: random.u32(0..100),
            late: random.u32(0..300),
            delay: Duration::from_millis(random.u64(1..150)),
            ..Self::FAIR
        }
    }
}

/// The network; cheap to clone.
#[derive(Clone)]
pub(crate) struct Network(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something is on the way that was not.
    sent: Notify,
}

struct State {
    random: fastrand::Rng,
    weather: Weather,
    on_the_way: BTreeMap<(Instant, u64), Datagram>,
    number: u64,
    arrived: HashMap<SocketAddr, Inbox>,
    /// Whose address others see as another.
    seen_as: HashMap<SocketAddr, SocketAddr>,
}

struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Box<[u8]>,
}

#[derive(Default)]
struct Inbox {
    datagrams: VecDeque<Datagram>,
    waker: Option<Waker>,
}

impl Network {
    /// One whose fortunes are those of `seed`.
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        let state = State {
            random: fastrand::Rng::with_seed(seed),
            weather,
            on_the_way: BTreeMap::new(),
            number: 0,
            arrived: HashMap::new(),
            seen_as: HashMap::new(),
        };
        let network = Self(Arc::new(Shared { state: Mutex::new(state), sent: Notify::new() }));
        tokio::task::spawn_local(network.clone().deliver());
        network
    }

    /// Changes the weather.
    pub(crate) fn set(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// From now on others see `host` at this address, and nothing reaches it at another (a NAT has forgotten it).
    pub(crate) fn moves(&self, host: SocketAddr, to: SocketAddr) {
        self.state().seen_as.insert(host, to);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    async fn deliver(self) {
        loop {
            let sent = self.0.sent.notified();
            let next = self.state().on_the_way.keys().next().map(|(due, _)| *due);
            match next {
                None => sent.await,
                Some(due) => tokio::select! {
                    () = sent => {}
                    () = tokio::time::sleep_until(due) => self.state().arrive(),
                },
            }
        }
    }

    fn endpoint(&self, address: SocketAddr, server: Option<quinn::ServerConfig>) -> Endpoint {
        self.state().arrived.insert(address, Inbox::default());
        let socket = Arc::new(Socket { network: self.clone(), address });
        Endpoint::new_with_abstract_socket(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime)).unwrap()
    }
}

impl State {
    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let Weather { lost, doubled, late, delay, mtu } = self.weather;
        let from = *self.seen_as.get(&from).unwrap_or(&from);
        let copies = 1 + u32::from(self.random.u32(0..1000) < doubled);
        for _ in 0..copies {
            let held_up = if self.random.u32(0..1000) < late { delay } else { Duration::ZERO };
            // 28 bytes of it are the headers of IP and UDP.
            if self.random.u32(0..1000) < lost || bytes.len() + 28 > mtu {
                continue;
            }
            self.number += 1;
            let due = (Instant::now() + delay + held_up, self.number);
            self.on_the_way.insert(due, Datagram { from, to, bytes: bytes.into() });
        }
    }

    /// Hands out what is due.
    fn arrive(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.on_the_way.first_entry().filter(|first| first.key().0 <= now) {
            let datagram = first.remove();
            let hidden = self.seen_as.iter().find(|(_, seen)| **seen == datagram.to).map(|(host, _)| *host);
            // Who has moved is not there any more.
            let host = hidden.or_else(|| (!self.seen_as.contains_key(&datagram.to)).then_some(datagram.to));
            let Some(inbox) = host.and_then(|host| self.arrived.get_mut(&host)) else { continue };
            inbox.datagrams.push_back(datagram);
            if let Some(waker) = inbox.waker.take() {
                waker.wake();
            }
        }
    }
}

/// One host's end.
struct Socket {
    network: Network,
    address: SocketAddr,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("address", &self.address).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut state = self.network.state();
        for segment in transmit.contents.chunks(transmit.segment_size.unwrap_or(usize::MAX)) {
            state.send(self.address, transmit.destination, segment);
        }
        drop(state);
        self.network.0.sent.notify_one();
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.network.state();
        let inbox = state.arrived.get_mut(&self.address).unwrap();
        let mut received = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some(Datagram { from, bytes, .. }) = inbox.datagrams.pop_front() else { break };
            buffer[..bytes.len()].copy_from_slice(&bytes);
            *meta = RecvMeta { addr: from, len: bytes.len(), stride: bytes.len(), ..RecvMeta::default() };
            received += 1;
        }
        if received == 0 {
            inbox.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn max_transmit_segments(&self) -> usize {
        10
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Both ends of a connection, as a listener and an upstream of ours set them up.
pub(crate) struct Ends {
    pub(crate) client: Connection,
    pub(crate) server: Connection,
    server_endpoint: Endpoint,
    leaving: Leaving,
    _client_endpoint: Endpoint,
    _site: Site,
}

pub(crate) const CLIENT: &str = "10.0.0.1:40000";
const SERVER: &str = "10.0.0.2:443";

/// Makes a connection over a network.
pub(crate) async fn connected(network: &Network) -> Ends {
    let site = Site::new("");
    let leaving = Leaving::default();
    let server = params::server(&site.listener, site.tls.quic().unwrap(), &site.keys, &leaving, None);
    let server = network.endpoint(SERVER.parse().unwrap(), Some(server));
    let client = network.endpoint(CLIENT.parse().unwrap(), None);
    let tls = UpstreamTls { ca: Some(site.folder.ca()), ..UpstreamTls::default() };
    let tls = ClientTls::new(Some(&tls), UpstreamProtocol::Auto).unwrap();
    let config = client::config(&tls, client::H3, &UpstreamQuic::default(), Duration::from_secs(50)).unwrap();
    let connecting = client.connect_with(config, SERVER.parse().unwrap(), "web.test").unwrap();
    let accepting = async {
        let connecting = server.accept().await.unwrap().accept().unwrap();
        handshake(connecting, false, Duration::from_secs(60)).await.unwrap_or_else(|error| panic!("{error}")).connection
    };
    let (client_end, server_end) = tokio::join!(connecting, accepting);
    Ends {
        client: client_end.unwrap(),
        server: server_end,
        server_endpoint: server,
        leaving,
        _client_endpoint: client,
        _site: site,
    }
}

/// Runs something in a time that passes when nothing else is to be done.
pub(crate) fn simulated<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build_local(Default::default());
    runtime.unwrap().block_on(async {
        crate::net::timer::start();
        // Of that time: what hangs fails at once.
        tokio::time::timeout(Duration::from_secs(3600), future).await.expect("the simulation hangs")
    })
}

/// The seeds of a test: this many, or as many times more as `TIDEGATE_SEEDS` says.
pub(crate) fn seeds(count: u64) -> Range<u64> {
    let times = std::env::var("TIDEGATE_SEEDS").map_or(1, |times| times.parse().unwrap());
    0..count * times
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..length).map(|_| random.u8(..)).collect()
}

/// Sends back what comes on the streams of a connection.
async fn echo(connection: Connection) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        tokio::task::spawn_local(async move {
            while let Ok(Some(chunk)) = receive.read_chunk(64 << 10, true).await {
                if send.write_chunk(chunk.bytes).await.is_err() {
                    return;
                }
            }
            let _ = send.finish();
        });
    }
}

/// Sends bytes on a stream of their own and has them back.
async fn there_and_back(connection: &Connection, length: usize, seed: u64) {
    let bytes = noise(length, seed);
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let sending = async {
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
    };
    let ((), back) = tokio::join!(sending, receive.read_to_end(usize::MAX));
    assert!(back.unwrap() == bytes, "other bytes came back");
}

#[test]
fn what_is_sent_arrives_whatever_the_weather() {
    for seed in seeds(12) {
        let weather = Weather::of(seed);
        eprintln!("seed {seed}: {weather:?}");
        simulated(async {
            let ends = connected(&Network::new(seed, weather)).await;
            tokio::task::spawn_local(echo(ends.server.clone()));
            let streams = (0..4).map(|at| there_and_back(&ends.client, 30_000, seed * 4 + at));
            join(streams).await;
        });
    }
}

/// Waits for all of them at once.
async fn join(all: impl IntoIterator<Item = impl Future<Output = ()>>) {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        all.retain_mut(|one| one.as_mut().poll(cx).is_pending());
        if all.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[test]
fn a_handshake_takes_one_round_trip() {
    simulated(async {
        let begun = Instant::now();
        let ends = connected(&Network::new(1, Weather::FAIR)).await;
        // The last of the handshake is on its way to the server, and has been for the half of one.
        assert!(begun.elapsed() < Weather::FAIR.delay * 4, "{:?}", begun.elapsed());
        tokio::task::spawn_local(echo(ends.server.clone()));
        there_and_back(&ends.client, 10, 1).await;
        assert!(begun.elapsed() < Weather::FAIR.delay * 6, "{:?}", begun.elapsed());
    });
}

#[test]
fn a_way_that_takes_less_at_once_is_found_out() {
    simulated(async {
        let network = Network::new(3, Weather::FAIR);
        let ends = connected(&network).await;
        tokio::task::spawn_local(echo(ends.server.clone()));
        there_and_back(&ends.client, 300_000, 1).await;
        let before = ends.client.stats().path.current_mtu;
        assert!(before > 1400, "{before}");
        // RFC 9000 §14.1: 1200 bytes always pass.
        network.set(Weather { mtu: 1228, ..Weather::FAIR });
        there_and_back(&ends.client, 100_000, 2).await;
        let after = ends.client.stats().path.current_mtu;
        assert!(after == 1200 && ends.client.stats().path.black_holes_detected > 0, "{after}");
    });
}

#[test]
fn a_way_that_ends_ends_both_sides() {
    simulated(async {
        let network = Network::new(4, Weather::FAIR);
        let ends = connected(&network).await;
        let (mut send, mut receive) = ends.client.open_bi().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        let (_answer, mut asked) = ends.server.accept_bi().await.unwrap();
        assert!(asked.read_chunk(10, true).await.unwrap().is_some());
        network.set(Weather { lost: 1000, ..Weather::FAIR });
        let lost = |error: &ConnectionError| assert!(matches!(error, ConnectionError::TimedOut), "{error}");
        let sending = async {
            let noise = noise(1 << 20, 1);
            loop {
                if let Err(error) = send.write_all(&noise).await {
                    return error;
                }
            }
        };
        let (sent, received, waited) = tokio::join!(sending, receive.read_chunk(10, true), asked.read_chunk(10, true));
        assert!(matches!(sent, WriteError::ConnectionLost(ConnectionError::TimedOut)), "{sent}");
        for end in [received, waited] {
            match end {
                Err(ReadError::ConnectionLost(error)) => lost(&error),
                other => panic!("{other:?}"),
            }
        }
        lost(&ends.client.closed().await);
        lost(&ends.server.closed().await);
    });
}

#[test]
fn a_client_that_moves_loses_nothing() {
    simulated(async {
        let network = Network::new(5, Weather { lost: 30, ..Weather::FAIR });
        let ends = connected(&network).await;
        tokio::task::spawn_local(echo(ends.server.clone()));
        for turn in 0..20 {
            let address = SocketAddr::from(([10, 0, 1, turn], 1000 + u16::from(turn)));
            network.moves(CLIENT.parse().unwrap(), address);
            there_and_back(&ends.client, 20_000, turn.into()).await;
            assert_eq!(ends.server.remote_address(), address);
        }
    });
}

#[test]
fn an_end_is_heard_of_or_noticed() {
    for seed in seeds(10) {
        simulated(async {
            let network = Network::new(seed, Weather::FAIR);
            let ends = connected(&network).await;
            network.set(Weather { lost: 400, ..Weather::FAIR });
            ends.client.close(7u32.into(), b"");
            match ends.server.closed().await {
                ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code, 7u32.into()),
                ConnectionError::TimedOut | ConnectionError::Reset => {}
                other => panic!("seed {seed}: {other}"),
            }
        });
    }
}

/// As long as somebody sends as fast as the link takes it, the congestion window is full.
async fn pour(connection: Connection) {
    let mut stream = connection.open_uni().await.unwrap();
    while stream.write_all(&[7; 4096]).await.is_ok() {}
}

#[test]
fn a_close_is_heard_of_though_the_window_is_full() {
    for whole in [false, true] {
        simulated(async {
            let network = Network::new(1, Weather::FAIR);
            let ends = connected(&network).await;
            tokio::task::spawn_local(pour(ends.server.clone()));
            tokio::time::sleep(Weather::FAIR.delay * 6).await;
            let begun = Instant::now();
            if whole {
                ends.leaving.begin();
                ends.server_endpoint.close(7u32.into(), b"");
            } else {
                quic::close(&ends.server, 7_u64);
            }
            match ends.client.closed().await {
                ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code, 7u32.into()),
                other => panic!("{other}"),
            }
            assert!(begun.elapsed() < Weather::FAIR.delay * 2, "{:?}", begun.elapsed());
        });
    }
}
