//! Bodies through every pair of protocols: every byte arrives, nobody runs ahead, and what breaks off never looks whole.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tidegate::base::error::Kind;
use tidegate::body::incoming::{Error, Incoming};
use tokio::sync::{mpsc, oneshot};

use crate::support::body::{Feed, Received, Sent, next_piece, noise, noise_in_pieces, receive};
use crate::support::client::{get, post, with};
use crate::support::pair::Pair;
use crate::support::{eventually, pairs};

pairs! {
    ten_mebibytes_arrive_downstream,
    ten_mebibytes_arrive_upstream,
    both_directions_stream_at_once,
    trailers_pass_both_ways,
    an_answer_that_breaks_off_never_ends_cleanly,
    a_short_answer_never_ends_cleanly,
    an_upload_whose_client_vanishes_never_ends_cleanly,
    an_announced_upload_whose_client_vanishes_never_ends_cleanly,
    a_download_whose_client_vanishes_is_given_up,
    a_request_whose_client_vanishes_is_given_up,
    a_slow_reader_holds_the_origin_back,
    a_slow_origin_holds_the_client_back,
    an_early_answer_passes_while_the_body_still_comes,
}

async fn ten_mebibytes_arrive_downstream(pair: Pair) {
    let mut scene = pair
        .scene(async |request: Request<Incoming>| match request.uri().path() {
            "/length" => Response::new(noise().into()),
            _ => Response::new(Sent::pieces(noise_in_pieces(7))),
        })
        .await;
    for (path, length) in [("/length", Some("10485760")), ("/chunked", None)] {
        let reply = scene.client.get(path).await;
        assert_eq!(reply.field("content-length"), length);
        assert!(reply.body == noise(), "{path}: {} bytes came", reply.body.len());
    }
}

async fn ten_mebibytes_arrive_upstream(pair: Pair) {
    let mut scene = pair
        .scene(async |request: Request<Incoming>| {
            let received = receive(request.into_body()).await;
            assert!(received.broken.is_none(), "{:?}", received.broken);
            let verdict = if received.bytes == noise() { "same" } else { "other" };
            Response::new(verdict.into())
        })
        .await;
    for body in [noise().into(), Sent::pieces(noise_in_pieces(8))] {
        assert_eq!(scene.client.call(post("/", body)).await.text(), "same");
    }
}

async fn both_directions_stream_at_once(pair: Pair) {
    let mut scene = pair
        .scene(async |request: Request<Incoming>| {
            let (feed, body) = Sent::fed();
            tokio::task::spawn_local(async move {
                let mut incoming = request.into_body();
                while let Some(piece) = next_piece(&mut incoming).await {
                    feed.send(piece).await;
                }
            });
            Response::new(body)
        })
        .await;
    let (feed, body) = Sent::fed();
    let mut answer = scene.client.send(post("/", body)).await.unwrap().into_body();
    for piece in ["one", "two", "three"] {
        feed.send(piece).await;
        assert_eq!(next_piece(&mut answer).await.unwrap(), piece);
    }
    drop(feed);
    assert_eq!(next_piece(&mut answer).await, None);
}

/// PITFALLS 6: fields that frame or authenticate a message do not pass as trailers.
async fn trailers_pass_both_ways(pair: Pair) {
    let mut scene = pair
        .scene(async |request: Request<Incoming>| {
            let received = receive(request.into_body()).await;
            let trailers = received.trailers.expect("no trailers came");
            assert_eq!(trailers["x-check"], "up");
            assert!(!trailers.contains_key("x-forwarded-for"), "{trailers:?}");
            let body = Sent::pieces([Bytes::from("body")]).with_trailers(fields("down"));
            Response::builder().header("trailer", "x-check, x-forwarded-for").body(body).unwrap()
        })
        .await;
    let body = Sent::pieces([Bytes::from("body")]).with_trailers(fields("up"));
    let request = with(with(post("/", body), "te", "trailers"), "trailer", "x-check, x-forwarded-for");
    let reply = scene.client.call(request).await;
    assert_eq!((reply.status(), reply.text()), (StatusCode::OK, "body"));
    let trailers = reply.trailers.expect("no trailers came");
    assert_eq!(trailers["x-check"], "down");
    assert!(!trailers.contains_key("x-forwarded-for"), "{trailers:?}");
}

fn fields(check: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-check", HeaderValue::from_static(check));
    trailers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
    trailers
}

async fn an_answer_that_breaks_off_never_ends_cleanly(pair: Pair) {
    let mut scene = pair.scene(async |_| Response::new(Sent::pieces([Bytes::from("half")]).then_broken())).await;
    let response = scene.client.send(get("/")).await;
    // The break may overtake the head on HTTP/2; then there is an error in the place of an answer.
    assert!(!is_whole_answer(response).await);
}

async fn a_short_answer_never_ends_cleanly(pair: Pair) {
    let mut scene =
        pair.scene(async |_| Response::new(Sent::pieces([Bytes::from("half")]).announcing(100).then_broken())).await;
    let response = scene.client.send(get("/")).await;
    assert!(!is_whole_answer(response).await);
}

async fn is_whole_answer(response: Result<Response<Incoming>, Error>) -> bool {
    match response {
        Ok(response) if response.status() == StatusCode::OK => receive(response.into_body()).await.broken.is_none(),
        Ok(response) => {
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
            false
        }
        Err(_) => false,
    }
}

/// PITFALLS 13.
async fn an_upload_whose_client_vanishes_never_ends_cleanly(pair: Pair) {
    assert!(upload_of_vanishing_client(pair, None).await.broken.is_some());
}

/// PITFALLS 13.
async fn an_announced_upload_whose_client_vanishes_never_ends_cleanly(pair: Pair) {
    assert!(upload_of_vanishing_client(pair, Some(1000)).await.broken.is_some());
}

async fn upload_of_vanishing_client(pair: Pair, announced: Option<u64>) -> Received {
    let (began, mut begun) = mpsc::channel(1);
    let (ended, mut end) = mpsc::channel(1);
    let mut scene = pair
        .scene(async move |request: Request<Incoming>| {
            let mut body = request.into_body();
            let first = next_piece(&mut body).await.unwrap();
            began.send(first).await.unwrap();
            // In a task of its own: hyper drops this one with the exchange.
            let ended = ended.clone();
            tokio::task::spawn_local(async move { ended.send(receive(body).await).await });
            std::future::pending().await
        })
        .await;
    let (feed, body) = Sent::fed();
    let body = match announced {
        Some(length) => body.announcing(length),
        None => body,
    };
    let sending = async {
        feed.send("half of it").await;
        begun.recv().await.unwrap()
    };
    let first = tokio::select! {
        first = sending => first,
        response = scene.client.send(post("/", body)) => panic!("an answer came: {response:?}"),
    };
    assert_eq!(first, "half of it");
    scene.client.vanish();
    let received = end.recv().await.unwrap();
    drop(feed);
    received
}

async fn a_download_whose_client_vanishes_is_given_up(pair: Pair) {
    let feeds = Rc::new(RefCell::new(Vec::new()));
    let fed = Rc::clone(&feeds);
    let mut scene = pair
        .scene(async move |_| {
            let (feed, body) = Sent::fed();
            fed.borrow_mut().push(feed);
            Response::new(body)
        })
        .await;
    // A piece first: hyper waits with the head of an answer for the beginning of its body.
    let response = scene.client.send(get("/")).await.unwrap();
    let feed = feeds.borrow_mut().pop().unwrap();
    feed.send("some").await;
    let mut body = response.into_body();
    assert_eq!(next_piece(&mut body).await.unwrap(), "some");
    drop(body);
    scene.client.vanish();
    feed.refused().await;
}

/// PITFALLS 13.
async fn a_request_whose_client_vanishes_is_given_up(pair: Pair) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let behaviour = async move |_: Request<Incoming>| {
        tell.send("began").unwrap();
        let _guard = TellsWhenDropped(tell.clone());
        std::future::pending().await
    };
    let mut scene = pair.scene(behaviour).await;
    tokio::select! {
        answer = scene.client.send(get("/")) => panic!("{answer:?}"),
        began = told.recv() => assert_eq!(began, Some("began")),
    }
    scene.client.vanish();
    assert_eq!(told.recv().await, Some("given up"));
    let running = scene.proxy.running();
    eventually(|| running.counters().outcome(Kind::ClientGone) == 1).await;
}

struct TellsWhenDropped(mpsc::UnboundedSender<&'static str>);

impl Drop for TellsWhenDropped {
    fn drop(&mut self) {
        let _ = self.0.send("given up");
    }
}

/// Far more than the buffers of two connections hold.
const RUN_AHEAD: usize = 96 * 1024 * 1024;
/// So long nothing moves before it counts as held back.
const STANDSTILL: Duration = Duration::from_millis(300);

async fn a_slow_reader_holds_the_origin_back(pair: Pair) {
    let (tell, mut told) = mpsc::channel(1);
    let mut scene = pair
        .scene(async move |_| {
            let (feed, body) = Sent::fed();
            let tell = tell.clone();
            tokio::task::spawn_local(async move {
                let sent = send_until_standstill(&feed).await;
                tell.send((feed, sent)).await.ok().unwrap();
            });
            Response::new(body)
        })
        .await;
    let response = scene.client.send(get("/")).await.unwrap();
    let (feed, sent) = told.recv().await.unwrap();
    drop(feed);
    let received = receive(response.into_body()).await;
    assert!(received.broken.is_none(), "{:?}", received.broken);
    assert_eq!(received.bytes.len(), sent);
}

async fn a_slow_origin_holds_the_client_back(pair: Pair) {
    let (go_on, mut may_go_on) = mpsc::channel::<()>(1);
    let (release, released) = oneshot::channel();
    let released = RefCell::new(Some(released));
    let mut scene = pair
        .scene(async move |request: Request<Incoming>| {
            let released = released.borrow_mut().take().unwrap();
            go_on.send(()).await.unwrap();
            released.await.unwrap();
            let received = receive(request.into_body()).await;
            assert!(received.broken.is_none(), "{:?}", received.broken);
            Response::new(received.bytes.len().to_string().into())
        })
        .await;
    let (feed, body) = Sent::fed();
    let feeding = async {
        may_go_on.recv().await.unwrap();
        let sent = send_until_standstill(&feed).await;
        drop(feed);
        release.send(()).unwrap();
        sent
    };
    let (sent, reply) = tokio::join!(feeding, scene.client.call(post("/", body)));
    assert_eq!(reply.text(), sent.to_string());
}

async fn send_until_standstill(feed: &Feed) -> usize {
    let piece = noise().slice(..65_536);
    let mut sent = 0;
    while sent < RUN_AHEAD {
        match tokio::time::timeout(STANDSTILL, feed.send(piece.clone())).await {
            Ok(true) => sent += piece.len(),
            Ok(false) => panic!("refused after {sent} bytes"),
            Err(_) => return sent,
        }
    }
    panic!("{sent} bytes were taken and nobody read them");
}

/// PITFALLS 14.
async fn an_early_answer_passes_while_the_body_still_comes(pair: Pair) {
    let mut scene = pair
        .scene(async |request: Request<Incoming>| {
            let status = if request.method() == Method::POST { 403 } else { 200 };
            Response::builder().status(status).body("no".into()).unwrap()
        })
        .await;
    let (feed, body) = Sent::fed();
    feed.send("the beginning").await;
    let response = scene.client.send(post("/", body)).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(receive(response.into_body()).await.bytes, "no");
    // What the client still sends is not wanted; it is not waited for either.
    if pair.has_streams() {
        assert_eq!(scene.client.get("/").await.status(), StatusCode::OK, "the stream alone ends");
    }
    drop(feed);
}
