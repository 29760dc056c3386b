//! The validated model of a configuration: no `Option` if there is a default, no bare numbers, names resolved.
//! `validate` creates it; `control::compile` and the printers read it; nothing on the request path does.

mod access_log;
mod condition;
mod control;
mod expectation;
mod listener;
mod log_field;
mod outbound;
mod quic;
mod route;
mod socket;
mod upstream;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::effective::Effective;

pub use access_log::{AccessLog, LinePart, LogFormat, LogOutput, LogValue, ProcessLog, ProcessLogFormat, Stamp};
pub use condition::{Condition, Order, Pattern, Test};
pub use control::{ControlListener, TokenFile};
pub use expectation::{Asked, BadRequest, Expectation, Sent, is_protocol};
pub use listener::{
    Bind, CertificateFiles, ClientAuth, Forwarding, HelloRoutes, Listener, ListenerLimits, ListenerTimeouts,
    ListenerTls, Mode, Protocols, ProxyProtocol, TlsVersion, UdpRoute,
};
pub use log_field::{FieldFacts, FieldKind, LogField};
pub use outbound::{Destination, Hosts, Outbound, OutboundTimeouts};
pub use quic::{AltSvc, Congestion, Quic, QuicTransport, RetryPolicy, UpstreamQuic};
pub use route::{
    BodyBuffers, Forward, HeaderEdits, HostHeader, HostPattern, PathPattern, PathRewrite, RetryRules, Route,
    RouteAction, ValuePattern,
};
pub use socket::{Keepalive, SocketOptions};
pub use upstream::{
    Balance, EndpointAddress, EndpointConfig, HashOn, Health, Outlier, PoolLimits, SendProxyProtocol, Upstream,
    UpstreamProtocol, UpstreamTimeouts, UpstreamTls,
};

use super::defaults;

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
    /// `[[expect]]`, in the order of the file.
    pub expectations: Vec<Expectation>,
    /// Every file that was read, the main one first.
    pub files: Vec<PathBuf>,
    /// What was written there, to be shown.
    pub written: Effective,
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Data-plane threads.
    pub workers: usize,
    /// How long open exchanges may take to finish once a drain began.
    pub drain_timeout: Duration,
    /// Whether changed files are put in force by themselves.
    pub watch: bool,
    /// How long accepting goes on after TERM before the drain begins.
    pub drain_delay: Duration,
    /// Who to be once everything is bound and read; `None`: who started it.
    pub identity: Option<Identity>,
    /// `[server.admin]`; `None`: there is none.
    pub admin: Option<ControlListener>,
    /// `[server.observe]`; `None`: there is none.
    pub observe: Option<ControlListener>,
    /// `[server.log]`.
    pub log: ProcessLog,
    /// `[server.access_log]`; `None`: off.
    pub access_log: Option<AccessLog>,
    /// `[server.metrics]`.
    pub metrics: Metrics,
    /// Random bytes that keys of QUIC are derived of, so that they outlive the process; `None`: made at start.
    pub quic_key_file: Option<(PathBuf, Place)>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            workers: defaults::workers(),
            drain_timeout: defaults::DRAIN_TIMEOUT,
            watch: defaults::WATCH,
            drain_delay: defaults::DRAIN_DELAY,
            identity: None,
            admin: None,
            observe: None,
            log: ProcessLog::default(),
            access_log: None,
            metrics: Metrics::default(),
            quic_key_file: None,
        }
    }
}

/// `server.user` and `server.group`, as they are written; whether the system knows them is for `control`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A name or a number.
    pub user: Arc<str>,
    /// Where it was written.
    pub user_place: Place,
    /// A name or a number, and where it was written; `None`: the user's own.
    pub group: Option<(Arc<str>, Place)>,
}

/// `[server.metrics]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Routes that are counted one by one, in the order of the file; those past it are counted together.
    pub max_routes: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { max_routes: defaults::METRICS_MAX_ROUTES }
    }
}
