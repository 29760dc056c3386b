//! Networks of clients: `"10.0.0.0/8"`, `"2001:db8::/32"`, a single address.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Check;
use crate::config::section::Section;

impl Check<'_> {
    /// The networks of a list.
    pub(super) fn networks(&mut self, section: &Section, key: &str) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for written in section.texts(key) {
            let text = written.value;
            let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            match network {
                Some(network) if network.trunc() != network => {
                    let help = format!("write `{}` for the network, or the address alone", network.trunc());
                    let message = format!("bad network `{text}`");
                    self.fault_with_help(written.spot, message, "an address inside the network, not the network", help);
                }
                Some(network) => networks.push(network),
                None => {
                    let help = "write \"10.0.0.0/8\", \"2001:db8::/32\" or a single address";
                    self.fault_with_help(written.spot, format!("bad network `{text}`"), "not a network", help);
                }
            }
        }
        networks
    }
}
