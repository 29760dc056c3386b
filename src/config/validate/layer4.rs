//! `listener.mode` and the keys of layer 4: `upstream`, `sni`, `alpn`, `proxy_protocol`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Check;
use super::address::host_name;
use super::relayed::{Relay, Terms};
use crate::config::findings::Finding;
use crate::config::model::{Bind, HelloRoutes, HostPattern, Mode, ProxyProtocol, UdpRoute};
use crate::config::section::{Data, Pair, Section, Written};
use crate::config::source::Spot;

impl Check<'_> {
    pub(super) fn mode(&mut self, section: &Section) -> Mode {
        match section.word("mode") {
            Some("tcp") => Mode::Tcp { upstream: self.only_upstream(section, "tcp"), as_streams: false },
            Some("udp") if HELLO.iter().any(|key| section.has(key)) => {
                Mode::Udp(UdpRoute::Quic(self.hello_routes(section, true)))
            }
            Some("udp") => Mode::Udp(UdpRoute::Upstream(self.only_upstream(section, "udp"))),
            Some("quic") => self.quic_mode(section),
            Some("forward") => Mode::Forward(Arc::new(self.outbound(section))),
            Some("tls-passthrough") => Mode::TlsPassthrough(self.hello_routes(section, false)),
            _ => Mode::Http,
        }
    }

    /// Nothing is read and ignored: what the mode has no use for is a fault.
    pub(super) fn fits_mode(&mut self, section: &Section, mode: &Mode, binds: &[Bind]) {
        let by_hello = HELLO.iter().any(|key| section.has(key));
        for (table, key) in without_effect(mode.as_str(), by_hello) {
            let table = if table.is_empty() { Some(section) } else { section.section(table) };
            let Some(entry) = table.and_then(|table| table.entry(key)) else { continue };
            let message = format!("`{key}` has no effect with mode \"{}\"", mode.as_str());
            let finding = Finding::new(entry.name, message, "not a key of this mode");
            self.findings.push(finding.help_if(help_of_mode(section, mode, key)));
        }
        let is_off = matches!(section.word("proxy_protocol"), None | Some("off"));
        if let Some(entry) = section.entry("trusted_proxies").filter(|_| mode.is_layer4() && is_off) {
            let message = "`trusted_proxies` has no effect without `proxy_protocol`";
            let finding = Finding::new(entry.name, message, "on layer 4 it only matters for the PROXY protocol");
            self.findings.push(finding.help("write `proxy_protocol = \"require\"`"));
        }
        let is_of_datagrams = mode.is_udp() || matches!(mode, Mode::Quic(_));
        if is_of_datagrams && binds.iter().any(|bind| matches!(bind, Bind::Unix(_))) {
            let on_path = section.texts("bind").find(|written| written.value.starts_with("unix:"));
            let spot = on_path.map_or(section.spot, |written| written.spot);
            let label = format!("mode \"{}\" needs an address and a port", mode.as_str());
            self.fault(spot, "datagrams on a Unix socket", label);
        }
    }

    fn only_upstream(&mut self, section: &Section, mode: &str) -> usize {
        if let Some(written) = section.text("upstream") {
            let terms = Terms { is_udp: mode == "udp", knows_name: false, takes_streams: mode == "tcp" };
            return self.relays_to(written, terms);
        }
        if !section.has("upstream") {
            let finding = Finding::new(section.spot, format!("mode \"{mode}\" without an upstream"), "no destination");
            self.findings.push_absent(finding.help("write `upstream = \"…\"`"));
        }
        0
    }

    fn hello_routes(&mut self, section: &Section, is_udp: bool) -> HelloRoutes {
        let mut routes = HelloRoutes::default();
        let terms = Terms { is_udp, knows_name: true, takes_streams: false };
        if !HELLO.iter().any(|key| section.has(key)) {
            let finding = Finding::new(section.spot, "mode \"tls-passthrough\" without `sni`", "no destination");
            self.findings.push_absent(finding.help("write `sni = { \"example.org\" = \"…\", default = \"…\" }`"));
        }
        let mut first: HashMap<String, Spot> = HashMap::new();
        for pair in section.map("sni") {
            let Some(written) = pair.node.written() else { continue };
            let upstream = self.relays_to(written, terms);
            let name = pair.name.value.trim_end_matches('.').to_ascii_lowercase();
            if let Some(earlier) = first.insert(name.clone(), pair.name.spot) {
                let message = format!("name `{}` is given twice", pair.name.value);
                let finding = Finding::new(pair.name.spot, message, "differs only in case or a trailing dot");
                self.findings.push(finding.second(earlier, "first here"));
            }
            if name == "default" {
                routes.default = Some(upstream);
            } else if let Some(pattern) = self.server_name(pair, &name) {
                routes.sni.push((pattern, upstream));
            }
        }
        routes.alpn = self.alpn_routes(section, terms);
        for key in HELLO {
            if let Some(node) = section.node(key)
                && matches!(&node.data, Data::Map(pairs) if pairs.is_empty())
            {
                self.fault(node.spot, format!("`{key}` is empty"), "no destination");
            }
        }
        routes
    }

    pub(super) fn alpn_routes(&mut self, section: &Section, terms: Terms) -> Vec<(String, usize)> {
        let mut routes = Vec::new();
        for pair in section.map("alpn") {
            let Some(written) = pair.node.written() else { continue };
            // RFC 7301 §3.1: 1 to 255 bytes.
            if pair.name.value.is_empty() || pair.name.value.len() > 255 {
                self.fault(pair.name.spot, "not an ALPN protocol", "1 to 255 bytes");
            }
            routes.push((pair.name.value.clone(), self.relays_to(written, terms)));
        }
        routes
    }

    /// An upstream that a listener of layer 4 names.
    fn relays_to(&mut self, written: Written<'_>, terms: Terms) -> usize {
        let upstream = self.upstream_index(written);
        if self.upstreams.contains_key(written.value) {
            self.relays.push(Relay { upstream, spot: written.spot, terms });
        }
        upstream
    }

    fn server_name(&mut self, pair: &Pair, name: &str) -> Option<HostPattern> {
        let (pattern, host) = match name.strip_prefix("*.") {
            Some(rest) => (HostPattern::Wildcard(rest.to_owned()), rest),
            None => (HostPattern::Exact(name.to_owned()), name),
        };
        let reason = match host_name(host) {
            // RFC 6066 §3: literal addresses are not permitted.
            Ok(()) if host.parse::<IpAddr>().is_ok() => "a ClientHello never contains an IP address",
            Ok(()) => return Some(pattern),
            Err(reason) => reason,
        };
        let finding = Finding::new(pair.name.spot, format!("bad name `{}`", pair.name.value), reason);
        let help = (name == "*").then(|| "write `default` for names that match nothing else".to_owned());
        self.findings.push(finding.help_if(help));
        None
    }

    pub(super) fn proxy_protocol(&mut self, section: &Section, trusted: &[IpNet], binds: &[Bind]) -> ProxyProtocol {
        let wanted = match section.word("proxy_protocol") {
            Some("optional") => ProxyProtocol::Optional,
            Some("require") => ProxyProtocol::Require,
            _ => return ProxyProtocol::Off,
        };
        // Networks that are at fault have their own.
        let nobody = trusted.is_empty() && section.list("trusted_proxies").is_empty();
        // Whom the permissions of a file let in is believed.
        let nobody = nobody && !binds.iter().all(|bind| matches!(bind, Bind::Unix(_)));
        if let Some(entry) = section.entry("proxy_protocol").filter(|_| nobody) {
            let finding = Finding::new(
                entry.name,
                "`proxy_protocol` without `trusted_proxies`",
                "no sender of the header is trusted",
            );
            self.findings.push(finding.help("write `trusted_proxies = [\"10.0.0.0/8\"]`"));
        }
        wanted
    }
}

/// The keys that a mode has no use for, each with the table it stands in; `by_hello`: it has an `sni` or `alpn`.
pub(crate) fn without_effect(mode: &str, by_hello: bool) -> Vec<(&'static str, &'static str)> {
    let mut keys: Vec<(&str, &str)> = match mode {
        "http" => return vec![("", "upstream"), ("", "sni"), ("", "alpn"), ("", "forward")],
        "forward" => return OF_FORWARD_NOT.to_vec(),
        "tls-passthrough" => vec![("", "upstream")],
        "quic" => vec![("", "upstream"), ("", "sni"), ("", "proxy_protocol"), ("", "trusted_proxies")],
        "udp" if by_hello => vec![("", "upstream")],
        _ => vec![("", "sni"), ("", "alpn")],
    };
    keys.extend(OF_REQUESTS.into_iter().filter(|key| mode != "quic" || !OF_QUIC.contains(key)));
    keys.push(("", "forward"));
    if mode != "quic" {
        keys.push(("", "quic"));
    }
    if mode == "quic" {
        keys.extend(OF_CONNECTIONS.into_iter().filter(|(_, key)| *key != "handshake"));
    }
    if mode == "udp" {
        keys.extend(OF_CONNECTIONS);
    }
    keys
}

fn help_of_mode(section: &Section, mode: &Mode, key: &str) -> Option<String> {
    match (mode, key) {
        (Mode::Http, "upstream") => {
            Some("routes choose the upstream of a request; `mode = \"tcp\"` relays connections".to_owned())
        }
        (Mode::Forward(_), "upstream") => {
            Some("clients choose the destination; `forward.allow` says which are allowed".to_owned())
        }
        (Mode::Forward(_), _) => None,
        (_, "forward") => Some("use `mode = \"forward\"` for clients that are configured to use a proxy".to_owned()),
        (Mode::Http | Mode::Tcp { .. }, "sni" | "alpn") => {
            Some("`mode = \"tls-passthrough\"` chooses by the ClientHello".to_owned())
        }
        (_, "upstream") => {
            let name = section.text("upstream").map_or("…", |written| written.value);
            Some(format!("write `sni = {{ default = \"{name}\" }}`"))
        }
        (_, "sni" | "alpn") => None,
        (Mode::Udp(_), key) if OF_CONNECTIONS.iter().any(|(_, known)| *known == key) => None,
        _ => Some("layer 4 relays bytes as they are; `mode = \"http\"` serves requests".to_owned()),
    }
}

/// What chooses by a ClientHello.
pub(crate) const HELLO: [&str; 2] = ["sni", "alpn"];
/// What a listener for clients that are pointed at a proxy has no use for: it says nothing of itself on an origin's answers, and
/// a request that may be sent again by whoever recorded it is none that should leave for a stranger.
const OF_FORWARD_NOT: [(&str, &str); 5] =
    [("", "upstream"), ("", "sni"), ("", "alpn"), ("", "alt_svc"), ("tls", "early_data")];
/// What only requests need.
const OF_REQUESTS: [(&str, &str); 12] = [
    ("", "protocols"),
    ("", "alt_svc"),
    ("", "tls"),
    ("", "forwarding"),
    ("", "request_id"),
    ("", "traceparent"),
    ("limits", "max_header_size"),
    ("limits", "max_headers"),
    ("limits", "max_concurrent_streams"),
    ("limits", "max_body"),
    ("timeouts", "header"),
    ("timeouts", "client_stall"),
];
/// What QUIC needs of them.
const OF_QUIC: [(&str, &str); 2] = [("", "tls"), ("limits", "max_concurrent_streams")];
/// What only connections have.
const OF_CONNECTIONS: [(&str, &str); 6] = [
    ("timeouts", "handshake"),
    ("socket", "nodelay"),
    ("socket", "keepalive"),
    ("socket", "backlog"),
    ("socket", "fast_open"),
    ("socket", "user_timeout"),
];
