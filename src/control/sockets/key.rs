//! The identity of a bound address across generations.

use std::sync::Arc;

use crate::config::model::{Bind, Listener};
use crate::net::bind::{self, BindError};

/// What makes two addresses of two generations the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) bind: Bind,
    /// UDP has ports of its own.
    pub(super) is_udp: bool,
    /// With port 0 every use is a socket of its own: the listener's name and which of its addresses.
    pub(super) picked_for: Option<(Arc<str>, usize)>,
}

impl Key {
    pub(super) fn shares_port_with(&self, other: &Self) -> bool {
        let port_of = |key: &Self| Some((port(&key.bind)?, key.is_udp));
        port_of(self).is_some_and(|own| port_of(other) == Some(own))
    }

    pub(super) fn ensure_free(&self) -> Result<(), BindError> {
        if self.is_udp { bind::ensure_datagram_free(&self.bind) } else { bind::ensure_free(&self.bind) }
    }

    /// Whether the kernel picks the port.
    pub(super) fn is_picked(&self) -> bool {
        self.picked_for.is_some()
    }

    /// Whether the other is the same address of the same listener, over TCP here and UDP there: where the port is picked,
    /// it is one for both.
    pub(super) fn is_twin_of(&self, other: &Self) -> bool {
        self.is_picked() && self.picked_for == other.picked_for && self.is_udp != other.is_udp
    }
}

/// Every address of a listener, that of TCP before that of UDP.
pub(super) fn keys(listener: &Listener) -> impl Iterator<Item = Key> {
    listener.binds.iter().enumerate().flat_map(move |(nth, bind)| {
        let picks = port(bind) == Some(0);
        let is_unix = matches!(bind, Bind::Unix(_));
        let takes_datagrams = !is_unix && (listener.takes_quic() || listener.mode.is_udp());
        let kinds = [(listener.takes_connections(), false), (takes_datagrams, true)];
        kinds.into_iter().filter(|(is_wanted, _)| *is_wanted).map(move |(_, is_udp)| Key {
            bind: bind.clone(),
            is_udp,
            picked_for: picks.then(|| (Arc::clone(&listener.name), nth)),
        })
    })
}

fn port(bind: &Bind) -> Option<u16> {
    match bind {
        Bind::AnyAddress(port) => Some(*port),
        Bind::Address(address) => Some(address.port()),
        Bind::Unix(_) => None,
    }
}
