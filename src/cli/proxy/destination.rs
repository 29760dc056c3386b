//! Turns the values of `--to` into endpoints of the configuration.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// One `--to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// As an entry of `endpoints`.
    pub endpoint: String,
    /// Whether TLS is spoken to it.
    pub is_tls: bool,
    /// Whether it is a name rather than an address.
    pub is_name: bool,
}

/// A `--to` that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// Another scheme than http and https.
    #[error("cannot forward to {0}://, only to http:// and https://")]
    Scheme(String),
    /// A URL that goes on after the port.
    #[error(
        "a URL may name only a place, without path or user: a path is a route's business (`replace_path` in a file)"
    )]
    PastAuthority,
    /// No port where none is implied.
    #[error("no port: write `{0}:3000`, or http://{0} for port 80")]
    NoPort(String),
    /// Not a number from 1 to 65535.
    #[error("`{0}` is no port")]
    Port(String),
    /// An IPv6 address without brackets.
    #[error("an IPv6 address stands in brackets: `[::1]:3000`")]
    Brackets,
    /// Nothing that is an address or a name.
    #[error("`{0}` is neither an address nor a name")]
    Host(String),
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        if text.starts_with("unix:") || text.starts_with("dns:") {
            return Ok(Self { endpoint: text.to_owned(), is_tls: false, is_name: text.starts_with("dns:") });
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Self::of_authority(text, None);
        };
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            other => return Err(DestinationError::Scheme(other.to_owned())),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(DestinationError::PastAuthority);
        }
        let default_port = if is_tls { 443 } else { 80 };
        Ok(Self { is_tls, ..Self::of_authority(authority, Some(default_port))? })
    }
}

impl Destination {
    fn of_authority(text: &str, default_port: Option<u16>) -> Result<Self, DestinationError> {
        if text.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(DestinationError::Brackets);
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            // A number alone is a port of this machine, as in `--to 3000`.
            None if default_port.is_none() && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                ("", Some(text))
            }
            _ => (text, None),
        };
        let port = match (port, default_port) {
            (Some(port), _) => {
                port.parse().ok().filter(|port| *port != 0).ok_or_else(|| DestinationError::Port(port.to_owned()))?
            }
            (None, Some(port)) => port,
            (None, None) => return Err(DestinationError::NoPort(text.to_owned())),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = if host.is_empty() && default_port.is_none() { "127.0.0.1" } else { bare };
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Self { endpoint: SocketAddr::new(ip, port).to_string(), is_tls: false, is_name: false });
        }
        if !is_name(host) {
            return Err(DestinationError::Host(host.to_owned()));
        }
        Ok(Self { endpoint: format!("dns:{}:{port}", host.to_ascii_lowercase()), is_tls: false, is_name: true })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.endpoint)
    }
}

/// Letters that a name may have; underscores are common inside private networks.
fn is_name(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> (String, bool, bool) {
        let found: Destination = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        (found.endpoint, found.is_tls, found.is_name)
    }

    #[test]
    fn an_address_stays_one() {
        assert_eq!(endpoint("127.0.0.1:3000"), ("127.0.0.1:3000".into(), false, false));
        assert_eq!(endpoint("[::1]:3000"), ("[::1]:3000".into(), false, false));
        assert_eq!(endpoint("unix:/run/app.sock"), ("unix:/run/app.sock".into(), false, false));
    }

    #[test]
    fn a_port_alone_is_this_machine() {
        assert_eq!(endpoint("3000").0, "127.0.0.1:3000");
        assert_eq!(endpoint(":3000").0, "127.0.0.1:3000");
    }

    #[test]
    fn a_name_is_resolved_by_us() {
        assert_eq!(endpoint("app.internal:3000"), ("dns:app.internal:3000".into(), false, true));
        assert_eq!(endpoint("dns:app.internal:3000"), ("dns:app.internal:3000".into(), false, true));
    }

    #[test]
    fn a_url_brings_its_port_and_tls() {
        assert_eq!(endpoint("http://10.0.0.1"), ("10.0.0.1:80".into(), false, false));
        assert_eq!(endpoint("http://[::1]/"), ("[::1]:80".into(), false, false));
        assert_eq!(endpoint("https://Example.org"), ("dns:example.org:443".into(), true, true));
        assert_eq!(endpoint("HTTPS://10.0.0.1:8443/"), ("10.0.0.1:8443".into(), true, false));
    }

    #[test]
    fn what_cannot_be_is_said() {
        let error = |text: &str| text.parse::<Destination>().unwrap_err();
        assert_eq!(error("ftp://x"), DestinationError::Scheme("ftp".into()));
        assert_eq!(error("http://x/api"), DestinationError::PastAuthority);
        assert_eq!(error("http://me@x"), DestinationError::PastAuthority);
        assert_eq!(error("app"), DestinationError::NoPort("app".into()));
        assert_eq!(error("app:http"), DestinationError::Port("http".into()));
        assert_eq!(error("app:0"), DestinationError::Port("0".into()));
        assert_eq!(error("70000"), DestinationError::Port("70000".into()));
        assert_eq!(error("::1"), DestinationError::Brackets);
        assert_eq!(error("a b:80"), DestinationError::Host("a b".into()));
        assert_eq!(error("http://"), DestinationError::Host(String::new()));
        assert_eq!(error(""), DestinationError::NoPort(String::new()));
    }
}
