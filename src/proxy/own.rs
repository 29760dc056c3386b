//! Answers of our own, and what becomes of an error. Called by `stack` and `decision`.

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

/// Whom an answer of ours is for, as far as its form goes.
pub struct Audience<'a> {
    /// What the client takes.
    pub accept: Option<&'a HeaderValue>,
    /// How it speaks gRPC; `None`: it does not.
    pub form: Option<grpc::Form>,
    /// What it speaks.
    pub version: Version,
}

/// The answer for an error, which the exchange ends with.
pub fn apologise(exchange: &Rc<Exchange>, error: &Error, asked: &Audience<'_>, id: &RequestId) -> Response<Body> {
    exchange.note_failure(error.kind(), error.reason());
    tracing::debug!(kind = error.kind().as_str(), side = ?error.side(), reason = error.reason(),
        request_id = id.as_str(), source = std::error::Error::source(error).map(tracing::field::display),
        "request failed");
    let mut response = match asked.form {
        // Who has to name itself to a proxy learns it by a status of HTTP.
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
    // RFC 9112 §9.3: after a malformed or unfinished request nobody knows where the next one begins. On HTTP/2
    // and HTTP/3 the stream alone ends.
    if closes && asked.version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    own(exchange, response)
}

/// An answer of our own.
pub fn own(exchange: &Rc<Exchange>, response: Response<Bytes>) -> Response<Body> {
    let (mut head, bytes) = response.into_parts();
    // RFC 9110 §15.3.5, §15.4.5.
    let bodiless = matches!(head.status.as_u16(), 204 | 304);
    // What consists of trailers alone has no body that a length could be of.
    if !bodiless && !head.headers.contains_key(GRPC_STATUS) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    if bytes.is_empty() || bodiless {
        exchange.finish();
        return Response::from_parts(head, Body::empty());
    }
    Response::from_parts(head, Body::Own(bytes, Rc::clone(exchange)))
}
