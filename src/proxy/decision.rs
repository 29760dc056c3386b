//! All decisions about a request that need no waiting: whether it is one unambiguous message, which route matches, whether
//! the client may use it, and what is sent to the endpoint. Each step is reported to a witness: `()` for traffic, a recorder for
//! `explain`.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, EXPECT, LOCATION};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Response, Version};

use super::affinity;
use super::context::{Facts, RequestId, Values};
use super::egress::Asked;
use super::forward::Order;
use super::grpc;
use super::headers::{hop_by_hop, max_forwards};
use super::normalize::{self, Checks, Normalized};
use super::own::own;
use super::record::{self, Stamps};
use super::stack::Scene;
use super::upgrade::{Wanted, may_switch, routed_method};
use super::witness::{Step, Witness};
use crate::base::error::{Error, Kind};
use crate::body::Body;
use crate::body::interim::Interim;
use crate::config::model::PathRewrite;
use crate::route::action::{Action, ForwardRule, Redirect, Respond, Route};
use crate::route::rewrite::{in_normal_form, rewrite};
use crate::route::table::RequestHead;
use crate::upstream::worker::WorkerUpstream;

/// How a request continues.
pub enum Way {
    /// To an endpoint.
    Forward(Box<Order>),
    /// To the destination that the client named, if that is allowed (forward mode).
    Egress(Box<Asked>),
    /// The proxy answers it itself.
    Answer(Box<(Response<Body>, Method)>),
}

/// A refused request, with its head for the error response.
pub type Refused = Box<(Error, Parts, RequestId)>;

/// Checks that the request is one unambiguous message and belongs on this connection, then routes it.
///
/// # Errors
/// The reason for refusing the request.
pub fn checked(scene: Scene, head: Parts, id: RequestId, witness: &mut impl Witness) -> Result<Way, Refused> {
    let spec = &scene.profile.spec;
    let is_forward = spec.egress.is_some();
    let checks = Checks { max_headers: spec.config.limits.max_headers as usize, is_forward };
    let normalized = match normalize::check(&head, checks) {
        Ok(normalized) => normalized,
        Err(refusal) => return Err(Box::new((Error::downstream(refusal.kind, refusal.reason), head, id))),
    };
    record::named(&scene.exchange, &normalized);
    if !is_forward && let Err(error) = belongs_here(&scene, &normalized) {
        return Err(Box::new((error, head, id)));
    }
    if scene.profile.via.as_ref().is_some_and(|via| via.is_loop(&head.headers)) {
        let error = Error::downstream(Kind::ProxyLoopDetected, "the request has passed this proxy too often");
        return Err(Box::new((error, head, id)));
    }
    if max_forwards::is_spent(&head.method, &head.headers) {
        let reason = "Max-Forwards ends here, and nothing is said of this proxy itself";
        return Err(Box::new((Error::downstream(Kind::RequestNotImplemented, reason), head, id)));
    }
    if is_forward {
        return Ok(Way::Egress(Box::new(Asked { scene, head, normalized, id })));
    }
    routed(scene, head, normalized, id, witness)
}

/// RFC 9110 §15.5.20: a request for a host that this connection's certificate does not cover gets 421. The name in the
/// handshake is always accepted.
fn belongs_here(scene: &Scene, asked: &Normalized) -> Result<(), Error> {
    let Some(sni) = scene.connection.sni() else { return Ok(()) };
    let Some(tls) = &scene.profile.spec.tls else { return Ok(()) };
    let host = asked.host();
    if sni == host || tls.covers(Some(sni), host) {
        return Ok(());
    }
    let reason = "the certificate of this connection does not cover the requested host";
    Err(Error::downstream(Kind::Misdirected, reason))
}

/// Finds the route and checks that the client may use it.
fn routed(
    scene: Scene,
    head: Parts,
    normalized: Normalized,
    id: RequestId,
    witness: &mut impl Witness,
) -> Result<Way, Refused> {
    let target = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let client = scene.connection.forwarded.client(&scene.profile.policy, &head.headers).address;
    let generation = Rc::clone(&scene.generation);
    let path = normalized.path(&head.uri);
    witness.understood(&normalized, path, client);
    let asked = RequestHead {
        listener: scene.profile.spec.id,
        method: routed_method(&head),
        host: normalized.host(),
        path,
        query: target.query(),
        headers: &head.headers,
    };
    let Some(found) = generation.snapshot.routes.find_with(&asked, witness) else {
        let error = Error::downstream(Kind::DestinationNotFound, "no route matches the request");
        return Err(Box::new((error, head, id)));
    };
    witness.found(found.route, found.rest);
    let (route, rest) = (found.route, path.len() - found.rest.len());
    scene.exchange.ledger().route = generation.route_measured(route).cloned();
    let facts = Facts { normalized, target, rest, client };
    record::routed(&scene.exchange, route, &facts);
    if !route.access.permits(client) {
        let error = Error::downstream(Kind::HttpRequestDenied, "the route does not allow this client");
        return Err(Box::new((error, head, id)));
    }
    if let Action::Respond(respond) = &route.action
        && respond.status.is_success()
        && head.method == Method::CONNECT
    {
        // RFC 8441 §4: the client would take a success as the switch to the other protocol.
        let error =
            Error::downstream(Kind::RequestNotImplemented, "the route answers itself and cannot switch protocols");
        return Err(Box::new((error, head, id)));
    }
    let stamps = Stamps::of(&scene.profile, route);
    if stamps.request_id || !route.request_headers.is_empty() || route.response_headers.needs_values() {
        id.adopt(&head.headers);
    }
    let mut response = match &route.action {
        Action::Forward(rule) => {
            return to_endpoint(scene, head, facts, id, (route, rule, stamps), witness).map(Way::Forward);
        }
        Action::Respond(respond) => own(&scene.exchange, respond_with(respond)),
        Action::Redirect(redirect) => {
            own(&scene.exchange, redirect_to(redirect, &facts.values(&scene.connection, &id)))
        }
    };
    witness.passed(Step::Answer, response.headers());
    if stamps.request_id {
        record::put_request_id(response.headers_mut(), &id);
        witness.passed(Step::Stamps, response.headers());
    }
    if !route.response_headers.is_empty() {
        route.response_headers.apply(response.headers_mut(), &facts.values(&scene.connection, &id));
        witness.passed(Step::Edits, response.headers());
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

/// Chooses one of the route's upstreams.
fn to_endpoint(
    scene: Scene,
    head: Parts,
    facts: Facts,
    id: RequestId,
    (route, rule, stamps): (&Route, &ForwardRule, Stamps),
    witness: &mut impl Witness,
) -> Result<Box<Order>, Refused> {
    let Some(upstream) = scene.generation.upstream(rule.split.pick(witness.chance())).cloned() else {
        return Err(Box::new((Error::internal("the route's upstream is not in its generation"), head, id)));
    };
    if let Err(error) = may_switch(&head, rule) {
        return Err(Box::new((error, head, id)));
    }
    Ok(onward(scene, head, facts, id, upstream, (route, rule, stamps), witness))
}

/// Builds the forwarded request: removes hop-by-hop fields, adds those about the client, and applies the route's edits last.
pub fn onward(
    mut scene: Scene,
    mut head: Parts,
    facts: Facts,
    id: RequestId,
    upstream: Rc<WorkerUpstream>,
    (route, rule, stamps): (&Route, &ForwardRule, Stamps),
    witness: &mut impl Witness,
) -> Box<Order> {
    scene.exchange.ledger().upstream = Some(Rc::clone(upstream.measured()));
    let key = match upstream.asks_for_key() {
        true => affinity::key(&upstream.upstream().config.hash_on, &facts.asker(&scene.connection, &head.headers)),
        false => None,
    };
    let mut fields = std::mem::take(&mut head.headers);
    let accept = fields.get(ACCEPT).cloned();
    let form = grpc::Form::of(&head.method, &fields);
    let patience = form.and_then(|_| grpc::timeout(&fields));
    let translated = form.filter(|form| rule.grpc_web && *form != grpc::Form::Native);
    if let Some(form) = translated {
        grpc::translate(&mut fields, form);
        witness.passed(Step::GrpcWeb, &fields);
    }
    let translated = translated.map(|form| form.answered_in(accept.as_ref()));
    let seen = hop_by_hop::strip(&mut fields);
    max_forwards::count_down(&head.method, &mut fields);
    let wanted = Wanted::of(&mut head, &fields, seen.upgrade, rule);
    witness.passed(Step::HopByHop, &fields);
    // RFC 9110 §10.1.1: `forward` sends Expect again if the session reports 1xx responses and a body follows.
    let expects = fields.remove(EXPECT).is_some_and(|expects| expects.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    witness.passed(Step::Expect, &fields);
    let interim = Interim::new(scene.informational.take(), expects, hop_by_hop::filter_interim);
    if head.version == Version::HTTP_3 && scene.connection.link.is_early() {
        // RFC 8470 §5.1: a request forwarded before the handshake is complete is marked.
        fields.insert(EARLY_DATA, HeaderValue::from_static("1"));
        witness.passed(Step::EarlyData, &fields);
    }
    scene.connection.forwarded.apply(&scene.profile.policy, &mut fields, facts.normalized.authority());
    witness.passed(Step::Forwarded, &fields);
    if let Some(via) = &scene.profile.via {
        via.append(&mut fields, head.version);
        witness.passed(Step::Via, &fields);
    }
    stamps.put(&mut fields, &id, &scene.exchange);
    witness.passed(Step::Stamps, &fields);
    let mut has_host = !facts.normalized.rewrites_host() && facts.normalized.authority().is_some();
    let mut target = None;
    // Most routes edit nothing; they skip this.
    let edits = !route.request_headers.is_empty() || rule.rewrite != PathRewrite::Keep || rule.normalize_path;
    if edits || !facts.is_origin_form() {
        let values = facts.values(&scene.connection, &id);
        if rule.normalize_path {
            normalize::name_changes(&mut fields, &facts.target, values.path);
            witness.passed(Step::NormalPath, &fields);
        }
        route.request_headers.apply(&mut fields, &values);
        witness.passed(Step::Edits, &fields);
        target = rewrite(&rule.rewrite, &facts.target, values.path, &values);
        if target.is_none() && rule.normalize_path {
            target = in_normal_form(&facts.target, values.path);
        }
        has_host = false;
    }
    Box::new(Order {
        upstream,
        key,
        route: route.id,
        // For an extended CONNECT, `Wanted::put_into` restores the method if the session has streams.
        method: if head.method == Method::CONNECT { Method::GET } else { head.method },
        version: head.version,
        target: target.unwrap_or_else(|| facts.target.clone()),
        fields,
        has_host,
        wanted,
        asks_trailers: seen.te_trailers || translated.is_some(),
        takes_trailers: seen.te_trailers || translated.is_some() || head.version >= Version::HTTP_2,
        max_body: route.max_body.or(scene.profile.spec.config.limits.max_body),
        accept,
        form,
        translated,
        patience,
        facts,
        id,
        answers_id: stamps.request_id,
        chunked: false,
        interim,
        scene,
    })
}

/// RFC 8470 §5.1.
const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");
