//! Takes away what belongs to one connection only (sans-io, RFC 9110 §7.6.1): the fields that `Connection` names and
//! those that always do, in either direction.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;

/// What the removed fields said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// `Upgrade`, where `Connection` names it as RFC 9110 §7.8 demands.
    pub upgrade: Option<HeaderValue>,
    /// `TE` lists `trailers`.
    pub te_trailers: bool,
    /// `Connection: close`.
    pub close: bool,
    /// `Connection: keep-alive`.
    pub keep_alive: bool,
}

/// Removes every hop-by-hop field. `Trailer` stays: it announces fields that are forwarded.
pub fn strip(headers: &mut HeaderMap) -> Seen {
    let mut seen = Seen::default();
    let mut found: SmallVec<[HeaderName; 4]> = SmallVec::new();
    let mut has_connection = false;
    for name in headers.keys() {
        match name.as_str() {
            "connection" => has_connection = true,
            "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-authentication-info" => found.push(name.clone()),
            _ => {}
        }
    }
    if !has_connection && found.is_empty() {
        return seen;
    }
    let mut names_upgrade = false;
    if has_connection {
        for value in headers.get_all(header::CONNECTION) {
            for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                match () {
                    () if token.eq_ignore_ascii_case(b"close") => seen.close = true,
                    () if token.eq_ignore_ascii_case(b"keep-alive") => seen.keep_alive = true,
                    () if token.eq_ignore_ascii_case(b"upgrade") => names_upgrade = true,
                    // What is no field name names no field.
                    () => found.extend(HeaderName::from_bytes(token).ok().filter(may_be_named)),
                }
            }
        }
        headers.remove(header::CONNECTION);
    }
    seen.te_trailers = headers.get_all(header::TE).iter().any(|value| {
        // RFC 9110 §10.1.4: a list; parameters do not occur with trailers.
        value.as_bytes().split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    for name in found {
        let value = headers.remove(&name);
        if name == header::UPGRADE && names_upgrade {
            seen.upgrade = value;
        }
    }
    seen
}

/// RFC 9110 §7.6.1 forbids to name fields that are for all recipients; a sender that does must not make us lose what
/// frames or routes the message.
fn may_be_named(name: &HeaderName) -> bool {
    !matches!(*name, header::HOST | header::CONTENT_LENGTH | header::CONNECTION)
}

/// Whether a field may be forwarded from a trailer section: not what frames, routes, authenticates or modifies a
/// message (RFC 9110 §6.5.1).
pub fn is_allowed_trailer(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "content-length"
            | "content-encoding"
            | "content-type"
            | "content-range"
            | "host"
            | "authorization"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "www-authenticate"
            | "authentication-info"
            | "cookie"
            | "set-cookie"
            | "cache-control"
            | "expect"
            | "max-forwards"
            | "pragma"
            | "range"
            | "if-match"
            | "if-none-match"
            | "if-modified-since"
            | "if-unmodified-since"
            | "if-range"
            | "age"
            | "date"
            | "expires"
            | "location"
            | "retry-after"
            | "vary"
            | "via"
            | "forwarded"
    ) && !name.as_str().starts_with("x-forwarded-")
}

/// Removes from a trailer section what may not be forwarded there.
pub fn filter_trailers(trailers: &mut HeaderMap) {
    let refused: SmallVec<[HeaderName; 2]> =
        trailers.keys().filter(|name| !is_allowed_trailer(name)).cloned().collect();
    for name in refused {
        trailers.remove(name);
    }
}
