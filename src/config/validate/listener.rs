//! `[[listener]]`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Check;
use crate::config::defaults;
use crate::config::findings::Finding;
use crate::config::model::{
    Bind, CertificateFiles, ClientAuth, Forwarding, Listener, ListenerLimits, ListenerTimeouts, ListenerTls, Mode,
    Protocols, Stamp, TlsVersion,
};
use crate::config::section::{Data, Section};
use crate::config::source::Spot;

impl Check<'_> {
    pub(super) fn listeners<'s>(&mut self, sections: impl Iterator<Item = &'s Section>) -> Vec<Listener> {
        let mut names: HashMap<String, Spot> = HashMap::new();
        let mut bound: HashMap<(Bind, bool), Spot> = HashMap::new();
        let mut listeners = Vec::new();
        for section in sections {
            let protocols = self.protocols(section);
            let binds = self.binds(section, protocols, &mut bound);
            let (name, spot) = match section.text("name") {
                Some(written) => {
                    self.name(written.value, written.spot);
                    (written.value.to_owned(), written.spot)
                }
                None => match section.texts("bind").next() {
                    // Where the system chooses the port, the same address is another one.
                    Some(first)
                        if names.contains_key(first.value) && binds.first().is_some_and(|b| claim(b).is_none()) =>
                    {
                        (format!("{}#{}", first.value, listeners.len() + 1), first.spot)
                    }
                    Some(first) => (first.value.to_owned(), first.spot),
                    None => (String::new(), section.spot),
                },
            };
            match names.get(&name) {
                Some(first) if !name.is_empty() => {
                    let finding = Finding::new(spot, format!("listener `{name}` is defined twice"), "the second one");
                    let finding = finding.second(*first, "first defined here");
                    self.findings.push(finding.help("give each its own `name`"));
                }
                _ => {
                    names.insert(name.clone(), spot);
                }
            }
            self.listeners.entry(name.clone()).or_insert(listeners.len());
            let listener = self.listener(name.into(), binds, protocols, section);
            self.with_tls.push(listener.tls.is_some());
            self.with_routes.push(listener.mode.has_routes());
            listeners.push(listener);
        }
        listeners
    }

    fn listener(&mut self, name: Arc<str>, binds: Vec<Bind>, protocols: Protocols, section: &Section) -> Listener {
        let mode = self.mode(section);
        let is_outbound = mode.outbound().is_some();
        self.fits_mode(section, &mode, &binds);
        let trusted_proxies = self.networks(section, "trusted_proxies");
        let proxy_protocol = self.proxy_protocol(section, &trusted_proxies, &binds);
        self.may_speak_http3(section, protocols, &binds);
        Listener {
            name,
            binds,
            timeouts: timeouts(section.section("timeouts"), &mode),
            mode,
            proxy_protocol,
            trusted_proxies,
            protocols,
            alt_svc: self.alt_svc(section, protocols),
            quic: self.quic(section, protocols),
            tls: section.section("tls").map(|tls| self.listener_tls(tls)),
            limits: limits(section.section("limits")),
            socket: self.socket(section.section("socket")),
            forwarding: self.forwarding(section.section("forwarding"), is_outbound),
            access_log: section.flag("access_log").unwrap_or(true),
            request_id: stamp(section.word("request_id")),
            traceparent: stamp(section.word("traceparent")),
            place: self.place(section.spot),
        }
    }

    /// TCP and UDP have ports of their own, so an address is taken with what it is taken for.
    fn binds(&mut self, section: &Section, protocols: Protocols, bound: &mut HashMap<(Bind, bool), Spot>) -> Vec<Bind> {
        let is_udp = matches!(section.word("mode"), Some("udp" | "quic"));
        let kinds: &[bool] = if protocols.http3 && !is_udp { &[false, true] } else { &[is_udp] };
        let mut binds = Vec::new();
        for written in section.texts("bind") {
            let Some(bind) = self.bind(written) else { continue };
            if !is_udp {
                self.not_ours(&bind, written);
            }
            if let Some(claim) = claim(&bind) {
                let claims = kinds.iter().map(|is_udp| (claim.clone(), *is_udp));
                match claims.clone().find_map(|claim| bound.get(&claim)) {
                    Some(first) => {
                        let message = format!("address `{}` is bound twice", written.value);
                        let finding = Finding::new(written.spot, message, "taken already");
                        self.findings.push(finding.second(*first, "first bound here"));
                    }
                    None => bound.extend(claims.map(|claim| (claim, written.spot))),
                }
            }
            binds.push(bind);
        }
        if let Some(node) = section.node("bind")
            && matches!(&node.data, Data::List(nodes) if nodes.is_empty())
        {
            self.fault_with_help(node.spot, "a listener without an address", "empty", "write `bind = \":8080\"`");
        }
        binds
    }

    fn protocols(&mut self, section: &Section) -> Protocols {
        let Some(node) = section.node("protocols") else {
            return Protocols { http1: true, http2: true, http3: could_speak_http3(section) };
        };
        let nodes = section.list("protocols");
        let named = |word| nodes.iter().any(|node| matches!(node.data, Data::Word(named) if named == word));
        if nodes.is_empty() && !node.is_bad() {
            self.fault(node.spot, "a listener without a protocol", "empty");
        }
        Protocols { http1: named("http1"), http2: named("http2"), http3: named("http3") }
    }

    fn listener_tls(&mut self, section: &Section) -> ListenerTls {
        let mut certificates = Vec::new();
        for node in section.list("certificates") {
            let Data::Section(files) = &node.data else { continue };
            let (Some(cert), Some(key)) = (files.text("cert"), files.text("key")) else { continue };
            let (cert, key) = (self.path(cert), self.path(key));
            certificates.push(CertificateFiles { cert, key, place: self.place(node.spot) });
        }
        if let Some(node) = section.node("certificates")
            && matches!(&node.data, Data::List(nodes) if nodes.is_empty())
        {
            let help = "write `certificates = [{ cert = \"…\", key = \"…\" }]`";
            self.fault_with_help(node.spot, "tls without a certificate", "empty", help);
        }
        let min_version = match section.word("min_version") {
            Some("1.3") => TlsVersion::V1_3,
            _ => TlsVersion::V1_2,
        };
        let client_auth = section.section("client_auth").map_or(ClientAuth::Off, |section| self.client_auth(section));
        let early_data = section.flag("early_data").unwrap_or(false);
        ListenerTls { certificates, min_version, client_auth, early_data }
    }

    fn client_auth(&mut self, section: &Section) -> ClientAuth {
        let mode = section.word("mode").unwrap_or("off");
        let Some(ca) = section.text("ca") else {
            if mode != "off" && !section.has("ca") {
                let message = format!("client_auth `{mode}` without authorities");
                self.fault_with_help(section.spot, message, "`ca` is missing", "write `ca = \"certs/clients.pem\"`");
            }
            return ClientAuth::Off;
        };
        let path = self.path(ca);
        let place = self.place(ca.spot);
        match mode {
            "optional" => ClientAuth::Optional { ca: path, place },
            "require" => ClientAuth::Require { ca: path, place },
            _ => {
                if section.node("mode").is_none_or(|node| !node.is_bad()) {
                    let help = "write `mode = \"optional\"` or `mode = \"require\"`";
                    self.fault_with_help(ca.spot, "`ca` has no effect", "client_auth is off", help);
                }
                ClientAuth::Off
            }
        }
    }

    fn forwarding(&mut self, section: Option<&Section>, is_outbound: bool) -> Forwarding {
        let mut forwarding = Forwarding {
            x_forwarded: defaults::X_FORWARDED && !is_outbound,
            forwarded: defaults::FORWARDED,
            via: Some(defaults::VIA.into()),
        };
        let Some(section) = section else { return forwarding };
        forwarding.x_forwarded = section.flag("x_forwarded").unwrap_or(forwarding.x_forwarded);
        forwarding.forwarded = section.flag("forwarded").unwrap_or(forwarding.forwarded);
        if section.word("via").is_some() {
            forwarding.via = None;
        }
        if let Some(written) = section.text("via") {
            // RFC 9110 §7.6.3: a pseudonym is a token; a host and port are more than anyone needs to know.
            if written.value.is_empty() || !written.value.bytes().all(is_token) {
                let message = format!("bad pseudonym `{}`", written.value);
                self.fault(written.spot, message, "letters, digits and `-._~!#$%&'*+^|`");
            }
            forwarding.via = Some(written.value.into());
        }
        forwarding
    }
}

/// Whether HTTP/3 is spoken where nothing is said of protocols: over TLS, at an address, and not where a PROXY header has
/// to say who the client is.
fn could_speak_http3(section: &Section) -> bool {
    let is_http = section.word("mode").is_none_or(|mode| matches!(mode, "http" | "forward"));
    let has_address = section.texts("bind").any(|bind| !bind.value.starts_with("unix:"));
    is_http && section.has("tls") && has_address && section.word("proxy_protocol") != Some("require")
}

fn stamp(word: Option<&str>) -> Stamp {
    match word {
        Some("always") => Stamp::Always,
        Some("off") => Stamp::Off,
        _ => Stamp::Auto,
    }
}

fn limits(section: Option<&Section>) -> ListenerLimits {
    let bytes = |key| section.and_then(|section| section.size(key));
    let count = |key| section.and_then(|section| section.count(key));
    ListenerLimits {
        max_connections: count("max_connections"),
        max_connections_per_ip: count("max_connections_per_ip"),
        max_header_size: bytes("max_header_size").map_or(defaults::MAX_HEADER_SIZE, |bytes| bytes as u32),
        max_headers: count("max_headers").unwrap_or(defaults::MAX_HEADERS),
        max_concurrent_streams: count("max_concurrent_streams").unwrap_or(defaults::MAX_CONCURRENT_STREAMS),
        max_body: bytes("max_body"),
    }
}

fn timeouts(section: Option<&Section>, mode: &Mode) -> ListenerTimeouts {
    let duration = |key| section.and_then(|section| section.duration(key));
    let session_idle = duration("idle").filter(|_| matches!(mode, Mode::Tcp { .. } | Mode::TlsPassthrough(_)));
    ListenerTimeouts {
        handshake: duration("handshake").unwrap_or(defaults::HANDSHAKE_TIMEOUT),
        header: duration("header").unwrap_or(defaults::HEADER_TIMEOUT),
        client_stall: duration("client_stall").unwrap_or(defaults::CLIENT_STALL),
        idle: duration("idle").unwrap_or(defaults::IDLE_TIMEOUT),
        session_idle,
        max_age: duration("max_age"),
    }
}

/// What an address takes from others; nothing where the system chooses the port. One socket on `[::]` serves both
/// families, so that it takes `0.0.0.0` as well.
fn claim(bind: &Bind) -> Option<Bind> {
    match bind {
        Bind::AnyAddress(0) => None,
        Bind::Address(address) if address.port() == 0 => None,
        Bind::Address(address) if address.ip().is_unspecified() => Some(Bind::AnyAddress(address.port())),
        Bind::Address(address) => Some(Bind::Address(match address.ip() {
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => SocketAddr::from((v4, address.port())),
                None => *address,
            },
            IpAddr::V4(_) => *address,
        })),
        other => Some(other.clone()),
    }
}

/// `tchar` of RFC 9110 §5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
