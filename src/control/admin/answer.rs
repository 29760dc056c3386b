//! Responses of the admin and observe listeners: common headers, and errors as JSON.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, WWW_AUTHENTICATE};
use http::header::{HeaderValue, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::page;

/// An answer; all of it is there at once.
pub type Answer = Response<Full<Bytes>>;

/// What went wrong.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    /// In a word.
    pub error: &'static str,
    /// For a person.
    pub detail: &'a str,
}

/// An answer with JSON.
pub fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    // Values of ours have string keys and no numbers that JSON lacks, so that this does not fail.
    let mut text = serde_json::to_vec(body).unwrap_or_else(|_| b"{}".to_vec());
    text.push(b'\n');
    text_of(status, "application/json", text)
}

/// An answer with any text.
pub fn text_of(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(NOTHING));
    answer
}

/// An answer that says what went wrong.
pub fn error(status: StatusCode, error: &'static str, detail: &str) -> Answer {
    let mut answer = json(status, &ErrorBody { error, detail });
    if status == StatusCode::UNAUTHORIZED {
        // RFC 6750 §3.
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tidegate\""));
    }
    answer
}

/// A method that the path does not know (RFC 9110 §15.5.6).
pub fn wrong_method(allowed: &str) -> Answer {
    let detail = format!("this path knows {allowed}");
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &detail);
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

/// The status page; it alone may run something.
pub fn page() -> Answer {
    let mut answer = text_of(StatusCode::OK, "text/html; charset=utf-8", page::HTML);
    let policy = HeaderValue::from_static(page::CONTENT_SECURITY_POLICY);
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    answer
}

const NOTHING: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
