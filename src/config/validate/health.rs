//! `[upstream.NAME.health]`, `[upstream.NAME.outlier]`, `hash_on` and `source`.

use std::net::IpAddr;

use http::HeaderName;
use http::uri::PathAndQuery;

use super::Check;
use super::address::host_name;
use super::listener::is_token;
use crate::config::defaults;
use crate::config::findings::Finding;
use crate::config::model::{Balance, EndpointAddress, EndpointConfig, HashOn, Health, Outlier};
use crate::config::section::{Section, Written};

impl Check<'_> {
    pub(super) fn health(&mut self, section: &Section) -> Health {
        let duration = |key| section.duration(key);
        let interval = duration("interval").unwrap_or(defaults::HEALTH_INTERVAL);
        let timeout = duration("timeout").unwrap_or(defaults::HEALTH_TIMEOUT.min(interval));
        if let Some(node) = section.node("timeout").filter(|_| timeout > interval) {
            self.fault(node.spot, "`timeout` is longer than `interval`", "the next check would start before it");
        }
        let path = section.text("path").and_then(|written| {
            let path = PathAndQuery::try_from(written.value).ok().filter(|_| written.value.starts_with('/'));
            if path.is_none() {
                self.fault(written.spot, format!("bad path `{}`", written.value), "a path begins with `/`");
            }
            path
        });
        let host = section.text("host").map(|written| {
            let name = written.value.rsplit_once(':').map_or(written.value, |(name, _)| name);
            if let Err(reason) = host_name(name) {
                self.fault(written.spot, format!("bad host `{}`", written.value), reason);
            }
            written.value.into()
        });
        if let Some(entry) = section.entry("host").filter(|_| !section.has("path")) {
            self.fault(entry.name, "`host` has no effect without `path`", "a TCP connection names no host");
        }
        let count = |key, usual| section.count(key).unwrap_or(usual);
        Health {
            path,
            host,
            interval,
            timeout,
            healthy_after: count("healthy_after", defaults::HEALTHY_AFTER),
            unhealthy_after: count("unhealthy_after", defaults::UNHEALTHY_AFTER),
        }
    }

    pub(super) fn outlier(&mut self, section: &Section) -> Outlier {
        let max_ejected = section.text("max_ejected").map_or(defaults::MAX_EJECTED, |written| {
            let digits = written.value.strip_suffix('%').filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let share = digits.and_then(|text| text.parse::<u8>().ok()).filter(|share| (1..=100).contains(share));
            share.unwrap_or_else(|| {
                let message = format!("bad share `{}`", written.value);
                self.fault_with_help(written.spot, message, "expected \"1%\" to \"100%\"", "write \"50%\"");
                defaults::MAX_EJECTED
            })
        });
        Outlier {
            consecutive_failures: section.count("consecutive_failures").unwrap_or(defaults::OUTLIER_FAILURES),
            eject_for: section.duration("eject_for").unwrap_or(defaults::EJECT_FOR),
            max_ejected,
        }
    }

    pub(super) fn hash_on(&mut self, section: &Section, balance: Balance) -> HashOn {
        let Some(written) = section.text("hash_on") else { return HashOn::ClientIp };
        let hashes = matches!(balance, Balance::RingHash | Balance::Maglev);
        // The default written out means no more than left out.
        if let Some(entry) = section.entry("hash_on").filter(|_| !hashes && written.value != "client-ip") {
            let message = format!("`hash_on` has no effect with `{}`", balance.as_str());
            let finding = Finding::new(entry.name, message, "the policy does not hash");
            self.findings.push(finding.help("write `balance = \"ring-hash\"` or `balance = \"maglev\"`"));
        }
        match written.value.split_once(':') {
            None if written.value == "client-ip" => return HashOn::ClientIp,
            None if written.value == "sni" => return HashOn::Sni,
            None if written.value == "path" => return HashOn::Path,
            Some(("header", name)) => {
                if let Ok(name) = HeaderName::try_from(name) {
                    return HashOn::Header(name);
                }
            }
            Some(("cookie", name)) if !name.is_empty() && name.bytes().all(is_token) => {
                return HashOn::Cookie(name.into());
            }
            _ => {}
        }
        let help = "write \"client-ip\", \"sni\", \"path\", \"header:x-user\" or \"cookie:session\"";
        self.fault_with_help(written.spot, format!("nothing to hash in `{}`", written.value), "not known", help);
        HashOn::ClientIp
    }

    pub(super) fn sources(&mut self, section: &Section, endpoints: &[EndpointConfig]) -> Vec<IpAddr> {
        let written: Vec<Written<'_>> = section.texts("source").collect();
        let mut sources: Vec<IpAddr> = Vec::with_capacity(written.len());
        for written in written {
            match written.value.parse::<IpAddr>() {
                Ok(address) if sources.contains(&address) => {
                    self.fault(written.spot, format!("source `{address}` is given twice"), "the second one");
                }
                Ok(address) if address.is_unspecified() || address.is_multicast() => {
                    let help = "leave `source` out for the system's choice";
                    let message = format!("bad address `{}`", written.value);
                    self.fault_with_help(written.spot, message, "not an address of this machine", help);
                }
                Ok(address) => {
                    if !endpoints.is_empty() && !endpoints.iter().any(|one| may_reach(&one.address, address)) {
                        let label = format!("no endpoint is reached over {}", family(address));
                        self.fault(written.spot, format!("source `{address}` has no effect"), label);
                    }
                    sources.push(address);
                }
                Err(_) => {
                    let message = format!("bad address `{}`", written.value);
                    self.fault(written.spot, message, "an address of this machine, without a port");
                }
            }
        }
        sources
    }
}

/// Whether a connection to an endpoint may come from this address. A name may have addresses of either family.
fn may_reach(endpoint: &EndpointAddress, source: IpAddr) -> bool {
    match endpoint {
        EndpointAddress::Socket(address) => address.ip().to_canonical().is_ipv4() == source.to_canonical().is_ipv4(),
        EndpointAddress::Dns { .. } => true,
        EndpointAddress::Unix(_) => false,
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.to_canonical().is_ipv4() { "IPv4" } else { "IPv6" }
}
