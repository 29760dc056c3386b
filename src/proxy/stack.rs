//! One HTTP exchange as a tower service: the only place that orders its layers. They are composed statically, without a
//! box per request; each comment says why the layer stands where it does.

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, LOCATION};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tower::Service;
use tower::util::service_fn;

use super::context::{Connection, Profile, RequestId, Values};
use super::forward::{Errand, forward};
use super::headers::hop_by_hop;
use super::normalize::{self, Checks, Normalized};
use super::rescue;
use super::upgrade::Wanted;
use crate::base::error::{Error, Kind};
use crate::body::Body;
use crate::body::exchange::{Exchange, Limits};
use crate::route::action::{Action, ForwardRule, Redirect, Respond, Route};
use crate::route::rewrite::rewrite;
use crate::route::table::RequestHead;
use crate::snapshot::WorkerSnapshot;

/// The service of one downstream connection.
pub fn stack(
    connection: Rc<Connection>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Body>,
    Error = Infallible,
    Future: Future<Output = Result<Response<Body>, Infallible>>,
> + Clone {
    service_fn(move |request: Request<Incoming>| {
        // One generation for the whole request: a reload in between changes nothing for it.
        let (generation, profile) = connection.home.now();
        // The exchange begins before its future is polled: HTTP/2 spawns the stream right after this call, and the
        // task that drives it must know its deadlines.
        let http2 = request.version() == Version::HTTP_2;
        let client_stall = profile.spec.config.timeouts.client_stall;
        let limits = Limits { client_stall, stream_idle: client_stall, judge_client: http2 };
        let exchange = connection.begin(limits);
        if http2 {
            connection.link.supervise(Rc::clone(&exchange));
        }
        let scene = Scene { connection: Rc::clone(&connection), exchange, generation, profile };
        rescued(scene, request)
    })
}

/// Where a request is met: what stays the same while it passes the layers.
struct Scene {
    connection: Rc<Connection>,
    exchange: Rc<Exchange>,
    generation: Rc<WorkerSnapshot>,
    profile: Rc<Profile>,
}

/// Outermost: whatever fails below becomes an answer here, and its outcome is noted once.
async fn rescued(scene: Scene, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (mut head, body) = request.into_parts();
    let method = head.method.clone();
    let id = RequestId::default();
    let mut response = match checked(&scene, &mut head, body, &id).await {
        Ok(response) => response,
        Err(error) => apologise(&scene.exchange, &error, &head, &id),
    };
    if method == Method::HEAD {
        // Nothing of a body follows (RFC 9110 §9.3.2), whatever was prepared; on HTTP/2 hyper would send it.
        *response.body_mut() = Body::Empty;
        scene.exchange.finish();
    }
    scene.exchange.note_status(response.status().as_u16());
    // hyper adapts the version to the client's (RFC 9110 §6.2); the endpoint's own must not pass.
    *response.version_mut() = Version::HTTP_11;
    if scene.connection.link.is_leaving()
        && head.version < Version::HTTP_2
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        // RFC 9112 §9.6: who closes after an answer says so in it.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

fn apologise(exchange: &Rc<Exchange>, error: &Error, head: &Parts, id: &RequestId) -> Response<Body> {
    exchange.note_failure(error.kind());
    id.adopt(&head.headers);
    tracing::debug!(kind = error.kind().as_str(), side = ?error.side(), reason = error.reason(),
        request_id = id.as_str(), source = std::error::Error::source(error).map(tracing::field::display),
        "request failed");
    let mut response = rescue::answer(error, &head.headers, id.as_str());
    let closes = matches!(
        error.kind(),
        Kind::HttpRequestError
            | Kind::RequestHeaderTooLarge
            | Kind::RequestNotImplemented
            | Kind::ClientStall
            | Kind::RequestBodyTooLarge
    );
    // RFC 9112 §9.3: after a malformed or unfinished request nobody knows where the next one begins, nor behind a
    // CONNECT that was refused. On HTTP/2 the stream alone ends, and hyper drops the field.
    if closes && head.version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    own(exchange, response)
}

/// An answer of our own.
fn own(exchange: &Rc<Exchange>, response: Response<Bytes>) -> Response<Body> {
    let (mut head, bytes) = response.into_parts();
    // RFC 9110 §15.3.5, §15.4.5.
    let bodiless = matches!(head.status.as_u16(), 204 | 304);
    if !bodiless {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    if bytes.is_empty() || bodiless {
        exchange.finish();
        return Response::from_parts(head, Body::empty());
    }
    Response::from_parts(head, Body::Own(bytes, Rc::clone(exchange)))
}

/// Before anything reads the request: is it one unambiguous message, and is it meant for this connection?
async fn checked(scene: &Scene, head: &mut Parts, body: Incoming, id: &RequestId) -> Result<Response<Body>, Error> {
    let checks = Checks { max_headers: scene.profile.spec.config.limits.max_headers as usize };
    let normalized =
        normalize::check(head, checks).map_err(|refusal| Error::downstream(refusal.kind, refusal.reason))?;
    belongs_here(scene, normalized.host())?;
    if scene.profile.via.as_ref().is_some_and(|via| via.is_loop(&head.headers)) {
        return Err(Error::downstream(Kind::ProxyLoopDetected, "the request has passed this proxy too often"));
    }
    routed(scene, head, body, &normalized, id).await
}

/// RFC 9110 §15.5.20: a request for a host that the certificate of this connection does not cover is not ours to answer
/// here. The name of the handshake itself always is.
fn belongs_here(scene: &Scene, host: &str) -> Result<(), Error> {
    let Some(sni) = scene.connection.sni() else { return Ok(()) };
    let Some(tls) = &scene.profile.spec.tls else { return Ok(()) };
    if sni == host || tls.certificates().covers(Some(sni), host) {
        return Ok(());
    }
    let reason = "the certificate of this connection does not cover the requested host";
    Err(Error::downstream(Kind::Misdirected, reason))
}

/// Which route takes it, and may this client use it?
async fn routed(
    scene: &Scene,
    head: &mut Parts,
    body: Incoming,
    normalized: &Normalized,
    id: &RequestId,
) -> Result<Response<Body>, Error> {
    let (connection, profile) = (&scene.connection, &scene.profile);
    let target = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let uri = head.uri.clone();
    let path = normalized.path(&uri);
    let client = connection.forwarded.client(&profile.policy, &head.headers);
    let asked = RequestHead {
        listener: profile.spec.id,
        method: &head.method,
        host: normalized.host(),
        path,
        query: target.query(),
        headers: &head.headers,
    };
    let found = scene.generation.snapshot.routes.find(&asked);
    let Some(found) = found else {
        return Err(Error::downstream(Kind::DestinationNotFound, "no route matches the request"));
    };
    let route = found.route;
    // It always ends the path; taken from there, it outlives the borrow of the head.
    let rest = &path[path.len() - found.rest.len()..];
    if !route.access.permits(client.address) {
        return Err(Error::downstream(Kind::HttpRequestDenied, "the route does not admit this client"));
    }
    if !route.request_headers.is_empty() || route.response_headers.needs_values() {
        id.adopt(&head.headers);
    }
    let values = Values {
        connection,
        host: normalized.host(),
        port: normalized.port(),
        path,
        query: target.query(),
        rest,
        client: client.address,
        id,
    };
    let mut response = match &route.action {
        Action::Respond(respond) => own(&scene.exchange, respond_with(respond)),
        Action::Redirect(redirect) => own(&scene.exchange, redirect_to(redirect, &values)),
        Action::Forward(rule) => {
            let target = rewrite(&rule.rewrite, &target, path, &values).unwrap_or_else(|| target.clone());
            forwarded(scene, head, body, normalized, Way { route, rule, target, values: &values }).await?
        }
    };
    // Innermost edits last: what the route says stands over what endpoint and proxy put.
    route.response_headers.apply(response.headers_mut(), &values);
    Ok(response)
}

fn respond_with(respond: &Respond) -> Response<Bytes> {
    let mut response = Response::new(respond.body.clone());
    *response.status_mut() = respond.status;
    if !respond.body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, respond.content_type.clone());
    }
    response
}

fn redirect_to(redirect: &Redirect, values: &Values<'_>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = redirect.status;
    response.headers_mut().insert(LOCATION, redirect.location(values));
    response
}

/// Which way a request takes.
struct Way<'a> {
    route: &'a Route,
    rule: &'a ForwardRule,
    target: PathAndQuery,
    values: &'a Values<'a>,
}

/// What the endpoint gets to see: no hop-by-hop field, who the client is, and the route's edits over all of it.
async fn forwarded(
    scene: &Scene,
    head: &mut Parts,
    body: Incoming,
    normalized: &Normalized,
    way: Way<'_>,
) -> Result<Response<Body>, Error> {
    let (connection, profile) = (&scene.connection, &scene.profile);
    let mut fields = std::mem::take(&mut head.headers);
    let seen = hop_by_hop::strip(&mut fields);
    // hyper has answered it by the time that the body is read (RFC 9110 §10.1.1).
    fields.remove(EXPECT);
    connection.forwarded.apply(&profile.policy, &mut fields, normalized.authority());
    if let Some(via) = &profile.via {
        via.append(&mut fields, head.version);
    }
    way.route.request_headers.apply(&mut fields, way.values);
    let bodiless = http_body::Body::is_end_stream(&body);
    let wanted = seen
        .upgrade
        .filter(|protocol| bodiless && head.version == Version::HTTP_11 && way.rule.may_upgrade_to(protocol.as_bytes()))
        .map(Wanted::new);
    let upstream = way.rule.split.pick(fastrand::u32(..));
    let Some(upstream) = scene.generation.upstream(upstream) else {
        return Err(Error::internal("the route's upstream is not in its generation"));
    };
    let max_body = way.route.max_body.or(profile.spec.config.limits.max_body);
    let errand = Errand {
        connection,
        exchange: &scene.exchange,
        upstream,
        rule: way.rule,
        method: head.method.clone(),
        target: way.target,
        authority: normalized.authority().cloned(),
        fields,
        wanted,
        asks_trailers: seen.te_trailers,
        takes_trailers: seen.te_trailers || head.version == Version::HTTP_2,
        max_body,
    };
    forward(errand, body).await
}
