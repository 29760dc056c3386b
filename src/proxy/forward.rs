//! Sends one request to an endpoint of its upstream, retries where that is safe, and returns the response. Called by
//! `stack` after all decisions are made; it calls only `upstream`.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::EXPECT;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use smallvec::SmallVec;

use super::context::{Facts, RequestId};
use super::framing;
use super::grpc;
use super::headers::hop_by_hop;
use super::intake::source_of;
use super::outbound::request_for;
use super::own::own;
use super::record;
use super::retry::{self, Attempt, Decision};
use super::stack::Scene;
use super::trial::Trial;
use super::upgrade::{self, Wanted};
use crate::base::error::Error;
use crate::base::id::RouteId;
use crate::body::Body;
use crate::body::ahead::Ahead;
use crate::body::exchange::Exchange;
use crate::body::incoming::Incoming;
use crate::body::interim::Interim;
use crate::body::request::Source;
use crate::body::response::ResponseBody;
use crate::route::action::{Action, ForwardRule};
use crate::upstream::balance::EndpointIndex;
use crate::upstream::client::{Answer, SendFailure, Session};
use crate::upstream::worker::{Pick, WorkerUpstream};

/// One request to be forwarded.
pub struct Order {
    /// Its context.
    pub scene: Scene,
    /// The upstream that was chosen.
    pub upstream: Rc<WorkerUpstream>,
    /// The hash for choosing the endpoint, if the upstream's policy uses one.
    pub key: Option<u64>,
    /// Its route.
    pub route: RouteId,
    /// The method.
    pub method: Method,
    /// The client's HTTP version.
    pub version: Version,
    /// The target, rewritten.
    pub target: PathAndQuery,
    /// The edited header fields, without hop-by-hop fields.
    pub fields: HeaderMap,
    /// Whether Host in `fields` is already the effective authority.
    pub has_host: bool,
    /// The protocol that the client wants to switch to, if the route allows it.
    pub wanted: Option<Wanted>,
    /// Whether trailers may be sent to the client.
    pub takes_trailers: bool,
    /// Whether the client sent `TE: trailers`, which is then also sent to the endpoint.
    pub asks_trailers: bool,
    /// The body's limit in bytes.
    pub max_body: Option<u64>,
    /// A body of unknown length follows a GET or HEAD, which must be declared on HTTP/1.1.
    pub chunked: bool,
    /// The client's Accept, for error responses of the proxy.
    pub accept: Option<HeaderValue>,
    /// The client's form of gRPC; `None`: not a gRPC request.
    pub form: Option<grpc::Form>,
    /// The form of gRPC-Web to translate the response to; `None`: no translation.
    pub translated: Option<grpc::Form>,
    /// How long the client waits, from `grpc-timeout`.
    pub patience: Option<Duration>,
    /// The facts that its route was chosen by.
    pub facts: Facts,
    /// Its request id.
    pub id: RequestId,
    /// Whether the response carries the id.
    pub answers_id: bool,
    /// The channel for interim (1xx) responses, if the client takes any.
    pub interim: Option<Interim>,
}

impl Order {
    /// Applies the route's edits to the fields of the response.
    pub fn edit_response(&self, fields: &mut HeaderMap) {
        if self.answers_id {
            record::put_request_id(fields, &self.id);
        }
        let Some(route) = self.scene.generation.snapshot.routes.route(self.route) else { return };
        if !route.response_headers.is_empty() {
            route.response_headers.apply(fields, &self.facts.values(&self.scene.connection, &self.id));
        }
    }

    /// Whether a response with this status switches protocols, or should have.
    fn switches(&self, status: StatusCode, multiplexed: bool) -> bool {
        let concerns = |wanted: &Wanted| wanted.concerns(status, multiplexed);
        status == StatusCode::SWITCHING_PROTOCOLS || self.wanted.as_ref().is_some_and(concerns)
    }
}

/// Sends the request and returns the response with a streaming body.
///
/// # Errors
/// The error of the last attempt. Dropping the future cancels the request: its connection is closed, or its stream reset.
pub async fn forward(order: &mut Order, body: Incoming) -> Result<Response<Body>, Error> {
    let generation = Rc::clone(&order.scene.generation);
    let egress = order.scene.profile.spec.egress.clone();
    let route = match &egress {
        None => generation.snapshot.routes.route(order.route),
        Some(egress) => Some(&egress.route),
    };
    let rule = match route.map(|route| &route.action) {
        Some(Action::Forward(rule)) => rule,
        _ => return Err(Error::internal("the route of a request does not forward")),
    };
    let timeouts = &order.upstream.upstream().config.timeouts;
    order.scene.exchange.limit_stream_idle(timeouts.stream_idle);
    // The client's own deadline can only shorten the route's.
    if let Some(total) = rule.total_timeout.into_iter().chain(order.patience).min() {
        order.scene.exchange.limit_total(total);
    }
    let response_timeout = rule.response_timeout.unwrap_or(timeouts.response);
    let tunnel_idle = rule.tunnel_idle.unwrap_or(timeouts.tunnel_idle);
    let source = source_of(order, rule, body).await?;
    if let Some((source, limit)) = source.as_ref().zip(rule.buffer.request) {
        // Boxed: few routes buffer, and the future of every request would be larger.
        let filled: Pin<Box<dyn Future<Output = _>>> = Box::pin(source.fill(limit));
        within_total(&order.scene.exchange, filled).await?;
    }
    // RFC 9110 §7.8: bytes after a request with a body are that body, not the other protocol.
    if source.is_some() {
        order.wanted = None;
    }
    match attempts(order, rule, source.as_ref(), response_timeout).await {
        // Boxed: few requests switch protocols.
        Ok((multiplexed, answer)) if order.switches(answer.response.status(), multiplexed) => {
            Box::pin(upgrade::switch(order, multiplexed, answer, tunnel_idle)).await
        }
        Ok((multiplexed, answer)) => finish(order, rule, source, multiplexed, answer),
        Err(error) => {
            if let Some(source) = source {
                source.abandon();
            }
            Err(error)
        }
    }
}

/// Sends the request, and again as often as is safe and allowed.
async fn attempts(
    order: &mut Order,
    rule: &ForwardRule,
    source: Option<&Rc<Source>>,
    response_timeout: Duration,
) -> Result<(bool, Answer), Error> {
    let mut tried: SmallVec<[EndpointIndex; 4]> = SmallVec::new();
    let mut state = Attempt {
        rules: &rule.retry,
        idempotent: retry::is_idempotent(&order.method),
        has_body: source.is_some(),
        body_untouched: true,
        body_replayable: true,
        used: 0,
        replays: 0,
    };
    let header = order.scene.connection.header_for_endpoint(order.upstream.upstream().config.send_proxy_protocol);
    let mut pick = order.upstream.pick(order.key, &tried)?;
    loop {
        let exchange = &order.scene.exchange;
        exchange.ledger().attempt(pick.label());
        let (fresh, clock, header) = (state.replays > 0, exchange.clock(), header.as_deref());
        // Usually a pooled session is available at once, without an await.
        let at_hand = match (&order.wanted, header) {
            (None, None) => order.upstream.at_hand(&pick, fresh),
            _ => None,
        };
        let made = match (at_hand, &order.wanted) {
            (Some(session), _) => Ok(session),
            // Boxed: otherwise the state of connecting would enlarge the future of every request.
            (None, None) => {
                let made = Box::pin(order.upstream.session(&pick, fresh, clock, header));
                within_total(exchange, made).await
            }
            (None, Some(_)) => {
                let made = Box::pin(order.upstream.session_to_switch(&pick, fresh, clock, header));
                within_total(exchange, made).await
            }
        };
        let session = match made {
            Ok(session) => session,
            Err(error) if state.after_connect_failure(&error) == Decision::TryAgain => {
                pick = next_pick(order, &mut state, &mut tried, &pick)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let (reused, multiplexed) = (session.is_reused(), session.is_multiplexed());
        // The fields are copied only if the request may have to be sent again.
        let mut kept = state.may_be_sent_again(reused, multiplexed);
        let fields = if kept { order.fields.clone() } else { std::mem::take(&mut order.fields) };
        let request = prepared(order, rule, fields, &session, &pick, source)?;
        let trial = Trial::begin(pick.endpoint());
        let sent = send(&order.scene.exchange, session, request, response_timeout).await;
        if let Some(source) = source {
            state.body_untouched = source.is_untouched();
            state.body_replayable = source.is_replayable();
        }
        let failed = match sent {
            Ok(answer) => {
                order.scene.exchange.note_first_byte();
                trial.answered(answer.response.status());
                pick.hear(answer.response.headers());
                if !kept || state.after_status(answer.response.status()) == Decision::GiveUp {
                    if pick.is_counted() {
                        order.scene.exchange.hold(Some(Box::new(pick)));
                    }
                    return Ok((multiplexed, answer));
                }
                None
            }
            Err(failure) => {
                if let Some(request) = failure.request
                    && !kept
                {
                    take_back(order, *request);
                    kept = true;
                }
                Some((source.and_then(|source| source.take_failure()).unwrap_or(failure.error), trial))
            }
        };
        let decision = match &failed {
            None => Decision::TryAgain,
            Some((error, _)) if kept => state.after_send_failure(error, reused),
            Some(_) => Decision::GiveUp,
        };
        let failed = failed.map(|(error, trial)| {
            match decision {
                Decision::Replay => trial.void(),
                _ => trial.failed(&error, rule.total_timeout, order.scene.exchange.awaits_endpoint()),
            }
            error
        });
        match (decision, failed) {
            (Decision::Replay, _) => {
                state.replays += 1;
                order.scene.exchange.note_attempt_failed();
                order.scene.connection.link.load().counters().retries.add(1);
            }
            (Decision::TryAgain, _) => pick = next_pick(order, &mut state, &mut tried, &pick)?,
            (Decision::GiveUp, Some(error)) => return Err(error),
            (Decision::GiveUp, None) => return Err(Error::internal("a request could not be sent again")),
        }
    }
}

/// The request for this session, with the receiver of interim responses if the client takes any.
fn prepared(
    order: &Order,
    rule: &ForwardRule,
    fields: HeaderMap,
    session: &Session,
    pick: &Pick,
    source: Option<&Rc<Source>>,
) -> Result<Request<Body>, Error> {
    let multiplexed = session.is_multiplexed();
    let mut request = request_for(order, rule, fields, multiplexed, &pick.endpoint().authority, source)?;
    if let Some(interim) = &order.interim {
        // RFC 9110 §10.1.1: pass the expectation on if the session reports 1xx responses; otherwise ask for the body now.
        let asked = source.filter(|source| source.is_expecting());
        match asked {
            Some(_) if session.hears_interim() => {
                request.headers_mut().insert(EXPECT, HeaderValue::from_static("100-continue"));
            }
            Some(source) => source.go_on(),
            None => {}
        }
        interim.accompany(&mut request, multiplexed, asked);
    }
    Ok(request)
}

/// Takes back a request of which nothing was sent, so that no copy of its fields is needed.
fn take_back(order: &mut Order, request: Request<Body>) {
    order.fields = request.into_parts().0.headers;
    order.fields.remove(EXPECT);
}

/// Another endpoint for the next attempt.
fn next_pick(
    order: &Order,
    state: &mut Attempt<'_>,
    tried: &mut SmallVec<[EndpointIndex; 4]>,
    failed: &Pick,
) -> Result<Pick, Error> {
    state.used += 1;
    tried.push(failed.index());
    order.scene.exchange.note_attempt_failed();
    order.scene.connection.link.load().counters().retries.add(1);
    order.upstream.pick(order.key, tried)
}

pin_project_lite::pin_project! {
    /// A future that ends early with the error of `overdue`. Not an `async fn`, which would store its future twice.
    struct Unless<F, O> {
        #[pin]
        future: F,
        overdue: O,
    }
}

impl<T, E, F, O> Future for Unless<F, O>
where
    F: Future<Output = Result<T, E>>,
    O: Fn(&mut Context<'_>) -> Poll<E>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.future.poll(cx) {
            Poll::Pending => (this.overdue)(cx).map(Err),
            done => done,
        }
    }
}

/// Runs a phase that has a deadline of its own, under the deadline of the whole exchange too.
fn within_total<T>(
    exchange: &Exchange,
    phase: impl Future<Output = Result<T, Error>>,
) -> impl Future<Output = Result<T, Error>> {
    Unless { future: phase, overdue: |cx: &mut Context<'_>| exchange.poll_total_overdue(cx) }
}

/// Sends one request and waits for the head of the response, at most for `limit` or the rest of the total deadline.
fn send(
    exchange: &Exchange,
    session: Session,
    request: Request<Body>,
    limit: Duration,
) -> impl Future<Output = Result<Answer, SendFailure>> {
    exchange.await_answer();
    let pulse = session.pulse();
    let overdue = move |cx: &mut Context<'_>| {
        let overdue = exchange.poll_answer_overdue(limit, cx);
        overdue.map(|error| {
            pulse.overdue();
            SendFailure { error, request: None }
        })
    };
    Unless { future: session.send(request), overdue }
}

/// The response as it is sent to the client.
fn finish(
    order: &Order,
    rule: &ForwardRule,
    source: Option<Rc<Source>>,
    multiplexed: bool,
    answer: Answer,
) -> Result<Response<Body>, Error> {
    let (mut head, incoming) = answer.response.into_parts();
    framing::settle(&mut head, multiplexed)?;
    hop_by_hop::strip(&mut head.headers);
    head.extensions.clear();
    let trailers: Option<fn(&mut HeaderMap)> = order.takes_trailers.then_some(hop_by_hop::filter_trailers);
    let mut held = answer.stream.map(|stream| Box::new(stream) as Box<dyn std::any::Any>);
    let exchange = &order.scene.exchange;
    source.iter().for_each(Source::settle);
    let ending = match (order.translated, order.form) {
        (Some(form), _) => match grpc::ending_for_web(form, &mut head) {
            Some(ending) => Some(ending),
            None => return Ok(own(exchange, grpc::answer_for_status(head.status, form))),
        },
        (None, Some(grpc::Form::Native)) if order.takes_trailers => grpc::ending(&mut head, order.version),
        _ => None,
    };
    let incoming = match rule.buffer.response {
        Some(limit) if !http_body::Body::is_end_stream(&incoming) => {
            Ahead::start(incoming, limit, exchange, held.take())
        }
        _ => incoming,
    };
    let body = ResponseBody::new(incoming, Rc::clone(exchange), source, trailers, ending, held);
    Ok(Response::from_parts(head, Body::Response(body)))
}
