//! Added, removed and changed upstreams, endpoint by endpoint.

use std::collections::HashMap;

use http::uri::PathAndQuery;

use super::keys::{Keys, NEW_CONNECTIONS};
use super::{Matched, quic};
use crate::config::Config;
use crate::config::model::{
    EndpointAddress, EndpointConfig, Health, Outlier, PoolLimits, Upstream, UpstreamTimeouts, UpstreamTls,
};
use crate::config::summary::endpoint_text;

pub(super) fn diff(before: &Config, after: &Config, lines: &mut Vec<String>) {
    let matched = Matched::by_name(&before.upstreams, &after.upstreams, |upstream| &upstream.name);
    let counted = |upstream: &Upstream| match upstream.endpoints.len() {
        1 => format!("endpoint {}", endpoint_text(&upstream.endpoints[0].address)),
        many => format!("{many} endpoints"),
    };
    lines.extend(
        matched.added.iter().map(|upstream| format!("upstream {} added: {}", upstream.name, counted(upstream))),
    );
    lines.extend(matched.removed.iter().map(|upstream| format!("upstream {} removed", upstream.name)));
    for (before, after) in matched.both {
        let name = &after.name;
        let told = endpoints(&before.endpoints, &after.endpoints);
        lines.extend(told.into_iter().map(|told| format!("upstream {name}: endpoint {told}")));
        lines.extend(upstream(before, after).line(format_args!("upstream {name}")));
    }
}

/// Endpoints by address; one that is written twice counts twice.
fn endpoints(before: &[EndpointConfig], after: &[EndpointConfig]) -> Vec<String> {
    let mut known: HashMap<&EndpointAddress, Vec<u32>> = HashMap::new();
    for EndpointConfig { address, weight, place: _ } in before.iter().rev() {
        known.entry(address).or_default().push(*weight);
    }
    let mut lines = Vec::new();
    for EndpointConfig { address, weight, place: _ } in after {
        let text = endpoint_text(address);
        match known.get_mut(address).and_then(Vec::pop) {
            Some(old) if old == *weight => {}
            Some(old) => lines.push(format!("{text} weight {old} -> {weight}")),
            None => lines.push(format!("{text} added")),
        }
    }
    for EndpointConfig { address, .. } in before {
        if known.get_mut(address).and_then(Vec::pop).is_some() {
            lines.push(format!("{} removed", endpoint_text(address)));
        }
    }
    lines
}

fn upstream(before: &Upstream, after: &Upstream) -> Keys {
    let Upstream {
        name: _,
        endpoints,
        protocol,
        alpn,
        alt_svc,
        quic,
        tls,
        balance,
        hash_on,
        health,
        outlier,
        send_proxy_protocol,
        source,
        pool,
        timeouts,
        socket,
        place: _,
    } = before;
    let mut keys = Keys::default();
    let sorted = |list: &[EndpointConfig]| {
        let mut texts: Vec<_> = list.iter().map(|one| (endpoint_text(&one.address), one.weight)).collect();
        texts.sort();
        texts
    };
    let order = |list: &[EndpointConfig]| list.iter().map(|one| one.address.clone()).collect::<Vec<_>>();
    let is_reordered = order(endpoints) != order(&after.endpoints) && sorted(endpoints) == sorted(&after.endpoints);
    keys.changed("order of endpoints", is_reordered);
    keys.words("protocol", protocol, &after.protocol, |protocol| protocol.as_str().to_owned());
    keys.words("alpn", alpn, &after.alpn, |alpn| alpn.as_deref().unwrap_or("none").to_owned());
    keys.compare("alt_svc", alt_svc, &after.alt_svc);
    quic::of_upstream(&mut keys, quic, &after.quic);
    match (tls, &after.tls) {
        (Some(before), Some(after)) => {
            let UpstreamTls { server_name, ca, client_identity, insecure } = before;
            keys.compare("tls.server_name", server_name, &after.server_name);
            keys.changed("tls.ca", *ca != after.ca);
            keys.changed("tls.client_cert", *client_identity != after.client_identity);
            keys.compare("tls.insecure", insecure, &after.insecure);
        }
        (before, after) => {
            keys.words("tls", &before.is_some(), &after.is_some(), on_or_off);
        }
    }
    keys.words("balance", balance, &after.balance, |balance| balance.as_str().to_owned());
    keys.words("hash_on", hash_on, &after.hash_on, ToString::to_string);
    health_keys(&mut keys, health.as_ref(), after.health.as_ref());
    outlier_keys(&mut keys, outlier.as_ref(), after.outlier.as_ref());
    keys.words("send_proxy_protocol", send_proxy_protocol, &after.send_proxy_protocol, |word| word.as_str().to_owned())
        .note(NEW_CONNECTIONS);
    keys.changed("source", *source != after.source).note(NEW_CONNECTIONS);
    let PoolLimits { max_idle_per_endpoint, idle_timeout, max_age } = pool;
    keys.compare("pool.max_idle_per_endpoint", max_idle_per_endpoint, &after.pool.max_idle_per_endpoint);
    keys.compare("pool.idle_timeout", idle_timeout, &after.pool.idle_timeout);
    keys.compare("pool.max_age", max_age, &after.pool.max_age);
    let UpstreamTimeouts { connect, response, stream_idle, tunnel_idle } = timeouts;
    keys.compare("timeouts.connect", connect, &after.timeouts.connect);
    keys.compare("timeouts.response", response, &after.timeouts.response);
    keys.compare("timeouts.stream_idle", stream_idle, &after.timeouts.stream_idle);
    keys.compare("timeouts.tunnel_idle", tunnel_idle, &after.timeouts.tunnel_idle);
    keys.socket(socket, &after.socket, false);
    keys
}

fn health_keys(keys: &mut Keys, before: Option<&Health>, after: Option<&Health>) {
    let (Some(before), Some(after)) = (before, after) else {
        keys.words("health", &before.is_some(), &after.is_some(), on_or_off);
        return;
    };
    let Health { path, host, interval, timeout, healthy_after, unhealthy_after } = before;
    let text = |path: &Option<PathAndQuery>| path.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    keys.words("health.path", path, &after.path, text);
    keys.words("health.host", host, &after.host, |host| host.as_deref().unwrap_or("the endpoint's").to_owned());
    keys.compare("health.interval", interval, &after.interval);
    keys.compare("health.timeout", timeout, &after.timeout);
    keys.compare("health.healthy_after", healthy_after, &after.healthy_after);
    keys.compare("health.unhealthy_after", unhealthy_after, &after.unhealthy_after);
}

fn outlier_keys(keys: &mut Keys, before: Option<&Outlier>, after: Option<&Outlier>) {
    let (Some(before), Some(after)) = (before, after) else {
        keys.words("outlier", &before.is_some(), &after.is_some(), on_or_off);
        return;
    };
    let Outlier { consecutive_failures, eject_for, max_ejected } = before;
    keys.compare("outlier.consecutive_failures", consecutive_failures, &after.consecutive_failures);
    keys.compare("outlier.eject_for", eject_for, &after.eject_for);
    keys.words("outlier.max_ejected", max_ejected, &after.max_ejected, |share| format!("{share}%"));
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what a comparison hands over")]
fn on_or_off(is_on: &bool) -> String {
    if *is_on { "on" } else { "off" }.to_owned()
}
