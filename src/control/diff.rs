//! The changes between two configurations, as text for the log and the requester (sans-io). Things are compared by
//! identity, not by position: listeners, routes and upstreams by name, addresses by value. A test ensures that every
//! key is covered.

mod keys;
mod listeners;
mod quic;
mod routes;
mod upstreams;

use std::collections::HashMap;
use std::path::PathBuf;

use crate::config::Config;
use crate::config::model::{ControlListener, Expectation, Place, Server};
use keys::{Keys, RESTART};

/// Lines that are told at most; a last one counts the others.
pub const MOST_LINES: usize = 60;

/// The differences in a stable order: the process, listeners, routes, upstreams. Empty: nothing changes.
pub fn diff(before: &Config, after: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(server(&before.server, &after.server).line("server"));
    listeners::diff(before, after, &mut lines);
    routes::diff(before, after, &mut lines);
    upstreams::diff(before, after, &mut lines);
    lines.extend(expectations(&before.expectations, &after.expectations));
    lines
}

/// They serve nobody, so that how many there are is enough.
fn expectations(before: &[Expectation], after: &[Expectation]) -> Option<String> {
    let same = |(a, b): (&Expectation, &Expectation)| Expectation { place: b.place.clone(), ..a.clone() } == *b;
    match (before.len(), after.len()) {
        (was, is) if was != is => Some(format!("expectations: {is}, were {was}")),
        _ => (!before.iter().zip(after).all(same)).then(|| "expectations changed".to_owned()),
    }
}

/// Cuts a long account: its first lines and how many more there are.
pub fn shorten(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > MOST_LINES {
        let more = lines.len() - (MOST_LINES - 1);
        lines.truncate(MOST_LINES - 1);
        lines.push(format!("and {more} more"));
    }
    lines
}

fn server(before: &Server, after: &Server) -> Keys {
    let mut keys = Keys::default();
    keys.compare("workers", &before.workers, &after.workers).note(RESTART);
    keys.compare("drain_timeout", &before.drain_timeout, &after.drain_timeout);
    keys.compare("drain_delay", &before.drain_delay, &after.drain_delay);
    keys.changed("user", identity(before) != identity(after)).note(RESTART);
    keys.changed("admin", differ(before.admin.as_ref(), after.admin.as_ref()));
    keys.changed("observe", differ(before.observe.as_ref(), after.observe.as_ref()));
    keys.compare("watch", &before.watch, &after.watch);
    keys.changed("log", before.log != after.log);
    keys.changed("access_log", before.access_log != after.access_log);
    let path = |file: &Option<(PathBuf, Place)>| file.as_ref().map(|(path, _)| path.clone());
    keys.changed("quic_key_file", path(&before.quic_key_file) != path(&after.quic_key_file)).note(RESTART);
    keys.compare("metrics.max_routes", &before.metrics.max_routes, &after.metrics.max_routes);
    keys
}

/// Whether both mean the same, wherever they stand.
fn differ(before: Option<&ControlListener>, after: Option<&ControlListener>) -> bool {
    let token = |own: &ControlListener| own.token_file.as_ref().map(|token| token.path.clone());
    match (before, after) {
        (None, None) => false,
        (Some(a), Some(b)) => a.bind != b.bind || token(a) != token(b) || a.hosts != b.hosts,
        _ => true,
    }
}

/// Who the process becomes, wherever that is written.
fn identity(server: &Server) -> Option<(&str, Option<&str>)> {
    let identity = server.identity.as_ref()?;
    Some((&identity.user, identity.group.as_ref().map(|(group, _)| &**group)))
}

/// Two lists by name: those of both, those that are new, those that are gone; each in the order of its own list.
struct Matched<'a, T> {
    both: Vec<(&'a T, &'a T)>,
    added: Vec<&'a T>,
    removed: Vec<&'a T>,
}

impl<'a, T> Matched<'a, T> {
    fn by_name(before: &'a [T], after: &'a [T], name: impl Fn(&'a T) -> &'a str) -> Self {
        let mut known: HashMap<&str, &T> = before.iter().map(|one| (name(one), one)).collect();
        let mut matched = Self { both: Vec::new(), added: Vec::new(), removed: Vec::new() };
        for one in after {
            match known.remove(name(one)) {
                Some(old) => matched.both.push((old, one)),
                None => matched.added.push(one),
            }
        }
        matched.removed.extend(before.iter().filter(|one| known.contains_key(name(one))));
        matched
    }
}

/// A few names, and how many more there are.
fn some<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(MOST_NAMES);
    let mut told: Vec<&str> = names.take(MOST_NAMES).collect();
    let rest = format!("{more} more");
    if more > 0 {
        told.push(&rest);
    }
    told.join(", ")
}

/// Names that stand in one line.
const MOST_NAMES: usize = 5;

#[cfg(test)]
mod tests;
