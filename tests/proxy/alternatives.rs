//! Origins that say by Alt-Svc that they are reached over HTTP/3 as well (RFC 7838): it is used where it can be, and no request
//! is lost to it where it cannot.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http::header::ALT_SVC;
use http::{Response, StatusCode};
use tokio::net::UdpSocket;

use crate::support::body::Sent;
use crate::support::client::{Client, get, post};
use crate::support::origin::Origin;
use crate::support::pair::{Downstream, Pair, Upstream};
use crate::support::proxy::Proxy;
use crate::support::tests;

tests! {
    http3_is_used_where_it_is_offered,
    nobody_asks_for_it_unless_told_to,
    an_offer_that_leads_nowhere_costs_no_request,
    what_was_offered_is_taken_back,
    one_that_does_not_answer_for_the_host_costs_no_request,
}

const PAIR: Pair = Pair { down: Downstream::H1, up: Upstream::Http2Tls };

/// Both ways to one origin: over TCP it says `h2` and offers the other, which says `h3` and what `over_quic` adds.
struct Scene {
    tcp: Origin,
    proxy: Proxy,
    client: Client,
}

impl Scene {
    async fn set(offered: u16, keys: &str) -> Self {
        let tcp = Origin::start(Upstream::Http2Tls, async move |_| {
            let mut answer = Response::new(Sent::from("h2"));
            answer.headers_mut().insert(ALT_SVC, format!("h3=\":{offered}\"; ma=60").try_into().unwrap());
            answer
        })
        .await;
        let proxy = PAIR.plan(&[tcp.address()]).upstream(keys).start();
        let client = Client::connect(proxy.address(), PAIR.down).await;
        Self { tcp, proxy, client }
    }

    /// What the next request is answered with; none may fail.
    async fn next(&mut self) -> String {
        let reply = self.client.call(get("/")).await;
        assert_eq!(reply.status(), StatusCode::OK);
        reply.text().to_owned()
    }

    /// Asks until the answer is this one.
    async fn until(&mut self, wanted: &str) {
        while self.next().await != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

async fn http3_is_used_where_it_is_offered() {
    let quic = Origin::start(Upstream::Http3, async |_| Response::new(Sent::from("h3"))).await;
    let mut scene = Scene::set(quic.address().port(), "alt_svc = true").await;
    assert_eq!(scene.next().await, "h2", "nobody waits for it");
    scene.until("h3").await;
    let before = scene.tcp.count();
    for _ in 0..5 {
        assert_eq!(scene.next().await, "h3");
    }
    let reply = scene.client.call(post("/", Bytes::from_static(b"a body"))).await;
    assert_eq!((reply.text(), scene.tcp.count(), quic.connections()), ("h3", before, 1));
    // RFC 7838 §5.
    let used = format!("example.org:{}", quic.address().port());
    assert!(quic.seen().iter().all(|seen| seen.headers["alt-used"] == used), "{:?}", quic.seen());
    drop(scene.proxy);
}

async fn nobody_asks_for_it_unless_told_to() {
    let quic = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut scene = Scene::set(quic.local_addr().unwrap().port(), "").await;
    for _ in 0..5 {
        assert_eq!(scene.next().await, "h2");
    }
    let asked = quic.try_recv(&mut [0; 1500]);
    assert_eq!(asked.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

async fn an_offer_that_leads_nowhere_costs_no_request() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let keys = "alt_svc = true\ntimeouts = { connect = \"100ms\" }";
    let mut scene = Scene::set(silent.local_addr().unwrap().port(), keys).await;
    assert_eq!(scene.next().await, "h2");
    assert_eq!(scene.next().await, "h2", "tried beside it");
    // It was tried, while requests go on as before and after.
    silent.recv(&mut [0; 1500]).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    while silent.try_recv(&mut [0; 1500]).is_ok() {}
    for _ in 0..20 {
        assert_eq!(scene.next().await, "h2");
    }
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(silent.try_recv(&mut [0; 1500]).is_err(), "it is left alone for a while");
    assert_eq!(scene.tcp.count(), 22);
}

async fn what_was_offered_is_taken_back() {
    let clears = Rc::new(Cell::new(false));
    let clearing = Rc::clone(&clears);
    let quic = Origin::start(Upstream::Http3, async move |_| {
        let mut answer = Response::new(Sent::from("h3"));
        if clearing.get() {
            answer.headers_mut().insert(ALT_SVC, "clear".try_into().unwrap());
        }
        answer
    })
    .await;
    let mut scene = Scene::set(quic.address().port(), "alt_svc = true").await;
    scene.until("h3").await;
    clears.set(true);
    assert_eq!(scene.next().await, "h3");
    assert_eq!(scene.next().await, "h2");
}

async fn one_that_does_not_answer_for_the_host_costs_no_request() {
    let quic = Origin::start(Upstream::Http3, async |_| {
        let mut answer = Response::new(Sent::from("not me"));
        *answer.status_mut() = StatusCode::MISDIRECTED_REQUEST;
        answer
    })
    .await;
    let mut scene = Scene::set(quic.address().port(), "alt_svc = true").await;
    while quic.seen().is_empty() {
        assert_eq!(scene.next().await, "h2");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    for _ in 0..5 {
        assert_eq!(scene.next().await, "h2");
    }
    assert_eq!(quic.count(), 1);
}
