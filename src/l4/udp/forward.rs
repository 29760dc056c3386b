//! Forwards datagrams of clients to the endpoint of their flow, starting new flows.

use std::net::SocketAddr;
use std::rc::Rc;

use mio::Registry;
use tracing::debug;

use super::hellos::Decision;
use super::relay::{Relay, Wish};
use super::relays::{Clock, Relays};
use crate::base::addr::canonical;
use crate::base::error::Error;
use crate::l4::flow::{FlowId, Gate, Key};
use crate::l4::life::{Ending, Life, Target};
use crate::l4::listener::L4Listener;
use crate::l4::quic::{self, Destination};
use crate::l4::upstreams::L4Upstream;
use crate::net::datagram::Delivery;
use crate::net::proxy_protocol::Header;
use crate::net::sys::Outgoing;
use crate::route::connection_ids::Place;
use crate::route::l4::Layer4;

/// Where a new flow leads.
struct Lead<'a> {
    listener: &'a Rc<L4Listener>,
    /// `None`: nowhere.
    upstream: Option<&'a Rc<L4Upstream>>,
    /// The name in the ClientHello.
    sni: Option<Box<str>>,
    /// What a proxy tells of the client.
    header: Option<Header<'a>>,
    wish: Wish,
}

impl Relays {
    /// Sends a client's datagrams to its endpoint; `header` is what a proxy tells of the client.
    pub(super) fn pass_on(
        &mut self,
        registry: &Registry,
        listener: &Rc<L4Listener>,
        key: Key,
        header: Option<Header<'_>>,
        batch: &[Outgoing<'_>],
        clock: Clock,
    ) {
        if let Some(id) = self.flows.find(&key) {
            if !self.flows.get(id).is_some_and(Relay::is_to_move) {
                return self.relay(registry, id, header, batch, clock);
            }
            self.end(id, None, clock);
        }
        match &*listener.way {
            // Nobody begins here any more.
            _ if self.sockets.get(&key.group).is_none_or(|socket| socket.draining) => self.drop(batch),
            Layer4::To(upstream) => {
                let upstream = listener.upstream(*upstream);
                let lead = Lead { listener, upstream, sni: None, header, wish: Wish::default() };
                self.lead(registry, key, lead, batch, clock);
            }
            Layer4::ByHello(table) => match known_connection(listener, batch) {
                // To the endpoint it is another path of the same connection, which it looks at (RFC 9000 §9.3).
                Some(place) => {
                    let upstream = listener.upstream_named(&place.upstream);
                    let wish = Wish { at: Some(place.endpoint), not: None };
                    self.lead(registry, key, Lead { listener, upstream, sni: None, header, wish }, batch, clock);
                }
                None => {
                    let decision = self.hellos.read(&key, header.as_ref(), table, batch, clock.now);
                    self.decided(registry, listener, key, header, decision, batch, clock);
                }
            },
        }
    }

    /// Begins a flow with these datagrams.
    fn lead(&mut self, registry: &Registry, key: Key, lead: Lead<'_>, batch: &[Outgoing<'_>], clock: Clock) {
        let header = lead.header;
        match self.begin(registry, key, lead, clock) {
            Some(id) => self.relay(registry, id, header, batch, clock),
            None => self.drop(batch),
        }
    }

    /// Does what the ClientHello in a client's datagrams, of which the last came in `batch`, asks for.
    #[expect(clippy::too_many_arguments, reason = "all of a datagram's circumstances, in a row with the calls around")]
    fn decided(
        &mut self,
        registry: &Registry,
        listener: &Rc<L4Listener>,
        key: Key,
        header: Option<Header<'_>>,
        decision: Decision,
        batch: &[Outgoing<'_>],
        clock: Clock,
    ) {
        match decision {
            Decision::Waits => {}
            Decision::Nowhere { dropped } => {
                self.counters().hellos_refused.add(1);
                self.counters().datagrams_dropped.add(dropped);
            }
            Decision::To { upstream, sni, held, rest } => {
                let upstream = listener.upstream(upstream);
                let lead = Lead { listener, upstream, sni, header, wish: Wish::default() };
                let held = held.datagrams.iter().map(|datagram| &**datagram);
                let all = held.chain(batch.iter().flat_map(Outgoing::datagrams).skip(rest));
                self.lead_each(registry, key, lead, all, clock);
            }
        }
    }

    fn lead_each<'a>(
        &mut self,
        registry: &Registry,
        key: Key,
        lead: Lead<'_>,
        datagrams: impl Iterator<Item = &'a [u8]>,
        clock: Clock,
    ) {
        let header = lead.header;
        self.begin(registry, key, lead, clock);
        for bytes in datagrams {
            let one = [Outgoing { bytes, ..Outgoing::NOTHING }];
            // Asked anew: what ICMP tells may have put another flow into the place of the first.
            match self.flows.find(&key) {
                Some(id) => self.relay(registry, id, header, &one, clock),
                None => self.drop(&one),
            }
        }
    }

    /// Sends datagrams of a flow to its endpoint, and where ICMP told that those before did not reach it, to another one.
    fn relay(
        &mut self,
        registry: &Registry,
        id: FlowId,
        header: Option<Header<'_>>,
        batch: &[Outgoing<'_>],
        clock: Clock,
    ) {
        let delivery = self.send(id, batch, clock);
        let Some(error) = delivery.error else { return };
        // An answer to what was sent before; these datagrams are as good as new.
        let batch = &batch[delivery.tried..];
        let Some((key, relay)) = self.flows.key(id).copied().zip(self.flows.get(id)) else { return };
        let upstream = relay.life.target.as_ref().map(|target| Rc::clone(target.upstream()));
        let (listener, not) = (Rc::clone(relay.life.listener()), relay.index());
        let sni = relay.life.sni().map(Into::into);
        self.failed(id, &error, clock);
        let lead = Lead { listener: &listener, upstream: upstream.as_ref(), sni, header, wish: Wish { not, at: None } };
        let Some(id) = self.begin(registry, key, lead, clock) else { return self.drop(batch) };
        let delivery = self.send(id, batch, clock);
        if let Some(error) = delivery.error {
            self.drop(&batch[delivery.tried..]);
            self.failed(id, &error, clock);
        }
    }

    /// Clients whose ClientHello did not come in time go where those go that ask for nothing.
    pub(super) fn give_up_hellos(&mut self, registry: &Registry, clock: Clock) {
        while let Some((key, held)) = self.hellos.expired(clock.now) {
            let Some(listener) = self.listener(key.group).cloned() else { continue };
            let Layer4::ByHello(table) = &*listener.way else { continue };
            let upstream = table.find(None, std::iter::empty()).and_then(|upstream| listener.upstream(upstream));
            if upstream.is_none() {
                self.counters().hellos_refused.add(1);
            }
            let header = held.header();
            let lead = Lead { listener: &listener, upstream, sni: None, header, wish: Wish::default() };
            self.lead_each(registry, key, lead, held.datagrams.iter().map(|datagram| &**datagram), clock);
        }
    }

    fn send(&mut self, id: FlowId, batch: &[Outgoing<'_>], clock: Clock) -> Delivery {
        self.flows.touch(id, clock.tick);
        let Some(relay) = self.flows.get_mut(id) else { return Delivery::default() };
        let delivery = relay.send(batch, &mut self.scratch);
        self.telemetry.counters.bytes_upstream_out.add(delivery.bytes);
        self.telemetry.counters.datagrams_dropped.add(delivery.dropped);
        delivery
    }

    fn drop(&self, batch: &[Outgoing<'_>]) {
        self.counters().datagrams_dropped.add(batch.iter().map(Outgoing::count).sum());
    }

    /// Begins a flow of a client that has none.
    fn begin(&mut self, registry: &Registry, key: Key, lead: Lead<'_>, clock: Clock) -> Option<FlowId> {
        let Lead { listener, upstream, sni, header, wish } = lead;
        let upstream = upstream?;
        let socket = self.sockets.get_mut(&key.group).filter(|socket| !socket.draining)?;
        let peer = canonical(key.client);
        let spec = &listener.spec;
        let gate = Gate {
            listener: spec.limit.as_ref(),
            per_address: spec.per_address.as_ref(),
            process: &self.process_limit,
        };
        let admission = match gate.admit(header.and_then(|header| header.client).unwrap_or(peer).ip()) {
            Ok(admission) => admission,
            Err(full) => {
                socket.tell_full(full, peer, clock.now);
                return None;
            }
        };
        let mut life = Life::new(Rc::clone(listener), Some(peer), admission, clock.now);
        if let Some(header) = header {
            let told = life.told();
            told.client = header.client;
            told.local = header.local;
            told.tlvs = header.tlvs.into();
        }
        if sni.is_some() {
            life.told().sni = sni;
        }
        let local = canonical(SocketAddr::new(key.local.unwrap_or(socket.local.ip()), socket.local.port()));
        let telemetry = &self.telemetry;
        let opened = self.flows.open(key, clock.now, |id| {
            let mut relay = Relay::begin(life, upstream, wish, local, telemetry)?;
            match relay.watch(registry, id) {
                Ok(()) => Ok(relay),
                Err(error) => Err((Box::new(relay.life), Error::internal("a socket cannot be watched").because(error))),
            }
        });
        match opened {
            Ok(id) => {
                telemetry.counters.flows.add(1);
                telemetry.counters.flows_open.add(1);
                Some(id)
            }
            Err((mut life, error)) => {
                debug!(listener = %listener.spec.name, client.addr = %peer, %error, "cannot start a flow");
                life.target.get_or_insert_with(|| Target::new(Rc::clone(upstream)));
                let (outcome, reason) = (Some(error.kind()), error.reason());
                life.tell(Ending { outcome, reason, bytes_in: 0, bytes_out: 0 }, telemetry, clock.now);
                None
            }
        }
    }
}

/// The endpoint that gave the connection ID of a client that has no flow: its address changed, or it was silent for long.
fn known_connection(listener: &L4Listener, batch: &[Outgoing<'_>]) -> Option<Place> {
    let known = listener.spec.connection_ids.as_ref()?;
    match quic::destination(batch.iter().flat_map(Outgoing::datagrams).next()?)? {
        Destination::Long(id) => known.find(id),
        Destination::Short(bytes) => known.find_beginning(bytes),
    }
}
