//! Switching protocols (RFC 9110 §7.8): to what the route allows, both ways, and never by accident. PITFALLS 7.

use std::cell::Cell;
use std::rc::Rc;

use crate::support::origin::{RawOrigin, echo};
use crate::support::pair::{Downstream, Pair, Scene, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::raw::{End, Raw};
use crate::support::tests;

tests! {
    bytes_pass_both_ways_after_the_switch,
    bytes_sent_ahead_of_the_switch_pass,
    a_switch_works_over_tls,
    a_switched_connection_is_not_used_again,
    an_endpoint_may_refuse_to_switch,
    a_protocol_that_the_route_does_not_name_is_not_asked_for,
    a_route_may_allow_other_protocols,
    a_request_with_a_body_does_not_switch,
    a_switch_to_another_protocol_is_told_as_502,
    http_1_0_does_not_switch,
    a_half_that_ends_lets_the_other_go_on,
    an_endpoint_that_breaks_breaks_the_client,
    an_http2_endpoint_is_not_asked_to_switch,
}

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches every connection and then gives back, with a mark, what it gets.
async fn echoing() -> RawOrigin {
    RawOrigin::start(async |mut connection: Raw, _| {
        let request = connection.head().await.unwrap();
        assert_eq!(request.field("upgrade"), Some("websocket"), "{request:?}");
        assert!(request.field("connection").unwrap().eq_ignore_ascii_case("upgrade"));
        assert_eq!(request.field("sec-websocket-version"), Some("13"));
        connection.send(format!("{SWITCH}hello ")).await;
        while let Some(bytes) = connection.exactly(4).await {
            connection.send([&b"<"[..], &bytes, b">"].concat()).await;
        }
    })
    .await
}

async fn switched(raw: &mut Raw) {
    let head = raw.head().await.expect("no answer");
    assert_eq!(head.status(), 101);
    assert_eq!(head.field("upgrade"), Some("websocket"));
    assert!(head.field("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert!(head.has("sec-websocket-accept"));
}

async fn bytes_pass_both_ways_after_the_switch() {
    let origin = echoing().await;
    let proxy = Plan::to(&[origin.address()]).start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(ASK).await;
    switched(&mut raw).await;
    assert_eq!(raw.exactly(6).await.unwrap(), b"hello ");
    for _ in 0..3 {
        raw.send(b"\0\r\n\xff").await;
        assert_eq!(raw.exactly(6).await.unwrap(), b"<\0\r\n\xff>");
    }
    raw.finish().await;
    assert_eq!(raw.rest().await, (Vec::new(), End::Clean));
}

async fn bytes_sent_ahead_of_the_switch_pass() {
    let origin = echoing().await;
    let proxy = Plan::to(&[origin.address()]).start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(format!("{ASK}\u{1}\u{2}\u{3}\u{4}")).await;
    switched(&mut raw).await;
    assert_eq!(raw.exactly(12).await.unwrap(), b"hello <\x01\x02\x03\x04>");
}

async fn a_switch_works_over_tls() {
    let origin = echoing().await;
    let proxy = Plan::to(&[origin.address()]).tls().start();
    let mut raw = Raw::connect_tls(proxy.address()).await;
    raw.send(ASK).await;
    switched(&mut raw).await;
    raw.send("ping").await;
    assert_eq!(raw.exactly(12).await.unwrap(), b"hello <ping>");
}

async fn a_switched_connection_is_not_used_again() {
    let origin = echoing().await;
    let proxy = Plan::to(&[origin.address()]).start();
    for number in 1..=3 {
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send(ASK).await;
        switched(&mut raw).await;
        assert_eq!(raw.exactly(6).await.unwrap(), b"hello ");
        raw.finish().await;
        raw.closed().await;
        assert_eq!(origin.connections(), number);
    }
}

async fn an_endpoint_may_refuse_to_switch() {
    let refusal = "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno";
    let origin = RawOrigin::answering(refusal).await;
    let proxy = Plan::to(&[origin.address()]).start();
    let mut raw = Raw::connect(proxy.address()).await;
    for _ in 0..2 {
        raw.send(ASK).await;
        let answer = raw.response().await.unwrap();
        assert_eq!((answer.status(), answer.text()), (426, "no"));
    }
    // A request that was sent behind it is a request like any other.
    raw.send(format!("{ASK}GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")).await;
    for _ in 0..2 {
        assert_eq!(raw.response().await.unwrap().status(), 426);
    }
    assert_eq!(origin.connections(), 1);
}

/// Sees that a request reaches the origin without its wish to switch.
async fn not_asked_for(plan: impl FnOnce(Plan) -> Plan, request: &str) {
    let scene: Scene = Pair::PLAIN.planned(plan, echo).await;
    let mut raw = scene.raw().await;
    raw.send(request).await;
    assert_eq!(raw.response().await.unwrap().status(), 200);
    let fields = scene.origin.only().headers;
    assert!(!fields.contains_key("upgrade") && !fields.contains_key("connection"), "{fields:?}");
}

async fn a_protocol_that_the_route_does_not_name_is_not_asked_for() {
    not_asked_for(|plan| plan, &ASK.replace("websocket", "h2c")).await;
    not_asked_for(|plan| plan.route("upgrade = []"), ASK).await;
    // RFC 9110 §7.8: without the token in Connection it is not asked for.
    not_asked_for(|plan| plan, &ASK.replace("Connection: Upgrade\r\n", "")).await;
}

async fn a_request_with_a_body_does_not_switch() {
    let with_body = ASK.replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody");
    not_asked_for(|plan| plan, &with_body).await;
}

async fn http_1_0_does_not_switch() {
    not_asked_for(|plan| plan, &ASK.replace("HTTP/1.1", "HTTP/1.0")).await;
}

async fn a_route_may_allow_other_protocols() {
    let origin = RawOrigin::answering_once(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: Custom/1\r\n\r\nhi",
    )
    .await;
    let proxy = Plan::to(&[origin.address()]).route("upgrade = [\"custom/1\"]").start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(ASK.replace("websocket", "custom/1")).await;
    assert_eq!(raw.head().await.unwrap().status(), 101);
    assert_eq!(raw.rest().await, (b"hi".to_vec(), End::Clean));
}

async fn a_switch_to_another_protocol_is_told_as_502() {
    for named in ["Upgrade: h2c\r\n", ""] {
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n{named}\r\n");
        let origin = RawOrigin::answering_once(answer).await;
        let proxy = Plan::to(&[origin.address()]).start();
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send(ASK).await;
        let answer = raw.response().await.unwrap();
        assert_eq!(answer.status(), 502);
        assert!(answer.field("proxy-status").unwrap().contains("http_upgrade_failed"));
    }
}

/// An origin that switches and then does what a test wants.
async fn switching<F: AsyncFn(Raw) + 'static>(then: F) -> (RawOrigin, Proxy, Raw) {
    let used = Rc::new(Cell::new(false));
    let origin = RawOrigin::start(async move |mut connection: Raw, _| {
        assert!(!used.replace(true), "one connection is enough");
        connection.head().await.unwrap();
        connection.send(SWITCH).await;
        then(connection).await;
    })
    .await;
    let proxy = Plan::to(&[origin.address()]).start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(ASK).await;
    switched(&mut raw).await;
    (origin, proxy, raw)
}

async fn a_half_that_ends_lets_the_other_go_on() {
    let (_origin, _proxy, mut raw) = switching(async |mut connection: Raw| {
        let (all, end) = connection.rest().await;
        assert_eq!(end, End::Clean);
        connection.send(all).await;
    })
    .await;
    raw.send("all I have to say").await;
    raw.finish().await;
    assert_eq!(raw.rest().await, (b"all I have to say".to_vec(), End::Clean));
}

async fn an_endpoint_that_breaks_breaks_the_client() {
    let (_origin, _proxy, mut raw) = switching(async |mut connection: Raw| {
        connection.send("half").await;
        assert_eq!(connection.exactly(4).await.unwrap(), b"seen");
        connection.reset();
    })
    .await;
    assert_eq!(raw.exactly(4).await.unwrap(), b"half");
    raw.send("seen").await;
    let (rest, end) = raw.rest().await;
    assert_eq!((rest.len(), end), (0, End::Broken));
}

async fn an_http2_endpoint_is_not_asked_to_switch() {
    let scene = Pair { down: Downstream::H1, up: Upstream::Http2 }.scene(echo).await;
    let mut raw = scene.raw().await;
    for _ in 0..2 {
        raw.send(ASK).await;
        assert_eq!(raw.response().await.unwrap().status(), 200);
    }
    assert!(scene.origin.seen().iter().all(|seen| !seen.headers.contains_key("upgrade")));
}
