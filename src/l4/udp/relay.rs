//! One flow: a socket connected to its endpoint, so that it receives only the endpoint's datagrams, and ICMP errors
//! concern only this flow.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use mio::net::UdpSocket;
use mio::{Interest, Registry};
use smallvec::SmallVec;

use crate::base::addr::Address;
use crate::base::error::{Error, Kind, Retry, Side};
use crate::config::model::SendProxyProtocol;
use crate::l4::flow::FlowId;
use crate::l4::life::{Ending, Life, Target};
use crate::l4::token::Source;
use crate::l4::upstreams::L4Upstream;
use crate::net::connect::explain;
use crate::net::datagram::{self, Delivery, deliver};
use crate::net::options;
use crate::net::proxy_protocol::{self, Transport};
use crate::net::sys::Outgoing;
use crate::telemetry::WorkerTelemetry;
use crate::upstream::balance::EndpointIndex;
use crate::upstream::health::state::Bar;

/// A flow between its client and its endpoint.
pub(super) struct Relay {
    pub(super) socket: UdpSocket,
    pub(super) life: Life,
    /// What stands before each datagram, where the upstream wants to know the client.
    header: Option<Box<[u8]>>,
    /// The endpoint is no longer among those of its upstream.
    pub(super) is_gone: bool,
    is_put_together: bool,
    answered: bool,
    bytes_in: u64,
    bytes_out: u64,
}

/// What is asked of the choice of an endpoint.
#[derive(Clone, Copy, Default)]
pub(super) struct Wish {
    /// Not this one, where there is another.
    pub(super) not: Option<EndpointIndex>,
    /// This one, where it is well.
    pub(super) at: Option<SocketAddr>,
}

/// Endpoints that are tried for one flow. Connecting asks nobody: it fails where there is no way at all.
const MAX_ATTEMPTS: usize = 4;

impl Relay {
    /// Connects to an endpoint of `upstream`. `local` is where the client's datagrams come to.
    ///
    /// # Errors
    /// No endpoint can be sent to; `life` is given back, to be told.
    pub(super) fn begin(
        mut life: Life,
        upstream: &Rc<L4Upstream>,
        wish: Wish,
        local: SocketAddr,
        telemetry: &WorkerTelemetry,
    ) -> Result<Self, (Box<Life>, Error)> {
        match connect(&mut life, upstream, wish, telemetry) {
            Ok(socket) => {
                let header = header(&life, upstream.config().send_proxy_protocol, local);
                Ok(Self {
                    socket: UdpSocket::from_std(socket),
                    life,
                    header,
                    is_gone: false,
                    is_put_together: false,
                    answered: false,
                    bytes_in: 0,
                    bytes_out: 0,
                })
            }
            Err(error) => Err((Box::new(life), error)),
        }
    }

    /// Has the event loop look at it.
    pub(super) fn watch(&mut self, registry: &Registry, id: FlowId) -> io::Result<()> {
        registry.register(&mut self.socket, Source::Flow(id.0).token(), Interest::READABLE)
    }

    /// Whether the client's next datagram is better sent elsewhere: the endpoint is gone or not well, and there is another. One
    /// that an operator drains keeps its flows.
    pub(super) fn is_to_move(&self) -> bool {
        let Some(target) = &self.life.target else { return false };
        let Ok(endpoint) = target.endpoint() else { return false };
        let is_out = self.is_gone || !endpoint.state.is_ready() && !endpoint.state.has(Bar::Drained);
        is_out && (self.is_gone || target.upstream().has_any())
    }

    /// The place of its endpoint among those it was picked from.
    pub(super) fn index(&self) -> Option<EndpointIndex> {
        self.life.target.as_ref()?.index()
    }

    /// Its upstream's name, and where its endpoint is.
    pub(super) fn place(&self) -> Option<(&Arc<str>, SocketAddr)> {
        let target = self.life.target.as_ref()?;
        match target.endpoint().ok()?.address {
            Address::Socket(address) => Some((target.upstream().name(), address)),
            Address::Unix(_) => None,
        }
    }

    /// Sends what the client sent to the endpoint.
    pub(super) fn send(&mut self, batch: &[Outgoing<'_>], scratch: &mut Vec<u8>) -> Delivery {
        let delivery = match (&self.header, batch) {
            (Some(header), _) => send_each_behind(&self.socket, header, batch, scratch),
            (None, [Outgoing { segment: None, bytes, .. }]) => send_one(&self.socket, bytes),
            (None, _) => deliver(&self.socket, batch),
        };
        self.bytes_in += delivery.bytes;
        delivery
    }

    /// Notes an answer of so many bytes.
    pub(super) fn answered(&mut self, bytes: u64, now: Instant) {
        self.bytes_out += bytes;
        if !self.answered {
            self.answered = true;
            if let Some(Ok(endpoint)) = self.life.target.as_ref().map(Target::endpoint) {
                // It shows that the endpoint is there, which its socket alone does not.
                endpoint.connected(now.saturating_duration_since(self.life.began()));
            }
        }
    }

    /// Has the kernel put datagrams of this endpoint together from now on: there are many.
    pub(super) fn put_together(&mut self) {
        if !std::mem::replace(&mut self.is_put_together, true) {
            // A kernel without it gives datagrams one by one.
            let _ = options::set_receive_offload(&self.socket, true);
        }
    }

    /// Tells of its end.
    pub(super) fn end(self, outcome: Option<(Kind, &'static str)>, telemetry: &WorkerTelemetry, now: Instant) {
        let (outcome, reason) = outcome.map_or((None, ""), |(kind, reason)| (Some(kind), reason));
        let ending = Ending { outcome, reason, bytes_in: self.bytes_in, bytes_out: self.bytes_out };
        self.life.tell(ending, telemetry, now);
    }
}

/// What the error of a flow's socket says of its endpoint; `None`: it says something about one datagram.
pub(super) fn fault(error: &io::Error) -> Option<(Kind, &'static str)> {
    use io::ErrorKind as Is;
    if !datagram::is_told_by_icmp(error) {
        return None;
    }
    Some(match error.kind() {
        Is::ConnectionRefused | Is::ConnectionReset => {
            (Kind::ConnectionRefused, "nobody takes datagrams at the endpoint")
        }
        _ => (Kind::DestinationUnavailable, "datagrams do not reach the endpoint"),
    })
}

fn connect(
    life: &mut Life,
    upstream: &Rc<L4Upstream>,
    wish: Wish,
    telemetry: &WorkerTelemetry,
) -> Result<std::net::UdpSocket, Error> {
    let key = if upstream.asks_for_key() { life.key(upstream) } else { None };
    let mut tried: SmallVec<[EndpointIndex; MAX_ATTEMPTS]> = wish.not.into_iter().collect();
    let mut at = wish.at.and_then(|address| upstream.pick_at(address));
    let mut failure = None;
    for _ in 0..MAX_ATTEMPTS {
        // One that was tried comes again where there is no other: whom a flow was just moved from may still be the only one.
        let next = || upstream.pick(key, &tried).filter(|pick| failure.is_none() || !tried.contains(&pick.index()));
        let Some(pick) = at.take().or_else(next) else { break };
        tried.push(pick.index());
        life.attempts += 1;
        telemetry.counters.upstream_connects.add(1);
        let endpoint = Arc::clone(pick.endpoint());
        life.target = Some(Target::picked(Rc::clone(upstream), pick));
        let Address::Socket(address) = endpoint.address else {
            failure = Some(unreachable("datagrams are not sent to a path"));
            continue;
        };
        match upstream.connect_datagrams(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => {
                telemetry.counters.upstream_connect_failures.add(1);
                let error = explain(error);
                if error.side() == Side::Internal {
                    return Err(error);
                }
                if let Some(target) = &life.target {
                    target.failed(error.kind());
                }
                failure = Some(error);
            }
        }
    }
    Err(failure.unwrap_or_else(|| unreachable(upstream.why_none())))
}

fn unreachable(reason: &'static str) -> Error {
    Error::upstream(Kind::DestinationUnavailable, Retry::Always, reason)
}

/// Each datagram may be the only one that arrives, so each says whose it is, as DNS servers want it: PowerDNS, Unbound and
/// BIND refuse a datagram without.
fn header(life: &Life, version: SendProxyProtocol, local: SocketAddr) -> Option<Box<[u8]>> {
    if version == SendProxyProtocol::Off {
        return None;
    }
    let mut bytes = Vec::new();
    let local = life.local().unwrap_or(local);
    proxy_protocol::write(&mut bytes, version, Transport::Datagram, life.client(), Some(local), life.tlvs());
    Some(bytes.into())
}

/// The one datagram that most wake-ups bring, by the cheapest call.
fn send_one(socket: &UdpSocket, bytes: &[u8]) -> Delivery {
    let mut delivery = Delivery { tried: 1, ..Delivery::default() };
    match socket.send(bytes) {
        Ok(_) => {
            delivery.datagrams = 1;
            delivery.bytes = bytes.len() as u64;
        }
        Err(error) if datagram::is_told_by_icmp(&error) => {
            delivery.tried = 0;
            delivery.error = Some(error);
        }
        Err(_) => delivery.dropped = 1,
    }
    delivery
}

fn send_each_behind(socket: &UdpSocket, header: &[u8], batch: &[Outgoing<'_>], scratch: &mut Vec<u8>) -> Delivery {
    let mut sum = Delivery::default();
    for message in batch {
        for datagram in message.datagrams() {
            scratch.clear();
            scratch.extend_from_slice(header);
            scratch.extend_from_slice(datagram);
            let one = send_one(socket, scratch);
            if one.error.is_some() {
                return Delivery { error: one.error, ..sum };
            }
            sum.datagrams += one.datagrams;
            sum.bytes += one.bytes;
            sum.dropped += one.dropped;
        }
        sum.tried += 1;
    }
    sum
}
