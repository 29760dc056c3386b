//! The predicates of a route besides host and path: methods, header fields, query parameters (sans-io).

use http::{HeaderMap, HeaderName, Method};
use smallvec::SmallVec;

use crate::base::id::ListenerId;
use crate::config::model;

/// What routes are matched against.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'r> {
    /// Where the request came in.
    pub listener: ListenerId,
    /// Its method.
    pub method: &'r Method,
    /// The effective host: lowercase, no port, no trailing dot.
    pub host: &'r str,
    /// The path in its normal form.
    pub path: &'r str,
    /// What follows the `?`.
    pub query: Option<&'r str>,
    /// Its header fields.
    pub headers: &'r HeaderMap,
}

/// Why a route did not take a request whose host and path it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss<'t> {
    /// The method is not in its list.
    Method,
    /// The header field is absent or other.
    Header(&'t HeaderName),
    /// The query parameter is absent or other.
    Query(&'t str),
}

/// The further predicates of a route; all must hold.
#[derive(Clone, Debug, Default)]
pub struct Predicates {
    methods: SmallVec<[Method; 2]>,
    headers: Vec<(HeaderName, model::ValuePattern)>,
    query: Vec<(String, model::ValuePattern)>,
}

impl Predicates {
    /// Those of a configured route.
    pub fn new(route: &model::Route) -> Self {
        Self {
            methods: route.methods.iter().cloned().collect(),
            headers: route.headers.clone(),
            query: route.query.clone(),
        }
    }

    /// How many there are: the list of methods counts once, each header field and query parameter for itself.
    pub fn count(&self) -> usize {
        usize::from(!self.methods.is_empty()) + self.headers.len() + self.query.len()
    }

    /// Whether all hold.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check<'t>(&'t self, head: &RequestHead<'_>) -> Result<(), Miss<'t>> {
        if !self.methods.is_empty() && !self.methods.contains(head.method) {
            return Err(Miss::Method);
        }
        for (name, pattern) in &self.headers {
            let mut values = head.headers.get_all(name).iter();
            if !values.any(|value| matches_bytes(pattern, value.as_bytes())) {
                return Err(Miss::Header(name));
            }
        }
        for (name, pattern) in &self.query {
            if !parameters(head.query.unwrap_or("")).any(|(key, value)| key.is(name) && key_value(pattern, value)) {
                return Err(Miss::Query(name));
            }
        }
        Ok(())
    }
}

fn matches_bytes(pattern: &model::ValuePattern, value: &[u8]) -> bool {
    match pattern {
        model::ValuePattern::Exact(text) => text.as_bytes() == value,
        model::ValuePattern::Regex(regex) => str::from_utf8(value).is_ok_and(|value| regex.is_match(value)),
    }
}

fn key_value(pattern: &model::ValuePattern, value: Encoded<'_>) -> bool {
    match pattern {
        model::ValuePattern::Exact(text) => value.is(text),
        model::ValuePattern::Regex(regex) if value.is_plain() => regex.is_match(value.0),
        // The one allocation: an encoded value against a regular expression.
        model::ValuePattern::Regex(regex) => {
            String::from_utf8(value.decoded().collect()).is_ok_and(|value| regex.is_match(&value))
        }
    }
}

/// The parameters of a query as forms write them: `a=b&c`.
fn parameters(query: &str) -> impl Iterator<Item = (Encoded<'_>, Encoded<'_>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (Encoded(key), Encoded(value))
    })
}

/// A part of a query: percent-encoded, `+` for a space.
#[derive(Clone, Copy, Debug)]
struct Encoded<'q>(&'q str);

impl<'q> Encoded<'q> {
    fn is_plain(self) -> bool {
        memchr::memchr2(b'%', b'+', self.0.as_bytes()).is_none()
    }

    fn is(self, text: &str) -> bool {
        if self.is_plain() { self.0 == text } else { self.decoded().eq(text.bytes()) }
    }

    fn decoded(self) -> impl Iterator<Item = u8> + 'q {
        let mut bytes = self.0.as_bytes();
        std::iter::from_fn(move || {
            let (&first, rest) = bytes.split_first()?;
            bytes = rest;
            match (first, rest) {
                (b'+', _) => Some(b' '),
                (b'%', &[high, low, ..]) => {
                    let digit = |byte: u8| (byte as char).to_digit(16);
                    match digit(high).zip(digit(low)) {
                        Some((high, low)) => {
                            bytes = &rest[2..];
                            Some((high * 16 + low) as u8)
                        }
                        None => Some(b'%'),
                    }
                }
                _ => Some(first),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn exact(text: &str) -> model::ValuePattern {
        model::ValuePattern::Exact(text.into())
    }

    fn regex(text: &str) -> model::ValuePattern {
        model::ValuePattern::Regex(regex::Regex::new(text).unwrap())
    }

    fn head<'r>(method: &'r Method, headers: &'r HeaderMap, query: Option<&'r str>) -> RequestHead<'r> {
        RequestHead { listener: ListenerId(0), method, host: "", path: "/", query, headers }
    }

    #[test]
    fn every_predicate_must_hold() {
        let name = HeaderName::from_static("x-canary");
        let predicates = Predicates {
            methods: [Method::GET, Method::POST].into_iter().collect(),
            headers: vec![(name.clone(), exact("yes"))],
            query: vec![("v".into(), regex("^[12]$"))],
        };
        assert_eq!(predicates.count(), 3);
        let mut headers = HeaderMap::new();
        headers.append(&name, HeaderValue::from_static("no"));
        headers.append(&name, HeaderValue::from_static("yes"));
        let get = Method::GET;
        assert_eq!(predicates.check(&head(&get, &headers, Some("a&v=2"))), Ok(()));
        assert_eq!(predicates.check(&head(&Method::PUT, &headers, Some("v=2"))), Err(Miss::Method));
        assert_eq!(predicates.check(&head(&get, &HeaderMap::new(), Some("v=2"))), Err(Miss::Header(&name)));
        assert_eq!(predicates.check(&head(&get, &headers, Some("v=3"))), Err(Miss::Query("v")));
        assert_eq!(predicates.check(&head(&get, &headers, None)), Err(Miss::Query("v")));
    }

    #[test]
    fn query_values_are_decoded() {
        let pairs = |pattern| Predicates { query: vec![("a b".into(), pattern)], ..Predicates::default() };
        let headers = HeaderMap::new();
        let get = Method::GET;
        let holds = |pattern, query| pairs(pattern).check(&head(&get, &headers, Some(query))).is_ok();
        assert!(holds(exact("x&y"), "a+b=x%26y"));
        assert!(holds(exact("100%"), "z=1&a%20b=100%"));
        assert!(holds(regex("^ü$"), "a+b=%C3%BC"));
        assert!(!holds(regex("."), "a+b=%FF"));
        assert!(holds(exact(""), "a+b"));
    }
}
