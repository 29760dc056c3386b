//! Sets of client networks with logarithmic lookup (sans-io). An IPv4-mapped IPv6 address (`::ffff:0:0/96`) counts as
//! the IPv4 address.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// A set of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Networks {
    /// The union of `networks`.
    pub fn new(networks: &[IpNet]) -> Self {
        let mut set = Self::default();
        for network in networks {
            match (network.network(), network.broadcast()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => set.v4.push((first.into(), last.into())),
                (IpAddr::V6(first), IpAddr::V6(last)) => match (first.to_ipv4_mapped(), last.to_ipv4_mapped()) {
                    (Some(first), Some(last)) => set.v4.push((first.into(), last.into())),
                    _ => set.v6.push((first.into(), last.into())),
                },
                // A network begins and ends in one family.
                _ => {}
            }
        }
        merge(&mut set.v4);
        merge(&mut set.v6);
        set
    }

    /// Whether no network is in it.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether `address` is in one of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => holds(&self.v4, address.into()),
            IpAddr::V6(address) => holds(&self.v6, Ipv6Addr::into(address)),
        }
    }
}

/// Who may use a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    allow: Networks,
    deny: Networks,
}

impl Access {
    /// `deny` is asked before `allow`; an empty `allow` lets everybody in.
    pub fn new(allow: &[IpNet], deny: &[IpNet]) -> Self {
        Self { allow: Networks::new(allow), deny: Networks::new(deny) }
    }

    /// Whether every client may use the route, known or not.
    pub fn is_open(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether a client may use the route; one without an address (a Unix socket) only where no `allow` is written.
    pub fn permits(&self, client: Option<IpAddr>) -> bool {
        match client {
            _ if self.is_open() => true,
            Some(address) => !self.deny.contains(address) && (self.allow.is_empty() || self.allow.contains(address)),
            None => self.allow.is_empty(),
        }
    }
}

/// Sorts the ranges and joins those that overlap.
fn merge<T: Copy + Ord>(ranges: &mut Vec<(T, T)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|later, earlier| {
        let overlaps = later.0 <= earlier.1;
        if overlaps {
            earlier.1 = earlier.1.max(later.1);
        }
        overlaps
    });
}

fn holds<T: Copy + Ord>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after > 0 && address <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn deny_is_asked_before_allow() {
        let access = Access::new(&networks(&["10.0.0.0/8"]), &networks(&["10.1.0.0/16"]));
        assert!(access.permits(Some("10.2.0.1".parse().unwrap())));
        assert!(!access.permits(Some("10.1.0.1".parse().unwrap())));
        assert!(!access.permits(Some("192.0.2.1".parse().unwrap())));
        assert!(access.permits(Some("::ffff:10.2.0.1".parse().unwrap())));
        assert!(!access.permits(None));
        assert!(Access::default().permits(None));
    }

    #[test]
    fn families_are_apart() {
        let every_v6 = Networks::new(&networks(&["::/0"]));
        assert!(every_v6.contains("2001:db8::1".parse().unwrap()));
        assert!(!every_v6.contains("192.0.2.1".parse().unwrap()));
        let mapped = Networks::new(&networks(&["::ffff:10.0.0.0/104"]));
        assert!(mapped.contains("10.1.2.3".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn agrees_with_a_walk_through_the_list(
            nets in prop::collection::vec((any::<u8>(), 0u8..=32), 0..12),
            asked in prop::collection::vec(any::<u8>(), 1..20),
        ) {
            let nets: Vec<IpNet> = nets
                .iter()
                .map(|(byte, length)| IpNet::new(Ipv4Addr::new(*byte, 0, *byte, 0).into(), *length).unwrap())
                .collect();
            let set = Networks::new(&nets);
            for byte in asked {
                let address: IpAddr = Ipv4Addr::new(byte, 0, byte, 9).into();
                prop_assert_eq!(set.contains(address), nets.iter().any(|net| net.contains(&address)));
            }
        }
    }
}
