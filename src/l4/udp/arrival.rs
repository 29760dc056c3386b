//! Received datagrams of clients: splits batches, finds the client of each datagram, and reads its PROXY header.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use mio::Registry;

use super::relays::{Clock, Relays};
use crate::config::model::ProxyProtocol;
use crate::l4::flow::{GroupId, Key};
use crate::l4::listener::L4Listener;
use crate::net::datagram::{Inbox, ROOM};
use crate::net::proxy_protocol::{self, Reading};
use crate::net::sys::Outgoing;

impl Relays {
    /// Passes on the first `count` messages of `inbox`, which clients sent to a socket.
    pub(super) fn arrived(&mut self, registry: &Registry, group: GroupId, inbox: &Inbox, count: usize, clock: Clock) {
        let Some(listener) = self.listener(group).cloned() else { return };
        let batch: [Outgoing<'_>; ROOM] =
            std::array::from_fn(|at| if at < count { inbox.message(at).outgoing() } else { Outgoing::NOTHING });
        let counters = self.counters();
        counters.datagrams_in.add(batch[..count].iter().map(Outgoing::count).sum());
        counters.bytes_downstream_in.add(batch.iter().map(|message| message.bytes.len() as u64).sum());
        let mut begin = 0;
        while begin < count {
            let first = inbox.message(begin);
            let is_other = |at: &usize| (inbox.message(*at).from, inbox.message(*at).to) != (first.from, first.to);
            let end = (begin + 1..count).find(is_other).unwrap_or(count);
            let local = first.to.filter(|ip| !ip.to_canonical().is_multicast() && !is_broadcast(*ip));
            let key = Key { group, client: first.from, local, told: None };
            match listener.config().proxy_protocol {
                ProxyProtocol::Off => self.pass_on(registry, &listener, key, None, &batch[begin..end], clock),
                _ => self.read_headers(registry, &listener, key, &batch[begin..end], clock),
            }
            begin = end;
        }
    }

    /// Each datagram may tell of a client of its own.
    fn read_headers(
        &mut self,
        registry: &Registry,
        listener: &Rc<L4Listener>,
        key: Key,
        batch: &[Outgoing<'_>],
        clock: Clock,
    ) {
        let is_trusted = listener.trusts(key.client.ip());
        let is_required = listener.config().proxy_protocol == ProxyProtocol::Require;
        for bytes in batch.iter().flat_map(Outgoing::datagrams) {
            let header = match proxy_protocol::read(bytes) {
                Reading::Header(header) if is_trusted => Some(header),
                // Without one it belongs to the flow of its sender, where that began with one.
                Reading::Absent | Reading::Incomplete if is_trusted && self.find(&key).is_some() => None,
                // Optional and from somebody not trusted: whatever it begins with is the client's own.
                _ if !is_required && !is_trusted => None,
                Reading::Absent | Reading::Incomplete if !is_required => None,
                _ => {
                    self.counters().proxy_headers_refused.add(1);
                    self.counters().datagrams_dropped.add(1);
                    continue;
                }
            };
            let behind = Outgoing { bytes: &bytes[header.map_or(0, |header| header.length)..], ..Outgoing::NOTHING };
            let key = self.key_of_told(key, header.and_then(|header| header.client));
            self.pass_on(registry, listener, key, header, &[behind], clock);
        }
    }

    /// The first client that a proxy tells of has the flow of the proxy's address, so that datagrams without a header find it;
    /// further ones have flows of their own beside it.
    fn key_of_told(&self, key: Key, told: Option<SocketAddr>) -> Key {
        let Some(told) = told else { return key };
        let own = Key { told: Some(told), ..key };
        match self.find(&key) {
            Some(relay) if relay.life.client() != Some(told) => own,
            None if self.find(&own).is_some() => own,
            _ => key,
        }
    }
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip.to_canonical(), IpAddr::V4(ip) if ip.is_broadcast())
}
