//! When a request is sent a second time, and when never (RFC 9110 §9.2.2). PITFALLS 18 and 21.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use tidegate::body::incoming::Incoming;
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use crate::support::body::Sent;
use crate::support::client::{Client, get, of, post};
use crate::support::origin::{Closed, LocalTasks, Origin, RawOrigin, echo, ok};
use crate::support::pair::{Downstream, Pair, Scene, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::raw::Raw;
use crate::support::{downstreams, eventually, pairs, tests};

downstreams! {
    a_get_on_a_stale_connection_is_sent_again,
    a_post_on_a_stale_connection_is_never_sent_again,
    a_put_on_a_stale_connection_is_sent_again_with_its_body,
}

pairs! { a_refused_connection_sends_the_request_elsewhere }

tests! {
    a_connection_that_closed_while_idle_is_not_used,
    an_endpoint_that_refuses_is_told_as_502,
    a_first_connection_that_breaks_is_told_as_502,
    reset_before_headers_is_retried_where_the_route_says_so,
    reset_before_headers_never_retries_a_post,
    a_status_is_retried_where_the_route_says_so,
    a_status_never_retries_a_post,
    attempts_end,
    a_body_too_large_to_keep_is_not_sent_again,
    a_refused_stream_is_sent_again,
    a_session_that_goes_away_is_replaced,
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

struct RawScene {
    client: Client,
    origin: RawOrigin,
    proxy: Proxy,
}

/// A raw origin whose first connection answers once and breaks on the second request, after it has read all of it.
async fn stale(down: Downstream, requests: &Rc<Cell<usize>>) -> RawScene {
    let counted = Rc::clone(requests);
    let origin = RawOrigin::start(async move |mut connection: Raw, number| {
        while let Some(request) = connection.request().await {
            counted.set(counted.get() + 1);
            if number == 0 && counted.get() > 1 {
                return;
            }
            connection.send(OK).await;
            assert!(request.body.is_empty() || request.text() == "a body", "{:?}", request.text());
        }
    })
    .await;
    let proxy = Pair { down, up: Upstream::Http1 }.plan(&[origin.address()]).start();
    let mut client = Client::connect(proxy.address(), down).await;
    assert_eq!(client.get("/").await.text(), "ok");
    RawScene { client, origin, proxy }
}

async fn a_get_on_a_stale_connection_is_sent_again(pair: Pair) {
    let requests = Rc::default();
    let mut scene = stale(pair.down, &requests).await;
    assert_eq!(scene.client.get("/").await.text(), "ok");
    assert_eq!((requests.get(), scene.origin.connections()), (3, 2));
    assert_eq!(scene.proxy.running().counters().retries, 1);
}

async fn a_post_on_a_stale_connection_is_never_sent_again(pair: Pair) {
    for body in ["a body", ""] {
        let requests = Rc::default();
        let mut scene = stale(pair.down, &requests).await;
        scene.client.call(post("/", body)).await.is_fault(502, "connection_terminated");
        assert_eq!(requests.get(), 2, "{body:?}");
    }
}

async fn a_put_on_a_stale_connection_is_sent_again_with_its_body(pair: Pair) {
    let requests = Rc::default();
    let mut scene = stale(pair.down, &requests).await;
    assert_eq!(scene.client.call(of(Method::PUT, "/", "a body")).await.text(), "ok");
    assert_eq!(requests.get(), 3);
}

async fn a_connection_that_closed_while_idle_is_not_used() {
    let origin = RawOrigin::answering_once(OK).await;
    let proxy = Plan::to(&[origin.address()]).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for number in 1..=5 {
        assert_eq!(client.get("/").await.text(), "ok");
        assert_eq!(origin.connections(), number);
    }
}

/// PITFALLS 18: nothing was sent, so that any method may go elsewhere.
async fn a_refused_connection_sends_the_request_elsewhere(pair: Pair) {
    let closed = Closed::bind();
    let origin = Origin::start(pair.up, echo).await;
    let proxy = pair.plan(&[closed.address(), origin.address()]).start();
    let mut client = Client::connect(proxy.address(), pair.down).await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.status(), StatusCode::OK);
        let reply = client.call(post("/", "a body")).await;
        assert!(reply.text().ends_with("\n\na body"), "{}", reply.text());
        let reply = client.call(post("/", Sent::pieces([Bytes::from("a "), Bytes::from("body")]))).await;
        assert!(reply.text().ends_with("\n\na body"), "{}", reply.text());
    }
    assert_eq!(origin.count(), 12);
}

async fn an_endpoint_that_refuses_is_told_as_502() {
    let closed = Closed::bind();
    let proxy = Plan::to(&[closed.address()]).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    client.get("/").await.is_fault(502, "connection_refused");
}

async fn a_first_connection_that_breaks_is_told_as_502() {
    let origin = RawOrigin::answering_once("").await;
    let proxy = Plan::to(&[origin.address()]).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    client.get("/").await.is_fault(502, "connection_terminated");
    assert_eq!(origin.connections(), 1, "a fresh connection was not idle: the origin may have acted");
}

/// Two endpoints: one that breaks before it answers, one that answers.
async fn one_of_two_breaks(retry: &str) -> (RawOrigin, Origin, Proxy, Client) {
    let breaks = RawOrigin::answering_once("").await;
    let answers = Origin::start(Upstream::Http1, echo).await;
    let proxy = Plan::to(&[breaks.address(), answers.address()]).route(retry).start();
    let client = Client::connect(proxy.address(), Downstream::H1).await;
    (breaks, answers, proxy, client)
}

async fn reset_before_headers_is_retried_where_the_route_says_so() {
    let (_breaks, answers, _proxy, mut client) = one_of_two_breaks("retry = { on = [\"reset-before-headers\"] }").await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.status(), StatusCode::OK);
        assert!(client.call(of(Method::PUT, "/", "a body")).await.text().ends_with("\n\na body"));
    }
    assert_eq!(answers.count(), 8);
}

async fn reset_before_headers_never_retries_a_post() {
    let (breaks, answers, _proxy, mut client) = one_of_two_breaks("retry = { on = [\"reset-before-headers\"] }").await;
    let mut refused = 0;
    for _ in 0..4 {
        let reply = client.call(post("/", "a body")).await;
        if reply.status() != StatusCode::OK {
            reply.is_fault(502, "connection_terminated");
            refused += 1;
        }
    }
    assert_eq!((refused, breaks.connections(), answers.count()), (2, 2, 2));
}

/// An origin that is unavailable, then not.
async fn unavailable(times: usize, retry: &str) -> Scene {
    let left = Cell::new(times);
    let behaviour = async move |request: Request<Incoming>| {
        if left.get() == 0 {
            return echo(request).await;
        }
        left.set(left.get() - 1);
        Response::builder().status(503).body("later".into()).unwrap()
    };
    Pair::PLAIN.planned(|plan| plan.route(retry), behaviour).await
}

async fn a_status_is_retried_where_the_route_says_so() {
    let mut scene = unavailable(1, "retry = { on = [\"503\"] }").await;
    assert_eq!(scene.client.get("/").await.status(), StatusCode::OK);
    assert_eq!(scene.origin.count(), 2);
    assert_eq!(scene.proxy.running().counters().retries, 1);
}

async fn a_status_never_retries_a_post() {
    let mut scene = unavailable(1, "retry = { on = [\"503\"] }").await;
    let reply = scene.client.call(post("/", "a body")).await;
    assert_eq!((reply.status(), reply.text()), (StatusCode::SERVICE_UNAVAILABLE, "later"));
    assert_eq!(scene.origin.count(), 1);
}

async fn attempts_end() {
    let mut scene = unavailable(10, "retry = { attempts = 3, on = [\"503\"] }").await;
    assert_eq!(scene.client.get("/").await.text(), "later");
    assert_eq!(scene.origin.count(), 4);
    let mut scene = unavailable(10, "retry = { attempts = 0, on = [\"503\"] }").await;
    assert_eq!(scene.client.get("/").await.text(), "later");
    assert_eq!(scene.origin.count(), 1);
}

async fn a_body_too_large_to_keep_is_not_sent_again() {
    let counted = Cell::new(0);
    let behaviour = async move |request: Request<Incoming>| {
        let received = crate::support::body::receive(request.into_body()).await;
        counted.set(counted.get() + 1);
        let status = if counted.get() % 2 == 1 { 503 } else { 200 };
        Response::builder().status(status).body(received.bytes.len().to_string().into()).unwrap()
    };
    let plan = |plan: Plan| plan.route("retry = { on = [\"503\"], replay = \"1KiB\" }");
    let mut scene = Pair::PLAIN.planned(plan, behaviour).await;
    let reply = scene.client.call(of(Method::PUT, "/", "x".repeat(1024))).await;
    assert_eq!((reply.status(), reply.text()), (StatusCode::OK, "1024"));
    let reply = scene.client.call(of(Method::PUT, "/", "x".repeat(1025))).await;
    assert_eq!((reply.status(), reply.text()), (StatusCode::SERVICE_UNAVAILABLE, "1025"));
}

/// PITFALLS 21: RFC 9113 §8.7 says that nothing of it was processed.
async fn a_refused_stream_is_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        let mut refuse = true;
        while let Ok((socket, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                if std::mem::take(&mut refuse) {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                    continue;
                }
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from("taken"), true).unwrap();
            }
        }
    });
    for request in [get("/"), post("/", "")] {
        let pair = Pair { down: Downstream::H1, up: Upstream::Http2 };
        let proxy = pair.plan(&[address]).start();
        let mut client = Client::connect(proxy.address(), Downstream::H1).await;
        assert_eq!(client.call(request).await.text(), "taken");
    }
}

/// PITFALLS 21.
async fn a_session_that_goes_away_is_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Rc::new(Cell::new(0));
    let counted = Rc::clone(&connections);
    spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            counted.set(counted.get() + 1);
            let builder = hyper::server::conn::http2::Builder::new(LocalTasks);
            let service = hyper::service::service_fn(async |request: Request<hyper::body::Incoming>| {
                Ok::<_, std::convert::Infallible>(ok(request.map(Incoming::Hyper)).await)
            });
            spawn_local(async move {
                let io = hyper_util::rt::TokioIo::new(socket);
                let mut connection = std::pin::pin!(builder.serve_connection(io, service));
                let mut polled = 0;
                // Goes away as soon as anything has happened: whatever is under way is finished.
                let _ended = std::future::poll_fn(|cx| {
                    polled += 1;
                    if polled == 3 {
                        connection.as_mut().graceful_shutdown();
                    }
                    connection.as_mut().poll(cx)
                })
                .await;
            });
        }
    });
    let pair = Pair { down: Downstream::H1, up: Upstream::Http2 };
    let proxy = pair.plan(&[address]).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for number in 0..20 {
        let request = if number % 2 == 0 { get("/") } else { post("/", "") };
        assert_eq!(client.call(request).await.text(), "ok");
    }
    eventually(|| connections.get() > 1).await;
}
