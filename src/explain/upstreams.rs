//! Where a request may go: each upstream that chance may choose, its endpoints, and what it would get.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::COOKIE;
use http::request::Parts;

use super::explanation::{At, Endpoint, Explanation, Refusal, Upstream as Told};
use super::outgoing::{Lines, sent};
use super::recorder::Recorder;
use super::refusal::refusal;
use super::rehearsal::Cast;
use super::{Explainer, head};
use crate::base::error::Kind;
use crate::base::id::UpstreamId;
use crate::config::effective::Owner;
use crate::config::model::{Balance, EndpointAddress, HashOn, UpstreamProtocol};
use crate::config::summary::endpoint_text;
use crate::proxy::rescue::status_of;
use crate::proxy::stack::Decided;
use crate::route::action::{ForwardRule, Route};
use crate::upstream::Upstream;
use crate::upstream::balance::hash::key_of_connection;
use crate::upstream::endpoint::{self, Spoken};
use crate::upstream::registry::authority_of;

impl Explainer<'_> {
    /// Every upstream of a route, with what it would get.
    pub(super) fn tell_upstreams(
        &self,
        cast: &Cast<'_>,
        parts: &Parts,
        (route, rule): (&Route, &ForwardRule),
        told: &mut Explanation,
    ) {
        let listener = cast.listener.id.0 as usize;
        for (id, chance, share) in rule.split.shares() {
            let Some(upstream) = self.snapshot.upstream(id) else { continue };
            let mut recorder = Recorder::new(&parts.headers, chance);
            let Decided::Forward(mut order) = self.rehearsal.decide(cast, parts.clone(), &mut recorder) else {
                continue;
            };
            if head::body(&parts.headers).is_some() {
                // As `forward` does once it sees the body.
                order.wanted = None;
            }
            let lines =
                Lines { config: self.config, listener, route: Some(route.id.0 as usize), edits: "request_headers" };
            let mut entry = self.told(upstream, share);
            entry.hashed =
                hashed(upstream, told.matched.as_ref().and_then(|matched| matched.client.as_deref()), cast, parts);
            let picked = self.picked(upstream, order.key);
            entry.picked = picked.as_ref().map(|picked| picked.label.to_string());
            if order.wanted.is_some() {
                self.tell_switch(upstream, &mut entry, &mut told.notes);
            }
            let multiplexed = entry.protocol.starts_with("http2") || entry.protocol.starts_with("http3");
            let set = upstream.endpoints.load();
            let asked = picked.as_ref().or_else(|| set.all().first());
            let own = asked.map(|endpoint| endpoint.authority.clone());
            let varies = picked.is_none() && set.all().iter().any(|other| Some(&other.authority) != own.as_ref());
            let own = own.or_else(|| Some(authority_of(&upstream.config, &upstream.config.endpoints.first()?.address)));
            let Some(own) = own else { continue };
            match sent(order, rule, &mut recorder, &lines, (multiplexed, &own)) {
                Ok(mut sent) => {
                    sent.authority_varies = varies && sent.authority_by == "endpoint";
                    entry.sent = Some(sent);
                }
                Err(error) => {
                    (told.served, told.action) = (false, "refuse".to_owned());
                    told.refusal = Some(refusal(self.config, (error.kind(), error.reason()), listener, None, None));
                }
            }
            told.upstreams.push(entry);
        }
        self.tell_unavailable(told);
    }

    /// With no endpoint to pick there is a 503, as far as that is known.
    pub(super) fn tell_unavailable(&self, told: &mut Explanation) {
        let is_out = |upstream: &Told| !upstream.endpoints.iter().any(|endpoint| endpoint.can_be_picked);
        if !self.is_live || told.refusal.is_some() || told.upstreams.is_empty() || !told.upstreams.iter().all(is_out) {
            return;
        }
        let kind = Kind::DestinationUnavailable;
        let upstream = self.snapshot.upstream_named(&told.upstreams[0].name);
        let reason = upstream.map_or("no endpoint", |upstream| upstream.endpoints.load().why_none());
        told.served = false;
        told.action = "refuse".to_owned();
        told.refusal = Some(Refusal {
            outcome: kind.as_str().to_owned(),
            status: told.listener.is_some().then(|| status_of(kind).as_u16()),
            reason: reason.to_owned(),
            at: told.upstreams[0].at.clone(),
            otherwise: String::new(),
        });
    }

    /// An upstream and its endpoints.
    pub(super) fn told(&self, upstream: &Arc<Upstream>, share: f64) -> Told {
        let config = &upstream.config;
        let owner = Owner::Upstream(&upstream.name);
        Told {
            name: upstream.name.to_string(),
            share,
            protocol: self.spoken(upstream).to_owned(),
            tls: upstream.tls.is_some(),
            at: Some(At::from(&config.place)),
            balance: config.balance.as_str().to_owned(),
            balance_at: self.config.written.place(owner, &["balance"]).map(At::from),
            hashed: None,
            picked: None,
            endpoints: self.endpoints(upstream),
            sent: None,
        }
    }

    /// What of a switch is up to the endpoint.
    fn tell_switch(&self, upstream: &Upstream, entry: &mut Told, notes: &mut Vec<String>) {
        let note = match upstream.config.protocol {
            UpstreamProtocol::Auto if upstream.tls.is_some() => {
                // See `WorkerUpstream::session_to_switch`.
                entry.protocol = "http1 or http2".to_owned();
                "switches by Upgrade over HTTP/1.1, unless a connection of HTTP/2 is open that takes extended CONNECT"
            }
            UpstreamProtocol::Http2 | UpstreamProtocol::Http3 => {
                "has to offer extended CONNECT: without it there is a 502, http_upgrade_failed"
            }
            _ => return,
        };
        notes.push(format!("an endpoint of `{}` {note}", upstream.name));
    }

    /// Where a policy that hashes leads with this key, if every endpoint is known.
    fn picked(&self, upstream: &Upstream, key: Option<u64>) -> Option<Arc<endpoint::Endpoint>> {
        let set = upstream.endpoints.load();
        let mut addresses = upstream.config.endpoints.iter().map(|endpoint| &endpoint.address);
        let is_name = |address: &EndpointAddress| matches!(address, EndpointAddress::Dns { .. });
        if !set.asks_for_key() || (!self.is_live && addresses.any(is_name)) {
            return None;
        }
        let index = set.pick(Some(key?), &mut 0, &[])?;
        set.endpoints().get(index.0 as usize).cloned()
    }

    fn spoken(&self, upstream: &Upstream) -> &'static str {
        match upstream.config.protocol {
            UpstreamProtocol::Auto if upstream.tls.is_none() => "http1",
            UpstreamProtocol::Auto => {
                let set = upstream.endpoints.load();
                let mut spoken = set.endpoints().iter().map(|endpoint| endpoint.state.spoken());
                match spoken.next().filter(|first| spoken.all(|other| other == *first)) {
                    Some(Spoken::Http1) => "http1",
                    Some(Spoken::Http2) => "http2",
                    _ => "http1 or http2",
                }
            }
            protocol => protocol.as_str(),
        }
    }

    fn endpoints(&self, upstream: &Upstream) -> Vec<Endpoint> {
        let set = upstream.endpoints.load();
        let mut endpoints = Vec::new();
        for (index, configured) in upstream.config.endpoints.iter().enumerate() {
            let resolved: Vec<_> = match &configured.address {
                // What a name resolves to is known to the process that asked.
                EndpointAddress::Dns { .. } => {
                    set.all().iter().filter(|own| own.is_called(&endpoint_text(&configured.address))).collect()
                }
                _ => set.all().iter().filter(|own| own.is_called(&own_name(&configured.address))).take(1).collect(),
            };
            let at = Some(At::from(&configured.place));
            if resolved.is_empty() {
                let state = if self.is_live { "unresolved" } else { "configured" }.to_owned();
                let address =
                    upstream.config.endpoints.get(index).map_or_else(String::new, |own| endpoint_text(&own.address));
                let weight = configured.weight;
                endpoints.push(Endpoint { address, weight, at, can_be_picked: !self.is_live, state, in_flight: None });
                continue;
            }
            endpoints.extend(resolved.into_iter().map(|endpoint| Endpoint {
                address: endpoint.label.to_string(),
                weight: endpoint.weight,
                at: at.clone(),
                can_be_picked: endpoint.state.is_ready(),
                state: if self.is_live { endpoint.state.state().as_str() } else { "configured" }.to_owned(),
                in_flight: (self.is_live && set.counts_requests()).then(|| endpoint.state.in_flight()),
            }));
        }
        endpoints
    }

    /// The upstream of this number, alone, for a connection that no request is read of.
    pub(super) fn only(&self, id: UpstreamId, sni: Option<&str>, client: IpAddr) -> Option<Told> {
        let upstream = self.snapshot.upstream(id)?;
        let mut told = self.told(upstream, 100.0);
        let hash_on = &upstream.config.hash_on;
        if upstream.endpoints.load().asks_for_key() {
            let picked = self.picked(upstream, key_of_connection(hash_on, sni, Some(client)));
            told.picked = picked.map(|picked| picked.label.to_string());
            told.hashed = Some(match (hash_on, sni) {
                (HashOn::Sni, Some(sni)) => format!("sni {sni}"),
                (HashOn::Sni, None) => format!("client-ip {client}, as there is no sni"),
                _ => format!("client-ip {client}"),
            });
        }
        Some(told)
    }
}

fn own_name(address: &EndpointAddress) -> String {
    match address {
        EndpointAddress::Socket(address) => address.to_string(),
        other => endpoint_text(other),
    }
}

/// What the policy hashes of this request; `None`: it asks for nothing.
fn hashed(upstream: &Upstream, client: Option<&str>, cast: &Cast<'_>, parts: &Parts) -> Option<String> {
    if !matches!(upstream.config.balance, Balance::RingHash | Balance::Maglev) {
        return None;
    }
    let client = client.map_or_else(|| cast.client.ip().to_string(), str::to_owned);
    let on = &upstream.config.hash_on;
    let has = match on {
        HashOn::ClientIp => return Some(format!("client-ip {client}")),
        HashOn::Path => return Some(format!("path {}", parts.uri.path())),
        HashOn::Sni => cast.sni.is_some(),
        HashOn::Header(name) => parts.headers.contains_key(name),
        HashOn::Cookie(name) => has_cookie(&parts.headers, name),
    };
    Some(if has { on.to_string() } else { format!("client-ip {client}, as there is no {on}") })
}

fn has_cookie(fields: &HeaderMap, name: &str) -> bool {
    let pairs =
        fields.get_all(COOKIE).iter().filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(';'));
    pairs.into_iter().any(|pair| pair.trim().split_once('=').is_some_and(|(own, _)| own == name))
}
