//! Routes that can never match because an earlier one has the same match; and the default names of routes.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use crate::config::model::{HostPattern, PathPattern, Route, ValuePattern};
use crate::config::source::Spot;

/// The matches of the routes so far.
#[derive(Default)]
pub(super) struct Overlap {
    taken: HashMap<String, Vec<(Vec<usize>, Spot)>>,
}

impl Overlap {
    /// Adds a route; the place of the earlier one that takes everything it could match.
    pub(super) fn add(&mut self, route: &Route, spot: Spot) -> Option<Spot> {
        let rest = predicates(route);
        let mut listeners = route.listeners.clone();
        listeners.sort_unstable();
        let hosts: Vec<String> = match route.hosts.is_empty() {
            true => vec![String::new()],
            false => route.hosts.iter().map(host_text).collect(),
        };
        let mut first = None;
        let mut dead = 0;
        for host in &hosts {
            let earlier = self.taken.entry(format!("{host}\n{rest}")).or_default();
            // Few routes differ by their listeners alone; a file that has many is checked against the first ones.
            match earlier.iter().take(LOOKED_AT).find(|(taken, _)| covers(taken, &listeners)) {
                Some((_, place)) => {
                    dead += 1;
                    first.get_or_insert(*place);
                }
                None => earlier.push((listeners.clone(), spot)),
            }
        }
        first.filter(|_| dead == hosts.len())
    }
}

fn covers(taken: &[usize], wanted: &[usize]) -> bool {
    taken.is_empty() || !wanted.is_empty() && wanted.iter().all(|listener| taken.contains(listener))
}

/// Gives names to routes, each once.
#[derive(Default)]
pub(super) struct Names {
    used: HashSet<String>,
    next: HashMap<String, u32>,
}

impl Names {
    pub(super) fn reserve(&mut self, name: &str) {
        self.used.insert(name.to_owned());
    }

    /// A name from host, path and predicates, then from the listeners, then by number.
    pub(super) fn make(&mut self, route: &Route, listeners: &[&str]) -> String {
        let mut name = match route.hosts.as_slice() {
            [] => String::from("*"),
            [host] => host_text(host),
            [host, more @ ..] => format!("{}+{}", host_text(host), more.len()),
        };
        name.push_str(&route.path.as_ref().map_or_else(|| "/*".into(), path_text));
        let further = further(route, "=");
        if !further.is_empty() {
            let _ = write!(name, "[{}]", further.join(","));
        }
        if self.used.contains(&name) && !listeners.is_empty() {
            let _ = write!(name, "@{}", listeners.join(","));
        }
        let base = name.clone();
        while !self.used.insert(name.clone()) {
            let number = self.next.entry(base.clone()).or_insert(1);
            *number += 1;
            name = format!("{base}#{number}");
        }
        name
    }
}

/// Everything a route matches except hosts and listeners, as one text.
fn predicates(route: &Route) -> String {
    let mut text = route.path.as_ref().map(path_text).unwrap_or_default();
    for one in further(route, "\u{0}") {
        text.push('\n');
        text.push_str(&one);
    }
    text
}

fn further(route: &Route, separator: &str) -> Vec<String> {
    let mut all: Vec<String> = route.methods.iter().map(|method| method.to_string()).collect();
    all.sort_unstable();
    let mut more: Vec<String> = Vec::new();
    more.extend(route.headers.iter().map(|(name, value)| format!("{name}{separator}{}", value_text(value))));
    more.extend(route.query.iter().map(|(name, value)| format!("?{name}{separator}{}", value_text(value))));
    more.sort_unstable();
    all.append(&mut more);
    all
}

/// What a route matches, for people: hosts and path, then what else must hold.
pub fn match_text(route: &Route) -> String {
    let hosts: Vec<_> = route.hosts.iter().map(host_text).collect();
    let host = if hosts.is_empty() { "*".to_owned() } else { hosts.join(" ") };
    let mut text = host + &route.path.as_ref().map_or_else(|| "/*".into(), path_text);
    let further = further(route, "=");
    if !further.is_empty() {
        let _ = write!(text, " [{}]", further.join(", "));
    }
    text
}

/// A host as it is written.
pub(crate) fn host_text(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Wildcard(name) => format!("*.{name}"),
    }
}

/// A path as it is written.
pub(crate) fn path_text(path: &PathPattern) -> String {
    match path {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(prefix) => format!("{prefix}/*"),
        PathPattern::Regex(regex) => format!("~{regex}"),
    }
}

/// A value as it is written.
pub(crate) fn value_text(value: &ValuePattern) -> String {
    match value {
        ValuePattern::Exact(value) => value.clone(),
        ValuePattern::Regex(regex) => format!("~{regex}"),
    }
}

const LOOKED_AT: usize = 16;
