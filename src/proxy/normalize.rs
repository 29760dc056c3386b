//! The request checks that need a parsed head, on HTTP/1 and HTTP/2 alike: one effective authority, one path that
//! routes are matched by, framing that can be read in one way (sans-io, RFC 9110 §7.2, RFC 9112 §3.2, §6, RFC 9113
//! §8.3.1). What only the raw bytes show is refused before, in `protocol::wire`. `docs/threat-model.md` has the table.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use smallvec::SmallVec;

use crate::base::error::Kind;
use crate::protocol::wire::{BAD_CODING, BAD_LENGTH, CODING_ON_1_0, DIFFERING_LENGTHS, LENGTH_AND_CODING};

pub use crate::protocol::wire::Refusal;

/// What the checks must know of the listener.
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    /// Header fields allowed; 431 past it.
    pub max_headers: usize,
}

/// What a request is about, decided once.
#[derive(Clone, Debug)]
pub struct Normalized {
    /// Host and port as the client wrote them.
    authority: HeaderValue,
    /// Bytes of `authority` that are the host, without a trailing dot.
    host_end: usize,
    /// Only where the client wrote uppercase.
    lowercase_host: Option<Box<str>>,
    port: Option<u16>,
    /// Only where it differs from the path as it came.
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

    /// The port, where the client wrote one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// What Host or `:authority` must be towards the upstream; `None` for an HTTP/1.0 request without Host.
    pub fn authority(&self) -> Option<&HeaderValue> {
        self.has_authority.then_some(&self.authority)
    }

    /// Whether the Host field as it came is absent or not the effective authority, so that it has to be put.
    pub fn rewrites_host(&self) -> bool {
        self.rewrites_host
    }

    /// The path that routes are matched by: repeated slashes joined, `%41` read as `A` where that changes nothing
    /// (RFC 3986 §6.2.2.2). What goes to the upstream is the path as it came, unless a route rewrites it.
    pub fn path<'a>(&'a self, uri: &'a Uri) -> &'a str {
        self.path.as_deref().unwrap_or_else(|| uri.path())
    }
}

/// Checks a request and decides what it is about.
///
/// # Errors
/// What makes it malformed, ambiguous or too large; always the client's fault.
pub fn check(head: &Parts, checks: Checks) -> Result<Normalized, Refusal> {
    if head.headers.len() > checks.max_headers {
        return Err(Refusal { kind: Kind::RequestHeaderTooLarge, reason: "too many header fields" });
    }
    check_framing(head)?;
    check_form(head)?;
    let path = match_path(head.uri.path())?;
    let host = the_host(&head.headers)?;
    let mut normalized = match (head.uri.authority(), host) {
        (Some(authority), host) => named_by_target(head, authority.as_str().as_bytes(), host)?,
        (None, Some(host)) => effective(host.clone())?,
        (None, None) if head.version < Version::HTTP_11 => nameless(),
        (None, None) => return Err(NO_HOST),
    };
    normalized.path = path;
    Ok(normalized)
}

/// RFC 9112 §6.1-6.3. On HTTP/1 `wire` saw the same before; hyper and h2 have their own say. This is the last door.
fn check_framing(head: &Parts) -> Result<(), Refusal> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    let (coding, length) = (codings.next(), lengths.next());
    if let Some(coding) = coding {
        if head.version >= Version::HTTP_2 {
            return Err(bad("Transfer-Encoding on HTTP/2"));
        }
        if length.is_some() {
            return Err(LENGTH_AND_CODING);
        }
        if head.version < Version::HTTP_11 {
            return Err(CODING_ON_1_0);
        }
        if codings.next().is_some() || !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(BAD_CODING);
        }
    }
    if let Some(length) = length {
        if length.is_empty() || !length.as_bytes().iter().all(u8::is_ascii_digit) {
            return Err(BAD_LENGTH);
        }
        if lengths.any(|other| other != length) {
            return Err(DIFFERING_LENGTHS);
        }
    }
    if head.version >= Version::HTTP_2 {
        // RFC 9113 §8.2.2: h2 refuses these; so does every request that reached us some other way.
        let is_forbidden = |name: &str| matches!(name, "connection" | "keep-alive" | "proxy-connection" | "upgrade");
        if head.headers.keys().any(|name| is_forbidden(name.as_str())) {
            return Err(bad("a connection-specific header field on HTTP/2"));
        }
    }
    Ok(())
}

/// RFC 9112 §3.2: which forms a target may have.
fn check_form(head: &Parts) -> Result<(), Refusal> {
    let uri = &head.uri;
    if head.method == Method::CONNECT {
        return Err(Refusal { kind: Kind::RequestNotImplemented, reason: "CONNECT is not offered here" });
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

fn the_host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("more than one Host"));
    }
    Ok(host)
}

/// RFC 9112 §3.2.2: the absolute form wins over Host, which has to be there and valid all the same. RFC 9113 §8.3.1:
/// `:authority` and Host must agree.
fn named_by_target(head: &Parts, authority: &[u8], host: Option<&HeaderValue>) -> Result<Normalized, Refusal> {
    let is_h2 = head.version >= Version::HTTP_2;
    let same = host.is_some_and(|host| host.as_bytes() == authority);
    match host.map(HeaderValue::as_bytes) {
        None if head.version == Version::HTTP_11 => return Err(NO_HOST),
        Some(host) if is_h2 && !host.eq_ignore_ascii_case(authority) => return Err(bad(":authority and Host differ")),
        Some(host) if !is_h2 && !same => {
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

/// RFC 3986 §3.2.2, narrowed to what names hosts: letters, digits, `-._~`, or an IPv6 address in brackets.
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
        let mut before = b'.';
        for &byte in bytes {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {}
                b'A'..=b'Z' => has_uppercase = true,
                b'.' if before != b'.' => {}
                b':' => break,
                _ => return Err(BAD_AUTHORITY),
            }
            before = byte;
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

/// The path for matching, where it differs from the path as it came.
fn match_path(path: &str) -> Result<Option<Box<str>>, Refusal> {
    let bytes = path.as_bytes();
    // No early return: the compiler makes vector code of it. What it finds is looked at again, slowly.
    let pairs = bytes.iter().zip(&bytes[bytes.len().min(1)..]);
    let is_odd = pairs.fold(false, |odd, (&a, &b)| odd | ((a == b'/') & ((b == b'/') | (b == b'.'))));
    let is_odd = bytes.iter().fold(is_odd, |odd, &byte| odd | (byte == b'%') | (byte == b'\\'));
    if !is_odd {
        return Ok(None);
    }
    let mut clean: SmallVec<[u8; 256]> = SmallVec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'\\' => return Err(bad("a backslash in the path")),
            b'/' if clean.last() == Some(&b'/') => {}
            b'%' => {
                let byte =
                    bytes.get(at..at + 2).and_then(percent).ok_or(bad("a broken percent-encoding in the path"))?;
                match byte {
                    0 => return Err(bad("an encoded NUL in the path")),
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => clean.push(byte),
                    // Reserved and other characters stay encoded: `%2F` is data, not a segment's end.
                    _ => clean.extend_from_slice(&bytes[at - 1..at + 2]),
                }
                at += 2;
            }
            _ => clean.push(byte),
        }
    }
    if has_dot_segment(&clean) {
        return Err(bad("a dot segment in the path"));
    }
    if clean.as_slice() == bytes {
        return Ok(None);
    }
    // Whole ASCII characters were taken out or put in.
    String::from_utf8(clean.into_vec()).map(|path| Some(path.into_boxed_str())).map_err(|_| bad("an invalid path"))
}

/// Whether some reader of the path would step over a `.` or `..`: also behind an encoded slash or backslash, or with
/// path parameters (`..;x`). Clients resolve these before they send (RFC 3986 §5.2.4).
fn has_dot_segment(path: &[u8]) -> bool {
    let mut start = 0;
    let mut at = 0;
    let is_dots = |segment: &[u8]| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        name == b"." || name == b".."
    };
    while at < path.len() {
        let separator = match &path[at..] {
            [b'/', ..] => 1,
            [b'%', b'2', b'f' | b'F', ..] | [b'%', b'5', b'c' | b'C', ..] => 3,
            _ => {
                at += 1;
                continue;
            }
        };
        if is_dots(&path[start..at]) {
            return true;
        }
        at += separator;
        start = at;
    }
    is_dots(&path[start..])
}

fn percent(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let (high, low) = (digit(digits[0])?, digit(digits[1])?);
    u8::try_from(high * 16 + low).ok()
}

const fn bad(reason: &'static str) -> Refusal {
    Refusal { kind: Kind::HttpRequestError, reason }
}

const NO_HOST: Refusal = bad("no Host");
const BAD_AUTHORITY: Refusal = bad("an invalid host");
/// RFC 1035 §2.3.4, and room for an IPv6 address.
const MAX_HOST: usize = 255;

#[cfg(test)]
mod tests;
