//! Draining and reloading: what is under way is finished, what is new meets the new state. PITFALLS 17.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tidegate::app::ExitReason;
use tidegate::body::incoming::Incoming;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};

use crate::support::body::Sent;
use crate::support::certificates::SITE;
use crate::support::client::{Client, Reply, get};
use crate::support::origin::{Origin, RawOrigin, echo, ok};
use crate::support::pair::{Downstream, Pair, Scene, Upstream};
use crate::support::proxy::Plan;
use crate::support::quic::Quic;
use crate::support::raw::{End, Raw};
use crate::support::{downstreams, eventually, tests};

downstreams! {
    a_drain_finishes_what_is_under_way,
    a_drain_ends_idle_connections,
    a_drain_that_takes_too_long_cuts,
    an_old_connection_finishes_what_is_under_way,
    a_reload_reaches_open_connections,
}

tests! {
    a_drain_closes_the_listening_sockets,
    a_drain_asks_http1_to_close,
    a_drain_cuts_switched_connections_at_its_end,
    a_drain_resets_an_answer_that_it_cuts,
    a_drain_over_http3_ends_behind_a_slow_link,
    a_refused_reload_changes_nothing,
    a_reload_keeps_and_moves_listeners,
    a_reload_keeps_idle_upstream_connections,
    several_workers_share_a_listener,
}

/// An origin that answers `/slow` when it is told to, and everything else at once.
async fn slow_scene(
    pair: Pair,
    plan: impl FnOnce(Plan) -> Plan,
) -> (Scene, mpsc::UnboundedReceiver<()>, watch::Sender<bool>) {
    let (began, begun) = mpsc::unbounded_channel();
    let (release, released) = watch::channel(false);
    let behaviour = async move |request: Request<Incoming>| {
        if request.uri().path() == "/slow" {
            began.send(()).unwrap();
            released.clone().wait_for(|released| *released).await.unwrap();
        }
        ok(request).await
    };
    (pair.planned(plan, behaviour).await, begun, release)
}

async fn a_drain_finishes_what_is_under_way(pair: Pair) {
    let (mut scene, mut begun, release) = slow_scene(pair, |plan| plan).await;
    let releasing = async {
        begun.recv().await.unwrap();
        scene.proxy.running().drain();
        // Whoever is idle ends first: then the drain has begun.
        eventually(|| std::net::TcpStream::connect(scene.proxy.address()).is_err()).await;
        release.send(true).unwrap();
    };
    let (reply, ()) = tokio::join!(scene.client.get("/slow"), releasing);
    assert_eq!((reply.status(), reply.text()), (StatusCode::OK, "ok"));
    scene.client.ended().await.unwrap();
    assert_eq!(scene.proxy.left().await, ExitReason::Drained);
}

async fn a_drain_ends_idle_connections(pair: Pair) {
    let mut scene = pair.scene(ok).await;
    scene.client.get("/").await;
    scene.proxy.running().drain();
    scene.client.ended().await.unwrap();
    assert_eq!(scene.proxy.left().await, ExitReason::Drained);
}

async fn a_drain_that_takes_too_long_cuts(pair: Pair) {
    let (mut scene, mut begun, _release) = slow_scene(pair, |plan| plan.server("drain_timeout = \"100ms\"")).await;
    let draining = async {
        begun.recv().await.unwrap();
        scene.proxy.running().drain();
    };
    let (answer, ()) = tokio::join!(scene.client.send(get("/slow")), draining);
    assert!(answer.is_err(), "{answer:?}");
    let reason = scene.proxy.left().await;
    assert!(matches!(reason, ExitReason::DrainTimeout { .. } | ExitReason::Drained), "{reason:?}");
}

async fn an_old_connection_finishes_what_is_under_way(pair: Pair) {
    let (mut scene, mut begun, release) = slow_scene(pair, |plan| plan.listener("timeouts.max_age = \"50ms\"")).await;
    let releasing = async {
        begun.recv().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        release.send(true).unwrap();
    };
    let (reply, ()) = tokio::join!(scene.client.get("/slow"), releasing);
    assert_eq!(reply.text(), "ok");
    scene.client.ended().await.unwrap();
}

async fn a_drain_closes_the_listening_sockets() {
    let scene = Pair::PLAIN.scene(ok).await;
    let address = scene.proxy.address();
    scene.proxy.running().drain();
    assert_eq!(scene.proxy.left().await, ExitReason::Drained);
    assert!(TcpStream::connect(address).await.is_err());
}

async fn a_drain_asks_http1_to_close() {
    let (scene, mut begun, release) = slow_scene(Pair::PLAIN, |plan| plan).await;
    let mut raw = scene.raw().await;
    raw.send("GET /slow HTTP/1.1\r\nHost: example.org\r\n\r\n").await;
    begun.recv().await.unwrap();
    scene.proxy.running().drain();
    // The idle connection of the scene's client ends first: then the drain has begun.
    let _ended = scene.client.ended().await;
    release.send(true).unwrap();
    let answer = raw.response().await.unwrap();
    assert_eq!((answer.text(), answer.field("connection")), ("ok", Some("close")));
    raw.closed().await;
}

async fn a_drain_cuts_switched_connections_at_its_end() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| {
        connection.head().await.unwrap();
        connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        let _ = connection.rest().await;
    })
    .await;
    let proxy = Plan::to(&[origin.address()]).server("drain_timeout = \"100ms\"").start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("GET / HTTP/1.1\r\nHost: example.org\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(raw.head().await.unwrap().status(), 101);
    proxy.running().drain();
    let reason = proxy.left().await;
    assert!(matches!(reason, ExitReason::DrainTimeout { .. } | ExitReason::Drained), "{reason:?}");
    raw.closed().await;
}

async fn a_drain_resets_an_answer_that_it_cuts() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| {
        connection.head().await.unwrap();
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n").await;
        let _ = connection.rest().await;
    })
    .await;
    let proxy = Plan::to(&[origin.address()]).server("drain_timeout = \"100ms\"").start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("GET / HTTP/1.0\r\nHost: example.org\r\n\r\n").await;
    assert_eq!(raw.head().await.unwrap().status(), 200);
    proxy.running().drain();
    // A connection cuts itself at the same deadline: on a machine that stalls it may be gone before that is looked at.
    let reason = proxy.left().await;
    assert!(matches!(reason, ExitReason::DrainTimeout { connections: 1 } | ExitReason::Drained), "{reason:?}");
    // RFC 9112 §8: on HTTP/1.0 a clean end would make it whole.
    assert!(matches!(raw.rest().await.1, End::Broken));
}

async fn a_reload_reaches_open_connections(pair: Pair) {
    let plan = pair.plan(&[Origin::start(pair.up, echo).await.address()]);
    let words = |word: &str| plan.clone().routes(&format!("[[route]]\nrespond = {{ body = \"{word}\" }}"));
    let proxy = words("before").start();
    let address = proxy.address();
    let mut client = Client::connect(address, pair.down).await;
    assert_eq!(client.get("/").await.text(), "before");
    assert!(proxy.reload(&words("after").text()));
    assert_eq!(client.get("/").await.text(), "after");
    assert_eq!(proxy.address(), address, "the socket stays");
    assert_eq!(proxy.running().counters().connections_accepted, 1);
}

/// Datagrams towards the client pass one at a time.
async fn slow_link(proxy: SocketAddr) -> SocketAddr {
    let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    back.connect(proxy).await.unwrap();
    let address = front.local_addr().unwrap();
    spawn_local(async move {
        let (mut up, mut down) = ([0; 65536], [0; 65536]);
        let (mut client, mut next) = (None, Instant::now());
        loop {
            tokio::select! {
                Ok((length, from)) = front.recv_from(&mut up) => {
                    client = Some(from);
                    // The proxy may have left.
                    let _ = back.send(&up[..length]).await;
                }
                Ok(length) = async { sleep_until(next).await; back.recv(&mut down).await } => {
                    next = Instant::now() + Duration::from_millis(1);
                    let _ = front.send_to(&down[..length], client.unwrap()).await;
                }
            }
        }
    });
    address
}

/// All of the answer is in the hands of the transport long before the client has it.
async fn a_drain_over_http3_ends_behind_a_slow_link() {
    const LENGTH: usize = 500_000;
    let pair = Pair { down: Downstream::H3, up: Upstream::Http1 };
    let origin = Origin::start(pair.up, async |_| Response::new(Bytes::from(vec![b'x'; LENGTH]).into())).await;
    let proxy = pair.plan(&[origin.address()]).start();
    let link = slow_link(proxy.address()).await;
    let mut client = Client::over_quic(Quic::connect(link, SITE).await);
    let answer = client.send(get("/")).await.unwrap();
    proxy.running().drain();
    assert_eq!(Reply::take(answer).await.body.len(), LENGTH);
    client.ended().await.unwrap();
    assert_eq!(proxy.left().await, ExitReason::Drained);
}

async fn a_refused_reload_changes_nothing() {
    let mut scene = Pair::PLAIN.scene(ok).await;
    let plan = Plan::to(&[scene.origin.address()]);
    let missing = plan.listener("tls.certificates = [{ cert = \"@/none.pem\", key = \"@/none.key\" }]");
    assert!(!scene.proxy.reload(&missing.text()));
    assert_eq!(scene.client.get("/").await.text(), "ok");
    assert_eq!(Client::connect(scene.proxy.address(), Downstream::H1).await.get("/").await.text(), "ok");
}

async fn a_reload_keeps_and_moves_listeners() {
    let mut scene = Pair::PLAIN.scene(ok).await;
    let (old, plan) = (scene.proxy.address(), Plan::to(&[scene.origin.address()]));
    let more = plan.clone().more("[[listener]]\nname = \"more\"\nbind = \"127.0.0.2:0\"");
    assert!(scene.proxy.reload(&more.text()));
    assert_eq!(scene.proxy.address(), old);
    let new = scene.proxy.address_of("more");
    assert_eq!(Client::connect(new, Downstream::H2).await.get("/").await.text(), "ok");
    assert_eq!(scene.client.get("/").await.text(), "ok");
    // Gone again: its connections are asked to go, the other's are not.
    let mut idle = Client::connect(new, Downstream::H1).await;
    idle.get("/").await;
    assert!(scene.proxy.reload(&plan.text()));
    idle.ended().await.unwrap();
    eventually(|| std::net::TcpStream::connect(new).is_err()).await;
    assert_eq!(scene.client.get("/").await.text(), "ok");
}

async fn a_reload_keeps_idle_upstream_connections() {
    for up in [Upstream::Http1, Upstream::Http2] {
        let pair = Pair { down: Downstream::H1, up };
        let mut scene = pair.scene(ok).await;
        scene.client.get("/").await;
        let plan = pair.plan(&[scene.origin.address()]).route("response_headers.set = { x-new = \"1\" }");
        assert!(scene.proxy.reload(&plan.text()));
        assert_eq!(scene.client.get("/").await.field("x-new"), Some("1"));
        assert_eq!(scene.origin.connections(), 1);
    }
}

async fn several_workers_share_a_listener() {
    let origin = Origin::start(Upstream::Http1, async |_| Response::<Sent>::new("ok".into())).await;
    let text = Plan::to(&[origin.address()]).text().replace("workers = 1", "workers = 3");
    let proxy = crate::support::proxy::Proxy::start(&text);
    let mut clients = Vec::new();
    for number in 0..60 {
        let speaks = if number % 2 == 0 { Downstream::H1 } else { Downstream::H2 };
        clients.push(Client::connect(proxy.address(), speaks).await);
    }
    for client in &mut clients {
        let reply: Reply = client.get("/").await;
        assert_eq!(reply.text(), "ok");
    }
    assert_eq!(proxy.running().counters().connections_open, 60);
    let loads: Vec<_> =
        proxy.running().worker_telemetry().iter().map(|worker| worker.counters.requests.value()).collect();
    assert_eq!(loads.iter().sum::<u64>(), 60);
    assert!(loads.iter().all(|load| *load > 0), "{loads:?}");
}
