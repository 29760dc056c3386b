//! `listener.mode` and what belongs to layer 4: `upstream`, `sni`, `alpn`, `proxy_protocol`.

use ipnet::IpNet;

use super::Check;
use super::address::host_name;
use crate::config::findings::Finding;
use crate::config::model::{Bind, HelloRoutes, HostPattern, Mode, ProxyProtocol, UdpRoute};
use crate::config::section::{Pair, Section};

impl Check<'_> {
    pub(super) fn mode(&mut self, section: &Section) -> Mode {
        match section.word("mode") {
            Some("tcp") => Mode::Tcp { upstream: self.only_upstream(section, "tcp") },
            Some("udp") if section.has("sni") => Mode::Udp(UdpRoute::Quic(self.hello_routes(section))),
            Some("udp") => Mode::Udp(UdpRoute::Upstream(self.only_upstream(section, "udp"))),
            Some("tls-passthrough") => Mode::TlsPassthrough(self.hello_routes(section)),
            _ => Mode::Http,
        }
    }

    /// Nothing is read and ignored: what the mode has no use for is a fault.
    pub(super) fn fits_mode(&mut self, section: &Section, mode: &Mode, binds: &[Bind]) {
        let useless: &[&str] = match mode {
            Mode::Http => &["upstream", "sni", "alpn"],
            Mode::Tcp { .. } => &["protocols", "tls", "forwarding", "request_id", "traceparent", "sni", "alpn"],
            Mode::TlsPassthrough(_) => &["protocols", "tls", "forwarding", "request_id", "traceparent", "upstream"],
            Mode::Udp(UdpRoute::Upstream(_)) => {
                &["protocols", "tls", "forwarding", "request_id", "traceparent", "sni", "alpn"]
            }
            Mode::Udp(UdpRoute::Quic(_)) => {
                &["protocols", "tls", "forwarding", "request_id", "traceparent", "upstream"]
            }
        };
        for key in useless {
            if let Some(entry) = section.entry(key) {
                let message = format!("`{key}` has no effect with mode \"{}\"", mode.as_str());
                let finding = Finding::new(entry.name, message, "not of this mode");
                self.findings.push(finding.help(match mode {
                    Mode::Http => "routes choose the upstream of a request; `mode = \"tcp\"` relays connections",
                    _ => "layer 4 relays bytes as they are; `mode = \"http\"` serves requests",
                }));
            }
        }
        if mode.is_layer4() {
            self.fits_layer4(section, mode);
        }
        if mode.is_udp() && binds.iter().any(|bind| matches!(bind, Bind::Unix(_))) {
            self.fault(section.spot, "datagrams on a path", "`unix:` is not for mode \"udp\"");
        }
    }

    fn fits_layer4(&mut self, section: &Section, mode: &Mode) {
        let of_requests = ["max_header_size", "max_headers", "max_concurrent_streams", "max_body"];
        let of_clients: &[&str] = match mode {
            Mode::Udp(_) => &["header", "handshake", "client_stall"],
            _ => &["header", "client_stall"],
        };
        for (table, keys) in [("limits", &of_requests[..]), ("timeouts", of_clients)] {
            for entry in keys.iter().filter_map(|key| section.section(table).and_then(|table| table.entry(key))) {
                let message = format!("`{}` has no effect with mode \"{}\"", entry.key.name, mode.as_str());
                self.fault(entry.name, message, "layer 4 does not read requests");
            }
        }
    }

    fn only_upstream(&mut self, section: &Section, mode: &str) -> usize {
        if let Some(written) = section.text("upstream") {
            return self.upstream_index(written);
        }
        if !section.has("upstream") {
            let finding = Finding::new(section.spot, format!("mode \"{mode}\" without an upstream"), "leads nowhere");
            self.findings.push_absent(finding.help("write `upstream = \"…\"`"));
        }
        0
    }

    fn hello_routes(&mut self, section: &Section) -> HelloRoutes {
        let mut routes = HelloRoutes::default();
        if !section.has("sni") && !section.has("alpn") {
            let finding = Finding::new(section.spot, "mode \"tls-passthrough\" without `sni`", "leads nowhere");
            self.findings.push_absent(finding.help("write `sni = { \"example.org\" = \"…\", default = \"…\" }`"));
        }
        for pair in section.map("sni") {
            let Some(upstream) = self.pair_upstream(pair) else { continue };
            if pair.name.value == "default" {
                routes.default = Some(upstream);
            } else if let Some(name) = self.server_name(pair) {
                routes.sni.push((name, upstream));
            }
        }
        for pair in section.map("alpn") {
            let Some(upstream) = self.pair_upstream(pair) else { continue };
            // RFC 7301 §3.1: 1 to 255 bytes.
            if pair.name.value.is_empty() || pair.name.value.len() > 255 {
                self.fault(pair.name.spot, "not an ALPN protocol", "1 to 255 bytes");
            }
            routes.alpn.push((pair.name.value.clone(), upstream));
        }
        routes
    }

    fn pair_upstream(&mut self, pair: &Pair) -> Option<usize> {
        let written = pair.node.written()?;
        Some(self.upstream_index(written))
    }

    fn server_name(&mut self, pair: &Pair) -> Option<HostPattern> {
        let name = pair.name.value.trim_end_matches('.').to_ascii_lowercase();
        let (pattern, host) = match name.strip_prefix("*.") {
            Some(rest) => (HostPattern::Wildcard(rest.to_owned()), rest.to_owned()),
            None => (HostPattern::Exact(name.clone()), name.clone()),
        };
        match host_name(&host) {
            Ok(()) => Some(pattern),
            Err(reason) => {
                self.fault(pair.name.spot, format!("bad name `{}`", pair.name.value), reason);
                None
            }
        }
    }

    pub(super) fn proxy_protocol(&mut self, section: &Section, trusted: &[IpNet]) -> ProxyProtocol {
        let wanted = match section.word("proxy_protocol") {
            Some("optional") => ProxyProtocol::Optional,
            Some("require") => ProxyProtocol::Require,
            _ => return ProxyProtocol::Off,
        };
        if let Some(entry) =
            section.entry("proxy_protocol").filter(|_| trusted.is_empty() && !section.has("trusted_proxies"))
        {
            let finding =
                Finding::new(entry.name, "`proxy_protocol` without `trusted_proxies`", "nobody's header is believed");
            self.findings.push(finding.help("write `trusted_proxies = [\"10.0.0.0/8\"]`"));
        }
        wanted
    }
}
