//! HTTP/1 as it stands on the wire: old clients, proxies as clients, requests in a row and in pieces, and connections
//! that give their buffers back while they are idle.

use http::Request;
use http::Response;
use tidegate::body::incoming::Incoming;

use crate::support::body::{Sent, receive};
use crate::support::origin::{RawOrigin, echo, ok};
use crate::support::pair::{Downstream, Pair, Scene, Upstream};
use crate::support::raw::{End, Raw};
use crate::support::{eventually, tests};

tests! {
    http_1_0_ends_with_its_connection,
    http_1_0_keeps_its_connection_where_it_asks,
    http_1_0_gets_no_chunks,
    http_1_0_may_come_without_host,
    connection_close_is_obeyed,
    absolute_form_wins_over_host,
    pipelined_requests_are_answered_in_order,
    a_request_may_come_byte_by_byte,
    empty_lines_before_a_request_are_tolerated,
    an_expectation_is_passed_on_and_answered,
    a_refused_body_is_not_asked_for,
    a_parked_connection_serves_on,
    a_parked_connection_takes_a_split_head,
    a_parked_connection_takes_pipelined_requests,
    a_parked_connection_serves_on_over_tls,
    many_requests_follow_each_other,
    a_chunked_body_may_come_in_any_pieces,
    the_answer_has_our_date_where_the_origin_has_none,
    a_client_that_half_closes_gets_its_answer_or_none,
    an_early_answer_ends_the_connection,
    trailers_are_kept_from_who_does_not_ask,
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: example.org\r\n\r\n";

async fn scene() -> Scene {
    Pair::PLAIN.scene(echo).await
}

async fn http_1_0_ends_with_its_connection() {
    let scene = scene().await;
    let mut raw = scene.raw().await;
    raw.send("GET /a HTTP/1.0\r\nHost: example.org\r\n\r\n").await;
    let answer = raw.response().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.text().starts_with("GET /a\n"));
    raw.closed().await;
    assert_eq!(scene.origin.only().headers["via"], "1.0 tidegate");
}

async fn http_1_0_keeps_its_connection_where_it_asks() {
    let scene = scene().await;
    let mut raw = scene.raw().await;
    for _ in 0..3 {
        raw.send("GET /a HTTP/1.0\r\nHost: example.org\r\nConnection: keep-alive\r\n\r\n").await;
        let answer = raw.response().await.unwrap();
        assert_eq!(answer.field("connection").map(str::to_ascii_lowercase).as_deref(), Some("keep-alive"));
        assert!(answer.has("content-length"));
    }
}

async fn http_1_0_gets_no_chunks() {
    let pieces = async |_: Request<Incoming>| Response::new(Sent::pieces([&b"one "[..], b"two"].map(Into::into)));
    for up in [Upstream::Http1, Upstream::Http2] {
        let scene = Pair { down: Downstream::H1, up }.scene(pieces).await;
        let mut raw = scene.raw().await;
        raw.send("GET / HTTP/1.0\r\nHost: example.org\r\nConnection: keep-alive\r\n\r\n").await;
        let answer = raw.response().await.unwrap();
        assert!(!answer.has("transfer-encoding"), "{answer:?}");
        assert_eq!(answer.text(), "one two");
        raw.closed().await;
    }
}

async fn http_1_0_may_come_without_host() {
    for up in [Upstream::Http1, Upstream::Http2] {
        let scene = Pair { down: Downstream::H1, up }.scene(echo).await;
        let mut raw = scene.raw().await;
        raw.send("GET /a HTTP/1.0\r\n\r\n").await;
        assert_eq!(raw.response().await.unwrap().status(), 200);
        let seen = scene.origin.only();
        let host = seen.headers.get("host").map(|host| host.to_str().unwrap().to_owned());
        let host = host.or(seen.uri.authority().map(|authority| authority.to_string()));
        assert_eq!(host, Some(scene.origin.address().to_string()), "what goes on as HTTP/1.1 has a Host");
    }
}

async fn connection_close_is_obeyed() {
    let scene = scene().await;
    let mut raw = scene.raw().await;
    raw.send("GET /a HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n").await;
    let answer = raw.response().await.unwrap();
    assert_eq!((answer.status(), answer.field("connection")), (200, Some("close")));
    raw.closed().await;
}

/// PITFALLS 1.
async fn absolute_form_wins_over_host() {
    for up in [Upstream::Http1, Upstream::Http2] {
        let scene = Pair { down: Downstream::H1, up }.planned(|plan| plan.route("host = \"target.test\""), echo).await;
        let mut raw = scene.raw().await;
        raw.send("GET http://target.test:81/a?b HTTP/1.1\r\nHost: other.test\r\n\r\n").await;
        let answer = raw.response().await.unwrap();
        assert!(answer.text().starts_with("GET /a?b\n"), "{}", answer.text());
        let seen = scene.origin.only();
        match up {
            Upstream::Http1 => assert_eq!(seen.headers["host"], "target.test:81"),
            _ => assert_eq!(seen.uri.authority().unwrap(), "target.test:81"),
        }
        assert_eq!(seen.headers["x-forwarded-host"], "target.test:81");
    }
}

async fn pipelined_requests_are_answered_in_order() {
    for up in [Upstream::Http1, Upstream::Http2] {
        let scene = Pair { down: Downstream::H1, up }.scene(echo).await;
        let mut raw = scene.raw().await;
        let mut all = String::new();
        for number in 0..20 {
            all += &format!("GET /{number} HTTP/1.1\r\nHost: example.org\r\n\r\n");
            all += &format!("POST /{number} HTTP/1.1\r\nHost: example.org\r\nContent-Length: 4\r\n\r\nbody");
            all += &format!(
                "PUT /{number} HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
            );
        }
        raw.send(all).await;
        for number in 0..20 {
            for (method, body) in [("GET", ""), ("POST", "body"), ("PUT", "ab")] {
                let answer = raw.response().await.unwrap();
                assert!(answer.text().starts_with(&format!("{method} /{number}\n")), "{}", answer.text());
                assert!(answer.text().ends_with(&format!("\n\n{body}")), "{}", answer.text());
            }
        }
    }
}

async fn a_request_may_come_byte_by_byte() {
    let scene = scene().await;
    let mut raw = scene.raw().await;
    let request = "POST /a HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nbody\r\n0\r\nX-T: 1\r\n\r\n";
    for byte in request.repeat(2).bytes() {
        raw.send([byte]).await;
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        assert!(raw.response().await.unwrap().text().ends_with("\n\nbody"));
    }
}

async fn empty_lines_before_a_request_are_tolerated() {
    let scene = scene().await;
    let mut raw = scene.raw().await;
    raw.send(format!("\r\n{GET}")).await;
    assert_eq!(raw.response().await.unwrap().status(), 200);
    raw.send(format!("\r\n\r\n{GET}")).await;
    assert_eq!(raw.response().await.unwrap().status(), 200);
}

/// PITFALLS 15.
async fn an_expectation_is_passed_on_and_answered() {
    let scene = scene().await;
    let mut raw = scene.raw().await;
    raw.send("POST /a HTTP/1.1\r\nHost: example.org\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert_eq!(raw.head().await.unwrap().line, "HTTP/1.1 100 Continue");
    raw.send("body").await;
    let answer = raw.response().await.unwrap();
    assert!(answer.text().ends_with("\n\nbody"), "{}", answer.text());
    assert_eq!(scene.origin.only().headers["expect"], "100-continue");
}

/// PITFALLS 15.
async fn a_refused_body_is_not_asked_for() {
    let scene = Pair::PLAIN.planned(|plan| plan.route("max_body = \"1KiB\""), echo).await;
    let mut raw = scene.raw().await;
    raw.send("POST /a HTTP/1.1\r\nHost: example.org\r\nExpect: 100-continue\r\nContent-Length: 2000\r\n\r\n").await;
    assert_eq!(raw.response().await.unwrap().status(), 413);
    raw.closed().await;
}

/// Waits until the one connection has given its buffers back.
async fn parked(scene: &Scene) {
    eventually(|| scene.proxy.running().counters().parked == 1).await;
}

async fn a_parked_connection_serves_on() {
    let scene = quiet().await;
    let mut raw = scene.raw().await;
    for _ in 0..3 {
        raw.send(GET).await;
        assert_eq!(raw.response().await.unwrap().status(), 200);
        parked(&scene).await;
    }
    raw.send("POST /b HTTP/1.1\r\nHost: example.org\r\nContent-Length: 4\r\n\r\nbody").await;
    assert!(raw.response().await.unwrap().text().ends_with("\n\nbody"));
    parked(&scene).await;
    raw.finish().await;
    raw.closed().await;
}

/// A scene whose client stays out of the way: it has sent nothing, so that it does not count as parked.
async fn quiet() -> Scene {
    scene().await
}

async fn a_parked_connection_takes_a_split_head() {
    let scene = quiet().await;
    let mut raw = scene.raw().await;
    raw.send(GET).await;
    assert_eq!(raw.response().await.unwrap().status(), 200);
    for cut in [1, 4, 20, GET.len() - 2, GET.len() - 1] {
        parked(&scene).await;
        raw.send(&GET[..cut]).await;
        eventually(|| scene.proxy.running().counters().parked == 0).await;
        raw.send(&GET[cut..]).await;
        assert_eq!(raw.response().await.unwrap().status(), 200, "cut at {cut}");
    }
}

async fn a_parked_connection_takes_pipelined_requests() {
    let scene = quiet().await;
    let mut raw = scene.raw().await;
    for _ in 0..2 {
        raw.send(GET.repeat(3)).await;
        for _ in 0..3 {
            assert_eq!(raw.response().await.unwrap().status(), 200);
        }
        parked(&scene).await;
    }
    // More than what is read at once when it wakes up.
    let large = format!("POST /b HTTP/1.1\r\nHost: example.org\r\nContent-Length: 20000\r\n\r\n{}", "x".repeat(20_000));
    raw.send(large.repeat(2) + GET).await;
    for length in [20_000, 20_000, 0] {
        let answer = raw.response().await.unwrap();
        let (_, body) = answer.text().split_once("\n\n").unwrap();
        assert_eq!(body.len(), length);
    }
}

async fn a_parked_connection_serves_on_over_tls() {
    let scene = Pair { down: Downstream::H1Tls, up: Upstream::Http1 }.scene(echo).await;
    let mut raw = Raw::connect_tls(scene.proxy.address()).await;
    for _ in 0..3 {
        raw.send(GET.repeat(2)).await;
        for _ in 0..2 {
            assert_eq!(raw.response().await.unwrap().status(), 200);
        }
        parked(&scene).await;
    }
}

async fn many_requests_follow_each_other() {
    let scene = Pair::PLAIN.scene(ok).await;
    let mut raw = scene.raw().await;
    for _ in 0..1000 {
        raw.send(GET).await;
        assert_eq!(raw.response().await.unwrap().text(), "ok");
    }
    assert_eq!(scene.origin.connections(), 1);
    eventually(|| scene.proxy.running().counters().outcome_ok == 1000).await;
}

async fn a_chunked_body_may_come_in_any_pieces() {
    let sum = async |request: Request<Incoming>| {
        let received = receive(request.into_body()).await;
        Response::<Sent>::new(received.bytes.len().to_string().into())
    };
    let scene = Pair::PLAIN.scene(sum).await;
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..20 {
        let mut raw = scene.raw().await;
        let mut body = String::new();
        let mut length = 0;
        for _ in 0..random.usize(1..20) {
            let size = random.usize(1..5000);
            length += size;
            body += &format!("{size:x}\r\n{}\r\n", "x".repeat(size));
        }
        let request =
            format!("POST / HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n{GET}");
        let mut rest = request.as_bytes();
        while !rest.is_empty() {
            let size = random.usize(1..3000).min(rest.len());
            raw.send(&rest[..size]).await;
            rest = &rest[size..];
            tokio::task::yield_now().await;
        }
        assert_eq!(raw.response().await.unwrap().text(), length.to_string());
        assert_eq!(raw.response().await.unwrap().text(), "0");
    }
}

async fn the_answer_has_our_date_where_the_origin_has_none() {
    for (date, kept) in [("", false), ("Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n", true)] {
        let origin = RawOrigin::answering(format!("HTTP/1.1 200 OK\r\n{date}Content-Length: 2\r\n\r\nok")).await;
        let proxy = Pair::PLAIN.plan(&[origin.address()]).start();
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send(GET).await;
        let answer = raw.response().await.unwrap();
        assert_eq!(answer.field("date").unwrap() == "Thu, 01 Jan 1970 00:00:00 GMT", kept, "{answer:?}");
    }
}

/// PITFALLS 13: some clients end their direction once they have asked. That looks like one that goes, and is taken for it
/// unless the answer is there already.
async fn a_client_that_half_closes_gets_its_answer_or_none() {
    let scene = Pair::PLAIN.scene(ok).await;
    let mut raw = scene.raw().await;
    raw.send(GET).await;
    raw.finish().await;
    let (rest, end) = raw.rest().await;
    let text = String::from_utf8_lossy(&rest);
    assert!(text.is_empty() || text.ends_with("\r\n\r\nok"), "{text}");
    assert_eq!(end, End::Clean);
}

/// PITFALLS 14: nobody knows where the next request would begin.
async fn an_early_answer_ends_the_connection() {
    let refuse = async |_: Request<Incoming>| Response::builder().status(403).body(Sent::from("no")).unwrap();
    for up in [Upstream::Http1, Upstream::Http2] {
        let scene = Pair { down: Downstream::H1, up }.scene(refuse).await;
        let mut raw = scene.raw().await;
        raw.send("POST / HTTP/1.1\r\nHost: example.org\r\nContent-Length: 1000\r\n\r\nhalf").await;
        let answer = raw.response().await.unwrap();
        assert_eq!((answer.status(), answer.text()), (403, "no"));
        raw.send("GET /smuggled HTTP/1.1\r\nHost: example.org\r\n\r\n").await;
        raw.closed().await;
        assert_eq!(scene.origin.count(), 1);
    }
}

/// PITFALLS 6.
async fn trailers_are_kept_from_who_does_not_ask() {
    let trailing = async |_: Request<Incoming>| {
        let trailers = http::HeaderMap::from_iter([("x-check".parse().unwrap(), "1".parse().unwrap())]);
        let body = Sent::pieces([bytes::Bytes::from("body")]).with_trailers(trailers);
        Response::builder().header("trailer", "x-check").body(body).unwrap()
    };
    let scene = Pair { down: Downstream::H1, up: Upstream::Http2 }.scene(trailing).await;
    for (te, has) in [("", false), ("TE: trailers\r\n", true)] {
        let mut raw = scene.raw().await;
        raw.send(format!("GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n{te}\r\n")).await;
        let (rest, _) = raw.rest().await;
        let text = String::from_utf8_lossy(&rest);
        assert!(text.contains("4\r\nbody\r\n0\r\n"), "{text}");
        assert_eq!(text.contains("\r\nx-check: 1\r\n"), has, "{text}");
    }
}
