//! Finds out whether a request has a body: an open HTTP/2 or HTTP/3 stream may have none, and an upgraded one becomes a tunnel.
//! Called by `forward`.

use std::rc::Rc;

use http::{Method, Version};

use super::forward::Order;
use super::grpc;
use super::headers::hop_by_hop;
use super::retry;
use crate::base::error::{Error, Kind};
use crate::body::incoming::Incoming;
use crate::body::request::{Source, first_frame};
use crate::route::action::ForwardRule;

/// The request's body, if it has one, limited to `max_body`.
///
/// # Errors
/// The client's fault: the body is too large, breaks off, or stalls.
pub async fn source_of(order: &mut Order, rule: &ForwardRule, body: Incoming) -> Result<Option<Rc<Source>>, Error> {
    let body = match &mut order.wanted {
        Some(wanted) => wanted.take_end(body),
        None => Some(body),
    };
    let Some(mut body) = body else { return Ok(None) };
    let announced = http_body::Body::size_hint(&body).exact();
    // The END_STREAM of a request without a body may arrive after its head; then `is_end_stream` is still false.
    if http_body::Body::is_end_stream(&body) || announced == Some(0) {
        return Ok(None);
    }
    let mut first = None;
    if announced.is_none() && order.version >= Version::HTTP_2 && matches!(order.method, Method::GET | Method::HEAD) {
        let client_stall = order.scene.exchange.client_stall();
        // Boxed: few requests need it.
        first = Box::pin(first_frame(&mut body, client_stall)).await?;
        if first.is_none() {
            return Ok(None);
        }
        order.chunked = true;
    }
    if announced.zip(order.max_body).is_some_and(|(announced, max)| announced > max) {
        let reason = "the request's body is larger than allowed";
        return Err(Error::downstream(Kind::RequestBodyTooLarge, reason));
    }
    let exchange = Rc::clone(&order.scene.exchange);
    // Over HTTP/1, a request that is not idempotent is retried only while nothing of its body was read, so a replay buffer
    // would be useless.
    let kept_for = retry::is_idempotent(&order.method) || order.upstream.upstream().may_multiplex();
    let replay = if kept_for { rule.retry.replay } else { 0 };
    let source = Source::new(body, exchange, order.max_body, replay, hop_by_hop::filter_trailers);
    if let Some(first) = first {
        source.put_ahead(first);
    }
    if order.form == Some(grpc::Form::WebText) && order.translated.is_some() {
        source.read_as_text();
    }
    order.interim.iter().for_each(|interim| interim.hold_back(&source));
    Ok(Some(source))
}
