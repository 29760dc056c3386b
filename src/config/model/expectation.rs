//! `[[expect]]`: a test request with its expected result. The request type is also used by `tidegate explain`.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version};

use super::{Place, ValuePattern};

/// A request that nobody sends: what would become of it?
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Its method; CONNECT and layer 4 have none of their own.
    pub method: Method,
    /// With scheme and host. `tcp`, `tls`, `udp` and `quic` lead to listeners that read no requests.
    pub url: Uri,
    /// Its fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Who asks; `None`: somebody on the internet.
    pub client: Option<IpAddr>,
    /// Where; `None`: by the port of the address.
    pub listener: Option<Arc<str>>,
    /// What it is spoken in; `None`: what a browser would choose.
    pub version: Option<Version>,
    /// The protocol that it would switch to, beside that of `ws://` and `wss://`.
    pub upgrade: Option<Arc<str>>,
    /// The name of the handshake; `None`: the host of the address.
    pub sni: Option<Arc<str>>,
    /// Protocols that the client offers in its handshake, where `quic` and `tls` listeners choose by them.
    pub alpn: Vec<Arc<str>>,
}

/// `[[expect]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    /// The request.
    pub asked: Asked,
    /// The name of the route that takes it.
    pub route: Option<Arc<str>>,
    /// The upstreams that it may go to, sorted; empty: nothing is expected of them.
    pub upstreams: Vec<Arc<str>>,
    /// The status of an answer of our own.
    pub status: Option<StatusCode>,
    /// The word of its refusal.
    pub outcome: Option<Arc<str>>,
    /// Fields of an answer of our own.
    pub header: Vec<(HeaderName, ValuePattern)>,
    /// What an endpoint is to get.
    pub sent: Sent,
    /// Where it was written.
    pub place: Place,
}

/// `[expect.sent]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sent {
    /// Host, or `:authority`.
    pub host: Option<Arc<str>>,
    /// The path with its query.
    pub path: Option<Arc<str>>,
    /// Fields.
    pub header: Vec<(HeaderName, ValuePattern)>,
    /// Fields that are not there.
    pub without: Vec<HeaderName>,
}

/// Why a text is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The first word of two.
    #[error("the first word is not a method")]
    Method,
    /// The last word.
    #[error("not a URL with scheme and host, in ASCII and without spaces, such as https://example.org/path")]
    Address,
    /// Of the address.
    #[error("the scheme must be http, https, ws, wss, tcp, tls, udp or quic")]
    Scheme,
    /// More than two words.
    #[error("expected only a method and a URL")]
    Words,
}

impl Asked {
    /// From `"GET https://example.org/path"`; the method may be left out.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, BadRequest> {
        let mut words = text.split_ascii_whitespace();
        let (method, address) = match (words.next(), words.next(), words.next()) {
            (Some(address), None, _) => (None, address),
            (Some(method), Some(address), None) => (Some(method), address),
            (None, ..) => return Err(BadRequest::Address),
            _ => return Err(BadRequest::Words),
        };
        Self::new(method, address)
    }

    /// From a method, GET where it is left out, and an address.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn new(method: Option<&str>, address: &str) -> Result<Self, BadRequest> {
        let method = match method {
            None => Method::GET,
            Some(method) => Method::from_bytes(method.as_bytes()).map_err(|_| BadRequest::Method)?,
        };
        let url: Uri = address.parse().map_err(|_| BadRequest::Address)?;
        if url.host().is_none_or(str::is_empty) {
            return Err(BadRequest::Address);
        }
        if !SCHEMES.contains(&url.scheme_str().unwrap_or_default()) {
            return Err(if url.scheme().is_none() { BadRequest::Address } else { BadRequest::Scheme });
        }
        Ok(Self {
            method,
            url,
            headers: Vec::new(),
            client: None,
            listener: None,
            version: None,
            upgrade: None,
            sni: None,
            alpn: Vec::new(),
        })
    }

    /// What its address says that is spoken.
    pub fn scheme(&self) -> &str {
        self.url.scheme_str().unwrap_or("http")
    }

    /// The protocol that it wants to switch to.
    pub fn switches_to(&self) -> Option<&str> {
        self.upgrade.as_deref().or_else(|| matches!(self.scheme(), "ws" | "wss").then_some("websocket"))
    }

    /// Whether the client speaks TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme(), "https" | "wss" | "tls" | "quic")
    }

    /// Whether it is a request, and not only a connection.
    pub fn is_http(&self) -> bool {
        matches!(self.scheme(), "http" | "https" | "ws" | "wss")
    }

    /// The port that the client connects to; `None`: the scheme has no usual one.
    pub fn port(&self) -> Option<u16> {
        self.url.port_u16().or_else(|| match self.scheme() {
            "http" | "ws" => Some(80),
            "https" | "wss" | "tls" | "quic" => Some(443),
            _ => None,
        })
    }

    /// The name of its handshake, as a client sends it: none for an address (RFC 6066 §3).
    pub fn server_name(&self) -> Option<String> {
        let name = self.sni.as_deref().or_else(|| self.url.host())?;
        let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        (self.is_tls() && !is_address && !name.is_empty()).then(|| name.trim_end_matches('.').to_ascii_lowercase())
    }
}

impl Sent {
    /// Whether nothing is expected.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl ValuePattern {
    /// Whether a value is what is wanted.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Regex(regex) => str::from_utf8(value).is_ok_and(|value| regex.is_match(value)),
        }
    }
}

/// Whether a text is the name of a protocol that may be switched to: a token, with a version or not (RFC 9110 §7.8).
pub fn is_protocol(text: &str) -> bool {
    // The name of a field is a token as well.
    !text.is_empty() && text.bytes().all(|byte| byte == b'/' || HeaderName::from_bytes(&[byte]).is_ok())
}

/// What addresses may begin with.
const SCHEMES: [&str; 8] = ["http", "https", "ws", "wss", "tcp", "tls", "udp", "quic"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_method_and_an_address() {
        let asked = Asked::parse("https://a.example/x?y").unwrap();
        assert_eq!((asked.method.as_str(), asked.port(), asked.is_tls()), ("GET", Some(443), true));
        assert_eq!(Asked::parse("PUT http://a.example:8080").unwrap().port(), Some(8080));
        assert_eq!(Asked::parse("tcp://10.0.0.1:5432").unwrap().port(), Some(5432));
        for (text, fault) in [
            ("", BadRequest::Address),
            ("/x", BadRequest::Address),
            ("a.example", BadRequest::Address),
            ("G(T http://a", BadRequest::Method),
            ("ftp://a/x", BadRequest::Scheme),
            ("GET http://a b", BadRequest::Words),
        ] {
            assert_eq!(Asked::parse(text).unwrap_err(), fault, "{text}");
        }
    }

    #[test]
    fn an_address_is_no_name_of_a_handshake() {
        assert_eq!(Asked::parse("https://A.example./").unwrap().server_name().as_deref(), Some("a.example"));
        assert_eq!(Asked::parse("https://[::1]/").unwrap().server_name(), None);
        assert_eq!(Asked::parse("http://a.example/").unwrap().server_name(), None);
    }
}
