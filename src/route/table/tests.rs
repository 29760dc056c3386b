use std::cmp::Reverse;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::super::matcher::{Miss, Predicates};
use super::super::reasons::{Loss, Rule, loss};
use super::*;
use crate::config::model::{HostPattern, PathPattern, ValuePattern};

fn route(name: &str, hosts: &[&str], path: &str) -> model::Route {
    let host = |host: &&str| match host.strip_prefix("*.") {
        Some(suffix) => HostPattern::Wildcard(suffix.into()),
        None => HostPattern::Exact((*host).into()),
    };
    let path = match (path.strip_prefix("~ "), path.strip_suffix("/*")) {
        (Some(regex), _) => Some(PathPattern::Regex(regex::Regex::new(regex).unwrap())),
        (_, Some(prefix)) => Some(PathPattern::Prefix(prefix.into())),
        _ if path.is_empty() => None,
        _ => Some(PathPattern::Exact(path.into())),
    };
    model::Route {
        name: name.into(),
        listeners: vec![],
        hosts: hosts.iter().map(host).collect(),
        path,
        methods: vec![],
        headers: vec![],
        query: vec![],
        action: model::RouteAction::Forward(model::Forward {
            upstreams: vec![(0, 1)],
            rewrite: model::PathRewrite::Keep,
            host_header: model::HostHeader::Preserve,
            response_timeout: Some(Duration::from_secs(1)),
            total_timeout: None,
            tunnel_idle: None,
            retry: model::RetryRules {
                attempts: 1,
                on_connect_failure: true,
                on_reset_before_headers: false,
                on_status: vec![],
                replay: 0,
            },
            upgrade: vec!["websocket".into()],
            buffer: model::BodyBuffers::default(),
            grpc_web: false,
            normalize_path: false,
        }),
        max_body: None,
        allow: vec![],
        deny: vec![],
        request_headers: model::HeaderEdits::default(),
        response_headers: model::HeaderEdits::default(),
        access_log: true,
        place: model::Place { file: "test".into(), line: 1, column: 1 },
    }
}

fn ask<'t>(table: &'t Table, host: &str, path: &'static str) -> Option<(&'t str, &'static str)> {
    let headers = HeaderMap::new();
    let head =
        RequestHead { listener: ListenerId(0), method: &Method::GET, host, path, query: None, headers: &headers };
    table.find(&head).map(|found| (&*found.route.name, &path[path.len() - found.rest.len()..]))
}

#[test]
fn the_most_specific_host_wins_then_the_most_specific_path() {
    let table = Table::new(
        1,
        &[
            route("rest", &[], ""),
            route("any-exact", &[], "/v1/users"),
            route("wild", &["*.example.org"], "/*"),
            route("wilder", &["*.a.example.org"], "/*"),
            route("regex", &["api.example.org"], "~ ^/v1/u"),
            route("prefix", &["api.example.org"], "/v1/*"),
            route("longer", &["api.example.org"], "/v1/users/*"),
            route("exact", &["api.example.org"], "/v1/users"),
        ],
    );
    assert_eq!(ask(&table, "api.example.org", "/v1/users"), Some(("exact", "")));
    assert_eq!(ask(&table, "api.example.org", "/v1/users/7"), Some(("longer", "/7")));
    assert_eq!(ask(&table, "api.example.org", "/v1/users/"), Some(("longer", "/")));
    assert_eq!(ask(&table, "api.example.org", "/v1/usersx"), Some(("prefix", "/usersx")));
    assert_eq!(ask(&table, "api.example.org", "/v1"), Some(("prefix", "")));
    // The host's own routes do not match the path: the wildcard's do.
    assert_eq!(ask(&table, "api.example.org", "/v12"), Some(("wild", "/v12")));
    assert_eq!(ask(&table, "x.y.a.example.org", "/"), Some(("wilder", "/")));
    assert_eq!(ask(&table, "a.example.org", "/"), Some(("wild", "/")));
    assert_eq!(ask(&table, "example.org", "/"), Some(("rest", "/")));
    assert_eq!(ask(&table, "badexample.org", "/v1/users"), Some(("any-exact", "")));
    assert_eq!(ask(&table, "", "*"), Some(("rest", "*")));
}

#[test]
fn more_predicates_win_and_then_the_order_in_the_file() {
    let mut canary = route("canary", &[], "/*");
    canary.headers.push((HeaderName::from_static("x-canary"), ValuePattern::Exact("yes".into())));
    let mut post = canary.clone();
    post.name = "post".into();
    post.methods.push(Method::POST);
    let table = Table::new(1, &[route("first", &[], "/*"), route("second", &[], "/*"), canary, post]);
    let mut headers = HeaderMap::new();
    let name = |method: &Method, headers: &HeaderMap| {
        let head = RequestHead { listener: ListenerId(0), method, host: "", path: "/", query: None, headers };
        table.find(&head).unwrap().route.name.to_string()
    };
    assert_eq!(name(&Method::POST, &headers), "first");
    headers.insert("x-canary", HeaderValue::from_static("yes"));
    assert_eq!(name(&Method::GET, &headers), "canary");
    assert_eq!(name(&Method::POST, &headers), "post");
}

#[test]
fn listeners_have_their_own_routes() {
    let mut second = route("second", &[], "/*");
    second.listeners.push(1);
    let table = Table::new(3, &[route("all", &[], ""), second]);
    let headers = HeaderMap::new();
    let name = |listener| {
        let listener = ListenerId(listener);
        let head = RequestHead { listener, method: &Method::GET, host: "", path: "/", query: None, headers: &headers };
        table.find(&head).map(|found| &*found.route.name)
    };
    assert_eq!([name(0), name(1), name(2), name(3)], [Some("all"), Some("second"), Some("all"), None]);
    assert!(Arc::ptr_eq(&table.listeners[0], &table.listeners[2]));
}

#[test]
fn patterns_match_in_the_form_that_requests_do() {
    let table = Table::new(1, &[route("cafe", &[], "/caf\u{e9}/*"), route("admin", &[], "/%61dmin//x")]);
    assert_eq!(ask(&table, "", "/caf%C3%A9/a"), Some(("cafe", "/a")));
    assert_eq!(ask(&table, "", "/admin/x"), Some(("admin", "")));
}

#[test]
fn a_witness_hears_who_lost() {
    struct Losers(Vec<(u32, String)>);
    impl Witness for Losers {
        fn missed(&mut self, route: RouteId, miss: Miss<'_>) {
            self.0.push((route.0, format!("{miss:?}")));
        }
    }
    let mut post = route("post", &["a"], "/*");
    post.methods.push(Method::POST);
    let table = Table::new(1, &[route("any", &[], "/*"), post]);
    let headers = HeaderMap::new();
    let head = RequestHead {
        listener: ListenerId(0),
        method: &Method::GET,
        host: "a",
        path: "/",
        query: None,
        headers: &headers,
    };
    let mut losers = Losers(vec![]);
    assert_eq!(&*table.find_with(&head, &mut losers).unwrap().route.name, "any");
    assert_eq!(losers.0, [(1, "Method".to_owned())]);
}

#[test]
fn a_path_of_thousands_of_segments_costs_few_lookups() {
    let table = Table::new(1, &[route("deep", &["*.example.org"], "/a/a/*")]);
    let path: &'static str = Box::leak("/a".repeat(30_000).into_boxed_str());
    let host = format!("{}example.org", "a.".repeat(100));
    let start = std::time::Instant::now();
    for _ in 0..1000 {
        assert_eq!(ask(&table, &host, path).unwrap().0, "deep");
    }
    // Hashing every prefix would take minutes.
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// CONFIG's last words on route choice, read literally: of all that match, the smallest key.
fn reference(routes: &[model::Route], head: &RequestHead<'_>) -> Option<(RouteId, String)> {
    let host_rank = |route: &model::Route| {
        let ranks = route.hosts.iter().filter_map(|host| match host {
            HostPattern::Exact(name) => (name == head.host).then_some((0, 0)),
            HostPattern::Wildcard(suffix) => {
                let front = head.host.strip_suffix(suffix.as_str())?;
                (front.len() > 1 && front.ends_with('.')).then_some((1, -(suffix.len() as i64)))
            }
        });
        if route.hosts.is_empty() { Some((2, 0)) } else { ranks.min() }
    };
    let path_rank = |route: &model::Route| match &route.path {
        Some(PathPattern::Exact(path)) => (path == head.path).then(|| ((0, 0), String::new())),
        Some(PathPattern::Prefix(prefix)) => {
            let rest = head.path.strip_prefix(prefix.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| ((1, -(prefix.len() as i64)), rest.to_owned()))
        }
        Some(PathPattern::Regex(regex)) => regex.is_match(head.path).then(|| ((2, 0), String::new())),
        None => Some(((3, 0), head.path.to_owned())),
    };
    let matching = routes.iter().enumerate().filter_map(|(at, route)| {
        let on = &route.listeners;
        let predicates = Predicates::new(route);
        if !(on.is_empty() || on.contains(&(head.listener.0 as usize))) || predicates.check(head).is_err() {
            return None;
        }
        let (path, rest) = path_rank(route)?;
        Some(((host_rank(route)?, path, Reverse(predicates.count()), at), rest))
    });
    matching.min().map(|((_, _, _, at), rest)| (RouteId(at as u32), rest))
}

fn any_route() -> impl Strategy<Value = model::Route> {
    let hosts = prop::collection::vec(
        prop::sample::select(vec!["x", "a.x", "b.a.x", "c.b.a.x", "*.x", "*.a.x", "*.b.a.x", "y", "*.y"]),
        0..3,
    );
    let path = prop::sample::select(vec![
        "", "/", "/a", "/a/b", "/a/b/c", "/ab", "/*", "/a/*", "/a/b/*", "/ab/*", "/a/b/c/*", "~ ^/a", "~ b$", "~ c",
    ]);
    let canary = prop::option::of(prop::sample::select(vec!["yes", "no"]));
    (hosts, path, prop::option::of(0..2usize), any::<Option<bool>>(), canary).prop_map(
        |(hosts, path, listener, get, canary)| {
            let mut route = route("r", &hosts, path);
            route.listeners.extend(listener);
            route.methods.extend(get.map(|get| if get { Method::GET } else { Method::POST }));
            let name = HeaderName::from_static("x-canary");
            route.headers.extend(canary.map(|value| (name, ValuePattern::Exact(value.into()))));
            route
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn finds_what_a_walk_through_all_routes_finds(
        routes in prop::collection::vec(any_route(), 0..14),
        asked in prop::collection::vec(
            (
                prop::sample::select(vec!["x", "a.x", "b.a.x", "c.b.a.x", "d.c.b.a.x", "y", "z.y", ".x", ".", "", "z"]),
                prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/a/b/c", "/a/b/c/d/e", "/ab", "/ab/c", "/abc", "*"]),
                0..3u32,
                any::<bool>(),
                prop::option::of(prop::sample::select(vec!["yes", "no"])),
            ),
            1..12,
        ),
    ) {
        let table = Table::new(2, &routes);
        for (host, path, listener, get, canary) in asked {
            let mut headers = HeaderMap::new();
            headers.extend(canary.map(|value| (HeaderName::from_static("x-canary"), HeaderValue::from_static(value))));
            let method = if get { Method::GET } else { Method::POST };
            let head =
                RequestHead { listener: ListenerId(listener), method: &method, host, path, query: None, headers: &headers };
            let found: Option<(RouteId, String)> = table.find(&head).map(|found| (found.route.id, found.rest.to_owned()));
            // `/*` takes `*` as well; a listener that is not there has no routes.
            let expected = match listener {
                0 | 1 if path != "*" => reference(&routes, &head),
                0 | 1 => continue,
                _ => None,
            };
            prop_assert_eq!(&found, &expected, "{} {}", host, path);
            let winner = found.map(|(id, _)| id);
            for (at, route) in routes.iter().enumerate().filter(|_| listener < 2) {
                let id = RouteId(at as u32);
                if Some(id) == winner {
                    continue;
                }
                // Alone it would take the request, or it would not.
                let alone = reference(std::slice::from_ref(route), &head).is_some();
                let why = loss(&routes, 2, &head, id, winner);
                prop_assert_eq!(alone, matches!(why, Loss::Specificity(_)), "{:?}", why);
                let other = |id: RouteId| &routes[id.0 as usize];
                let count = |route| Predicates::new(route).count();
                match (why, winner) {
                    (Loss::Specificity(Rule::Order), Some(winner)) => prop_assert!(winner < id),
                    (Loss::Specificity(Rule::Predicates), Some(winner)) => {
                        prop_assert!(count(other(winner)) > count(route));
                    }
                    (Loss::Listener, _) => prop_assert!(!route.listeners.contains(&(listener as usize))),
                    _ => {}
                }
            }
        }
    }
}
