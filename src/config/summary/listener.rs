//! The summary of a listener.

use super::{Block, bind_text, durations, joined, list, logs, quic, socket};
use crate::base::units::{format_duration, format_size};
use crate::config::defaults;
use crate::config::model::{
    AltSvc, Bind, ClientAuth, Config, Listener, Mode, Outbound, OutboundTimeouts, ProxyProtocol, TlsVersion, UdpRoute,
};
use crate::config::validate::host_text;

pub(super) fn block(listener: &Listener, config: &Config) -> Block {
    let binds: Vec<_> = listener.binds.iter().flat_map(|bind| binds(listener, bind)).collect();
    let (spoken, mut purpose, mut details) = purpose(listener, config);
    if let Some(tls) = &listener.tls {
        purpose = if tls.min_version == TlsVersion::V1_3 || matches!(listener.mode, Mode::Quic(_)) {
            "TLS 1.3"
        } else {
            "TLS 1.2, 1.3"
        }
        .to_owned();
        match &tls.client_auth {
            ClientAuth::Off => {}
            ClientAuth::Optional { ca, .. } => {
                details.push(format!("client certificates optional, by {}", ca.display()));
            }
            ClientAuth::Require { ca, .. } => {
                details.push(format!("client certificates required, by {}", ca.display()));
            }
        }
        if tls.early_data {
            details.push("early data (0-RTT)".to_owned());
        }
        for files in &tls.certificates {
            details.push(format!("certificate {} with {}", files.cert.display(), files.key.display()));
        }
    }
    details.extend(joined("limits", limits(listener)));
    details.extend(joined("timeouts", timeouts(listener)));
    details.extend(joined("socket", socket(&listener.socket)));
    details.extend(joined("quic", quic::of_listener(&listener.quic)));
    match listener.alt_svc {
        AltSvc::Auto => {}
        AltSvc::Off => details.push("no Alt-Svc".to_owned()),
        AltSvc::Port(port) => details.push(format!("Alt-Svc port {port}")),
    }
    details.extend(joined("forwarding", forwarding(listener)));
    details.extend(logs::of_listener(listener));
    match listener.proxy_protocol {
        ProxyProtocol::Off => {}
        ProxyProtocol::Optional => details.push("PROXY header where a trusted proxy sends one".to_owned()),
        ProxyProtocol::Require => details.push("PROXY header required".to_owned()),
    }
    if !listener.trusted_proxies.is_empty() {
        details.push(format!("trusts {}", list(&listener.trusted_proxies)));
    }
    Block { columns: vec![listener.name.to_string(), binds.join(" "), spoken, purpose], details }
}

/// An address as it is bound: QUIC has the same over UDP, beside the others or alone.
fn binds(listener: &Listener, bind: &Bind) -> impl Iterator<Item = String> {
    let quic = (listener.takes_quic() && !matches!(bind, Bind::Unix(_))).then(|| format!("udp {}", bind_text(bind)));
    let other = (listener.takes_connections() || listener.mode.is_udp()).then(|| bind_text(bind));
    other.into_iter().chain(quic)
}

/// What it speaks or relays, how it is secured or where everything goes, and what chooses where.
fn purpose(listener: &Listener, config: &Config) -> (String, String, Vec<String>) {
    let mode = listener.mode.as_str().to_owned();
    let name = |index: usize| &*config.upstreams[index].name;
    match &listener.mode {
        Mode::Http => {
            let spoken: Vec<_> = listener.protocols.words().collect();
            (spoken.join(" "), "cleartext".to_owned(), Vec::new())
        }
        Mode::Forward(outbound) => {
            let spoken = listener.protocols.words().collect::<Vec<_>>().join(" ");
            (format!("forward {spoken}"), "cleartext".to_owned(), destinations(outbound))
        }
        Mode::Tcp { upstream, .. } | Mode::Udp(UdpRoute::Upstream(upstream)) => {
            (mode, format!("-> {}", name(*upstream)), Vec::new())
        }
        Mode::Quic(routes) => {
            let to = routes.iter().map(|(protocol, to)| format!("alpn {protocol} -> {}", name(*to)));
            (mode, String::new(), to.collect())
        }
        Mode::TlsPassthrough(routes) | Mode::Udp(UdpRoute::Quic(routes)) => {
            let mut details: Vec<String> = Vec::new();
            details.extend(routes.alpn.iter().map(|(protocol, to)| format!("alpn {protocol} -> {}", name(*to))));
            details.extend(routes.sni.iter().map(|(host, to)| format!("{} -> {}", host_text(host), name(*to))));
            details.push(match routes.default {
                Some(upstream) => format!("else -> {}", name(upstream)),
                None if listener.mode.is_udp() => "else dropped".to_owned(),
                None => "else closed".to_owned(),
            });
            (mode, "by ClientHello".to_owned(), details)
        }
    }
}

/// Where clients may go, and who they are.
fn destinations(outbound: &Outbound) -> Vec<String> {
    let mut details = vec![format!("allows {}", list(&outbound.allow))];
    if !outbound.deny.is_empty() {
        details.push(format!("denies {}", list(&outbound.deny)));
    }
    details.push(match &outbound.users {
        Some((path, _)) => format!("users by {}", path.display()),
        None => "users: everybody who gets to it".to_owned(),
    });
    if !outbound.name_servers.is_empty() {
        details.push(format!("name servers {}", list(&outbound.name_servers)));
    }
    let OutboundTimeouts { connect, response, stream_idle, tunnel_idle } = outbound.timeouts;
    details.extend(joined(
        "forward.timeouts",
        durations(&[
            ("connect", connect, defaults::OUTBOUND_CONNECT_TIMEOUT),
            ("response", response, defaults::RESPONSE_TIMEOUT),
            ("stream_idle", stream_idle, defaults::STREAM_IDLE),
            ("tunnel_idle", tunnel_idle, defaults::OUTBOUND_TUNNEL_IDLE),
        ]),
    ));
    details
}

fn limits(listener: &Listener) -> Vec<String> {
    let limits = &listener.limits;
    let mut facts = Vec::new();
    facts.extend(limits.max_connections.map(|count| format!("max_connections {count}")));
    facts.extend(limits.max_connections_per_ip.map(|count| format!("max_connections_per_ip {count}")));
    if limits.max_header_size != defaults::MAX_HEADER_SIZE {
        facts.push(format!("max_header_size {}", format_size(limits.max_header_size.into())));
    }
    let counts = [
        ("max_headers", limits.max_headers, defaults::MAX_HEADERS),
        ("max_concurrent_streams", limits.max_concurrent_streams, defaults::MAX_CONCURRENT_STREAMS),
    ];
    facts.extend(counts.iter().filter(|(_, own, usual)| own != usual).map(|(name, own, _)| format!("{name} {own}")));
    facts.extend(limits.max_body.map(|bytes| format!("max_body {}", format_size(bytes))));
    facts
}

fn timeouts(listener: &Listener) -> Vec<String> {
    let timeouts = &listener.timeouts;
    let mut facts = durations(&[
        ("handshake", timeouts.handshake, defaults::HANDSHAKE_TIMEOUT),
        ("header", timeouts.header, defaults::HEADER_TIMEOUT),
        ("client_stall", timeouts.client_stall, defaults::CLIENT_STALL),
    ]);
    match listener.mode {
        // There `idle` has no default of its own.
        Mode::Tcp { .. } | Mode::TlsPassthrough(_) => {
            facts.extend(timeouts.session_idle.map(|idle| format!("idle {}", format_duration(idle))));
        }
        _ => facts.extend(durations(&[("idle", timeouts.idle, defaults::IDLE_TIMEOUT)])),
    }
    facts.extend(timeouts.max_age.map(|age| format!("max_age {}", format_duration(age))));
    facts
}

fn forwarding(listener: &Listener) -> Vec<String> {
    let mut facts = Vec::new();
    match (listener.forwarding.x_forwarded, listener.mode.outbound()) {
        (false, None) => facts.push("no X-Forwarded-*".to_owned()),
        (true, Some(_)) => facts.push("X-Forwarded-*".to_owned()),
        _ => {}
    }
    if listener.forwarding.forwarded != defaults::FORWARDED {
        facts.push("Forwarded".to_owned());
    }
    match &listener.forwarding.via {
        None => facts.push("no Via".to_owned()),
        Some(name) if &**name != defaults::VIA => facts.push(format!("Via {name}")),
        Some(_) => {}
    }
    facts
}
