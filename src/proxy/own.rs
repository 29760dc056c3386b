//! Responses made by the proxy, and error responses. Called by `stack` and `decision`.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Response, Version};

use super::context::RequestId;
use super::grpc;
use super::rescue;
use crate::base::error::{Error, Kind};
use crate::body::Body;
use crate::body::exchange::Exchange;
use crate::body::grpc::GRPC_STATUS;

/// The properties of the client that determine the form of a response.
pub struct Audience<'a> {
    /// Its Accept.
    pub accept: Option<&'a HeaderValue>,
    /// Its form of gRPC; `None`: not gRPC.
    pub form: Option<grpc::Form>,
    /// Its HTTP version.
    pub version: Version,
}

/// The error response that ends the exchange.
pub fn apologise(exchange: &Rc<Exchange>, error: &Error, asked: &Audience<'_>, id: &RequestId) -> Response<Body> {
    exchange.note_failure(error.kind(), error.reason());
    tracing::debug!(kind = error.kind().as_str(), side = ?error.side(), reason = error.reason(),
        request_id = id.as_str(), source = std::error::Error::source(error).map(tracing::field::display),
        "request failed");
    let mut response = match asked.form {
        // 407 must be an HTTP status, also for gRPC.
        Some(form) if error.kind() != Kind::ProxyAuthenticationRequired => {
            grpc::answer(error, form.answered_in(asked.accept), id.as_str())
        }
        _ => rescue::answer(error, asked.accept, id.as_str()),
    };
    let closes = matches!(
        error.kind(),
        Kind::HttpRequestError
            | Kind::RequestHeaderTooLarge
            | Kind::RequestNotImplemented
            | Kind::ClientStall
            | Kind::RequestBodyTooLarge
    );
    // RFC 9112 §9.3: after a malformed or unfinished request the start of the next one is unknown. On HTTP/2 and HTTP/3
    // only the stream ends.
    if closes && asked.version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    own(exchange, response)
}

/// A response made by the proxy.
pub fn own(exchange: &Rc<Exchange>, response: Response<Bytes>) -> Response<Body> {
    let (mut head, bytes) = response.into_parts();
    // RFC 9110 §15.3.5, §15.4.5.
    let bodiless = matches!(head.status.as_u16(), 204 | 304);
    // A trailers-only response has no body, and so no length.
    if !bodiless && !head.headers.contains_key(GRPC_STATUS) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    if bytes.is_empty() || bodiless {
        exchange.finish();
        return Response::from_parts(head, Body::empty());
    }
    Response::from_parts(head, Body::Own(bytes, Rc::clone(exchange)))
}
