//! Test support: configurations, and origins that send raw bytes so that they can misbehave.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::client::{Answer, SendFailure, Session};
use super::endpoint::{Endpoint, Watch};
use super::pool::Pools;
use super::registry::Registry;
use super::worker::WorkerUpstream;
use crate::base::error::Error;
use crate::base::id::UpstreamId;
use crate::body::Body;
use crate::body::phase_clock::{Phase, PhaseClock};
use crate::config::model::{
    Balance, EndpointAddress, EndpointConfig, HashOn, Place, PoolLimits, SendProxyProtocol, SocketOptions, Upstream,
    UpstreamProtocol, UpstreamTimeouts,
};
use crate::net::io::Socket;
use crate::net::timer;
use crate::telemetry::WorkerTelemetry;
use crate::transport::tls::client::ClientTls;

fn place() -> Place {
    Place { file: "test".into(), line: 1, column: 1 }
}

pub(crate) fn dns_endpoint(host: &str, port: u16) -> EndpointConfig {
    EndpointConfig { address: EndpointAddress::Dns { host: host.to_owned(), port }, weight: 1, place: place() }
}

pub(crate) fn upstream_config(name: &str, addresses: &[std::net::SocketAddr]) -> Upstream {
    Upstream {
        name: name.into(),
        endpoints: addresses
            .iter()
            .map(|address| EndpointConfig { address: EndpointAddress::Socket(*address), weight: 1, place: place() })
            .collect(),
        protocol: UpstreamProtocol::Auto,
        alpn: None,
        alt_svc: false,
        quic: Default::default(),
        tls: None,
        balance: Balance::RoundRobin,
        hash_on: HashOn::ClientIp,
        health: None,
        outlier: None,
        send_proxy_protocol: SendProxyProtocol::Off,
        source: Vec::new(),
        pool: PoolLimits {
            max_idle_per_endpoint: 8,
            idle_timeout: Duration::from_secs(60),
            max_age: Duration::from_secs(3_600),
        },
        timeouts: UpstreamTimeouts {
            connect: Duration::from_secs(5),
            response: Duration::from_secs(5),
            stream_idle: Duration::from_secs(5),
            tunnel_idle: Duration::from_secs(5),
        },
        socket: SocketOptions {
            nodelay: true,
            keepalive: None,
            backlog: 0,
            recv_buffer: None,
            send_buffer: None,
            fast_open: false,
            user_timeout: None,
        },
        place: place(),
    }
}

/// An endpoint that nobody watches.
pub(crate) fn endpoint(address: &str) -> Endpoint {
    let address: SocketAddr = address.parse().unwrap();
    let set = Registry::new().endpoint_set(&upstream_config("app", &[address]));
    let endpoint = &set.endpoints()[0];
    Endpoint {
        label: Arc::clone(&endpoint.label),
        address: endpoint.address.clone(),
        server_name: None,
        authority: endpoint.authority.clone(),
        weight: endpoint.weight,
        watch: Watch::default(),
        state: Arc::clone(&endpoint.state),
    }
}

/// Runs a future as a worker would.
pub(crate) fn on_worker<F: Future>(future: F) -> F::Output {
    on_runtime(tokio::runtime::Builder::new_current_thread().enable_all(), future)
}

/// As [`on_worker`], with a clock that runs ahead whenever nothing else is to be done.
pub(crate) fn on_paused_worker<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // Of that time: a test that hangs fails at once.
    on_runtime(builder.enable_all().start_paused(true), async {
        timer::timeout(Duration::from_secs(24 * 3600), future).await.expect("the test hangs")
    })
}

fn on_runtime<F: Future>(builder: &mut tokio::runtime::Builder, future: F) -> F::Output {
    builder.build_local(Default::default()).unwrap().block_on(async {
        timer::start();
        future.await
    })
}

/// Lets other tasks run until `done`. Fails when it never comes true.
pub(crate) async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if done() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never came true");
}

/// One worker and one upstream.
pub(crate) struct Caller {
    pub(crate) telemetry: Arc<WorkerTelemetry>,
    pub(crate) pools: Rc<Pools>,
    pub(crate) upstream: Rc<WorkerUpstream>,
    /// What getting the last session was at in the end: [`Phase::Queue`] where a pooled one was met.
    pub(crate) phase: Cell<Phase>,
}

impl Caller {
    pub(crate) fn new(config: Upstream) -> Self {
        Self::over(config, None)
    }

    pub(crate) fn over(config: Upstream, tls: Option<Arc<ClientTls>>) -> Self {
        let telemetry = Arc::new(WorkerTelemetry::new());
        let pools = Pools::new(0, 1, Arc::clone(&telemetry));
        let upstream = pools.attach(&Registry::new().upstream(UpstreamId(0), Arc::new(config), tls));
        Self { telemetry, pools, upstream, phase: Cell::new(Phase::Queue) }
    }

    pub(crate) async fn session(&self, fresh: bool) -> Result<Session, Error> {
        let pick = self.upstream.pick(None, &[]).unwrap();
        let clock = PhaseClock::new(Instant::now());
        let session = self.upstream.session(&pick, fresh, &clock, None).await;
        self.phase.set(clock.phase());
        session
    }

    /// Sends a GET on a pooled or new session.
    pub(crate) async fn get(&self) -> Result<Answer, SendFailure> {
        self.session(false).await.unwrap().send(request()).await
    }

    /// Connections made, and requests that met a pooled one.
    pub(crate) fn connects(&self) -> (u64, u64) {
        (self.telemetry.counters.upstream_connects.value(), self.telemetry.counters.upstream_reuses.value())
    }
}

/// A GET that suits either version.
pub(crate) fn request() -> Request<Body> {
    Request::get("http://origin.test/").header("host", "origin.test").body(Body::empty()).unwrap()
}

/// Reads an answer's body to its end.
pub(crate) async fn body_of(answer: Answer) -> Bytes {
    answer.response.into_body().collect().await.unwrap().to_bytes()
}

pub(crate) fn failure_of(outcome: Result<Answer, SendFailure>) -> SendFailure {
    match outcome {
        Ok(answer) => panic!("answered {}", answer.response.status()),
        Err(failure) => failure,
    }
}

/// An origin that does what its test says, byte by byte.
pub(crate) struct Origin {
    listener: TcpListener,
}

/// One connection to it.
pub(crate) struct OriginConnection {
    pub(crate) stream: TcpStream,
}

impl Origin {
    pub(crate) async fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) async fn accept(&self) -> OriginConnection {
        OriginConnection { stream: self.listener.accept().await.unwrap().0 }
    }

    /// Answers every request with `hello`.
    pub(crate) fn serve(self) {
        tokio::task::spawn_local(async move {
            loop {
                let mut connection = self.accept().await;
                tokio::task::spawn_local(async move {
                    while connection.stream.readable().await.is_ok()
                        && connection.stream.peek(&mut [0]).await.is_ok_and(|n| n > 0)
                    {
                        connection.answer().await;
                    }
                });
            }
        });
    }
}

impl OriginConnection {
    /// Reads a request without a body and gives its head.
    pub(crate) async fn request(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    pub(crate) async fn say(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// Answers a request with `hello`.
    pub(crate) async fn answer(&mut self) {
        self.request().await;
        self.say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
    }

    /// Whether the proxy closed it; waits until it does or says something.
    pub(crate) async fn is_closed(&mut self) -> bool {
        !matches!(self.stream.read(&mut [0]).await, Ok(1))
    }

    pub(crate) fn reset(self) {
        Socket::Tcp(self.stream).reset();
    }
}
