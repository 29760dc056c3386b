//! `[[route]]`: a match on a request and what to do with it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;

use super::Place;
use crate::base::template::Template;

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
    /// Whether its requests go into the access log, where there is one. Default: true.
    pub access_log: bool,
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
#[allow(clippy::large_enum_variant, reason = "most are the large one, and none is moved once it was read")]
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
    /// Indices into [`Config::upstreams`](super::Config::upstreams) with their weights; one entry for `upstream = "…"`. Never empty, never all zero.
    pub upstreams: Vec<(usize, u32)>,
    /// What becomes of the path.
    pub rewrite: PathRewrite,
    /// What the upstream sees as Host.
    pub host_header: HostHeader,
    /// `None`: the upstream's.
    pub response_timeout: Option<Duration>,
    /// `None`: off.
    pub total_timeout: Option<Duration>,
    /// `None`: the upstream's.
    pub tunnel_idle: Option<Duration>,
    /// When a request is sent again.
    pub retry: RetryRules,
    /// Protocols that may be switched to, lowercased. Default: websocket.
    pub upgrade: Vec<String>,
    /// What is read ahead of its reader. Default: nothing.
    pub buffer: BodyBuffers,
    /// Whether gRPC-Web is translated to gRPC. Default: no.
    pub grpc_web: bool,
    /// Whether the path is forwarded in the form that routes are matched by. Default: no, byte for byte.
    pub normalize_path: bool,
}

/// `route.buffer`, in bytes; `None`: nothing is read ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyBuffers {
    /// Of a request's body, before an endpoint is asked.
    pub request: Option<u64>,
    /// Of an answer's body, ahead of its client.
    pub response: Option<u64>,
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
