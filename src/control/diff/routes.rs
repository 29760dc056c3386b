//! Added and removed routes, and the changed keys of the others.

use super::keys::Keys;
use super::{Matched, some};
use crate::config::Config;
use crate::config::model::{Forward, HeaderEdits, HostHeader, PathRewrite, RetryRules, Route, RouteAction};

pub(super) fn diff(before: &Config, after: &Config, lines: &mut Vec<String>) {
    let matched = Matched::by_name(&before.routes, &after.routes, |route| &route.name);
    let (added, removed) = (&matched.added, &matched.removed);
    let mut counts = Vec::new();
    let mut names = Vec::new();
    for (list, sign, word) in [(added, '+', "added"), (removed, '-', "removed")] {
        if !list.is_empty() {
            counts.push(format!("{sign}{}", list.len()));
            names.push(format!("{word} {}", some(list.iter().map(|route| &*route.name))));
        }
    }
    if !counts.is_empty() {
        lines.push(format!("routes {}: {}", counts.join(" "), names.join("; ")));
    }
    if !is_in_order(&matched, before) {
        lines.push("routes: the order of those that stay changes".to_owned());
    }
    for (old, new) in matched.both {
        lines.extend(route((old, before), (new, after)).line(format_args!("route {}", new.name)));
    }
}

/// Whether those that stay stand in the order they stood in: among equals it decides.
fn is_in_order(matched: &Matched<'_, Route>, before: &Config) -> bool {
    let stay: std::collections::HashSet<*const Route> = matched.both.iter().map(|(old, _)| *old as *const _).collect();
    let old_order = before.routes.iter().filter(|route| stay.contains(&(*route as *const _)));
    old_order.map(|route| &route.name).eq(matched.both.iter().map(|(old, _)| &old.name))
}

fn route((before, old): (&Route, &Config), (after, new): (&Route, &Config)) -> Keys {
    let mut keys = Keys::default();
    keys.changed("listener", listeners(before, old) != listeners(after, new));
    keys.changed("host", before.hosts != after.hosts);
    keys.changed("path", before.path != after.path);
    keys.changed("method", before.methods != after.methods);
    keys.changed("header", before.headers != after.headers);
    keys.changed("query", before.query != after.query);
    match (&before.action, &after.action) {
        (RouteAction::Forward(before), RouteAction::Forward(after)) => forward(&mut keys, (before, old), (after, new)),
        (before, after) if kind(before) == kind(after) => drop(keys.changed(kind(before), before != after)),
        (before, after) => drop(keys.words("action", &kind(before), &kind(after), |kind| (*kind).to_owned())),
    }
    keys.size("max_body", before.max_body, after.max_body);
    keys.changed("allow", before.allow != after.allow);
    keys.changed("deny", before.deny != after.deny);
    keys.compare("access_log", &before.access_log, &after.access_log);
    for (key, before, after) in [
        ("request_headers", &before.request_headers, &after.request_headers),
        ("response_headers", &before.response_headers, &after.response_headers),
    ] {
        let HeaderEdits { remove, set, add } = before;
        keys.changed(&format!("{key}.remove"), *remove != after.remove);
        keys.changed(&format!("{key}.set"), *set != after.set);
        keys.changed(&format!("{key}.add"), *add != after.add);
    }
    keys
}

/// Places in a list change with the list; names do not.
fn listeners<'a>(route: &Route, config: &'a Config) -> Vec<&'a str> {
    route.listeners.iter().map(|place| &*config.listeners[*place].name).collect()
}

fn upstreams<'a>(forward: &Forward, config: &'a Config) -> Vec<(&'a str, u32)> {
    forward.upstreams.iter().map(|(place, weight)| (&*config.upstreams[*place].name, *weight)).collect()
}

fn forward(keys: &mut Keys, (before, old): (&Forward, &Config), (after, new): (&Forward, &Config)) {
    let Forward {
        upstreams: _,
        rewrite,
        host_header,
        response_timeout,
        total_timeout,
        tunnel_idle,
        retry,
        upgrade,
        buffer,
        grpc_web,
        normalize_path,
    } = before;
    let shares = |shares: &Vec<(&str, u32)>| match shares.as_slice() {
        [(only, _)] => (*only).to_owned(),
        several => some(
            several
                .iter()
                .map(|(name, weight)| format!("{name} {weight}"))
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        ),
    };
    keys.words("upstream", &upstreams(before, old), &upstreams(after, new), shares);
    keys.changed(
        if strips(rewrite) || strips(&after.rewrite) { "strip_prefix" } else { "replace_path" },
        *rewrite != after.rewrite,
    );
    keys.words("host_header", host_header, &after.host_header, |header| match header {
        HostHeader::Preserve => "preserve".to_owned(),
        HostHeader::Upstream => "upstream".to_owned(),
        HostHeader::Name(name) => String::from_utf8_lossy(name.as_bytes()).into_owned(),
    });
    keys.compare("timeouts.response", response_timeout, &after.response_timeout);
    keys.compare("timeouts.total", total_timeout, &after.total_timeout);
    keys.compare("timeouts.tunnel_idle", tunnel_idle, &after.tunnel_idle);
    let RetryRules { attempts, on_connect_failure, on_reset_before_headers, on_status, replay } = retry;
    keys.compare("retry.attempts", attempts, &after.retry.attempts);
    let differs = (on_connect_failure, on_reset_before_headers, on_status)
        != (&after.retry.on_connect_failure, &after.retry.on_reset_before_headers, &after.retry.on_status);
    keys.changed("retry.on", differs);
    keys.size("retry.replay", Some(*replay), Some(after.retry.replay));
    keys.changed("upgrade", *upgrade != after.upgrade);
    keys.size("buffer.request", buffer.request, after.buffer.request);
    keys.size("buffer.response", buffer.response, after.buffer.response);
    keys.compare("grpc_web", grpc_web, &after.grpc_web);
    keys.compare("normalize_path", normalize_path, &after.normalize_path);
}

fn strips(rewrite: &PathRewrite) -> bool {
    matches!(rewrite, PathRewrite::StripPrefix(_))
}

fn kind(action: &RouteAction) -> &'static str {
    match action {
        RouteAction::Forward(_) => "upstream",
        RouteAction::Redirect { .. } => "redirect",
        RouteAction::Respond { .. } => "respond",
    }
}
