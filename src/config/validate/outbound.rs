//! `listener.forward`: destinations (`"*.example.org:443"`, `"10.0.0.0/8:*"`), users, name servers.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::Check;
use super::address::host_name;
use crate::config::defaults;
use crate::config::findings::Finding;
use crate::config::model::{Destination, Hosts, Outbound, OutboundTimeouts};
use crate::config::section::{Section, Written};

impl Check<'_> {
    pub(super) fn outbound(&mut self, listener: &Section) -> Outbound {
        let section = listener.section("forward");
        let list = |key| section.map_or_else(Vec::new, |section| section.texts(key).collect());
        let allow: Vec<Written<'_>> = list("allow");
        let (deny, name_servers): (Vec<Written<'_>>, Vec<Written<'_>>) = (list("deny"), list("name_servers"));
        // CONFIG: nothing is allowed that is not written, and a listener that lets nobody go anywhere is a mistake.
        if allow.is_empty() && listener.is_sound(&["forward"]) && section.is_none_or(|s| s.is_sound(&["allow"])) {
            let spot =
                section.map_or(listener.spot, |section| section.node("allow").map_or(section.spot, |node| node.spot));
            let finding = Finding::new(spot, "mode \"forward\" without `forward.allow`", "no destination");
            let help = "nothing is allowed by default; write `forward.allow = [\"*.example.org:443\"]`";
            self.findings.push_absent(finding.help(help));
        }
        Outbound {
            allow: allow.into_iter().filter_map(|written| self.destination(written)).collect(),
            deny: deny.into_iter().filter_map(|written| self.destination(written)).collect(),
            users: section
                .and_then(|section| section.text("users"))
                .map(|written| (self.path(written), self.place(written.spot))),
            name_servers: name_servers.into_iter().filter_map(|written| self.name_server(written)).collect(),
            timeouts: timeouts(section.and_then(|section| section.section("timeouts"))),
        }
    }

    fn destination(&mut self, written: Written<'_>) -> Option<Destination> {
        match parse(written.value) {
            Ok((hosts, ports)) => Some(Destination { hosts, ports, place: self.place(written.spot) }),
            Err((label, help)) => {
                let message = format!("bad destination `{}`", written.value);
                self.findings.push(Finding::new(written.spot, message, label).help_if(help));
                None
            }
        }
    }

    fn name_server(&mut self, written: Written<'_>) -> Option<SocketAddr> {
        let text = written.value;
        if let Some(address) = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0) {
            return Some(address);
        }
        let help = match text.parse::<IpAddr>() {
            Ok(address) => format!("write `{}`", SocketAddr::new(address, 53)),
            Err(_) => "write \"192.0.2.53:53\" or \"[2001:db8::53]:53\"".to_owned(),
        };
        self.fault_with_help(written.spot, format!("bad name server `{text}`"), "not an address with its port", help);
        None
    }
}

fn timeouts(section: Option<&Section>) -> OutboundTimeouts {
    let duration = |key| section.and_then(|section| section.duration(key));
    OutboundTimeouts {
        connect: duration("connect").unwrap_or(defaults::OUTBOUND_CONNECT_TIMEOUT),
        response: duration("response").unwrap_or(defaults::RESPONSE_TIMEOUT),
        stream_idle: duration("stream_idle").unwrap_or(defaults::STREAM_IDLE),
        tunnel_idle: duration("tunnel_idle").unwrap_or(defaults::OUTBOUND_TUNNEL_IDLE),
    }
}

/// What is wrong with an entry, and what helps.
type Wrong = (&'static str, Option<String>);

fn parse(text: &str) -> Result<(Hosts, (u16, u16)), Wrong> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split('/').next().unwrap_or(rest);
        let port = if scheme == "http" { 80 } else { 443 };
        let entry = if host.contains(':') { host.to_owned() } else { format!("{host}:{port}") };
        return Err(("a destination is a host and a port, not a URL", Some(format!("write `{entry}`"))));
    }
    let bracketed = text.strip_prefix('[').and_then(|inside| inside.split_once(']'));
    let (host, behind) = match bracketed {
        Some((inside, behind)) => (inside, behind.strip_prefix(':')),
        None => match text.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                let address = host.split('/').next().unwrap_or(host).parse::<Ipv6Addr>();
                let help = address.is_ok().then(|| format!("write `[{host}]:{}`", &text[host.len() + 1..]));
                return Err(("an IPv6 address needs brackets, with the port after them", help));
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let Some(port) = behind else {
        let help = format!("write `{text}:443`, or `{text}:*` for every port");
        return Err(("the port is missing", Some(help)));
    };
    Ok((hosts(host, bracketed.is_some())?, ports(port)?))
}

fn ports(text: &str) -> Result<(u16, u16), Wrong> {
    let number = |text: &str| -> Result<u16, Wrong> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let port = if digits { text.parse().ok() } else { None };
        port.filter(|port| *port != 0).ok_or(("the port is a number from 1 to 65535, a range of them or `*`", None))
    };
    match text.split_once('-') {
        _ if text == "*" => Ok((1, u16::MAX)),
        None => number(text).map(|port| (port, port)),
        Some((first, last)) => match (number(first)?, number(last)?) {
            (first, last) if first <= last => Ok((first, last)),
            (first, last) => Err(("the range ends before it begins", Some(format!("write `{last}-{first}`")))),
        },
    }
}

fn hosts(host: &str, bracketed: bool) -> Result<Hosts, Wrong> {
    if let Some(network) = network(host) {
        if bracketed && matches!(network, IpNet::V4(_)) {
            return Err(("brackets are for IPv6", Some(format!("write `{host}`"))));
        }
        if network.trunc() != network {
            let help = format!("write `{}` for the network, or the address alone", network.trunc());
            return Err(("an address inside the network, not the network", Some(help)));
        }
        if let IpNet::V6(v6) = network
            && let Some(v4) = v6.addr().to_ipv4_mapped()
        {
            // What is connected to is the IPv4 address: the entry would match nothing.
            let length = v6.prefix_len().checked_sub(96);
            let help = length.map(|length| if length == 32 { v4.to_string() } else { format!("{v4}/{length}") });
            return Err(("an IPv4 address in IPv6", help.map(|help| format!("write `{help}`"))));
        }
        return Ok(Hosts::Network(network));
    }
    if bracketed || host.contains('/') {
        return Err(("neither an address nor a network", None));
    }
    if host == "*" {
        return Ok(Hosts::Any);
    }
    let (is_below, name) = match host.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, host),
    };
    if name.contains('*') {
        return Err(("`*` is allowed only alone or as a leading `*.`", None));
    }
    host_name(name).map_err(|reason| (reason, None))?;
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if is_number(name.rsplit('.').next().unwrap_or_default()) {
        return Err(("an address has four numbers from 0 to 255", None));
    }
    Ok(if is_below { Hosts::Below(name) } else { Hosts::Name(name) })
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Whether a last label makes resolvers read the whole as an address (`127.1`, `0x7f000001`).
fn is_number(label: &str) -> bool {
    label.bytes().all(|byte| byte.is_ascii_digit())
        || label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Place;

    #[test]
    fn destinations_are_read_as_they_are_written() {
        for text in [
            "example.org:443",
            "*.example.org:443",
            "*:443",
            "*:*",
            "10.0.0.0/8:*",
            "10.0.0.1:8080",
            "[2001:db8::/32]:443",
            "[2001:db8::1]:8000-8999",
            "xn--bcher-kva.example:80",
        ] {
            let (hosts, ports) = parse(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
            let place = Place { file: "".into(), line: 1, column: 1 };
            assert_eq!(Destination { hosts, ports, place }.to_string(), text);
        }
        assert_eq!(parse("API.Example.ORG.:443").unwrap().0, Hosts::Name("api.example.org".into()));
    }

    #[test]
    fn what_is_wrong_is_told_with_what_helps() {
        for (text, help) in [
            ("example.org", "write `example.org:443`, or `example.org:*` for every port"),
            ("https://example.org/x", "write `example.org:443`"),
            ("http://example.org:8080", "write `example.org:8080`"),
            ("2001:db8::1:443", "write `[2001:db8::1]:443`"),
            ("10.0.0.1/8:*", "write `10.0.0.0/8` for the network, or the address alone"),
            ("[10.0.0.0/8]:*", "write `10.0.0.0/8`"),
            ("[::ffff:10.0.0.0/104]:*", "write `10.0.0.0/8`"),
            ("a:90-80", "write `80-90`"),
        ] {
            assert_eq!(parse(text).unwrap_err().1.as_deref(), Some(help), "{text}");
        }
        for text in [
            "a:0",
            "a:65536",
            "a:",
            "a:+80",
            "a:80-",
            ":443",
            "*a.example:443",
            "a.*:443",
            "bücher.example:443",
            "127.1:80",
            "0x7f000001:80",
            "10.0.0.256:80",
            "[a]:80",
            "a/b:80",
            "[::1:80",
            "a b:80",
            "u@a:80",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
