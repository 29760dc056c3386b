//! The destination that a client names in forward mode (sans-io, RFC 9112 §3.2.2 and §3.2.3, RFC 9113 §8.5): the full
//! URL of a request, the authority of a tunnel, or the path of a tunnel for datagrams.

use http::Method;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;

use super::template;
use crate::base::error::{Error, Kind};
use crate::proxy::normalize::Normalized;
use crate::route::destination::{Host, Reach};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// That a request is sent on.
    Request {
        /// Over TLS.
        is_secure: bool,
    },
    /// A tunnel of bytes.
    Connect,
    /// A tunnel of datagrams.
    ConnectUdp,
}

/// Where somebody may go who asked.
#[derive(Clone, Debug)]
pub struct Target {
    /// What is asked for.
    pub ask: Ask,
    /// Of whom.
    pub host: Host,
    /// At which port; never 0.
    pub port: u16,
    /// Which of its addresses.
    pub reach: Reach,
}

impl Target {
    /// The host, without brackets.
    pub fn host_text(&self) -> Box<str> {
        match &self.host {
            Host::Address(address) => address.to_string().into(),
            Host::Name(name) => name.clone(),
        }
    }

    /// Host and port, as people write them.
    pub fn label(&self) -> String {
        label(&self.host, self.port)
    }
}

/// Host and port, as people write them.
pub fn label(host: &Host, port: u16) -> String {
    match host {
        Host::Address(address) => std::net::SocketAddr::new(*address, port).to_string(),
        Host::Name(name) => format!("{name}:{port}"),
    }
}

/// Reads a head; `speaks_tls`: requests for `https` can be sent on.
///
/// # Errors
/// The client's fault: no request for a proxy, or one that is ambiguous.
pub fn read(head: &Parts, normalized: &Normalized, speaks_tls: bool) -> Result<(Host, u16, Ask), Error> {
    let bad = |reason| Error::downstream(Kind::HttpRequestError, reason);
    if normalized.port() == Some(0) {
        return Err(bad("port 0"));
    }
    if let Some((host, port)) = template::read(head)? {
        return Ok((host, port, Ask::ConnectUdp));
    }
    if head.method == Method::CONNECT {
        // RFC 9110 §9.3.6: the port is a part of the target, and there is no content.
        let port = normalized.port().ok_or_else(|| bad("CONNECT without a port"))?;
        let length = head.headers.get(CONTENT_LENGTH);
        if length.is_some_and(|length| length != "0") || head.headers.contains_key(TRANSFER_ENCODING) {
            return Err(bad("CONNECT with content"));
        }
        return Ok((Host::read(normalized.host())?, port, Ask::Connect));
    }
    let (default, is_secure) = match head.uri.scheme_str() {
        Some("http") => (80, false),
        Some("https") if speaks_tls => (443, true),
        Some("https") => return Err(bad("https through a cleartext proxy: a tunnel (CONNECT) keeps it secret")),
        _ => return Err(bad("this is a proxy: send the full URL, or CONNECT")),
    };
    let host = Host::read(normalized.host())?;
    Ok((host, normalized.port().unwrap_or(default), Ask::Request { is_secure }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::normalize::{Checks, check};
    use http::{Request, Version};

    fn asked(method: &str, uri: &str, version: Version) -> Result<(String, u16, Ask), &'static str> {
        let mut request = Request::builder().method(method).uri(uri).version(version);
        if version == Version::HTTP_11 {
            request = request.header("host", "somewhere.example");
        }
        let head = request.body(()).unwrap().into_parts().0;
        let checks = Checks { max_headers: 100, is_forward: true };
        let normalized = check(&head, checks).map_err(|refusal| refusal.reason)?;
        let (host, port, ask) = read(&head, &normalized, version == Version::HTTP_2).map_err(|error| error.reason())?;
        let target = Target { ask, host, port, reach: Reach::Public };
        Ok((target.label(), port, ask))
    }

    #[test]
    fn the_whole_url_says_where_to_and_a_tunnel_names_its_port() {
        const CLEAR: Ask = Ask::Request { is_secure: false };
        for (method, uri, label, ask) in [
            ("GET", "http://A.Example/x?y", "a.example:80", CLEAR),
            ("GET", "http://a.example:8080", "a.example:8080", CLEAR),
            ("GET", "http://a.example./", "a.example:80", CLEAR),
            ("GET", "http://[2001:db8::1]:81/", "[2001:db8::1]:81", CLEAR),
            ("GET", "http://[::ffff:127.0.0.1]/", "127.0.0.1:80", CLEAR),
            ("CONNECT", "a.example:443", "a.example:443", Ask::Connect),
            ("CONNECT", "[::1]:443", "[::1]:443", Ask::Connect),
        ] {
            let (to, _, asked) = asked(method, uri, Version::HTTP_11).unwrap_or_else(|why| panic!("{uri}: {why}"));
            assert_eq!((&*to, asked), (label, ask), "{method} {uri}");
        }
        let secure = asked("GET", "https://a.example/", Version::HTTP_2).unwrap();
        assert_eq!((secure.1, secure.2), (443, Ask::Request { is_secure: true }));
    }

    #[test]
    fn what_is_no_request_for_a_proxy_is_told_so() {
        for (method, uri) in [
            ("GET", "/x"),
            ("GET", "https://a.example/"),
            ("GET", "http://user@a.example/"),
            ("GET", "http://user:pass@127.0.0.1/"),
            ("GET", "http://127.1/"),
            ("GET", "http://0x7f000001/"),
            ("GET", "http://2130706433/"),
            ("GET", "http://a.example:0/"),
            ("GET", "ftp://a.example/"),
            ("CONNECT", "a.example"),
            ("CONNECT", "a.example:0"),
            ("CONNECT", "user@a.example:443"),
            ("CONNECT", "http://a.example:443/"),
            ("CONNECT", "0177.0.0.1:443"),
        ] {
            assert!(asked(method, uri, Version::HTTP_11).is_err(), "{method} {uri}");
        }
    }
}
