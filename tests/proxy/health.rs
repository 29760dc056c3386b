//! Endpoints that are unwell, by active checks and by real traffic, and what requests meet then.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tidegate::body::incoming::Incoming;

use crate::support::body::Sent;
use crate::support::client::Client;
use crate::support::origin::{Closed, Origin, ok};
use crate::support::pair::{Downstream, Pair, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::{tests, upstreams};

upstreams! {
    checks_take_an_endpoint_out_and_let_it_in_again,
    answers_of_500_eject_an_endpoint_for_a_while,
}

tests! {
    a_connection_is_check_enough_without_a_path,
    connections_that_come_to_nothing_eject_an_endpoint,
    without_an_endpoint_that_is_well_the_answer_says_so,
    what_is_known_outlives_a_reload,
    a_reload_without_checks_lets_everybody_in,
    a_check_speaks_for_nobody,
}

/// Checks as quick as a test wants them, on a machine that does much else.
const CHECKS: &str =
    "health = { path = \"/up?check=1\", host = \"check.test\", interval = \"200ms\", timeout = \"200ms\" }";

/// An origin that answers 503 while the switch is on: to everything, or to its checks alone.
async fn switched(speaks: Upstream, checks_alone: bool) -> (Origin, Rc<Cell<bool>>) {
    let sick = Rc::new(Cell::new(false));
    let switch = Rc::clone(&sick);
    let origin = Origin::start(speaks, async move |request: Request<Incoming>| {
        let mut response = Response::<Sent>::new("ok".into());
        if switch.get() && (!checks_alone || request.uri().path() == "/up") {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    })
    .await;
    (origin, sick)
}

/// How many of some requests each origin got, the checks not counted.
async fn shares(proxy: &Proxy, origins: &[&Origin]) -> Vec<usize> {
    let seen = |origin: &&Origin| origin.seen().iter().filter(|seen| seen.uri.path() == "/").count();
    let before: Vec<_> = origins.iter().map(seen).collect();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for _ in 0..6 {
        client.get("/").await;
    }
    origins.iter().zip(before).map(|(origin, before)| seen(origin) - before).collect()
}

/// Asks until the shares are these; the test's limit bounds it.
async fn until_shares(proxy: &Proxy, origins: &[&Origin], wanted: &[usize]) {
    while shares(proxy, origins).await != wanted {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn checks_take_an_endpoint_out_and_let_it_in_again(pair: Pair) {
    let (well, (other, sick)) = (Origin::start(pair.up, ok).await, switched(pair.up, true).await);
    let proxy = pair.plan(&[well.address(), other.address()]).upstream(CHECKS).start();
    let both = [&well, &other];
    assert_eq!(shares(&proxy, &both).await, [3, 3], "until it is proven otherwise everybody is well");
    sick.set(true);
    until_shares(&proxy, &both, &[6, 0]).await;
    sick.set(false);
    until_shares(&proxy, &both, &[3, 3]).await;
    let check = other.seen().into_iter().find(|seen| seen.uri.path() == "/up").unwrap();
    assert_eq!(check.uri.query(), Some("check=1"));
    let host = check.uri.authority().map(|authority| authority.to_string());
    assert_eq!(host.as_deref().or(check.headers.get("host").map(|host| host.to_str().unwrap())), Some("check.test"));
    assert!(check.headers["user-agent"].to_str().unwrap().contains("health check"));
}

async fn answers_of_500_eject_an_endpoint_for_a_while(pair: Pair) {
    let (well, (other, sick)) = (Origin::start(pair.up, ok).await, switched(pair.up, false).await);
    let outlier = "outlier = { consecutive_failures = 3, eject_for = \"300ms\" }";
    let proxy = pair.plan(&[well.address(), other.address()]).upstream(outlier).start();
    let both = [&well, &other];
    assert_eq!(shares(&proxy, &both).await, [3, 3]);
    sick.set(true);
    until_shares(&proxy, &both, &[6, 0]).await;
    sick.set(false);
    until_shares(&proxy, &both, &[3, 3]).await;
}

async fn a_connection_is_check_enough_without_a_path() {
    let (well, dead) = (Origin::start(Upstream::Http1, ok).await, Closed::bind());
    let health = "health = { interval = \"200ms\", timeout = \"200ms\" }";
    let proxy = Plan::to(&[dead.address(), well.address()]).upstream(health).start();
    until_shares(&proxy, &[&well], &[6]).await;
    assert_eq!(shares(&proxy, &[&well]).await, [6], "and it stays so");
}

async fn connections_that_come_to_nothing_eject_an_endpoint() {
    let (well, dead) = (Origin::start(Upstream::Http1, ok).await, Closed::bind());
    let outlier = "outlier = { consecutive_failures = 2, eject_for = \"1h\" }";
    let plan = Plan::to(&[dead.address(), well.address()]).upstream(outlier).route("retry.attempts = 0");
    let proxy = plan.start();
    until_shares(&proxy, &[&well], &[6]).await;
    // The last one stays in, whatever it does.
    let proxy = Plan::to(&[dead.address()]).upstream(outlier).route("retry.attempts = 0").start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for _ in 0..10 {
        client.get("/").await.is_fault(502, "connection_refused");
    }
}

async fn without_an_endpoint_that_is_well_the_answer_says_so() {
    let (origin, sick) = switched(Upstream::Http1, true).await;
    sick.set(true);
    let proxy = Plan::to(&[origin.address()]).upstream(CHECKS).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    let reply = loop {
        let reply = client.get("/").await;
        if reply.status() != StatusCode::OK {
            break reply;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    reply.is_fault(503, "destination_unavailable");
    assert!(reply.text().contains("every endpoint of the upstream fails its health check"), "{}", reply.text());
}

async fn what_is_known_outlives_a_reload() {
    let (well, (other, sick)) = (Origin::start(Upstream::Http1, ok).await, switched(Upstream::Http1, true).await);
    sick.set(true);
    let plan = Plan::to(&[well.address(), other.address()]).upstream(CHECKS);
    let proxy = plan.start();
    let both = [&well, &other];
    until_shares(&proxy, &both, &[6, 0]).await;
    for reload in [plan.clone(), plan.clone().route("retry.attempts = 2"), plan.upstream("timeouts.response = \"9s\"")]
    {
        assert!(proxy.reload(&reload.text()));
        assert_eq!(shares(&proxy, &both).await, [6, 0]);
    }
}

async fn a_reload_without_checks_lets_everybody_in() {
    let (well, (other, sick)) = (Origin::start(Upstream::Http1, ok).await, switched(Upstream::Http1, true).await);
    sick.set(true);
    let plan = Plan::to(&[well.address(), other.address()]);
    let proxy = plan.clone().upstream(CHECKS).start();
    let both = [&well, &other];
    until_shares(&proxy, &both, &[6, 0]).await;
    assert!(proxy.reload(&plan.text()));
    until_shares(&proxy, &both, &[3, 3]).await;
}

/// A check of an endpoint that wants to be told of clients says that there is none (PROXY protocol, version 2: LOCAL).
async fn a_check_speaks_for_nobody() {
    let origin = Origin::start_told(true, Upstream::Http1, ok).await;
    let plan = Plan::to(&[origin.address()]).upstream(CHECKS).upstream("send_proxy_protocol = \"v2\"");
    let _proxy = plan.start();
    crate::support::eventually(|| !origin.seen().is_empty()).await;
    let told = origin.seen()[0].told.clone();
    assert_eq!((told[12], told.len()), (0x20, 16), "{told:?}");
}
