//! `[upstream.*]`: a named set of endpoints and how to connect to them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::uri::PathAndQuery;

use super::{Place, SocketOptions, UpstreamQuic};

/// `[upstream.*]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Unique.
    pub name: Arc<str>,
    /// Never empty.
    pub endpoints: Vec<EndpointConfig>,
    /// What is spoken to it.
    pub protocol: UpstreamProtocol,
    /// With protocol `quic`: the ALPN protocol that is asked for.
    pub alpn: Option<String>,
    /// Whether HTTP/3 is used where the origin's Alt-Svc offers it. Default: false.
    pub alt_svc: bool,
    /// `[upstream.*.quic]`.
    pub quic: UpstreamQuic,
    /// `None`: cleartext.
    pub tls: Option<UpstreamTls>,
    /// How an endpoint is picked.
    pub balance: Balance,
    /// What the hashing policies hash.
    pub hash_on: HashOn,
    /// `[upstream.*.health]`; `None`: endpoints are not asked.
    pub health: Option<Health>,
    /// `[upstream.*.outlier]`; `None`: endpoints are not judged by real traffic.
    pub outlier: Option<Outlier>,
    /// What is said of the client before the first byte of a connection or flow.
    pub send_proxy_protocol: SendProxyProtocol,
    /// Local addresses to connect from, in turn; empty: the system's choice.
    pub source: Vec<IpAddr>,
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
    /// HTTP/3.
    Http3,
    /// Raw QUIC: a stream for each session.
    Quic,
}

impl UpstreamProtocol {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Http3 => "http3",
            Self::Quic => "quic",
        }
    }
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
    /// The fewest requests in flight for its weight, over all workers; on layer 4 the fewest sessions.
    LeastRequests,
    /// Of two drawn by weight the one whose answers are expected sooner: its smoothed latency times what is in flight.
    P2cEwma,
    /// A ring of hashes: what hashes alike goes to the same endpoint, and one that leaves moves only its own share.
    RingHash,
    /// A table of hashes (Maglev): as the ring, spread more evenly, moved a little more when an endpoint leaves.
    Maglev,
}

/// `upstream.hash_on`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashOn {
    /// The client's address, behind trusted proxies as well.
    ClientIp,
    /// The name of the TLS handshake; the client's address where there is none.
    Sni,
    /// A header of the request; the client's address where it is missing.
    Header(HeaderName),
    /// A cookie of the request; the client's address where it is missing.
    Cookie(Box<str>),
    /// The path of the request, without its query.
    Path,
}

/// `[upstream.*.health]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked for over HTTP; 200 to 399 is well. `None`: that a connection is taken is well enough.
    pub path: Option<PathAndQuery>,
    /// The Host that is asked for; `None`: the endpoint's own.
    pub host: Option<Box<str>>,
    /// From one check of an endpoint to the next.
    pub interval: Duration,
    /// How long a check may take; never longer than the interval.
    pub timeout: Duration,
    /// Checks in a row that must do for an endpoint that is out to be let in again.
    pub healthy_after: u32,
    /// Checks in a row that must fail for one that is in to be taken out.
    pub unhealthy_after: u32,
}

/// `[upstream.*.outlier]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row, over all workers, that take an endpoint out: connections that come to nothing, and answers 500 and above.
    pub consecutive_failures: u32,
    /// For how long, the first time; each time in a row as long again, up to ten times that.
    pub eject_for: Duration,
    /// The share of an upstream's endpoints that may be out by this at once, in percent; one may always be.
    pub max_ejected: u8,
}

/// `upstream.send_proxy_protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SendProxyProtocol {
    /// Nothing.
    #[default]
    Off,
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary, with what a PROXY header of the client's side brought along.
    V2,
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
    /// Silence of both sides after protocols were switched.
    pub tunnel_idle: Duration,
}

impl Upstream {
    /// Whether any of its endpoints may be reached over QUIC.
    pub fn may_speak_quic(&self) -> bool {
        self.alt_svc || matches!(self.protocol, UpstreamProtocol::Http3 | UpstreamProtocol::Quic)
    }
}

impl Balance {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::LeastRequests => "least-requests",
            Self::P2cEwma => "p2c-ewma",
            Self::RingHash => "ring-hash",
            Self::Maglev => "maglev",
        }
    }
}

impl fmt::Display for HashOn {
    /// As the configuration writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientIp => f.write_str("client-ip"),
            Self::Sni => f.write_str("sni"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Path => f.write_str("path"),
        }
    }
}

impl SendProxyProtocol {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}
