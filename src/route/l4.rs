//! Routes of connections and datagrams that are not parsed as HTTP (sans-io): to one upstream, or by the ClientHello.
//! Compiled from `listener.{upstream, sni, alpn}`; looked up once for each session or flow.

use rustc_hash::FxHashMap;

use crate::base::id::UpstreamId;
use crate::config::model::{HelloRoutes, HostPattern, Mode, UdpRoute};

/// The way out of one listener of layer 4.
#[derive(Clone, Debug)]
pub enum Layer4 {
    /// Everything to one upstream.
    To(UpstreamId),
    /// By the ClientHello that begins it.
    ByHello(HelloTable),
}

/// `listener.sni` and `listener.alpn`, ready to be asked: the cost of an answer depends on the dots of the name and the
/// protocols of the client's list, not on how many of either are configured.
#[derive(Clone, Debug, Default)]
pub struct HelloTable {
    alpn: FxHashMap<Box<[u8]>, UpstreamId>,
    exact: FxHashMap<Box<str>, UpstreamId>,
    /// Keyed without the leading `*.`.
    wildcard: FxHashMap<Box<str>, UpstreamId>,
    longest_wildcard: usize,
    default: Option<UpstreamId>,
}

impl Layer4 {
    /// What `mode` says; `None` with `mode = "http"`, where routes decide, and where QUIC is spoken, which is another plane's.
    pub fn compile(mode: &Mode) -> Option<Self> {
        match mode {
            Mode::Http | Mode::Forward(_) | Mode::Quic(_) | Mode::Tcp { as_streams: true, .. } => None,
            Mode::Tcp { upstream, .. } | Mode::Udp(UdpRoute::Upstream(upstream)) => Some(Self::To(numbered(*upstream))),
            Mode::TlsPassthrough(routes) | Mode::Udp(UdpRoute::Quic(routes)) => {
                Some(Self::ByHello(HelloTable::new(routes)))
            }
        }
    }
}

/// Where the streams of a QUIC connection go that agreed on this protocol; `None`: it is none of the listener's.
pub fn by_alpn(mode: &Mode, alpn: Option<&str>) -> Option<UpstreamId> {
    let Mode::Quic(routes) = mode else { return None };
    let upstream = routes.iter().find(|(protocol, _)| Some(&**protocol) == alpn)?.1;
    Some(numbered(upstream))
}

impl HelloTable {
    /// The table of these routes. What is written twice keeps its first upstream.
    pub fn new(routes: &HelloRoutes) -> Self {
        let mut table = Self { default: routes.default.map(numbered), ..Self::default() };
        for (protocol, upstream) in &routes.alpn {
            table.alpn.entry(protocol.as_bytes().into()).or_insert(numbered(*upstream));
        }
        for (pattern, upstream) in &routes.sni {
            let (names, name) = match pattern {
                HostPattern::Exact(name) => (&mut table.exact, name),
                HostPattern::Wildcard(suffix) => {
                    table.longest_wildcard = table.longest_wildcard.max(suffix.len());
                    (&mut table.wildcard, suffix)
                }
            };
            names.entry(name.as_str().into()).or_insert(numbered(*upstream));
        }
        table
    }

    /// The upstream of a hello: by the first of the client's protocols that is named here, else by the exact name, else
    /// by the longest wildcard, else the default; `None`: nobody wants it. `sni` is lowercase and without a final dot.
    pub fn find<'a>(&self, sni: Option<&str>, mut alpn: impl Iterator<Item = &'a [u8]>) -> Option<UpstreamId> {
        if !self.alpn.is_empty()
            && let Some(upstream) = alpn.find_map(|protocol| self.alpn.get(protocol))
        {
            return Some(*upstream);
        }
        sni.and_then(|name| self.named(name)).or(self.default)
    }

    fn named(&self, name: &str) -> Option<UpstreamId> {
        if let Some(upstream) = self.exact.get(name) {
            return Some(*upstream);
        }
        if self.wildcard.is_empty() {
            return None;
        }
        // A suffix longer than every wildcard is skipped without being hashed.
        let start = name.len().saturating_sub(self.longest_wildcard + 1);
        let mut dots = memchr::memchr_iter(b'.', &name.as_bytes()[start..]).map(|dot| start + dot);
        // At least one label stands before the dot.
        dots.find_map(|dot| self.wildcard.get(&name[dot + 1..]).filter(|_| dot > 0)).copied()
    }
}

fn numbered(upstream: usize) -> UpstreamId {
    // The model counts its upstreams in memory; a configuration of four billion does not load.
    UpstreamId(upstream as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(sni: &[(&str, usize)], alpn: &[(&str, usize)], default: Option<usize>) -> HelloTable {
        let pattern = |name: &str| match name.strip_prefix("*.") {
            Some(suffix) => HostPattern::Wildcard(suffix.to_owned()),
            None => HostPattern::Exact(name.to_owned()),
        };
        HelloTable::new(&HelloRoutes {
            sni: sni.iter().map(|(name, upstream)| (pattern(name), *upstream)).collect(),
            alpn: alpn.iter().map(|(name, upstream)| ((*name).to_owned(), *upstream)).collect(),
            default,
        })
    }

    fn find(table: &HelloTable, sni: Option<&str>, alpn: &[&str]) -> Option<u32> {
        table.find(sni, alpn.iter().map(|protocol| protocol.as_bytes())).map(|upstream| upstream.0)
    }

    #[test]
    fn an_exact_name_comes_before_the_longest_wildcard_and_that_before_shorter_ones() {
        let names = [("*.org", 0), ("*.example.org", 1), ("db.example.org", 2), ("*.a.example.org", 3)];
        let table = table(&names, &[], Some(9));
        for (name, upstream) in [
            ("db.example.org", 2),
            ("x.example.org", 1),
            ("x.y.example.org", 1),
            ("x.a.example.org", 3),
            ("a.example.org", 1),
            ("example.org", 0),
            ("org", 9),
            (".org", 9),
            ("example.com", 9),
        ] {
            assert_eq!(find(&table, Some(name), &[]), Some(upstream), "{name}");
        }
        assert_eq!(find(&table, None, &[]), Some(9));
    }

    #[test]
    fn without_a_default_what_matches_nothing_goes_nowhere() {
        let table = table(&[("a.example", 0)], &[], None);
        assert_eq!(find(&table, Some("b.example"), &["h2"]), None);
        assert_eq!(find(&table, None, &[]), None);
        assert_eq!(find(&HelloTable::default(), Some("a"), &["h2"]), None);
    }

    #[test]
    fn the_first_protocol_of_the_client_that_is_named_decides_before_the_name() {
        let table = table(&[("a.example", 0)], &[("postgresql", 1), ("h2", 2)], Some(3));
        assert_eq!(find(&table, Some("a.example"), &["unknown", "h2", "postgresql"]), Some(2));
        assert_eq!(find(&table, Some("a.example"), &["postgresql", "h2"]), Some(1));
        assert_eq!(find(&table, Some("a.example"), &["H2"]), Some(0), "protocols are bytes, not words");
        assert_eq!(find(&table, None, &["http/1.1"]), Some(3));
    }

    #[test]
    fn each_mode_has_its_way() {
        assert!(Layer4::compile(&Mode::Http).is_none());
        for mode in [Mode::Tcp { upstream: 4, as_streams: false }, Mode::Udp(UdpRoute::Upstream(4))] {
            assert!(matches!(Layer4::compile(&mode), Some(Layer4::To(UpstreamId(4)))));
        }
        let routes = HelloRoutes { default: Some(7), ..HelloRoutes::default() };
        for mode in [Mode::TlsPassthrough(routes.clone()), Mode::Udp(UdpRoute::Quic(routes))] {
            let Some(Layer4::ByHello(table)) = Layer4::compile(&mode) else { panic!("not by hello") };
            assert_eq!(find(&table, None, &[]), Some(7));
        }
    }

    /// What the table must answer, by asking every pattern.
    fn by_asking_each(names: &[(String, usize)], name: &str) -> Option<u32> {
        let exact = names.iter().find(|(pattern, _)| pattern == name);
        let wild = |pattern: &str| {
            pattern.strip_prefix('*').is_some_and(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
        };
        let longest = names.iter().rev().filter(|(pattern, _)| wild(pattern)).max_by_key(|(pattern, _)| pattern.len());
        exact.or(longest).map(|(_, upstream)| *upstream as u32)
    }

    proptest::proptest! {
        #[test]
        fn answers_as_asking_every_pattern_would(
            names in proptest::collection::vec(("(\\*\\.)?[ab](\\.[ab]){0,4}", 0..100usize), 0..40),
            asked in proptest::collection::vec("[ab](\\.[ab]){0,6}", 0..20),
        ) {
            let pairs: Vec<(&str, usize)> = names.iter().map(|(name, upstream)| (name.as_str(), *upstream)).collect();
            let table = table(&pairs, &[], None);
            for name in asked {
                proptest::prop_assert_eq!(find(&table, Some(&name), &[]), by_asking_each(&names, &name), "{}", name);
            }
        }
    }
}
