//! Which endpoint a request goes to, and which upstream.

use std::net::SocketAddr;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::support::body::Sent;
use crate::support::client::Client;
use crate::support::origin::{Origin, ok};
use crate::support::pair::{Downstream, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::tests;

tests! {
    endpoints_take_turns,
    weights_share_the_turns,
    chance_reaches_every_endpoint,
    a_busy_endpoint_gets_fewer_requests,
    a_weighted_route_reaches_its_upstreams,
    an_upstream_without_weight_gets_nothing,
    unix_sockets_are_endpoints_and_listeners,
}

async fn origins(count: usize) -> Vec<Origin> {
    let mut origins = Vec::new();
    for _ in 0..count {
        origins.push(Origin::start(Upstream::Http1, ok).await);
    }
    origins
}

fn addresses(origins: &[Origin]) -> Vec<SocketAddr> {
    origins.iter().map(Origin::address).collect()
}

fn loads(origins: &[Origin]) -> Vec<usize> {
    origins.iter().map(|origin| origin.seen().len()).collect()
}

async fn ask(proxy: &Proxy, times: usize) {
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for _ in 0..times {
        assert_eq!(client.get("/").await.text(), "ok");
    }
}

async fn endpoints_take_turns() {
    let origins = origins(3).await;
    let proxy = Plan::to(&addresses(&origins)).start();
    ask(&proxy, 12).await;
    assert_eq!(loads(&origins), [4, 4, 4]);
}

async fn weights_share_the_turns() {
    let origins = origins(2).await;
    let endpoints = format!(
        "[upstream.origin]\nendpoints = [{{ address = \"{}\", weight = 3 }}, \"{}\"]",
        origins[0].address(),
        origins[1].address()
    );
    let proxy = Plan::default().more(&endpoints).start();
    ask(&proxy, 12).await;
    assert_eq!(loads(&origins), [9, 3]);
}

async fn chance_reaches_every_endpoint() {
    let origins = origins(2).await;
    let proxy = Plan::to(&addresses(&origins)).upstream("balance = \"random\"").start();
    ask(&proxy, 64).await;
    let loads = loads(&origins);
    assert_eq!(loads.iter().sum::<usize>(), 64);
    assert!(loads.iter().all(|load| *load > 0), "{loads:?}");
}

async fn a_busy_endpoint_gets_fewer_requests() {
    let (began, mut begun) = mpsc::unbounded_channel();
    let busy = Origin::start(Upstream::Http1, async move |request: Request<Incoming>| {
        if request.uri().path() == "/slow" {
            began.send(()).unwrap();
            std::future::pending::<()>().await;
        }
        Response::<Sent>::new("ok".into())
    })
    .await;
    let free = Origin::start(Upstream::Http1, ok).await;
    let proxy = Plan::to(&[busy.address(), free.address()]).upstream("balance = \"least-requests\"").start();
    // Requests that do not end, until one occupies the busy endpoint; the other one answers its own at once.
    let mut other = Client::connect(proxy.address(), Downstream::H1).await;
    let occupying = loop {
        let mut slow = Client::connect(proxy.address(), Downstream::H1).await;
        let mut asking = tokio::task::spawn_local(async move { slow.get("/slow").await });
        tokio::select! {
            _ = begun.recv() => break asking,
            _ = &mut asking => {}
        }
    };
    let before = (busy.seen().len(), free.seen().len());
    for _ in 0..10 {
        assert_eq!(other.get("/").await.text(), "ok");
    }
    assert_eq!((busy.seen().len() - before.0, free.seen().len() - before.1), (0, 10));
    occupying.abort();
}

async fn a_weighted_route_reaches_its_upstreams() {
    let origins = origins(2).await;
    let proxy = split(&origins, 1, 1);
    ask(&proxy, 64).await;
    let loads = loads(&origins);
    assert_eq!(loads.iter().sum::<usize>(), 64);
    assert!(loads.iter().all(|load| *load > 0), "{loads:?}");
}

async fn an_upstream_without_weight_gets_nothing() {
    let origins = origins(2).await;
    let proxy = split(&origins, 1, 0);
    ask(&proxy, 32).await;
    assert_eq!(loads(&origins), [32, 0]);
}

fn split(origins: &[Origin], first: u32, second: u32) -> Proxy {
    let weighted = format!("{{ upstream = \"a\", weight = {first} }}, {{ upstream = \"b\", weight = {second} }}");
    let routes = format!("[[route]]\nweighted = [{weighted}]");
    let upstreams = format!(
        "[upstream.a]\nendpoints = [\"{}\"]\n[upstream.b]\nendpoints = [\"{}\"]",
        origins[0].address(),
        origins[1].address()
    );
    Plan::default().routes(&routes).more(&upstreams).start()
}

/// Two proxies in a row, joined by a Unix socket.
async fn unix_sockets_are_endpoints_and_listeners() {
    let origins = origins(1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", folder.path().join("socket").display());
    let inner = format!(
        "[server]\nworkers = 1\n[[listener]]\nbind = \"{path}\"\n[[route]]\nupstream = \"origin\"\n\
         [upstream.origin]\nendpoints = [\"{}\"]",
        origins[0].address()
    );
    let _inner = Proxy::start(&inner);
    let outer = Plan::default().more(&format!("[upstream.origin]\nendpoints = [\"{path}\"]")).start();
    ask(&outer, 3).await;
    assert_eq!(loads(&origins), [3]);
    let via: Vec<_> = origins[0].seen()[0].headers.get_all("via").iter().cloned().collect();
    assert_eq!(via, ["1.1 tidegate", "1.1 tidegate"]);
}
