//! Where a request for CONNECT-UDP wants its datagrams to go, by the path that clients use which were told of nothing else
//! (sans-io, RFC 9298 §2 and §3).

use std::net::Ipv6Addr;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Method, Version};
use hyper::ext::Protocol;

use crate::base::error::{Error, Kind};
use crate::proxy::upgrade::is_extended_connect;
use crate::route::destination::Host;

/// The protocol that is switched to.
pub const CONNECT_UDP: &str = "connect-udp";
/// What the path of such a request begins with.
const PATH: &str = "/.well-known/masque/udp/";

/// Host and port that a request for CONNECT-UDP names; `None`: it is something else.
///
/// # Errors
/// The client's fault: the request is malformed, or wants to switch to a protocol that is not spoken here.
pub fn read(head: &Parts) -> Result<Option<(Host, u16)>, Error> {
    if is_extended_connect(head) {
        let protocol = head.extensions.get::<Protocol>().map_or("", Protocol::as_str);
        if !protocol.eq_ignore_ascii_case(CONNECT_UDP) {
            // RFC 9220 §3.
            let reason = "a proxy switches to no other protocol than connect-udp";
            return Err(Error::downstream(Kind::RequestNotImplemented, reason));
        }
    } else if is_upgrade(head) {
        // RFC 9298 §3.2.
        if head.method != Method::GET || !names(head, &CONNECTION, "upgrade") {
            return Err(bad("Upgrade to connect-udp without GET or `Connection: upgrade`"));
        }
    } else {
        return Ok(None);
    }
    let fields = &head.headers;
    // RFC 9297 §3.2: such messages are malformed. That of HTTP/1.1 with an empty body is let off.
    let has_content = fields.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if has_content || fields.contains_key(TRANSFER_ENCODING) || fields.contains_key(CONTENT_TYPE) {
        return Err(bad("connect-udp with content"));
    }
    if head.uri.query().is_some() {
        return Err(bad("connect-udp with a query"));
    }
    destination(head.uri.path()).map(Some)
}

/// Whether it is an Upgrade to CONNECT-UDP.
pub fn is_upgrade(head: &Parts) -> bool {
    head.version == Version::HTTP_11 && names(head, &UPGRADE, CONNECT_UDP)
}

/// The path for a destination as it stands in a URL. Without a port it is none of the template's.
pub fn path(host: &str, port: Option<u16>) -> String {
    let host = host.trim_matches(['[', ']']).replace(':', "%3A");
    let port = port.map(|port| port.to_string()).unwrap_or_default();
    format!("{PATH}{host}/{port}/")
}

/// The destination of a path.
fn destination(path: &str) -> Result<(Host, u16), Error> {
    let variables = path.strip_prefix(PATH).and_then(|rest| rest.strip_suffix('/'));
    let (host, port) = variables.and_then(|both| both.split_once('/')).ok_or_else(|| bad(NOT_OF_THE_TEMPLATE))?;
    let port = decoded(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    // RFC 9298 §3: from 1 to 65535.
    let port = port.and_then(|port| port.parse().ok()).filter(|port| *port != 0).ok_or_else(|| bad("no such port"))?;
    let host = decoded(host).ok_or_else(|| bad("a host that is not a name"))?;
    if host.contains(':') {
        // RFC 9298 §3: an IPv6 address stands without brackets, and has no zone.
        let address = host.parse::<Ipv6Addr>().map_err(|_| bad("an invalid IPv6 address"))?;
        return Ok((Host::Address(std::net::IpAddr::V6(address).to_canonical()), port));
    }
    let host = host.strip_suffix('.').unwrap_or(&host).to_ascii_lowercase();
    Ok((Host::read(&host)?, port))
}

/// Whether one of the words of a field is this one.
fn names(head: &Parts, field: &http::HeaderName, word: &str) -> bool {
    let mut words = head.headers.get_all(field).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// A variable of the template without its percent-encoding; `None` where that is broken, or hides what is not ASCII.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut found = String::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?].map(|digit| char::from(digit).to_digit(16));
                let [Some(high), Some(low)] = digits else { return None };
                (high * 16 + low) as u8
            }
            byte => byte,
        };
        if !byte.is_ascii_graphic() {
            return None;
        }
        found.push(char::from(byte));
    }
    Some(found)
}

fn bad(reason: &'static str) -> Error {
    Error::downstream(Kind::HttpRequestError, reason)
}

const NOT_OF_THE_TEMPLATE: &str = "connect-udp is asked for at /.well-known/masque/udp/{target_host}/{target_port}/";

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn told(path: &str) -> Result<String, &'static str> {
        destination(path)
            .map(|(host, port)| match host {
                Host::Address(address) => format!("{address} {port}"),
                Host::Name(name) => format!("{name} {port}"),
            })
            .map_err(|error| error.reason())
    }

    #[test]
    fn the_template_names_a_destination() {
        for (path, expected) in [
            ("/.well-known/masque/udp/192.0.2.6/443/", "192.0.2.6 443"),
            ("/.well-known/masque/udp/2001%3adb8%3A%3A42/53/", "2001:db8::42 53"),
            ("/.well-known/masque/udp/2001:db8::42/53/", "2001:db8::42 53"),
            ("/.well-known/masque/udp/%3A%3Affff%3A127.0.0.1/53/", "127.0.0.1 53"),
            ("/.well-known/masque/udp/A.Example./65535/", "a.example 65535"),
            ("/.well-known/masque/udp/%61.example/%35%33/", "a.example 53"),
        ] {
            assert_eq!(told(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn a_destination_has_a_path() {
        for (host, port, expected) in [
            ("[2001:db8::42]", 53, "2001:db8::42 53"),
            ("192.0.2.6", 1, "192.0.2.6 1"),
            ("a.example", 443, "a.example 443"),
        ] {
            assert_eq!(told(&path(host, Some(port))).as_deref(), Ok(expected));
        }
        assert_eq!(path("[::1]", Some(53)), "/.well-known/masque/udp/%3A%3A1/53/");
        assert!(told(&path("a.example", None)).is_err());
    }

    #[test]
    fn what_is_no_destination_is_refused() {
        for path in [
            "/",
            "/.well-known/masque/udp/",
            "/.well-known/masque/udp//",
            "/.well-known/masque/udp//53/",
            "/.well-known/masque/udp/a.example/53",
            "/.well-known/masque/udp/a.example/53/x",
            "/.well-known/masque/udp/a.example/53//",
            "/.well-known/masque/udp/a.example//",
            "/.well-known/masque/udp/a.example/0/",
            "/.well-known/masque/udp/a.example/65536/",
            "/.well-known/masque/udp/a.example/+53/",
            "/.well-known/masque/udp/a.example/-1/",
            "/.well-known/masque/udp/a%2Fb/53/",
            "/.well-known/masque/udp/a%00b/53/",
            "/.well-known/masque/udp/a%20b/53/",
            "/.well-known/masque/udp/a%2/53/",
            "/.well-known/masque/udp/a%zz/53/",
            "/.well-known/masque/udp/%c3%a4.example/53/",
            "/.well-known/masque/udp/%5B%3A%3A1%5D/53/",
            "/.well-known/masque/udp/fe80%3A%3A1%25eth0/53/",
            "/.well-known/masque/udp/127.1/53/",
            "/.well-known/masque/udp/0x7f000001/53/",
            "/.well-known/masque/udp/192.0.2.6,192.0.2.7/53/",
            "/.well-known/masque/udp/*/53/",
            "/masque/udp/a.example/53/",
        ] {
            assert!(told(path).is_err(), "{path}: {:?}", told(path));
        }
    }

    #[test]
    fn an_upgrade_says_so_twice_and_has_no_content() {
        let ask = |method: &str, fields: &[(&str, &str)]| {
            let mut request = Request::builder().method(method).uri("/.well-known/masque/udp/a.example/53/");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            read(&request.body(()).unwrap().into_parts().0).map(|found| found.is_some()).map_err(|error| error.kind())
        };
        let (upgrade, connection) = (("upgrade", "Connect-UDP"), ("connection", "x, Upgrade"));
        assert_eq!(ask("GET", &[upgrade, connection]), Ok(true));
        assert_eq!(ask("GET", &[upgrade, connection, ("content-length", "0")]), Ok(true));
        assert_eq!(ask("GET", &[connection]), Ok(false));
        assert_eq!(ask("GET", &[("upgrade", "websocket"), connection]), Ok(false));
        for (method, more) in [
            ("GET", ("content-length", "3")),
            ("GET", ("transfer-encoding", "chunked")),
            ("GET", ("content-type", "text/plain")),
            ("POST", ("x", "y")),
        ] {
            assert_eq!(ask(method, &[upgrade, connection, more]), Err(Kind::HttpRequestError), "{method} {more:?}");
        }
        assert_eq!(ask("GET", &[upgrade]), Err(Kind::HttpRequestError));
    }

    #[test]
    fn an_extended_connect_is_for_udp() {
        let ask = |protocol: &'static str, path: &str| {
            let mut request = Request::connect(format!("https://proxy.example{path}")).version(Version::HTTP_3);
            request.extensions_mut().unwrap().insert(Protocol::from_static(protocol));
            read(&request.body(()).unwrap().into_parts().0).map(|found| found.is_some()).map_err(|error| error.kind())
        };
        assert_eq!(ask("connect-udp", "/.well-known/masque/udp/a.example/53/"), Ok(true));
        assert_eq!(ask("connect-udp", "/.well-known/masque/udp/a.example/53/?x"), Err(Kind::HttpRequestError));
        assert_eq!(ask("connect-udp", "/"), Err(Kind::HttpRequestError));
        assert_eq!(ask("websocket", "/chat"), Err(Kind::RequestNotImplemented));
    }
}
