//! The routes of one listener by host: the exact name, then wildcards from the longest to the shortest, then routes for
//! every host (sans-io). If no path or predicate matches, the next step is tried.

use rustc_hash::FxHashMap;

use super::matcher::{Predicates, RequestHead};
use super::path_index::{Candidate, PathIndex, Witness};
use crate::base::id::RouteId;
use crate::config::model::{self, HostPattern};

/// The routes of one listener.
#[derive(Clone, Debug, Default)]
pub struct HostIndex {
    exact: FxHashMap<Box<str>, PathIndex>,
    /// Keyed without the leading `*.`.
    wildcard: FxHashMap<Box<str>, PathIndex>,
    longest_wildcard: usize,
    any: PathIndex,
}

impl HostIndex {
    /// Adds a route under each of its hosts; [`finish`](Self::finish) after the last.
    pub fn add(&mut self, id: RouteId, route: &model::Route) {
        let candidate = Candidate { route: id, predicates: Predicates::new(route) };
        for host in &route.hosts {
            let paths = match host {
                HostPattern::Exact(name) => self.exact.entry(name.as_str().into()).or_default(),
                HostPattern::Wildcard(suffix) => {
                    self.longest_wildcard = self.longest_wildcard.max(suffix.len());
                    self.wildcard.entry(suffix.as_str().into()).or_default()
                }
            };
            paths.add(route.path.as_ref(), candidate.clone());
        }
        if route.hosts.is_empty() {
            self.any.add(route.path.as_ref(), candidate);
        }
    }

    /// Puts the routes in the order in which they are asked.
    pub fn finish(&mut self) {
        self.exact.values_mut().chain(self.wildcard.values_mut()).chain([&mut self.any]).for_each(PathIndex::finish);
    }

    /// The most specific route that takes the request, and how many bytes of the path come before what `*` matched.
    pub fn find(&self, head: &RequestHead<'_>, witness: &mut impl Witness) -> Option<(RouteId, usize)> {
        let host = head.host;
        if !self.exact.is_empty()
            && let Some(paths) = self.exact.get(host)
            && let Some(found) = paths.find(head, witness)
        {
            return Some(found);
        }
        if !self.wildcard.is_empty() {
            // A suffix longer than every wildcard is skipped without being hashed.
            let start = host.len().saturating_sub(self.longest_wildcard + 1);
            for dot in memchr::memchr_iter(b'.', &host.as_bytes()[start..]).map(|dot| start + dot) {
                // At least one label stands before the dot.
                if dot > 0
                    && let Some(paths) = self.wildcard.get(&host[dot + 1..])
                    && let Some(found) = paths.find(head, witness)
                {
                    return Some(found);
                }
            }
        }
        self.any.find(head, witness)
    }
}
