//! The checks that need a parsed request head, the same for every version of HTTP: one effective authority, one path to
//! match routes against, unambiguous framing (sans-io, RFC 9110 §7.2, RFC 9112 §3.2, §6, RFC 9113 §8.3.1).
//! `protocol::wire` checks what only the raw bytes show. `docs/threat-model.md` has the table.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

use super::upgrade::is_extended_connect;
use crate::base::error::Kind;
use crate::protocol::wire::{BAD_CODING, BAD_LENGTH, CODING_ON_1_0, DIFFERING_LENGTHS, LENGTH_AND_CODING};
use crate::route::normal_path::normal_form;

pub use crate::protocol::wire::Refusal;

/// The settings of the listener that the checks need.
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    /// Header fields allowed; 431 past it.
    pub max_headers: usize,
    /// Forward mode: clients may use CONNECT, and their paths are not checked, since they belong to other servers.
    pub is_forward: bool,
}

/// The effective host, port and path of a request, determined once.
#[derive(Clone, Debug)]
pub struct Normalized {
    /// Host and port as the client wrote them.
    authority: HeaderValue,
    /// Bytes of `authority` that are the host, without a trailing dot.
    host_end: usize,
    /// Only if the client used uppercase letters.
    lowercase_host: Option<Box<str>>,
    port: Option<u16>,
    /// Only if it differs from the received path.
    path: Option<Box<str>>,
    has_authority: bool,
    rewrites_host: bool,
}

impl Normalized {
    /// The effective host: lowercase, no port, no trailing dot, an IPv6 address in brackets. Empty for an HTTP/1.0
    /// request without Host.
    pub fn host(&self) -> &str {
        match &self.lowercase_host {
            Some(host) => host,
            // Checked to be ASCII.
            None => str::from_utf8(&self.authority.as_bytes()[..self.host_end]).unwrap_or_default(),
        }
    }

    /// The port, if the client named one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Host or `:authority` for the upstream; `None` for an HTTP/1.0 request without Host.
    pub fn authority(&self) -> Option<&HeaderValue> {
        self.has_authority.then_some(&self.authority)
    }

    /// Whether Host must be set, because it is absent or not the effective authority.
    pub fn rewrites_host(&self) -> bool {
        self.rewrites_host
    }

    /// The path to match routes against: see [`normal_form`]. The upstream gets the received path, unless a route
    /// rewrites it.
    pub fn path<'a>(&'a self, uri: &'a Uri) -> &'a str {
        self.path.as_deref().unwrap_or_else(|| uri.path())
    }

    /// Like [`path`](Self::path), without the target's query.
    pub fn path_of<'a>(&'a self, target: &'a PathAndQuery) -> &'a str {
        self.path.as_deref().unwrap_or_else(|| target.path())
    }
}

/// Checks a request and determines its authority and path.
///
/// # Errors
/// Why it is malformed, ambiguous or too large; always the client's fault.
pub fn check(head: &Parts, checks: Checks) -> Result<Normalized, Refusal> {
    if head.headers.len() > checks.max_headers {
        return Err(Refusal { kind: Kind::RequestHeaderTooLarge, reason: "too many header fields" });
    }
    let host = read_fields(head)?;
    check_form(head, checks)?;
    let path = if checks.is_forward { None } else { normal_form(head.uri.path()).map_err(bad)? };
    let mut normalized = match (head.uri.authority(), host) {
        (Some(authority), host) => named_by_target(head, authority.as_str().as_bytes(), host)?,
        (None, Some(host)) => effective(host.clone())?,
        (None, None) if head.version < Version::HTTP_11 => nameless(),
        (None, None) => return Err(NO_HOST),
    };
    normalized.path = path;
    Ok(normalized)
}

/// Sets [`X_NORMALIZED_PATH`] to what normalization changed in the received path. A value from the client is removed.
pub fn name_changes(fields: &mut HeaderMap, target: &PathAndQuery, path: &str) {
    match changes(target.path(), path) {
        Some(changes) => fields.insert(X_NORMALIZED_PATH, HeaderValue::from_static(changes)),
        None => fields.remove(X_NORMALIZED_PATH),
    };
}

fn changes(came: &str, normal: &str) -> Option<&'static str> {
    if came == normal {
        return None;
    }
    let mut last = 0;
    let merged = came.bytes().filter(|byte| std::mem::replace(&mut last, *byte) != b'/' || *byte != b'/');
    Some(match (merged.eq(normal.bytes()), came.contains("//")) {
        (true, _) => "slashes",
        (false, true) => "percent-encoding, slashes",
        (false, false) => "percent-encoding",
    })
}

/// What was changed in a path before it was forwarded.
pub const X_NORMALIZED_PATH: HeaderName = HeaderName::from_static("x-normalized-path");

/// Checks Host (at most one) and framing (RFC 9112 §3.2, §6.1-6.3; RFC 9113 §8.2.2), and returns Host. One pass is
/// cheaper than a lookup of each field. On HTTP/1 `wire` has checked the framing before; this is a second check.
fn read_fields(head: &Parts) -> Result<Option<&HeaderValue>, Refusal> {
    let has_streams = head.version >= Version::HTTP_2;
    let (mut host, mut length, mut is_chunked) = (None, None, false);
    for (name, value) in &head.headers {
        match *name {
            HOST if host.is_some() => return Err(bad("more than one Host")),
            HOST => host = Some(value),
            CONTENT_LENGTH => {
                if value.is_empty() || !value.as_bytes().iter().all(u8::is_ascii_digit) {
                    return Err(BAD_LENGTH);
                }
                if length.is_some_and(|before| before != value) {
                    return Err(DIFFERING_LENGTHS);
                }
                length = Some(value);
            }
            // RFC 9113 §8.2.2, RFC 9114 §4.2.
            TRANSFER_ENCODING if has_streams => return Err(CONNECTION_SPECIFIC),
            TRANSFER_ENCODING if head.version < Version::HTTP_11 => return Err(CODING_ON_1_0),
            TRANSFER_ENCODING => {
                if is_chunked || !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(BAD_CODING);
                }
                is_chunked = true;
            }
            CONNECTION | UPGRADE if has_streams => return Err(CONNECTION_SPECIFIC),
            _ if has_streams && matches!(name.as_str(), "keep-alive" | "proxy-connection") => {
                return Err(CONNECTION_SPECIFIC);
            }
            _ => {}
        }
    }
    if is_chunked && length.is_some() { Err(LENGTH_AND_CODING) } else { Ok(host) }
}

/// RFC 9112 §3.2: checks the form of the target.
fn check_form(head: &Parts, checks: Checks) -> Result<(), Refusal> {
    let uri = &head.uri;
    if head.method == Method::CONNECT && checks.is_forward && !is_extended_connect(head) {
        // RFC 9112 §3.2.3, RFC 9113 §8.5: an authority and nothing else.
        let is_alone = uri.authority().is_some() && uri.scheme().is_none() && uri.path_and_query().is_none();
        return if is_alone { Ok(()) } else { Err(bad("CONNECT with more than a host and a port")) };
    }
    if head.method == Method::CONNECT {
        if !is_extended_connect(head) {
            return Err(Refusal { kind: Kind::RequestNotImplemented, reason: "CONNECT is not supported here" });
        }
        // RFC 8441 §4.
        if uri.authority().is_none() || uri.scheme().is_none() {
            return Err(bad("extended CONNECT without :scheme or :authority"));
        }
        // RFC 9110 §9.3.6: CONNECT has no content, and what follows the response has no length.
        if head.headers.contains_key(CONTENT_LENGTH) {
            return Err(bad("CONNECT with Content-Length"));
        }
    }
    match uri.scheme_str() {
        None if uri.authority().is_some() => return Err(bad("a request target without a path")),
        None | Some("http" | "https") => {}
        Some(_) => return Err(bad("a request target with a scheme other than http and https")),
    }
    if uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(bad("the target * without OPTIONS"));
    }
    Ok(())
}

/// RFC 9112 §3.2.2: the absolute form takes precedence over Host, which must still be present and valid. RFC 9113
/// §8.3.1 and RFC 9114 §4.3.1: `:authority` and Host must agree.
fn named_by_target(head: &Parts, authority: &[u8], host: Option<&HeaderValue>) -> Result<Normalized, Refusal> {
    let has_streams = head.version >= Version::HTTP_2;
    let same = host.is_some_and(|host| host.as_bytes() == authority);
    match host.map(HeaderValue::as_bytes) {
        None if head.version == Version::HTTP_11 => return Err(NO_HOST),
        Some(host) if has_streams && !host.eq_ignore_ascii_case(authority) => {
            return Err(bad(":authority and Host differ"));
        }
        Some(host) if !has_streams && !same => {
            parse_authority(host)?;
        }
        _ => {}
    }
    let value = HeaderValue::from_bytes(authority).map_err(|_| BAD_AUTHORITY)?;
    Ok(Normalized { rewrites_host: !same, ..effective(value)? })
}

fn nameless() -> Normalized {
    Normalized {
        authority: HeaderValue::from_static(""),
        host_end: 0,
        lowercase_host: None,
        port: None,
        path: None,
        has_authority: false,
        rewrites_host: true,
    }
}

fn effective(authority: HeaderValue) -> Result<Normalized, Refusal> {
    let Authority { host_end, port, has_uppercase } = parse_authority(authority.as_bytes())?;
    let lowercase_host = has_uppercase.then(|| {
        let host = String::from_utf8_lossy(&authority.as_bytes()[..host_end]);
        host.to_ascii_lowercase().into_boxed_str()
    });
    Ok(Normalized { authority, host_end, lowercase_host, port, has_authority: true, rewrites_host: false, path: None })
}

struct Authority {
    host_end: usize,
    port: Option<u16>,
    has_uppercase: bool,
}

/// RFC 3986 §3.2.2, limited to host names: letters, digits, `-._~`, or an IPv6 address in brackets.
fn parse_authority(bytes: &[u8]) -> Result<Authority, Refusal> {
    let mut has_uppercase = false;
    let mut host_end = 0;
    if let Some(inside) = bytes.strip_prefix(b"[") {
        let close = memchr::memchr(b']', inside).ok_or(BAD_AUTHORITY)?;
        let address = str::from_utf8(&inside[..close]).map_err(|_| BAD_AUTHORITY)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| BAD_AUTHORITY)?;
        has_uppercase = address.bytes().any(|byte| byte.is_ascii_uppercase());
        host_end = close + 2;
    } else {
        let mut before = LABEL_END;
        for &byte in bytes {
            let class = HOST_BYTES[usize::from(byte)];
            match class {
                PORT_FOLLOWS => break,
                0 => return Err(BAD_AUTHORITY),
                LABEL_END if before == LABEL_END => return Err(BAD_AUTHORITY),
                _ => has_uppercase |= class == UPPERCASE,
            }
            before = class;
            host_end += 1;
        }
    }
    let port = match &bytes[host_end..] {
        [] | [b':'] => None,
        [b':', digits @ ..] if digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) => {
            let port = digits.iter().fold(0u32, |port, digit| port * 10 + u32::from(digit - b'0'));
            Some(u16::try_from(port).map_err(|_| BAD_AUTHORITY)?)
        }
        _ => return Err(BAD_AUTHORITY),
    };
    if bytes[..host_end].ends_with(b".") {
        host_end -= 1;
    }
    if host_end == 0 || host_end > MAX_HOST {
        return Err(BAD_AUTHORITY);
    }
    Ok(Authority { host_end, port, has_uppercase })
}

const fn bad(reason: &'static str) -> Refusal {
    Refusal { kind: Kind::HttpRequestError, reason }
}

const CONNECTION_SPECIFIC: Refusal = bad("a connection-specific header field");
const NO_HOST: Refusal = bad("no Host");
const BAD_AUTHORITY: Refusal = bad("an invalid host");
/// RFC 1035 §2.3.4, with room for an IPv6 address.
const MAX_HOST: usize = 255;

const OTHER: u8 = 1;
const UPPERCASE: u8 = 2;
const LABEL_END: u8 = 3;
const PORT_FOLLOWS: u8 = 4;
/// 0: not allowed in a host.
const HOST_BYTES: [u8; 256] = {
    let mut map = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        map[byte] = match byte as u8 {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => OTHER,
            b'A'..=b'Z' => UPPERCASE,
            b'.' => LABEL_END,
            b':' => PORT_FOLLOWS,
            _ => 0,
        };
        byte += 1;
    }
    map
};

#[cfg(test)]
mod tests;
