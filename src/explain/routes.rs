//! Which route takes a request and why each other does not, in words, with the lines that say so.

use http::HeaderMap;

use super::explanation::{At, Chosen, Loser};
use crate::base::id::RouteId;
use crate::config::Config;
use crate::config::effective::Owner;
use crate::config::match_text;
use crate::config::model::{HostPattern, PathPattern, Route, ValuePattern};
use crate::config::summary::host_text;
use crate::route::matcher::RequestHead;
use crate::route::reasons::{Loss, Predicate, Rule, loss};

/// The routes of one configuration, asked about one request.
pub struct Routes<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// What routes are asked with.
    pub head: RequestHead<'a>,
    /// The route that takes it.
    pub winner: Option<RouteId>,
}

impl Routes<'_> {
    /// The route that takes it.
    pub fn taken(&self, others: &[Loser]) -> Option<Chosen> {
        let route = self.config.routes.get(self.winner?.0 as usize)?;
        let beaten: Vec<_> =
            others.iter().filter(|other| RULES.iter().any(|(word, _)| *word == other.because)).collect();
        // The first rule that had to be asked about any of them, as they are asked in this order.
        let rules: Vec<&str> = RULES
            .iter()
            .filter(|(word, _)| beaten.iter().any(|other| other.because == *word))
            .map(|(_, rule)| *rule)
            .collect();
        let why = match beaten.len() {
            0 => "the only one that matches".to_owned(),
            1 => format!("before `{}`, which matches too: {}", beaten[0].name, rules.join(", ")),
            many => format!("before {many} others that match too: {}", rules.join("; ")),
        };
        let what = match_text(route);
        Some(Chosen { name: route.name.to_string(), what, why, at: Some(At::from(&route.place)) })
    }

    /// Every other route, in the order of the file.
    pub fn others(&self) -> Vec<Loser> {
        let others = (0..).map(RouteId).zip(&self.config.routes).filter(|(id, _)| Some(*id) != self.winner);
        others.map(|(id, route)| self.loser(id, route)).collect()
    }

    fn loser(&self, id: RouteId, route: &Route) -> Loser {
        let index = id.0 as usize;
        let loss = loss(&self.config.routes, self.config.listeners.len(), &self.head, id, self.winner);
        let winner = self.winner.and_then(|winner| self.config.routes.get(winner.0 as usize));
        let name = winner.map_or_else(String::new, |winner| format!("`{}`", winner.name));
        let (because, why, path): (&str, String, Vec<&str>) = match &loss {
            Loss::Listener => {
                let on: Vec<_> = route.listeners.iter().map(|at| &*self.config.listeners[*at].name).collect();
                ("listener", format!("belongs to listener {}", on.join(", ")), vec!["listener"])
            }
            Loss::Host => ("host", format!("host is {}, not {}", hosts(route), shown(self.head.host)), vec!["host"]),
            Loss::Path => {
                let own = route.path.as_ref().map_or_else(String::new, path_text);
                ("path", format!("path is {own}, which {} is not", self.head.path), vec!["path"])
            }
            Loss::Predicate(Predicate::Method) => {
                let methods: Vec<_> = route.methods.iter().map(http::Method::as_str).collect();
                ("method", format!("method is {}, not {}", methods.join(" or "), self.head.method), vec!["method"])
            }
            Loss::Predicate(Predicate::Header(name)) => {
                let wanted = route.headers.iter().find(|(own, _)| own.as_str() == name);
                let wanted = wanted.map_or_else(String::new, |(_, pattern)| value_text(pattern));
                (
                    "header",
                    format!("header {name} {wanted}, {}", brought(self.head.headers, name)),
                    vec!["header", name],
                )
            }
            Loss::Predicate(Predicate::Query(name)) => {
                let wanted = route.query.iter().find(|(own, _)| own == name);
                let wanted = wanted.map_or_else(String::new, |(_, pattern)| value_text(pattern));
                let query =
                    self.head.query.map_or("there is no query".to_owned(), |query| format!("the query is `{query}`"));
                ("query", format!("query parameter {name} {wanted}; {query}"), vec!["query", name])
            }
            Loss::Specificity(Rule::Host) => {
                let own = if route.hosts.is_empty() { "any host".to_owned() } else { hosts(route) };
                (
                    "less-specific-host",
                    format!("matches, but {own} is less specific than the host of {name}"),
                    vec!["host"],
                )
            }
            Loss::Specificity(Rule::Path) => {
                let own = route.path.as_ref().map_or_else(|| "any path".to_owned(), path_text);
                (
                    "less-specific-path",
                    format!("matches, but {own} is less specific than the path of {name}"),
                    vec!["path"],
                )
            }
            Loss::Specificity(Rule::Predicates) => (
                "fewer-predicates",
                format!("matches, but asks for fewer methods, headers and parameters than {name}"),
                vec![],
            ),
            Loss::Specificity(Rule::Order) => {
                ("later-in-file", format!("matches alike, but stands after {name}"), vec![])
            }
        };
        let written = self.config.written.place(Owner::Route(index), &path);
        let at = Some(written.map_or_else(|| At::from(&route.place), At::from));
        Loser { name: route.name.to_string(), because: because.to_owned(), why, at }
    }
}

fn hosts(route: &Route) -> String {
    let hosts: Vec<_> = route.hosts.iter().map(|host: &HostPattern| host_text(host)).collect();
    hosts.join(" or ")
}

fn shown(host: &str) -> &str {
    if host.is_empty() { "absent" } else { host }
}

fn path_text(path: &PathPattern) -> String {
    match path {
        PathPattern::Exact(path) => path.clone(),
        PathPattern::Prefix(prefix) => format!("{prefix}/*"),
        PathPattern::Regex(regex) => format!("~ {regex}"),
    }
}

fn value_text(pattern: &ValuePattern) -> String {
    match pattern {
        ValuePattern::Exact(text) => format!("must be `{text}`"),
        ValuePattern::Regex(regex) => format!("must match `{regex}`"),
    }
}

fn brought(fields: &HeaderMap, name: &str) -> String {
    let values: Vec<_> = fields.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    if values.is_empty() { "and is absent".to_owned() } else { format!("and is `{}`", values.join("`, `")) }
}

/// The words of losers that match as well, with the rule that decided, in the order in which rules are asked.
const RULES: [(&str, &str); 4] = [
    ("less-specific-host", "its host is more specific"),
    ("less-specific-path", "its path is more specific"),
    ("fewer-predicates", "it asks for more"),
    ("later-in-file", "it stands first in the file"),
];
