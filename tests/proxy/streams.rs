//! What flows and what waits: events one by one, bodies that are read ahead where a route asks for it, and clients that send
//! nothing before they get a word.

use bytes::Bytes;
use http::{Method, Request, Response};
use tidegate::body::incoming::Incoming;
use tokio::sync::mpsc;

use crate::support::body::{Sent, next_piece, receive};
use crate::support::client::{Client, get, of, post, with};
use crate::support::origin::{RawOrigin, echo};
use crate::support::pair::{Pair, Upstream};
use crate::support::raw::{End, Raw};
use crate::support::{downstreams, eventually, pairs, tests, upstreams};

pairs! {
    events_flow_one_by_one,
    events_flow_through_a_buffer_as_well,
    a_buffered_request_is_whole_before_an_endpoint_is_asked,
    a_request_larger_than_its_buffer_streams_from_there,
    a_buffered_answer_that_breaks_off_never_ends_cleanly,
    a_buffered_answer_whose_client_vanishes_is_given_up,
    trailers_pass_buffers,
    an_expectation_is_met,
    targets_pass_byte_for_byte,
    a_normalized_path_says_what_was_changed,
}

upstreams! {
    a_buffered_answer_frees_its_endpoint,
}

downstreams! {
    a_body_that_the_endpoint_refuses_is_never_sent,
    a_body_is_sent_once_the_endpoint_wants_it,
}

tests! {
    an_endpoint_that_says_nothing_gets_the_body_all_the_same,
    a_client_gets_the_word_of_the_endpoint,
}

async fn tell(pair: Pair, keys: &str) {
    let (hand, mut handed) = mpsc::channel(1);
    let mut scene = pair
        .planned(
            |plan| plan.route(keys),
            async move |_| {
                let (feed, body) = Sent::fed();
                feed.send("data: 0\n\n").await;
                hand.send(feed).await.ok().unwrap();
                Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
            },
        )
        .await;
    let mut events = scene.client.send(get("/events")).await.unwrap().into_body();
    let feed = handed.recv().await.unwrap();
    assert_eq!(next_piece(&mut events).await.unwrap(), "data: 0\n\n");
    for number in 1..5 {
        let event = format!("data: {number}\n\n");
        feed.send(event.clone()).await;
        assert_eq!(next_piece(&mut events).await.unwrap(), event);
    }
    drop(feed);
    assert_eq!(next_piece(&mut events).await, None);
}

async fn events_flow_one_by_one(pair: Pair) {
    tell(pair, "").await;
}

async fn events_flow_through_a_buffer_as_well(pair: Pair) {
    tell(pair, "buffer = { request = \"1MiB\", response = \"1MiB\" }").await;
}

async fn a_buffered_request_is_whole_before_an_endpoint_is_asked(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.route("buffer.request = \"1MiB\""), echo).await;
    let (feed, body) = Sent::fed();
    let (running, origin) = (scene.proxy.running(), &scene.origin);
    let feeding = async {
        feed.send("one ").await;
        eventually(|| running.counters().body_bytes_buffered == 4).await;
        assert_eq!(origin.connections(), 0);
        feed.send("two").await;
        drop(feed);
    };
    let (reply, ()) = tokio::join!(scene.client.call(post("/", body)), feeding);
    assert!(reply.text().ends_with("\n\none two"), "{}", reply.text());
    assert_eq!(scene.origin.only().headers["content-length"], "7", "it is known by then");
    eventually(|| running.counters().body_bytes_buffered == 0).await;
}

async fn a_request_larger_than_its_buffer_streams_from_there(pair: Pair) {
    let (tell, mut told) = mpsc::channel(64);
    let mut scene = pair
        .planned(
            |plan| plan.route("buffer.request = \"4KiB\""),
            async move |request: Request<Incoming>| {
                let mut body = request.into_body();
                let mut length = 0;
                while let Some(piece) = next_piece(&mut body).await {
                    length += piece.len();
                    tell.send(length).await.unwrap();
                }
                Response::new(length.to_string().into())
            },
        )
        .await;
    let (feed, body) = Sent::fed();
    let feeding = async {
        feed.send(vec![b'x'; 5000]).await;
        // The rest has not come, and the endpoint has what there is.
        while told.recv().await.unwrap() < 5000 {}
        feed.send(vec![b'y'; 5000]).await;
        drop(feed);
    };
    let (reply, ()) = tokio::join!(scene.client.call(post("/", body)), feeding);
    assert_eq!(reply.text(), "10000");
}

/// More than the buffers of two connections hold.
const LARGE: usize = 24 * 1024 * 1024;

async fn a_buffered_answer_frees_its_endpoint(pair: Pair) {
    let (tell, mut told) = mpsc::channel(1);
    let mut scene = pair
        .planned(
            |plan| plan.route("buffer.response = \"64MiB\""),
            async move |_| {
                let (feed, body) = Sent::fed();
                let tell = tell.clone();
                tokio::task::spawn_local(async move {
                    let piece = Bytes::from(vec![b'x'; 256 * 1024]);
                    for _ in 0..LARGE / piece.len() {
                        assert!(feed.send(piece.clone()).await);
                    }
                    tell.send(()).await.unwrap();
                });
                Response::new(body)
            },
        )
        .await;
    let response = scene.client.send(get("/")).await.unwrap();
    // Nobody reads, and the origin is done with it.
    told.recv().await.unwrap();
    let received = receive(response.into_body()).await;
    assert!(received.broken.is_none(), "{:?}", received.broken);
    assert_eq!(received.bytes.len(), LARGE);
    eventually(|| scene.proxy.running().counters().body_bytes_buffered == 0).await;
}

async fn a_buffered_answer_that_breaks_off_never_ends_cleanly(pair: Pair) {
    let behaviour = async |_| Response::new(Sent::pieces([Bytes::from("half")]).then_broken());
    let mut scene = pair.planned(|plan| plan.route("buffer.response = \"1MiB\""), behaviour).await;
    match scene.client.send(get("/")).await {
        Ok(response) if response.status() == 200 => assert!(receive(response.into_body()).await.broken.is_some()),
        // The break may overtake the head.
        Ok(response) => assert_eq!(response.status(), 502),
        Err(_) => {}
    }
}

async fn a_buffered_answer_whose_client_vanishes_is_given_up(pair: Pair) {
    let (hand, mut handed) = mpsc::channel(1);
    let behaviour = async move |_| {
        let (feed, body) = Sent::fed();
        feed.send("some").await;
        hand.send(feed).await.ok().unwrap();
        Response::new(body)
    };
    let mut scene = pair.planned(|plan| plan.route("buffer.response = \"1MiB\""), behaviour).await;
    let mut body = scene.client.send(get("/")).await.unwrap().into_body();
    assert_eq!(next_piece(&mut body).await.unwrap(), "some");
    drop(body);
    scene.client.vanish();
    handed.recv().await.unwrap().refused().await;
}

async fn trailers_pass_buffers(pair: Pair) {
    let behaviour = async |request: Request<Incoming>| {
        let received = receive(request.into_body()).await;
        let trailers = received.trailers.expect("no trailers came");
        Response::builder()
            .header("trailer", "x-check")
            .body(Sent::pieces([received.bytes]).with_trailers(trailers))
            .unwrap()
    };
    let keys = "buffer = { request = \"1MiB\", response = \"1MiB\" }";
    let mut scene = pair.planned(|plan| plan.route(keys), behaviour).await;
    let trailers = http::HeaderMap::from_iter([("x-check".parse().unwrap(), "1".parse().unwrap())]);
    let body = Sent::pieces([Bytes::from("body")]).with_trailers(trailers);
    let request = with(with(post("/", body), "te", "trailers"), "trailer", "x-check");
    let reply = scene.client.call(request).await;
    assert_eq!(reply.text(), "body");
    assert_eq!(reply.trailers.expect("no trailers came")["x-check"], "1");
}

/// PITFALLS 15. Over HTTP/2 hyper does not tell us what the endpoint says, so that it is not asked there.
async fn an_expectation_is_met(pair: Pair) {
    let mut scene = pair.scene(echo).await;
    for body in ["a body", "another"] {
        let reply = scene.client.call(with(post("/", body), "expect", "100-continue")).await;
        assert!(reply.text().ends_with(&format!("\n\n{body}")), "{}", reply.text());
    }
    let asked = scene.origin.seen().iter().all(|seen| seen.headers.contains_key("expect"));
    assert_eq!(asked, matches!(pair.up, Upstream::Http1 | Upstream::Http3));
    // Where no body follows there is nothing to wait for.
    assert_eq!(scene.client.call(with(get("/"), "expect", "100-continue")).await.status(), 200);
    assert!(!scene.origin.seen()[2].headers.contains_key("expect"));
}

async fn refusing(pair: Pair) -> (RawOrigin, mpsc::Receiver<(Vec<u8>, End)>, crate::support::proxy::Proxy) {
    let (tell, told) = mpsc::channel(1);
    let origin = RawOrigin::start(async move |mut connection: Raw, _| {
        let Some(head) = connection.head().await else { return };
        assert_eq!(head.field("expect"), Some("100-continue"));
        connection.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await;
        let _ = tell.send(connection.rest().await).await;
    })
    .await;
    let proxy = pair.plan(&[origin.address()]).start();
    (origin, told, proxy)
}

/// PITFALLS 15.
async fn a_body_that_the_endpoint_refuses_is_never_sent(pair: Pair) {
    let (_origin, mut told, proxy) = refusing(pair).await;
    let mut client = Client::connect(proxy.address(), pair.down).await;
    let response = client.send(with(post("/", "a body"), "expect", "100-continue")).await.unwrap();
    assert_eq!(response.status(), 417);
    let (rest, _) = told.recv().await.unwrap();
    // Its coding at the most: an unfinished body is no body.
    assert!(!String::from_utf8_lossy(&rest).contains("body"), "{rest:?}");
}

/// PITFALLS 15.
async fn a_body_is_sent_once_the_endpoint_wants_it(pair: Pair) {
    let origin = RawOrigin::start(async |mut connection: Raw, _| {
        let head = connection.head().await.unwrap();
        assert_eq!(head.field("expect"), Some("100-continue"));
        connection.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(connection.exactly(6).await.unwrap(), b"a body");
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    })
    .await;
    let proxy = pair.plan(&[origin.address()]).start();
    let mut client = Client::connect(proxy.address(), pair.down).await;
    assert_eq!(client.call(with(post("/", "a body"), "expect", "100-continue")).await.text(), "ok");
}

async fn an_endpoint_that_says_nothing_gets_the_body_all_the_same() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| {
        assert_eq!(connection.request().await.unwrap().text(), "body");
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    })
    .await;
    let proxy = Pair::PLAIN.plan(&[origin.address()]).start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("POST / HTTP/1.1\r\nHost: example.org\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert_eq!(raw.head().await.unwrap().line, "HTTP/1.1 100 Continue");
    raw.send("body").await;
    assert_eq!(raw.response().await.unwrap().text(), "ok");
}

/// A client that waits: it gets the refusal, and no word to go on before it.
async fn a_client_gets_the_word_of_the_endpoint() {
    let (_origin, _told, proxy) = refusing(Pair::PLAIN).await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("POST / HTTP/1.1\r\nHost: example.org\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert_eq!(raw.head().await.unwrap().status(), 417);
    raw.closed().await;
}

const TARGETS: [&str; 13] = [
    "/",
    "/?",
    "/a%2Fb%20c",
    "/a//b",
    "//a/b",
    "/%7Euser/%41",
    "/caf%c3%a9",
    "/a;b=c/,d",
    "/?a=b?c/d&e=%zz",
    "/:@!$&'()*+,;=-._~",
    "/a/...",
    "/a%252e",
    "/%2a",
];

async fn targets_pass_byte_for_byte(pair: Pair) {
    let mut scene = pair.scene(echo).await;
    for target in TARGETS {
        let reply = scene.client.get(target).await;
        assert_eq!(reply.text().lines().next(), Some(format!("GET {target}").as_str()));
    }
    let reply = scene.client.call(of(Method::OPTIONS, "/a//b?c", Sent::empty())).await;
    assert_eq!(reply.text().lines().next(), Some("OPTIONS /a//b?c"));
}

async fn a_normalized_path_says_what_was_changed(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.route("normalize_path = true"), echo).await;
    for (target, forwarded, changes) in [
        ("/a/b?c=%41", "/a/b?c=%41", None),
        ("/a//b", "/a/b", Some("slashes")),
        ("/%7Eb/%c3?//", "/~b/%C3?//", Some("percent-encoding")),
        ("//a/%62", "/a/b", Some("percent-encoding, slashes")),
    ] {
        // Nobody else says it.
        let reply = scene.client.call(with(get(target), "x-normalized-path", "lies")).await;
        assert_eq!(reply.text().lines().next(), Some(format!("GET {forwarded}").as_str()));
        let said = reply.text().lines().find_map(|line| line.strip_prefix("x-normalized-path: "));
        assert_eq!(said, changes, "{target}");
    }
}
