//! gRPC and gRPC-Web through every pair of protocols: a call always ends with a status, whoever is at fault.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tidegate::base::error::Kind;
use tidegate::body::incoming::Incoming;

use crate::support::body::{Sent, next_piece, receive};
use crate::support::client::{Client, Reply, post, with};
use crate::support::origin::Closed;
use crate::support::pair::Pair;
use crate::support::proxy::Plan;
use crate::support::{downstreams, eventually, pairs, tests};

pairs! {
    a_call_ends_with_its_status,
    a_conversation_flows_both_ways,
    an_answer_of_trailers_alone_passes,
    an_answer_that_breaks_off_ends_with_a_status,
    a_call_waits_no_longer_than_its_client,
    a_call_of_a_browser_is_translated,
    a_call_of_a_browser_in_text_is_translated,
    trailers_alone_stand_in_the_body_for_a_browser,
    what_is_no_grpc_is_a_status_for_a_browser,
}

downstreams! {
    a_refused_connection_is_unavailable,
    no_route_is_unimplemented,
    a_client_that_is_not_admitted_lacks_permission,
    a_body_past_its_limit_exhausts_a_resource,
    a_fault_is_told_in_the_body_for_a_browser,
}

tests! {
    grpc_web_passes_untouched_where_it_is_not_asked_for,
    a_broken_text_is_refused,
}

/// A message behind its length.
fn message(text: &str) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes.into()
}

fn call(media: &'static str, body: impl Into<Sent>) -> Request<Sent> {
    with(with(post("/echo.Echo/Say", body), "content-type", media), "te", "trailers")
}

fn status(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static(code))])
}

async fn say(request: Request<Incoming>) -> Response<Sent> {
    assert_eq!(request.headers()["content-type"], "application/grpc+proto");
    assert_eq!(request.headers()["te"], "trailers");
    let received = receive(request.into_body()).await;
    assert!(received.broken.is_none(), "{:?}", received.broken);
    let body = Sent::pieces([received.bytes, message("and more")]).with_trailers(status("0"));
    // hyper sends no trailers over HTTP/1.1 that were not announced.
    let head = Response::builder().header("content-type", "application/grpc+proto").header("trailer", "grpc-status");
    head.body(body).unwrap()
}

async fn a_call_ends_with_its_status(pair: Pair) {
    let mut scene = pair.scene(say).await;
    let large = "x".repeat(100_000);
    for text in ["one", &large] {
        let reply = scene.client.call(call("application/grpc+proto", message(text))).await;
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.field("content-type"), Some("application/grpc+proto"));
        assert_eq!(reply.body, [message(text), message("and more")].concat());
        assert_eq!(reply.trailers.expect("no trailers came")["grpc-status"], "0");
    }
}

async fn a_conversation_flows_both_ways(pair: Pair) {
    let mut scene = pair
        .scene(async |request: Request<Incoming>| {
            let (feed, body) = Sent::fed();
            tokio::task::spawn_local(async move {
                let mut incoming = request.into_body();
                while let Some(piece) = next_piece(&mut incoming).await {
                    feed.send(piece).await;
                }
            });
            Response::builder().header("content-type", "application/grpc").body(body).unwrap()
        })
        .await;
    let (feed, body) = Sent::fed();
    feed.send(message("0")).await;
    let mut answer = scene.client.send(call("application/grpc", body)).await.unwrap().into_body();
    assert_eq!(next_piece(&mut answer).await.unwrap(), message("0"));
    for text in ["one", "two", "three"] {
        feed.send(message(text)).await;
        assert_eq!(next_piece(&mut answer).await.unwrap(), message(text));
    }
    drop(feed);
    assert_eq!(next_piece(&mut answer).await, None);
}

async fn an_answer_of_trailers_alone_passes(pair: Pair) {
    let mut scene = pair
        .scene(async |_| {
            let head = Response::builder().header("content-type", "application/grpc");
            head.header("grpc-status", "5").header("grpc-message", "no%20such").body(Sent::empty()).unwrap()
        })
        .await;
    let reply = scene.client.call(call("application/grpc", message("x"))).await;
    assert_eq!((reply.field("grpc-status"), reply.field("grpc-message")), (Some("5"), Some("no%20such")));
    assert!(reply.body.is_empty());
}

async fn an_answer_that_breaks_off_ends_with_a_status(pair: Pair) {
    let mut scene = pair
        .scene(async |_| {
            let body = Sent::pieces([message("half")]).then_broken();
            Response::builder().header("content-type", "application/grpc").body(body).unwrap()
        })
        .await;
    let reply = scene.client.call(call("application/grpc", message("x"))).await;
    // The break may overtake the head; then the status stands in the place of an answer.
    assert_eq!(code(&reply), "14", "{reply:?}");
    let running = scene.proxy.running();
    eventually(|| running.counters().ended() == 1).await;
    assert_eq!(running.counters().outcome_ok, 0);
}

fn code(reply: &Reply) -> &str {
    let in_trailers = reply.trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    in_trailers.map_or_else(|| reply.field("grpc-status").expect("no status"), |code| code.to_str().unwrap())
}

async fn a_call_waits_no_longer_than_its_client(pair: Pair) {
    let behaviour = async |request: Request<Incoming>| {
        if request.headers()["grpc-timeout"] == "1H" { say(request).await } else { std::future::pending().await }
    };
    let mut scene = pair.planned(|plan| plan.route("timeouts.total = \"60s\""), behaviour).await;
    let request = |timeout| with(call("application/grpc+proto", message("x")), "grpc-timeout", timeout);
    assert_eq!(code(&scene.client.call(request("1H")).await), "0", "it is passed on, and lengthens nothing");
    is_fault(&scene.client.call(request("50m")).await, "4", "exchange_timeout");
    let running = scene.proxy.running();
    eventually(|| running.counters().outcome(Kind::ExchangeTimeout) == 1).await;
}

/// Sees that the proxy itself answered with this code of gRPC for this kind of error.
fn is_fault(reply: &Reply, code: &str, error: &str) {
    assert_eq!((reply.status().as_u16(), reply.field("content-type")), (200, Some("application/grpc")), "{reply:?}");
    assert_eq!(reply.field("grpc-status"), Some(code), "{reply:?}");
    assert!(reply.field("grpc-message").unwrap().ends_with(&format!("({error})")), "{reply:?}");
    assert!(reply.field("proxy-status").unwrap().starts_with(&format!("tidegate; error={error};")));
    assert!(reply.body.is_empty());
}

async fn a_refused_connection_is_unavailable(pair: Pair) {
    let closed = Closed::bind();
    let proxy = pair.plan(&[closed.address()]).start();
    let mut client = Client::connect(proxy.address(), pair.down).await;
    is_fault(&client.call(call("application/grpc", message("x"))).await, "14", "connection_refused");
    eventually(|| proxy.running().counters().outcome(Kind::ConnectionRefused) == 1).await;
}

async fn no_route_is_unimplemented(pair: Pair) {
    let proxy = pair.plan(&[]).routes("[[route]]\npath = \"/other\"\nrespond = {}").start();
    let mut client = Client::connect(proxy.address(), pair.down).await;
    is_fault(&client.call(call("application/grpc", message("x"))).await, "12", "destination_not_found");
}

async fn a_client_that_is_not_admitted_lacks_permission(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.route("deny = [\"127.0.0.0/8\"]"), say).await;
    let reply = scene.client.call(call("application/grpc", message("x"))).await;
    is_fault(&reply, "7", "http_request_denied");
}

async fn a_body_past_its_limit_exhausts_a_resource(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.route("max_body = \"1KiB\""), say).await;
    let reply = scene.client.call(call("application/grpc", message(&"x".repeat(2000)))).await;
    is_fault(&reply, "8", "request_body_too_large");
}

/// What a browser reads: the messages, and the trailers behind 0x80.
fn parted(body: &[u8]) -> (Vec<u8>, String) {
    let at = (0..body.len()).find(|at| body[*at] == 0x80).unwrap_or_else(|| panic!("no trailers in {body:?}"));
    let length = u32::from_be_bytes(body[at + 1..at + 5].try_into().unwrap());
    assert_eq!(body.len(), at + 5 + length as usize);
    (body[..at].to_vec(), String::from_utf8(body[at + 5..].to_vec()).unwrap())
}

async fn a_call_of_a_browser_is_translated(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.route("grpc_web = true"), say).await;
    let request = with(post("/echo.Echo/Say", message("one")), "content-type", "application/grpc-web+proto");
    let reply = scene.client.call(request).await;
    assert_eq!((reply.status().as_u16(), reply.field("content-type")), (200, Some("application/grpc-web+proto")));
    assert!(reply.trailers.is_none());
    let (messages, trailers) = parted(&reply.body);
    assert_eq!(messages, [message("one"), message("and more")].concat());
    assert_eq!(trailers, "grpc-status: 0\r\n");
    // gRPC itself passes on the same route.
    let reply = scene.client.call(call("application/grpc+proto", message("two"))).await;
    assert_eq!(code(&reply), "0");
}

async fn a_call_of_a_browser_in_text_is_translated(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.route("grpc_web = true"), say).await;
    // A message in pieces that end anywhere.
    let text = "AAAAAANvbmU=";
    let body = Sent::pieces([&text[..1], &text[1..6], &text[6..]].map(|piece| Bytes::from(piece.to_owned())));
    let request = with(post("/echo.Echo/Say", body), "content-type", "application/grpc-web-text+proto");
    let reply = scene.client.call(request).await;
    assert_eq!(reply.field("content-type"), Some("application/grpc-web-text+proto"));
    let (messages, trailers) = parted(&decoded(reply.text()));
    assert_eq!(messages, [message("one"), message("and more")].concat());
    assert_eq!(trailers, "grpc-status: 0\r\n");
}

/// Base64 as browsers read it: each group by itself.
fn decoded(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert_eq!(text.len() % 4, 0, "{text}");
    let mut bytes = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let values = group.iter().map(|digit| DIGITS.find(char::from(*digit)).unwrap_or(0) as u32);
        let bits = values.fold(0, |bits, value| bits << 6 | value);
        let length = 3 - group.iter().filter(|digit| **digit == b'=').count();
        bytes.extend(&bits.to_be_bytes()[1..=length]);
    }
    bytes
}

async fn trailers_alone_stand_in_the_body_for_a_browser(pair: Pair) {
    let mut scene = pair
        .planned(
            |plan| plan.route("grpc_web = true"),
            async |_| {
                let head = Response::builder().header("content-type", "application/grpc").header("x-meta", "1");
                head.header("grpc-status", "5").header("grpc-message", "no such").body(Sent::empty()).unwrap()
            },
        )
        .await;
    let request = with(post("/echo.Echo/Say", message("one")), "content-type", "application/grpc-web");
    let reply = scene.client.call(request).await;
    assert_eq!((reply.field("content-type"), reply.field("x-meta")), (Some("application/grpc-web"), Some("1")));
    assert_eq!(parted(&reply.body), (vec![], "grpc-status: 5\r\ngrpc-message: no such\r\n".to_owned()));
}

async fn what_is_no_grpc_is_a_status_for_a_browser(pair: Pair) {
    let mut scene = pair
        .planned(
            |plan| plan.route("grpc_web = true"),
            async |_| Response::builder().status(403).header("content-type", "text/html").body("no".into()).unwrap(),
        )
        .await;
    let request = with(post("/echo.Echo/Say", message("one")), "content-type", "application/grpc-web");
    let reply = scene.client.call(request).await;
    assert_eq!((reply.status().as_u16(), reply.field("content-type")), (200, Some("application/grpc-web+proto")));
    assert!(parted(&reply.body).1.starts_with("grpc-status: 7\r\n"), "{reply:?}");
}

async fn a_fault_is_told_in_the_body_for_a_browser(pair: Pair) {
    let closed = Closed::bind();
    let proxy = pair.plan(&[closed.address()]).route("grpc_web = true").start();
    let mut client = Client::connect(proxy.address(), pair.down).await;
    let request = with(post("/echo.Echo/Say", message("one")), "content-type", "application/grpc-web-text");
    let reply = client.call(request).await;
    assert_eq!(reply.field("content-type"), Some("application/grpc-web-text+proto"));
    let (_, trailers) = parted(&decoded(reply.text()));
    assert!(trailers.starts_with("grpc-status: 14\r\n") && trailers.contains("(connection_refused)"), "{trailers}");
    assert!(reply.field("proxy-status").is_some());
}

async fn grpc_web_passes_untouched_where_it_is_not_asked_for() {
    let mut scene = Pair::PLAIN
        .scene(async |request: Request<Incoming>| {
            assert_eq!(request.headers()["content-type"], "application/grpc-web");
            let body = receive(request.into_body()).await.bytes;
            Response::builder().header("content-type", "application/grpc-web").body(body.into()).unwrap()
        })
        .await;
    let request = with(post("/", message("one")), "content-type", "application/grpc-web");
    let reply = scene.client.call(request).await;
    assert_eq!((reply.field("content-length"), reply.body.clone()), (Some("8"), message("one")));
}

async fn a_broken_text_is_refused() {
    let mut scene = Pair::PLAIN
        .planned(
            |plan: Plan| plan.route("grpc_web = true"),
            async |request: Request<Incoming>| {
                assert!(receive(request.into_body()).await.broken.is_some());
                // What is said now is not heard: the proxy has answered.
                tokio::time::sleep(Duration::from_secs(1)).await;
                Response::new(Sent::empty())
            },
        )
        .await;
    let request = with(post("/", "AAAA!AAA"), "content-type", "application/grpc-web-text");
    let reply = scene.client.call(request).await;
    let (_, trailers) = parted(&decoded(reply.text()));
    assert!(trailers.contains("(http_request_error)"), "{trailers}");
}
