//! HTTP/2 as a protocol of many streams: what happens to one does not happen to the others.

use std::cell::RefCell;
use std::rc::Rc;

use http::{Request, Response, Uri};
use tidegate::body::incoming::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinSet;

use crate::support::body::{Sent, next_piece, receive};
use crate::support::client::{Client, Reply, get, post};
use crate::support::origin::{Origin, echo, ok};
use crate::support::pair::{Downstream, Pair, Upstream};
use crate::support::proxy::Plan;
use crate::support::raw::Raw;
use crate::support::{frames, tests};

tests! {
    streams_run_at_once,
    streams_spread_over_sessions_when_they_run_out,
    a_stream_that_breaks_leaves_the_others_alone,
    a_stream_that_is_given_up_is_given_up_at_the_origin,
    a_stream_that_is_not_read_does_not_stop_the_others,
    streams_past_the_limit_are_refused,
    http1_on_a_port_for_http2_alone_is_refused,
    http2_on_a_port_for_http1_alone_is_refused,
    the_preface_may_come_byte_by_byte,
    rapid_resets_end_the_connection,
    a_flood_of_continuations_ends_the_connection,
    a_body_shorter_than_its_length_never_ends_cleanly,
    an_answer_that_is_reset_without_an_error_never_ends_cleanly,
    an_upload_that_is_reset_without_an_error_never_ends_cleanly,
    host_stands_for_a_missing_authority,
    a_request_without_either_is_refused,
}

async fn streams_run_at_once() {
    const STREAMS: usize = 50;
    for up in [Upstream::Http1, Upstream::Http2] {
        // Nobody is answered before all have asked.
        let all = Rc::new(Barrier::new(STREAMS));
        let behaviour = async move |request: Request<Incoming>| {
            all.wait().await;
            Response::new(request.uri().path().to_owned().into())
        };
        let scene = Pair { down: Downstream::H2, up }.scene(behaviour).await;
        let mut streams = JoinSet::new();
        for number in 0..STREAMS {
            let mut sender = scene.client.another();
            streams.spawn_local(async move {
                let uri: Uri = format!("http://example.org/{number}").parse().unwrap();
                let request = Request::builder().uri(uri).body(Sent::empty()).unwrap();
                let reply = Reply::take(sender.send_request(request).await.unwrap()).await;
                assert_eq!(reply.text(), format!("/{number}"));
            });
        }
        while let Some(stream) = streams.join_next().await {
            stream.unwrap();
        }
        match up {
            Upstream::Http1 => assert_eq!(scene.origin.connections(), STREAMS),
            _ => assert_eq!(scene.origin.connections(), 1),
        }
    }
}

/// PITFALLS 21.
async fn streams_spread_over_sessions_when_they_run_out() {
    const STREAMS: usize = 150;
    let all = Rc::new(Barrier::new(STREAMS));
    let behaviour = async move |request: Request<Incoming>| {
        all.wait().await;
        ok(request).await
    };
    let pair = Pair { down: Downstream::H2, up: Upstream::Http2 };
    let scene = pair.planned(|plan| plan.listener("limits.max_concurrent_streams = 200"), behaviour).await;
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let mut sender = scene.client.another();
        streams.spawn_local(async move {
            let request = Request::builder().uri("http://example.org/").body(Sent::empty()).unwrap();
            assert_eq!(Reply::take(sender.send_request(request).await.unwrap()).await.text(), "ok");
        });
    }
    while let Some(stream) = streams.join_next().await {
        stream.unwrap();
    }
    let connections = scene.origin.connections();
    assert!((2..10).contains(&connections), "{connections} connections for {STREAMS} streams");
}

async fn a_stream_that_breaks_leaves_the_others_alone() {
    for up in [Upstream::Http1, Upstream::Http2] {
        let behaviour = async |request: Request<Incoming>| match request.uri().path() {
            "/broken" => Response::new(Sent::pieces([bytes::Bytes::from("half")]).then_broken()),
            _ => echo(request).await,
        };
        let mut scene = Pair { down: Downstream::H2, up }.scene(behaviour).await;
        let (feed, body) = Sent::fed();
        let mut other = scene.client.another();
        let request = Request::builder().method("POST").uri("http://example.org/whole").body(body).unwrap();
        let other = tokio::task::spawn_local(async move { other.send_request(request).await });
        feed.send("one ").await;
        if let Ok(response) = scene.client.send(get("/broken")).await
            && response.status() == 200
        {
            assert!(receive(response.into_body()).await.broken.is_some());
        }
        feed.send("two").await;
        drop(feed);
        let reply = Reply::take(other.await.unwrap().unwrap()).await;
        assert!(reply.text().ends_with("\n\none two"), "{}", reply.text());
    }
}

/// PITFALLS 13.
async fn a_stream_that_is_given_up_is_given_up_at_the_origin() {
    for up in [Upstream::Http1, Upstream::Http2] {
        let (tell, mut told) = mpsc::unbounded_channel();
        let behaviour = async move |request: Request<Incoming>| {
            if request.uri().path() != "/upload" {
                return ok(request).await;
            }
            let tell = tell.clone();
            let mut body = request.into_body();
            next_piece(&mut body).await.unwrap();
            tell.send(None).unwrap();
            tokio::task::spawn_local(async move { tell.send(Some(receive(body).await.broken.is_some())) });
            std::future::pending().await
        };
        let mut scene = Pair { down: Downstream::H2, up }.scene(behaviour).await;
        let (feed, body) = Sent::fed();
        feed.send("half").await;
        tokio::select! {
            answer = scene.client.send(post("/upload", body)) => panic!("{answer:?}"),
            began = told.recv() => assert_eq!(began, Some(None)),
        }
        assert_eq!(told.recv().await, Some(Some(true)), "the origin took it for whole");
        drop(feed);
        assert_eq!(scene.client.get("/").await.text(), "ok", "the connection lives on");
    }
}

/// PITFALLS 22.
async fn a_stream_that_is_not_read_does_not_stop_the_others() {
    for up in [Upstream::Http1, Upstream::Http2] {
        let held = Rc::new(RefCell::new(Vec::new()));
        let behaviour = async move |request: Request<Incoming>| {
            if request.uri().path() != "/large" {
                return ok(request).await;
            }
            let (feed, body) = Sent::fed();
            let held = Rc::clone(&held);
            tokio::task::spawn_local(async move {
                for _ in 0..100 {
                    feed.send(vec![0; 65_536]).await;
                }
                held.borrow_mut().push(feed);
            });
            Response::new(body)
        };
        let mut scene = Pair { down: Downstream::H2, up }.scene(behaviour).await;
        let mut unread = Vec::new();
        // Two windows of a stream, so that the client's window for the connection has room left.
        for _ in 0..2 {
            unread.push(scene.client.send(get("/large")).await.unwrap());
        }
        for _ in 0..20 {
            assert_eq!(scene.client.get("/").await.text(), "ok");
        }
        drop(unread);
    }
}

async fn streams_past_the_limit_are_refused() {
    let behaviour = async |_: Request<Incoming>| std::future::pending::<Response<Sent>>().await;
    let pair = Pair { down: Downstream::H2, up: Upstream::Http1 };
    let scene = pair.planned(|plan| plan.listener("limits.max_concurrent_streams = 2"), behaviour).await;
    let mut raw = Raw::connect(scene.proxy.address()).await;
    raw.send(frames::preface()).await;
    for stream in [1, 3, 5] {
        let flags = frames::END_HEADERS | frames::END_STREAM;
        raw.send(frames::frame(frames::HEADERS, flags, stream, &frames::get(&[]))).await;
    }
    let refused = frames::verdict(&mut raw, 5).await;
    assert_eq!((refused.kind, &refused.payload[..]), (frames::RST_STREAM, &[0, 0, 0, 7][..]));
}

async fn http1_on_a_port_for_http2_alone_is_refused() {
    let pair = Pair { down: Downstream::H2, up: Upstream::Http1 };
    let mut scene = pair.planned(|plan| plan.listener("protocols = [\"http2\"]"), ok).await;
    let mut raw = scene.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n").await;
    let (rest, _) = raw.rest().await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    assert_eq!(scene.client.get("/").await.text(), "ok");
}

async fn http2_on_a_port_for_http1_alone_is_refused() {
    let scene = Pair::PLAIN.planned(|plan| plan.listener("protocols = [\"http1\"]"), ok).await;
    let mut raw = scene.raw().await;
    raw.send(frames::preface()).await;
    assert_eq!(raw.response().await.unwrap().status(), 400);
}

async fn the_preface_may_come_byte_by_byte() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let proxy = Pair::PLAIN.plan(&[origin.address()]).start();
    let mut raw = Raw::connect(proxy.address()).await;
    let mut bytes = frames::preface();
    let flags = frames::END_HEADERS | frames::END_STREAM;
    bytes.extend(frames::frame(frames::HEADERS, flags, 1, &frames::get(&[])));
    for byte in bytes {
        raw.send([byte]).await;
        tokio::task::yield_now().await;
    }
    let answer = frames::verdict(&mut raw, 1).await;
    assert_eq!((answer.kind, answer.payload[0]), (frames::HEADERS, 0x88));
    let mut client = Client::connect(proxy.address(), Downstream::H2).await;
    assert_eq!(client.get("/").await.text(), "ok");
}

const WHOLE: u8 = frames::END_HEADERS | frames::END_STREAM;

/// PITFALLS 24: CVE-2023-44487.
async fn rapid_resets_end_the_connection() {
    let mut scene = Pair { down: Downstream::H2, up: Upstream::Http1 }.scene(ok).await;
    let mut raw = scene.raw().await;
    let mut flood = frames::preface();
    for number in 0..2000 {
        let stream = 2 * number + 1;
        flood.extend(frames::frame(frames::HEADERS, WHOLE, stream, &frames::get(&[])));
        flood.extend(frames::frame(frames::RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    raw.send(flood).await;
    while frames::next(&mut raw).await.is_some() {}
    assert_eq!(scene.client.get("/").await.text(), "ok", "others are served");
}

/// PITFALLS 24.
async fn a_flood_of_continuations_ends_the_connection() {
    let scene = Pair { down: Downstream::H2, up: Upstream::Http1 }.scene(ok).await;
    let mut raw = scene.raw().await;
    raw.send(frames::preface()).await;
    raw.send(frames::frame(frames::HEADERS, frames::END_STREAM, 1, &frames::get(&[]))).await;
    let filler = "x".repeat(120);
    let part = frames::block(&[("x-filler", filler.as_str()); 100]);
    for _ in 0..100 {
        raw.send(frames::frame(frames::CONTINUATION, 0, 1, &part)).await;
    }
    while frames::next(&mut raw).await.is_some() {}
    assert!(scene.origin.seen().is_empty());
}

/// PITFALLS 25.
async fn a_body_shorter_than_its_length_never_ends_cleanly() {
    for up in [Upstream::Http1, Upstream::Http2] {
        let (tell, mut told) = mpsc::unbounded_channel();
        let behaviour = async move |request: Request<Incoming>| {
            let tell = tell.clone();
            let mut body = request.into_body();
            assert_eq!(next_piece(&mut body).await.unwrap(), "half");
            tell.send(false).unwrap();
            tokio::task::spawn_local(async move { tell.send(receive(body).await.broken.is_some()) });
            std::future::pending::<Response<Sent>>().await
        };
        let scene = Pair { down: Downstream::H2, up }.scene(behaviour).await;
        let mut raw = scene.raw().await;
        raw.send(frames::preface()).await;
        raw.send(frames::frame(frames::HEADERS, frames::END_HEADERS, 1, &frames::get(&[("content-length", "10")])))
            .await;
        raw.send(frames::frame(frames::DATA, 0, 1, b"half")).await;
        assert_eq!(told.recv().await, Some(false));
        raw.send(frames::frame(frames::DATA, frames::END_STREAM, 1, b"-way")).await;
        assert_eq!(told.recv().await, Some(true), "the origin took it for whole");
        assert_eq!(frames::verdict(&mut raw, 1).await.kind, frames::RST_STREAM);
    }
}

/// PITFALLS 1: RFC 9113 §8.3.1 allows it of proxies that speak for HTTP/1.1 clients.
async fn host_stands_for_a_missing_authority() {
    let scene = Pair { down: Downstream::H2, up: Upstream::Http1 }.scene(ok).await;
    let mut raw = scene.raw().await;
    raw.send(frames::preface()).await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "named.test")];
    raw.send(frames::frame(frames::HEADERS, WHOLE, 1, &frames::block(&fields))).await;
    assert_eq!(frames::verdict(&mut raw, 1).await.kind, frames::HEADERS);
    assert_eq!(scene.origin.only().headers["host"], "named.test");
}

/// PITFALLS 1.
async fn a_request_without_either_is_refused() {
    let scene = Pair { down: Downstream::H2, up: Upstream::Http1 }.scene(ok).await;
    let blocks = [
        frames::block(&[(":method", "GET"), (":scheme", "http"), (":path", "/")]),
        frames::block(&[(":method", "GET"), (":scheme", "ftp"), (":path", "/"), (":authority", "example.org")]),
        frames::get(&[("host", "evil.test")]),
        frames::get(&[("host", "example.org"), ("host", "example.org")]),
        frames::get(&[(":path", "/twice")]),
        frames::get(&[("X-Upper", "1")]),
        frames::get(&[("content-length", "1"), ("content-length", "2")]),
    ];
    for (number, block) in blocks.iter().enumerate() {
        let mut raw = scene.raw().await;
        raw.send(frames::preface()).await;
        raw.send(frames::frame(frames::HEADERS, WHOLE, 1, block)).await;
        // A field that cannot be read ends more than its stream (RFC 9113 §4.3); then no frame of the stream comes.
        while let Some(frame) = frames::next(&mut raw).await {
            if frame.kind == frames::HEADERS {
                assert_eq!(frame.payload[0], frames::STATUS_400, "{number}");
            }
            if matches!(frame.kind, frames::HEADERS | frames::RST_STREAM) {
                break;
            }
        }
    }
    assert!(scene.origin.seen().is_empty());
}

/// RFC 9113 §8.1: NO_ERROR says that the rest of a request is not needed, and makes no whole answer of half of one.
async fn an_answer_that_is_reset_without_an_error_never_ends_cleanly() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let mut stream = listener.accept().await.unwrap().0;
        stream.read_exact(&mut [0; 24]).await.unwrap();
        stream.write_all(&frames::frame(frames::SETTINGS, 0, 0, &[])).await.unwrap();
        loop {
            let mut header = [0; 9];
            stream.read_exact(&mut header).await.unwrap();
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            stream.read_exact(&mut vec![0; length]).await.unwrap();
            if header[3] == frames::HEADERS {
                let number = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
                let flags = if number == 1 { 0 } else { frames::END_STREAM };
                let head = frames::block(&[(":status", "200")]);
                let mut answer = frames::frame(frames::HEADERS, frames::END_HEADERS, number, &head);
                answer.extend(frames::frame(frames::DATA, flags, number, b"half"));
                answer.extend(frames::frame(frames::RST_STREAM, 0, number, &[0; 4]));
                stream.write_all(&answer).await.unwrap();
            }
        }
    });
    let proxy = Plan::to(&[address]).upstream("protocol = \"http2\"").start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    // The reset of the client's connection may overtake the head.
    if let Ok(response) = client.send(get("/")).await {
        assert!(receive(response.into_body()).await.broken.is_some());
    }
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    let response = client.send(get("/")).await.unwrap();
    let received = receive(response.into_body()).await;
    assert!(received.broken.is_none() && received.bytes == "half", "{received:?}");
}

async fn an_upload_that_is_reset_without_an_error_never_ends_cleanly() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let behaviour = async move |request: Request<Incoming>| {
        let tell = tell.clone();
        let mut body = request.into_body();
        next_piece(&mut body).await.unwrap();
        tell.send(None).unwrap();
        tokio::task::spawn_local(async move { tell.send(Some(receive(body).await.broken.is_some())) });
        std::future::pending().await
    };
    let scene = Pair { down: Downstream::H2, up: Upstream::Http1 }.scene(behaviour).await;
    let mut raw = Raw::connect(scene.proxy.address()).await;
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", "example.org"), (":path", "/")];
    let mut upload = frames::preface();
    upload.extend(frames::frame(frames::HEADERS, frames::END_HEADERS, 1, &frames::block(&fields)));
    upload.extend(frames::frame(frames::DATA, 0, 1, b"half"));
    raw.send(upload).await;
    assert_eq!(told.recv().await, Some(None));
    raw.send(frames::frame(frames::RST_STREAM, 0, 1, &[0; 4])).await;
    assert_eq!(told.recv().await, Some(Some(true)), "the origin took it for whole");
}
