//! Turns errors into responses: the only table of status codes, `Proxy-Status` (RFC 9209), and a small body in the form
//! that `Accept` asks for.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, PROXY_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

use crate::base::error::{Error, Kind};

/// `Proxy-Status`, RFC 9209 §2.
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// The id of a request, received or generated.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The form of an error's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Html,
    Json,
}

/// The status code of an error.
pub const fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::HttpRequestError => StatusCode::BAD_REQUEST,
        // RFC 9209 §2.3.5 recommends 502, but no gateway failed: it is refused, like a destination in `deny`.
        Kind::HttpRequestDenied | Kind::DestinationIpProhibited => StatusCode::FORBIDDEN,
        Kind::ProxyAuthenticationRequired => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
        Kind::DestinationNotFound => StatusCode::NOT_FOUND,
        Kind::RequestHeaderTimeout | Kind::ClientStall | Kind::ClientGone => StatusCode::REQUEST_TIMEOUT,
        Kind::RequestBodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        Kind::RequestHeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Kind::ProxyInternalError => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::RequestNotImplemented => StatusCode::NOT_IMPLEMENTED,
        Kind::DestinationUnavailable | Kind::ConnectionLimitReached => StatusCode::SERVICE_UNAVAILABLE,
        Kind::DnsTimeout
        | Kind::ConnectionTimeout
        | Kind::ConnectionWriteTimeout
        | Kind::HttpResponseTimeout
        | Kind::HttpResponseStalled
        | Kind::ExchangeTimeout => StatusCode::GATEWAY_TIMEOUT,
        Kind::DnsError
        | Kind::ConnectionRefused
        | Kind::ConnectionTerminated
        | Kind::TlsProtocolError
        | Kind::TlsCertificateError
        | Kind::TlsAlertReceived
        | Kind::HttpResponseIncomplete
        | Kind::HttpResponseHeaderSectionSize
        | Kind::HttpUpgradeFailed
        | Kind::HttpProtocolError
        | Kind::ProxyLoopDetected => StatusCode::BAD_GATEWAY,
    }
}

/// The response to an error. `accept` is the request's Accept, if it is known.
pub fn answer(error: &Error, accept: Option<&HeaderValue>, request_id: &str) -> Response<Bytes> {
    let (body, form) = body_of(error, form_for(accept), request_id);
    let mut response = Response::new(body);
    *response.status_mut() = status_of(error.kind());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(form)));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    sign(headers, error, request_id);
    if matches!(error.kind(), Kind::ProxyAuthenticationRequired) {
        // RFC 9110 §11.7.1, RFC 7617 §2.1.
        headers.insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"tidegate\", charset=\"UTF-8\""));
    }
    if matches!(error.kind(), Kind::RequestNotImplemented) {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    response
}

/// Adds who made the response, why, and the request id.
pub fn sign(fields: &mut HeaderMap, error: &Error, request_id: &str) {
    if let Ok(id) = HeaderValue::from_str(request_id) {
        fields.insert(X_REQUEST_ID, id);
    }
    if let Ok(value) = HeaderValue::from_str(&proxy_status(error)) {
        fields.insert(PROXY_STATUS, value);
    }
}

/// The bytes of an HTTP/1.1 response to a head that was refused before parsing; the connection closes after it.
pub fn raw_answer(error: &Error, request_id: &str) -> Bytes {
    let response = answer(error, None, request_id);
    let status = response.status();
    let mut text = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let _ = write!(text, "{CONNECTION}: close\r\ncontent-length: {}\r\n", response.body().len());
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let _ = write!(text, "{DATE}: {date}\r\n");
    let mut bytes = text.into_bytes();
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(response.body());
    bytes.into()
}

/// The request's own id, if it is safe to repeat in headers and pages.
pub fn given_request_id(request: &HeaderMap) -> Option<String> {
    let id = request.get(X_REQUEST_ID)?.to_str().ok()?;
    ((1..=128).contains(&id.len()) && id.bytes().all(is_id_byte)).then(|| id.to_owned())
}

/// A new id: 128 random bits in hexadecimal digits.
pub fn new_request_id() -> String {
    let mut digits = String::with_capacity(32);
    let mut rest = fastrand::u128(..);
    // With the log on, every request needs one; formatting 128 bits would take ten times as long.
    for _ in 0..32 {
        digits.push(char::from(b"0123456789abcdef"[(rest & 15) as usize]));
        rest >>= 4;
    }
    digits
}

/// Bytes allowed in an id that is repeated in headers and pages.
fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(&byte)
}

/// RFC 9209 §2: the proxy, the error, and a sentence about it.
fn proxy_status(error: &Error) -> String {
    format!("tidegate; error={}; details=\"{}\"", error.kind().as_str(), error.reason())
}

fn content_type(form: Form) -> &'static str {
    match form {
        Form::Plain => "text/plain; charset=utf-8",
        Form::Html => "text/html; charset=utf-8",
        Form::Json => "application/json",
    }
}

/// The first supported form in `Accept`; weights are ignored, because all three forms are small and readable.
fn form_for(accept: Option<&HeaderValue>) -> Form {
    let Some(accept) = accept.and_then(|value| value.to_str().ok()) else { return Form::Plain };
    for range in accept.split(',') {
        let media = range.split(';').next().unwrap_or_default().trim();
        if media.eq_ignore_ascii_case("text/html") {
            return Form::Html;
        }
        if media.eq_ignore_ascii_case("application/json") || media.ends_with("+json") {
            return Form::Json;
        }
        if media.eq_ignore_ascii_case("text/plain") {
            return Form::Plain;
        }
    }
    Form::Plain
}

/// Only the id comes from a peer, and it contains no byte that is special in HTML or JSON.
fn body_of(error: &Error, form: Form, id: &str) -> (Bytes, Form) {
    let status = status_of(error.kind());
    let (code, title) = (status.as_u16(), status.canonical_reason().unwrap_or("Error"));
    let (kind, reason) = (error.kind().as_str(), error.reason());
    let body = match form {
        Form::Plain => format!("{code} {title}\n{reason} ({kind})\nrequest id: {id}\n"),
        Form::Html => format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{code} {title}</title></head>\n\
             <body><h1>{code} {title}</h1><p>{reason} (<code>{kind}</code>)</p><p>Request id: <code>{id}</code></p></body></html>\n"
        ),
        Form::Json => format!(
            "{{\"status\":{code},\"title\":\"{title}\",\"error\":\"{kind}\",\"detail\":\"{reason}\",\"request_id\":\"{id}\"}}\n"
        ),
    };
    (body.into(), form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> Error {
        Error::downstream(Kind::HttpRequestError, "two Host lines")
    }

    #[test]
    fn speaks_the_form_that_is_asked_for() {
        for (accept, form) in [
            ("text/html,application/xhtml+xml;q=0.9", "text/html; charset=utf-8"),
            ("application/json", "application/json"),
            ("*/*", "text/plain; charset=utf-8"),
            ("application/problem+json", "application/json"),
        ] {
            assert_eq!(answer(&error(), Some(&HeaderValue::from_static(accept)), "x").headers()[CONTENT_TYPE], form);
        }
    }

    #[test]
    fn names_the_error_in_proxy_status() {
        let response = answer(&error(), None, "id");
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()[PROXY_STATUS], "tidegate; error=http_request_error; details=\"two Host lines\"");
    }

    #[test]
    fn every_kind_has_an_error_status() {
        for kind in Kind::ALL {
            assert!(status_of(kind).as_u16() >= 400, "{kind:?}");
        }
    }

    #[test]
    fn an_id_that_could_break_out_is_not_taken() {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("a\"<b>"));
        assert_eq!(given_request_id(&headers), None);
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("abc-1"));
        assert_eq!(given_request_id(&headers).as_deref(), Some("abc-1"));
        assert_eq!(new_request_id().len(), 32);
    }

    #[test]
    fn a_raw_answer_is_one_whole_message() {
        let raw = raw_answer(&error(), "id");
        let text = std::str::from_utf8(&raw).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"));
        assert!(head.contains(&format!("content-length: {}", body.len())));
    }
}
