//! What becomes of header fields on their way through: what belongs to one connection goes, what tells of the client
//! comes, and the route has the last word.

use http::{HeaderMap, Request, Response};
use tidegate::body::incoming::Incoming;

use crate::support::body::Sent;
use crate::support::client::{get, with};
use crate::support::origin::{RawOrigin, echo, ok};
use crate::support::pair::{Downstream, Pair, Scene, Upstream};
use crate::support::proxy::Plan;
use crate::support::{downstreams, pairs, tests, upstreams};

pairs! { the_origin_is_told_of_the_client }

downstreams! {
    what_a_stranger_tells_of_itself_is_replaced,
    what_a_trusted_proxy_tells_is_continued,
    other_spellings_of_what_we_tell_do_not_reach_the_origin,
    who_counts_proxies_is_counted_for,
}

upstreams! {
    host_is_preserved_unless_the_route_says_otherwise,
    fields_of_the_connection_do_not_reach_the_origin,
}

tests! {
    fields_of_the_connection_do_not_reach_the_client,
    connection_tokens_that_are_no_names_do_no_harm,
    a_connection_token_cannot_take_host_or_length_away,
    forwarded_is_written_where_it_is_asked_for,
    via_can_be_named_and_left_out,
    a_request_that_goes_in_circles_is_refused,
    the_route_edits_requests,
    the_route_edits_answers,
    cookies_are_joined_for_http1,
    a_request_id_is_kept_or_made,
}

fn value<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = fields.get_all(name).iter();
    let value = values.next().map(|value| value.to_str().unwrap());
    assert!(values.next().is_none(), "{name} occurs more than once");
    value
}

async fn the_origin_is_told_of_the_client(pair: Pair) {
    let mut scene = pair.scene(ok).await;
    scene.client.get("/").await;
    let fields = scene.origin.only().headers;
    let scheme = if pair.is_tls() { "https" } else { "http" };
    assert_eq!(value(&fields, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(value(&fields, "x-forwarded-proto"), Some(scheme));
    assert_eq!(value(&fields, "x-forwarded-host"), Some("example.org"));
    assert_eq!(
        value(&fields, "via"),
        Some(match pair.down {
            Downstream::H1 | Downstream::H1Tls => "1.1 tidegate",
            Downstream::H2 | Downstream::H2Tls => "2 tidegate",
            Downstream::H3 => "3 tidegate",
        })
    );
    assert_eq!(value(&fields, "forwarded"), None);
}

async fn who_counts_proxies_is_counted_for(pair: Pair) {
    let mut scene = pair.scene(ok).await;
    let options = |left| {
        let mut request = with(get("/"), "max-forwards", left);
        *request.method_mut() = http::Method::OPTIONS;
        request
    };
    assert_eq!(scene.client.call(options("5")).await.status(), 200);
    assert_eq!(value(&scene.origin.only().headers, "max-forwards"), Some("4"));
    scene.client.call(options("0")).await.is_fault(501, "request_not_implemented");
    assert_eq!(scene.origin.seen().len(), 1);
}

/// An origin that reads fields as CGI does makes `HTTP_X_FORWARDED_FOR` of each of these.
async fn other_spellings_of_what_we_tell_do_not_reach_the_origin(pair: Pair) {
    let mut scene = pair.scene(ok).await;
    let mut request = with(with(get("/"), "x_forwarded_for", "192.0.2.7"), "x-forwarded_proto", "https");
    request = with(with(request, "x_forwarded-host", "evil.test"), "x_normalized_path", "slashes");
    request = with(with(request, "transfer_encoding", "chunked"), "content_length", "5");
    request = with(with(request, "x_other", "kept"), "connection_id", "kept");
    scene.client.call(request).await;
    let fields = scene.origin.only().headers;
    let mut left: Vec<_> = fields.keys().map(|name| name.as_str()).filter(|name| name.contains('_')).collect();
    left.sort_unstable();
    assert_eq!(left, ["connection_id", "x_other"]);
    assert_eq!(value(&fields, "x-forwarded-for"), Some("127.0.0.1"));
}

fn tells() -> Request<Sent> {
    let request = with(get("/"), "x-forwarded-for", "192.0.2.7");
    let request = with(with(request, "x-forwarded-proto", "https"), "x-forwarded-host", "public.test");
    with(request, "forwarded", "for=192.0.2.7;proto=https")
}

async fn what_a_stranger_tells_of_itself_is_replaced(pair: Pair) {
    let mut scene = pair.scene(ok).await;
    scene.client.call(tells()).await;
    let fields = scene.origin.only().headers;
    assert_eq!(value(&fields, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(value(&fields, "x-forwarded-host"), Some("example.org"));
    assert_eq!(value(&fields, "forwarded"), None);
}

async fn what_a_trusted_proxy_tells_is_continued(pair: Pair) {
    let plan = |plan: Plan| {
        plan.listener("trusted_proxies = [\"127.0.0.0/8\"]\nforwarding.forwarded = true")
            .route("request_headers.set = { x-client = \"{client_ip}\" }")
    };
    let mut scene = pair.planned(plan, ok).await;
    scene.client.call(tells()).await;
    let fields = scene.origin.only().headers;
    assert_eq!(value(&fields, "x-forwarded-for"), Some("192.0.2.7, 127.0.0.1"));
    assert_eq!(value(&fields, "x-forwarded-proto"), Some("https"));
    assert_eq!(value(&fields, "x-forwarded-host"), Some("public.test"));
    assert_eq!(value(&fields, "x-client"), Some("192.0.2.7"));
    let forwarded = value(&fields, "forwarded").unwrap();
    assert!(forwarded.starts_with("for=192.0.2.7;proto=https, for=127.0.0.1;proto="), "{forwarded}");
}

async fn host_is_preserved_unless_the_route_says_otherwise(pair: Pair) {
    for (key, wanted) in
        [("", None), ("host_header = \"upstream\"", Some("")), ("host_header = \"named.test\"", Some("named.test"))]
    {
        let mut scene = pair.planned(|plan| plan.route(key), ok).await;
        scene.client.get("/").await;
        let seen = scene.origin.only();
        let authority = seen.uri.authority().map(|authority| authority.to_string());
        let host = authority.unwrap_or_else(|| seen.headers["host"].to_str().unwrap().to_owned());
        match wanted {
            None => assert_eq!(host, "example.org"),
            Some("") => assert_eq!(host, scene.origin.address().to_string()),
            Some(name) => assert_eq!(host, name),
        }
    }
}

/// PITFALLS 8.
async fn fields_of_the_connection_do_not_reach_the_origin(pair: Pair) {
    let scene = pair.scene(ok).await;
    let mut raw = scene.raw().await;
    raw.send(
        "GET / HTTP/1.1\r\nHost: example.org\r\nConnection: X-Hop, keep-alive\r\nconnection: x-other\r\nX-Hop: 1\r\n\
         X-Other: 2\r\nX-Stays: 3\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers, gzip\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nProxy-Authorization: Basic eDp5\r\n\r\n",
    )
    .await;
    assert_eq!(raw.response().await.unwrap().status(), 200);
    let fields = scene.origin.only().headers;
    assert_eq!(value(&fields, "x-stays"), Some("3"));
    for name in
        ["x-hop", "x-other", "keep-alive", "proxy-connection", "upgrade", "http2-settings", "proxy-authorization"]
    {
        assert!(!fields.contains_key(name), "{name} in {fields:?}");
    }
    // Trailers are asked for again, on this connection; nothing else that TE listed is.
    assert_eq!(value(&fields, "te"), Some("trailers"));
    assert_eq!(value(&fields, "connection"), (pair.up == Upstream::Http1).then_some("te"));
}

/// PITFALLS 8.
async fn fields_of_the_connection_do_not_reach_the_client() {
    let origin = RawOrigin::answering(
        "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-Stays: 2\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    for down in [Downstream::H1, Downstream::H2] {
        let proxy = Plan::to(&[origin.address()]).start();
        let mut client = crate::support::client::Client::connect(proxy.address(), down).await;
        let reply = client.get("/").await;
        assert_eq!((reply.text(), reply.field("x-stays")), ("ok", Some("2")));
        for name in ["x-hop", "keep-alive", "proxy-authenticate", "upgrade", "connection"] {
            assert_eq!(reply.field(name), None, "{name}");
        }
    }
}

/// PITFALLS 8.
async fn connection_tokens_that_are_no_names_do_no_harm() {
    let scene = Pair::PLAIN.scene(ok).await;
    let mut raw = scene.raw().await;
    raw.send(b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: \xff\xfe, ,, x hop,X-Gone\r\nX-Gone: 1\r\nX-Stays: 1\r\n\r\n").await;
    assert_eq!(raw.response().await.unwrap().status(), 200);
    let fields = scene.origin.only().headers;
    assert!(fields.contains_key("x-stays") && !fields.contains_key("x-gone"));
}

/// PITFALLS 8: RFC 9110 §7.6.1 forbids to name what all recipients need.
async fn a_connection_token_cannot_take_host_or_length_away() {
    let scene = Pair::PLAIN.scene(echo).await;
    let mut raw = scene.raw().await;
    raw.send(
        "POST / HTTP/1.1\r\nHost: example.org\r\nConnection: host, content-length\r\nContent-Length: 4\r\n\r\nbody",
    )
    .await;
    let answer = raw.response().await.unwrap();
    assert!(answer.text().ends_with("\n\nbody"), "{}", answer.text());
    assert_eq!(value(&scene.origin.only().headers, "host"), Some("example.org"));
}

async fn forwarded_is_written_where_it_is_asked_for() {
    let plan = |plan: Plan| plan.listener("forwarding = { forwarded = true, x_forwarded = false }");
    let mut scene = Pair::PLAIN.planned(plan, ok).await;
    scene.client.call(tells()).await;
    let fields = scene.origin.only().headers;
    assert_eq!(value(&fields, "forwarded"), Some("for=127.0.0.1;proto=http;host=example.org"));
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"] {
        assert_eq!(value(&fields, name), None, "a stranger's word");
    }
}

async fn via_can_be_named_and_left_out() {
    for (key, via) in [("\"edge-1\"", Some("1.1 edge-1")), ("\"off\"", None)] {
        let mut scene = Pair::PLAIN.planned(|plan| plan.listener(&format!("forwarding.via = {key}")), ok).await;
        scene.client.get("/").await;
        assert_eq!(value(&scene.origin.only().headers, "via"), via);
    }
}

async fn a_request_that_goes_in_circles_is_refused() {
    let mut scene = Pair::PLAIN.scene(ok).await;
    let mut request = get("/");
    for _ in 0..20 {
        request = with(request, "via", "1.1 tidegate");
    }
    scene.client.call(request).await.is_fault(502, "proxy_loop_detected");
    assert!(scene.origin.seen().is_empty());
}

async fn the_route_edits_requests() {
    let plan = |plan: Plan| {
        plan.route(
            "request_headers = { set = { x-env = \"prod\", x-client = \"{client_ip}\", x-path = \"{path}\" }, \
             add = { x-list = \"2\" }, remove = [\"x-debug\", \"user-agent\"] }",
        )
    };
    let mut scene = Pair::PLAIN.planned(plan, ok).await;
    let request = with(with(with(get("/p?q"), "x-env", "test"), "x-list", "1"), "x-debug", "1");
    scene.client.call(with(request, "user-agent", "test")).await;
    let fields = scene.origin.only().headers;
    assert_eq!(value(&fields, "x-env"), Some("prod"));
    assert_eq!(value(&fields, "x-client"), Some("127.0.0.1"));
    assert_eq!(value(&fields, "x-path"), Some("/p"));
    assert_eq!(fields.get_all("x-list").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert!(!fields.contains_key("x-debug") && !fields.contains_key("user-agent"));
}

async fn the_route_edits_answers() {
    let plan = |plan: Plan| {
        plan.route("response_headers = { set = { x-frame-options = \"DENY\" }, add = { vary = \"accept\" }, remove = [\"server\"] }")
    };
    let behaviour = async |_: Request<Incoming>| {
        let response = Response::builder().header("server", "secret/1.0").header("vary", "cookie");
        response.header("x-frame-options", "ALLOWALL").body(Sent::from("ok")).unwrap()
    };
    let mut scene = Pair::PLAIN.planned(plan, behaviour).await;
    let reply = scene.client.get("/").await;
    assert_eq!((reply.field("server"), reply.field("x-frame-options")), (None, Some("DENY")));
    assert_eq!(reply.head.headers.get_all("vary").iter().collect::<Vec<_>>(), ["cookie", "accept"]);
}

/// PITFALLS 25: HTTP/2 may split cookies, HTTP/1.1 knows one field.
async fn cookies_are_joined_for_http1() {
    for (up, wanted) in [(Upstream::Http1, vec!["a=1; b=2; c=3"]), (Upstream::Http2, vec!["a=1", "b=2", "c=3"])] {
        let mut scene: Scene = Pair { down: Downstream::H2, up }.scene(ok).await;
        let request = with(with(with(get("/"), "cookie", "a=1"), "cookie", "b=2"), "cookie", "c=3");
        scene.client.call(request).await;
        let seen = scene.origin.only();
        let cookies: Vec<_> = seen.headers.get_all("cookie").iter().map(|cookie| cookie.to_str().unwrap()).collect();
        assert!(cookies == wanted || (up == Upstream::Http2 && cookies == ["a=1; b=2; c=3"]), "{cookies:?}");
    }
}

async fn a_request_id_is_kept_or_made() {
    let plan = |plan: Plan| plan.route("request_headers.set = { x-request-id = \"{request_id}\" }");
    let mut scene = Pair::PLAIN.planned(plan, ok).await;
    scene.client.get("/").await;
    scene.client.call(with(get("/"), "x-request-id", "given-1")).await;
    scene.client.call(with(get("/"), "x-request-id", "<script>")).await;
    let ids: Vec<_> =
        scene.origin.seen().iter().map(|seen| value(&seen.headers, "x-request-id").unwrap().to_owned()).collect();
    assert_eq!((ids[0].len(), ids[1].as_str(), ids[2].len()), (32, "given-1", 32), "{ids:?}");
}
