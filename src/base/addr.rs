//! The address of an endpoint, after names were resolved.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// One address to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Socket(SocketAddr),
    /// A Unix stream socket.
    Unix(Arc<Path>),
}

impl Address {
    /// The port; `None` for a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Address::Socket(address) => Some(address.port()),
            Address::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    /// As the configuration writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Socket(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Socket(address)
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Address::Unix(path.into())
    }
}

/// An IPv4 client of a dual-stack socket shows up as `::ffff:a.b.c.d`; everyone who compares addresses wants `a.b.c.d`.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), address.port()),
        // As it was: a link-local client is only reachable with its scope.
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_the_configuration_writes_it() {
        assert_eq!(Address::Socket("[::1]:80".parse().unwrap()).to_string(), "[::1]:80");
        assert_eq!(Address::from(Path::new("/run/app.sock")).to_string(), "unix:/run/app.sock");
    }

    #[test]
    fn a_mapped_client_becomes_ipv4_and_others_stay() {
        assert_eq!(canonical("[::ffff:10.0.0.1]:7".parse().unwrap()), "10.0.0.1:7".parse().unwrap());
        assert_eq!(canonical("[2001:db8::1]:7".parse().unwrap()), "[2001:db8::1]:7".parse().unwrap());
        assert_eq!(canonical("10.0.0.1:7".parse().unwrap()), "10.0.0.1:7".parse().unwrap());
    }
}
