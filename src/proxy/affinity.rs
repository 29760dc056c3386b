//! The hash key of a request, from `hash_on`: requests with equal keys go to the same endpoint. Computed if the
//! upstream's policy hashes, before any field is edited.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::COOKIE;

use crate::config::model::HashOn;
use crate::upstream::balance::hash::{key_of, key_of_address, key_of_name};

/// What a key may be made of.
pub struct Asker<'a> {
    /// The client's address, behind trusted proxies as well.
    pub client: Option<IpAddr>,
    /// The name of its handshake with us.
    pub sni: Option<&'a str>,
    /// The path that routes see.
    pub path: &'a str,
    /// Its fields as they came.
    pub fields: &'a HeaderMap,
}

/// The key of a request: of the client's address where it lacks what is asked for; `None` where that is unknown too, as on a
/// Unix socket.
pub fn key(hash_on: &HashOn, asker: &Asker<'_>) -> Option<u64> {
    let key = match hash_on {
        HashOn::ClientIp => None,
        HashOn::Sni => asker.sni.map(key_of_name),
        HashOn::Path => Some(key_of(asker.path.as_bytes())),
        HashOn::Header(name) => asker.fields.get(name).map(|value| key_of(value.as_bytes())),
        HashOn::Cookie(name) => cookie(asker.fields, name.as_bytes()).map(key_of),
    };
    key.or_else(|| asker.client.map(key_of_address))
}

/// The value of the first cookie of this name (RFC 6265 §4.2.1). HTTP/2 splits them into fields (RFC 9113 §8.2.3).
fn cookie<'h>(fields: &'h HeaderMap, name: &[u8]) -> Option<&'h [u8]> {
    let pairs = fields.get_all(COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const CLIENT: [u8; 4] = [192, 0, 2, 7];

    fn key_with(hash_on: &HashOn, fields: &HeaderMap) -> Option<u64> {
        let asker = Asker { client: Some(CLIENT.into()), sni: Some("Shop.example"), path: "/a", fields };
        key(hash_on, &asker)
    }

    #[test]
    fn each_word_hashes_what_it_names() {
        let mut fields = HeaderMap::new();
        fields.insert("x-user", "alice".parse().unwrap());
        fields.append(COOKIE, "a=1; sid=s-1;sidx=2".parse().unwrap());
        assert_eq!(key_with(&HashOn::ClientIp, &fields), Some(key_of(&CLIENT)));
        assert_eq!(key_with(&HashOn::Sni, &fields), Some(key_of(b"shop.example")));
        assert_eq!(key_with(&HashOn::Path, &fields), Some(key_of(b"/a")));
        assert_eq!(key_with(&HashOn::Header(HeaderName::from_static("x-user")), &fields), Some(key_of(b"alice")));
        assert_eq!(key_with(&HashOn::Cookie("sid".into()), &fields), Some(key_of(b"s-1")));
        assert_eq!(key_with(&HashOn::Cookie("sidx".into()), &fields), Some(key_of(b"2")));
    }

    #[test]
    fn a_cookie_is_found_in_whichever_field_it_stands() {
        let mut fields = HeaderMap::new();
        fields.append(COOKIE, "a=1".parse().unwrap());
        fields.append(COOKIE, "sid=".parse().unwrap());
        assert_eq!(key_with(&HashOn::Cookie("sid".into()), &fields), Some(key_of(b"")));
    }

    #[test]
    fn who_lacks_it_is_known_by_its_address() {
        let fields = HeaderMap::new();
        for hash_on in [HashOn::Header(HeaderName::from_static("x-user")), HashOn::Cookie("sid".into())] {
            assert_eq!(key_with(&hash_on, &fields), Some(key_of(&CLIENT)));
        }
        let nobody = Asker { client: None, sni: None, path: "/", fields: &fields };
        assert_eq!(key(&HashOn::Sni, &nobody), None);
    }
}
