//! How long connections to endpoints are kept and for whom. PITFALLS 20.

use std::rc::Rc;

use http::{Request, Response};
use tidegate::body::incoming::Incoming;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::support::body::Sent;
use crate::support::client::Client;
use crate::support::frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS};
use crate::support::origin::{Origin, RawOrigin, ok};
use crate::support::pair::{Downstream, Pair, Upstream};
use crate::support::proxy::Plan;
use crate::support::raw::Raw;
use crate::support::{tests, upstreams};

upstreams! { clients_share_connections, a_connection_past_its_age_is_replaced }

tests! {
    an_idle_connection_is_closed_in_time,
    no_more_idle_connections_are_kept_than_allowed,
    a_connection_that_the_origin_closes_is_not_kept,
    upstreams_do_not_share_connections,
    a_shared_connection_without_a_sign_of_life_is_given_up,
}

async fn clients_share_connections(pair: Pair) {
    let scene = pair.scene(ok).await;
    for _ in 0..5 {
        let mut client = Client::connect(scene.proxy.address(), pair.down).await;
        assert_eq!(client.get("/").await.text(), "ok");
    }
    assert_eq!(scene.origin.connections(), 1);
    let totals = scene.proxy.running().counters();
    assert_eq!((totals.upstream_connects, totals.upstream_reuses), (1, 4));
}

async fn a_connection_past_its_age_is_replaced(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.upstream("pool.max_age = \"1ms\""), ok).await;
    while scene.origin.connections() < 2 {
        assert_eq!(scene.client.get("/").await.text(), "ok");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn an_idle_connection_is_closed_in_time() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let origin = RawOrigin::start(async move |mut connection: Raw, _| {
        while connection.request().await.is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
        tell.send(()).unwrap();
    })
    .await;
    let proxy = Plan::to(&[origin.address()]).upstream("pool.idle_timeout = \"50ms\"").start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    assert_eq!(client.get("/").await.text(), "ok");
    told.recv().await.unwrap();
    assert_eq!(client.get("/").await.text(), "ok");
    assert_eq!(origin.connections(), 2);
}

async fn no_more_idle_connections_are_kept_than_allowed() {
    const AT_ONCE: usize = 4;
    let all = Rc::new(Barrier::new(AT_ONCE));
    let behaviour = async move |request: Request<Incoming>| {
        if request.uri().path() == "/together" {
            all.wait().await;
        }
        Response::<Sent>::new("ok".into())
    };
    let scene = Pair::PLAIN.planned(|plan| plan.upstream("pool.max_idle_per_endpoint = 1"), behaviour).await;
    for round in 1..=3 {
        let mut asking = JoinSet::new();
        for _ in 0..AT_ONCE {
            let mut client = Client::connect(scene.proxy.address(), Downstream::H1).await;
            asking.spawn_local(async move { client.get("/together").await });
        }
        while let Some(reply) = asking.join_next().await {
            assert_eq!(reply.unwrap().text(), "ok");
        }
        // One is kept from round to round, the others are made anew.
        assert_eq!(scene.origin.connections(), AT_ONCE + (round - 1) * (AT_ONCE - 1));
    }
}

async fn a_connection_that_the_origin_closes_is_not_kept() {
    let origin = RawOrigin::answering("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
    let proxy = Plan::to(&[origin.address()]).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for number in 1..=3 {
        let reply = client.get("/").await;
        assert_eq!((reply.text(), reply.field("connection")), ("ok", None));
        assert_eq!(origin.connections(), number);
    }
}

/// What one upstream verified another must not use unverified.
async fn upstreams_do_not_share_connections() {
    let origin = Origin::start(Upstream::Http2Tls, ok).await;
    let address = origin.address();
    let routes =
        "[[route]]\npath = \"/loose\"\nupstream = \"loose\"\n[[route]]\npath = \"/strict\"\nupstream = \"strict\"";
    let upstreams = format!(
        "[upstream.loose]\nendpoints = [\"{address}\"]\ntls = {{ insecure = true }}\n\
         [upstream.strict]\nendpoints = [\"{address}\"]\ntls = {{ server_name = \"other.test\", ca = \"@/ca.pem\" }}"
    );
    let proxy = Plan::default().routes(routes).more(&upstreams).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    assert_eq!(client.get("/loose").await.text(), "ok");
    client.get("/strict").await.is_fault(502, "tls_certificate_error");
}

/// As where an endpoint is switched off, or something on the way forgets the connection: nobody says a word, and only
/// another connection finds out whether there is somebody.
async fn a_shared_connection_without_a_sign_of_life_is_given_up() {
    let origin = RawOrigin::start(async |mut connection: Raw, which| {
        connection.exactly(24).await.unwrap();
        connection.send(frames::frame(SETTINGS, 0, 0, &[])).await;
        while let Some(frame) = frames::next(&mut connection).await {
            if frame.kind == HEADERS && which > 0 {
                let head = frames::block(&[(":status", "200")]);
                connection.send(frames::frame(HEADERS, END_HEADERS, frame.stream, &head)).await;
                connection.send(frames::frame(DATA, END_STREAM, frame.stream, b"ok")).await;
            }
        }
    })
    .await;
    let pair = Pair { down: Downstream::H1, up: Upstream::Http2 };
    let proxy = pair.plan(&[origin.address()]).upstream("timeouts.response = \"200ms\"").start();
    let mut client = Client::connect(proxy.address(), pair.down).await;
    client.get("/").await.is_fault(504, "http_response_timeout");
    // The first saw the endpoint's settings come.
    for _ in 0..10 {
        if client.get("/").await.text() == "ok" {
            assert!(origin.connections() > 1);
            return;
        }
    }
    panic!("each request waits on a connection that is dead");
}
