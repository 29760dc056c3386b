//! A site that grows by calls, a client that speaks plain HTTP/1.1, and an origin that answers when it is told to.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};
use tidegate::app::{self, Options, Running};
use tidegate::base::addr::Address;
use tidegate::config::model::{self, *};
use tidegate::control::reload::Refused;

/// How long anything may take before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn try_start(site: &Site) -> Result<Running, Refused> {
    app::start(site.config(), Options::default())
}

pub fn start(site: &Site) -> Running {
    try_start(site).unwrap_or_else(|refused| panic!("{refused}"))
}

/// Whether something becomes true in time.
pub fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if holds() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// A configuration with one route.
#[derive(Clone)]
pub struct Site(Config);

impl Site {
    pub fn new() -> Self {
        let action = RouteAction::Respond {
            status: StatusCode::OK,
            body: "".into(),
            content_type: HeaderValue::from_static("text/plain"),
        };
        let route = model::Route {
            name: "all".into(),
            listeners: vec![],
            hosts: vec![],
            path: None,
            methods: vec![],
            headers: vec![],
            query: vec![],
            action,
            max_body: None,
            allow: vec![],
            deny: vec![],
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            access_log: true,
            place: place(),
        };
        let server = Server { workers: 1, drain_timeout: PATIENCE, ..Server::default() };
        Self(Config {
            server,
            listeners: vec![],
            routes: vec![route],
            expectations: Vec::new(),
            upstreams: vec![],
            files: vec![],
            written: Default::default(),
        })
    }

    pub fn config(&self) -> Config {
        self.0.clone()
    }

    pub fn workers(mut self, workers: usize) -> Self {
        self.0.server.workers = workers;
        self
    }

    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.0.server.drain_timeout = timeout;
        self
    }

    pub fn answer(mut self, text: &str) -> Self {
        let RouteAction::Respond { body, .. } = &mut self.0.routes[0].action else { panic!("the route forwards") };
        *body = text.into();
        self
    }

    pub fn listener(self, name: &str) -> Self {
        self.listener_at(name, "127.0.0.1:0".parse().unwrap())
    }

    pub fn listener_at(self, name: &str, address: SocketAddr) -> Self {
        self.listener_on(name, Bind::Address(address))
    }

    pub fn unix_listener(self, name: &str, path: &Path) -> Self {
        self.listener_on(name, Bind::Unix(path.to_owned()))
    }

    fn listener_on(mut self, name: &str, bind: Bind) -> Self {
        self.0.listeners.push(Listener {
            name: name.into(),
            binds: vec![bind],
            mode: Mode::Http,
            alt_svc: Default::default(),
            quic: Default::default(),
            protocols: Protocols { http1: true, http2: true, http3: false },
            tls: None,
            proxy_protocol: ProxyProtocol::Off,
            trusted_proxies: vec![],
            limits: ListenerLimits {
                max_connections: None,
                max_connections_per_ip: None,
                max_header_size: 32 << 10,
                max_headers: 128,
                max_concurrent_streams: 128,
                max_body: None,
            },
            timeouts: ListenerTimeouts {
                handshake: PATIENCE,
                header: PATIENCE,
                client_stall: PATIENCE,
                idle: PATIENCE * 3,
                session_idle: None,
                max_age: None,
            },
            socket: socket_options(),
            forwarding: Forwarding { x_forwarded: true, forwarded: false, via: None },
            access_log: true,
            request_id: Stamp::Auto,
            traceparent: Stamp::Auto,
            place: place(),
        });
        self
    }

    fn named(&mut self, name: &str) -> &mut Listener {
        self.0.listeners.iter_mut().find(|listener| &*listener.name == name).unwrap()
    }

    pub fn max_connections(mut self, listener: &str, max: u32) -> Self {
        self.named(listener).limits.max_connections = Some(max);
        self
    }

    pub fn unlimited(mut self, listener: &str) -> Self {
        self.named(listener).limits.max_connections = None;
        self
    }

    pub fn max_connections_per_ip(mut self, listener: &str, max: u32) -> Self {
        self.named(listener).limits.max_connections_per_ip = Some(max);
        self
    }

    pub fn with_missing_certificate(mut self, listener: &str) -> Self {
        let files = CertificateFiles { cert: "missing.pem".into(), key: "missing.key".into(), place: place() };
        self.named(listener).tls = Some(ListenerTls {
            certificates: vec![files],
            min_version: TlsVersion::V1_2,
            early_data: false,
            client_auth: ClientAuth::Off,
        });
        self
    }

    pub fn forward_to(mut self, origin: SocketAddr) -> Self {
        let address = EndpointAddress::Socket(origin);
        self.0.upstreams = vec![model::Upstream {
            alpn: None,
            alt_svc: false,
            quic: Default::default(),
            name: "origin".into(),
            endpoints: vec![EndpointConfig { address, weight: 1, place: place() }],
            protocol: UpstreamProtocol::Http1,
            tls: None,
            balance: Balance::RoundRobin,
            hash_on: HashOn::ClientIp,
            health: None,
            outlier: None,
            send_proxy_protocol: SendProxyProtocol::Off,
            source: Vec::new(),
            pool: PoolLimits { max_idle_per_endpoint: 16, idle_timeout: PATIENCE, max_age: PATIENCE },
            timeouts: UpstreamTimeouts {
                connect: PATIENCE,
                response: PATIENCE * 3,
                stream_idle: PATIENCE * 3,
                tunnel_idle: PATIENCE * 3,
            },
            socket: socket_options(),
            place: place(),
        }];
        self.0.routes[0].action = RouteAction::Forward(Forward {
            upstreams: vec![(0, 1)],
            rewrite: PathRewrite::Keep,
            host_header: HostHeader::Preserve,
            response_timeout: None,
            total_timeout: None,
            tunnel_idle: None,
            retry: RetryRules {
                attempts: 1,
                on_connect_failure: true,
                on_reset_before_headers: false,
                on_status: vec![],
                replay: 64 << 10,
            },
            upgrade: vec![],
            buffer: BodyBuffers::default(),
            grpc_web: false,
            normalize_path: false,
        });
        self
    }
}

fn place() -> Place {
    Place { file: "test.toml".into(), line: 1, column: 1 }
}

fn socket_options() -> SocketOptions {
    SocketOptions {
        nodelay: true,
        keepalive: None,
        backlog: 128,
        recv_buffer: None,
        send_buffer: None,
        fast_open: false,
        user_timeout: None,
    }
}

/// One connection.
pub struct Client(BufReader<TcpStream>);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    head: String,
}

impl Answer {
    pub fn says_close(&self) -> bool {
        self.head.contains("connection: close\r\n")
    }
}

impl Client {
    pub fn connect(running: &Running, listener: &str) -> Self {
        let Some(Address::Socket(address)) = running.address_of(listener) else { panic!("no listener {listener}") };
        Self::at(address)
    }

    pub fn at(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn send(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: example.org\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    pub fn receive(&mut self) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.0.read_line(&mut head).unwrap();
            assert!(read > 0, "closed inside the head: {head:?}");
        }
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        let mut body = vec![0; length.trim().parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        Answer { status: head[9..12].parse().unwrap(), body: String::from_utf8(body).unwrap(), head }
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.send(path);
        self.receive()
    }

    /// Waits for the other side to close it.
    pub fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// Gives each request to the test, which answers it when it likes.
pub struct Origin {
    address: SocketAddr,
    requests: Receiver<Received>,
}

/// A request that waits for its answer.
pub struct Received(Sender<String>);

impl Origin {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, sender) = (stream.unwrap(), sender.clone());
                std::thread::spawn(move || Self::serve(BufReader::new(stream), &sender));
            }
        });
        Self { address, requests }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn next_request(&self) -> Received {
        self.requests.recv_timeout(PATIENCE).expect("no request came")
    }

    fn serve(mut stream: BufReader<TcpStream>, requests: &Sender<Received>) {
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head).unwrap_or(0) == 0 {
                    return;
                }
            }
            let (answered, answer) = mpsc::channel();
            if requests.send(Received(answered)).is_err() {
                return;
            }
            let Ok(body) = answer.recv() else { return };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

impl Received {
    pub fn answer(self, body: &str) {
        self.0.send(body.to_owned()).unwrap();
    }
}
