//! Heads and trailers: what fields of a message may be, and which it must have, in both roles (sans-io, RFC 9114 §4.1.2-4.5,
//! RFC 9220 §3). Host and authority are compared in `proxy::normalize`, as for HTTP/2.

use std::ops::ControlFlow;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, request, response};
use hyper::ext::Protocol;

use super::error::{Code, Error};
use super::qpack::{FieldName, FieldValue, KnownName, Pseudo, Sink};

mod fields;

pub use self::fields::{request_fields, response_fields, trailer_fields};

/// A head with what it says about its content.
#[derive(Debug)]
pub struct Head<P> {
    /// The head.
    pub parts: P,
    /// Its Content-Length.
    pub content_length: Option<u64>,
}

/// Takes the fields of a request.
#[derive(Debug, Default)]
pub struct RequestHead {
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    protocol: Option<Protocol>,
    fields: Fields,
}

/// Takes the fields of a response.
#[derive(Debug, Default)]
pub struct ResponseHead {
    status: Option<StatusCode>,
    fields: Fields,
}

/// Takes the fields of trailers.
#[derive(Debug, Default)]
pub struct Trailers {
    fields: Fields,
}

impl RequestHead {
    /// All fields are there. `connect_protocol`: our SETTINGS allow extended CONNECT.
    ///
    /// # Errors
    /// Of the stream (H3_MESSAGE_ERROR): what makes the request malformed.
    pub fn finish(self, connect_protocol: bool) -> Result<Head<request::Parts>, Error> {
        let Self { method, scheme, authority, path, protocol, fields } = self;
        let (headers, content_length) = fields.finish()?;
        let method = method.ok_or(malformed("a request without :method"))?;
        let uri = match (&method, &protocol) {
            (&Method::CONNECT, None) => {
                // RFC 9114 §4.4
                if scheme.is_some() || path.is_some() {
                    return Err(malformed("CONNECT with :scheme or :path"));
                }
                uri(None, authority.ok_or(malformed("CONNECT without :authority"))?.into(), None)?
            }
            (&Method::CONNECT, Some(_)) if !connect_protocol => {
                return Err(malformed("extended CONNECT that was not offered"));
            }
            (&Method::CONNECT, Some(_)) if authority.is_none() => {
                // RFC 8441 §4
                return Err(malformed("extended CONNECT without :authority"));
            }
            (_, Some(_)) if method != Method::CONNECT => return Err(malformed(":protocol without CONNECT")),
            _ => {
                // RFC 9114 §4.3.1
                let scheme = scheme.ok_or(malformed("a request without :scheme"))?;
                let path = path.ok_or(malformed("a request without :path"))?;
                if path == "*" && method != Method::OPTIONS {
                    return Err(malformed("the :path * without OPTIONS"));
                }
                uri(Some(scheme), authority, Some(path))?
            }
        };
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = method;
        parts.uri = uri;
        parts.version = Version::HTTP_3;
        parts.headers = headers;
        if let Some(protocol) = protocol {
            parts.extensions.insert(protocol);
        }
        Ok(Head { parts, content_length })
    }

    fn pseudo(&mut self, pseudo: Pseudo, value: FieldValue<'_>) -> Result<(), &'static str> {
        match pseudo {
            Pseudo::Method => {
                let method = Method::from_bytes(value.as_bytes()).map_err(|_| "an invalid :method")?;
                put(&mut self.method, method)
            }
            Pseudo::Scheme => put(
                &mut self.scheme,
                match value.as_bytes() {
                    b"https" => Scheme::HTTPS,
                    b"http" => Scheme::HTTP,
                    other @ [b'a'..=b'z' | b'A'..=b'Z', ..] => {
                        Scheme::try_from(other).map_err(|_| "an invalid :scheme")?
                    }
                    _ => return Err("an invalid :scheme"),
                },
            ),
            Pseudo::Authority => {
                let authority = Authority::from_maybe_shared(shared(value)).map_err(|_| "an invalid :authority")?;
                put(&mut self.authority, authority)
            }
            Pseudo::Path => put(&mut self.path, path(value)?),
            Pseudo::Protocol => {
                let protocol = str::from_utf8(value.as_bytes()).map_err(|_| "an invalid :protocol")?;
                // RFC 9110 §7.8: a name, with a version or without.
                if protocol.is_empty() || !protocol.bytes().all(|byte| is_token(byte) || byte == b'/') {
                    return Err("an invalid :protocol");
                }
                put(&mut self.protocol, Protocol::from(protocol))
            }
            Pseudo::Status => Err("a response's pseudo-header field in a request"),
        }
    }
}

impl ResponseHead {
    /// All fields are there.
    ///
    /// # Errors
    /// Of the stream (H3_MESSAGE_ERROR): what makes the response malformed.
    pub fn finish(self) -> Result<Head<response::Parts>, Error> {
        let (headers, content_length) = self.fields.finish()?;
        // RFC 9114 §4.3.2
        let status = self.status.ok_or(malformed("a response without :status"))?;
        // RFC 9114 §4.5
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(malformed("101 on HTTP/3"));
        }
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = status;
        parts.version = Version::HTTP_3;
        parts.headers = headers;
        Ok(Head { parts, content_length })
    }
}

impl Trailers {
    /// All fields are there.
    ///
    /// # Errors
    /// Of the stream (H3_MESSAGE_ERROR): what makes the message malformed.
    pub fn finish(self) -> Result<HeaderMap, Error> {
        self.fields.finish().map(|(trailers, _)| trailers)
    }
}

impl Sink for RequestHead {
    #[inline]
    fn field(&mut self, name: FieldName<'_>, value: FieldValue<'_>, is_sensitive: bool) -> ControlFlow<()> {
        let taken = match pseudo(name) {
            None => self.fields.take(name, value, is_sensitive),
            Some(pseudo) => self.fields.before_fields().and_then(|()| self.pseudo(pseudo, value)),
        };
        self.fields.go_on(taken)
    }
}

impl Sink for ResponseHead {
    #[inline]
    fn field(&mut self, name: FieldName<'_>, value: FieldValue<'_>, is_sensitive: bool) -> ControlFlow<()> {
        let taken = match pseudo(name) {
            None => self.fields.take(name, value, is_sensitive),
            Some(Pseudo::Status) => self.fields.before_fields().and_then(|()| put(&mut self.status, status(value)?)),
            Some(_) => Err("a request's pseudo-header field in a response"),
        };
        self.fields.go_on(taken)
    }
}

impl Sink for Trailers {
    fn field(&mut self, name: FieldName<'_>, value: FieldValue<'_>, is_sensitive: bool) -> ControlFlow<()> {
        let taken = match pseudo(name) {
            None => self.fields.take(name, value, is_sensitive),
            // RFC 9114 §4.3
            Some(_) => Err("a pseudo-header field in trailers"),
        };
        self.fields.go_on(taken)
    }
}

/// The fields that are no pseudo-header fields.
#[derive(Debug, Default)]
struct Fields {
    headers: HeaderMap,
    has_any: bool,
    content_length: Option<u64>,
    fault: Option<&'static str>,
}

impl Fields {
    #[inline]
    fn take(&mut self, name: FieldName<'_>, value: FieldValue<'_>, is_sensitive: bool) -> Result<(), &'static str> {
        let name = match name {
            FieldName::Known(KnownName::Header(name)) => name.clone(),
            FieldName::Text(name) if name.first() != Some(&b':') => {
                // RFC 9114 §4.2: uppercase is malformed, as is what no name may have.
                HeaderName::from_lowercase(name).map_err(|_| "an invalid field name")?
            }
            // RFC 9114 §4.3
            FieldName::Text(_) => return Err("an unknown pseudo-header field"),
            FieldName::Known(name) if name.as_bytes().first() == Some(&b':') => {
                return Err("an unknown pseudo-header field");
            }
            FieldName::Known(_) => return Err("an invalid field name"),
        };
        // RFC 9114 §10.3
        let mut value = match value {
            FieldValue::Known(value) => value.header().cloned().ok_or("an invalid field value")?,
            FieldValue::Text(value) => HeaderValue::from_bytes(value).map_err(|_| "an invalid field value")?,
        };
        if is_sensitive {
            value.set_sensitive(true);
        }
        if !self.judge(&name, &value)? {
            return Ok(());
        }
        if !self.has_any {
            self.has_any = true;
            // Of most heads: room for all of it at once.
            self.headers.reserve(USUAL_FIELDS);
        }
        match self.headers.try_append(name, value) {
            Ok(_) => Ok(()),
            Err(_) => Err("more fields than can be"),
        }
    }

    /// RFC 9114 §4.2, §4.1.2: fields that say something about the message itself. Whether it is to be kept.
    #[inline]
    fn judge(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, &'static str> {
        match *name {
            CONNECTION | TRANSFER_ENCODING | UPGRADE => Err(CONNECTION_SPECIFIC),
            TE if !value.as_bytes().eq_ignore_ascii_case(b"trailers") => Err("TE with more than trailers"),
            CONTENT_LENGTH => {
                let length = decimal(value.as_bytes()).ok_or("a Content-Length that is no number")?;
                match self.content_length.replace(length) {
                    Some(before) if before != length => Err("differing Content-Length"),
                    // RFC 9110 §8.6: said twice, it is passed on once.
                    before => Ok(before.is_none()),
                }
            }
            _ if matches!(name.as_str(), "keep-alive" | "proxy-connection") => Err(CONNECTION_SPECIFIC),
            _ => Ok(true),
        }
    }

    /// RFC 9114 §4.3: pseudo-header fields come first.
    fn before_fields(&self) -> Result<(), &'static str> {
        if self.has_any { Err("a pseudo-header field behind others") } else { Ok(()) }
    }

    #[inline]
    fn go_on(&mut self, taken: Result<(), &'static str>) -> ControlFlow<()> {
        match taken {
            Ok(()) => ControlFlow::Continue(()),
            Err(reason) => {
                self.fault = Some(reason);
                ControlFlow::Break(())
            }
        }
    }

    fn finish(self) -> Result<(HeaderMap, Option<u64>), Error> {
        match self.fault {
            Some(reason) => Err(malformed(reason)),
            None => Ok((self.headers, self.content_length)),
        }
    }
}

#[inline]
fn pseudo(name: FieldName<'_>) -> Option<Pseudo> {
    match name {
        FieldName::Known(KnownName::Pseudo(pseudo)) => Some(*pseudo),
        FieldName::Known(_) => None,
        FieldName::Text(name) => Pseudo::from_bytes(name),
    }
}

/// RFC 9114 §4.3: no pseudo-header field twice.
fn put<T>(place: &mut Option<T>, value: T) -> Result<(), &'static str> {
    match place.replace(value) {
        Some(_) => Err("a pseudo-header field given twice"),
        None => Ok(()),
    }
}

/// RFC 9114 §4.3.1: never empty, and what a path may be. `http` would cut off a fragment.
fn path(value: FieldValue<'_>) -> Result<PathAndQuery, &'static str> {
    match value.as_bytes() {
        b"/" => Ok(PathAndQuery::from_static("/")),
        b"*" => Ok(PathAndQuery::from_static("*")),
        [b'/', rest @ ..] if !rest.contains(&b'#') => {
            PathAndQuery::from_maybe_shared(shared(value)).map_err(|_| "an invalid :path")
        }
        [] => Err("an empty :path"),
        _ => Err("an invalid :path"),
    }
}

fn status(value: FieldValue<'_>) -> Result<StatusCode, &'static str> {
    StatusCode::from_bytes(value.as_bytes()).map_err(|_| "an invalid :status")
}

fn uri(scheme: Option<Scheme>, authority: Option<Authority>, path: Option<PathAndQuery>) -> Result<Uri, Error> {
    // Without an authority, `http` knows the target by its path alone.
    let scheme = scheme.filter(|_| authority.is_some());
    let mut parts = http::uri::Parts::default();
    (parts.scheme, parts.authority, parts.path_and_query) = (scheme, authority, path);
    Uri::from_parts(parts).map_err(|_| malformed("an invalid target"))
}

fn shared(value: FieldValue<'_>) -> Bytes {
    match value {
        FieldValue::Known(value) => value.bytes().clone(),
        FieldValue::Text(value) => Bytes::copy_from_slice(value),
    }
}

/// RFC 9110 §8.6
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// RFC 9110 §5.6.2
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

const fn malformed(reason: &'static str) -> Error {
    Error::stream(Code::MESSAGE_ERROR, reason)
}

const CONNECTION_SPECIFIC: &str = "a connection-specific field";
const USUAL_FIELDS: usize = 12;

#[cfg(test)]
mod tests;
