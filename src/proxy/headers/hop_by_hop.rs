//! Removes hop-by-hop fields (sans-io, RFC 9110 §7.6.1): those named by `Connection` and the fixed ones, in both
//! directions.

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

/// Removes every hop-by-hop field, and other spellings of those by which we tell of a client or that frame a message.
/// `Trailer` stays: it announces fields that are forwarded.
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
            // Nobody sends these but to be taken for us: where an endpoint reads fields as CGI does (RFC 3875 §4.1.18),
            // `_` is `-`, and a stranger's word would stand beside ours or in its place.
            "x_forwarded_for" | "x-forwarded_for" | "x_forwarded-for" | "x_forwarded_proto" | "x-forwarded_proto"
            | "x_forwarded-proto" | "x_forwarded_host" | "x-forwarded_host" | "x_forwarded-host"
            | "x_normalized_path" | "x-normalized_path" | "x_normalized-path"
            // And it would see framing that nobody has judged.
            | "content_length" | "transfer_encoding" => found.push(name.clone()),
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

/// Removes from an interim answer what belongs to one connection.
pub fn filter_interim(fields: &mut HeaderMap) {
    strip(fields);
}

/// Removes from a trailer section what may not be forwarded there.
pub fn filter_trailers(trailers: &mut HeaderMap) {
    let refused: SmallVec<[HeaderName; 2]> =
        trailers.keys().filter(|name| !is_allowed_trailer(name)).cloned().collect();
    for name in refused {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(&str, &[u8])]) -> HeaderMap {
        let pair = |(name, value): &(&str, &[u8])| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap())
        };
        let mut map = HeaderMap::new();
        for (name, value) in fields.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    fn names(map: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn takes_what_every_connection_field_names() {
        let mut map = headers(&[
            ("host", b"a"),
            ("connection", b"x-one, Keep-Alive"),
            ("connection", b"close,, X-Two ,\xff\xfe, b\xe9d, x-three;q=1"),
            ("x-one", b"1"),
            ("x-one", b"again"),
            ("x-two", b"2"),
            ("x-three", b"3"),
            ("keep-alive", b"timeout=5"),
            ("accept", b"*/*"),
        ]);
        let seen = strip(&mut map);
        assert_eq!(names(&map), ["accept", "host", "x-three"]);
        assert!(seen.close && seen.keep_alive && seen.upgrade.is_none());
    }

    #[test]
    fn takes_what_is_always_hop_by_hop() {
        let mut map = headers(&[
            ("proxy-connection", b"keep-alive"),
            ("te", b"gzip;q=0.5, Trailers"),
            ("transfer-encoding", b"chunked"),
            ("upgrade", b"websocket"),
            ("http2-settings", b"AAMAAABkAARAAAAAAAIAAAAA"),
            ("proxy-authorization", b"Basic eDp5"),
            ("proxy-authenticate", b"Basic"),
            ("trailer", b"x-sum"),
            ("content-length", b"1"),
        ]);
        let seen = strip(&mut map);
        assert_eq!(names(&map), ["content-length", "trailer"]);
        // Not named by Connection: the client did not mean us.
        assert_eq!(seen, Seen { te_trailers: true, ..Seen::default() });
    }

    #[test]
    fn an_upgrade_counts_where_connection_names_it() {
        let mut map = headers(&[("connection", b"keep-alive, Upgrade"), ("upgrade", b"websocket")]);
        assert_eq!(strip(&mut map).upgrade.unwrap(), "websocket");
        assert!(map.is_empty());
    }

    #[test]
    fn what_frames_and_routes_the_message_cannot_be_named_away() {
        let mut map = headers(&[("connection", b"host, content-length"), ("host", b"a"), ("content-length", b"1")]);
        strip(&mut map);
        assert_eq!(names(&map), ["content-length", "host"]);
    }

    #[test]
    fn trailers_lose_what_frames_routes_or_authenticates() {
        let mut map = headers(&[
            ("grpc-status", b"0"),
            ("server-timing", b"x"),
            ("content-length", b"5"),
            ("transfer-encoding", b"chunked"),
            ("host", b"b"),
            ("authorization", b"x"),
            ("x-forwarded-for", b"127.0.0.1"),
            ("set-cookie", b"a=b"),
        ]);
        filter_trailers(&mut map);
        assert_eq!(names(&map), ["grpc-status", "server-timing"]);
    }

    proptest! {
        #[test]
        fn nothing_named_survives(tokens in prop::collection::vec("[a-zA-Z-]{1,12}", 0..6), value in "[ -~]{0,30}") {
            let mut map = headers(&[("connection", tokens.join(" , ").as_bytes()), ("connection", value.as_bytes())]);
            for token in &tokens {
                map.append(HeaderName::from_bytes(token.as_bytes()).unwrap(), HeaderValue::from_static("x"));
            }
            strip(&mut map);
            for token in &tokens {
                let name = HeaderName::from_bytes(token.as_bytes()).unwrap();
                prop_assert!(!map.contains_key(&name) || !may_be_named(&name));
            }
            prop_assert!(!map.contains_key("connection"));
            let again = map.clone();
            strip(&mut map);
            prop_assert_eq!(again, map);
        }
    }
}
