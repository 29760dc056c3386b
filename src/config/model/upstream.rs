//! `[upstream.*]`: a named set of endpoints and how to reach them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Place, SocketOptions};

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
