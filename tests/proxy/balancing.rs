//! Which endpoint a request goes to, and which upstream.

use std::net::SocketAddr;

use http::{Request, Response};
use tidegate::body::incoming::Incoming;
use tokio::sync::mpsc;

use crate::support::body::Sent;
use crate::support::client::{Client, get};
use crate::support::origin::{Closed, Origin, ok};
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
    a_slow_endpoint_gets_fewer_requests,
    what_hashes_alike_goes_to_one_endpoint,
    a_client_behind_a_trusted_proxy_is_known_by_its_own_address,
    a_retry_of_one_key_goes_to_one_other_endpoint,
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
    origins.iter().map(Origin::count).collect()
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
    let before = (busy.count(), free.count());
    for _ in 0..10 {
        assert_eq!(other.get("/").await.text(), "ok");
    }
    assert_eq!((busy.count() - before.0, free.count() - before.1), (0, 10));
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

async fn a_slow_endpoint_gets_fewer_requests() {
    let slow = Origin::start(Upstream::Http1, async move |_: Request<Incoming>| {
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        Response::<Sent>::new("ok".into())
    })
    .await;
    let quick = Origin::start(Upstream::Http1, ok).await;
    let proxy = Plan::to(&[slow.address(), quick.address()]).upstream("balance = \"p2c-ewma\"").start();
    ask(&proxy, 30).await;
    // Once to measure it; a machine that stalls may make the other look slower for a moment.
    assert!((1..=6).contains(&slow.count()), "{} of 30", slow.count());
}

/// The origin that the request lands at, asked twice.
async fn home_of(client: &mut Client, origins: &[Origin], target: &str, field: Option<(&'static str, &str)>) -> usize {
    let before = loads(origins);
    for _ in 0..2 {
        let mut request = get(target);
        if let Some((name, value)) = field {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        assert_eq!(client.call(request).await.status(), 200);
    }
    let gained: Vec<_> = loads(origins).iter().zip(before).map(|(now, before)| now - before).collect();
    assert!(gained.contains(&2), "{gained:?}");
    gained.iter().position(|gained| *gained == 2).unwrap()
}

async fn what_hashes_alike_goes_to_one_endpoint() {
    let origins = origins(3).await;
    for balance in ["ring-hash", "maglev"] {
        for (hash_on, field) in [("header:x-user", "x-user"), ("cookie:sid", "cookie"), ("path", "")] {
            let keys = format!("balance = \"{balance}\"\nhash_on = \"{hash_on}\"");
            // Another proxy with the same endpoints in another order sends them to the same places.
            let mut turned = addresses(&origins);
            turned.rotate_left(1);
            let (one, two) =
                (Plan::to(&addresses(&origins)).upstream(&keys).start(), Plan::to(&turned).upstream(&keys).start());
            let mut first = Client::connect(one.address(), Downstream::H1).await;
            let mut second = Client::connect(two.address(), Downstream::H2).await;
            let mut homes = std::collections::HashSet::new();
            for user in 0..64 {
                let (target, value) = match field {
                    "" => (format!("/{user}?n=1"), None),
                    "cookie" => ("/".to_owned(), Some(format!("a=b; sid={user}"))),
                    _ => ("/".to_owned(), Some(format!("u{user}"))),
                };
                let given = value.as_deref().map(|value| (field, value));
                let home = home_of(&mut first, &origins, &target, given).await;
                assert_eq!(home_of(&mut second, &origins, &target, given).await, home, "{balance} {hash_on} {user}");
                homes.insert(home);
            }
            assert_eq!(homes.len(), 3, "{balance} {hash_on}");
        }
    }
}

async fn a_client_behind_a_trusted_proxy_is_known_by_its_own_address() {
    let origins = origins(3).await;
    let plan = Plan::to(&addresses(&origins)).upstream("balance = \"ring-hash\"");
    for (trusted, homes) in [("trusted_proxies = [\"127.0.0.0/8\"]", 3), ("", 1)] {
        let proxy = plan.clone().listener(trusted).start();
        let mut client = Client::connect(proxy.address(), Downstream::H1).await;
        let mut found = std::collections::HashSet::new();
        for n in 0..96 {
            let address = format!("192.0.2.{n}");
            found.insert(home_of(&mut client, &origins, "/", Some(("x-forwarded-for", &address))).await);
        }
        assert_eq!(found.len(), homes, "{trusted}");
    }
}

async fn a_retry_of_one_key_goes_to_one_other_endpoint() {
    let (origins, closed) = (origins(2).await, Closed::bind());
    let mut endpoints = addresses(&origins);
    endpoints.push(closed.address());
    let plan = Plan::to(&endpoints).upstream("balance = \"ring-hash\"\nhash_on = \"path\"");
    let proxy = plan.route("retry.attempts = 2").start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for n in 0..24 {
        // Whatever its own endpoint is: `home_of` looks that all of its requests end at one.
        home_of(&mut client, &origins, &format!("/{n}"), None).await;
    }
}
