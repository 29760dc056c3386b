//! Which route a request takes and what the route makes of it.

use http::{Method, StatusCode};

use crate::support::body::Sent;
use crate::support::client::{get, of, post, with};
use crate::support::origin::{echo, ok};
use crate::support::pair::{Downstream, Pair, Upstream};
use crate::support::proxy::Plan;
use crate::support::{downstreams, tests, upstreams};

downstreams! { a_fixed_response_is_given, a_redirect_keeps_what_was_asked_for, no_route_is_told_as_404 }

upstreams! { a_prefix_is_stripped }

tests! {
    the_most_specific_route_wins,
    hosts_are_told_apart_without_regard_to_case_or_port,
    methods_fields_and_queries_choose,
    a_path_is_replaced,
    a_client_from_elsewhere_is_denied,
    an_unread_body_does_not_disturb_the_next_request,
    an_encoded_path_reaches_the_origin_as_it_came,
}

/// A route for each answer: `[[route]]` with these keys, responding with a word.
fn answers(routes: &[(&str, &str)]) -> Plan {
    let table = |(keys, word): &(&str, &str)| format!("[[route]]\n{keys}\nrespond = {{ body = \"{word}\" }}\n");
    Plan::default().routes(&routes.iter().map(table).collect::<String>())
}

async fn a_fixed_response_is_given(pair: Pair) {
    let respond = "[[route]]\npath = \"/ping\"\nrespond = { status = 202, body = \"pong\\n\" }\n\
                   [[route]]\npath = \"/none\"\nrespond = { status = 204 }\n\
                   [[route]]\nupstream = \"origin\"";
    let mut scene = pair.planned(|plan| plan.routes(respond), ok).await;
    for _ in 0..2 {
        let reply = scene.client.get("/ping").await;
        assert_eq!((reply.status(), reply.text()), (StatusCode::ACCEPTED, "pong\n"));
        assert_eq!(reply.field("content-length"), Some("5"));
        assert!(reply.field("content-type").unwrap().starts_with("text/plain"));
        let reply = scene.client.call(of(Method::HEAD, "/ping", Sent::empty())).await;
        assert_eq!((reply.field("content-length"), reply.body.len()), (Some("5"), 0));
        let reply = scene.client.get("/none").await;
        assert_eq!((reply.status(), reply.field("content-length")), (StatusCode::NO_CONTENT, None));
    }
    assert!(scene.origin.seen().is_empty());
    assert_eq!(scene.client.get("/").await.text(), "ok");
}

async fn a_redirect_keeps_what_was_asked_for(pair: Pair) {
    let redirect = "[[route]]\npath = \"/old/*\"\nredirect = { to = \"https://{host}{path_and_query}\", status = 301 }\n\
                    [[route]]\nupstream = \"origin\"";
    let mut scene = pair.planned(|plan| plan.routes(redirect), ok).await;
    for request in [get("/old/a%20b?c=d"), post("/old/a%20b?c=d", "a body")] {
        let reply = scene.client.call(request).await;
        assert_eq!(reply.status(), StatusCode::MOVED_PERMANENTLY);
        assert_eq!(reply.field("location"), Some("https://example.org/old/a%20b?c=d"));
    }
    assert!(scene.origin.seen().is_empty());
}

async fn no_route_is_told_as_404(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.route("path = \"/only\""), ok).await;
    scene.client.get("/other").await.is_fault(404, "destination_not_found");
    assert_eq!(scene.client.get("/only").await.text(), "ok");
}

async fn a_prefix_is_stripped(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.route("path = \"/v1/*\"\nstrip_prefix = \"/v1\""), echo).await;
    for (asked, sent) in [("/v1/a/b?c", "/a/b?c"), ("/v1", "/"), ("/v1/", "/"), ("/v1?q=1", "/?q=1")] {
        let text = scene.client.get(asked).await;
        assert!(text.text().starts_with(&format!("GET {sent}\n")), "{asked}: {}", text.text());
    }
    scene.client.get("/v12").await.is_fault(404, "destination_not_found");
}

async fn the_most_specific_route_wins() {
    let routes = [
        ("", "any"),
        ("path = \"/a/*\"", "prefix"),
        ("path = \"/a/b/*\"", "longer"),
        ("path = \"/a/b/c\"", "exact"),
        ("path = \"~ ^/[0-9]+$\"", "regex"),
        ("host = \"*.wild.test\"", "wild"),
        ("host = \"*.deep.wild.test\"", "deeper"),
        ("host = \"one.wild.test\"", "one"),
    ];
    let proxy = answers(&routes).start();
    let mut client = crate::support::client::Client::connect(proxy.address(), Downstream::H1).await;
    for (host, path, word) in [
        ("x.test", "/", "any"),
        ("x.test", "/a", "prefix"),
        ("x.test", "/ab", "any"),
        ("x.test", "/a/b/d", "longer"),
        ("x.test", "/a/b/c", "exact"),
        ("x.test", "/17", "regex"),
        ("x.test", "/17a", "any"),
        ("a.wild.test", "/a/b/c", "wild"),
        ("wild.test", "/", "any"),
        ("a.deep.wild.test", "/", "deeper"),
        ("one.wild.test", "/", "one"),
    ] {
        let mut request = get(path);
        request.headers_mut().insert("host", host.parse().unwrap());
        assert_eq!(client.call(request).await.text(), word, "{host}{path}");
    }
}

async fn hosts_are_told_apart_without_regard_to_case_or_port() {
    let proxy = answers(&[("host = \"a.test\"", "a"), ("host = \"b.test\"", "b")]).start();
    let mut client = crate::support::client::Client::connect(proxy.address(), Downstream::H1).await;
    for (host, word) in [("A.Test", "a"), ("a.test:8080", "a"), ("B.TEST.", "b"), ("b.test:", "b")] {
        let mut request = get("/");
        request.headers_mut().insert("host", host.parse().unwrap());
        assert_eq!(client.call(request).await.text(), word, "{host}");
    }
}

async fn methods_fields_and_queries_choose() {
    let routes = [
        ("", "any"),
        ("method = [\"POST\", \"PUT\"]", "write"),
        ("header = { x-canary = \"yes\" }", "canary"),
        ("header = { x-canary = \"~ ^v[0-9]$\" }", "version"),
        ("query = { debug = \"1\" }", "debug"),
    ];
    let proxy = answers(&routes).start();
    let mut client = crate::support::client::Client::connect(proxy.address(), Downstream::H1).await;
    assert_eq!(client.get("/").await.text(), "any");
    assert_eq!(client.call(post("/", "")).await.text(), "write");
    assert_eq!(client.call(with(get("/"), "x-canary", "yes")).await.text(), "canary");
    assert_eq!(client.call(with(get("/"), "x-canary", "v7")).await.text(), "version");
    assert_eq!(client.call(with(get("/"), "x-canary", "no")).await.text(), "any");
    assert_eq!(client.get("/?a=b&debug=1").await.text(), "debug");
    assert_eq!(client.get("/?debug=12").await.text(), "any");
}

async fn a_path_is_replaced() {
    let plan = |plan: Plan| plan.route("path = \"/old/*\"\nreplace_path = \"/new{rest}\"");
    let mut scene = Pair::PLAIN.planned(plan, echo).await;
    let reply = scene.client.get("/old/a?b=c").await;
    assert!(reply.text().starts_with("GET /new/a?b=c\n"), "{}", reply.text());
}

async fn a_client_from_elsewhere_is_denied() {
    for (keys, admitted) in [
        ("allow = [\"10.0.0.0/8\"]", false),
        ("allow = [\"127.0.0.0/8\"]", true),
        ("deny = [\"127.0.0.1/32\"]", false),
        ("allow = [\"127.0.0.0/8\"]\ndeny = [\"127.0.0.1/32\"]", false),
        ("deny = [\"10.0.0.0/8\"]", true),
    ] {
        let mut scene = Pair::PLAIN.planned(|plan| plan.route(keys), ok).await;
        let reply = scene.client.get("/").await;
        match admitted {
            true => assert_eq!(reply.text(), "ok", "{keys}"),
            false => reply.is_fault(403, "http_request_denied"),
        }
    }
}

/// PITFALLS 14: an answer of our own comes before the body was read.
async fn an_unread_body_does_not_disturb_the_next_request() {
    for down in [Downstream::H1, Downstream::H2] {
        let proxy = answers(&[("", "word")]).start();
        let mut client = crate::support::client::Client::connect(proxy.address(), down).await;
        for size in [10, 1000, 10_000] {
            assert_eq!(client.call(post("/", "x".repeat(size))).await.text(), "word");
            if client.has_ended() {
                client = crate::support::client::Client::connect(proxy.address(), down).await;
            }
        }
    }
}

async fn an_encoded_path_reaches_the_origin_as_it_came() {
    for up in [Upstream::Http1, Upstream::Http2] {
        let mut scene = Pair { down: Downstream::H1, up }.scene(echo).await;
        for path in ["/%41%2fb", "/a//b", "/a;b=c,d", "/%e4%f6", "/?a=%20+b&c=/../d", "/a:b@c"] {
            let reply = scene.client.get(path).await;
            assert!(reply.text().starts_with(&format!("GET {path}\n")), "{path}: {}", reply.text());
        }
    }
}
