//! The maximum demand of a configuration: connections, sessions and flows, with their file descriptors and ports.

use super::Facts;
use crate::config::model::{
    Bind, EndpointAddress, Listener, Mode, RouteAction, SocketOptions, Upstream, UpstreamProtocol,
};
use crate::config::{Config, defaults};
use crate::control::limits::{RESERVED_DESCRIPTORS, connections_within};
use crate::l4::pipes;

/// What a configuration asks for.
#[derive(Debug)]
pub struct Demand {
    /// The sum of `max_connections`, flows counted in; `None`: no listener has one.
    pub written: Option<u64>,
    /// Streams of raw QUIC that these may open and that become a connection to an endpoint each.
    pub streams: u64,
    /// Whether every listener has one, so that there cannot be more.
    pub is_bounded: bool,
    /// Descriptors that these need: two for a connection or session, one for a flow or a stream of raw QUIC, none for the
    /// connection that it is on, the listening sockets, the pipes of layer 4, and what the process keeps for itself.
    pub descriptors: u64,
    /// Connections, sessions and flows that can be open at a time.
    pub connections: u64,
    /// Of these, the ones of layer 4, as far as they are written.
    pub relayed: u64,
    /// The largest; `None`: no listener for connections over TCP.
    pub backlog: Option<u32>,
    /// The largest, bytes.
    pub recv_buffer: Option<u32>,
    /// The largest, bytes.
    pub send_buffer: Option<u32>,
}

impl Demand {
    /// Adds up what is written; `facts` say how many connections the descriptors allow where nothing is.
    pub fn of(config: &Config, facts: &Facts) -> Self {
        let each = |listener: &Listener| listener.limits.max_connections.map(u64::from);
        let sum = |of: &dyn Fn(&Listener) -> bool| -> u64 {
            config.listeners.iter().filter(|listener| of(listener)).filter_map(each).sum()
        };
        let (written, flows) = (sum(&|_| true), sum(&|listener| listener.mode.is_udp()));
        let raw = sum(&|listener| matches!(listener.mode, Mode::Quic(_)));
        let streams = config.listeners.iter().filter(|listener| opens_connections(listener, config));
        let streams: u64 =
            streams.filter_map(|one| Some(each(one)? * u64::from(one.limits.max_concurrent_streams))).sum();
        let is_bounded = config.listeners.iter().all(|listener| listener.limits.max_connections.is_some());
        let has_any = config.listeners.iter().any(|listener| listener.limits.max_connections.is_some());
        let possible = u64::from(connections_within(facts.descriptors.flatten()));
        let sockets = || {
            let upstreams = config.upstreams.iter().map(|upstream| &upstream.socket);
            config.listeners.iter().map(|listener| &listener.socket).chain(upstreams)
        };
        let largest = |size: fn(&SocketOptions) -> Option<u32>| sockets().filter_map(size).max();
        // All clients of QUIC share one socket on each worker, and so do its endpoints: more is asked for it by itself.
        let speaks_quic =
            config.listeners.iter().any(Listener::takes_quic) || config.upstreams.iter().any(Upstream::may_speak_quic);
        let with_quic = |largest: Option<u32>| largest.max(speaks_quic.then_some(defaults::QUIC_SOCKET_BUFFER));
        // Each worker has one for each address, and the control thread keeps a second descriptor of it; of QUIC a third one
        // holds the group together.
        let each_of = |one: &Listener| {
            let (quic, other) = (one.takes_quic(), one.takes_connections() || one.mode.is_udp());
            one.binds.len() * (usize::from(quic) * 3 + usize::from(other) * 2)
        };
        let listening = config.listeners.iter().map(each_of).sum::<usize>() * config.server.workers;
        let relays = config.listeners.iter().any(|listener| listener.mode.is_layer4() && !listener.mode.is_udp());
        let pipes = if relays { pipes::MAX_DESCRIPTORS * config.server.workers } else { 0 };
        Self {
            written: has_any.then_some(written),
            streams,
            is_bounded,
            descriptors: (written - flows - raw) * 2
                + flows
                + streams
                + (listening + pipes) as u64
                + RESERVED_DESCRIPTORS,
            connections: if is_bounded { written.min(possible) } else { possible },
            relayed: sum(&|listener| listener.mode.is_layer4()),
            backlog: config.listeners.iter().filter(|one| is_tcp(one)).map(|one| one.socket.backlog).max(),
            recv_buffer: with_quic(largest(|socket| socket.recv_buffer)),
            send_buffer: with_quic(largest(|socket| socket.send_buffer)),
        }
    }
}

/// Connections or flows to one upstream at a time, as far as they are written, and what they can be spread over.
pub(super) struct Spread<'a> {
    pub(super) upstream: &'a Upstream,
    pub(super) needed: u64,
    /// Not over Unix sockets; a name may stand for more.
    pub(super) endpoints: u64,
    /// Addresses to connect from.
    pub(super) sources: u64,
}

/// One for each upstream that is reached over ports and used by listeners with a written limit.
pub(super) fn spreads(config: &Config) -> Vec<Spread<'_>> {
    let written = |listener: &Listener| listener.limits.max_connections.map_or(0, u64::from);
    let of_routes = used_by_routes(config);
    let http = || config.listeners.iter().filter(|listener| matches!(listener.mode, Mode::Http));
    let spreads = config.upstreams.iter().enumerate().filter_map(|(index, upstream)| {
        let relaying = config.listeners.iter().filter(|listener| listener.mode.upstreams().contains(&index));
        let requests: u64 = if of_routes[index] { http().map(written).sum() } else { 0 };
        Some(Spread {
            upstream,
            needed: relaying.map(written).sum::<u64>() + requests,
            endpoints: endpoints_of(upstream)?,
            sources: upstream.source.len().max(1) as u64,
        })
    });
    spreads.filter(|spread| spread.needed > 0).collect()
}

/// Which upstreams routes send requests to.
fn used_by_routes(config: &Config) -> Vec<bool> {
    let mut used = vec![false; config.upstreams.len()];
    for route in &config.routes {
        if let RouteAction::Forward(forward) = &route.action {
            forward.upstreams.iter().for_each(|(upstream, _)| used[*upstream] = true);
        }
    }
    used
}

/// How many endpoints over IP an upstream has.
pub(super) fn endpoints_of(upstream: &Upstream) -> Option<u64> {
    let over_ip = upstream.endpoints.iter().filter(|endpoint| !matches!(endpoint.address, EndpointAddress::Unix(_)));
    Some(over_ip.count() as u64).filter(|count| *count > 0)
}

/// Whether its clients' streams of raw QUIC become connections of TCP or to Unix sockets, one each.
fn opens_connections(listener: &Listener, config: &Config) -> bool {
    let is_quic = |index: &usize| config.upstreams.get(*index).is_none_or(|one| one.protocol == UpstreamProtocol::Quic);
    matches!(listener.mode, Mode::Quic(_)) && !listener.mode.upstreams().iter().all(is_quic)
}

fn is_tcp(listener: &Listener) -> bool {
    listener.takes_connections() && listener.binds.iter().any(|bind| !matches!(bind, Bind::Unix(_)))
}
