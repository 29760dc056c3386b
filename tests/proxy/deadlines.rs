//! Deadlines: who is late, and what the other side is told. Waiting here is waiting for the proxy's own timers; how
//! long it took is not judged.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tidegate::body::incoming::Incoming;
use tokio::sync::mpsc;

use crate::support::body::{Sent, noise, receive};
use crate::support::client::{Client, Reply, get, post};
use crate::support::frames;
use crate::support::origin::{RawOrigin, echo, ok};
use crate::support::pair::{Downstream, Pair, Upstream};
use crate::support::proxy::Plan;
use crate::support::raw::Raw;
use crate::support::{downstreams, eventually, pairs, tests};

downstreams! { an_idle_connection_ends, a_connection_past_its_age_ends }

pairs! {
    an_origin_that_does_not_answer_is_told_as_504,
    an_answer_that_falls_silent_never_ends_cleanly,
    an_exchange_past_its_total_is_told_as_504,
    an_answer_past_the_total_never_ends_cleanly,
    a_client_that_stops_sending_is_told_as_408,
    a_client_that_stops_reading_is_cut,
}

tests! {
    a_head_that_does_not_end_is_told_as_408,
    a_later_head_that_does_not_end_is_told_as_408,
    a_client_that_says_nothing_is_closed,
    a_handshake_that_does_not_end_is_closed,
    an_http2_head_that_does_not_end_closes_the_connection,
    the_response_timeout_of_the_route_wins,
    an_endpoint_that_does_not_shake_hands_is_told_as_504,
    an_idle_http2_client_that_answers_nothing_disturbs_nobody,
    a_slow_reader_of_a_fast_origin_is_cut_at_the_total,
    an_event_stream_that_is_silent_lives_on,
    a_slow_upload_is_not_a_slow_answer,
}

async fn an_idle_connection_ends(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.listener("timeouts.idle = \"50ms\""), ok).await;
    assert_eq!(scene.client.get("/").await.status(), StatusCode::OK);
    scene.client.ended().await.unwrap();
}

async fn a_connection_past_its_age_ends(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.listener("timeouts.max_age = \"100ms\""), ok).await;
    while let Ok(response) = scene.client.send(get("/")).await {
        assert_eq!(Reply::take(response).await.status(), StatusCode::OK);
    }
    let ended = scene.client.ended().await;
    // On HTTP/1 the end may cross a request; GOAWAY was made so that it does not.
    assert!(ended.is_ok() || !pair.has_streams(), "{ended:?}");
}

async fn never(_: Request<Incoming>) -> Response<Sent> {
    std::future::pending().await
}

async fn an_origin_that_does_not_answer_is_told_as_504(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.upstream("timeouts.response = \"50ms\""), never).await;
    for request in [get("/"), post("/", "a body")] {
        scene.client.call(request).await.is_fault(504, "http_response_timeout");
    }
}

async fn the_response_timeout_of_the_route_wins() {
    let plan = |plan: Plan| plan.route("timeouts.response = \"50ms\"").upstream("timeouts.response = \"1h\"");
    let mut scene = Pair::PLAIN.planned(plan, never).await;
    scene.client.get("/").await.is_fault(504, "http_response_timeout");
}

/// Answers with a piece and says no more.
async fn a_piece_and_silence(_: Request<Incoming>) -> Response<Sent> {
    let (feed, body) = Sent::fed();
    tokio::task::spawn_local(async move {
        feed.send("a piece").await;
        feed.refused().await;
    });
    Response::new(body)
}

async fn an_answer_that_falls_silent_never_ends_cleanly(pair: Pair) {
    let plan = |plan: Plan| plan.upstream("timeouts.stream_idle = \"100ms\"");
    let mut scene = pair.planned(plan, a_piece_and_silence).await;
    let response = scene.client.send(get("/")).await.unwrap();
    let received = receive(response.into_body()).await;
    assert_eq!(received.bytes, "a piece");
    assert!(received.broken.is_some());
}

async fn an_exchange_past_its_total_is_told_as_504(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.route("timeouts.total = \"50ms\""), never).await;
    scene.client.get("/").await.is_fault(504, "exchange_timeout");
}

async fn an_answer_past_the_total_never_ends_cleanly(pair: Pair) {
    let plan = |plan: Plan| plan.route("timeouts.total = \"500ms\"");
    let mut scene = pair.planned(plan, a_piece_and_silence).await;
    let response = scene.client.send(get("/")).await.unwrap();
    assert!(receive(response.into_body()).await.broken.is_some());
}

/// PITFALLS 12.
async fn a_client_that_stops_sending_is_told_as_408(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.listener("timeouts.client_stall = \"100ms\""), echo).await;
    let (feed, body) = Sent::fed();
    feed.send("half").await;
    let reply = scene.client.call(post("/", body.announcing(8))).await;
    reply.is_fault(408, "client_stall");
    drop(feed);
}

/// PITFALLS 12.
async fn a_client_that_stops_reading_is_cut(pair: Pair) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let behaviour = async move |_| {
        let (feed, body) = Sent::fed();
        let tell = tell.clone();
        tokio::task::spawn_local(async move {
            while feed.send(noise().slice(..65_536)).await {}
            tell.send(()).unwrap();
        });
        Response::new(body)
    };
    let mut scene = pair.planned(|plan| plan.listener("timeouts.client_stall = \"200ms\""), behaviour).await;
    let response = scene.client.send(get("/")).await.unwrap();
    told.recv().await.unwrap();
    assert!(receive(response.into_body()).await.broken.is_some());
}

/// Sees that a head was late, and that the connection ends.
async fn told_as_late(raw: &mut Raw) {
    let answer = raw.response().await.unwrap();
    assert_eq!(answer.status(), 408);
    assert!(answer.field("proxy-status").unwrap().starts_with("tidegate; error=request_header_timeout;"));
    assert_eq!(answer.field("connection"), Some("close"));
    raw.closed().await;
}

/// PITFALLS 11.
async fn a_head_that_does_not_end_is_told_as_408() {
    let scene = Pair::PLAIN.planned(|plan| plan.listener("timeouts.header = \"100ms\""), ok).await;
    let mut raw = scene.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: example.org\r\n").await;
    told_as_late(&mut raw).await;
}

/// PITFALLS 11.
async fn a_later_head_that_does_not_end_is_told_as_408() {
    let scene = Pair::PLAIN.planned(|plan| plan.listener("timeouts.header = \"100ms\""), ok).await;
    let mut raw = scene.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: example.org\r\n\r\nGET / HT").await;
    assert_eq!(raw.response().await.unwrap().status(), 200);
    told_as_late(&mut raw).await;
}

async fn a_client_that_says_nothing_is_closed() {
    let scene = Pair::PLAIN.planned(|plan| plan.listener("timeouts.header = \"50ms\""), ok).await;
    scene.raw().await.closed().await;
}

async fn a_handshake_that_does_not_end_is_closed() {
    let pair = Pair { down: Downstream::H1Tls, up: Upstream::Http1 };
    let scene = pair.planned(|plan| plan.listener("timeouts.handshake = \"50ms\""), ok).await;
    let mut raw = Raw::connect(scene.proxy.address()).await;
    raw.send(b"\x16\x03\x01").await;
    let _ = raw.rest().await;
}

async fn an_http2_head_that_does_not_end_closes_the_connection() {
    let pair = Pair { down: Downstream::H2, up: Upstream::Http1 };
    let scene = pair.planned(|plan| plan.listener("timeouts.header = \"100ms\""), ok).await;
    let mut raw = scene.raw().await;
    raw.send(frames::preface()).await;
    // Without END_HEADERS.
    raw.send(frames::frame(frames::HEADERS, frames::END_STREAM, 1, &frames::get(&[]))).await;
    while let Some(frame) = frames::next(&mut raw).await {
        assert_ne!(frame.kind, frames::HEADERS, "{frame:?}");
    }
    assert!(scene.origin.seen().is_empty());
}

async fn an_endpoint_that_does_not_shake_hands_is_told_as_504() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| drop(connection.rest().await)).await;
    let pair = Pair { down: Downstream::H1, up: Upstream::Http2Tls };
    let plan = pair.plan(&[origin.address()]).upstream("timeouts.connect = \"50ms\"");
    let proxy = plan.start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    client.get("/").await.is_fault(504, "connection_timeout");
}

/// `client_stall` judges the client alone.
async fn an_event_stream_that_is_silent_lives_on() {
    for down in [Downstream::H1, Downstream::H2] {
        let behaviour = async |_| {
            let (feed, body) = Sent::fed();
            tokio::task::spawn_local(async move {
                feed.send("one").await;
                tokio::time::sleep(Duration::from_millis(400)).await;
                feed.send("two").await;
            });
            Response::new(body)
        };
        let plan = |plan: Plan| plan.listener("timeouts.client_stall = \"50ms\"\ntimeouts.idle = \"50ms\"");
        let mut scene = Pair { down, up: Upstream::Http1 }.planned(plan, behaviour).await;
        assert_eq!(scene.client.get("/").await.text(), "onetwo");
    }
}

/// The answer is late only once the origin has the whole request.
async fn a_slow_upload_is_not_a_slow_answer() {
    let plan = |plan: Plan| plan.upstream("timeouts.response = \"100ms\"");
    let mut scene = Pair::PLAIN.planned(plan, echo).await;
    let (feed, body) = Sent::fed();
    let feeding = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(80)).await;
            feed.send(Bytes::from("piece ")).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(feed);
    };
    let (reply, ()) = tokio::join!(scene.client.call(post("/", body)), feeding);
    assert_eq!(reply.status(), StatusCode::OK, "{}", reply.text());
    assert!(reply.text().ends_with("piece piece piece "));
    let running = scene.proxy.running();
    eventually(|| running.counters().outcome_ok == 1).await;
}

/// A GOAWAY at the idle deadline waits for the answer to its PING; whoever never sends one is only waited for.
async fn an_idle_http2_client_that_answers_nothing_disturbs_nobody() {
    let pair = Pair { down: Downstream::H2, up: Upstream::Http1 };
    let scene = pair.planned(|plan| plan.listener("timeouts.idle = \"50ms\""), ok).await;
    let mut raw = scene.raw().await;
    raw.send(frames::preface()).await;
    let whole = frames::END_HEADERS | frames::END_STREAM;
    raw.send(frames::frame(frames::HEADERS, whole, 1, &frames::get(&[]))).await;
    while frames::next(&mut raw).await.expect("a GOAWAY comes first").kind != frames::GOAWAY {}
    let mut other = Client::connect(scene.proxy.address(), Downstream::H2).await;
    assert_eq!(other.get("/").await.text(), "ok");
}

/// With bytes always at hand nobody waits for the origin, and the client takes some all the time.
async fn a_slow_reader_of_a_fast_origin_is_cut_at_the_total() {
    const LENGTH: usize = 64 * 1024 * 1024;
    let behaviour = async |_: Request<Incoming>| Response::new(Sent::from(Bytes::from(vec![b'x'; LENGTH])));
    let scene = Pair::PLAIN.planned(|plan| plan.route("timeouts.total = \"200ms\""), behaviour).await;
    let mut raw = scene.raw().await;
    // Closed behind it, whatever it is: an answer of ours, should the total pass before the origin's began, ends as well.
    raw.send("GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n").await;
    let mut received = 0;
    while raw.exactly(256 * 1024).await.is_some() {
        received += 256 * 1024;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(received < LENGTH, "the whole answer came");
}
