//! What a configuration would serve, for `tidegate check`: listeners, routes and upstreams in aligned columns, with the
//! values that differ from the defaults.

mod listener;
mod logs;
mod quic;
mod upstream;

use std::fmt::Write as _;
use std::time::Duration;

use super::defaults;
use super::model::{
    Bind, BodyBuffers, Config, ControlListener, EndpointAddress, Forward, HeaderEdits, HostHeader, PathRewrite, Route,
    RouteAction, SocketOptions,
};
pub(crate) use super::validate::host_text;
use super::validate::{path_text, value_text};
use crate::base::units::{format_duration, format_size};

/// The listeners, routes and upstreams of a configuration as aligned text.
pub fn summary(config: &Config) -> String {
    let mut out = String::new();
    let workers = config.server.workers;
    let drain = format_duration(config.server.drain_timeout);
    let plural = if workers == 1 { "" } else { "s" };
    let _ = write!(out, "{workers} worker{plural}, drain within {drain}");
    if config.server.drain_delay != defaults::DRAIN_DELAY {
        let _ = write!(out, " after {}", format_duration(config.server.drain_delay));
    }
    if let Some(identity) = &config.server.identity {
        let group = identity.group.as_ref().map_or_else(String::new, |(group, _)| format!(", group {group}"));
        let _ = write!(out, ", user {}{group} where started as root", identity.user);
    }
    if config.server.watch {
        out.push_str(", reloads when its files change");
    }
    let max_routes = config.server.metrics.max_routes as usize;
    if config.routes.len() > max_routes {
        let together = config.routes.len() - max_routes;
        let _ = write!(out, ", metrics of the last {together} of {} routes together", config.routes.len());
    }
    out.push('\n');
    logs::write(&mut out, &config.server);
    let own = [("admin", &config.server.admin), ("observe", &config.server.observe)];
    section(&mut out, "control", own.iter().filter_map(|(name, own)| Some(control(name, own.as_ref()?))).collect());
    section(&mut out, "listeners", config.listeners.iter().map(|one| listener::block(one, config)).collect());
    section(&mut out, "routes", config.routes.iter().map(|one| route(one, config)).collect());
    section(&mut out, "upstreams", config.upstreams.iter().map(upstream::block).collect());
    out
}

/// A line of columns and the lines below it.
struct Block {
    columns: Vec<String>,
    details: Vec<String>,
}

fn section(out: &mut String, title: &str, blocks: Vec<Block>) {
    if blocks.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{title}");
    let count = blocks.iter().map(|block| block.columns.len()).max().unwrap_or(0);
    let width = |column: usize| {
        let widths = blocks.iter().filter_map(|block| block.columns.get(column)).map(|text| text.chars().count());
        // One long cell must not push every line off the screen.
        widths.max().unwrap_or(0).min(WIDEST)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    for block in blocks {
        let mut line = String::new();
        for (text, width) in block.columns.iter().zip(&widths) {
            let _ = write!(line, "  {text:<width$}");
        }
        let _ = writeln!(out, "{}", line.trim_end());
        for detail in block.details {
            let _ = writeln!(out, "      {detail}");
        }
    }
}

fn control(name: &str, listener: &ControlListener) -> Block {
    let mut columns = vec![name.to_owned(), bind_text(&listener.bind)];
    columns.extend(listener.token_file.as_ref().map(|token| format!("token of {}", token.path.display())));
    let hosts = (!listener.hosts.is_empty()).then(|| format!("hosts {}", listener.hosts.join(" ")));
    Block { columns, details: hosts.into_iter().collect() }
}

fn socket(options: &SocketOptions) -> Vec<String> {
    let mut facts = Vec::new();
    if options.nodelay != defaults::NODELAY {
        facts.push("nodelay off".to_owned());
    }
    match &options.keepalive {
        None => facts.push("keepalive off".to_owned()),
        Some(probes) => {
            let usual = (defaults::KEEPALIVE_IDLE, defaults::KEEPALIVE_INTERVAL, defaults::KEEPALIVE_COUNT);
            if (probes.idle, probes.interval, probes.count) != usual {
                let (idle, interval) = (format_duration(probes.idle), format_duration(probes.interval));
                facts.push(format!("keepalive after {idle}, {} probes {interval} apart", probes.count));
            }
        }
    }
    if options.backlog != defaults::BACKLOG {
        facts.push(format!("backlog {}", options.backlog));
    }
    facts.extend(options.recv_buffer.map(|bytes| format!("recv_buffer {}", format_size(bytes.into()))));
    facts.extend(options.send_buffer.map(|bytes| format!("send_buffer {}", format_size(bytes.into()))));
    if options.fast_open {
        facts.push("fast_open".to_owned());
    }
    facts.extend(options.user_timeout.map(|time| format!("user_timeout {}", format_duration(time))));
    facts
}

fn route(route: &Route, config: &Config) -> Block {
    let hosts: Vec<_> = route.hosts.iter().map(host_text).collect();
    let host = if hosts.is_empty() { "any host".to_owned() } else { hosts.join(" ") };
    let path = route.path.as_ref().map_or_else(|| "/*".into(), path_text);
    let mut predicates: Vec<String> = route.methods.iter().map(ToString::to_string).collect();
    predicates.extend(route.headers.iter().map(|(name, value)| format!("{name}: {}", value_text(value))));
    predicates.extend(route.query.iter().map(|(name, value)| format!("?{name}={}", value_text(value))));
    let (action, mut details) = action(&route.action, config);
    if !predicates.is_empty() {
        details.insert(0, format!("only {}", predicates.join(", ")));
    }
    if !route.listeners.is_empty() {
        let names: Vec<_> = route.listeners.iter().map(|index| &*config.listeners[*index].name).collect();
        details.insert(0, format!("on {}", names.join(", ")));
    }
    match route.max_body {
        Some(u64::MAX) => details.push("max_body unlimited".to_owned()),
        Some(bytes) => details.push(format!("max_body {}", format_size(bytes))),
        None => {}
    }
    if !route.deny.is_empty() {
        details.push(format!("denies {}", list(&route.deny)));
    }
    if !route.allow.is_empty() {
        details.push(format!("allows {}", list(&route.allow)));
    }
    details.extend(edits("request headers", &route.request_headers));
    details.extend(edits("response headers", &route.response_headers));
    if !route.access_log {
        details.push("no access log".to_owned());
    }
    // A name made from host and path would only say them again.
    let made = route.name.starts_with(&*host) || route.name.starts_with("*/");
    if !made {
        details.insert(0, format!("name {}", route.name));
    }
    Block { columns: vec![host, path, action], details }
}

fn action(action: &RouteAction, config: &Config) -> (String, Vec<String>) {
    match action {
        RouteAction::Redirect { to, status } => (format!("-> {} {}", status.as_u16(), to.source()), Vec::new()),
        RouteAction::Respond { status, body, content_type } => {
            let kind = content_type.to_str().unwrap_or("");
            let size = format_size(body.len() as u64);
            (format!("-> {} with {size} of {kind}", status.as_u16()), Vec::new())
        }
        RouteAction::Forward(forward) => (destination(forward, config), forward_details(forward)),
    }
}

fn destination(forward: &Forward, config: &Config) -> String {
    let name = |index: usize| &*config.upstreams[index].name;
    match forward.upstreams.as_slice() {
        [(only, _)] => format!("-> {}", name(*only)),
        shares => {
            let total: u64 = shares.iter().map(|(_, weight)| u64::from(*weight)).sum();
            let parts: Vec<_> = shares
                .iter()
                .map(|(index, weight)| {
                    let percent = u64::from(*weight) as f64 * 100.0 / total.max(1) as f64;
                    format!("{} {}%", name(*index), (percent * 10.0).round() / 10.0)
                })
                .collect();
            format!("-> {}", parts.join(", "))
        }
    }
}

fn forward_details(forward: &Forward) -> Vec<String> {
    let mut details = Vec::new();
    match &forward.rewrite {
        PathRewrite::Keep => {}
        PathRewrite::StripPrefix(prefix) => details.push(format!("strips {prefix}")),
        PathRewrite::Replace(template) => details.push(format!("path becomes {}", template.source())),
    }
    match &forward.host_header {
        HostHeader::Preserve => {}
        HostHeader::Upstream => details.push("Host of the endpoint".to_owned()),
        HostHeader::Name(name) => details.push(format!("Host {}", String::from_utf8_lossy(name.as_bytes()))),
    }
    let timeouts = [
        ("response", forward.response_timeout),
        ("total", forward.total_timeout),
        ("tunnel_idle", forward.tunnel_idle),
    ];
    let timeouts =
        timeouts.iter().filter_map(|(name, time)| time.map(|time| format!("{name} {}", format_duration(time))));
    details.extend(joined("timeouts", timeouts.collect()));
    details.extend(retries(forward));
    details.extend(buffers(&forward.buffer));
    details.extend(forward.grpc_web.then(|| "gRPC-Web".to_owned()));
    details.extend(forward.normalize_path.then(|| "normalizes the path".to_owned()));
    match forward.upgrade.as_slice() {
        [] => details.push("no upgrade".to_owned()),
        [only] if only == defaults::UPGRADE => {}
        several => details.push(format!("upgrade {}", several.join(", "))),
    }
    details
}

fn buffers(buffer: &BodyBuffers) -> Option<String> {
    let parts = [("requests", buffer.request), ("answers", buffer.response)];
    let parts: Vec<_> =
        parts.iter().filter_map(|(what, bytes)| bytes.map(|bytes| format!("{what} {}", format_size(bytes)))).collect();
    joined("buffers", parts)
}

fn retries(forward: &Forward) -> Option<String> {
    let rules = &forward.retry;
    let usual = rules.on_connect_failure && !rules.on_reset_before_headers && rules.on_status.is_empty();
    if usual && rules.attempts == defaults::RETRY_ATTEMPTS && rules.replay == defaults::RETRY_REPLAY {
        return None;
    }
    let mut on: Vec<String> = Vec::new();
    on.extend(rules.on_connect_failure.then(|| "connect-failure".to_owned()));
    on.extend(rules.on_reset_before_headers.then(|| "reset-before-headers".to_owned()));
    on.extend(rules.on_status.iter().map(|status| status.as_u16().to_string()));
    if rules.attempts == 0 || on.is_empty() {
        return Some("no retry".to_owned());
    }
    Some(format!("retry {} on {}, replays {}", rules.attempts, on.join(", "), format_size(rules.replay)))
}

fn edits(title: &str, edits: &HeaderEdits) -> Option<String> {
    let mut parts = Vec::new();
    parts.extend(edits.remove.iter().map(|name| format!("-{name}")));
    parts.extend(edits.set.iter().map(|(name, value)| format!("{name}={}", value.source())));
    parts.extend(edits.add.iter().map(|(name, value)| format!("+{name}={}", value.source())));
    joined(title, parts)
}

/// An address to accept on as it is written.
/// The address of a listener as it is written.
pub fn bind_text(bind: &Bind) -> String {
    match bind {
        Bind::AnyAddress(port) => format!(":{port}"),
        Bind::Address(address) => address.to_string(),
        Bind::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// The address of an endpoint as it is written.
pub fn endpoint_text(address: &EndpointAddress) -> String {
    match address {
        EndpointAddress::Socket(address) => address.to_string(),
        EndpointAddress::Unix(path) => format!("unix:{}", path.display()),
        EndpointAddress::Dns { host, port } => format!("dns:{host}:{port}"),
    }
}

fn durations(facts: &[(&str, Duration, Duration)]) -> Vec<String> {
    let changed = facts.iter().filter(|(_, own, usual)| own != usual);
    changed.map(|(name, own, _)| format!("{name} {}", format_duration(*own))).collect()
}

fn joined(title: &str, facts: Vec<String>) -> Option<String> {
    (!facts.is_empty()).then(|| format!("{title}: {}", facts.join(", ")))
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

const WIDEST: usize = 48;
