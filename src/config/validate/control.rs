//! `[server.admin]` and `[server.observe]`.

use std::net::IpAddr;

use super::Check;
use super::address::host_name;
use crate::config::findings::Finding;
use crate::config::model::{Bind, ControlListener, EndpointAddress, TokenFile};
use crate::config::section::{Section, Written};
use crate::config::source::Spot;

/// One of the two, as the checks of listeners and endpoints need it.
pub(super) struct OwnAddress {
    name: &'static str,
    bind: Bind,
    spot: Spot,
}

impl Check<'_> {
    pub(super) fn control_listener(&mut self, server: Option<&Section>, name: &'static str) -> Option<ControlListener> {
        let section = server?.section(name)?;
        let written = section.text("bind")?;
        let bind = self.bind(written)?;
        self.claim_for_control(name, &bind, written);
        let token_file =
            section.text("token_file").map(|file| TokenFile { path: self.path(file), place: self.place(file.spot) });
        let is_open = name == "admin" && !matches!(bind, Bind::Unix(_)) && !section.has("token_file");
        if is_open {
            let finding = Finding::new(
                written.spot,
                "admin over TCP without a token",
                "anyone who can reach it could control the proxy",
            );
            let help =
                "write `token_file = \"/etc/tidegate/admin.token\"`, or `bind = \"unix:/run/tidegate/admin.sock\"`";
            self.findings.push_absent(finding.help(help));
        }
        let hosts = section.texts("hosts").filter_map(|host| self.own_host(host)).collect();
        Some(ControlListener { bind, token_file, hosts, place: self.place(written.spot) })
    }

    fn claim_for_control(&mut self, name: &'static str, bind: &Bind, written: Written<'_>) {
        if let Some(other) = self.own.iter().find(|own| own.bind.overlaps(bind)) {
            let message = format!("address `{}` is bound twice", written.value);
            let finding = Finding::new(written.spot, message, "taken already");
            self.findings.push(finding.second(other.spot, "first bound here"));
        }
        self.own.push(OwnAddress { name, bind: bind.clone(), spot: written.spot });
    }

    /// A listener that would share an address with admin or observe.
    pub(super) fn not_ours(&mut self, bind: &Bind, written: Written<'_>) {
        if let Some(own) = self.own.iter().find(|own| own.bind.overlaps(bind)) {
            let message = format!("address `{}` is that of `server.{}`", written.value, own.name);
            let finding = Finding::new(written.spot, message, "taken already");
            self.findings.push(finding.second(own.spot, "bound here"));
        }
    }

    /// An endpoint that would make admin or observe reachable for every client.
    pub(super) fn not_our_endpoint(&mut self, address: &EndpointAddress, written: Written<'_>) {
        if let Some(own) = self.own.iter().find(|own| own.bind.is_reached_at(address)) {
            let message = format!("endpoint `{}` is the address of `server.{}`", written.value, own.name);
            let label = "clients could reach it through this proxy";
            let finding = Finding::new(written.spot, message, label).second(own.spot, "bound here");
            self.findings.push(finding.help("use another endpoint; that listener is for operators only"));
        }
    }

    fn own_host(&mut self, written: Written<'_>) -> Option<Box<str>> {
        match host_name(written.value) {
            Ok(()) => Some(written.value.trim_end_matches('.').to_ascii_lowercase().into()),
            Err(reason) => {
                self.fault(written.spot, format!("bad host `{}`", written.value), reason);
                None
            }
        }
    }
}

impl Bind {
    /// Whether both would take the same connections.
    fn overlaps(&self, other: &Bind) -> bool {
        let (Some((ip, port)), Some((other_ip, other_port))) = (self.socket(), other.socket()) else {
            return self == other;
        };
        port != 0 && port == other_port && (ip == other_ip || ip.is_none() || other_ip.is_none())
    }

    /// Whether a connection to `address` would arrive here, as far as the addresses themselves tell: those of this machine's
    /// interfaces are not known, and of names only `localhost` is.
    pub fn is_reached_at(&self, address: &EndpointAddress) -> bool {
        let (ip, port) = match (self, address) {
            (Bind::Unix(path), EndpointAddress::Unix(endpoint)) => return path == endpoint,
            (_, EndpointAddress::Socket(address)) => (address.ip().to_canonical(), address.port()),
            (_, EndpointAddress::Dns { host, port }) if is_localhost(host) => {
                // RFC 6761 §6.3: always this machine, over either family.
                return self.socket().is_some_and(|(ip, own)| own == *port && ip.is_none_or(|ip| ip.is_loopback()));
            }
            _ => return false,
        };
        match self.socket() {
            Some((None, own)) => own == port && (ip.is_loopback() || ip.is_unspecified()),
            // Linux takes a connection to the unspecified address to loopback.
            Some((Some(own_ip), own)) => {
                own != 0 && own == port && (own_ip == ip || (own_ip.is_loopback() && ip.is_unspecified()))
            }
            None => false,
        }
    }

    /// The address, or `None` for all of them, and the port.
    fn socket(&self) -> Option<(Option<IpAddr>, u16)> {
        match self {
            Bind::AnyAddress(port) => Some((None, *port)),
            Bind::Address(address) => {
                let ip = address.ip().to_canonical();
                Some(((!ip.is_unspecified()).then_some(ip), address.port()))
            }
            Bind::Unix(_) => None,
        }
    }
}

fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use crate::config;

    const SITE: &str = "[[listener]]\nbind = \"127.0.0.1:8080\"\n[[route]]\nupstream = \"app\"\n";

    fn faults(server: &str, endpoint: &str) -> Vec<String> {
        let text = format!("[server]\n{server}\n{SITE}[upstream.app]\nendpoints = [\"{endpoint}\"]\n");
        match config::parse("test.toml", &text) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(|fault| fault.message.clone()).collect(),
        }
    }

    #[test]
    fn admin_over_tcp_needs_a_token() {
        let open = faults("admin.bind = \"127.0.0.1:9901\"", "10.0.0.1:80");
        assert_eq!(open, ["admin over TCP without a token"]);
        assert!(faults("admin = { bind = \"127.0.0.1:9901\", token_file = \"t\" }", "10.0.0.1:80").is_empty());
        assert!(faults("admin.bind = \"unix:/run/a.sock\"", "10.0.0.1:80").is_empty());
        assert!(faults("observe.bind = \":9900\"", "10.0.0.1:80").is_empty());
    }

    #[test]
    fn an_address_is_bound_once() {
        for server in [
            "observe.bind = \"127.0.0.1:8080\"",
            "observe.bind = \":8080\"",
            "observe.bind = \"0.0.0.0:8080\"",
            "observe.bind = \"unix:/x\"\nadmin.bind = \"unix:/x\"",
        ] {
            let found = faults(server, "10.0.0.1:80");
            assert!(found.len() == 1 && found[0].starts_with("address `"), "{server}: {found:?}");
        }
        assert!(faults("observe.bind = \"127.0.0.2:8080\"", "10.0.0.1:80").is_empty());
        assert!(faults("observe.bind = \":0\"\nadmin.bind = \"unix:/x\"", "10.0.0.1:80").is_empty());
    }

    #[test]
    fn no_upstream_reaches_it() {
        for (bind, endpoint) in [
            ("127.0.0.1:9900", "127.0.0.1:9900"),
            ("127.0.0.1:9900", "[::ffff:127.0.0.1]:9900"),
            ("127.0.0.1:9900", "0.0.0.0:9900"),
            ("127.0.0.1:9900", "dns:localhost:9900"),
            (":9900", "127.8.0.1:9900"),
            (":9900", "[::1]:9900"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            let found = faults(&format!("observe.bind = \"{bind}\""), endpoint);
            assert!(
                found.len() == 1 && found[0].contains("is the address of `server.observe`"),
                "{endpoint}: {found:?}"
            );
        }
        assert!(faults("observe.bind = \"127.0.0.1:9900\"", "127.0.0.1:9901").is_empty());
        assert!(faults("observe.bind = \"127.0.0.1:9900\"", "10.0.0.1:9900").is_empty());
    }

    #[test]
    fn a_host_is_a_name() {
        assert_eq!(faults("observe = { bind = \":9\", hosts = \"a:80\" }", "10.0.0.1:80"), ["bad host `a:80`"]);
        assert!(faults("observe = { bind = \":9\", hosts = [\"Status.internal.\"] }", "10.0.0.1:80").is_empty());
    }
}
