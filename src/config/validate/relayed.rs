//! The requirements on upstreams of layer 4 listeners, and the check that no listener relays to itself.

use std::collections::HashSet;

use super::Check;
use crate::config::findings::Finding;
use crate::config::model::{
    EndpointAddress, HashOn, Listener, Route, RouteAction, SendProxyProtocol, Upstream, UpstreamProtocol,
};
use crate::config::section::{Data, Name, Section};
use crate::config::source::Spot;

/// A listener of layer 4 and an upstream that it may relay to.
pub(super) struct Relay {
    pub(super) upstream: usize,
    /// Where the upstream is named.
    pub(super) spot: Spot,
    pub(super) terms: Terms,
}

/// What the listener relays.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) is_udp: bool,
    /// Whether the name in a ClientHello is known there.
    pub(super) knows_name: bool,
    /// Whether it may become streams of a QUIC connection.
    pub(super) takes_streams: bool,
}

impl Check<'_> {
    /// Looks at every upstream that layer 4 uses.
    pub(super) fn relayed(&mut self, named: &[(&Name, &Section)], upstreams: &[Upstream], routes: &[Route]) {
        let relays = std::mem::take(&mut self.relays);
        let by_routes: HashSet<usize> = routes.iter().flat_map(upstreams_of).collect();
        for (index, (upstream, (_, section))) in upstreams.iter().zip(named).enumerate() {
            let uses: Vec<&Relay> = relays.iter().filter(|relay| relay.upstream == index).collect();
            self.streams(upstream, section, &uses, by_routes.contains(&index));
            let Some(first) = uses.first() else { continue };
            if upstream.protocol != UpstreamProtocol::Quic {
                self.as_they_are(upstream, section, first);
            }
            if let Some(udp) = uses.iter().find(|relay| relay.terms.is_udp) {
                self.datagrams(upstream, section, udp);
            }
            let is_of_routes = by_routes.contains(&index);
            if upstream.hash_on == HashOn::Sni && !is_of_routes && uses.iter().all(|relay| !relay.terms.knows_name) {
                self.unfit(
                    section,
                    "hash_on",
                    first,
                    "the listener reads no ClientHello",
                    "write `hash_on = \"client-ip\"`",
                );
            }
            let health = section.section("health");
            if let Some(entry) = health.and_then(|health| health.entry("path"))
                && !is_of_routes
                && uses.iter().all(|relay| relay.terms.is_udp)
            {
                let finding = Finding::new(
                    entry.name,
                    "`path` on an upstream of a udp listener",
                    "its endpoints do not speak HTTP",
                );
                let finding = finding.second(first.spot, "relayed to from here");
                self.findings.push(finding.help("leave it out: then a check is a TCP connection"));
            }
        }
        self.relays = relays;
    }

    /// An upstream of raw QUIC streams, and who cannot make any.
    fn streams(&mut self, upstream: &Upstream, section: &Section, uses: &[&Relay], is_of_routes: bool) {
        let Some(entry) = section.entry("protocol").filter(|_| upstream.protocol == UpstreamProtocol::Quic) else {
            return;
        };
        if is_of_routes {
            let message = "`protocol = \"quic\"` on an upstream of a route";
            let finding = Finding::new(entry.name, message, "requests cannot be sent over raw streams");
            self.findings.push(finding.help("write `protocol = \"http3\"`, or give requests an upstream of their own"));
        }
        if let Some(relay) = uses.iter().find(|relay| !relay.terms.takes_streams) {
            let help = "only listeners with mode \"tcp\" or \"quic\" do";
            self.unfit(section, "protocol", relay, "connections of this listener do not become streams", help);
        }
        if let Some(entry) = section.section("health").and_then(|health| health.entry("path")) {
            let finding = Finding::new(entry.name, "`path` with protocol \"quic\"", "its endpoints do not speak HTTP");
            self.findings.push(finding.help("leave it out: then a check is a QUIC handshake"));
        }
        if matches!(upstream.hash_on, HashOn::Header(_) | HashOn::Cookie(_) | HashOn::Path) && !uses.is_empty() {
            let help = "write `hash_on = \"client-ip\"` or `hash_on = \"sni\"`";
            self.unfit(section, "hash_on", uses[0], "layer 4 reads no requests", help);
        }
    }

    /// Bytes are passed on as they are, and no request is read.
    fn as_they_are(&mut self, upstream: &Upstream, section: &Section, relay: &Relay) {
        let another = "leave it out, or give requests an upstream of their own";
        if upstream.tls.is_some() {
            self.unfit(section, "tls", relay, "layer 4 relays bytes as they are", another);
        }
        if upstream.protocol != UpstreamProtocol::Auto {
            self.unfit(section, "protocol", relay, "layer 4 relays bytes as they are", another);
        }
        if matches!(upstream.hash_on, HashOn::Header(_) | HashOn::Cookie(_) | HashOn::Path) {
            let help = "write `hash_on = \"client-ip\"` or `hash_on = \"sni\"`";
            self.unfit(section, "hash_on", relay, "layer 4 reads no requests", help);
        }
    }

    fn datagrams(&mut self, upstream: &Upstream, section: &Section, relay: &Relay) {
        if upstream.send_proxy_protocol == SendProxyProtocol::V1 {
            let help = "write `send_proxy_protocol = \"v2\"`";
            self.unfit(section, "send_proxy_protocol", relay, "version 1 does not support datagrams", help);
        }
        for node in section.list("endpoints") {
            let written = match &node.data {
                Data::Section(table) => table.text("address"),
                _ => node.written(),
            };
            if let Some(written) = written.filter(|written| written.value.starts_with("unix:")) {
                let message = format!("datagrams to a Unix socket: `{}`", written.value);
                let finding = Finding::new(written.spot, message, "mode \"udp\" needs an address and a port");
                self.findings.push(finding.second(relay.spot, "relayed to from here"));
            }
        }
    }

    fn unfit(&mut self, section: &Section, key: &str, relay: &Relay, label: &str, help: &str) {
        let Some(entry) = section.entry(key) else { return };
        let message = format!("`{key}` on an upstream of a layer 4 listener");
        let finding = Finding::new(entry.name, message, label).second(relay.spot, "relayed to from here");
        self.findings.push(finding.help(help));
    }

    /// A connection that comes back to the listener that relayed it goes round until nothing is left to go round with.
    pub(super) fn no_circles(&mut self, listeners: &[Listener], upstreams: &[Upstream]) {
        let relaying: Vec<usize> = (0..listeners.len()).filter(|index| listeners[*index].mode.relays()).collect();
        let leads: Vec<Vec<(usize, Spot)>> =
            relaying.iter().map(|from| self.leads(&listeners[*from], listeners, upstreams, &relaying)).collect();
        let mut told: HashSet<usize> = HashSet::new();
        for start in 0..relaying.len() {
            let Some((spot, circle)) = circle(&leads, start) else { continue };
            let is_new = circle.iter().all(|member| !told.contains(member));
            told.extend(&circle);
            if !is_new {
                continue;
            }
            let name = &listeners[relaying[start]].name;
            let message = match circle.len() {
                1 => format!("listener `{name}` relays to itself"),
                more => format!("listener `{name}` relays to itself through {} more", more - 1),
            };
            let finding = Finding::new(spot, message, "leads back to the listener");
            self.findings.push(finding.help("use the address of the endpoint, not one of this proxy"));
        }
    }

    /// Which of those that relay a listener relays to, each with the endpoint that leads there.
    fn leads(
        &self,
        from: &Listener,
        listeners: &[Listener],
        upstreams: &[Upstream],
        relaying: &[usize],
    ) -> Vec<(usize, Spot)> {
        let mut leads = Vec::new();
        for upstream in from.mode.upstreams() {
            let as_streams = upstreams.get(upstream).is_some_and(|one| one.protocol == UpstreamProtocol::Quic);
            let over_udp = from.mode.is_udp() || as_streams;
            for (address, spot) in self.endpoints.get(upstream).into_iter().flatten() {
                let reached = relaying.iter().enumerate().filter(|(_, to)| {
                    let to = &listeners[**to];
                    (to.mode.is_udp() || to.takes_quic()) == over_udp
                        && to.binds.iter().any(|bind| bind.is_reached_at(address))
                });
                leads.extend(reached.map(|(position, _)| (position, *spot)));
            }
        }
        leads
    }
}

/// The way from a listener back to itself: the endpoint it begins with, and who is on it.
fn circle(leads: &[Vec<(usize, Spot)>], start: usize) -> Option<(Spot, Vec<usize>)> {
    for (first, spot) in &leads[start] {
        let mut seen = HashSet::from([*first]);
        let mut ways = vec![vec![*first]];
        while let Some(way) = ways.pop() {
            let last = *way.last()?;
            if last == start {
                return Some((*spot, way));
            }
            for (next, _) in &leads[last] {
                if seen.insert(*next) {
                    ways.push(way.iter().copied().chain([*next]).collect());
                }
            }
        }
    }
    None
}

fn upstreams_of(route: &Route) -> impl Iterator<Item = usize> {
    let shares = match &route.action {
        RouteAction::Forward(forward) => &forward.upstreams[..],
        _ => &[],
    };
    shares.iter().map(|(upstream, _)| *upstream)
}

/// The addresses of one upstream with where they are written.
pub(super) type WrittenEndpoints = Vec<(EndpointAddress, Spot)>;
