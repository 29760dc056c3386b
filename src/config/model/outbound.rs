//! `listener.forward`: the allowed destinations and users of a listener with `mode = "forward"`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::Place;

/// `listener.forward`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Where clients may go. Never empty: nothing is allowed that is not written.
    pub allow: Vec<Destination>,
    /// Where they may not, whatever is allowed.
    pub deny: Vec<Destination>,
    /// The password file; `None`: everybody who gets to the listener may use it.
    pub users: Option<(PathBuf, Place)>,
    /// Who is asked for names; empty: whom the system asks.
    pub name_servers: Vec<SocketAddr>,
    /// `listener.forward.timeouts`.
    pub timeouts: OutboundTimeouts,
}

/// One entry of `allow` or `deny`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Which hosts.
    pub hosts: Hosts,
    /// The first and the last port.
    pub ports: (u16, u16),
    /// Where it was written.
    pub place: Place,
}

/// The hosts of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// `*`: every host at a public address.
    Any,
    /// One name, lowercase, without a trailing dot.
    Name(String),
    /// `*.example.org`: every name below it, kept without `*.`.
    Below(String),
    /// Addresses, however they are named.
    Network(IpNet),
}

/// `listener.forward.timeouts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundTimeouts {
    /// Resolving, connecting and TLS together.
    pub connect: Duration,
    /// Request sent to response head.
    pub response: Duration,
    /// Silence of the origin inside a body.
    pub stream_idle: Duration,
    /// Silence of both sides of a tunnel.
    pub tunnel_idle: Duration,
}

impl fmt::Display for Destination {
    /// As the configuration writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::Any => f.write_str("*")?,
            Hosts::Name(name) => f.write_str(name)?,
            Hosts::Below(name) => write!(f, "*.{name}")?,
            Hosts::Network(network) => {
                let is_one = network.prefix_len() == network.max_prefix_len();
                match (network.addr(), is_one) {
                    (IpAddr::V4(address), true) => write!(f, "{address}")?,
                    (IpAddr::V6(address), true) => write!(f, "[{address}]")?,
                    (IpAddr::V4(_), false) => write!(f, "{network}")?,
                    (IpAddr::V6(_), false) => write!(f, "[{network}]")?,
                }
            }
        }
        match self.ports {
            (0 | 1, u16::MAX) => f.write_str(":*"),
            (first, last) if first == last => write!(f, ":{first}"),
            (first, last) => write!(f, ":{first}-{last}"),
        }
    }
}
