//! The summary of an upstream.

use super::{Block, durations, endpoint_text, joined, list, quic, socket};
use crate::base::units::format_duration;
use crate::config::defaults;
use crate::config::model::{Balance, Health, Outlier, SendProxyProtocol, Upstream};

pub(super) fn block(upstream: &Upstream) -> Block {
    let spoken = match &upstream.alpn {
        Some(alpn) => format!("{} {alpn}", upstream.protocol.as_str()),
        None => upstream.protocol.as_str().to_owned(),
    };
    let mut balance = upstream.balance.as_str().to_owned();
    if matches!(upstream.balance, Balance::RingHash | Balance::Maglev) {
        balance = format!("{balance} on {}", upstream.hash_on);
    }
    let security = match &upstream.tls {
        None => "cleartext",
        Some(tls) if tls.insecure => "TLS, NOT VERIFIED",
        Some(_) => "TLS",
    };
    let mut details: Vec<String> = upstream
        .endpoints
        .iter()
        .map(|endpoint| match endpoint.weight {
            1 => endpoint_text(&endpoint.address),
            weight => format!("{} weight {weight}", endpoint_text(&endpoint.address)),
        })
        .collect();
    details.extend(joined("tls", tls_facts(upstream)));
    details.extend(upstream.alt_svc.then(|| "http3 where Alt-Svc offers it".to_owned()));
    details.extend(joined("quic", quic::of_upstream(&upstream.quic)));
    details.extend(upstream.health.as_ref().map(health));
    details.extend(upstream.outlier.as_ref().map(outlier));
    match upstream.send_proxy_protocol {
        SendProxyProtocol::Off => {}
        version => details.push(format!("sends a PROXY header, {}", version.as_str())),
    }
    if !upstream.source.is_empty() {
        details.push(format!("connects from {}", list(&upstream.source)));
    }
    let timeouts = &upstream.timeouts;
    details.extend(joined(
        "timeouts",
        durations(&[
            ("connect", timeouts.connect, defaults::CONNECT_TIMEOUT),
            ("response", timeouts.response, defaults::RESPONSE_TIMEOUT),
            ("stream_idle", timeouts.stream_idle, defaults::STREAM_IDLE),
            ("tunnel_idle", timeouts.tunnel_idle, defaults::TUNNEL_IDLE),
        ]),
    ));
    let mut pool = durations(&[
        ("idle_timeout", upstream.pool.idle_timeout, defaults::POOL_IDLE_TIMEOUT),
        ("max_age", upstream.pool.max_age, defaults::POOL_MAX_AGE),
    ]);
    if upstream.pool.max_idle_per_endpoint != defaults::MAX_IDLE_PER_ENDPOINT {
        pool.insert(0, format!("max_idle_per_endpoint {}", upstream.pool.max_idle_per_endpoint));
    }
    details.extend(joined("pool", pool));
    details.extend(joined("socket", socket(&upstream.socket)));
    let columns = vec![upstream.name.to_string(), spoken, balance, security.to_owned()];
    Block { columns, details }
}

fn tls_facts(upstream: &Upstream) -> Vec<String> {
    let Some(tls) = &upstream.tls else { return Vec::new() };
    let mut facts = Vec::new();
    facts.extend(tls.server_name.as_ref().map(|name| format!("name {name}")));
    facts.extend(tls.ca.as_ref().map(|path| format!("authorities {}", path.display())));
    facts.extend(tls.client_identity.as_ref().map(|(cert, _)| format!("client certificate {}", cert.display())));
    facts
}

fn health(health: &Health) -> String {
    let (interval, timeout) = (format_duration(health.interval), format_duration(health.timeout));
    let what = match (&health.path, &health.host) {
        (None, _) => "by a connection".to_owned(),
        (Some(path), None) => format!("at {path}"),
        (Some(path), Some(host)) => format!("at {path} of {host}"),
    };
    let (out, back) = (health.unhealthy_after, health.healthy_after);
    format!("checked {what} every {interval}, {timeout} each: out after {out}, back after {back}")
}

fn outlier(outlier: &Outlier) -> String {
    let (failures, share) = (outlier.consecutive_failures, outlier.max_ejected);
    let time = format_duration(outlier.eject_for);
    format!("ejected for {time} after {failures} failures in a row, at most {share}% at once")
}
