//! The hash of the hashing policies: XXH3, the same on every machine and in every version, so that several proxies send
//! a key to the same endpoint. Keys come from clients: a client that knows the addresses can find colliding keys, but
//! gains no more than choosing an endpoint.

use std::net::IpAddr;

use twox_hash::XxHash3_64;

use crate::config::model::HashOn;

/// The hash of what is to stay with its endpoint.
pub fn key_of(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// The hash of a client's address, without its port; an IPv4 client of a dual-stack socket hashes as what it is.
pub fn key_of_address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => key_of(&address.octets()),
        IpAddr::V6(address) => key_of(&address.octets()),
    }
}

/// The hash of a host's name, whose case says nothing (RFC 4343 §2).
pub fn key_of_name(name: &str) -> u64 {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return key_of(name.to_ascii_lowercase().as_bytes());
    }
    key_of(name.as_bytes())
}

/// The hash of what keeps a connection with its endpoint that no request is read of: the name of its handshake, where that is
/// asked for and there is one, else the client's address; `None` where that is unknown too, as on a Unix socket.
pub fn key_of_connection(hash_on: &HashOn, sni: Option<&str>, client: Option<IpAddr>) -> Option<u64> {
    match (hash_on, sni) {
        (HashOn::Sni, Some(sni)) => Some(key_of_name(sni)),
        _ => client.map(key_of_address),
    }
}

/// As [`key_of`], another hash of the same bytes.
pub(super) fn second_of(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(SECOND, bytes)
}

/// Any number but zero, the same for ever.
const SECOND: u64 = 0x7469_6465;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_other_programs() {
        // From the reference implementation: what stands here may never change.
        assert_eq!(key_of(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(key_of_address("10.0.0.1".parse().unwrap()), key_of(&[10, 0, 0, 1]));
    }

    #[test]
    fn a_connection_is_known_by_its_name_or_its_client() {
        let client = Some([192, 0, 2, 7].into());
        assert_eq!(key_of_connection(&HashOn::Sni, Some("A.example"), client), Some(key_of(b"a.example")));
        for (hash_on, sni) in [(HashOn::Sni, None), (HashOn::ClientIp, Some("a.example"))] {
            assert_eq!(key_of_connection(&hash_on, sni, client), Some(key_of(&[192, 0, 2, 7])));
        }
        assert_eq!(key_of_connection(&HashOn::Sni, None, None), None);
    }

    #[test]
    fn a_mapped_client_is_the_same_client() {
        let mapped = "::ffff:192.0.2.7".parse().unwrap();
        assert_eq!(key_of_address(mapped), key_of_address("192.0.2.7".parse().unwrap()));
    }
}
