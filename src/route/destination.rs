//! Destinations in forward mode (sans-io): parses the host, applies the listener's `allow` and `deny`, and checks which
//! resolved addresses may be connected to. Called before a name is resolved, and again for every address before
//! connecting to it, so that a name that resolves differently gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::public_address::{embedded, is_public};
use crate::base::error::{Error, Kind};
use crate::config::model::{Destination, Hosts, Outbound};

/// The host of a request, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A literal address; never an IPv4 address inside of IPv6.
    Address(IpAddr),
    /// A name, lowercase, without a trailing dot.
    Name(Box<str>),
}

/// What the rules say of a host before its addresses are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Its public addresses, and those that a network allows.
    Public,
    /// The addresses alone that a network allows.
    Networks,
}

/// Why somebody may not go where they want to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prohibited<'a> {
    /// [`Kind::HttpRequestDenied`] by what is written or not, [`Kind::DestinationIpProhibited`] by where it is.
    pub kind: Kind,
    /// In a sentence.
    pub reason: &'static str,
    /// The entry of `deny` that decided; `None`: no entry of `allow` did.
    pub entry: Option<&'a Destination>,
}

impl Host {
    /// Reads the host of an authority: lowercase, without port and trailing dot, IPv6 in brackets.
    ///
    /// # Errors
    /// Neither a name nor an address as it is written. What resolvers would take for an address in another guise (`127.1`,
    /// `0x7f000001`) is none: a rule could not know what it means.
    pub fn read(host: &str) -> Result<Self, Error> {
        let bad = |reason| Err(Error::downstream(Kind::HttpRequestError, reason));
        if let Some(inside) = host.strip_prefix('[') {
            let address = inside.strip_suffix(']').and_then(|text| text.parse::<Ipv6Addr>().ok());
            return match address {
                Some(address) => Ok(Self::Address(IpAddr::V6(address).to_canonical())),
                None => bad("an invalid address in brackets"),
            };
        }
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        let mut labels = host.split('.');
        let valid = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if host.len() > 253 || !labels.all(valid) {
            return bad("a host that is not a name");
        }
        // As the URL standard has it: what ends in a number is an address, or nothing.
        let last = host.rsplit('.').next().unwrap_or_default();
        let is_hexadecimal = last.get(..2).is_some_and(|prefix| prefix.eq_ignore_ascii_case("0x"));
        if last.bytes().all(|byte| byte.is_ascii_digit()) || is_hexadecimal {
            return bad("an address has four numbers from 0 to 255");
        }
        Ok(Self::Name(host.to_ascii_lowercase().into()))
    }
}

/// Whether a host may be asked for at all. For a literal address this says nothing yet: [`may_connect`] does.
///
/// # Errors
/// A name that `deny` names, or that no entry of `allow` could let through, whatever it resolves to.
pub fn may_ask<'a>(rules: &'a Outbound, host: &Host, port: u16) -> Result<Reach, Prohibited<'a>> {
    let Host::Name(name) = host else {
        let is_any = rules.allow.iter().any(|entry| entry.hosts == Hosts::Any && entry.covers(port));
        return Ok(if is_any { Reach::Public } else { Reach::Networks });
    };
    if let Some(entry) = rules.deny.iter().find(|entry| entry.covers(port) && entry.names(name)) {
        let reason = "the listener's `deny` names the destination";
        return Err(Prohibited { kind: Kind::HttpRequestDenied, reason, entry: Some(entry) });
    }
    let mut by_network = false;
    for entry in rules.allow.iter().filter(|entry| entry.covers(port)) {
        if entry.names(name) {
            return Ok(Reach::Public);
        }
        by_network |= matches!(entry.hosts, Hosts::Network(_));
    }
    if by_network { Ok(Reach::Networks) } else { Err(NOT_ALLOWED) }
}

/// Whether this very address may be connected to.
///
/// # Errors
/// `deny` has it, or `allow` does not; an address that is not public wants an entry that is an address or a network.
pub fn may_connect(rules: &Outbound, reach: Reach, address: IpAddr, port: u16) -> Result<(), Prohibited<'_>> {
    let address = address.to_canonical();
    let inner = embedded(address).map(IpAddr::V4);
    let denies = |entry: &&Destination| {
        let holds = |address: IpAddr| matches!(&entry.hosts, Hosts::Network(network) if network.contains(&address));
        entry.covers(port) && (entry.hosts == Hosts::Any || holds(address) || inner.is_some_and(holds))
    };
    if let Some(entry) = rules.deny.iter().find(denies) {
        let reason = "the listener's `deny` has the destination's address";
        return Err(Prohibited { kind: Kind::DestinationIpProhibited, reason, entry: Some(entry) });
    }
    let by_network = |address: IpAddr| {
        let allows =
            |entry: &Destination| matches!(&entry.hosts, Hosts::Network(network) if network.contains(&address));
        rules.allow.iter().any(|entry| entry.covers(port) && allows(entry))
    };
    // What an address has inside is where it leads to: it wants as much.
    let inner_is_good = inner.is_none_or(|inner| is_public(inner) || by_network(inner));
    if by_network(address) && inner_is_good {
        return Ok(());
    }
    match (reach, is_public(address)) {
        (Reach::Public, true) => Ok(()),
        (_, false) => Err(NOT_PUBLIC),
        (Reach::Networks, true) => Err(NOT_ALLOWED),
    }
}

/// The entry of `allow` that lets a host be asked for: of a name one that has it, of an address one that it may be connected to by.
pub fn allowing<'a>(rules: &'a Outbound, host: &Host, port: u16) -> Option<&'a Destination> {
    let has = |entry: &&Destination| match (host, &entry.hosts) {
        (Host::Name(name), _) => entry.names(name),
        (Host::Address(address), Hosts::Network(network)) => network.contains(address),
        (Host::Address(address), hosts) => *hosts == Hosts::Any && is_public(*address),
    };
    rules.allow.iter().filter(|entry| entry.covers(port)).find(has)
}

const NOT_ALLOWED: Prohibited<'_> = Prohibited {
    kind: Kind::HttpRequestDenied,
    reason: "the destination is not in the listener's `allow`",
    entry: None,
};
const NOT_PUBLIC: Prohibited<'_> = Prohibited {
    kind: Kind::DestinationIpProhibited,
    reason: "the destination's address is not public and not in a network of the listener's `allow`",
    entry: None,
};

impl Destination {
    fn covers(&self, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port) && port != 0
    }

    fn names(&self, name: &str) -> bool {
        match &self.hosts {
            Hosts::Any => true,
            Hosts::Name(own) => **own == *name,
            Hosts::Below(own) => name.strip_suffix(own.as_str()).is_some_and(|labels| labels.ends_with('.')),
            Hosts::Network(_) => false,
        }
    }
}

impl From<Prohibited<'_>> for Error {
    fn from(prohibited: Prohibited<'_>) -> Self {
        let error = Error::downstream(prohibited.kind, prohibited.reason);
        match prohibited.entry {
            Some(entry) => error.because(format!("{entry} at {}:{}", entry.place.file, entry.place.line)),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use proptest::prelude::*;

    fn rules(allow: &str, deny: &str) -> Outbound {
        let text = format!(
            "[[listener]]\nbind = \":0\"\nmode = \"forward\"\nforward.allow = {allow}\nforward.deny = {deny}\n"
        );
        let config = config::parse("test.toml", &text).unwrap_or_else(|faults| panic!("{faults}"));
        let outbound = config.listeners[0].mode.outbound().expect("it forwards");
        Outbound::clone(outbound)
    }

    /// What becomes of `host:port`, whose name resolves to `address`.
    fn verdict(rules: &Outbound, host: &str, port: u16, address: &str) -> Option<Kind> {
        let host = match Host::read(host) {
            Ok(host) => host,
            Err(error) => return Some(error.kind()),
        };
        let address = match &host {
            Host::Address(address) => *address,
            Host::Name(_) => address.parse().unwrap(),
        };
        let reach = may_ask(rules, &host, port).map_err(|prohibited| prohibited.kind);
        reach.and_then(|reach| may_connect(rules, reach, address, port).map_err(|no| no.kind)).err()
    }

    const DENIED: Option<Kind> = Some(Kind::HttpRequestDenied);
    const PROHIBITED: Option<Kind> = Some(Kind::DestinationIpProhibited);
    const BAD: Option<Kind> = Some(Kind::HttpRequestError);

    #[test]
    fn names_lead_to_public_addresses_and_no_others() {
        let rules = rules("[\"*.example.org:443\", \"one.example:80-89\"]", "[]");
        for (host, port, address, expected) in [
            ("a.example.org", 443, "8.8.8.8", None),
            ("a.b.example.org", 443, "2606:4700::1", None),
            ("example.org", 443, "8.8.8.8", DENIED),
            ("badexample.org", 443, "8.8.8.8", DENIED),
            ("a.example.org.evil.test", 443, "8.8.8.8", DENIED),
            ("a.example.org", 80, "8.8.8.8", DENIED),
            ("one.example", 80, "8.8.8.8", None),
            ("one.example", 90, "8.8.8.8", DENIED),
            ("a.example.org", 443, "127.0.0.1", PROHIBITED),
            ("a.example.org", 443, "169.254.169.254", PROHIBITED),
            ("a.example.org", 443, "::ffff:10.0.0.1", PROHIBITED),
            ("a.example.org", 443, "64:ff9b::10.0.0.1", PROHIBITED),
            ("a.example.org", 443, "64:ff9b::8.8.8.8", PROHIBITED),
            ("8.8.8.8", 443, "", DENIED),
            ("127.0.0.1", 443, "", PROHIBITED),
            ("[::1]", 443, "", PROHIBITED),
            ("[::ffff:127.0.0.1]", 443, "", PROHIBITED),
            ("a.example.org", 0, "8.8.8.8", DENIED),
        ] {
            assert_eq!(verdict(&rules, host, port, address), expected, "{host}:{port} at {address}");
        }
    }

    #[test]
    fn networks_open_what_is_near_however_it_is_named() {
        let rules = rules("[\"10.0.0.0/8:*\", \"*:443\", \"[64:ff9b::/96]:*\", \"[::1]:80\"]", "[\"10.9.0.0/16:*\"]");
        for (host, port, address, expected) in [
            ("db.internal", 5432, "10.1.2.3", None),
            ("10.1.2.3", 5432, "", None),
            ("[::ffff:10.1.2.3]", 5432, "", None),
            ("db.internal", 5432, "10.9.2.3", PROHIBITED),
            ("db.internal", 5432, "11.0.0.1", DENIED),
            ("db.internal", 443, "11.0.0.1", None),
            ("db.internal", 443, "192.168.0.1", PROHIBITED),
            ("11.0.0.1", 443, "", None),
            ("11.0.0.1", 80, "", DENIED),
            ("[::1]", 80, "", None),
            ("[64:ff9b::808:808]", 80, "", None),
            ("[64:ff9b::10.1.2.3]", 80, "", None),
            ("[64:ff9b::10.9.2.3]", 80, "", PROHIBITED),
            ("[64:ff9b::127.0.0.1]", 80, "", PROHIBITED),
            ("[2002:7f00:1::]", 443, "", PROHIBITED),
        ] {
            assert_eq!(verdict(&rules, host, port, address), expected, "{host}:{port} at {address}");
        }
    }

    #[test]
    fn deny_wins() {
        let rules = rules("[\"*:*\"]", "[\"*.bad.example:*\", \"good.example:25\", \"1.2.3.0/24:*\"]");
        for (host, port, address, expected) in [
            ("a.bad.example", 443, "8.8.8.8", DENIED),
            ("bad.example", 443, "8.8.8.8", None),
            ("good.example", 25, "8.8.8.8", DENIED),
            ("good.example", 26, "8.8.8.8", None),
            ("good.example", 443, "1.2.3.4", PROHIBITED),
            ("1.2.3.4", 443, "", PROHIBITED),
        ] {
            assert_eq!(verdict(&rules, host, port, address), expected, "{host}:{port} at {address}");
        }
    }

    #[test]
    fn addresses_in_a_guise_are_no_hosts() {
        let rules = rules("[\"*:*\", \"127.0.0.0/8:*\"]", "[]");
        for host in [
            "127.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "127.0.0.0x1",
            "1.2.3.4.5",
            "256.1.1.1",
            "a.1",
            "[::1",
            "[1.2.3.4]",
            "[fe80::1%eth0]",
            "",
            ".",
            "a..b",
            "a~b.example",
            "a%2e.example",
            "user@a.example",
        ] {
            assert_eq!(verdict(&rules, host, 80, "8.8.8.8"), BAD, "{host}");
        }
        let long = format!("{}.example", "a.".repeat(130));
        assert_eq!(verdict(&rules, &long, 80, "8.8.8.8"), BAD);
        assert_eq!(verdict(&rules, &format!("{}.example", "a".repeat(64)), 80, "8.8.8.8"), BAD);
    }

    #[test]
    fn a_refusal_names_the_line_that_decided() {
        let rules = rules("[\"*:*\"]", "[\"*.bad.example:*\"]");
        let host = Host::read("x.bad.example").unwrap();
        let error = Error::from(may_ask(&rules, &host, 443).unwrap_err());
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "*.bad.example:* at test.toml:5");
    }

    proptest! {
        /// Whatever is written without a network, nothing near is ever reached.
        #[test]
        fn without_a_network_only_public_addresses_are_reached(
            bits: u128, four: bool, port: u16, any: bool,
        ) {
            let address = if four { IpAddr::from(Ipv4Addr::from(bits as u32)) } else { IpAddr::from(Ipv6Addr::from(bits)) };
            let rules = rules(if any { "[\"*:*\"]" } else { "[\"a.example:*\"]" }, "[]");
            let host = Host::read("a.example").unwrap();
            if let Ok(reach) = may_ask(&rules, &host, port)
                && may_connect(&rules, reach, address, port).is_ok()
            {
                prop_assert!(is_public(address));
            }
        }

        /// A name is read as a name, as an address, or not at all, and never as another name.
        #[test]
        fn hosts_keep_their_meaning(text in "[a-z0-9.x\\[\\]:-]{0,20}") {
            match Host::read(&text) {
                Ok(Host::Name(name)) => prop_assert_eq!(&*name, &*text),
                Ok(Host::Address(address)) => {
                    let bare = text.trim_matches(['[', ']']).parse::<IpAddr>().unwrap();
                    prop_assert_eq!(address, bare.to_canonical());
                }
                Err(error) => prop_assert_eq!(error.kind(), Kind::HttpRequestError),
            }
        }
    }
}
