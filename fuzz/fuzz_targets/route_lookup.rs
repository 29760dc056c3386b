//! A table compiled from any routes finds what a walk through all routes in the words of the documentation finds.
#![no_main]

use std::cmp::Reverse;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use tidegate::base::id::ListenerId;
use tidegate::config::model::{self, HostPattern, PathPattern};
use tidegate::route::table::{RequestHead, Table};

const LABELS: [&str; 4] = ["a", "b", "org", "xn--a"];
const SEGMENTS: [&str; 4] = ["a", "ab", "v1", "%2F"];
const REGEXES: [&str; 4] = ["^/a", "b$", "v1/.*a", "."];

fuzz_target!(|input: (Vec<[u8; 5]>, Vec<[u8; 4]>)| {
    let (written, asked) = input;
    let routes: Vec<model::Route> = written.iter().take(64).map(route).collect();
    let table = Table::new(2, &routes);
    let headers = HeaderMap::new();
    for [host, path, method, listener] in asked {
        let (host, path) = (join(host, &LABELS, "."), format!("/{}", join(path, &SEGMENTS, "/")));
        let method = if method % 2 == 0 { Method::GET } else { Method::POST };
        let listener = ListenerId(u32::from(listener % 2));
        let head = RequestHead { listener, method: &method, host: &host, path: &path, query: None, headers: &headers };
        let found = table.find(&head).map(|found| found.route.id.0 as usize);
        assert_eq!(found, reference(&routes, &head), "{host} {path}");
    }
});

/// Up to three words.
fn join(choice: u8, words: &[&str; 4], between: &str) -> String {
    let count = usize::from(choice >> 6);
    let word = |at| words[usize::from(choice >> (2 * at)) & 3];
    (0..count).map(word).collect::<Vec<_>>().join(between)
}

fn route(bytes: &[u8; 5]) -> model::Route {
    let [host, path, kinds, method, listener] = *bytes;
    let name = join(host, &LABELS, ".");
    let hosts = match kinds & 3 {
        _ if name.is_empty() => vec![],
        0 => vec![],
        1 => vec![HostPattern::Wildcard(name)],
        _ => vec![HostPattern::Exact(name)],
    };
    let text = join(path, &SEGMENTS, "/");
    let path = match (kinds >> 2) & 3 {
        0 => None,
        1 => Some(PathPattern::Exact(format!("/{text}"))),
        2 if text.is_empty() => Some(PathPattern::Prefix(String::new())),
        2 => Some(PathPattern::Prefix(format!("/{text}"))),
        _ => regex::Regex::new(REGEXES[usize::from(path & 3)]).ok().map(PathPattern::Regex),
    };
    model::Route {
        access_log: true,
        name: "fuzz".into(),
        listeners: (listener % 3 < 2).then_some(usize::from(listener % 3)).into_iter().collect(),
        hosts,
        path,
        methods: [vec![], vec![Method::GET], vec![Method::POST]][usize::from(method % 3)].clone(),
        headers: vec![],
        query: vec![],
        action: model::RouteAction::Respond {
            status: StatusCode::OK,
            body: "".into(),
            content_type: HeaderValue::from_static("text/plain"),
        },
        max_body: None,
        allow: vec![],
        deny: vec![],
        request_headers: model::HeaderEdits::default(),
        response_headers: model::HeaderEdits::default(),
        place: model::Place { file: "fuzz".into(), line: 1, column: 1 },
    }
}

/// Exact host, then the longest wildcard, then none; exact path, then the longest prefix, then a regular expression,
/// then none; then the number of further predicates; then the order in the file.
fn reference(routes: &[model::Route], head: &RequestHead<'_>) -> Option<usize> {
    let rank = |(at, route): (usize, &model::Route)| {
        if !route.listeners.is_empty() && !route.listeners.contains(&(head.listener.0 as usize)) {
            return None;
        }
        if !route.methods.is_empty() && !route.methods.contains(head.method) {
            return None;
        }
        let host = match route.hosts.first() {
            None => (2, Reverse(0)),
            Some(HostPattern::Exact(name)) if name == head.host => (0, Reverse(0)),
            Some(HostPattern::Wildcard(name)) if head.host.ends_with(&format!(".{name}")) => (1, Reverse(name.len())),
            Some(_) => return None,
        };
        let path = match &route.path {
            None => (3, Reverse(0)),
            Some(PathPattern::Exact(path)) if path == head.path => (0, Reverse(0)),
            Some(PathPattern::Prefix(prefix)) if format!("{}/", head.path).starts_with(&format!("{prefix}/")) => {
                (1, Reverse(prefix.len()))
            }
            Some(PathPattern::Regex(regex)) if regex.is_match(head.path) => (2, Reverse(0)),
            Some(_) => return None,
        };
        Some((host, path, Reverse(route.methods.len()), at))
    };
    routes.iter().enumerate().filter_map(rank).min().map(|(_, _, _, at)| at)
}
