//! gRPC in a proxy (sans-io): recognises requests, reads the client's timeout, and turns errors of the proxy into
//! trailers-only responses with status 200 and a gRPC status. Called by `stack`.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, TRAILER};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};

use super::rescue;
use crate::base::error::{Error, Kind};
use crate::body::grpc::{Ending, GRPC_MESSAGE, GRPC_STATUS, in_body};

/// The form that a client speaks gRPC in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// gRPC itself.
    Native,
    /// gRPC-Web, with bytes.
    Web,
    /// gRPC-Web in base64.
    WebText,
}

impl Form {
    /// The form of a request; `None`: it is no call. Looked for at POST alone, which every call is.
    pub fn of(method: &Method, fields: &HeaderMap) -> Option<Self> {
        if method != Method::POST {
            return None;
        }
        Self::of_type(fields.get(CONTENT_TYPE)?).map(|(form, _)| form)
    }

    /// The form that a media type names, and what stands behind it: `+proto`, a parameter, or nothing.
    pub fn of_type(media: &HeaderValue) -> Option<(Self, &[u8])> {
        let media = media.as_bytes();
        for (name, form) in [
            (&b"application/grpc-web-text"[..], Self::WebText),
            (b"application/grpc-web", Self::Web),
            (b"application/grpc", Self::Native),
        ] {
            if let Some((head, rest)) = media.split_at_checked(name.len())
                && head.eq_ignore_ascii_case(name)
                && matches!(rest, [] | [b'+' | b';' | b' ', ..])
            {
                return Some((form, rest));
            }
        }
        None
    }

    /// The form of gRPC-Web that the answer to it has: the one that the client takes, or its own.
    pub fn answered_in(self, accept: Option<&HeaderValue>) -> Self {
        match accept.and_then(Self::of_type) {
            Some((form @ (Self::Web | Self::WebText), _)) if self != Self::Native => form,
            _ => self,
        }
    }

    /// Its media type, with what stood behind another form of it.
    pub fn media_type(self, rest: &[u8]) -> HeaderValue {
        let name = match self {
            Self::Native => "application/grpc",
            Self::Web => "application/grpc-web",
            Self::WebText => "application/grpc-web-text",
        };
        let plain = HeaderValue::from_static(name);
        if rest.is_empty() {
            plain
        } else {
            HeaderValue::from_bytes(&[name.as_bytes(), rest].concat()).unwrap_or(plain)
        }
    }
}

/// How long the client waits, if it says so: `grpc-timeout`, up to eight digits and a unit.
pub fn timeout(fields: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = fields.get("grpc-timeout")?.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The code of gRPC for a fault. Where a status of HTTP has one in gRPC's own table (http-grpc-status-mapping) it is that; what
/// a deadline ended is told apart from what was never reached.
pub const fn code_of(kind: Kind) -> u8 {
    match kind {
        Kind::ClientGone => CANCELLED,
        Kind::RequestHeaderTimeout
        | Kind::ClientStall
        | Kind::ConnectionWriteTimeout
        | Kind::HttpResponseTimeout
        | Kind::HttpResponseStalled
        | Kind::ExchangeTimeout => DEADLINE_EXCEEDED,
        Kind::HttpRequestDenied | Kind::DestinationIpProhibited => PERMISSION_DENIED,
        Kind::ProxyAuthenticationRequired => UNAUTHENTICATED,
        Kind::RequestBodyTooLarge | Kind::RequestHeaderTooLarge | Kind::ConnectionLimitReached => RESOURCE_EXHAUSTED,
        Kind::DestinationNotFound | Kind::RequestNotImplemented => UNIMPLEMENTED,
        Kind::HttpRequestError | Kind::ProxyInternalError | Kind::ProxyLoopDetected => INTERNAL,
        Kind::Misdirected
        | Kind::DestinationUnavailable
        | Kind::DnsTimeout
        | Kind::DnsError
        | Kind::ConnectionTimeout
        | Kind::ConnectionRefused
        | Kind::ConnectionTerminated
        | Kind::TlsProtocolError
        | Kind::TlsCertificateError
        | Kind::TlsAlertReceived
        | Kind::HttpResponseIncomplete
        | Kind::HttpResponseHeaderSectionSize
        | Kind::HttpUpgradeFailed
        | Kind::HttpProtocolError => UNAVAILABLE,
    }
}

/// The trailers that tell a fault.
pub fn trailers(error: &Error) -> HeaderMap {
    let message = format!("{} ({})", error.reason(), error.kind().as_str());
    status(code_of(error.kind()), &message)
}

/// The trailers of a call that an endpoint answered with a status of HTTP and no word of gRPC.
fn trailers_of_status(answered: StatusCode) -> HeaderMap {
    let code = match answered.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    };
    status(code, &format!("the endpoint answered {} and not gRPC", answered.as_u16()))
}

fn status(code: u8, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(code)));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(message)) {
        trailers.insert(GRPC_MESSAGE, message);
    }
    trailers
}

/// The answer for an error.
pub fn answer(error: &Error, form: Form, request_id: &str) -> Response<Bytes> {
    let trailers = trailers(error);
    let body = match form {
        Form::Native => Bytes::new(),
        Form::Web | Form::WebText => in_body(&trailers, form == Form::WebText),
    };
    let mut response = Response::new(body);
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, form.media_type(if form == Form::Native { b"" } else { b"+proto" }));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    rescue::sign(fields, error, request_id);
    if form == Form::Native {
        fields.extend(trailers);
    }
    response
}

/// How the answer of an endpoint to a call ends, for a client that speaks `version`; `None`: as it comes. A length that was
/// announced leaves no room for anything else.
pub fn ending(head: &mut Parts, version: Version) -> Option<Box<Ending>> {
    let (answered, _) = Form::of_type(head.headers.get(CONTENT_TYPE)?)?;
    if answered != Form::Native || head.headers.contains_key(CONTENT_LENGTH) {
        return None;
    }
    if version < Version::HTTP_2 && !head.headers.contains_key(TRAILER) {
        // RFC 9110 §6.6.2: hyper sends no others over HTTP/1.1.
        head.headers.insert(TRAILER, HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin"));
    }
    Some(Box::new(Ending::with_trailers(trailers)))
}

/// Makes a call of gRPC out of one in another form. What frames its messages is the same in all.
pub fn translate(fields: &mut HeaderMap, form: Form) {
    let native = fields.get(CONTENT_TYPE).and_then(Form::of_type).map(|(_, rest)| Form::Native.media_type(rest));
    if let Some(native) = native {
        fields.insert(CONTENT_TYPE, native);
    }
    if form == Form::WebText {
        fields.remove(CONTENT_LENGTH);
    }
}

/// Makes the head of an answer one of gRPC-Web, and says how its body ends; `None`: the endpoint did not answer as gRPC does.
pub fn ending_for_web(form: Form, head: &mut Parts) -> Option<Box<Ending>> {
    let (_, rest) = head.headers.get(CONTENT_TYPE).and_then(Form::of_type).filter(|(of, _)| *of == Form::Native)?;
    let media = form.media_type(rest);
    head.headers.insert(CONTENT_TYPE, media);
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(TRAILER);
    // Of an answer that consists of trailers alone. A browser shows its page no field that the endpoint did not expose to it.
    let mut said = HeaderMap::new();
    for name in [GRPC_STATUS, GRPC_MESSAGE, HeaderName::from_static("grpc-status-details-bin")] {
        if let Some(value) = head.headers.remove(&name) {
            said.insert(name, value);
        }
    }
    Some(Box::new(Ending::in_body(trailers, form == Form::WebText, said)))
}

/// What a client of gRPC-Web gets for an answer that is not gRPC.
pub fn answer_for_status(status: StatusCode, form: Form) -> Response<Bytes> {
    let mut response = Response::new(in_body(&trailers_of_status(status), form == Form::WebText));
    response.headers_mut().insert(CONTENT_TYPE, form.media_type(b"+proto"));
    response
}

/// PROTOCOL-HTTP2 of gRPC, "Percent-Encoded".
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            out.extend(['%', char::from(DIGITS[usize::from(byte >> 4)]), char::from(DIGITS[usize::from(byte & 15)])]);
        }
    }
    out
}

const CANCELLED: u8 = 1;
const UNKNOWN: u8 = 2;
const DEADLINE_EXCEEDED: u8 = 4;
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNIMPLEMENTED: u8 = 12;
const INTERNAL: u8 = 13;
const UNAVAILABLE: u8 = 14;
const UNAUTHENTICATED: u8 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(media: &'static str) -> Option<(Form, &'static str)> {
        let media = Box::leak(Box::new(HeaderValue::from_static(media)));
        Form::of_type(media).map(|(form, rest)| (form, str::from_utf8(rest).unwrap()))
    }

    #[test]
    fn calls_are_told_by_their_media_type() {
        assert_eq!(of("application/grpc"), Some((Form::Native, "")));
        assert_eq!(of("application/grpc+proto"), Some((Form::Native, "+proto")));
        assert_eq!(of("Application/GRPC;x=y"), Some((Form::Native, ";x=y")));
        assert_eq!(of("application/grpc-web+proto"), Some((Form::Web, "+proto")));
        assert_eq!(of("application/grpc-web-text"), Some((Form::WebText, "")));
        for other in ["application/grpcx", "application/grpc-webx", "application/json", "application/grp"] {
            assert_eq!(of(other), None, "{other}");
        }
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        assert_eq!(Form::of(&Method::POST, &fields), Some(Form::Native));
        assert_eq!(Form::of(&Method::GET, &fields), None);
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        let read = |text: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert("grpc-timeout", HeaderValue::from_static(text));
            timeout(&fields)
        };
        for (text, wanted) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(read(text), Some(wanted), "{text}");
        }
        for text in ["", "S", "5", "5s", "-1S", "123456789S", "1 S"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_fault_is_an_answer_of_trailers_alone() {
        let error = Error::downstream(Kind::RequestBodyTooLarge, "100% too much");
        let response = answer(&error, Form::Native, "id");
        assert_eq!((response.status().as_u16(), response.body().len()), (200, 0));
        let fields = response.headers();
        assert_eq!(fields[CONTENT_TYPE], "application/grpc");
        assert_eq!(fields[GRPC_STATUS], "8");
        assert_eq!(fields[GRPC_MESSAGE], "100%25 too much (request_body_too_large)");
        assert!(fields.contains_key(rescue::PROXY_STATUS));
        let web = answer(&error, Form::Web, "id");
        assert_eq!(web.headers()[CONTENT_TYPE], "application/grpc-web+proto");
        assert!(!web.headers().contains_key(GRPC_STATUS));
        assert_eq!(web.body()[0], 0x80);
    }
}
