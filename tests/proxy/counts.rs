//! What is counted, seen from outside: each number moves when its cause does, and a reload keeps what stays.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate::base::error::Kind;
use tidegate::telemetry::series::{Scope, SeriesTotals};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::client::Client;
use crate::support::origin::{Closed, Origin, ok};
use crate::support::pair::{Downstream, Pair, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::{eventually, tests};

tests! {
    requests_are_counted_by_protocol,
    exchanges_are_counted_by_listener_route_and_upstream,
    connections_that_come_to_nothing_are_counted_at_their_endpoint,
    who_waits_for_a_connection_is_counted_with_the_time,
    refused_heads_and_failed_handshakes_are_counted,
    a_reload_keeps_the_series_of_what_stays,
    a_worker_shows_that_it_runs,
}

/// What all workers counted under a name; `None`: no series has it.
fn series(proxy: &Proxy, scope: Scope, name: &str) -> Option<SeriesTotals> {
    let all = proxy.running().worker_telemetry().iter().flat_map(|worker| worker.series.all());
    all.filter(|((of, own), _)| *of == scope && &**own == name).map(|(_, series)| series.read()).reduce(
        |mut sum, one| {
            sum += &one;
            sum
        },
    )
}

async fn requests_are_counted_by_protocol() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let proxy = Plan::to(&[origin.address()]).start();
    for (speaks, times) in [(Downstream::H1, 3), (Downstream::H2, 2)] {
        let mut client = Client::connect(proxy.address(), speaks).await;
        for _ in 0..times {
            client.get("/").await;
        }
    }
    let totals = proxy.running().counters();
    assert_eq!((totals.requests_http1, totals.requests_http2, totals.requests), (3, 2, 5));
}

async fn exchanges_are_counted_by_listener_route_and_upstream() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let routes = "[[route]]\nname = \"app\"\nupstream = \"origin\"\n\
                  [[route]]\nname = \"here\"\npath = \"/here\"\nrespond.body = \"hi\"\n\
                  [[route]]\nname = \"idle\"\npath = \"/idle\"\nrespond.body = \"hi\"\n";
    let proxy = Plan::to(&[origin.address()]).routes(routes).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for path in ["/", "/", "/here"] {
        client.get(path).await;
    }
    eventually(|| series(&proxy, Scope::Listener, "main").is_some_and(|main| main.ok == 3)).await;
    let main = series(&proxy, Scope::Listener, "main").unwrap();
    assert_eq!((main.answers, main.duration.count()), ([0, 3, 0, 0, 0], 3));
    assert_eq!(main.first_byte.count(), 2, "one was answered here");
    assert_eq!(series(&proxy, Scope::Route, "app").unwrap().ok, 2);
    assert_eq!(series(&proxy, Scope::Route, "here").unwrap().bytes_out, 2);
    assert_eq!(series(&proxy, Scope::Route, "idle"), None, "a route that nobody asked for costs nothing");
    assert_eq!(series(&proxy, Scope::Upstream, "origin").unwrap().ended(), 2);
}

async fn connections_that_come_to_nothing_are_counted_at_their_endpoint() {
    let dead = Closed::bind();
    let proxy = Plan::to(&[dead.address()]).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    assert_eq!(client.get("/").await.status(), 502);
    eventually(|| series(&proxy, Scope::Upstream, "origin").is_some_and(|one| one.ended() == 1)).await;
    let totals = proxy.running().counters();
    assert!(totals.upstream_connect_failures >= 1);
    assert_eq!(totals.upstream_connect_failures, totals.upstream_connects);
    let origin = series(&proxy, Scope::Upstream, "origin").unwrap();
    assert_eq!((origin.outcome(Kind::ConnectionRefused), origin.answers), (1, [0, 0, 0, 0, 1]));
}

async fn who_waits_for_a_connection_is_counted_with_the_time() {
    const AT_ONCE: u64 = 4;
    const DELAY: Duration = Duration::from_millis(50);
    let pair = Pair { up: Upstream::Http2Tls, ..Pair::PLAIN };
    let origin = Origin::start(pair.up, ok).await;
    let slow = delayed(origin.address(), DELAY).await;
    let proxy = pair.plan(&[slow]).start();
    let mut clients = Vec::new();
    for _ in 0..AT_ONCE {
        clients.push(Client::connect(proxy.address(), Downstream::H1).await);
    }
    let mut asking = JoinSet::new();
    for mut client in clients {
        asking.spawn_local(async move { client.get("/").await });
    }
    while let Some(reply) = asking.join_next().await {
        assert_eq!(reply.unwrap().text(), "ok");
    }
    let totals = proxy.running().counters();
    assert_eq!((totals.upstream_connects, totals.upstream_waits), (1, AT_ONCE - 1));
    let waited = Duration::from_nanos(totals.upstream_wait_nanos);
    assert!(waited > DELAY / 2 && waited < Duration::from_secs(30), "{waited:?}");
}

/// An address that passes connections on to `origin` after a while.
async fn delayed(origin: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::time::sleep(delay).await;
            let mut far = TcpStream::connect(origin).await.unwrap();
            tokio::task::spawn_local(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    address
}

async fn refused_heads_and_failed_handshakes_are_counted() {
    let plain = Pair::PLAIN.scene(ok).await;
    let mut raw = plain.raw().await;
    raw.send("GET / HTTP/1.1\nHost: a\n\n").await;
    raw.rest().await;
    let totals = plain.proxy.running().counters();
    assert_eq!((totals.heads_refused, totals.requests_http1, totals.requests), (1, 0, 1));

    let secure = Plan::to(&[plain.origin.address()]).tls().start();
    let mut raw = crate::support::raw::Raw::connect(secure.address()).await;
    raw.send("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n").await;
    raw.rest().await;
    eventually(|| secure.running().counters().handshakes_failed == 1).await;
    assert_eq!(secure.running().counters().handshakes(), 0);
}

async fn a_reload_keeps_the_series_of_what_stays() {
    let routes = |names: &[&str]| -> String {
        let table = |name: &&str| format!("[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nrespond.body = \"hi\"\n");
        names.iter().map(table).collect()
    };
    let plan = |names: &[&str]| Plan::to(&[]).routes(&routes(names)).text();
    let proxy = Proxy::start(&plan(&["stays", "goes"]));
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for path in ["/stays", "/goes"] {
        client.get(path).await;
    }
    eventually(|| series(&proxy, Scope::Listener, "main").is_some_and(|main| main.ok == 2)).await;
    assert!(proxy.reload(&plan(&["new", "stays"])));
    for path in ["/stays", "/new"] {
        client.get(path).await;
    }
    eventually(|| series(&proxy, Scope::Listener, "main").is_some_and(|main| main.ok == 4)).await;
    assert_eq!(series(&proxy, Scope::Route, "stays").unwrap().ok, 2);
    assert_eq!(series(&proxy, Scope::Route, "new").unwrap().ok, 1);
    assert_eq!(series(&proxy, Scope::Route, "goes"), None);
}

async fn a_worker_shows_that_it_runs() {
    let proxy = Plan::to(&[]).routes("[[route]]\nrespond = {}\n").start();
    let worker = Arc::clone(&proxy.running().worker_telemetry()[0]);
    assert!(worker.since_heartbeat() < Duration::from_secs(5), "it beats when it begins");
    eventually(|| worker.lag.read().count() > 0).await;
    let lag = worker.lag.read();
    assert!(lag.sum < Duration::from_secs(5), "{lag:?}");
    assert!(worker.heartbeat.value() >= 1000, "{}", worker.heartbeat.value());
}
