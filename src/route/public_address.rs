//! Which addresses are public (sans-io): the registries of RFC 6890 and later additions, and IPv6 addresses that embed
//! an IPv4 address. Used by `destination` for every address before it is connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether anybody on the internet could be meant by it, and nobody nearer: what is not is reached by an operator's explicit
/// word alone.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !SPECIAL_V4.iter().any(|(network, length)| in_v4(address, *network, *length)),
        IpAddr::V6(address) => {
            let special = SPECIAL_V6.iter().any(|(network, length)| in_v6(address, *network, *length));
            // RFC 4291 §2.4: only 2000::/3 is given out.
            address.segments()[0] >> 13 == 1 && !special && inside(address).is_none()
        }
    }
}

/// The IPv4 address that an IPv6 one leads to, by the network or by a tunnel.
pub fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => inside(address),
    }
}

fn inside(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    let last = v4(segments[6], segments[7]);
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // RFC 4291 §2.5.5: compatible and mapped; RFC 2765 §2.1: translated.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Some(last),
        // RFC 6052 §2.1, RFC 8215: a network that translates.
        [0x64, 0xff9b, ..] => Some(last),
        // RFC 3056 §2: 6to4.
        [0x2002, high, low, ..] => Some(v4(high, low)),
        // RFC 4380 §4: Teredo.
        [0x2001, 0, .., high, low] => Some(v4(!high, !low)),
        // RFC 5214 §6.1: ISATAP.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => Some(last),
        _ => None,
    }
}

fn in_v4(address: Ipv4Addr, network: [u8; 4], length: u32) -> bool {
    (u32::from(address) ^ u32::from_be_bytes(network)) >> (32 - length) == 0
}

fn in_v6(address: Ipv6Addr, network: [u16; 3], length: u32) -> bool {
    let [a, b, c] = network;
    let network = Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0);
    (u128::from(address) ^ u128::from(network)) >> (128 - length) == 0
}

/// The registry of IANA, those that are not globally reachable.
const SPECIAL_V4: [([u8; 4], u32); 15] = [
    ([0, 0, 0, 0], 8),       // this network; 0.0.0.0 reaches this machine
    ([10, 0, 0, 0], 8),      // private, RFC 1918
    ([100, 64, 0, 0], 10),   // shared by carriers, RFC 6598
    ([127, 0, 0, 0], 8),     // loopback
    ([169, 254, 0, 0], 16),  // link-local, and where clouds keep their secrets
    ([172, 16, 0, 0], 12),   // private, RFC 1918
    ([192, 0, 0, 0], 24),    // protocol assignments
    ([192, 0, 2, 0], 24),    // documentation, RFC 5737
    ([192, 88, 99, 0], 24),  // 6to4 relays, RFC 7526
    ([192, 168, 0, 0], 16),  // private, RFC 1918
    ([198, 18, 0, 0], 15),   // benchmarks, RFC 2544
    ([198, 51, 100, 0], 24), // documentation, RFC 5737
    ([203, 0, 113, 0], 24),  // documentation, RFC 5737
    ([224, 0, 0, 0], 4),     // multicast
    ([240, 0, 0, 0], 4),     // reserved, and broadcast
];
/// Of 2000::/3.
const SPECIAL_V6: [([u16; 3], u32); 4] = [
    ([0x2001, 0, 0], 23),     // protocol assignments: Teredo, benchmarks, ORCHID
    ([0x2001, 0xdb8, 0], 32), // documentation, RFC 3849
    ([0x2002, 0, 0], 16),     // 6to4, RFC 3056
    ([0x3fff, 0, 0], 20),     // documentation, RFC 9637
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_near_is_not_public() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::a00:1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
            "2a00:1450::5efe:7f00:1",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert!(!is_public(address(text)), "{text}");
        }
    }

    #[test]
    fn what_is_given_out_is_public() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
            "2003::1",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_public(address(text)), "{text}");
        }
    }

    #[test]
    fn what_is_inside_is_found() {
        for (text, inner) in [
            ("::ffff:127.0.0.1", Some("127.0.0.1")),
            ("64:ff9b::a9fe:a9fe", Some("169.254.169.254")),
            ("2002:0a00:0001::1", Some("10.0.0.1")),
            ("2001:0:4136:e378:8000:63bf:80ff:fffe", Some("127.0.0.1")),
            ("2a00::200:5efe:10.0.0.1", Some("10.0.0.1")),
            ("::1", None),
            ("::", None),
            ("2a00::1", None),
            ("10.0.0.1", None),
        ] {
            assert_eq!(embedded(address(text)), inner.map(|inner| inner.parse().unwrap()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_ipv4_address_is_as_public_in_ipv6_as_alone(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            prop_assert_eq!(is_public(v4.into()), is_public(v4.to_ipv6_mapped().into()));
        }

        #[test]
        fn nothing_that_std_knows_to_be_near_is_public(bits: u32, high: u128) {
            let v4 = Ipv4Addr::from(bits);
            let near = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast()
                || v4.is_unspecified() || v4.is_documentation();
            prop_assert!(!(near && is_public(v4.into())));
            let v6 = Ipv6Addr::from(high);
            let near = v6.is_loopback() || v6.is_multicast() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local();
            prop_assert!(!(near && is_public(v6.into())));
        }
    }
}
