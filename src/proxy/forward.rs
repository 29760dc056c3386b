//! Sends one request to an endpoint of its route's upstream, again where that is safe, and brings the answer back.
//! Called by `stack` once the route is known; below it only `upstream` is asked.

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

/// One request on its way out.
pub struct Order {
    /// Where it was met.
    pub scene: Scene,
    /// The upstream that was chosen.
    pub upstream: Rc<WorkerUpstream>,
    /// The hash of what keeps it with its endpoint, where the upstream's policy asks for one.
    pub key: Option<u64>,
    /// Its route.
    pub route: RouteId,
    /// The method.
    pub method: Method,
    /// What the client speaks.
    pub version: Version,
    /// The target, rewritten.
    pub target: PathAndQuery,
    /// The fields, edited; no hop-by-hop field is left in them.
    pub fields: HeaderMap,
    /// Whether `fields` has the effective authority as its Host.
    pub has_host: bool,
    /// The protocol that the client wants to switch to, where the route allows it.
    pub wanted: Option<Wanted>,
    /// Whether the client takes trailers.
    pub takes_trailers: bool,
    /// Whether the client said so with `TE: trailers`, which the endpoint is told again.
    pub asks_trailers: bool,
    /// The body's limit in bytes.
    pub max_body: Option<u64>,
    /// HTTP/1.1 is to be told that a body follows which it would not expect.
    pub chunked: bool,
    /// The form that an answer of our own should have.
    pub accept: Option<HeaderValue>,
    /// How the client speaks gRPC; `None`: it does not.
    pub form: Option<grpc::Form>,
    /// The form of gRPC-Web that the answer is put into; `None`: nothing is translated.
    pub translated: Option<grpc::Form>,
    /// How long the client waits, where it says so (gRPC).
    pub patience: Option<Duration>,
    /// What was decided about it.
    pub facts: Facts,
    /// Its id.
    pub id: RequestId,
    /// Whether the answer names the id.
    pub answers_id: bool,
    /// Where interim answers go, if the client takes any.
    pub interim: Option<Interim>,
}

impl Order {
    /// Carries out what the route says about the answer's fields.
    pub fn edit_response(&self, fields: &mut HeaderMap) {
        if self.answers_id {
            record::put_request_id(fields, &self.id);
        }
        let Some(route) = self.scene.generation.snapshot.routes.route(self.route) else { return };
        if !route.response_headers.is_empty() {
            route.response_headers.apply(fields, &self.facts.values(&self.scene.connection, &self.id));
        }
    }

    /// Whether an answer of this status switches protocols, or should have.
    fn switches(&self, status: StatusCode, multiplexed: bool) -> bool {
        let concerns = |wanted: &Wanted| wanted.concerns(status, multiplexed);
        status == StatusCode::SWITCHING_PROTOCOLS || self.wanted.as_ref().is_some_and(concerns)
    }
}

/// Sends the request and gives the answer's head with its body streaming.
///
/// # Errors
/// What kept the last attempt from an answer. Dropping the future gives the request up: its connection is closed, or
/// its stream reset.
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
    // Nobody waits any longer than the client does. It can only shorten what the route allows.
    if let Some(total) = rule.total_timeout.into_iter().chain(order.patience).min() {
        order.scene.exchange.limit_total(total);
    }
    let response_timeout = rule.response_timeout.unwrap_or(timeouts.response);
    let tunnel_idle = rule.tunnel_idle.unwrap_or(timeouts.tunnel_idle);
    let source = source_of(order, rule, body).await?;
    if let Some((source, limit)) = source.as_ref().zip(rule.buffer.request) {
        // Boxed: hardly a route has it.
        let filled: Pin<Box<dyn Future<Output = _>>> = Box::pin(source.fill(limit));
        within_total(&order.scene.exchange, filled).await?;
    }
    // RFC 9110 §7.8: what follows a request with a body is not the other protocol yet.
    if source.is_some() {
        order.wanted = None;
    }
    match attempts(order, rule, source.as_ref(), response_timeout).await {
        // Boxed: hardly a request has it.
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

/// Sends the request as often as is safe and allowed.
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
        // Mostly there is one, and nothing is to be awaited.
        let at_hand = match (&order.wanted, header) {
            (None, None) => order.upstream.at_hand(&pick, fresh),
            _ => None,
        };
        let made = match (at_hand, &order.wanted) {
            (Some(session), _) => Ok(session),
            // Boxed: what is awaited there would lie in the future of every request.
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
        // A copy is kept only where the request may have to be sent again.
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

/// The request as it goes on this session; where it asks for interim answers, with who hears them.
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
        // RFC 9110 §10.1.1: the endpoint says whether it wants the body, where we hear it.
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

/// Nothing of a request was sent: it comes back whole, and no copy was needed.
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
    /// A future that ends early when something else says so. Not an `async fn`: that would hold its future twice.
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

/// Runs a phase that keeps its own deadline under the route's deadline for the whole.
fn within_total<T>(
    exchange: &Exchange,
    phase: impl Future<Output = Result<T, Error>>,
) -> impl Future<Output = Result<T, Error>> {
    Unless { future: phase, overdue: |cx: &mut Context<'_>| exchange.poll_total_overdue(cx) }
}

/// Sends one request and waits for the head of its answer.
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

/// The answer as the client gets it.
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
