//! `[upstream.NAME]`.

use std::collections::HashMap;
use std::net::IpAddr;

use super::Check;
use super::address::host_name;
use crate::config::defaults;
use crate::config::findings::Finding;
use crate::config::model::{
    Balance, EndpointAddress, EndpointConfig, PoolLimits, Route, RouteAction, SendProxyProtocol, Upstream,
    UpstreamProtocol, UpstreamTimeouts, UpstreamTls,
};
use crate::config::section::{Data, Name, Section};
use crate::config::source::Spot;

impl Check<'_> {
    pub(super) fn upstream(&mut self, name: &Name, section: &Section) -> Upstream {
        self.name(&name.value, name.spot);
        let tls = self.upstream_tls(section);
        let balance = match section.word("balance") {
            Some("random") => Balance::Random,
            Some("least-requests") => Balance::LeastRequests,
            Some("p2c-ewma") => Balance::P2cEwma,
            Some("ring-hash") => Balance::RingHash,
            Some("maglev") => Balance::Maglev,
            _ => Balance::RoundRobin,
        };
        let endpoints = self.endpoints(section, tls.as_ref());
        Upstream {
            name: name.value.as_str().into(),
            protocol: match section.word("protocol") {
                Some("http1") => UpstreamProtocol::Http1,
                Some("http2") => UpstreamProtocol::Http2,
                Some("http3") => UpstreamProtocol::Http3,
                Some("quic") => UpstreamProtocol::Quic,
                _ => UpstreamProtocol::Auto,
            },
            alpn: section.text("alpn").map(|written| written.value.to_owned()),
            alt_svc: section.flag("alt_svc").unwrap_or(false),
            quic: self.upstream_quic(section.section("quic")),
            tls,
            balance,
            hash_on: self.hash_on(section, balance),
            health: section.section("health").map(|section| self.health(section)),
            outlier: section.section("outlier").map(|section| self.outlier(section)),
            send_proxy_protocol: match section.word("send_proxy_protocol") {
                Some("v1") => SendProxyProtocol::V1,
                Some("v2") => SendProxyProtocol::V2,
                _ => SendProxyProtocol::Off,
            },
            source: self.sources(section, &endpoints),
            endpoints,
            pool: pool(section.section("pool")),
            timeouts: timeouts(section.section("timeouts")),
            socket: self.socket(section.section("socket")),
            place: self.place(name.spot),
        }
    }

    /// What browsers ask for in gRPC-Web becomes gRPC, which no server speaks over HTTP/1.1.
    pub(super) fn speaks_grpc(&mut self, section: &Section, route: &Route, upstreams: &[Upstream]) {
        let (Some(entry), RouteAction::Forward(forward)) = (section.entry("grpc_web"), &route.action) else { return };
        let is_http1 = |upstream: &&Upstream| upstream.protocol == UpstreamProtocol::Http1;
        let asked = forward.upstreams.iter().filter_map(|(index, _)| upstreams.get(*index));
        if let Some(upstream) = asked.filter(|_| forward.grpc_web).find(is_http1) {
            let message = "`grpc_web` in front of HTTP/1.1";
            let label = format!("upstream `{}` has `protocol = \"http1\"`", upstream.name);
            let finding = Finding::new(entry.name, message, label);
            self.findings.push(finding.help("write `protocol = \"http2\"` there: gRPC needs HTTP/2 or HTTP/3"));
        }
    }

    fn endpoints(&mut self, section: &Section, tls: Option<&UpstreamTls>) -> Vec<EndpointConfig> {
        let mut first: HashMap<EndpointAddress, Spot> = HashMap::new();
        let mut endpoints = Vec::new();
        let mut spots = Vec::new();
        for node in section.list("endpoints") {
            let (written, weight) = match &node.data {
                Data::Section(table) => (table.text("address"), table.count("weight").unwrap_or(defaults::WEIGHT)),
                _ => (node.written(), defaults::WEIGHT),
            };
            let Some(written) = written else { continue };
            let Some(address) = self.endpoint_address(written) else { continue };
            self.not_our_endpoint(&address, written);
            if let (EndpointAddress::Unix(_), Some(UpstreamTls { server_name: None, .. })) = (&address, tls) {
                let help = "write `tls = { server_name = \"…\" }`";
                self.fault_with_help(written.spot, "tls to a Unix socket without a name", "no name to verify", help);
            }
            match first.get(&address) {
                Some(spot) => {
                    let message = format!("endpoint `{}` is given twice", written.value);
                    let finding = Finding::new(written.spot, message, "the second one").second(*spot, "first here");
                    self.findings.push(finding.help("a `weight` gives an endpoint a larger share"));
                }
                None => {
                    first.insert(address.clone(), written.spot);
                }
            }
            spots.push((address.clone(), written.spot));
            endpoints.push(EndpointConfig { address, weight, place: self.place(written.spot) });
        }
        self.endpoints.push(spots);
        if let Some(node) = section.node("endpoints")
            && matches!(&node.data, Data::List(nodes) if nodes.is_empty())
        {
            let help = "write `endpoints = [\"127.0.0.1:3000\"]`";
            self.fault_with_help(node.spot, "an upstream without endpoints", "empty", help);
        }
        endpoints
    }

    fn upstream_tls(&mut self, section: &Section) -> Option<UpstreamTls> {
        if section.flag("tls") == Some(true) {
            return Some(UpstreamTls::default());
        }
        let section = section.section("tls")?;
        let server_name = section.text("server_name").map(|written| {
            if written.value.parse::<IpAddr>().is_err()
                && let Err(reason) = host_name(written.value)
            {
                self.fault(written.spot, format!("bad name `{}`", written.value), reason);
            }
            written.value.trim_end_matches('.').to_ascii_lowercase()
        });
        let insecure = section.flag("insecure").unwrap_or(false);
        let ca = section.text("ca").map(|written| {
            if insecure {
                self.fault(written.spot, "`ca` has no effect", "`insecure` turns verification off");
            }
            self.path(written)
        });
        let client_identity = match (section.text("client_cert"), section.text("client_key")) {
            (Some(cert), Some(key)) => Some((self.path(cert), self.path(key))),
            (Some(cert), None) if !section.has("client_key") => {
                self.fault(cert.spot, "a certificate without its key", "`client_key` is missing");
                None
            }
            (None, Some(key)) if !section.has("client_cert") => {
                self.fault(key.spot, "a key without its certificate", "`client_cert` is missing");
                None
            }
            _ => None,
        };
        Some(UpstreamTls { server_name, ca, client_identity, insecure })
    }
}

fn pool(section: Option<&Section>) -> PoolLimits {
    let duration = |key| section.and_then(|section| section.duration(key));
    PoolLimits {
        max_idle_per_endpoint: section
            .and_then(|section| section.count("max_idle_per_endpoint"))
            .unwrap_or(defaults::MAX_IDLE_PER_ENDPOINT),
        idle_timeout: duration("idle_timeout").unwrap_or(defaults::POOL_IDLE_TIMEOUT),
        max_age: duration("max_age").unwrap_or(defaults::POOL_MAX_AGE),
    }
}

fn timeouts(section: Option<&Section>) -> UpstreamTimeouts {
    let duration = |key| section.and_then(|section| section.duration(key));
    UpstreamTimeouts {
        connect: duration("connect").unwrap_or(defaults::CONNECT_TIMEOUT),
        response: duration("response").unwrap_or(defaults::RESPONSE_TIMEOUT),
        stream_idle: duration("stream_idle").unwrap_or(defaults::STREAM_IDLE),
        tunnel_idle: duration("tunnel_idle").unwrap_or(defaults::TUNNEL_IDLE),
    }
}
