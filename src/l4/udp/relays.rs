//! The flows of a worker and the sockets of their clients: handles generations, answers, errors and timeouts.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Interest, Registry};
use tracing::{debug, warn};

use super::hellos::Hellos;
use super::outbox::Outbox;
use super::relay::{self, Relay};
use crate::base::addr::Address;
use crate::base::error::Kind;
use crate::base::id::SocketId;
use crate::base::limit::Limit;
use crate::l4::flow::{Expiry, FlowId, Flows, Full, GroupId, Key, Times};
use crate::l4::listener::L4Listener;
use crate::l4::quic;
use crate::l4::timer::Tick;
use crate::l4::token::Source;
use crate::net::bind::{BoundSocket, Group};
use crate::net::datagram::prepare_listening;
use crate::route::connection_ids::Place;
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::counters::Counters;

/// Sockets and flows.
pub(super) struct Relays {
    pub(super) telemetry: Arc<WorkerTelemetry>,
    pub(super) process_limit: Arc<Limit>,
    pub(super) sockets: BTreeMap<GroupId, Socket>,
    pub(super) flows: Flows<Relay>,
    pub(super) hellos: Hellos,
    /// What a datagram and the header before it are put together in.
    pub(super) scratch: Vec<u8>,
}

/// A socket that takes datagrams from clients.
pub(super) struct Socket {
    id: SocketId,
    listener: Rc<L4Listener>,
    socket: UdpSocket,
    pub(super) local: SocketAddr,
    pub(super) draining: bool,
    /// When it was last said that a limit keeps clients from flows.
    full_told: Option<Instant>,
    _open: Arc<Group>,
}

/// What time it is, in both measures.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) now: Instant,
    pub(super) tick: Tick,
}

/// The silence that ends a flow once its socket drains: an exchange that is under way is not silent for so long.
const DRAIN_IDLE: Duration = Duration::from_secs(3);
/// How often one socket of one worker says that a limit is reached.
const FULL_TOLD_INTERVAL: Duration = Duration::from_secs(10);
/// Flows that are ended at a time, before others have their turn.
const ENDED_AT_ONCE: usize = 256;

impl Relays {
    pub(super) fn new(telemetry: Arc<WorkerTelemetry>, process_limit: Arc<Limit>, now: Instant) -> Self {
        let flows = Flows::new(now);
        Self {
            telemetry,
            process_limit,
            sockets: BTreeMap::new(),
            flows,
            hellos: Hellos::default(),
            scratch: Vec::new(),
        }
    }

    pub(super) fn clock(&self, now: Instant) -> Clock {
        Clock { now, tick: self.flows.tick(now) }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.telemetry.counters
    }

    pub(super) fn listen(
        &mut self,
        registry: &Registry,
        id: SocketId,
        listener: Rc<L4Listener>,
        bound: BoundSocket,
        open: Arc<Group>,
    ) -> io::Result<()> {
        let Address::Socket(local) = *bound.local_address() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let socket = bound.into_udp()?;
        prepare_listening(&socket, local)?;
        let mut socket = UdpSocket::from_std(socket);
        let group = self.flows.open_group(times(&listener));
        if let Err(error) = registry.register(&mut socket, Source::Datagrams(group.0).token(), Interest::READABLE) {
            self.flows.close_group(group);
            return Err(error);
        }
        let socket = Socket { id, listener, socket, local, draining: false, full_told: None, _open: open };
        self.sockets.insert(group, socket);
        Ok(())
    }

    pub(super) fn renew(&mut self, id: SocketId, listener: Rc<L4Listener>) -> bool {
        let Some((group, socket)) = self.sockets.iter_mut().find(|(_, socket)| socket.id == id && !socket.draining)
        else {
            return false;
        };
        self.flows.set_times(*group, times(&listener));
        socket.listener = listener;
        true
    }

    pub(super) fn listening(&self) -> Vec<SocketId> {
        self.sockets.values().filter(|socket| !socket.draining).map(|socket| socket.id).collect()
    }

    pub(super) fn drain(&mut self, id: SocketId) {
        let Some((group, socket)) = self.sockets.iter_mut().find(|(_, socket)| socket.id == id) else { return };
        let group = *group;
        socket.draining = true;
        let Times { idle, max_age } = times(&socket.listener);
        self.flows.set_times(group, Times { idle: idle.min(DRAIN_IDLE), max_age });
        self.close_drained(group);
    }

    pub(super) fn leave_what_is_gone(&mut self) {
        let ids: Vec<_> = self.flows.all().collect();
        for id in ids {
            let Some(group) = self.flows.key(id).map(|key| key.group) else { continue };
            let (Some(socket), Some(relay)) = (self.sockets.get(&group), self.flows.get_mut(id)) else { continue };
            let Some(target) = &relay.life.target else { continue };
            // By name: the upstream is another value in each generation.
            let now = socket.listener.upstream_named(target.upstream().name());
            relay.is_gone = !target.endpoint().is_ok_and(|endpoint| now.is_some_and(|now| now.has(endpoint)));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    pub(super) fn cut(&mut self, clock: Clock) {
        let ids: Vec<_> = self.flows.all().collect();
        for id in ids {
            self.end(id, Some((Kind::ConnectionTerminated, "the proxy left before the flow had ended")), clock);
        }
        self.sockets.clear();
    }

    /// The socket of a group.
    pub(super) fn socket(&self, group: GroupId) -> Option<&UdpSocket> {
        Some(&self.sockets.get(&group)?.socket)
    }

    /// What a group's clients meet now.
    pub(super) fn listener(&self, group: GroupId) -> Option<&Rc<L4Listener>> {
        Some(&self.sockets.get(&group)?.listener)
    }

    /// The flow of this client.
    pub(super) fn find(&self, key: &Key) -> Option<&Relay> {
        self.flows.get(self.flows.find(key)?)
    }

    /// The group of a flow, and the socket to its endpoint.
    pub(super) fn endpoint_of(&self, id: FlowId) -> Option<(GroupId, &UdpSocket)> {
        Some((self.flows.key(id)?.group, &self.flows.get(id)?.socket))
    }

    /// Hands on `count` messages of a flow's endpoint, which were received behind those that are in `outbox`.
    pub(super) fn answered(&mut self, id: FlowId, outbox: &mut Outbox, count: usize, clock: Clock) {
        let Some(key) = self.flows.key(id).copied() else { return };
        let bytes = outbox.add(&key, count);
        self.telemetry.counters.bytes_upstream_in.add(bytes);
        self.flows.touch(id, clock.tick);
        let Some(relay) = self.flows.get_mut(id) else { return };
        relay.answered(bytes, clock.now);
        let Some(known) = &relay.life.listener().spec.connection_ids else { return };
        let Some((upstream, endpoint)) = relay.place() else { return };
        for message in outbox.last(count) {
            for id in message.datagrams().filter_map(quic::source) {
                known.learn(id, &Place { upstream: Arc::clone(upstream), endpoint });
            }
        }
    }

    /// The endpoint of a flow sends many datagrams at once.
    pub(super) fn put_together(&mut self, id: FlowId) {
        if let Some(relay) = self.flows.get_mut(id) {
            relay.put_together();
        }
    }

    /// Ends a flow whose endpoint cannot be reached; errors of single datagrams end nothing.
    pub(super) fn failed(&mut self, id: FlowId, error: &io::Error, clock: Clock) {
        let Some((kind, reason)) = relay::fault(error) else { return };
        if let Some(target) = self.flows.get(id).and_then(|relay| relay.life.target.as_ref()) {
            target.failed(kind);
        }
        self.end(id, Some((kind, reason)), clock);
    }

    /// Ends flows whose time is up, not all at once.
    pub(super) fn expire(&mut self, registry: &Registry, clock: Clock) -> Option<Instant> {
        self.give_up_hellos(registry, clock);
        for _ in 0..ENDED_AT_ONCE {
            let Some((id, expiry)) = self.flows.expired(clock.tick) else { break };
            let outcome = match expiry {
                Expiry::Idle => None,
                Expiry::Age => Some((Kind::ExchangeTimeout, "the flow reached `max_age`")),
            };
            self.end(id, outcome, clock);
        }
        self.flows.next_deadline().into_iter().chain(self.hellos.next_deadline()).min()
    }

    pub(super) fn end(&mut self, id: FlowId, outcome: Option<(Kind, &'static str)>, clock: Clock) {
        let Some((key, _, relay)) = self.flows.end(id) else { return };
        self.telemetry.counters.flows_open.sub(1);
        relay.end(outcome, &self.telemetry, clock.now);
        self.close_drained(key.group);
    }

    fn close_drained(&mut self, group: GroupId) {
        if self.flows.count(group) == 0 && self.sockets.get(&group).is_some_and(|socket| socket.draining) {
            self.sockets.remove(&group);
            self.flows.close_group(group);
        }
    }
}

impl Socket {
    /// An operator must know why clients are not served, but not at every one of them.
    pub(super) fn tell_full(&mut self, full: Full, client: SocketAddr, now: Instant) {
        let listener = &self.listener.spec.name;
        let limit = match full {
            Full::Listener => "max_connections",
            Full::Process => "the descriptor limit",
            Full::Address => {
                return debug!(%listener, client.addr = %client, "dropped: too many flows from this address");
            }
        };
        if self.full_told.is_none_or(|last| now.saturating_duration_since(last) >= FULL_TOLD_INTERVAL) {
            self.full_told = Some(now);
            warn!(%listener, limit, "at the limit: datagrams of new clients are dropped");
        }
    }
}

fn times(listener: &L4Listener) -> Times {
    let timeouts = &listener.config().timeouts;
    Times { idle: timeouts.idle, max_age: timeouts.max_age }
}
