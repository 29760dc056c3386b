//! The deadlines, limits and retries that are in force for a request, each with the line that says so.

use std::time::Duration;

use http::Version;

use super::explanation::{At, Setting};
use crate::base::units::{format_duration, format_size};
use crate::config::Config;
use crate::config::effective::Owner;
use crate::config::model::{Forward, Listener, Outbound, Route, RouteAction, Upstream};
use crate::config::outcomes::outcome_of;

/// Collects settings.
pub struct Settings<'c> {
    config: &'c Config,
    list: Vec<Setting>,
}

impl<'c> Settings<'c> {
    /// None yet.
    pub fn new(config: &'c Config) -> Self {
        Self { config, list: Vec::new() }
    }

    /// In the order in which a request meets them.
    pub fn into_list(self) -> Vec<Setting> {
        self.list
    }

    /// Where a key of a table is written; `None`: its default holds.
    fn at(&self, owner: Owner<'_>, path: &[&str]) -> Option<At> {
        self.config.written.place(owner, path).map(At::from)
    }

    fn push(&mut self, kind: &str, owner: Owner<'_>, path: &[&str], value: String, what: &str) {
        let own = match owner {
            Owner::Server => "server".to_owned(),
            Owner::Listener(_) => "listener".to_owned(),
            Owner::Route(_) => "route".to_owned(),
            Owner::Upstream(name) => format!("upstream.{name}"),
            Owner::Expectation(_) => "expect".to_owned(),
        };
        let at = self.at(owner, path);
        let path = path.join(".");
        let table = if matches!(owner, Owner::Upstream(_)) { "upstream" } else { &own };
        let outcome = outcome_of(&format!("{table}.{path}")).map(|outcome| outcome.as_str().to_owned());
        let key = format!("{own}.{path}");
        // Upstreams of a weighted route share what the route sets.
        if self.list.iter().any(|told| told.key == key) {
            return;
        }
        self.list.push(Setting { kind: kind.into(), key, value, what: what.into(), outcome, at });
    }

    /// What the listener sets on the way in.
    pub fn of_listener(&mut self, index: usize, listener: &Listener, version: Version) {
        let owner = Owner::Listener(index);
        let timeouts = &listener.timeouts;
        let mut deadline = |path: &[&str], value: Option<Duration>, what: &str| {
            self.push("deadline", owner, path, value.map_or("off".into(), format_duration), what);
        };
        if listener.tls.is_some() {
            deadline(&["timeouts", "handshake"], Some(timeouts.handshake), "the TLS handshake");
        }
        deadline(&["timeouts", "header"], Some(timeouts.header), "the whole head");
        deadline(&["timeouts", "client_stall"], Some(timeouts.client_stall), "the client neither sends nor takes");
        deadline(&["timeouts", "idle"], Some(timeouts.idle), "between two requests");
        deadline(&["timeouts", "max_age"], timeouts.max_age, "the connection's age");
        let limits = &listener.limits;
        let count = |limit: Option<u32>, else_: &str| limit.map_or(else_.to_owned(), |limit| limit.to_string());
        let mut limit = |path: &[&str], value: String, what: &str| self.push("limit", owner, path, value, what);
        limit(&["limits", "max_header_size"], format_size(limits.max_header_size.into()), "of the head");
        limit(&["limits", "max_headers"], limits.max_headers.to_string(), "header fields");
        let what = if limits.max_connections.is_some() { "of the listener" } else { "as many as descriptors allow" };
        limit(&["limits", "max_connections"], count(limits.max_connections, "automatic"), what);
        let per_ip = count(limits.max_connections_per_ip, "unlimited");
        limit(&["limits", "max_connections_per_ip"], per_ip, "of one client");
        if version >= Version::HTTP_2 {
            let streams = limits.max_concurrent_streams.to_string();
            limit(&["limits", "max_concurrent_streams"], streams, "at once on a connection");
        }
    }

    /// What a forward listener sets on the way out; `is_tunnel`: for a tunnel.
    pub fn of_outbound(&mut self, index: usize, rules: &Outbound, is_tunnel: bool) {
        let timeouts = rules.timeouts;
        for (key, value, what) in [
            ("connect", timeouts.connect, "resolving, connecting and TLS together"),
            ("response", timeouts.response, "request sent to response head"),
            ("stream_idle", timeouts.stream_idle, "silence inside the answer's body"),
            ("tunnel_idle", timeouts.tunnel_idle, "silence of both sides of a tunnel"),
        ] {
            if matches!(key, "response" | "stream_idle") && is_tunnel || key == "tunnel_idle" && !is_tunnel {
                continue;
            }
            let path = ["forward", "timeouts", key];
            self.push("deadline", Owner::Listener(index), &path, format_duration(value), what);
        }
    }

    /// How large a body may be; `route`: the one that takes it.
    pub fn of_body(&mut self, listener: (usize, &Listener), route: Option<(usize, &Route)>) {
        let text = |max: Option<u64>| match max {
            None | Some(u64::MAX) => "unlimited".to_owned(),
            Some(bytes) => format_size(bytes),
        };
        let own = route.and_then(|(index, route)| Some((index, route.max_body?)));
        let (owner, path, max): (_, &[&str], _) = match own {
            Some((index, max)) => (Owner::Route(index), &["max_body"], Some(max)),
            None => (Owner::Listener(listener.0), &["limits", "max_body"], listener.1.limits.max_body),
        };
        self.push("limit", owner, path, text(max), "of a body");
    }

    /// What the route and its upstream set on the way out.
    pub fn of_forward(&mut self, index: usize, forward: &Forward, upstream: &Upstream) {
        let (route, own) = (Owner::Route(index), Owner::Upstream(&upstream.name));
        let timeouts = &upstream.timeouts;
        self.push("deadline", own, &["timeouts", "connect"], format_duration(timeouts.connect), "TCP and TLS together");
        let (owner, response) = match forward.response_timeout {
            Some(response) => (route, response),
            None => (own, timeouts.response),
        };
        let what = "request sent to response head";
        self.push("deadline", owner, &["timeouts", "response"], format_duration(response), what);
        let what = "silence inside the answer's body";
        self.push("deadline", own, &["timeouts", "stream_idle"], format_duration(timeouts.stream_idle), what);
        let total = forward.total_timeout.map_or("off".into(), format_duration);
        self.push("deadline", route, &["timeouts", "total"], total, "the whole exchange");
        let retry = &forward.retry;
        self.push("retry", route, &["retry", "attempts"], retry.attempts.to_string(), "sends beyond the first");
        let mut on: Vec<String> = Vec::new();
        on.extend(retry.on_connect_failure.then(|| "connect-failure".to_owned()));
        on.extend(retry.on_reset_before_headers.then(|| "reset-before-headers".to_owned()));
        on.extend(retry.on_status.iter().map(|status| status.as_u16().to_string()));
        let on = if on.is_empty() { "nothing".to_owned() } else { on.join(", ") };
        self.push("retry", route, &["retry", "on"], on, "what is tried again");
        self.push("retry", route, &["retry", "replay"], format_size(retry.replay), "of a body kept to send again");
        let ahead = |bytes: Option<u64>| bytes.map_or_else(|| "nothing".to_owned(), format_size);
        let (asked, answered) = (ahead(forward.buffer.request), ahead(forward.buffer.response));
        self.push("limit", route, &["buffer", "request"], asked, "of a body, read ahead");
        self.push("limit", route, &["buffer", "response"], answered, "of an answer, read ahead");
        let upgrade = if forward.upgrade.is_empty() { "nothing".to_owned() } else { forward.upgrade.join(", ") };
        self.push("limit", route, &["upgrade"], upgrade, "may be switched to");
    }

    /// What of the route and its upstream holds for what comes after a switch.
    pub fn of_tunnel(&mut self, index: usize, forward: &Forward, upstream: &Upstream) {
        let (owner, idle) = match forward.tunnel_idle {
            Some(idle) => (Owner::Route(index), idle),
            None => (Owner::Upstream(&upstream.name), upstream.timeouts.tunnel_idle),
        };
        let what = "silence of both sides after a switch";
        self.push("deadline", owner, &["timeouts", "tunnel_idle"], format_duration(idle), what);
    }

    /// What the route's own action is, for its line.
    pub fn action_at(&self, index: usize, route: &Route) -> Option<At> {
        let key = match route.action {
            RouteAction::Forward(_) => ["upstream", "weighted"],
            RouteAction::Redirect { .. } => ["redirect", "redirect"],
            RouteAction::Respond { .. } => ["respond", "respond"],
        };
        key.iter().find_map(|key| self.at(Owner::Route(index), &[key])).or_else(|| Some(At::from(&route.place)))
    }
}
