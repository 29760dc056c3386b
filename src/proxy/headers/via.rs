//! `Via`: adds the proxy to the chain of intermediaries and detects loops (sans-io, RFC 9110 §7.6.3).

use http::header::VIA;
use http::{HeaderMap, HeaderValue, Version};

/// Our entries of `Via`, made once.
#[derive(Clone, Debug)]
pub struct Via {
    pseudonym: Box<[u8]>,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
    http3: HeaderValue,
}

impl Via {
    /// Entries for a pseudonym; `None` where it is no token and could not stand there.
    pub fn new(pseudonym: &str) -> Option<Self> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:".contains(&byte);
        if pseudonym.is_empty() || !pseudonym.bytes().all(is_token) {
            return None;
        }
        let entry = |version: &str| HeaderValue::try_from(format!("{version} {pseudonym}")).ok();
        Some(Self {
            pseudonym: pseudonym.as_bytes().into(),
            http10: entry("1.0")?,
            http11: entry("1.1")?,
            http2: entry("2")?,
            http3: entry("3")?,
        })
    }

    /// Adds our entry to a message that came in as `version`.
    pub fn append(&self, headers: &mut HeaderMap, version: Version) {
        let entry = match version {
            Version::HTTP_2 => &self.http2,
            Version::HTTP_3 => &self.http3,
            Version::HTTP_10 => &self.http10,
            _ => &self.http11,
        };
        headers.append(VIA, entry.clone());
    }

    /// Whether the message passed under our name more often than chains of proxies are long.
    pub fn is_loop(&self, headers: &HeaderMap) -> bool {
        let entries = headers.get_all(VIA).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let received_by = |entry: &[u8]| {
            let mut words = entry.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
            words.nth(1).is_some_and(|name| name.eq_ignore_ascii_case(&self.pseudonym))
        };
        entries.filter(|entry| received_by(entry)).nth(MAX_PASSES).is_some()
    }
}

/// Several proxies of one name in a row are usual, and they all have the default one.
const MAX_PASSES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_the_version_the_message_came_with() {
        let via = Via::new("tidegate").unwrap();
        let mut headers = HeaderMap::new();
        headers.append(VIA, HeaderValue::from_static("1.0 fred"));
        via.append(&mut headers, Version::HTTP_10);
        via.append(&mut headers, Version::HTTP_11);
        via.append(&mut headers, Version::HTTP_2);
        via.append(&mut headers, Version::HTTP_3);
        let values: Vec<_> = headers.get_all(VIA).iter().collect();
        assert_eq!(values, ["1.0 fred", "1.0 tidegate", "1.1 tidegate", "2 tidegate", "3 tidegate"]);
    }

    #[test]
    fn a_message_that_goes_in_circles_is_seen() {
        let via = Via::new("tidegate").unwrap();
        let mut headers = HeaderMap::new();
        headers.append(VIA, HeaderValue::from_static("1.1 tidegate, 1.1 other (tidegate) ,\t2  Tidegate"));
        for _ in 0..6 {
            via.append(&mut headers, Version::HTTP_11);
            assert!(!via.is_loop(&headers));
        }
        via.append(&mut headers, Version::HTTP_11);
        assert!(via.is_loop(&headers));
    }

    #[test]
    fn a_name_that_is_no_token_is_none() {
        assert!(Via::new("a b").is_none() && Via::new("").is_none() && Via::new("a\r\n").is_none());
        assert!(Via::new("proxy.example.org:8080").is_some());
    }
}
