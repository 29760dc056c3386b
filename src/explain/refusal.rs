//! The line of the configuration that a refusal comes from, where one decided it.

use std::net::IpAddr;

use super::explanation::{At, Refusal, Verdict};
use crate::base::error::Kind;
use crate::config::Config;
use crate::config::effective::Owner;
use crate::config::model::{Route, RouteAction};
use crate::config::outcomes::decider;
use crate::proxy::rescue::status_of;
use crate::route::access::Networks;

/// A refusal with its line; `route` and `client` where they are known.
pub fn refusal(
    config: &Config,
    (kind, reason): (Kind, &str),
    listener: usize,
    route: Option<(usize, &Route)>,
    client: Option<IpAddr>,
) -> Refusal {
    let own = |path: &[&str]| config.written.place(Owner::Listener(listener), path).map(At::from);
    let at = match kind {
        Kind::RequestHeaderTooLarge if reason.contains("fields") => own(&["limits", "max_headers"]),
        Kind::RequestHeaderTooLarge => own(&["limits", "max_header_size"]),
        Kind::ProxyLoopDetected => own(&["forwarding", "via"]),
        Kind::Misdirected => own(&["tls", "certificates"]).or_else(|| own(&["tls"])),
        Kind::RequestBodyTooLarge => route
            .filter(|(_, route)| route.max_body.is_some())
            .and_then(|(at, _)| config.written.place(Owner::Route(at), &["max_body"]).map(At::from))
            .or_else(|| own(&["limits", "max_body"])),
        Kind::HttpRequestDenied => route.and_then(|(at, route)| access(config, at, route, client).at),
        Kind::RequestNotImplemented => match route {
            Some((at, route)) => {
                let key = if matches!(route.action, RouteAction::Forward(_)) { "upgrade" } else { "respond" };
                config.written.place(Owner::Route(at), &[key]).map(At::from)
            }
            None if reason.starts_with("CONNECT") => own(&["mode"]),
            None => None,
        },
        _ => None,
    };
    let reason = match (kind, at.is_some()) {
        (Kind::RequestHeaderTooLarge, false) => format!("{reason} by default"),
        (Kind::RequestNotImplemented, false) if route.is_some() => format!("{reason} by default"),
        _ => reason.to_owned(),
    };
    let otherwise = match kind {
        _ if at.is_some() => "",
        // Each route is told of by itself.
        Kind::DestinationNotFound => "",
        Kind::RequestNotImplemented if route.is_some() => "",
        _ => decider(kind).otherwise,
    };
    let otherwise = otherwise.to_owned();
    Refusal { outcome: kind.as_str().to_owned(), status: Some(status_of(kind).as_u16()), reason, at, otherwise }
}

/// Whether a client may use a route, and the entry that says so.
pub fn access(config: &Config, index: usize, route: &Route, client: Option<IpAddr>) -> Verdict {
    let name = client.map_or_else(|| "a client without an address".to_owned(), |client| client.to_string());
    let holds = |networks: &[ipnet::IpNet]| {
        networks.iter().position(|network| {
            client.is_some_and(|client| Networks::new(std::slice::from_ref(network)).contains(client))
        })
    };
    let place = |key: &str, entry: Option<usize>| {
        let entry = entry.map(|entry| entry.to_string());
        let path: Vec<&str> = std::iter::once(key).chain(entry.as_deref()).collect();
        config.written.place(Owner::Route(index), &path).map(At::from)
    };
    if let Some(entry) = holds(&route.deny) {
        let why = format!("{name} is in {}, which `deny` names", route.deny[entry]);
        return Verdict { allowed: false, why, at: place("deny", Some(entry)) };
    }
    if route.allow.is_empty() {
        let why = if route.deny.is_empty() {
            "every client may use it".to_owned()
        } else {
            format!("`deny` does not name {name}")
        };
        return Verdict { allowed: true, why, at: place("deny", None) };
    }
    match holds(&route.allow) {
        Some(entry) => {
            let why = format!("{name} is in {}, which `allow` names", route.allow[entry]);
            Verdict { allowed: true, why, at: place("allow", Some(entry)) }
        }
        None => Verdict { allowed: false, why: format!("`allow` does not name {name}"), at: place("allow", None) },
    }
}
