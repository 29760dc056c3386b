//! HTTP/3 as clients meet it: how they learn of it, what reaches them ahead of an answer, and what came too early.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use tidegate::body::incoming::Incoming;

use crate::support::body::Sent;
use crate::support::certificates::{SITE, client_config};
use crate::support::client::{Client, get, post, with};
use crate::support::origin::{Origin, RawOrigin, ok};
use crate::support::pair::{Downstream, Pair, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::quic::{self, Quic};
use crate::support::raw::Raw;
use crate::support::{eventually, tests};

tests! {
    answers_over_tcp_say_where_it_is,
    what_an_endpoint_says_of_itself_is_not_passed_on,
    nothing_is_said_where_it_is_off,
    another_port_is_said_where_one_is_written,
    an_early_hint_reaches_the_client,
    a_client_that_waits_is_told_to_go_on,
    a_head_that_does_not_end_is_answered,
    a_host_of_another_certificate_is_misdirected,
    its_requests_are_counted,
    safe_requests_pass_early_and_say_so,
    other_requests_wait_for_the_handshake,
}

const OVER_TCP: [Downstream; 2] = [Downstream::H1Tls, Downstream::H2Tls];
const ALL: &str = "protocols = [\"http1\", \"http2\", \"http3\"]";

async fn over(down: Downstream, keys: &str) -> (Client, Proxy) {
    let pair = Pair { down: Downstream::H3, up: Upstream::Http1 };
    let origin = Origin::start(Upstream::Http1, speaking_of_itself).await;
    let proxy = pair.plan(&[origin.address()]).listener(keys).start();
    let client = Client::connect(proxy.address(), down).await;
    (client, proxy)
}

async fn speaking_of_itself(_: Request<Incoming>) -> Response<Sent> {
    Response::builder().header("alt-svc", "h3=\":1\"").body("ok".into()).unwrap()
}

/// RFC 7838 §3.
async fn answers_over_tcp_say_where_it_is() {
    for down in OVER_TCP {
        let (mut client, proxy) = over(down, "").await;
        let here = format!("h3=\":{}\"; ma=86400", proxy.address().port());
        assert_eq!(client.get("/").await.field("alt-svc"), Some(&*here), "{down:?}");
    }
}

async fn what_an_endpoint_says_of_itself_is_not_passed_on() {
    let (mut client, _proxy) = over(Downstream::H3, "").await;
    assert_eq!(client.get("/").await.field("alt-svc"), None);
}

async fn nothing_is_said_where_it_is_off() {
    for down in OVER_TCP {
        let (mut client, _proxy) = over(down, "alt_svc = \"off\"").await;
        assert_eq!(client.get("/").await.field("alt-svc"), Some("h3=\":1\""), "the endpoint's own");
    }
}

async fn another_port_is_said_where_one_is_written() {
    let (mut client, _proxy) = over(Downstream::H2Tls, "alt_svc = 443").await;
    assert_eq!(client.get("/").await.field("alt-svc"), Some("h3=\":443\"; ma=86400"));
}

async fn an_early_hint_reaches_the_client() {
    let origin = RawOrigin::answering_once(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-b\r\nX-B: 1\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let proxy = Plan::to(&[origin.address()]).tls().listener(ALL).start();
    let mut client = Client::connect(proxy.address(), Downstream::H3).await;
    assert_eq!(client.get("/").await.text(), "ok");
    let interim = client.quic().interim.take();
    assert_eq!(interim.len(), 1, "{interim:?}");
    assert_eq!(interim[0].status(), StatusCode::EARLY_HINTS);
    assert_eq!(interim[0].headers()["link"], "</a.css>; rel=preload");
    assert!(!interim[0].headers().contains_key("x-b"), "it belongs to one connection");
}

async fn a_client_that_waits_is_told_to_go_on() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| {
        let head = connection.head().await.unwrap();
        assert_eq!(head.field("expect"), Some("100-continue"));
        connection.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(connection.exactly(6).await.unwrap(), b"a body");
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    })
    .await;
    let proxy = Plan::to(&[origin.address()]).tls().listener(ALL).start();
    let mut client = Client::connect(proxy.address(), Downstream::H3).await;
    let reply = client.call(with(post("/", "a body"), "expect", "100-continue")).await;
    assert_eq!(reply.text(), "ok");
    let interim = client.quic().interim.take();
    assert_eq!(interim.iter().map(Response::status).collect::<Vec<_>>(), [StatusCode::CONTINUE]);
}

/// PITFALLS 27.
async fn a_head_that_does_not_end_is_answered() {
    let (_client, proxy) = over(Downstream::H3, "timeouts.header = \"700ms\"").await;
    let quic = Quic::connect(proxy.address(), SITE).await;
    let (mut send, mut recv) = quic.connection.open_bi().await.unwrap();
    // A HEADERS frame of 32 bytes, of which two come.
    send.write_all(&[0x01, 0x20, 0, 0]).await.unwrap();
    assert!(!recv.read_to_end(4096).await.unwrap().is_empty(), "it is told");
    eventually(|| proxy.running().counters().heads_refused == 1).await;
}

/// PITFALLS 1.
async fn a_host_of_another_certificate_is_misdirected() {
    let (mut client, _proxy) = over(Downstream::H3, "").await;
    client.call(with(get("/"), "host", "other.test")).await.is_fault(421, "misdirected_request");
    assert_eq!(client.call(with(get("/"), "host", "www.example.org")).await.status(), StatusCode::OK);
}

async fn its_requests_are_counted() {
    let (mut client, proxy) = over(Downstream::H3, "").await;
    client.get("/").await;
    client.get("/").await;
    let totals = proxy.running().counters();
    assert_eq!((totals.requests_http3, totals.requests_http2, totals.requests_http1), (2, 0, 0));
}

/// A client that has been here before, and a proxy that takes its early data.
async fn early() -> (Client, Origin, Proxy) {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let keys = format!("{ALL}\ntls.early_data = true");
    let proxy = Plan::to(&[origin.address()]).tls().listener(&keys).start();
    let mut tls = Arc::unwrap_or_clone(client_config(&[b"h3"], false));
    tls.enable_early_data = true;
    let config = quic::config(Arc::new(tls));
    let first = Quic::connect_with(config.clone(), proxy.address(), SITE).await.unwrap();
    let mut first = Client::over_quic(first);
    assert_eq!(first.get("/").await.text(), "ok");
    drop(first);
    let (endpoint, connecting) = quic::begin(config, proxy.address(), SITE);
    let Ok((connection, _)) = connecting.into_0rtt() else { panic!("nothing was remembered") };
    (Client::over_quic(Quic::over(endpoint, connection)), origin, proxy)
}

/// RFC 8470 §5.1.
async fn safe_requests_pass_early_and_say_so() {
    let (mut client, origin, _proxy) = early().await;
    assert_eq!(client.get("/").await.text(), "ok");
    let seen = origin.seen();
    assert!(!seen[0].headers.contains_key("early-data"));
    assert_eq!(seen[1].headers["early-data"], "1");
    // The handshake is over by now.
    assert_eq!(client.get("/").await.text(), "ok");
    assert!(!origin.seen()[2].headers.contains_key("early-data"));
}

async fn other_requests_wait_for_the_handshake() {
    let (mut client, origin, _proxy) = early().await;
    assert_eq!(client.call(post("/", "a body")).await.text(), "ok");
    assert!(!origin.seen()[1].headers.contains_key("early-data"));
}
