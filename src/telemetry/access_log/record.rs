//! The logged facts about a request, kept from its head until its exchange ends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use smallvec::SmallVec;

use crate::telemetry::trace_context::TraceContext;

/// What is known of a request. Made only where the access log is on for its listener and its route, and boxed by whoever
/// keeps it; what becomes known later (endpoint, attempts, headers of the answer) is filled in as it comes.
#[derive(Clone, Debug)]
pub struct Record {
    /// When its head was read.
    pub at: SystemTime,
    /// Its method.
    pub method: Method,
    /// Its target as the client sent it.
    pub target: PathAndQuery,
    /// The effective host, without the port; empty: there is none.
    pub host: Box<str>,
    /// What the client spoke.
    pub version: Version,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The client's address, as trusted proxies tell it.
    pub client: Option<IpAddr>,
    /// The other end of the connection; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The route's name; `None`: none matched.
    pub route: Option<Arc<str>>,
    /// The upstream's name; `None`: the proxy answered by itself.
    pub upstream: Option<Arc<str>>,
    /// The endpoint that was asked last.
    pub endpoint: Option<Arc<str>>,
    /// How often the request was sent, or tried to be.
    pub attempts: u32,
    /// `x-request-id`, received or generated; empty: there is none.
    pub request_id: Box<str>,
    /// `traceparent`, passed on or begun.
    pub trace: Option<TraceContext>,
    /// The name of the TLS handshake.
    pub sni: Option<Box<str>>,
    /// The version of TLS, such as `1.3`.
    pub tls_version: Option<&'static str>,
    /// `Referer`.
    pub referer: Option<HeaderValue>,
    /// `User-Agent`.
    pub user_agent: Option<HeaderValue>,
    /// With mode forward: where the client wants to go.
    pub destination: Option<Box<str>>,
    /// Who it proved to be.
    pub user: Option<Box<str>>,
    /// Of the request's headers those that the log asks for: [`AccessLog::request_headers`](super::AccessLog::request_headers).
    pub request_headers: Headers,
    /// The same of the answer's.
    pub response_headers: Headers,
}

/// A few headers with their values.
#[derive(Clone, Debug, Default)]
pub struct Headers(SmallVec<[(HeaderName, HeaderValue); 2]>);

impl Headers {
    /// Those of `wanted` that are there, the first line of each. Costs nothing where nothing is wanted.
    pub fn pick(wanted: &[HeaderName], fields: &HeaderMap) -> Self {
        Self(wanted.iter().filter_map(|name| Some((name.clone(), fields.get(name)?.clone()))).collect())
    }

    /// The value of one of them.
    pub fn value(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}
