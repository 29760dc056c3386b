//! The routes of one host pattern by path: exact paths and prefixes by hash, regular expressions and routes without a
//! path as lists (sans-io). Prefixes longer than the longest configured one are never looked up, so a path with
//! thousands of segments costs no more than a short one.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::matcher::{Miss, Predicates, RequestHead};
use super::normal_path::normal_form;
use crate::base::id::RouteId;
use crate::config::model::PathPattern;

/// Told of every route that was tried and lost; `()` does not listen.
pub trait Witness {
    /// Host and path match, a further predicate does not.
    fn missed(&mut self, route: RouteId, miss: Miss<'_>);
}

impl Witness for () {
    #[inline]
    fn missed(&mut self, _: RouteId, _: Miss<'_>) {}
}

/// A route of the index.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which route.
    pub route: RouteId,
    /// What it asks beyond host and path.
    pub predicates: Predicates,
}

/// The routes of one host pattern.
#[derive(Clone, Debug, Default)]
pub struct PathIndex {
    exact: FxHashMap<Box<str>, Candidates>,
    /// Keyed without the closing `/*`; `/*` itself is the empty key.
    prefix: FxHashMap<Box<str>, Candidates>,
    longest_prefix: usize,
    regex: Vec<(regex::Regex, Candidate)>,
    any: Candidates,
}

/// Sorted: more predicates first, then the order in the file.
type Candidates = SmallVec<[Candidate; 1]>;

impl PathIndex {
    /// Adds a route; [`finish`](Self::finish) after the last.
    pub fn add(&mut self, path: Option<&PathPattern>, candidate: Candidate) {
        match path {
            Some(PathPattern::Exact(path)) => {
                self.exact.entry(normal(path)).or_default().push(candidate);
            }
            Some(PathPattern::Prefix(prefix)) => {
                let prefix = normal(prefix);
                self.longest_prefix = self.longest_prefix.max(prefix.len());
                self.prefix.entry(prefix).or_default().push(candidate);
            }
            Some(PathPattern::Regex(regex)) => self.regex.push((regex.clone(), candidate)),
            None => self.any.push(candidate),
        }
    }

    /// Puts the candidates of each path in the order in which they are asked.
    pub fn finish(&mut self) {
        let rank = |candidate: &Candidate| (std::cmp::Reverse(candidate.predicates.count()), candidate.route);
        for candidates in self.exact.values_mut().chain(self.prefix.values_mut()).chain([&mut self.any]) {
            candidates.sort_by_key(rank);
        }
        self.regex.sort_by_key(|(_, candidate)| rank(candidate));
    }

    /// The most specific route that takes the request, and how many bytes of the path come before what `*` matched.
    pub fn find(&self, head: &RequestHead<'_>, witness: &mut impl Witness) -> Option<(RouteId, usize)> {
        let path = head.path;
        if !self.exact.is_empty()
            && let Some(candidates) = self.exact.get(path)
            && let Some(route) = first(candidates, head, witness)
        {
            return Some((route, path.len()));
        }
        if let Some(found) = self.find_prefix(head, witness) {
            return Some(found);
        }
        for (regex, candidate) in &self.regex {
            if regex.is_match(path)
                && let Some(route) = first(std::slice::from_ref(candidate), head, witness)
            {
                return Some((route, path.len()));
            }
        }
        first(&self.any, head, witness).map(|route| (route, 0))
    }

    /// From the longest prefix that ends at a segment's end to the empty one.
    fn find_prefix(&self, head: &RequestHead<'_>, witness: &mut impl Witness) -> Option<(RouteId, usize)> {
        if self.prefix.is_empty() {
            return None;
        }
        let path = head.path;
        // A prefix ends where the path does or where a `/` follows it.
        let mut end = path.len();
        if end > self.longest_prefix {
            end = memchr::memrchr(b'/', &path.as_bytes()[..=self.longest_prefix]).unwrap_or(0);
        }
        loop {
            if let Some(candidates) = self.prefix.get(&path[..end])
                && let Some(route) = first(candidates, head, witness)
            {
                return Some((route, end));
            }
            if end == 0 {
                return None;
            }
            end = memchr::memrchr(b'/', &path.as_bytes()[..end]).unwrap_or(0);
        }
    }
}

/// What is written in the configuration is matched in the form that requests are; what has none matches nothing.
fn normal(path: &str) -> Box<str> {
    normal_form(path).ok().flatten().unwrap_or_else(|| path.into())
}

fn first(candidates: &[Candidate], head: &RequestHead<'_>, witness: &mut impl Witness) -> Option<RouteId> {
    candidates.iter().find_map(|candidate| match candidate.predicates.check(head) {
        Ok(()) => Some(candidate.route),
        Err(miss) => {
            witness.missed(candidate.route, miss);
            None
        }
    })
}
