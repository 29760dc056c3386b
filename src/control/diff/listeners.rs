//! Listeners: which come, which go, and what changes in those that stay.

use super::Matched;
use super::keys::{Keys, NEW_CONNECTIONS};
use crate::config::Config;
use crate::config::model::{
    Bind, CertificateFiles, ClientAuth, Forwarding, Listener, ListenerLimits, ListenerTimeouts, ListenerTls, Protocols,
    TlsVersion,
};
use crate::net::bind;

pub(super) fn diff(before: &Config, after: &Config, lines: &mut Vec<String>) {
    let matched = Matched::by_name(&before.listeners, &after.listeners, |listener| &listener.name);
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
        lines.extend(listener(before, after).line(format_args!("listener {name}")));
    }
}

fn listener(before: &Listener, after: &Listener) -> Keys {
    let mut keys = Keys::default();
    keys.words("mode", &before.mode.as_str(), &after.mode.as_str(), |mode| (*mode).to_owned()).note(NEW_CONNECTIONS);
    let same_mode = before.mode.as_str() == after.mode.as_str();
    keys.changed("upstreams", same_mode && before.mode != after.mode).note(NEW_CONNECTIONS);
    keys.changed("proxy_protocol", before.proxy_protocol != after.proxy_protocol).note(NEW_CONNECTIONS);
    keys.words("protocols", &before.protocols, &after.protocols, spoken).note(NEW_CONNECTIONS);
    match (&before.tls, &after.tls) {
        (Some(before), Some(after)) => tls_keys(&mut keys, before, after),
        (before, after) => {
            let word = |tls: &bool| if *tls { "on" } else { "off" }.to_owned();
            keys.words("tls", &before.is_some(), &after.is_some(), word).note(NEW_CONNECTIONS);
        }
    }
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

fn tls_keys(keys: &mut Keys, before: &ListenerTls, after: &ListenerTls) {
    let ListenerTls { certificates, min_version, client_auth } = before;
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
    let ListenerTimeouts { handshake, header, client_stall, idle, session_idle: _, max_age } = before;
    keys.compare("timeouts.handshake", handshake, &after.handshake).note(NEW_CONNECTIONS);
    keys.compare("timeouts.header", header, &after.header).note(NEW_CONNECTIONS);
    keys.compare("timeouts.client_stall", client_stall, &after.client_stall).note(NEW_CONNECTIONS);
    keys.compare("timeouts.idle", idle, &after.idle).note(NEW_CONNECTIONS);
    keys.compare("timeouts.max_age", max_age, &after.max_age).note(NEW_CONNECTIONS);
}

fn addresses(binds: &[Bind]) -> String {
    binds.iter().map(bind::name).collect::<Vec<_>>().join(" ")
}

fn spoken(protocols: &Protocols) -> String {
    let Protocols { http1, http2 } = protocols;
    let names = [(*http1, "http1"), (*http2, "http2")];
    names.iter().filter_map(|(on, name)| on.then_some(*name)).collect::<Vec<_>>().join("+")
}

/// A limit where there was none counts from zero.
const UNCOUNTED: &str = "connections that are open already do not count";
