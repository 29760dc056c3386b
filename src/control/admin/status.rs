//! `/status`: the data of the status page and of `tidegate status`, as JSON. Typed, so that the command reads the same
//! structure; `docs/openapi.json` describes it.

mod read;
mod traffic;

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use traffic::{Answers, Hist, Relayed, Traffic};

/// All of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// Of the program.
    pub version: Cow<'static, str>,
    /// Of the process.
    pub pid: u32,
    /// When it began to serve, in RFC 3339 as every time here.
    pub started_at: String,
    /// When this was made.
    pub now: String,
    /// Between the two, by a clock that never jumps.
    pub uptime_seconds: f64,
    /// `ready` or `draining`.
    pub state: Cow<'static, str>,
    /// The number of the configuration in force.
    pub generation: u64,
    /// `None`: there was none since the start.
    pub last_reload: Option<Reload>,
    /// One for each worker.
    pub workers: Vec<Worker>,
    /// Of clients.
    pub connections: Connections,
    /// With clients.
    pub handshakes: Handshakes,
    /// Connections to endpoints.
    pub pool: Pool,
    /// With clients.
    #[serde(default)]
    pub quic: Quic,
    /// Requests that became tunnels.
    #[serde(default)]
    pub tunnels: Tunnels,
    /// Sessions, flows and datagrams.
    pub layer4: Layer4,
    /// The upper bounds of the buckets of every histogram here; one bucket more is for what is longer.
    pub bounds_seconds: Vec<f64>,
    /// Of all listeners together.
    pub traffic: Traffic,
    /// In the order of the configuration.
    pub listeners: Vec<Listener>,
    /// In the order of the configuration, up to `server.metrics.max_routes`; those past it stand together at the end.
    pub routes: Vec<Route>,
    /// By name.
    pub upstreams: Vec<UpstreamStatus>,
    /// Of every listener.
    pub certificates: Vec<CertificateStatus>,
    /// The latest first.
    pub errors: Vec<RecentError>,
}

/// How the last reload ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reload {
    /// When.
    pub at: String,
    /// `ok` or `refused`.
    pub result: Cow<'static, str>,
    /// `signal`, `admin`, `watch` or `embedder`.
    pub trigger: Cow<'static, str>,
    /// In force since; that of before, where it was refused.
    pub generation: u64,
    /// What changed, a line each.
    pub changes: Vec<String>,
    /// Why it was refused.
    pub error: Option<String>,
}

/// One worker.
#[derive(Debug, Serialize, Deserialize)]
pub struct Worker {
    /// Its number, from 0; those of layer 4 behind the others.
    pub id: usize,
    /// `http` or `layer4`.
    pub plane: Cow<'static, str>,
    /// Of clients, now.
    pub connections_open: u64,
    /// Since the start.
    pub requests: u64,
    /// How late its timers fire.
    pub loop_lag: Hist,
    /// More than a few seconds: it is stuck.
    pub last_heartbeat_seconds_ago: f64,
}

/// Connections of clients.
#[derive(Debug, Serialize, Deserialize)]
pub struct Connections {
    /// Now.
    pub open: u64,
    /// Since the start.
    pub accepted: u64,
    /// Closed at accept, as their address had too many.
    pub refused: u64,
    /// What the process allows.
    pub max: u32,
    /// Of the open ones: idle, and holding little more than their socket.
    pub parked: u64,
}

/// TLS handshakes with clients since the start.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handshakes {
    /// TLS 1.2.
    #[serde(rename = "tls1.2")]
    pub tls12: u64,
    /// TLS 1.3.
    #[serde(rename = "tls1.3")]
    pub tls13: u64,
    /// Of both.
    pub resumed: u64,
    /// Failed, or took too long.
    pub failed: u64,
}

/// QUIC with clients, of all workers together, since the start.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Quic {
    /// Connections that could be used.
    pub connections: u64,
    /// Of these, the ones used before their handshake was over (0-RTT).
    pub early_data: u64,
    /// Of these, the ones whose client had another address at their end than at their beginning.
    pub moved: u64,
    /// Handshakes that failed, or took too long.
    pub handshakes_failed: u64,
    /// Clients that were asked to prove their address first (Retry).
    pub retries_sent: u64,
    /// Connections refused.
    pub refused: u64,
    /// Datagrams lost here.
    pub datagrams_dropped: u64,
    /// Datagrams passed on to the worker that they were for.
    pub datagrams_steered: u64,
}

/// Layer 4, of all workers together; since the start where nothing else is said.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Layer4 {
    /// Connections of clients that are relayed, now.
    pub sessions_open: u64,
    /// Sessions started.
    pub sessions: u64,
    /// Of these, the ones with bytes moved inside the kernel (splice).
    pub sessions_spliced: u64,
    /// Open flows: client addresses whose datagrams are relayed.
    pub flows_open: u64,
    /// Flows started.
    pub flows: u64,
    /// From clients.
    pub datagrams_in: u64,
    /// To clients.
    pub datagrams_out: u64,
    /// Of either direction, not passed on.
    pub datagrams_dropped: u64,
    /// Connections closed for what should have been a ClientHello.
    pub hellos_refused: u64,
    /// Connections closed and datagrams dropped for their PROXY header.
    pub proxy_headers_refused: u64,
}

/// Connections to endpoints since the start.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pool {
    /// New ones.
    pub connects: u64,
    /// Requests that met a pooled one.
    pub reuses: u64,
    /// Requests sent again.
    pub retries: u64,
}

/// Requests that became tunnels (WebSocket, CONNECT), of all workers together.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tunnels {
    /// Now.
    pub open: u64,
    /// Since the start.
    pub started: u64,
}

/// One listener.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// What it is for.
    pub mode: Cow<'static, str>,
    /// Where it accepts, with the ports that the system chose.
    pub addresses: Vec<String>,
    /// What is spoken there; empty on layer 4.
    pub protocols: Vec<Cow<'static, str>>,
    /// Whether over TLS.
    pub tls: bool,
    /// `None`: only the limit of the process.
    pub max_connections: Option<u32>,
    /// The requests that came in there.
    pub traffic: Traffic,
    /// Its sessions and flows; `None` where it serves requests.
    pub sessions: Option<Relayed>,
}

/// One route.
#[derive(Debug, Serialize, Deserialize)]
pub struct Route {
    /// Its name.
    pub name: Arc<str>,
    /// Host, path and predicates.
    #[serde(rename = "match")]
    pub matches: String,
    /// What is done.
    pub action: String,
    /// What it matched.
    pub traffic: Traffic,
}

/// One upstream.
#[derive(Debug, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: Arc<str>,
    /// `auto`, `http1` or `http2`.
    pub protocol: Cow<'static, str>,
    /// The policy.
    pub balance: Cow<'static, str>,
    /// Whether over TLS.
    pub tls: bool,
    /// The requests that were sent there.
    pub traffic: Traffic,
    /// The sessions and flows that were relayed there; `None`: there were none.
    pub sessions: Option<Relayed>,
    /// In the order of the configuration; names as what they resolved to.
    pub endpoints: Vec<EndpointStatus>,
}

/// One endpoint.
#[derive(Debug, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// After the name it was resolved from.
    pub address: Arc<str>,
    /// Its share of the picks.
    pub weight: u32,
    /// `ready`, `drained`, `unhealthy` or `ejected`; of several the one that is named first here.
    pub state: Cow<'static, str>,
    /// The last active check; `None`: it is not asked, or was not yet.
    pub check: Option<EndpointCheck>,
    /// What it did to real traffic; `None` where `outlier` is not configured.
    pub outlier: Option<EndpointOutlier>,
    /// Its smoothed latency, as `p2c-ewma` last took it; `None` with other policies, or before the first answer.
    pub latency_seconds: Option<f64>,
    /// Requests in progress; `None` where the policy does not count them.
    pub in_flight: Option<u32>,
    /// Connections that came to nothing, since it was first configured.
    pub connect_failures: u64,
    /// The last of them.
    pub last_failure: Option<LastFailure>,
    /// The HTTP/3 that it offers by Alt-Svc; `None`: it offers none, or nobody listens to that.
    #[serde(default)]
    pub alternative: Option<EndpointAlternative>,
}

/// HTTP/3 that an endpoint offers by Alt-Svc (RFC 7838).
#[derive(Debug, Serialize, Deserialize)]
pub struct EndpointAlternative {
    /// Where, on the same host.
    pub port: u16,
    /// `offered`: no answer came that way yet; `used`; `resting`: it broke, and is left alone.
    pub stage: Cow<'static, str>,
    /// When that began, where it is used; when it ends, where it rests.
    pub at: Option<String>,
    /// When the offer lapses, unless it is said again.
    pub offered_until: String,
    /// How often it broke since the endpoint was first configured.
    pub failures: u64,
}

/// Active checks of an endpoint.
#[derive(Debug, Serialize, Deserialize)]
pub struct EndpointCheck {
    /// When the last one ended.
    pub at: String,
    /// How long it took.
    pub took_seconds: f64,
    /// Why it failed; `None`: it went well.
    pub failure: Option<String>,
    /// Checks that went well, since the endpoint was first configured.
    pub passed: u64,
    /// Checks that did not.
    pub failed: u64,
}

/// Ejection of an endpoint.
#[derive(Debug, Serialize, Deserialize)]
pub struct EndpointOutlier {
    /// Failures since the last thing that went well.
    pub failures_in_a_row: u32,
    /// When it will be let in again; `None`: it is not ejected.
    pub ejected_until: Option<String>,
    /// How often it was ejected since it was first configured.
    pub ejections: u64,
}

/// A connection that came to nothing.
#[derive(Debug, Serialize, Deserialize)]
pub struct LastFailure {
    /// In a word of RFC 9209 §2.3, or one of ours.
    pub kind: Cow<'static, str>,
    /// When.
    pub at: String,
}

/// One certificate.
#[derive(Debug, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Where it is shown.
    pub listener: Arc<str>,
    /// Names and addresses it is for.
    pub names: Vec<String>,
    /// Of the chain.
    pub file: String,
    /// When it ends.
    pub not_after: String,
    /// Whole days until then; negative once it has.
    pub days_left: i64,
}

/// An error that was seen, once or often.
#[derive(Debug, Serialize, Deserialize)]
pub struct RecentError {
    /// In a word of RFC 9209 §2.3, or one of ours.
    pub kind: Cow<'static, str>,
    /// Why.
    pub reason: Cow<'static, str>,
    /// How often.
    pub count: u64,
    /// The last time.
    pub last_at: String,
    /// What the client got then; `None`: nothing.
    pub status: Option<u16>,
    /// Where the request came in.
    pub listener: Arc<str>,
    /// The route it took.
    pub route: Option<Arc<str>>,
    /// The upstream of the route.
    pub upstream: Option<Arc<str>>,
    /// The endpoint that was asked last.
    pub endpoint: Option<Arc<str>>,
}
