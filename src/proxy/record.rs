//! What the access log and the endpoint learn about a request beyond its own fields: the record that is kept until the
//! exchange ends, `x-request-id` and `traceparent` (W3C Trace Context). Requests whose listener or route needs none of
//! these pay nothing.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{HOST, REFERER, USER_AGENT};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Version};

use super::context::{Connection, Facts, Profile, RequestId};
use super::normalize::Normalized;
use super::rescue::{self, X_REQUEST_ID};
use super::stack::Scene;
use crate::base::error::Error;
use crate::body::exchange::Exchange;
use crate::config::model::{Stamp, TlsVersion};
use crate::route::action::Route;
use crate::telemetry::access_log::{Headers, Record};
use crate::telemetry::trace_context::TraceContext;

/// Which tracing headers are added to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamps {
    /// `x-request-id`, on the request and on its response.
    pub request_id: bool,
    /// `traceparent`.
    pub traceparent: bool,
}

impl Stamps {
    /// The headers that a listener adds to the requests of a route.
    pub fn of(profile: &Profile, route: &Route) -> Self {
        let logged = profile.is_logged && route.access_log;
        let puts = |stamp| match stamp {
            Stamp::Always => true,
            Stamp::Auto => logged,
            Stamp::Off => false,
        };
        let config = &profile.spec.config;
        Self { request_id: puts(config.request_id), traceparent: puts(config.traceparent) }
    }

    /// Adds them to the forwarded request.
    pub fn put(self, fields: &mut HeaderMap, id: &RequestId, exchange: &Exchange) {
        if self.request_id {
            put_request_id(fields, id);
        }
        let trace = if self.traceparent { Some(TraceContext::take_up(fields)) } else { None };
        if let Some((_, record)) = &mut exchange.ledger().record {
            record.trace = trace.or_else(|| TraceContext::of(fields));
        }
    }
}

/// Sets `x-request-id`.
pub fn put_request_id(fields: &mut HeaderMap, id: &RequestId) {
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        fields.insert(X_REQUEST_ID, id);
    }
}

/// Starts the record of a request, if its listener is logged.
pub fn begin(scene: &Scene, head: &Parts, id: &RequestId) {
    let Some(logger) = &scene.profile.logger else { return };
    let target = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let authority = head.uri.authority().map(|authority| authority.host());
    let host = authority.or_else(|| head.headers.get(HOST)?.to_str().ok()).unwrap_or_default();
    let record = Record {
        method: head.method.clone(),
        target,
        host: host.into(),
        version: head.version,
        request_id: id.as_str().into(),
        referer: head.headers.get(REFERER).cloned(),
        user_agent: head.headers.get(USER_AGENT).cloned(),
        request_headers: Headers::pick(logger.access_log().request_headers(), &head.headers),
        ..empty(&scene.connection, &scene.profile)
    };
    scene.exchange.ledger().record = Some((Rc::clone(logger), Box::new(record)));
}

/// Records a request whose head was refused before it was parsed: it ends as soon as it begins.
pub fn enter_refused(connection: &Connection, error: &Error, id: &str, version: Version) {
    let (_, profile) = connection.home.now();
    let exchange = Exchange::begin(connection.link.load(), profile.limits(false));
    {
        let mut ledger = exchange.ledger();
        ledger.listener = Some(Rc::clone(&profile.measured));
        ledger.record = profile.logger.as_ref().map(|logger| {
            let record = Record { request_id: id.into(), version, ..empty(connection, &profile) };
            (Rc::clone(logger), Box::new(record))
        });
    }
    exchange.note_failure(error.kind(), error.reason());
    exchange.note_status(rescue::status_of(error.kind()).as_u16());
    exchange.finish();
}

/// The record of a request whose head is not known. `-` stands for the method, as no method has this name (RFC 9110
/// §9.1).
fn empty(connection: &Connection, profile: &Profile) -> Record {
    let tls = connection.tls.as_ref();
    Record {
        at: SystemTime::now(),
        method: Method::from_bytes(b"-").unwrap_or_default(),
        target: PathAndQuery::from_static("/"),
        host: "".into(),
        version: Version::HTTP_11,
        scheme: connection.scheme(),
        client: connection.remote.map(|remote| remote.ip()),
        peer: connection.peer(),
        listener: Arc::clone(&profile.spec.name),
        route: None,
        upstream: None,
        endpoint: None,
        attempts: 0,
        request_id: "".into(),
        trace: None,
        sni: connection.sni().map(Into::into),
        tls_version: tls.map(|tls| match tls.version {
            TlsVersion::V1_2 => "1.2",
            TlsVersion::V1_3 => "1.3",
        }),
        referer: None,
        destination: None,
        user: None,
        user_agent: None,
        request_headers: Headers::default(),
        response_headers: Headers::default(),
    }
}

/// Notes the effective host.
pub fn named(exchange: &Exchange, normalized: &Normalized) {
    if let Some((_, record)) = &mut exchange.ledger().record {
        record.host = normalized.host().into();
    }
}

/// Notes the route, which may turn logging off, and the client's address.
pub fn routed(exchange: &Exchange, route: &Route, facts: &Facts) {
    let mut ledger = exchange.ledger();
    if !route.access_log {
        ledger.record = None;
    }
    if let Some((_, record)) = &mut ledger.record {
        record.client = facts.client;
    }
}

/// Notes the fields of the response, when its head is sent.
pub fn answered(exchange: &Exchange, fields: &HeaderMap) {
    if let Some((logger, record)) = &mut exchange.ledger().record {
        record.response_headers = Headers::pick(logger.access_log().response_headers(), fields);
    }
}
