//! `Cookie`: HTTP/2 and HTTP/3 may split it into several fields, HTTP/1.1 allows one (sans-io, RFC 9113 §8.2.3, RFC
//! 9114 §4.2.1).

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

/// One Cookie field of several.
pub fn join(fields: &mut HeaderMap) {
    let mut cookies = fields.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else { return };
    let mut joined = Vec::from(first.as_bytes());
    for cookie in std::iter::once(second).chain(cookies) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        fields.insert(COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_become_one_in_their_order() {
        let mut fields = HeaderMap::new();
        join(&mut fields);
        assert!(fields.is_empty());
        for crumb in ["a=1", "b=2", "c=3"] {
            fields.append(COOKIE, HeaderValue::from_static(crumb));
        }
        join(&mut fields);
        assert_eq!(fields.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }
}
