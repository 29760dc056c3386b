//! The head of a request that nobody sends, as a client of each version would write it, and what is refused before it is
//! parsed.

use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use hyper::ext::Protocol;

use crate::config::model::{Asked, ListenerLimits};
use crate::protocol::wire::{Fed, HEAD_TOO_LARGE, Limits, Refusal, Wire};
use crate::proxy::egress::template::{self, CONNECT_UDP};
use crate::proxy::websocket::{SEC_WEBSOCKET_KEY, WEBSOCKET};

/// The head; `Err`: what is asked for cannot be written in this version.
pub fn head(asked: &Asked, version: Version) -> Result<Parts, http::Error> {
    let mut fields = HeaderMap::new();
    asked.headers.iter().for_each(|(name, value)| {
        fields.append(name.clone(), value.clone());
    });
    let mut request = Request::new(());
    let mut method = asked.method.clone();
    if let Some(protocol) = asked.switches_to() {
        let is_websocket = protocol.eq_ignore_ascii_case(WEBSOCKET);
        let mut put = |name: HeaderName, value: HeaderValue| {
            fields.entry(name).or_insert(value);
        };
        if is_websocket {
            // RFC 6455 §4.1.
            put(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        if version < Version::HTTP_2 {
            put(CONNECTION, HeaderValue::from_static("Upgrade"));
            put(UPGRADE, HeaderValue::from_str(protocol)?);
            if is_websocket {
                put(SEC_WEBSOCKET_KEY, HeaderValue::from_static(A_KEY));
            }
        } else {
            // RFC 8441 §4, RFC 9220 §3.
            method = Method::CONNECT;
            request.extensions_mut().insert(Protocol::from(protocol));
        }
    }
    let (uri, fields) = match version < Version::HTTP_2 {
        true => origin_form(asked, fields)?,
        false => absolute(asked, fields, asked.switches_to().is_some())?,
    };
    (*request.method_mut(), *request.uri_mut(), *request.version_mut()) = (method, uri, version);
    *request.headers_mut() = fields;
    Ok(request.into_parts().0)
}

/// The head as a client writes it that is pointed at a proxy: the whole URL where the origin is spoken to in the clear, else a tunnel.
pub fn for_proxy(asked: &Asked, version: Version) -> Result<Parts, http::Error> {
    if asked.scheme() == "udp" {
        let path = template::path(asked.url.host().unwrap_or_default(), asked.port());
        let url = Uri::builder().scheme("https").authority(A_PROXY).path_and_query(path).build()?;
        return head(&Asked { url, upgrade: Some(CONNECT_UDP.into()), ..asked.clone() }, version);
    }
    if asked.upgrade.as_deref().is_some_and(|protocol| protocol.eq_ignore_ascii_case(CONNECT_UDP)) {
        return head(asked, version);
    }
    let mut fields: HeaderMap = asked.headers.iter().cloned().collect();
    let is_tunnel = is_tunnel(asked);
    let authority = match (is_tunnel, asked.url.port(), asked.port()) {
        (true, None, Some(port)) => format!("{}:{port}", authority(asked)),
        _ => authority(asked).to_owned(),
    };
    if version == Version::HTTP_11 && !fields.contains_key(HOST) {
        fields.insert(HOST, HeaderValue::from_str(&authority)?);
    }
    let uri = Uri::builder().authority(&*authority);
    let path = asked.url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut()) = match is_tunnel {
        true => (Method::CONNECT, uri.build()?),
        false => (asked.method.clone(), uri.scheme(asked.scheme()).path_and_query(path).build()?),
    };
    (*request.version_mut(), *request.headers_mut()) = (version, fields);
    Ok(request.into_parts().0)
}

/// Whether a client that is pointed at a proxy asks for a tunnel: for whatever is no request in the clear.
pub fn is_tunnel(asked: &Asked) -> bool {
    asked.method == Method::CONNECT || asked.scheme() != "http"
}

/// RFC 9112 §3.2.1: the path, and Host beside it.
fn origin_form(asked: &Asked, mut fields: HeaderMap) -> Result<(Uri, HeaderMap), http::Error> {
    if !fields.contains_key(HOST) && asked.version != Some(Version::HTTP_10) {
        let mut with_host = HeaderMap::with_capacity(fields.len() + 1);
        with_host.insert(HOST, HeaderValue::from_str(authority(asked))?);
        fields.iter().for_each(|(name, value)| {
            with_host.append(name.clone(), value.clone());
        });
        fields = with_host;
    }
    if asked.method == Method::CONNECT {
        return Ok((Uri::builder().authority(authority(asked)).build()?, fields));
    }
    let path = asked.url.path_and_query().map_or("/", |path| path.as_str());
    Ok((path.parse::<Uri>()?, fields))
}

/// RFC 9113 §8.3.1: scheme and authority stand in the target. Clients that are told a Host put it there.
fn absolute(asked: &Asked, mut fields: HeaderMap, is_extended: bool) -> Result<(Uri, HeaderMap), http::Error> {
    let host = fields.remove(HOST);
    let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_else(|| authority(asked));
    if asked.method == Method::CONNECT && !is_extended {
        // RFC 9113 §8.5.
        return Ok((Uri::builder().authority(host).build()?, fields));
    }
    let path = asked.url.path_and_query().map_or("/", |path| path.as_str());
    let scheme = if asked.is_tls() { "https" } else { "http" };
    Ok((Uri::builder().scheme(scheme).authority(host).path_and_query(path).build()?, fields))
}

/// Without the user, who is for the client to send as a field.
fn authority(asked: &Asked) -> &str {
    let authority = asked.url.authority().map_or("", |authority| authority.as_str());
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// What is refused by the bytes of a head, before it is parsed: by the reader of HTTP/1, or, where there are streams, by the
/// size of the list alone.
pub fn refused(head: &Parts, limits: &ListenerLimits) -> Option<Refusal> {
    if head.version >= Version::HTTP_2 {
        // RFC 9113 §6.5.2, RFC 9114 §4.2.2: each field counts 32 bytes more than it has.
        let protocol = head.extensions.get::<Protocol>().map_or(0, |name| ":protocol".len() + name.as_str().len() + 32);
        let own = head.uri.to_string().len() + head.method.as_str().len() + OF_PSEUDO_FIELDS + protocol;
        let size = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum::<usize>() + own;
        return (size > limits.max_header_size as usize).then_some(HEAD_TOO_LARGE);
    }
    let version = if head.version == Version::HTTP_10 { "1.0" } else { "1.1" };
    let mut bytes = format!("{} {} HTTP/{version}\r\n", head.method, head.uri).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    let limits = Limits { max_head_bytes: limits.max_header_size as usize, max_fields: limits.max_headers as usize };
    match Wire::new(limits).feed(&bytes) {
        Fed::Refuse(refusal) => Some(refusal),
        Fed::Release(_) => None,
    }
}

/// Whether a body is announced, and of how many bytes.
pub fn body(head: &HeaderMap) -> Option<Option<u64>> {
    if head.contains_key(http::header::TRANSFER_ENCODING) {
        return Some(None);
    }
    let length = head.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok()?;
    (length > 0).then_some(Some(length))
}

/// What a proxy for UDP is called, where only the destination was said. Nothing depends on it.
const A_PROXY: &str = "proxy.invalid";
/// The one of RFC 6455 §1.3.
const A_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// `:method`, `:scheme`, `:authority` and `:path`, each with its 32 bytes.
const OF_PSEUDO_FIELDS: usize = 4 * 32 + 29 - "://".len();
