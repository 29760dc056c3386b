//! What the tests stand on: a proxy in this process, origins and clients that speak any of the protocols, and raw
//! connections for what no library would send. Everything runs on loopback with ports that the kernel picks.

pub mod body;
pub mod certificates;
pub mod client;
pub mod frames;
pub mod names;
pub mod origin;
pub mod pair;
pub mod proxy;
pub mod quic;
pub mod raw;
pub mod tunnel;

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Builder;

/// How long a test may take before it counts as hanging: far longer than any takes on a slow and busy machine, since no
/// test waits for it.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs one test on a runtime of its own; what it spawned ends with it.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    let outcome = runtime.block_on(async {
        // The HTTP/3 of clients and origins keeps its deadlines by it, as on a worker.
        tidegate::net::timer::start();
        tokio::time::timeout(LIMIT, Box::pin(test)).await
    });
    runtime.shutdown_background();
    assert!(outcome.is_ok(), "the test hangs: it has not ended within {LIMIT:?}");
}

/// Waits until something that another thread does has happened; the test's limit bounds it.
pub async fn eventually(mut happened: impl FnMut() -> bool) {
    while !happened() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Makes a `#[test]` of each `async fn()`.
macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        mod run {
            $(#[test] fn $name() { $crate::support::run(super::$name()); })+
        }
    };
}

/// Makes a `#[test]` of each `async fn(Pair)` for every pair of protocols.
macro_rules! pairs {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            use $crate::support::pair::{Downstream::*, Upstream::*, pair};
            $crate::support::tcp_pairs_of!($name);
            #[test] fn h3_to_h1() { pair(H3, Http1, super::$name); }
            #[test] fn h3_to_h2c() { pair(H3, Http2, super::$name); }
            #[test] fn h3_to_h2_tls() { pair(H3, Http2Tls, super::$name); }
            #[test] fn h3_to_h3() { pair(H3, Http3, super::$name); }
        })+
    };
}

/// The same, but for clients that speak HTTP/3.
macro_rules! tcp_pairs {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            use $crate::support::pair::{Downstream::*, Upstream::*, pair};
            $crate::support::tcp_pairs_of!($name);
        })+
    };
}

macro_rules! tcp_pairs_of {
    ($name:ident) => {
        #[test]
        fn h1_to_h1() {
            pair(H1, Http1, super::$name);
        }
        #[test]
        fn h1_to_h2c() {
            pair(H1, Http2, super::$name);
        }
        #[test]
        fn h1_to_h2_tls() {
            pair(H1, Http2Tls, super::$name);
        }
        #[test]
        fn h1_to_h3() {
            pair(H1, Http3, super::$name);
        }
        #[test]
        fn h1_tls_to_h1() {
            pair(H1Tls, Http1, super::$name);
        }
        #[test]
        fn h1_tls_to_h2c() {
            pair(H1Tls, Http2, super::$name);
        }
        #[test]
        fn h1_tls_to_h2_tls() {
            pair(H1Tls, Http2Tls, super::$name);
        }
        #[test]
        fn h1_tls_to_h3() {
            pair(H1Tls, Http3, super::$name);
        }
        #[test]
        fn h2c_to_h1() {
            pair(H2, Http1, super::$name);
        }
        #[test]
        fn h2c_to_h2c() {
            pair(H2, Http2, super::$name);
        }
        #[test]
        fn h2c_to_h2_tls() {
            pair(H2, Http2Tls, super::$name);
        }
        #[test]
        fn h2c_to_h3() {
            pair(H2, Http3, super::$name);
        }
        #[test]
        fn h2_tls_to_h1() {
            pair(H2Tls, Http1, super::$name);
        }
        #[test]
        fn h2_tls_to_h2c() {
            pair(H2Tls, Http2, super::$name);
        }
        #[test]
        fn h2_tls_to_h2_tls() {
            pair(H2Tls, Http2Tls, super::$name);
        }
        #[test]
        fn h2_tls_to_h3() {
            pair(H2Tls, Http3, super::$name);
        }
    };
}

/// Makes a `#[test]` of each `async fn(Pair)` for every downstream protocol, in front of an HTTP/1.1 origin.
macro_rules! downstreams {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            use $crate::support::pair::{Downstream::*, Upstream::*, pair};
            $crate::support::tcp_downstreams_of!($name);
            #[test] fn h3() { pair(H3, Http1, super::$name); }
        })+
    };
}

/// The same, but for clients that speak HTTP/3.
macro_rules! tcp_downstreams {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            use $crate::support::pair::{Downstream::*, Upstream::*, pair};
            $crate::support::tcp_downstreams_of!($name);
        })+
    };
}

macro_rules! tcp_downstreams_of {
    ($name:ident) => {
        #[test]
        fn h1() {
            pair(H1, Http1, super::$name);
        }
        #[test]
        fn h1_tls() {
            pair(H1Tls, Http1, super::$name);
        }
        #[test]
        fn h2c() {
            pair(H2, Http1, super::$name);
        }
        #[test]
        fn h2_tls() {
            pair(H2Tls, Http1, super::$name);
        }
    };
}

/// Makes a `#[test]` of each `async fn(Pair)` for every upstream protocol, behind HTTP/1.1.
macro_rules! upstreams {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            use $crate::support::pair::{Downstream::*, Upstream::*, pair};
            #[test] fn h1() { pair(H1, Http1, super::$name); }
            #[test] fn h2c() { pair(H1, Http2, super::$name); }
            #[test] fn h2_tls() { pair(H1, Http2Tls, super::$name); }
            #[test] fn h3() { pair(H1, Http3, super::$name); }
        })+
    };
}

pub(crate) use {downstreams, pairs, tcp_downstreams, tcp_downstreams_of, tcp_pairs, tcp_pairs_of, tests, upstreams};
