//! One HTTP exchange as a tower service: the only place that orders its layers. They are composed statically, without a
//! box per request; each comment says why the layer stands where it does.

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{ACCEPT, ALT_SVC, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, LOCATION};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use tower::Service;
use tower::util::service_fn;

use super::affinity;
use super::context::{Connection, Facts, Profile, RequestId, Values};
use super::forward::{Order, forward};
use super::headers::hop_by_hop;
use super::normalize::{self, Checks, Normalized};
use super::record::{self, Stamps};
use super::rescue;
use super::upgrade::Wanted;
use crate::base::error::{Error, Kind};
use crate::body::Body;
use crate::body::exchange::Exchange;
use crate::body::incoming::Incoming;
use crate::body::interim::Interim;
use crate::config::model::PathRewrite;
use crate::http3::Informational;
use crate::protocol::link::Link;
use crate::route::action::{Action, ForwardRule, Redirect, Respond, Route};
use crate::route::rewrite::rewrite;
use crate::route::table::RequestHead;
use crate::snapshot::WorkerSnapshot;

/// The service of one downstream connection.
pub fn stack<B: Into<Incoming>>(
    connection: Rc<Connection>,
) -> impl Service<
    Request<B>,
    Response = Response<Body>,
    Error = Infallible,
    Future: Future<Output = Result<Response<Body>, Infallible>>,
> + Clone {
    service_fn(move |request: Request<B>| {
        // One generation for the whole request: a reload in between changes nothing for it.
        let (generation, profile) = connection.home.now();
        // The exchange begins before its future is polled: HTTP/2 and HTTP/3 spawn the stream right after this call,
        // and the task that drives it must know its deadlines.
        let is_stream = request.version() >= Version::HTTP_2;
        let exchange = connection.begin(profile.limits(is_stream));
        exchange.ledger().listener = Some(Rc::clone(&profile.measured));
        if is_stream {
            connection.link.supervise(Rc::clone(&exchange));
        }
        let informational = if is_stream { connection.link.take_informational() } else { None };
        let scene = Scene { connection: Rc::clone(&connection), exchange, generation, profile, informational };
        // Everything up to the choice of an endpoint needs no waiting and is done here, so that the future that hyper
        // moves about holds a box and what an answer is awaited with.
        carried_out(planned(scene, request))
    })
}

/// Where a request is met: what stays the same while it passes the layers.
pub struct Scene {
    /// The connection it came on.
    pub connection: Rc<Connection>,
    /// Its deadlines and its end.
    pub exchange: Rc<Exchange>,
    /// The generation that was in force when it came.
    pub generation: Rc<WorkerSnapshot>,
    /// The listener, as that generation has it.
    pub profile: Rc<Profile>,
    /// Where interim answers go, if the client takes any.
    pub informational: Option<Informational>,
}

/// What is to be done for a request.
enum Planned {
    /// It is answered already.
    Answered(Response<Body>),
    /// An endpoint is to be asked.
    Forward(Box<Order>, Incoming),
}

/// Outermost: whatever fails below becomes an answer here, and its outcome is noted once.
fn planned<B: Into<Incoming>>(scene: Scene, request: Request<B>) -> Planned {
    let (head, body) = request.into_parts();
    let id = RequestId::default();
    if scene.profile.logger.is_some() {
        id.adopt(&head.headers);
        record::begin(&scene, &head, &id);
    }
    let (exchange, connection) = (Rc::clone(&scene.exchange), Rc::clone(&scene.connection));
    let version = head.version;
    let alt_svc = scene.profile.alt_svc.clone();
    match checked(scene, head, id) {
        Ok(Way::Forward(order)) => Planned::Forward(order, body.into()),
        Ok(Way::Answer(answer)) => {
            let (response, method) = *answer;
            Planned::Answered(concluded(&connection.link, &exchange, alt_svc.as_ref(), response, &method, version))
        }
        Err(refused) => {
            let (error, head, id) = *refused;
            id.adopt(&head.headers);
            let accept = head.headers.get(ACCEPT);
            let response = apologise(&exchange, &error, accept, version, &id);
            Planned::Answered(concluded(&connection.link, &exchange, alt_svc.as_ref(), response, &head.method, version))
        }
    }
}

async fn carried_out(planned: Planned) -> Result<Response<Body>, Infallible> {
    match planned {
        Planned::Answered(response) => Ok(response),
        // Boxed: hyper and the runtime move a stream's future several times, and this one is two kilobytes.
        Planned::Forward(order, body) => Ok(Box::pin(to_and_fro(order, body)).await),
    }
}

/// Asks an endpoint and finishes its answer.
async fn to_and_fro(mut order: Box<Order>, body: Incoming) -> Response<Body> {
    let response = match forward(&mut order, body).await {
        Ok(mut response) => {
            // Last, so that what the route says stands over what endpoint and proxy put.
            order.edit_response(response.headers_mut());
            response
        }
        Err(error) => apologise(&order.scene.exchange, &error, order.accept.as_ref(), order.version, &order.id),
    };
    let Scene { connection, exchange, profile, .. } = &order.scene;
    concluded(&connection.link, exchange, profile.alt_svc.as_ref(), response, &order.method, order.version)
}

fn concluded(
    link: &Link,
    exchange: &Exchange,
    alt_svc: Option<&HeaderValue>,
    mut response: Response<Body>,
    method: &Method,
    version: Version,
) -> Response<Body> {
    if method == Method::HEAD {
        // Nothing of a body follows (RFC 9110 §9.3.2), whatever was prepared; on HTTP/2 hyper would send it, and so would HTTP/3.
        *response.body_mut() = Body::Empty;
        exchange.finish();
    }
    if let Some(alt_svc) = alt_svc {
        advertise(link, alt_svc, response.headers_mut(), version);
    }
    record::answered(exchange, response.headers());
    exchange.note_status(response.status().as_u16());
    // hyper adapts the version to the client's (RFC 9110 §6.2); the endpoint's own must not pass.
    *response.version_mut() = Version::HTTP_11;
    if version < Version::HTTP_2 && response.status() != StatusCode::SWITCHING_PROTOCOLS && link.is_leaving() {
        // RFC 9112 §9.6: who closes after an answer says so in it.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// RFC 7838 §3. What an endpoint says of itself is of no use to a client that knows it by our name.
fn advertise(link: &Link, alt_svc: &HeaderValue, fields: &mut HeaderMap, version: Version) {
    // Who is there already need not be told, and a listener that closes has nothing to offer.
    if version < Version::HTTP_3 && !link.is_leaving() {
        fields.insert(ALT_SVC, alt_svc.clone());
    } else {
        fields.remove(ALT_SVC);
    }
}

fn apologise(
    exchange: &Rc<Exchange>,
    error: &Error,
    accept: Option<&HeaderValue>,
    version: Version,
    id: &RequestId,
) -> Response<Body> {
    exchange.note_failure(error.kind(), error.reason());
    tracing::debug!(kind = error.kind().as_str(), side = ?error.side(), reason = error.reason(),
        request_id = id.as_str(), source = std::error::Error::source(error).map(tracing::field::display),
        "request failed");
    let mut response = rescue::answer(error, accept, id.as_str());
    let closes = matches!(
        error.kind(),
        Kind::HttpRequestError
            | Kind::RequestHeaderTooLarge
            | Kind::RequestNotImplemented
            | Kind::ClientStall
            | Kind::RequestBodyTooLarge
    );
    // RFC 9112 §9.3: after a malformed or unfinished request nobody knows where the next one begins. On HTTP/2
    // and HTTP/3 the stream alone ends.
    if closes && version < Version::HTTP_2 {
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

/// Which way a request takes.
enum Way {
    /// To an endpoint.
    Forward(Box<Order>),
    /// No further.
    Answer(Box<(Response<Body>, Method)>),
}

/// A request that is refused, with its head for the answer.
type Refused = Box<(Error, Parts, RequestId)>;

/// Before anything reads the request: is it one unambiguous message, and is it meant for this connection?
fn checked(scene: Scene, head: Parts, id: RequestId) -> Result<Way, Refused> {
    let checks = Checks { max_headers: scene.profile.spec.config.limits.max_headers as usize };
    let normalized = match normalize::check(&head, checks) {
        Ok(normalized) => normalized,
        Err(refusal) => return Err(Box::new((Error::downstream(refusal.kind, refusal.reason), head, id))),
    };
    record::named(&scene.exchange, &normalized);
    if let Err(error) = belongs_here(&scene, normalized.host()) {
        return Err(Box::new((error, head, id)));
    }
    if scene.profile.via.as_ref().is_some_and(|via| via.is_loop(&head.headers)) {
        let error = Error::downstream(Kind::ProxyLoopDetected, "the request has passed this proxy too often");
        return Err(Box::new((error, head, id)));
    }
    routed(scene, head, normalized, id)
}

/// RFC 9110 §15.5.20: a request for a host that the certificate of this connection does not cover is not ours to answer
/// here. The name of the handshake itself always is.
fn belongs_here(scene: &Scene, host: &str) -> Result<(), Error> {
    let Some(sni) = scene.connection.sni() else { return Ok(()) };
    let Some(tls) = &scene.profile.spec.tls else { return Ok(()) };
    if sni == host || tls.covers(Some(sni), host) {
        return Ok(());
    }
    let reason = "the certificate of this connection does not cover the requested host";
    Err(Error::downstream(Kind::Misdirected, reason))
}

/// Which route takes it, and may this client use it?
fn routed(scene: Scene, head: Parts, normalized: Normalized, id: RequestId) -> Result<Way, Refused> {
    let target = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let client = scene.connection.forwarded.client(&scene.profile.policy, &head.headers).address;
    let generation = Rc::clone(&scene.generation);
    let path = normalized.path(&head.uri);
    let asked = RequestHead {
        listener: scene.profile.spec.id,
        method: &head.method,
        host: normalized.host(),
        path,
        query: target.query(),
        headers: &head.headers,
    };
    let Some(found) = generation.snapshot.routes.find(&asked) else {
        let error = Error::downstream(Kind::DestinationNotFound, "no route matches the request");
        return Err(Box::new((error, head, id)));
    };
    let (route, rest) = (found.route, path.len() - found.rest.len());
    scene.exchange.ledger().route = generation.route_measured(route).cloned();
    let facts = Facts { normalized, target, rest, client };
    record::routed(&scene.exchange, route, &facts);
    if !route.access.permits(client) {
        let error = Error::downstream(Kind::HttpRequestDenied, "the route does not admit this client");
        return Err(Box::new((error, head, id)));
    }
    let stamps = Stamps::of(&scene.profile, route);
    if stamps.request_id || !route.request_headers.is_empty() || route.response_headers.needs_values() {
        id.adopt(&head.headers);
    }
    let mut response = match &route.action {
        Action::Forward(rule) => return to_endpoint(scene, head, facts, id, (route, rule, stamps)).map(Way::Forward),
        Action::Respond(respond) => own(&scene.exchange, respond_with(respond)),
        Action::Redirect(redirect) => {
            own(&scene.exchange, redirect_to(redirect, &facts.values(&scene.connection, &id)))
        }
    };
    if stamps.request_id {
        record::put_request_id(response.headers_mut(), &id);
    }
    if !route.response_headers.is_empty() {
        route.response_headers.apply(response.headers_mut(), &facts.values(&scene.connection, &id));
    }
    Ok(Way::Answer(Box::new((response, head.method))))
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

/// What the endpoint gets to see: no hop-by-hop field, who the client is, and the route's edits over all of it.
fn to_endpoint(
    mut scene: Scene,
    mut head: Parts,
    facts: Facts,
    id: RequestId,
    (route, rule, stamps): (&Route, &ForwardRule, Stamps),
) -> Result<Box<Order>, Refused> {
    let Some(upstream) = scene.generation.upstream(rule.split.pick(fastrand::u32(..))).cloned() else {
        return Err(Box::new((Error::internal("the route's upstream is not in its generation"), head, id)));
    };
    scene.exchange.ledger().upstream = Some(Rc::clone(upstream.measured()));
    let key = match upstream.asks_for_key() {
        true => affinity::key(&upstream.upstream().config.hash_on, &facts.asker(&scene.connection, &head.headers)),
        false => None,
    };
    let mut fields = std::mem::take(&mut head.headers);
    let accept = fields.get(ACCEPT).cloned();
    let seen = hop_by_hop::strip(&mut fields);
    // hyper has answered it by the time that the body is read (RFC 9110 §10.1.1); over HTTP/3 we do.
    let expects = fields.remove(EXPECT).is_some_and(|expects| expects.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let interim = scene.informational.take().map(|client| Interim::new(client, expects, hop_by_hop::filter_interim));
    if head.version == Version::HTTP_3 && scene.connection.link.is_early() {
        // RFC 8470 §5.1: whoever forwards it before the handshake is over says so.
        fields.insert(EARLY_DATA, HeaderValue::from_static("1"));
    }
    scene.connection.forwarded.apply(&scene.profile.policy, &mut fields, facts.normalized.authority());
    if let Some(via) = &scene.profile.via {
        via.append(&mut fields, head.version);
    }
    stamps.put(&mut fields, &id, &scene.exchange);
    let mut has_host = !facts.normalized.rewrites_host() && facts.normalized.authority().is_some();
    let mut target = None;
    // Most routes edit nothing, and then nothing is computed for it.
    if !route.request_headers.is_empty() || rule.rewrite != PathRewrite::Keep || !facts.is_origin_form() {
        let values = facts.values(&scene.connection, &id);
        route.request_headers.apply(&mut fields, &values);
        target = rewrite(&rule.rewrite, &facts.target, values.path, &values);
        has_host = false;
    }
    let wanted = seen
        .upgrade
        .filter(|protocol| {
            // RFC 6455 §4.1: GET. After any other method nobody knows whether a body or the protocol comes next.
            head.version == Version::HTTP_11 && head.method == Method::GET && rule.may_upgrade_to(protocol.as_bytes())
        })
        .map(Wanted::new);
    Ok(Box::new(Order {
        upstream,
        key,
        route: route.id,
        method: head.method,
        version: head.version,
        target: target.unwrap_or_else(|| facts.target.clone()),
        fields,
        has_host,
        wanted,
        asks_trailers: seen.te_trailers,
        takes_trailers: seen.te_trailers || head.version >= Version::HTTP_2,
        max_body: route.max_body.or(scene.profile.spec.config.limits.max_body),
        accept,
        facts,
        id,
        answers_id: stamps.request_id,
        chunked: false,
        interim,
        scene,
    }))
}

/// RFC 8470 §5.1.
const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");
