//! Added, removed and changed listeners.

use std::path::PathBuf;

use super::keys::{Keys, NEW_CONNECTIONS};
use super::{Matched, quic};
use crate::base::units::format_duration;
use crate::config::Config;
use crate::config::model::{
    Bind, CertificateFiles, ClientAuth, Destination, Forwarding, Listener, ListenerLimits, ListenerTimeouts,
    ListenerTls, Mode, Outbound, OutboundTimeouts, Place, Protocols, TlsVersion, UdpRoute,
};
use crate::config::summary::host_text;
use crate::net::bind;

pub(super) fn diff(before_config: &Config, after_config: &Config, lines: &mut Vec<String>) {
    let matched = Matched::by_name(&before_config.listeners, &after_config.listeners, |listener| &listener.name);
    for listener in matched.added {
        lines.push(format!("listener {} added: {}", listener.name, addresses(&listener.binds)));
    }
    for listener in matched.removed {
        lines.push(format!("listener {} removed: {}", listener.name, addresses(&listener.binds)));
    }
    for (before, after) in matched.both {
        let name = &after.name;
        let missing = |from: &[Bind], of: &[Bind]| -> Vec<Bind> {
            from.iter().filter(|bind| !of.contains(bind)).cloned().collect()
        };
        for (binds, word) in
            [(missing(&after.binds, &before.binds), "added"), (missing(&before.binds, &after.binds), "removed")]
        {
            lines.extend(binds.iter().map(|bind| format!("listener {name}: address {} {word}", bind::name(bind))));
        }
        let upstreams: [&dyn Fn(usize) -> String; 2] =
            [&|index| before_config.upstreams[index].name.to_string(), &|index| {
                after_config.upstreams[index].name.to_string()
            }];
        lines.extend(listener(before, after, upstreams).line(format_args!("listener {name}")));
    }
}

fn listener(before: &Listener, after: &Listener, name: [&dyn Fn(usize) -> String; 2]) -> Keys {
    let mut keys = Keys::default();
    keys.words("mode", &before.mode.as_str(), &after.mode.as_str(), |mode| (*mode).to_owned()).note(NEW_CONNECTIONS);
    relay_keys(&mut keys, before, after, name);
    if let (Some(before), Some(after)) = (before.mode.outbound(), after.mode.outbound()) {
        outbound_keys(&mut keys, before, after);
    }
    keys.words("proxy_protocol", &before.proxy_protocol, &after.proxy_protocol, |word| word.as_str().to_owned())
        .note(NEW_CONNECTIONS);
    keys.words("protocols", &before.protocols, &after.protocols, spoken).note(NEW_CONNECTIONS);
    match (&before.tls, &after.tls) {
        (Some(before), Some(after)) => tls_keys(&mut keys, before, after),
        (before, after) => {
            let word = |tls: &bool| if *tls { "on" } else { "off" }.to_owned();
            keys.words("tls", &before.is_some(), &after.is_some(), word).note(NEW_CONNECTIONS);
        }
    }
    quic::alt_svc(&mut keys, before.alt_svc, after.alt_svc);
    quic::of_listener(&mut keys, &before.quic, &after.quic);
    keys.changed("trusted_proxies", before.trusted_proxies != after.trusted_proxies);
    limit_keys(&mut keys, &before.limits, &after.limits);
    timeout_keys(&mut keys, &before.timeouts, &after.timeouts);
    keys.socket(&before.socket, &after.socket, true);
    let Forwarding { x_forwarded, forwarded, via } = &before.forwarding;
    keys.compare("forwarding.x_forwarded", x_forwarded, &after.forwarding.x_forwarded);
    keys.compare("forwarding.forwarded", forwarded, &after.forwarding.forwarded);
    keys.compare("forwarding.via", via, &after.forwarding.via);
    keys.compare("access_log", &before.access_log, &after.access_log);
    keys.changed("request_id", before.request_id != after.request_id);
    keys.changed("traceparent", before.traceparent != after.traceparent);
    keys
}

/// Where layer 4 relays to, by the names of upstreams: their numbers are another in each configuration.
fn relay_keys(keys: &mut Keys, before: &Listener, after: &Listener, name: [&dyn Fn(usize) -> String; 2]) {
    let only = |mode: &Mode, name: &dyn Fn(usize) -> String| match mode {
        Mode::Tcp { upstream, .. } | Mode::Udp(UdpRoute::Upstream(upstream)) => Some(name(*upstream)),
        _ => None,
    };
    let hello = |mode: &Mode, name: &dyn Fn(usize) -> String| match mode {
        Mode::TlsPassthrough(routes) | Mode::Udp(UdpRoute::Quic(routes)) => {
            let mut sni: Vec<_> = routes.sni.iter().map(|(host, to)| (host_text(host), name(*to))).collect();
            sni.extend(routes.default.map(|to| ("default".to_owned(), name(to))));
            sni.sort();
            let mut alpn: Vec<_> = routes.alpn.iter().map(|(word, to)| (word.clone(), name(*to))).collect();
            alpn.sort();
            (sni, alpn)
        }
        Mode::Quic(routes) => {
            let mut alpn: Vec<_> = routes.iter().map(|(word, to)| (word.clone(), name(*to))).collect();
            alpn.sort();
            (Vec::new(), alpn)
        }
        _ => Default::default(),
    };
    let [name_before, name_after] = name;
    keys.compare("upstream", &only(&before.mode, name_before), &only(&after.mode, name_after)).note(NEW_CONNECTIONS);
    let ((sni, alpn), (new_sni, new_alpn)) = (hello(&before.mode, name_before), hello(&after.mode, name_after));
    keys.changed("sni", sni != new_sni).note(NEW_CONNECTIONS);
    keys.changed("alpn", alpn != new_alpn).note(NEW_CONNECTIONS);
}

/// Where clients may go that are pointed at it; open tunnels stay.
fn outbound_keys(keys: &mut Keys, before: &Outbound, after: &Outbound) {
    let Outbound { allow, deny, users, name_servers, timeouts } = before;
    let entries = |list: &[Destination]| -> Vec<_> { list.iter().map(ToString::to_string).collect() };
    let path = |users: &Option<(PathBuf, Place)>| users.as_ref().map(|(path, _)| path.clone());
    keys.changed("forward.allow", entries(allow) != entries(&after.allow));
    keys.changed("forward.deny", entries(deny) != entries(&after.deny));
    keys.changed("forward.users", path(users) != path(&after.users));
    keys.changed("forward.name_servers", *name_servers != after.name_servers);
    let OutboundTimeouts { connect, response, stream_idle, tunnel_idle } = timeouts;
    keys.compare("forward.timeouts.connect", connect, &after.timeouts.connect);
    keys.compare("forward.timeouts.response", response, &after.timeouts.response);
    keys.compare("forward.timeouts.stream_idle", stream_idle, &after.timeouts.stream_idle);
    keys.compare("forward.timeouts.tunnel_idle", tunnel_idle, &after.timeouts.tunnel_idle);
}

fn tls_keys(keys: &mut Keys, before: &ListenerTls, after: &ListenerTls) {
    let ListenerTls { certificates, min_version, client_auth, early_data } = before;
    // Where a pair is named says nothing about it.
    let pairs = |list: &[CertificateFiles]| -> Vec<_> {
        list.iter().map(|CertificateFiles { cert, key, place: _ }| (cert.clone(), key.clone())).collect()
    };
    keys.changed("tls.certificates", pairs(certificates) != pairs(&after.certificates)).note(NEW_CONNECTIONS);
    keys.words("tls.min_version", min_version, &after.min_version, |version| {
        match version {
            TlsVersion::V1_2 => "1.2",
            TlsVersion::V1_3 => "1.3",
        }
        .to_owned()
    })
    .note(NEW_CONNECTIONS);
    keys.compare("tls.early_data", early_data, &after.early_data).note(NEW_CONNECTIONS);
    let (mode, ca) = authentication(client_auth);
    let (new_mode, new_ca) = authentication(&after.client_auth);
    keys.words("tls.client_auth.mode", &mode, &new_mode, |mode| (*mode).to_owned()).note(NEW_CONNECTIONS);
    keys.changed("tls.client_auth.ca", ca != new_ca).note(NEW_CONNECTIONS);
}

fn authentication(auth: &ClientAuth) -> (&'static str, Option<&std::path::Path>) {
    match auth {
        ClientAuth::Off => ("off", None),
        ClientAuth::Optional { ca, place: _ } => ("optional", Some(ca)),
        ClientAuth::Require { ca, place: _ } => ("require", Some(ca)),
    }
}

fn limit_keys(keys: &mut Keys, before: &ListenerLimits, after: &ListenerLimits) {
    let ListenerLimits {
        max_connections,
        max_connections_per_ip,
        max_header_size,
        max_headers,
        max_concurrent_streams,
        max_body,
    } = before;
    for (key, before, after) in [
        ("limits.max_connections", max_connections, &after.max_connections),
        ("limits.max_connections_per_ip", max_connections_per_ip, &after.max_connections_per_ip),
    ] {
        let told = keys.compare(key, before, after);
        if before.is_none() {
            told.note(UNCOUNTED);
        }
    }
    keys.size("limits.max_header_size", Some((*max_header_size).into()), Some(after.max_header_size.into()))
        .note(NEW_CONNECTIONS);
    keys.compare("limits.max_headers", max_headers, &after.max_headers).note(NEW_CONNECTIONS);
    keys.compare("limits.max_concurrent_streams", max_concurrent_streams, &after.max_concurrent_streams)
        .note(NEW_CONNECTIONS);
    keys.size("limits.max_body", *max_body, after.max_body);
}

fn timeout_keys(keys: &mut Keys, before: &ListenerTimeouts, after: &ListenerTimeouts) {
    let ListenerTimeouts { handshake, header, client_stall, idle, session_idle, max_age } = before;
    keys.compare("timeouts.handshake", handshake, &after.handshake).note(NEW_CONNECTIONS);
    keys.compare("timeouts.header", header, &after.header).note(NEW_CONNECTIONS);
    keys.compare("timeouts.client_stall", client_stall, &after.client_stall).note(NEW_CONNECTIONS);
    // One key, with another default on layer 4.
    match (*session_idle, after.session_idle) {
        (None, None) => keys.compare("timeouts.idle", idle, &after.idle),
        (before, after) => keys.words("timeouts.idle", &before, &after, |idle| {
            idle.map_or_else(|| "the upstream's".to_owned(), format_duration)
        }),
    }
    .note(NEW_CONNECTIONS);
    keys.compare("timeouts.max_age", max_age, &after.max_age).note(NEW_CONNECTIONS);
}

fn addresses(binds: &[Bind]) -> String {
    binds.iter().map(bind::name).collect::<Vec<_>>().join(" ")
}

fn spoken(protocols: &Protocols) -> String {
    protocols.words().collect::<Vec<_>>().join("+")
}

/// A limit where there was none counts from zero.
const UNCOUNTED: &str = "connections that are open already do not count";
