//! Where connections to endpoints come from.

use std::cell::RefCell;
use std::rc::Rc;

use crate::support::client::Client;
use crate::support::origin::{Origin, RawOrigin, ok};
use crate::support::pair::{Downstream, Upstream};
use crate::support::proxy::Plan;
use crate::support::raw::Raw;
use crate::support::tests;

tests! {
    connections_come_from_each_source_in_turn,
    a_source_that_is_not_ours_is_passed_over,
    without_a_source_of_ours_the_endpoint_is_unavailable,
}

/// An origin that closes after each answer and notes where its connections come from.
async fn noting() -> (RawOrigin, Rc<RefCell<Vec<String>>>) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let noted = Rc::clone(&seen);
    let origin = RawOrigin::start(async move |mut connection: Raw, _| {
        noted.borrow_mut().push(connection.peer().ip().to_string());
        if connection.request().await.is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    });
    (origin.await, seen)
}

async fn connections_come_from_each_source_in_turn() {
    let (origin, seen) = noting().await;
    let sources = "source = [\"127.0.0.5\", \"127.0.0.6\", \"127.0.0.7\"]";
    let proxy = Plan::to(&[origin.address()]).upstream(sources).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert_eq!(*seen.borrow(), ["127.0.0.5", "127.0.0.6", "127.0.0.7", "127.0.0.5"]);
}

async fn a_source_that_is_not_ours_is_passed_over() {
    let (origin, seen) = noting().await;
    // RFC 5737: an address for documentation is nobody's.
    let proxy = Plan::to(&[origin.address()]).upstream("source = [\"192.0.2.1\", \"127.0.0.5\"]").start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert_eq!(*seen.borrow(), ["127.0.0.5", "127.0.0.5"]);
}

async fn without_a_source_of_ours_the_endpoint_is_unavailable() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let proxy = Plan::to(&[origin.address()]).upstream("source = \"192.0.2.1\"").start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    client.get("/").await.is_fault(503, "destination_unavailable");
    assert_eq!(origin.connections(), 0);
}
