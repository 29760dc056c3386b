//! The checked model of a configuration: no `Option` where a default exists, no bare numbers, names resolved.
//! `validate` makes it; `control::compile` and the printers read it; nothing on the request path does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;

use crate::base::template::Template;

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file, as it was named; `<command line>` for what no file says.
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
}

/// A whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[server]`.
    pub server: Server,
    /// `[[listener]]`, in the order of the file.
    pub listeners: Vec<Listener>,
    /// `[[route]]`, in the order of the file.
    pub routes: Vec<Route>,
    /// `[upstream.*]`, sorted by name.
    pub upstreams: Vec<Upstream>,
    /// Every file that was read, the main one first.
    pub files: Vec<PathBuf>,
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Data-plane threads.
    pub workers: usize,
    /// How long open exchanges may take to finish once a drain began.
    pub drain_timeout: Duration,
}

/// `[[listener]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Unique; default: its first address.
    pub name: Arc<str>,
    /// Where it accepts.
    pub binds: Vec<Bind>,
    /// What it speaks.
    pub protocols: Protocols,
    /// TLS, where it is terminated here.
    pub tls: Option<ListenerTls>,
    /// Whose X-Forwarded-* and Forwarded are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// `[listener.limits]`.
    pub limits: ListenerLimits,
    /// `[listener.timeouts]`.
    pub timeouts: ListenerTimeouts,
    /// `[listener.socket]`.
    pub socket: SocketOptions,
    /// `[listener.forwarding]`: what is told to the upstream about the client.
    pub forwarding: Forwarding,
    /// Where it was written.
    pub place: Place,
}

/// One address to accept on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// `":80"`: the port on every address of both families.
    AnyAddress(u16),
    /// `"127.0.0.1:80"`, `"[::]:80"`.
    Address(SocketAddr),
    /// `"unix:/path"`.
    Unix(PathBuf),
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// HTTP/1.1 and HTTP/1.0.
    pub http1: bool,
    /// HTTP/2: by ALPN over TLS, by prior knowledge on cleartext.
    pub http2: bool,
}

/// `listener.tls`.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// Chosen by SNI; the first is the fallback. Never empty.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version accepted.
    pub min_version: TlsVersion,
    /// Client certificates.
    pub client_auth: ClientAuth,
}

/// A certificate chain and its key, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Where it was written.
    pub place: Place,
}

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2, RFC 5246.
    V1_2,
    /// TLS 1.3, RFC 8446.
    V1_3,
}

/// `listener.tls.client_auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No client certificate is asked for.
    Off,
    /// Asked for; verified against `ca` where one is sent.
    Optional {
        /// The authorities, a PEM file.
        ca: PathBuf,
        /// Where it was written.
        place: Place,
    },
    /// The handshake fails without one.
    Require {
        /// The authorities, a PEM file.
        ca: PathBuf,
        /// Where it was written.
        place: Place,
    },
}

/// `[listener.limits]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerLimits {
    /// Open connections over all workers; `None`: from the descriptor limit.
    pub max_connections: Option<u32>,
    /// Open connections of one client address over all workers; `None`: unlimited.
    pub max_connections_per_ip: Option<u32>,
    /// Bytes of a request head; 431 past it.
    pub max_header_size: u32,
    /// Header fields of a request; 431 past it.
    pub max_headers: u32,
    /// Concurrent HTTP/2 streams of one connection.
    pub max_concurrent_streams: u32,
    /// Bytes of a request body, 413 past it; `None`: unlimited.
    pub max_body: Option<u64>,
}

/// `[listener.timeouts]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTimeouts {
    /// TLS handshake.
    pub handshake: Duration,
    /// Accept, or the first byte of a later head, to the head's last byte.
    pub header: Duration,
    /// The client neither sends what we want of its body nor takes what we have for it.
    pub client_stall: Duration,
    /// Between requests.
    pub idle: Duration,
    /// Age after which a connection is asked to go; `None`: off.
    pub max_age: Option<Duration>,
}

/// `[listener.socket]` and `[upstream.*.socket]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SocketOptions {
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// SO_KEEPALIVE and its times; `None`: off.
    pub keepalive: Option<Keepalive>,
    /// The listen backlog; on an upstream without meaning and refused there.
    pub backlog: u32,
    /// SO_RCVBUF in bytes; `None`: the system's choice.
    pub recv_buffer: Option<u32>,
    /// SO_SNDBUF in bytes; `None`: the system's choice.
    pub send_buffer: Option<u32>,
    /// TCP_FASTOPEN on listeners, TCP_FASTOPEN_CONNECT on upstreams.
    pub fast_open: bool,
    /// TCP_USER_TIMEOUT; `None`: the system's.
    pub user_timeout: Option<Duration>,
}

/// TCP keep-alive probes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Unanswered probes before the connection is dead.
    pub count: u32,
}

/// `[listener.forwarding]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// X-Forwarded-For, -Proto and -Host. Default: true.
    pub x_forwarded: bool,
    /// Forwarded (RFC 7239). Default: false.
    pub forwarded: bool,
    /// Via (RFC 9110 §7.6.3): the pseudonym, `None` for no Via. Default: `tidegate`, on requests.
    pub via: Option<Arc<str>>,
}

/// `[[route]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Unique; default: made from host, path and predicates.
    pub name: Arc<str>,
    /// Indices of the listeners it belongs to; empty: every http listener.
    pub listeners: Vec<usize>,
    /// Lowercased; empty: every host.
    pub hosts: Vec<HostPattern>,
    /// `None`: every path.
    pub path: Option<PathPattern>,
    /// Empty: every method.
    pub methods: Vec<Method>,
    /// Every one must hold.
    pub headers: Vec<(HeaderName, ValuePattern)>,
    /// Every one must hold.
    pub query: Vec<(String, ValuePattern)>,
    /// What to do.
    pub action: RouteAction,
    /// Bytes of a request body; `None`: the listener's.
    pub max_body: Option<u64>,
    /// Client networks; empty: all.
    pub allow: Vec<IpNet>,
    /// Client networks that are refused before `allow` is asked.
    pub deny: Vec<IpNet>,
    /// Edits of what goes to the upstream.
    pub request_headers: HeaderEdits,
    /// Edits of what goes to the client.
    pub response_headers: HeaderEdits,
    /// Where it was written.
    pub place: Place,
}

/// `route.host`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `api.example.org`.
    Exact(String),
    /// `*.example.org`, kept as `example.org`: any number of labels before it, at least one.
    Wildcard(String),
}

/// `route.path`.
#[derive(Clone, Debug)]
pub enum PathPattern {
    /// `/exact`.
    Exact(String),
    /// `/prefix/*`, kept as `/prefix` (`""` for `/*`): by segment.
    Prefix(String),
    /// `~ ^/regex$`.
    Regex(regex::Regex),
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// What a header or query value must be.
#[derive(Clone, Debug)]
pub enum ValuePattern {
    /// Exactly this.
    Exact(String),
    /// `~ regex`.
    Regex(regex::Regex),
}

impl PartialEq for ValuePattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// What a route does.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteAction {
    /// `upstream` or `weighted`.
    Forward(Forward),
    /// `redirect`.
    Redirect {
        /// The Location.
        to: Template,
        /// 301, 302, 303, 307 or 308. Default: 308.
        status: StatusCode,
    },
    /// `respond`.
    Respond {
        /// Default: 200.
        status: StatusCode,
        /// Default: empty.
        body: Arc<str>,
        /// Default: `text/plain; charset=utf-8`.
        content_type: HeaderValue,
    },
}

/// A route that forwards.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// Indices into [`Config::upstreams`] with their weights; one entry for `upstream = "…"`. Never empty, never all zero.
    pub upstreams: Vec<(usize, u32)>,
    /// What becomes of the path.
    pub rewrite: PathRewrite,
    /// What the upstream sees as Host.
    pub host_header: HostHeader,
    /// `None`: the upstream's.
    pub response_timeout: Option<Duration>,
    /// `None`: off.
    pub total_timeout: Option<Duration>,
    /// When a request is sent again.
    pub retry: RetryRules,
    /// Protocols that may be switched to, lowercased. Default: websocket.
    pub upgrade: Vec<String>,
}

/// What becomes of the path.
#[derive(Clone, Debug, PartialEq)]
pub enum PathRewrite {
    /// As it came.
    Keep,
    /// `strip_prefix`.
    StripPrefix(String),
    /// `replace_path`.
    Replace(Template),
}

/// `route.host_header`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// As the client sent it.
    Preserve,
    /// The endpoint's own.
    Upstream,
    /// This name.
    Name(HeaderValue),
}

/// `route.retry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryRules {
    /// Sends beyond the first. Default: 1.
    pub attempts: u32,
    /// `connect-failure`. Default: true.
    pub on_connect_failure: bool,
    /// `reset-before-headers`. Default: false; the replay of a stale pooled connection does not need it.
    pub on_reset_before_headers: bool,
    /// Statuses of an answer. Default: none.
    pub on_status: Vec<StatusCode>,
    /// Bytes of a request body kept for a second send. Default: 64 KiB.
    pub replay: u64,
}

/// `request_headers`, `response_headers`. Carried out in the order remove, set, add.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEdits {
    /// Names taken away.
    pub remove: Vec<HeaderName>,
    /// Replaced or put.
    pub set: Vec<(HeaderName, Template)>,
    /// Appended.
    pub add: Vec<(HeaderName, Template)>,
}

/// `[upstream.*]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Unique.
    pub name: Arc<str>,
    /// Never empty.
    pub endpoints: Vec<EndpointConfig>,
    /// What is spoken to it.
    pub protocol: UpstreamProtocol,
    /// `None`: cleartext.
    pub tls: Option<UpstreamTls>,
    /// How an endpoint is picked.
    pub balance: Balance,
    /// `[upstream.*.pool]`.
    pub pool: PoolLimits,
    /// `[upstream.*.timeouts]`.
    pub timeouts: UpstreamTimeouts,
    /// `[upstream.*.socket]`.
    pub socket: SocketOptions,
    /// Where it was written.
    pub place: Place,
}

/// One endpoint as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Where it is.
    pub address: EndpointAddress,
    /// Its share of the picks, at least 1. Default: 1.
    pub weight: u32,
    /// Where it was written.
    pub place: Place,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// `"10.0.0.1:8080"`.
    Socket(SocketAddr),
    /// `"unix:/run/app.sock"`.
    Unix(PathBuf),
    /// `"dns:api.internal:8080"`.
    Dns {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// `upstream.protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// ALPN over TLS, HTTP/1.1 on cleartext.
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge on cleartext.
    Http2,
}

/// `upstream.tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UpstreamTls {
    /// Name to ask for and verify; `None`: the endpoint's own name or address.
    pub server_name: Option<String>,
    /// Authorities, a PEM file; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate and key, PEM files.
    pub client_identity: Option<(PathBuf, PathBuf)>,
    /// Verify nothing.
    pub insecure: bool,
}

/// `upstream.balance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// By chance, by weight.
    Random,
    /// The fewest requests in flight for its weight, over all workers.
    LeastRequests,
}

/// `[upstream.*.pool]`: totals, shared out among the workers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolLimits {
    /// Idle connections kept for one endpoint.
    pub max_idle_per_endpoint: u32,
    /// How long one may stay idle.
    pub idle_timeout: Duration,
    /// Age after which one is not used again.
    pub max_age: Duration,
}

/// `[upstream.*.timeouts]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// TCP and TLS together.
    pub connect: Duration,
    /// Request sent to response head.
    pub response: Duration,
    /// Silence of the origin inside a body.
    pub stream_idle: Duration,
}
