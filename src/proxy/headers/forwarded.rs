//! Headers that tell the upstream about the client: `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded` (sans-io, RFC
//! 7239). Values from a trusted proxy are kept and appended to; all others are replaced.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use crate::config::model::Forwarding;
use crate::route::access::Networks;

/// What a listener tells and whom it believes.
#[derive(Clone, Debug)]
pub struct Policy {
    x_forwarded: bool,
    forwarded: bool,
    trusted: Networks,
}

/// What of it is the same for every request of a connection, made once.
#[derive(Clone, Debug)]
pub struct ForwardedFor {
    remote: Option<IpAddr>,
    is_trusted: bool,
    is_tls: bool,
    address: Option<HeaderValue>,
    /// `for=…;proto=…`.
    element: Box<str>,
}

/// Where a request came from, as far as trusted proxies tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address; `None` on a Unix socket without a trusted proxy's word.
    pub address: Option<IpAddr>,
    /// Whether it spoke TLS, to us or to the trusted proxy.
    pub is_https: bool,
}

impl Policy {
    /// The policy of a listener.
    pub fn new(forwarding: &Forwarding, trusted_proxies: &[IpNet]) -> Self {
        let Forwarding { x_forwarded, forwarded, .. } = *forwarding;
        Self { x_forwarded, forwarded, trusted: Networks::new(trusted_proxies) }
    }

    /// Whether what this address says of clients is believed.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.contains(address.to_canonical())
    }

    /// Prepares a connection; `remote` is `None` on a Unix socket.
    pub fn connection(&self, remote: Option<IpAddr>, is_tls: bool) -> ForwardedFor {
        let remote = remote.map(|address| address.to_canonical());
        let node = match remote {
            Some(IpAddr::V4(address)) => address.to_string(),
            // RFC 7239 §6: an IPv6 address stands in brackets and quotes.
            Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
            None => "unknown".to_owned(),
        };
        ForwardedFor {
            remote,
            is_trusted: remote.is_some_and(|address| self.trusts(address)),
            is_tls,
            address: remote.and_then(|address| HeaderValue::try_from(address.to_string()).ok()),
            element: format!("for={node};proto={}", if is_tls { "https" } else { "http" }).into(),
        }
    }
}

impl ForwardedFor {
    /// Where the request came from: the connection's remote end, or, where that is a trusted proxy, the last address
    /// it names that is not one. `X-Forwarded-For` is asked before `Forwarded`. Call it before
    /// [`apply`](Self::apply).
    pub fn client(&self, policy: &Policy, headers: &HeaderMap) -> Client {
        let mut client = Client { address: self.remote, is_https: self.is_tls };
        if !self.is_trusted {
            return client;
        }
        if headers.contains_key(&X_FORWARDED_FOR) {
            let values = headers.get_all(&X_FORWARDED_FOR).iter().rev();
            let entries = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
            client.address = last_untrusted(entries.map(parse_address), policy).or(client.address);
        } else if headers.contains_key(FORWARDED) {
            let elements = headers.get_all(FORWARDED).iter().map(|value| parse(value.as_bytes()));
            // A malformed field says nothing (RFC 7239 §4 leaves it to us).
            let elements: Option<Vec<_>> = elements.collect();
            let elements: Vec<Element<'_>> = elements.unwrap_or_default().into_iter().flatten().collect();
            let entries = elements.iter().rev().map(|element| parse_address(element.client.as_deref()?.as_bytes()));
            client.address = last_untrusted(entries, policy).or(client.address);
            if let Some(proto) = elements.first().and_then(|element| element.proto.as_deref()) {
                client.is_https = proto.eq_ignore_ascii_case("https");
            }
        }
        if let Some(proto) = headers.get(&X_FORWARDED_PROTO) {
            let first = proto.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default();
            client.is_https = first.trim_ascii().eq_ignore_ascii_case(b"https");
        }
        client
    }

    /// Tells the upstream. `host` is the effective authority of the request.
    pub fn apply(&self, policy: &Policy, headers: &mut HeaderMap, host: Option<&HeaderValue>) {
        if policy.x_forwarded {
            self.apply_x_forwarded(headers, host);
        } else if !self.is_trusted {
            for name in [&X_FORWARDED_FOR, &X_FORWARDED_PROTO, &X_FORWARDED_HOST] {
                headers.remove(name);
            }
        }
        if policy.forwarded {
            self.apply_forwarded(headers, host);
        } else if !self.is_trusted {
            headers.remove(FORWARDED);
        }
    }

    fn apply_x_forwarded(&self, headers: &mut HeaderMap, host: Option<&HeaderValue>) {
        // The map grows once, not field by field.
        headers.reserve(ROOM);
        let kept = if self.is_trusted { join(headers, &X_FORWARDED_FOR) } else { None };
        match (kept, &self.address) {
            (None, Some(address)) => drop(headers.insert(X_FORWARDED_FOR, address.clone())),
            (None, None) => drop(headers.remove(&X_FORWARDED_FOR)),
            (Some(mut list), address) => {
                if let Some(address) = address {
                    list.extend_from_slice(b", ");
                    list.extend_from_slice(address.as_bytes());
                }
                insert(headers, X_FORWARDED_FOR, list);
            }
        }
        if !self.is_trusted || !headers.contains_key(&X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, if self.is_tls { HTTPS } else { HTTP });
        }
        if !self.is_trusted || !headers.contains_key(&X_FORWARDED_HOST) {
            match host {
                Some(host) => drop(headers.insert(X_FORWARDED_HOST, host.clone())),
                None => drop(headers.remove(&X_FORWARDED_HOST)),
            }
        }
    }

    fn apply_forwarded(&self, headers: &mut HeaderMap, host: Option<&HeaderValue>) {
        let mut list = if self.is_trusted { join(headers, &FORWARDED) } else { None }.unwrap_or_default();
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(self.element.as_bytes());
        if let Some(host) = host {
            list.extend_from_slice(b";host=");
            push_value(&mut list, host.as_bytes());
        }
        insert(headers, FORWARDED, list);
    }
}

/// One element of `Forwarded`: what one proxy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element<'h> {
    /// `for`.
    pub client: Option<Cow<'h, str>>,
    /// `by`.
    pub by: Option<Cow<'h, str>>,
    /// `host`.
    pub host: Option<Cow<'h, str>>,
    /// `proto`.
    pub proto: Option<Cow<'h, str>>,
}

/// Reads one `Forwarded` field (RFC 7239 §4); `None` where it is malformed.
pub fn parse(field: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut rest = str::from_utf8(field).ok()?;
    let mut elements = vec![Element::default()];
    let mut is_empty = true;
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        match rest.as_bytes().first() {
            None => break,
            Some(b';') => rest = &rest[1..],
            Some(b',') => {
                rest = &rest[1..];
                // RFC 9110 §5.6.1: empty elements of a list do not count.
                if !is_empty {
                    elements.push(Element::default());
                    is_empty = true;
                }
            }
            Some(_) => {
                let (name, after) = rest.split_once('=')?;
                let (value, after) = read_value(after)?;
                let element = elements.last_mut()?;
                let known = match () {
                    () if name.eq_ignore_ascii_case("for") => Some(&mut element.client),
                    () if name.eq_ignore_ascii_case("by") => Some(&mut element.by),
                    () if name.eq_ignore_ascii_case("host") => Some(&mut element.host),
                    () if name.eq_ignore_ascii_case("proto") => Some(&mut element.proto),
                    () if !name.is_empty() && name.bytes().all(is_token) => None,
                    () => return None,
                };
                // RFC 7239 §4: no parameter twice.
                if known.is_some_and(|slot| slot.replace(value).is_some()) {
                    return None;
                }
                is_empty = false;
                rest = after.trim_start_matches([' ', '\t']);
                if !rest.is_empty() && !rest.starts_with([';', ',']) {
                    return None;
                }
            }
        }
    }
    if is_empty {
        elements.pop();
    }
    Some(elements)
}

/// A token or a quoted string, and what follows it.
fn read_value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.bytes().position(|byte| !is_token(byte)).unwrap_or(text.len());
        return (end > 0).then(|| (Cow::Borrowed(&text[..end]), &text[end..]));
    };
    let mut unescaped = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' if unescaped.is_empty() => return Some((Cow::Borrowed(&quoted[..at]), &quoted[at + 1..])),
            '"' => return Some((Cow::Owned(unescaped), &quoted[at + 1..])),
            '\\' => {
                if unescaped.is_empty() {
                    unescaped.push_str(&quoted[..at]);
                }
                unescaped.push(chars.next()?.1);
            }
            _ if !unescaped.is_empty() => unescaped.push(char),
            _ => {}
        }
    }
    None
}

/// A token as it is, anything else quoted.
fn push_value(out: &mut Vec<u8>, value: &[u8]) {
    if !value.is_empty() && value.iter().copied().all(is_token) {
        out.extend_from_slice(value);
        return;
    }
    out.push(b'"');
    for &byte in value {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// The nearest address that is not a trusted proxy; the farthest known one where all are. What is no address hides
/// everything beyond it.
fn last_untrusted(entries: impl Iterator<Item = Option<IpAddr>>, policy: &Policy) -> Option<IpAddr> {
    let mut farthest = None;
    for address in entries.map_while(|entry| entry) {
        farthest = Some(address);
        if !policy.trusted.contains(address) {
            break;
        }
    }
    farthest
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse_address(entry: &[u8]) -> Option<IpAddr> {
    let entry = str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    let host = match entry.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?.0,
        None => match entry.split_once(':') {
            Some((host, port)) if !port.contains(':') => host,
            _ => entry,
        },
    };
    host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// All values of a list field as one; `None` where there is none.
fn join(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let mut values = headers.get_all(name).iter().filter(|value| !value.is_empty());
    let mut list = values.next()?.as_bytes().to_vec();
    for value in values {
        list.extend_from_slice(b", ");
        list.extend_from_slice(value.as_bytes());
    }
    Some(list)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: Vec<u8>) {
    match HeaderValue::from_maybe_shared(bytes::Bytes::from(value)) {
        Ok(value) => drop(headers.insert(name, value)),
        // Cannot be: it is made of header values.
        Err(_) => drop(headers.remove(name)),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Ours, Via and an edit.
const ROOM: usize = 5;
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");

#[cfg(test)]
mod tests;
