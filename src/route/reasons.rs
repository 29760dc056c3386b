//! Why a route did not match a request (sans-io). The table decides; this asks it again, with one route at a time, so
//! that the explanation agrees with traffic. Used only by `explain`, since it compiles a table for each route.

use std::cmp::Ordering;

use http::HeaderMap;

use super::matcher::{Miss, Predicates, RequestHead};
use super::normal_path::normal_form;
use super::path_index::Witness;
use super::table::Table;
use crate::base::id::RouteId;
use crate::config::model::{HostPattern, PathPattern, Route};

/// Why a route lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It belongs to other listeners.
    Listener,
    /// None of its hosts is the request's.
    Host,
    /// Its path is not the request's.
    Path,
    /// A further predicate does not hold.
    Predicate(Predicate),
    /// It matches, and a more specific one does too.
    Specificity(Rule),
}

/// A predicate that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predicate {
    /// The method is not in its list.
    Method,
    /// This header field is absent or other.
    Header(String),
    /// This query parameter is absent or other.
    Query(String),
}

/// Which rule decided between two routes that both match, in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// An exact host, then the longest wildcard, then none.
    Host,
    /// An exact path, then the longest prefix, then a regular expression, then none.
    Path,
    /// The number of further predicates.
    Predicates,
    /// The order in the file.
    Order,
}

/// Why `route` of `routes` did not take a request that `winner` took, or nobody.
pub fn loss(
    routes: &[Route],
    listeners: usize,
    head: &RequestHead<'_>,
    route: RouteId,
    winner: Option<RouteId>,
) -> Loss {
    let (Some(own), winner) = (routes.get(route.0 as usize), winner.and_then(|winner| routes.get(winner.0 as usize)))
    else {
        return Loss::Listener;
    };
    if !own.listeners.is_empty() && !own.listeners.contains(&(head.listener.0 as usize)) {
        return Loss::Listener;
    }
    let mut missed = Missed(None);
    let matches = Table::new(listeners, std::slice::from_ref(own)).find_with(head, &mut missed).is_some();
    match (matches, missed.0, winner) {
        (_, Some(predicate), _) => Loss::Predicate(predicate),
        (true, None, Some(winner)) => Loss::Specificity(rule(winner, own, listeners, head)),
        // Nobody took what it takes: cannot be.
        (true, None, None) => Loss::Specificity(Rule::Order),
        (false, None, _) if host(own, listeners, head).is_none() => Loss::Host,
        (false, None, _) => Loss::Path,
    }
}

/// The rule that put `winner` before `loser`; both match.
fn rule(winner: &Route, loser: &Route, listeners: usize, head: &RequestHead<'_>) -> Rule {
    let hosts = host(winner, listeners, head).cmp(&host(loser, listeners, head));
    let paths = path(winner).cmp(&path(loser));
    let predicates = Predicates::new(winner).count().cmp(&Predicates::new(loser).count());
    let is = |ordering| ordering != Ordering::Equal;
    match () {
        () if is(hosts) => Rule::Host,
        () if is(paths) => Rule::Path,
        () if is(predicates) => Rule::Predicates,
        () => Rule::Order,
    }
}

/// How specific the host pattern is by which a route is found: higher is more; `None`: it is not found by its host.
fn host(route: &Route, listeners: usize, head: &RequestHead<'_>) -> Option<(u8, usize)> {
    let fields = HeaderMap::new();
    let by_host = RequestHead { path: "/", query: None, headers: &fields, ..*head };
    let found = |hosts: Vec<HostPattern>| {
        let alone =
            Route { hosts, path: None, methods: Vec::new(), headers: Vec::new(), query: Vec::new(), ..route.clone() };
        Table::new(listeners, &[alone]).find(&by_host).is_some()
    };
    if route.hosts.is_empty() {
        return Some((0, 0));
    }
    let ranks = route.hosts.iter().filter(|host| found(vec![(*host).clone()])).map(|host| match host {
        HostPattern::Exact(_) => (2, 0),
        HostPattern::Wildcard(suffix) => (1, suffix.len()),
    });
    ranks.max()
}

/// How specific a path is, where it matches.
fn path(route: &Route) -> (u8, usize) {
    match &route.path {
        Some(PathPattern::Exact(_)) => (3, 0),
        Some(PathPattern::Prefix(prefix)) => {
            (2, normal_form(prefix).ok().flatten().map_or(prefix.len(), |normal| normal.len()))
        }
        Some(PathPattern::Regex(_)) => (1, 0),
        None => (0, 0),
    }
}

/// The first predicate that did not hold.
struct Missed(Option<Predicate>);

impl Witness for Missed {
    fn missed(&mut self, _: RouteId, miss: Miss<'_>) {
        self.0.get_or_insert_with(|| match miss {
            Miss::Method => Predicate::Method,
            Miss::Header(name) => Predicate::Header(name.to_string()),
            Miss::Query(name) => Predicate::Query(name.to_owned()),
        });
    }
}
