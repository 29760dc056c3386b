//! `[[route]]`.

use std::collections::HashMap;

use http::{HeaderValue, StatusCode};

use super::address::host_name;
use super::edits::Scope;
use super::overlap::{Names, Overlap};
use super::{ANSWERS, Check, FORWARDING_ONLY};
use crate::base::template::{Placeholder, Template};
use crate::config::defaults;
use crate::config::findings::Finding;
use crate::config::model::{
    BodyBuffers, Forward, HostHeader, PathPattern, PathRewrite, RetryRules, Route, RouteAction, is_protocol,
};
use crate::config::section::{Data, Entry, Section, Written};
use crate::config::source::Spot;
use crate::config::suggest;

impl Check<'_> {
    pub(super) fn routes<'s>(&mut self, sections: impl Iterator<Item = &'s Section>) -> Vec<Route> {
        let sections: Vec<_> = sections.collect();
        let mut names = Names::default();
        let mut written: HashMap<&str, Spot> = HashMap::new();
        for name in sections.iter().filter_map(|section| section.text("name")) {
            self.name(name.value, name.spot);
            names.reserve(name.value);
            match written.get(name.value) {
                Some(first) => {
                    let message = format!("route `{}` is defined twice", name.value);
                    let finding = Finding::new(name.spot, message, "the second one");
                    self.findings.push(finding.second(*first, "first defined here"));
                }
                None => {
                    written.insert(name.value, name.spot);
                }
            }
        }
        let mut overlap = Overlap::default();
        let mut routes = Vec::with_capacity(sections.len());
        for section in sections {
            let before = self.findings.len();
            let mut route = self.route(section);
            // A match that is at fault is not what was meant.
            if self.findings.len() == before
                && section.is_sound(&PREDICATES)
                && let Some(first) = overlap.add(&route, section.spot)
            {
                let finding =
                    Finding::new(section.spot, "this route never matches", "has the same match as an earlier one");
                self.findings.push(finding.second(first, "this one matches every request first"));
            }
            if route.name.is_empty() {
                let listeners: Vec<_> = section.texts("listener").map(|written| written.value).collect();
                route.name = names.make(&route, &listeners).into();
            }
            routes.push(route);
        }
        routes
    }

    fn route(&mut self, section: &Section) -> Route {
        let mut listeners: Vec<usize> = Vec::new();
        for written in section.texts("listener") {
            let Some(index) = self.listener_index(written) else { continue };
            if !self.with_routes[index] {
                let message = format!("listener `{}` does not use routes", written.value);
                self.fault(written.spot, message, "its mode is not \"http\"");
            } else if !listeners.contains(&index) {
                listeners.push(index);
            }
        }
        self.not_empty(section, "listener", "leave it out for every listener");
        self.not_empty(section, "host", "leave it out for every host");
        self.not_empty(section, "method", "leave it out for every method");
        self.not_empty(
            section,
            "allow",
            "leave it out for every client, or write `deny = [\"0.0.0.0/0\", \"::/0\"]` for none",
        );
        let path = self.path_pattern(section);
        let tls = if listeners.is_empty() {
            self.with_tls.iter().any(|tls| *tls)
        } else {
            listeners.iter().any(|index| self.with_tls[*index])
        };
        let rest = matches!(path, Some(PathPattern::Prefix(_) | PathPattern::Regex(_)))
            || section.node("path").is_some_and(|_| path.is_none());
        let scope = Scope { rest, tls };
        let action = self.action(section, path.as_ref(), scope);
        Route {
            name: section.text("name").map_or("", |written| written.value).into(),
            listeners,
            hosts: self.hosts(section),
            path,
            methods: self.methods(section),
            headers: self.header_predicates(section),
            query: self.query_predicates(section),
            action,
            max_body: max_body(section),
            allow: self.networks(section, "allow"),
            deny: self.networks(section, "deny"),
            request_headers: self.edits(section.section("request_headers"), true, scope),
            response_headers: self.edits(section.section("response_headers"), false, scope),
            access_log: section.flag("access_log").unwrap_or(true),
            place: self.place(section.spot),
        }
    }

    /// An empty list would mean everything, which nobody means who writes one.
    fn not_empty(&mut self, section: &Section, key: &str, help: &str) {
        if let Some(node) = section.node(key)
            && matches!(&node.data, Data::List(nodes) if nodes.is_empty())
        {
            self.fault_with_help(node.spot, format!("`{key}` is empty"), "nothing can match", help);
        }
    }

    fn action(&mut self, section: &Section, path: Option<&PathPattern>, scope: Scope) -> RouteAction {
        let mut actions = section.entries.iter().filter(|entry| ACTIONS.contains(&entry.key.name));
        let Some(first) = actions.next() else {
            let finding = Finding::new(section.spot, "a route that does nothing", "no `upstream` and no other action");
            self.findings.push_absent(finding.help("write one of `upstream`, `weighted`, `redirect` and `respond`"));
            return RouteAction::Redirect { to: Template::literal(""), status: StatusCode::OK };
        };
        for second in actions {
            let message = format!("`{}` and `{}` in one route", first.key.name, second.key.name);
            let finding =
                Finding::new(second.name, message, "a route does one thing").second(first.name, "the other one");
            self.findings.push(finding);
            // Checked all the same, so that no fault waits for another to go.
            self.one_action(section, second, path, scope);
        }
        if ANSWERS.contains(&first.key.name) {
            self.without_effect(section, first);
        }
        self.one_action(section, first, path, scope)
    }

    fn one_action(
        &mut self,
        section: &Section,
        action: &Entry,
        path: Option<&PathPattern>,
        scope: Scope,
    ) -> RouteAction {
        match action.key.name {
            "redirect" => self.redirect(section.section("redirect"), scope),
            "respond" => self.respond(section.section("respond")),
            _ => self.forward(section, action, path, scope),
        }
    }

    fn without_effect(&mut self, section: &Section, action: &Entry) {
        for entry in section.entries.iter().filter(|entry| FORWARDING_ONLY.contains(&entry.key.name)) {
            let message = format!("`{}` has no effect with `{}`", entry.key.name, action.key.name);
            let finding =
                Finding::new(entry.name, message, "nothing is forwarded").second(action.name, "answered here");
            self.findings.push(finding);
        }
    }

    fn redirect(&mut self, section: Option<&Section>, scope: Scope) -> RouteAction {
        let written = section.and_then(|section| section.text("to"));
        let to = written.and_then(|written| {
            let text = written.value;
            let is_location = text.starts_with(['/', '{']) || text.contains("://");
            if !is_location || text.contains(char::is_whitespace) || !text.is_ascii() {
                let help = "write \"https://{host}{path_and_query}\" or \"/path\"";
                self.fault_with_help(written.spot, format!("bad location `{text}`"), "neither a URL nor a path", help);
            }
            self.template(written, scope)
        });
        let status =
            section.and_then(|section| section.count("status")).unwrap_or(u32::from(defaults::REDIRECT_STATUS));
        if !REDIRECTS.contains(&status) {
            let spot = section.and_then(|section| section.node("status")).map(|node| node.spot);
            if let Some(spot) = spot {
                self.fault(spot, format!("`{status}` is not a redirect status"), "must be 301, 302, 303, 307 or 308");
            }
        }
        RouteAction::Redirect { to: to.unwrap_or_else(|| Template::literal("/")), status: status_code(status) }
    }

    fn respond(&mut self, section: Option<&Section>) -> RouteAction {
        let status = section.and_then(|section| section.count("status")).unwrap_or(u32::from(defaults::RESPOND_STATUS));
        let body = section.and_then(|section| section.text("body"));
        // RFC 9110 §15.3.5, §15.3.6, §15.4.5.
        if let (204 | 205 | 304, Some(written)) = (status, body.filter(|written| !written.value.is_empty())) {
            self.fault(written.spot, format!("a response with status {status} has no body"), "not allowed in a header");
        }
        let content_type = section.and_then(|section| section.text("content_type")).and_then(|written| {
            let value = HeaderValue::from_str(written.value).ok().filter(|_| written.value.contains('/'));
            if value.is_none() {
                let message = format!("bad media type `{}`", written.value);
                self.fault_with_help(written.spot, message, "not a media type", "write \"application/json\"");
            }
            value
        });
        RouteAction::Respond {
            status: status_code(status),
            body: body.map_or("", |written| written.value).into(),
            content_type: content_type.unwrap_or(HeaderValue::from_static(defaults::RESPOND_CONTENT_TYPE)),
        }
    }

    fn forward(&mut self, section: &Section, action: &Entry, path: Option<&PathPattern>, scope: Scope) -> RouteAction {
        let upstreams = match action.key.name {
            "upstream" => {
                section.text("upstream").map(|written| (self.upstream_index(written), 1)).into_iter().collect()
            }
            _ => self.shares(section, action),
        };
        let timeouts = section.section("timeouts");
        let buffer = |key| section.section("buffer").and_then(|section| section.size(key));
        RouteAction::Forward(Forward {
            upstreams,
            rewrite: self.rewrite(section, path, scope),
            host_header: section.text("host_header").map_or(HostHeader::Preserve, |written| self.host_header(written)),
            response_timeout: timeouts.and_then(|section| section.duration("response")),
            total_timeout: timeouts.and_then(|section| section.duration("total")),
            tunnel_idle: timeouts.and_then(|section| section.duration("tunnel_idle")),
            retry: self.retry(section.section("retry")),
            upgrade: self.upgrade(section),
            buffer: BodyBuffers { request: buffer("request"), response: buffer("response") },
            grpc_web: section.flag("grpc_web").unwrap_or(false),
            normalize_path: section.flag("normalize_path").unwrap_or(false),
        })
    }

    fn shares(&mut self, section: &Section, action: &Entry) -> Vec<(usize, u32)> {
        let mut shares = Vec::new();
        let nodes = section.list("weighted");
        for node in nodes {
            let Data::Section(share) = &node.data else { continue };
            let Some(written) = share.text("upstream") else { continue };
            shares.push((self.upstream_index(written), share.count("weight").unwrap_or(defaults::WEIGHT)));
        }
        let read = nodes.len() == shares.len() && !action.node.is_bad();
        if read && shares.iter().all(|(_, weight)| *weight == 0) {
            let label = if shares.is_empty() { "empty" } else { "every weight is 0" };
            self.fault(action.node.spot, "`weighted` has no destination", label);
        }
        shares
    }

    fn rewrite(&mut self, section: &Section, path: Option<&PathPattern>, scope: Scope) -> PathRewrite {
        let strip = section.text("strip_prefix");
        let replace = section.text("replace_path");
        if let (Some(_), Some(replace)) = (strip, replace) {
            self.fault(replace.spot, "`strip_prefix` and `replace_path` in one route", "use only one of them");
        }
        if let Some(written) = strip {
            return PathRewrite::StripPrefix(self.strip_prefix(written, path));
        }
        let Some(written) = replace else { return PathRewrite::Keep };
        let Some(template) = self.template(written, scope) else { return PathRewrite::Keep };
        let opens = [Placeholder::Path, Placeholder::PathAndQuery, Placeholder::Rest];
        let first = written.value.starts_with('{').then(|| template.placeholders().next()).flatten();
        let begins = written.value.starts_with('/') || first.is_some_and(|first| opens.contains(&first));
        if !begins || !written.value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            let message = format!("bad path `{}`", written.value);
            self.fault_with_help(written.spot, message, "not a path", "write \"/new{rest}\"");
        }
        PathRewrite::Replace(template)
    }

    fn strip_prefix(&mut self, written: Written<'_>, path: Option<&PathPattern>) -> String {
        let text = written.value;
        let prefix = text.strip_suffix("/*").unwrap_or(text).trim_end_matches('/');
        if !text.starts_with('/') || prefix.contains('*') {
            let help = format!("write `/{}`", text.trim_matches(['/', '*']));
            self.fault_with_help(written.spot, format!("bad path `{text}`"), "a path begins with `/`", help);
        } else if prefix.is_empty() {
            self.fault(written.spot, "`strip_prefix` strips nothing", "every path begins with `/`");
        } else if let Some(PathPattern::Exact(own) | PathPattern::Prefix(own)) = path
            && !own.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        {
            let message = format!("`{text}` is not a prefix of the route's path");
            let begins =
                if matches!(path, Some(PathPattern::Exact(_))) { "the path is" } else { "the path begins with" };
            self.fault(written.spot, message, format!("{begins} `{own}`"));
        }
        prefix.to_owned()
    }

    fn host_header(&mut self, written: Written<'_>) -> HostHeader {
        match written.value {
            "preserve" => return HostHeader::Preserve,
            "upstream" => return HostHeader::Upstream,
            _ => {}
        }
        let (host, port) = match written.value.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
            _ => (written.value, None),
        };
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let known = match address {
            Some(address) => address.parse::<std::net::Ipv6Addr>().map_err(|_| "not an address").map(|_| ()),
            None => host_name(host),
        };
        let known = known.and_then(|()| match port {
            Some(port) if port.parse::<u16>().is_err() => Err("the port is not a number"),
            _ => Ok(()),
        });
        // A typing slip would silently become the name of a host.
        let slip = if host.contains('.') { None } else { suggest::nearest(host, ["preserve", "upstream"]) };
        match (known, slip) {
            (Err(reason), _) => self.fault(written.spot, format!("bad host `{}`", written.value), reason),
            (_, Some(word)) => {
                let message = format!("unknown value `{}` for `host_header`", written.value);
                self.fault_with_help(
                    written.spot,
                    message,
                    "expected preserve, upstream or a name",
                    format!("did you mean `{word}`?"),
                );
            }
            _ => {}
        }
        HeaderValue::from_str(written.value).map_or(HostHeader::Preserve, HostHeader::Name)
    }

    fn retry(&mut self, section: Option<&Section>) -> RetryRules {
        let mut rules = RetryRules {
            attempts: section.and_then(|section| section.count("attempts")).unwrap_or(defaults::RETRY_ATTEMPTS),
            on_connect_failure: true,
            on_reset_before_headers: false,
            on_status: Vec::new(),
            replay: section.and_then(|section| section.size("replay")).unwrap_or(defaults::RETRY_REPLAY),
        };
        let Some(section) = section.filter(|section| section.has("on")) else { return rules };
        rules.on_connect_failure = false;
        for written in section.texts("on") {
            match written.value {
                "connect-failure" => rules.on_connect_failure = true,
                "reset-before-headers" => rules.on_reset_before_headers = true,
                other => match other.parse::<u16>().ok().filter(|status| (400..600).contains(status)) {
                    Some(status) => rules.on_status.push(status_code(u32::from(status))),
                    None => {
                        let message = format!("unknown retry condition `{other}`");
                        let help = suggest::did_you_mean(other, ["connect-failure", "reset-before-headers"]);
                        let label = "expected connect-failure, reset-before-headers or a status from 400 to 599";
                        self.findings.push(Finding::new(written.spot, message, label).help_if(help));
                    }
                },
            }
        }
        rules
    }

    fn upgrade(&mut self, section: &Section) -> Vec<String> {
        if !section.has("upgrade") {
            return vec![defaults::UPGRADE.to_owned()];
        }
        let mut protocols = Vec::new();
        for written in section.texts("upgrade") {
            let name = written.value.to_ascii_lowercase();
            // RFC 9113 §3.1 took h2c out; through a proxy it only serves to smuggle requests past the routes.
            if name == "h2c" {
                self.fault(
                    written.spot,
                    format!("bad protocol `{name}`"),
                    "requests inside h2c would bypass the routes",
                );
            } else {
                self.protocol_name(written);
            }
            protocols.push(name);
        }
        protocols
    }

    /// The name of a protocol to switch to.
    pub(super) fn protocol_name<'w>(&mut self, written: Written<'w>) -> Option<&'w str> {
        let name = is_protocol(written.value).then_some(written.value);
        if name.is_none() {
            self.fault(written.spot, format!("bad protocol `{}`", written.value), "not a protocol");
        }
        name
    }
}

/// What the route sets itself; `unlimited` lifts the listener's limit.
fn max_body(section: &Section) -> Option<u64> {
    section.word("max_body").map(|_| u64::MAX).or_else(|| section.size("max_body"))
}

/// The schema keeps every status within what the type takes.
fn status_code(status: u32) -> StatusCode {
    u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK)
}

const PREDICATES: [&str; 6] = ["listener", "host", "path", "method", "header", "query"];
const ACTIONS: [&str; 4] = ["upstream", "weighted", "redirect", "respond"];
const REDIRECTS: [u32; 5] = [301, 302, 303, 307, 308];
