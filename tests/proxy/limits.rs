//! Limits on what a client may send: bodies, heads, connections.

use http::{Request, Response, StatusCode};
use tidegate::body::incoming::Incoming;
use tokio::sync::mpsc;

use crate::support::body::{Sent, noise, receive};
use crate::support::client::{get, post, with};
use crate::support::origin::{Origin, echo, ok};
use crate::support::pair::{Pair, Upstream};
use crate::support::raw::Raw;
use crate::support::{downstreams, pairs, tests};

downstreams! {
    a_body_that_announces_too_much_is_refused,
    the_limit_of_the_route_wins,
    a_head_past_its_size_is_refused,
    a_head_with_too_many_fields_is_refused,
    a_head_within_its_limits_passes,
}

pairs! { a_body_that_grows_too_large_is_refused }

tests! {
    a_request_line_past_the_limit_is_refused_before_it_ends,
    connections_of_one_address_past_the_limit_are_closed,
    a_body_at_its_limit_passes,
    connections_past_the_limit_wait,
}

async fn a_body_that_announces_too_much_is_refused(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.listener("limits.max_body = \"1KiB\""), ok).await;
    let reply = scene.client.call(post("/", noise().slice(..1025))).await;
    reply.is_fault(413, "request_body_too_large");
    assert!(scene.origin.seen().is_empty(), "the origin was asked");
}

async fn the_limit_of_the_route_wins(pair: Pair) {
    let plan =
        |plan: crate::support::proxy::Plan| plan.listener("limits.max_body = \"1KiB\"").route("max_body = \"2KiB\"");
    let mut scene = pair.planned(plan, echo).await;
    assert_eq!(scene.client.call(post("/", noise().slice(..2048))).await.status(), StatusCode::OK);
    scene.client.call(post("/", noise().slice(..2049))).await.is_fault(413, "request_body_too_large");
}

async fn a_body_that_grows_too_large_is_refused(pair: Pair) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let behaviour = async move |request: Request<Incoming>| {
        tell.send(None).unwrap();
        // In a task of its own: hyper drops this one with the exchange.
        let tell = tell.clone();
        tokio::task::spawn_local(async move { tell.send(Some(receive(request.into_body()).await)) });
        std::future::pending::<Response<Sent>>().await
    };
    let mut scene = pair.planned(|plan| plan.listener("limits.max_body = \"100KiB\""), behaviour).await;
    let (feed, body) = Sent::fed();
    let feeding = async {
        feed.send(noise().slice(..32_768)).await;
        assert!(told.recv().await.unwrap().is_none());
        // Not without end: what a client still sends behind our answer is read for a while, then its connection breaks.
        for _ in 0..8 {
            feed.send(noise().slice(..32_768)).await;
        }
        std::future::pending::<()>().await
    };
    let reply = tokio::select! {
        reply = scene.client.call(post("/", body)) => reply,
        () = feeding => unreachable!(),
    };
    reply.is_fault(413, "request_body_too_large");
    let received = told.recv().await.unwrap().unwrap();
    assert!(received.broken.is_some(), "the origin took {} bytes for a whole body", received.bytes.len());
}

async fn a_body_at_its_limit_passes() {
    let mut scene = Pair::PLAIN.planned(|plan| plan.listener("limits.max_body = \"1KiB\""), echo).await;
    for body in [Sent::from(noise().slice(..1024)), Sent::pieces([noise().slice(..1000), noise().slice(..24)])] {
        assert_eq!(scene.client.call(post("/", body)).await.status(), StatusCode::OK);
    }
}

/// PITFALLS 10.
async fn a_head_past_its_size_is_refused(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.listener("limits.max_header_size = \"4KiB\""), ok).await;
    let mut request = get("/");
    request.headers_mut().insert("x-long", "x".repeat(6 * 1024).parse().unwrap());
    let reply = scene.client.call(request).await;
    assert_eq!(reply.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert!(scene.origin.seen().is_empty(), "the origin was asked");
    if pair.has_streams() {
        assert_eq!(scene.client.get("/").await.status(), StatusCode::OK, "the stream alone ends");
    }
}

/// PITFALLS 10.
async fn a_head_with_too_many_fields_is_refused(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.listener("limits.max_headers = 20"), ok).await;
    let mut request = get("/");
    for _ in 0..21 {
        request = with(request, "x-many", "1");
    }
    scene.client.call(request).await.is_fault(431, "request_header_too_large");
    assert!(scene.origin.seen().is_empty(), "the origin was asked");
}

async fn a_head_within_its_limits_passes(pair: Pair) {
    let mut scene = pair.scene(ok).await;
    let mut request = get("/");
    request.headers_mut().insert("x-long", "x".repeat(20 * 1024).parse().unwrap());
    for _ in 0..90 {
        request = with(request, "x-many", "1");
    }
    assert_eq!(scene.client.call(request).await.status(), StatusCode::OK);
    let seen = scene.origin.only();
    assert_eq!(seen.headers.get_all("x-many").iter().count(), 90);
}

async fn a_request_line_past_the_limit_is_refused_before_it_ends() {
    let scene = Pair::PLAIN.planned(|plan| plan.listener("limits.max_header_size = \"4KiB\""), ok).await;
    let mut raw = scene.raw().await;
    raw.send(format!("GET /{}", "x".repeat(5000))).await;
    let answer = raw.response().await.unwrap();
    assert_eq!(answer.status(), 431);
    assert_eq!(answer.field("connection"), Some("close"));
    raw.closed().await;
}

async fn connections_of_one_address_past_the_limit_are_closed() {
    let scene = Pair::PLAIN.planned(|plan| plan.listener("limits.max_connections_per_ip = 2"), ok).await;
    let mut second = scene.raw().await;
    second.send(GET).await;
    assert_eq!(second.response().await.unwrap().status(), 200);
    let mut third = Raw::connect(scene.proxy.address()).await;
    third.closed().await;
    // A place that becomes free is given away again.
    second.finish().await;
    second.closed().await;
    loop {
        let mut next = Raw::connect(scene.proxy.address()).await;
        next.send(GET).await;
        if next.response().await.is_some() {
            break;
        }
    }
}

async fn connections_past_the_limit_wait() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let proxy = Pair::PLAIN.plan(&[origin.address()]).listener("limits.max_connections = 1").start();
    let mut first = Raw::connect(proxy.address()).await;
    first.send(GET).await;
    assert_eq!(first.response().await.unwrap().status(), 200);
    // It is in the kernel's queue, and its turn comes.
    let mut second = Raw::connect(proxy.address()).await;
    second.send(GET).await;
    first.send(GET).await;
    assert_eq!(first.response().await.unwrap().status(), 200);
    assert_eq!(proxy.running().counters().connections_accepted, 1);
    first.finish().await;
    assert_eq!(second.response().await.unwrap().status(), 200);
}

const GET: &str = "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";
