//! Whole messages through every pair of protocols: methods, statuses, lengths, fields.

use http::{HeaderValue, Method, Request, Response, StatusCode};
use tidegate::body::incoming::Incoming;

use crate::support::body::{Sent, receive};
use crate::support::client::{get, of, post, with};
use crate::support::origin::{echo, ok};
use crate::support::pair::Pair;
use crate::support::pairs;

pairs! {
    a_get_passes,
    head_keeps_the_length_and_has_no_body,
    head_of_unknown_length_stays_unknown,
    no_content_has_no_length,
    not_modified_keeps_its_fields,
    a_post_of_known_length_keeps_its_length,
    a_post_of_unknown_length_passes,
    an_answer_of_unknown_length_passes,
    an_empty_answer_passes,
    a_range_and_its_part_pass,
    a_redirect_of_the_origin_passes,
    options_asterisk_passes,
    repeated_fields_stay_apart,
    an_unusual_status_passes,
    many_requests_use_one_connection,
}

async fn a_get_passes(pair: Pair) {
    let mut scene = pair.scene(echo).await;
    let reply = scene.client.call(with(get("/a%20b/c?d=e&f"), "x-one", "1")).await;
    assert_eq!(reply.status(), StatusCode::OK);
    let text = reply.text();
    assert!(text.starts_with("GET /a%20b/c?d=e&f\n"), "{text}");
    assert!(text.contains("\nx-one: 1\n"), "{text}");
    assert_eq!(reply.field("content-length"), Some(text.len().to_string().as_str()));
    let seen = scene.origin.only();
    let host = seen.uri.authority().map(|authority| authority.as_str());
    let host = host.or(seen.headers.get("host").map(|host| host.to_str().unwrap()));
    assert_eq!(host, Some("example.org"));
}

async fn head_keeps_the_length_and_has_no_body(pair: Pair) {
    let mut scene = pair
        .scene(async |request: Request<Incoming>| {
            assert_eq!(request.method(), Method::HEAD);
            Response::builder().header("content-length", "1234").body(Sent::empty()).unwrap()
        })
        .await;
    for _ in 0..2 {
        let reply = scene.client.call(of(Method::HEAD, "/", Sent::empty())).await;
        assert_eq!(reply.status(), StatusCode::OK);
        assert_eq!(reply.field("content-length"), Some("1234"));
        assert!(reply.body.is_empty());
    }
}

/// What HEAD does not know it must not make up.
async fn head_of_unknown_length_stays_unknown(pair: Pair) {
    let mut scene = pair.scene(async |_| Response::new(Sent::pieces([bytes::Bytes::from("body")]))).await;
    for _ in 0..2 {
        let reply = scene.client.call(of(Method::HEAD, "/", Sent::empty())).await;
        assert_eq!((reply.field("content-length"), reply.body.len()), (None, 0));
    }
}

async fn no_content_has_no_length(pair: Pair) {
    let mut scene =
        pair.scene(async |_| Response::builder().status(204).header("x-mark", "1").body(Sent::empty()).unwrap()).await;
    for _ in 0..2 {
        let reply = scene.client.get("/").await;
        assert_eq!(reply.status(), StatusCode::NO_CONTENT);
        assert_eq!(reply.field("x-mark"), Some("1"));
        assert_eq!((reply.field("content-length"), reply.field("transfer-encoding")), (None, None));
        assert!(reply.body.is_empty());
    }
}

async fn not_modified_keeps_its_fields(pair: Pair) {
    let mut scene = pair
        .scene(async |_| Response::builder().status(304).header("etag", "\"v1\"").body(Sent::empty()).unwrap())
        .await;
    for _ in 0..2 {
        let reply = scene.client.call(with(get("/"), "if-none-match", "\"v1\"")).await;
        assert_eq!(reply.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(reply.field("etag"), Some("\"v1\""));
        assert!(reply.body.is_empty());
    }
    assert_eq!(scene.origin.seen()[0].headers["if-none-match"], "\"v1\"");
}

async fn a_post_of_known_length_keeps_its_length(pair: Pair) {
    let mut scene = pair.scene(echo).await;
    let reply = scene.client.call(post("/form", "name=value")).await;
    assert!(reply.text().starts_with("POST /form\n"));
    assert!(reply.text().ends_with("\n\nname=value"));
    assert_eq!(scene.origin.only().headers["content-length"], "10");
}

async fn a_post_of_unknown_length_passes(pair: Pair) {
    let mut scene = pair.scene(echo).await;
    let body = Sent::pieces([&b"one "[..], b"two ", b"three"].map(Into::into));
    let reply = scene.client.call(post("/", body)).await;
    assert!(reply.text().ends_with("\n\none two three"), "{}", reply.text());
    assert!(!scene.origin.only().headers.contains_key("content-length"));
}

async fn an_answer_of_unknown_length_passes(pair: Pair) {
    let mut scene = pair.scene(async |_| Response::new(Sent::pieces([&b"one "[..], b"two"].map(Into::into)))).await;
    for _ in 0..2 {
        let reply = scene.client.get("/").await;
        assert_eq!(reply.text(), "one two");
        assert_eq!(reply.field("content-length"), None);
    }
}

async fn an_empty_answer_passes(pair: Pair) {
    let mut scene = pair.scene(async |_| Response::new(Sent::empty())).await;
    for _ in 0..2 {
        let reply = scene.client.get("/").await;
        assert_eq!((reply.status(), reply.body.len()), (StatusCode::OK, 0));
    }
}

async fn a_range_and_its_part_pass(pair: Pair) {
    let mut scene = pair
        .scene(async |request: Request<Incoming>| {
            assert_eq!(request.headers()["range"], "bytes=2-4");
            Response::builder().status(206).header("content-range", "bytes 2-4/10").body("cde".into()).unwrap()
        })
        .await;
    let reply = scene.client.call(with(get("/file"), "range", "bytes=2-4")).await;
    assert_eq!(reply.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(reply.field("content-range"), Some("bytes 2-4/10"));
    assert_eq!((reply.field("content-length"), reply.text()), (Some("3"), "cde"));
}

async fn a_redirect_of_the_origin_passes(pair: Pair) {
    let mut scene = pair
        .scene(async |_| {
            Response::builder().status(302).header("location", "http://elsewhere.test/x").body(Sent::empty()).unwrap()
        })
        .await;
    let reply = scene.client.get("/").await;
    assert_eq!(reply.status(), StatusCode::FOUND);
    assert_eq!(reply.field("location"), Some("http://elsewhere.test/x"));
}

async fn options_asterisk_passes(pair: Pair) {
    let mut scene = pair.scene(echo).await;
    let reply = scene.client.call(of(Method::OPTIONS, "*", Sent::empty())).await;
    assert!(reply.text().starts_with("OPTIONS *\n"), "{}", reply.text());
}

async fn repeated_fields_stay_apart(pair: Pair) {
    let mut scene = pair
        .scene(async |_| {
            let response = Response::builder().header("set-cookie", "a=1; Path=/").header("set-cookie", "b=2");
            response.body(Sent::empty()).unwrap()
        })
        .await;
    let reply = scene.client.call(with(with(get("/"), "x-list", "1, 2"), "x-list", "3")).await;
    let cookies: Vec<_> = reply.head.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1; Path=/", "b=2"]);
    let seen = scene.origin.only();
    let list: Vec<_> = seen.headers.get_all("x-list").iter().collect();
    assert_eq!(list, ["1, 2", "3"]);
}

async fn an_unusual_status_passes(pair: Pair) {
    let mut scene = pair.scene(async |_| Response::builder().status(599).body("odd".into()).unwrap()).await;
    let mut request = get("/");
    // Bytes past ASCII are opaque in a field (RFC 9110 §5.5).
    request.headers_mut().insert("x-bytes", HeaderValue::from_bytes(b"\xff\xe4").unwrap());
    let reply = scene.client.call(request).await;
    assert_eq!((reply.status().as_u16(), reply.text()), (599, "odd"));
    assert_eq!(scene.origin.only().headers["x-bytes"].as_bytes(), b"\xff\xe4");
}

async fn many_requests_use_one_connection(pair: Pair) {
    let mut scene = pair
        .scene(async |request| if request.method() == Method::POST { read(request).await } else { ok(request).await })
        .await;
    for number in 0..100 {
        let reply = match number % 3 {
            0 => scene.client.call(post("/", "body")).await,
            _ => scene.client.get("/").await,
        };
        assert_eq!(reply.text(), "ok");
    }
    assert_eq!(scene.origin.connections(), 1);
    assert_eq!(scene.proxy.running().counters().connections_accepted, 1);
}

async fn read(request: Request<Incoming>) -> Response<Sent> {
    assert_eq!(&receive(request.into_body()).await.bytes[..], b"body");
    Response::new("ok".into())
}
