//! Answers to clients: collects the datagrams of several endpoints in the memory they were received into, and sends
//! them through the clients' socket with one system call.

use std::net::{IpAddr, SocketAddr};

use super::relays::Relays;
use crate::l4::flow::{GroupId, Key};
use crate::net::datagram::{Inbox, ROOM, deliver};
use crate::net::sys::Outgoing;

/// Messages for the clients of one socket.
pub(super) struct Outbox {
    /// The messages, in the order of `clients`.
    pub(super) inbox: Inbox,
    /// To whom each goes, and from which address of ours.
    clients: Vec<(SocketAddr, Option<IpAddr>)>,
    group: GroupId,
}

impl Outbox {
    /// Empty.
    pub(super) fn new(inbox: Inbox) -> Self {
        Self { inbox, clients: Vec::with_capacity(ROOM), group: GroupId(u32::MAX) }
    }

    /// Makes room for `messages` to clients of `group`; says behind how many.
    pub(super) fn prepare(&mut self, relays: &Relays, group: GroupId, messages: usize) -> usize {
        if self.group != group || self.clients.len() + messages > ROOM {
            self.flush(relays);
            self.group = group;
        }
        self.clients.len()
    }

    /// Adds the next `count` messages, which were received behind the last, for the client of `key`; says how many bytes
    /// they are.
    pub(super) fn add(&mut self, key: &Key, count: usize) -> u64 {
        let mut sum = 0;
        for _ in 0..count {
            sum += self.inbox.message(self.clients.len()).bytes.len() as u64;
            self.clients.push((key.client, key.local));
        }
        sum
    }

    /// The last `count` messages that were added.
    pub(super) fn last(&self, count: usize) -> impl Iterator<Item = Outgoing<'_>> {
        (self.clients.len() - count..self.clients.len()).map(|place| self.inbox.message(place).outgoing())
    }

    /// Sends everything.
    pub(super) fn flush(&mut self, relays: &Relays) {
        if self.clients.is_empty() {
            return;
        }
        let counters = relays.counters();
        let batch: [Outgoing<'_>; ROOM] = std::array::from_fn(|place| match self.clients.get(place) {
            Some((client, local)) => {
                Outgoing { to: Some(*client), from: *local, ..self.inbox.message(place).outgoing() }
            }
            None => Outgoing::NOTHING,
        });
        let batch = &batch[..self.clients.len()];
        match relays.socket(self.group) {
            Some(socket) => {
                let delivery = deliver(socket, batch);
                counters.datagrams_out.add(delivery.datagrams);
                counters.bytes_downstream_out.add(delivery.bytes);
                counters.datagrams_dropped.add(delivery.dropped);
            }
            None => counters.datagrams_dropped.add(batch.iter().map(Outgoing::count).sum()),
        }
        self.clients.clear();
    }
}
