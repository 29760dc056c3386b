//! Which keys decide that an exchange or a session ends in an outcome, and why no key does, where that is so. `explain` names
//! the line of a refusal by it and the outcome of a deadline or limit; docs/access-log.md shows it.

use crate::base::error::Kind;

/// What becomes of a request that no listener is for: its client meets nothing of ours, so that it is no word of the log.
pub const NO_LISTENER: &str = "no_listener";

/// What decides about an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decider {
    /// Keys, with the names of their tables: the bound that was reached, the rule, or where the endpoint is said to be.
    pub keys: &'static [&'static str],
    /// What decides besides them, or instead of them; empty: nothing does.
    pub otherwise: &'static str,
}

/// What decides about an outcome.
pub const fn decider(kind: Kind) -> Decider {
    let (keys, otherwise): (&[&str], &str) = match kind {
        Kind::DnsTimeout => (
            &["upstream.endpoints", "upstream.timeouts.connect", "listener.forward.timeouts.connect", NAME_SERVERS],
            "",
        ),
        Kind::DnsError => (&["upstream.endpoints", NAME_SERVERS], ""),
        Kind::DestinationNotFound => (
            &["route.host", "route.path", "route.method", "route.header", "route.query", "listener.sni"],
            "each route by itself: `tidegate explain` says why it is none",
        ),
        Kind::DestinationUnavailable => (
            &["upstream.endpoints", "upstream.health", "upstream.outlier", "upstream.source"],
            "an operator who drained the endpoints",
        ),
        Kind::DestinationIpProhibited => (
            &[ALLOWED, DENIED, "server.admin.bind", "server.observe.bind"],
            "the default, which denies private networks",
        ),
        Kind::ConnectionRefused => (&["upstream.endpoints"], "the endpoint, where nobody listens"),
        Kind::ConnectionTerminated => (&[], "the endpoint, or the network"),
        Kind::ConnectionTimeout => (&["upstream.timeouts.connect", "listener.forward.timeouts.connect"], ""),
        Kind::ConnectionWriteTimeout | Kind::HttpResponseTimeout => {
            (&["route.timeouts.response", "upstream.timeouts.response", "listener.forward.timeouts.response"], "")
        }
        Kind::ConnectionLimitReached => (
            &["upstream.source", "listener.forward.users"],
            "the machine's ports, the streams that an endpoint allows, and how many passwords are tried at once",
        ),
        Kind::TlsProtocolError => {
            (&["upstream.tls", "upstream.protocol", "upstream.alpn", "listener.alpn"], "the endpoint")
        }
        Kind::TlsCertificateError => (&["upstream.tls.ca", "upstream.tls.server_name"], "the endpoint's certificate"),
        Kind::TlsAlertReceived => (&["upstream.tls.client_cert", "upstream.alpn"], "the endpoint"),
        Kind::HttpRequestError => (
            &["listener.mode", "listener.proxy_protocol"],
            "the request itself: what is malformed or ambiguous is no matter of configuration",
        ),
        Kind::HttpRequestDenied => (
            &[
                "route.allow",
                "route.deny",
                ALLOWED,
                DENIED,
                "listener.proxy_protocol",
                "listener.trusted_proxies",
                "listener.limits.max_connections_per_ip",
            ],
            "",
        ),
        Kind::ProxyAuthenticationRequired => (&["listener.forward.users"], ""),
        Kind::Misdirected => (&["listener.tls.certificates"], ""),
        Kind::RequestHeaderTooLarge => (&["listener.limits.max_header_size", "listener.limits.max_headers"], ""),
        Kind::RequestBodyTooLarge => (&["route.max_body", "listener.limits.max_body"], ""),
        Kind::RequestNotImplemented => (
            &["route.upgrade", "route.respond", "route.redirect", "listener.mode"],
            "the request itself: CONNECT outside of mode `forward`, or a Max-Forwards that ends here",
        ),
        Kind::RequestHeaderTimeout => (&["listener.timeouts.header", "listener.timeouts.handshake"], ""),
        Kind::ClientStall => (&["listener.timeouts.client_stall", "upstream.timeouts.stream_idle"], ""),
        Kind::ClientGone => (&["server.drain_timeout"], "the client, who left"),
        Kind::HttpResponseIncomplete => (&[], "the endpoint, which ended its answer early"),
        Kind::HttpResponseHeaderSectionSize => (&[], "a bound of 64 KiB that is no key"),
        Kind::HttpResponseStalled => (
            &[
                "upstream.timeouts.stream_idle",
                "listener.forward.timeouts.stream_idle",
                "route.timeouts.tunnel_idle",
                "upstream.timeouts.tunnel_idle",
                "listener.forward.timeouts.tunnel_idle",
            ],
            "",
        ),
        Kind::ExchangeTimeout => (
            &["route.timeouts.total", "listener.timeouts.max_age", "server.drain_timeout"],
            "the `grpc-timeout` of the request, where that is shorter",
        ),
        Kind::HttpUpgradeFailed => (&["upstream.protocol"], "the endpoint, which did not switch"),
        Kind::HttpProtocolError => (&["upstream.protocol"], "the endpoint, which broke the protocol"),
        Kind::ProxyInternalError => (&[], "nothing: it is a bug"),
        Kind::ProxyLoopDetected => (
            &["listener.forwarding.via", "listener.bind", "upstream.endpoints"],
            "whoever sent the request round: it has passed here nine times",
        ),
    };
    Decider { keys, otherwise }
}

/// The outcome of whoever exceeds a deadline or limit; `key` as in [`Decider::keys`].
pub fn outcome_of(key: &str) -> Option<Kind> {
    // A key that several name is, in their order, that of the first whose only matter it is.
    BOUNDS.iter().find_map(|(own, kind)| (*own == key).then_some(*kind))
}

const ALLOWED: &str = "listener.forward.allow";
const DENIED: &str = "listener.forward.deny";
const NAME_SERVERS: &str = "listener.forward.name_servers";

/// Deadlines and limits, and how whoever exceeds them ends.
const BOUNDS: [(&str, Kind); 18] = [
    ("listener.timeouts.handshake", Kind::RequestHeaderTimeout),
    ("listener.timeouts.header", Kind::RequestHeaderTimeout),
    ("listener.timeouts.client_stall", Kind::ClientStall),
    ("listener.limits.max_header_size", Kind::RequestHeaderTooLarge),
    ("listener.limits.max_headers", Kind::RequestHeaderTooLarge),
    ("listener.limits.max_body", Kind::RequestBodyTooLarge),
    ("route.max_body", Kind::RequestBodyTooLarge),
    ("route.timeouts.response", Kind::HttpResponseTimeout),
    ("route.timeouts.total", Kind::ExchangeTimeout),
    ("route.timeouts.tunnel_idle", Kind::HttpResponseStalled),
    ("upstream.timeouts.connect", Kind::ConnectionTimeout),
    ("upstream.timeouts.response", Kind::HttpResponseTimeout),
    ("upstream.timeouts.stream_idle", Kind::HttpResponseStalled),
    ("upstream.timeouts.tunnel_idle", Kind::HttpResponseStalled),
    ("listener.forward.timeouts.connect", Kind::ConnectionTimeout),
    ("listener.forward.timeouts.response", Kind::HttpResponseTimeout),
    ("listener.forward.timeouts.stream_idle", Kind::HttpResponseStalled),
    ("listener.forward.timeouts.tunnel_idle", Kind::HttpResponseStalled),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::{Key, ROOT};

    /// The key that `path` leads to.
    fn key(path: &str) -> Option<&'static Key> {
        let mut keys = ROOT;
        let mut parts = path.split('.').peekable();
        loop {
            let part = parts.next()?;
            let key = keys.iter().find(|key| key.name == part)?;
            if parts.peek().is_none() {
                return Some(key);
            }
            keys = key.shape.keys()?;
        }
    }

    #[test]
    fn every_outcome_names_keys_of_this_version_or_why_it_has_none() {
        for kind in Kind::ALL {
            let Decider { keys, otherwise } = decider(kind);
            assert!(!keys.is_empty() || !otherwise.is_empty(), "nobody decides about {}", kind.as_str());
            for path in keys {
                let key = key(path).unwrap_or_else(|| panic!("{}: no key {path}", kind.as_str()));
                assert!(key.is_here(), "{}: {path} does nothing", kind.as_str());
            }
        }
    }

    #[test]
    fn a_bound_decides_about_its_outcome() {
        for (path, kind) in BOUNDS {
            assert!(decider(kind).keys.contains(&path), "{}: {path}", kind.as_str());
            assert_eq!(outcome_of(path), Some(kind), "{path} stands there twice");
        }
        // Deadlines of outcomes that have one are all told of.
        let is_bound = |path: &&&str| path.contains(".timeouts.") || path.contains(".max_body");
        for path in Kind::ALL.iter().flat_map(|kind| decider(*kind).keys).filter(is_bound) {
            assert!(outcome_of(path).is_some() || *path == "listener.timeouts.max_age", "{path}");
        }
    }

    #[test]
    fn the_documentation_says_what_decides() {
        let page = include_str!("../../docs/access-log.md");
        for kind in Kind::ALL {
            let Decider { keys, otherwise } = decider(kind);
            let keys = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            let told = match (keys.is_empty(), otherwise) {
                (false, "") => keys,
                (true, otherwise) => otherwise.to_owned(),
                (false, otherwise) => format!("{keys}; {otherwise}"),
            };
            let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", kind.as_str())));
            let row = row.unwrap_or_else(|| panic!("docs/access-log.md has no {}", kind.as_str()));
            assert!(row.ends_with(&format!(" | {told} |")), "docs/access-log.md needs\n{row}\nto end with\n| {told} |");
        }
    }
}
