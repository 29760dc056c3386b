//! Sends one request to an endpoint of its route's upstream, again where that is safe, and brings the answer back.
//! Called by `stack` once the route is known; below it only `upstream` is asked.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use smallvec::SmallVec;

use super::context::Connection;
use super::headers::hop_by_hop;
use super::retry::{self, Attempt, Decision};
use super::upgrade::{self, Wanted};
use crate::base::error::{Error, Kind, Retry};
use crate::body::Body;
use crate::body::exchange::Exchange;
use crate::body::request::Source;
use crate::body::response::ResponseBody;
use crate::config::model::HostHeader;
use crate::route::action::ForwardRule;
use crate::upstream::balance::EndpointIndex;
use crate::upstream::client::{Answer, SendFailure, Session};
use crate::upstream::worker::{Pick, WorkerUpstream};

/// One request on its way out.
pub struct Errand<'a> {
    /// Where it came from.
    pub connection: &'a Rc<Connection>,
    /// Its deadlines and its end.
    pub exchange: &'a Rc<Exchange>,
    /// The upstream that was chosen.
    pub upstream: &'a Rc<WorkerUpstream>,
    /// What the route says about forwarding.
    pub rule: &'a ForwardRule,
    /// The method.
    pub method: Method,
    /// The target, rewritten.
    pub target: PathAndQuery,
    /// The effective authority; `None` for an HTTP/1.0 request without Host.
    pub authority: Option<HeaderValue>,
    /// The fields, edited; no hop-by-hop field is left in them.
    pub fields: HeaderMap,
    /// The protocol that the client wants to switch to, where the route allows it.
    pub wanted: Option<Wanted>,
    /// Whether the client takes trailers.
    pub takes_trailers: bool,
    /// Whether the client said so with `TE: trailers`, which the endpoint is told again.
    pub asks_trailers: bool,
    /// The body's limit in bytes.
    pub max_body: Option<u64>,
}

/// What is sent in one attempt.
struct Head {
    target: PathAndQuery,
    fields: HeaderMap,
}

/// Sends the request and gives the answer's head with its body streaming.
///
/// # Errors
/// What kept the last attempt from an answer. Dropping the future gives the request up: its connection is closed, or
/// its stream reset.
pub async fn forward(mut errand: Errand<'_>, body: Incoming) -> Result<Response<Body>, Error> {
    let timeouts = errand.upstream.upstream().config.timeouts.clone();
    errand.exchange.limit_stream_idle(timeouts.stream_idle);
    if let Some(total) = errand.rule.total_timeout {
        errand.exchange.limit_total(total);
    }
    let response_timeout = errand.rule.response_timeout.unwrap_or(timeouts.response);
    let source = source_of(&errand, body)?;
    let answered = attempts(&mut errand, source.as_ref(), response_timeout).await;
    match answered {
        Ok((session, answer)) => finish(errand, source, session, answer),
        Err(error) => {
            if let Some(source) = source {
                source.abandon();
            }
            Err(error)
        }
    }
}

/// The request's body, where it has one, within its limit.
fn source_of(errand: &Errand<'_>, body: Incoming) -> Result<Option<Rc<Source>>, Error> {
    if http_body::Body::is_end_stream(&body) {
        return Ok(None);
    }
    let announced = http_body::Body::size_hint(&body).exact();
    if announced.zip(errand.max_body).is_some_and(|(announced, max)| announced > max) {
        let reason = "the request's body is larger than allowed";
        return Err(Error::downstream(Kind::RequestBodyTooLarge, reason));
    }
    let replay = errand.rule.retry.replay;
    let exchange = Rc::clone(errand.exchange);
    Ok(Some(Source::new(body, exchange, errand.max_body, replay, hop_by_hop::filter_trailers)))
}

/// Sends the request as often as is safe and allowed.
async fn attempts(
    errand: &mut Errand<'_>,
    source: Option<&Rc<Source>>,
    response_timeout: Duration,
) -> Result<(bool, Answer), Error> {
    let mut head = Some(Head { target: errand.target.clone(), fields: std::mem::take(&mut errand.fields) });
    let mut tried: SmallVec<[EndpointIndex; 4]> = SmallVec::new();
    let mut state = Attempt {
        rules: &errand.rule.retry,
        idempotent: retry::is_idempotent(&errand.method),
        has_body: source.is_some(),
        body_untouched: true,
        body_replayable: true,
        used: 0,
        replays: 0,
    };
    let mut pick = errand.upstream.pick(&tried)?;
    loop {
        let session = match within_total(errand.exchange, errand.upstream.session(&pick, state.replays > 0)).await {
            Ok(session) => session,
            Err(error) if state.after_connect_failure(&error) == Decision::TryAgain => {
                pick = next_pick(errand, &mut state, &mut tried, &pick)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let (reused, http2) = (session.is_reused(), session.is_http2());
        let Some(this) = head.take() else { return Err(Error::internal("the head of a request was lost")) };
        if state.may_be_sent_again(reused, http2) {
            head = Some(Head { target: this.target.clone(), fields: this.fields.clone() });
        }
        let request = request_for(errand, this, http2, &pick, source)?;
        let sent = send(errand.exchange, session, request, response_timeout).await;
        if let Some(source) = source {
            state.body_untouched = source.is_untouched();
            state.body_replayable = source.is_replayable();
        }
        let (decision, failed) = match sent {
            Ok(answer) => match state.after_status(answer.response.status()) {
                Decision::TryAgain if head.is_some() => (Decision::TryAgain, None),
                _ => {
                    if pick.is_counted() {
                        errand.exchange.hold(Some(Box::new(pick)));
                    }
                    return Ok((http2, answer));
                }
            },
            Err(failure) => {
                // Nothing of it was sent: it comes back whole, and no copy was needed.
                if let Some(request) = failure.request {
                    head = Some(head_of(*request, &errand.target));
                }
                let own = source.and_then(|source| source.take_failure());
                let error = own.unwrap_or(failure.error);
                (state.after_send_failure(&error, reused), Some(error))
            }
        };
        match (decision, failed) {
            (Decision::Replay, _) if head.is_some() => {
                state.replays += 1;
                errand.connection.link.load().counters().retries.add(1);
            }
            (Decision::TryAgain, _) if head.is_some() => pick = next_pick(errand, &mut state, &mut tried, &pick)?,
            (_, Some(error)) => return Err(error),
            (_, None) => return Err(Error::internal("a request could not be sent again")),
        }
    }
}

/// Another endpoint for the next attempt.
fn next_pick(
    errand: &Errand<'_>,
    state: &mut Attempt<'_>,
    tried: &mut SmallVec<[EndpointIndex; 4]>,
    failed: &Pick,
) -> Result<Pick, Error> {
    state.used += 1;
    tried.push(failed.index());
    errand.connection.link.load().counters().retries.add(1);
    errand.upstream.pick(tried)
}

/// Runs a phase that keeps its own deadline under the route's deadline for the whole.
async fn within_total<T>(exchange: &Exchange, phase: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let mut phase = pin!(phase);
    poll_fn(|cx| match phase.as_mut().poll(cx) {
        Poll::Pending => exchange.poll_total_overdue(cx).map(Err),
        done => done,
    })
    .await
}

/// Sends one request and waits for the head of its answer.
async fn send(
    exchange: &Exchange,
    session: Session,
    request: Request<Body>,
    limit: Duration,
) -> Result<Answer, SendFailure> {
    exchange.await_answer();
    let mut sending = pin!(session.send(request));
    poll_fn(|cx| match sending.as_mut().poll(cx) {
        Poll::Pending => exchange.poll_answer_overdue(limit, cx).map(|error| Err(SendFailure { error, request: None })),
        done => done,
    })
    .await
}

/// The request as the session wants it: origin-form and Host on HTTP/1.1, scheme and authority on HTTP/2.
fn request_for(
    errand: &Errand<'_>,
    mut head: Head,
    http2: bool,
    pick: &Pick,
    source: Option<&Rc<Source>>,
) -> Result<Request<Body>, Error> {
    let host = match &errand.rule.host_header {
        // RFC 9112 §3.2: what goes on as HTTP/1.1 has a Host, so a client without one gets the endpoint's.
        HostHeader::Preserve => errand.authority.as_ref().unwrap_or(&pick.endpoint().authority),
        HostHeader::Upstream => &pick.endpoint().authority,
        HostHeader::Name(name) => name,
    };
    let uri = if http2 {
        head.fields.remove(HOST);
        absolute(errand, host, head.target)?
    } else {
        if head.fields.get(HOST) != Some(host) {
            head.fields.insert(HOST, host.clone());
        }
        join_cookies(&mut head.fields);
        Uri::from(head.target)
    };
    if errand.asks_trailers {
        // RFC 9110 §10.1.4: it belongs to one connection, so that we ask for ourselves; gRPC does not go without.
        head.fields.insert(TE, HeaderValue::from_static("trailers"));
        if !http2 {
            head.fields.insert(CONNECTION, HeaderValue::from_static("te"));
        }
    }
    if let Some(wanted) = &errand.wanted
        && !http2
    {
        wanted.put_into(&mut head.fields);
    }
    let mut request = Request::new(source.map_or(Body::Empty, |source| Body::Request(source.attempt())));
    *request.method_mut() = errand.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = head.fields;
    Ok(request)
}

/// RFC 9113 §8.3.1: scheme and authority travel in the target.
fn absolute(errand: &Errand<'_>, host: &HeaderValue, target: PathAndQuery) -> Result<Uri, Error> {
    let scheme = if errand.upstream.upstream().tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    Uri::builder()
        .scheme(scheme)
        .authority(host.as_bytes())
        .path_and_query(target)
        .build()
        .map_err(|error| Error::internal("the authority does not fit a target").because(error))
}

/// RFC 9113 §8.2.3: HTTP/2 splits cookies into fields, HTTP/1.1 knows one.
fn join_cookies(fields: &mut HeaderMap) {
    let mut cookies = fields.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else { return };
    let mut joined = Vec::from(first.as_bytes());
    for cookie in std::iter::once(second).chain(cookies) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        fields.insert(COOKIE, value);
    }
}

/// The head of a request that came back unsent.
fn head_of(request: Request<Body>, target: &PathAndQuery) -> Head {
    let (parts, _) = request.into_parts();
    Head { target: target.clone(), fields: parts.headers }
}

/// The answer as the client gets it.
fn finish(
    errand: Errand<'_>,
    source: Option<Rc<Source>>,
    http2: bool,
    answer: Answer,
) -> Result<Response<Body>, Error> {
    let (mut head, incoming) = answer.response.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return upgrade::switch(&errand, &head, answer.upgraded);
    }
    // RFC 9112 §6.3: hyper has decoded the coding and leaves the length that contradicts it.
    if !http2 && head.headers.contains_key(TRANSFER_ENCODING) {
        check_coding(&head.headers)?;
        head.headers.remove(CONTENT_LENGTH);
    }
    hop_by_hop::strip(&mut head.headers);
    head.extensions.clear();
    let trailers: Option<fn(&mut HeaderMap)> = errand.takes_trailers.then_some(hop_by_hop::filter_trailers);
    let held = answer.stream.map(|stream| Box::new(stream) as Box<dyn std::any::Any>);
    let body = ResponseBody::new(incoming, Rc::clone(errand.exchange), source, trailers, held);
    Ok(Response::from_parts(head, Body::Response(body)))
}

/// hyper takes off `chunked` alone: with any other coding around it the client would get bytes it cannot name.
fn check_coding(fields: &HeaderMap) -> Result<(), Error> {
    let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
    let exact = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if exact && codings.next().is_none() {
        return Ok(());
    }
    let reason = "the answer has a Transfer-Encoding other than chunked";
    Err(Error::upstream(Kind::HttpProtocolError, Retry::Never, reason))
}
