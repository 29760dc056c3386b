//! How many round trips pass between a client and the proxy before a request is on its way to an origin: counted, not timed.
//! Between the two stands a relay that keeps a clock for each side in the way of Lamport: what is sent carries its sender's clock,
//! and whoever receives it is at least one half of a round trip later. Haste makes no number smaller; a slow machine may make
//! one larger, when something else passes meanwhile, so that the smallest of several is what counts.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::spawn_local;

use crate::support::certificates::{SITE, client_config};
use crate::support::client::{Client, get};
use crate::support::origin::{Origin, ok};
use crate::support::pair::{Downstream, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::quic::{self, Quic};
use crate::support::tests;

tests! {
    a_handshake_of_quic_takes_one,
    a_retry_costs_one_more,
    early_data_takes_none,
    tcp_with_tls_takes_two,
    tcp_alone_takes_one,
}

/// How often one is asked at most until nothing came in between.
const ATTEMPTS: usize = 50;

/// The clocks of both sides, in halves of a round trip.
#[derive(Default)]
struct Clocks {
    client: Cell<u32>,
    proxy: Cell<u32>,
}

impl Clocks {
    fn to_proxy(&self) {
        self.proxy.set(self.proxy.get().max(self.client.get() + 1));
    }

    fn to_client(&self) {
        self.client.set(self.client.get().max(self.proxy.get() + 1));
    }
}

/// Passes datagrams on between one client and the proxy.
async fn relay_datagrams(to: SocketAddr, clocks: Rc<Clocks>) -> SocketAddr {
    let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    back.connect(to).await.unwrap();
    let address = front.local_addr().unwrap();
    spawn_local(async move {
        let (mut up, mut down) = ([0; 65536], [0; 65536]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((length, from)) = front.recv_from(&mut up) => {
                    client = Some(from);
                    clocks.to_proxy();
                    back.send(&up[..length]).await.unwrap();
                }
                Ok(length) = back.recv(&mut down) => {
                    clocks.to_client();
                    front.send_to(&down[..length], client.unwrap()).await.unwrap();
                }
            }
        }
    });
    address
}

/// Passes the bytes of connections on.
async fn relay_bytes(to: SocketAddr, clocks: Rc<Clocks>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        let (client, _) = listener.accept().await.unwrap();
        // SYN and its answer have passed: the kernel's own round trip, which no relay of bytes sees.
        clocks.to_proxy();
        clocks.to_client();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_proxy, mut to_proxy) = TcpStream::connect(to).await.unwrap().into_split();
        let (mut up, mut down) = ([0; 65536], [0; 65536]);
        loop {
            tokio::select! {
                Ok(length @ 1..) = from_client.read(&mut up) => {
                    clocks.to_proxy();
                    let _ = to_proxy.write_all(&up[..length]).await;
                }
                Ok(length @ 1..) = from_proxy.read(&mut down) => {
                    clocks.to_client();
                    let _ = to_client.write_all(&down[..length]).await;
                }
                else => return,
            }
        }
    });
    address
}

/// What counts: the proxy, and its clock in the moment in which an origin sees a request.
struct Scene {
    proxy: Proxy,
    clocks: Rc<Cell<Option<Rc<Clocks>>>>,
    seen: Rc<Cell<u32>>,
    _origin: Origin,
}

impl Scene {
    async fn set(plan: impl FnOnce(Plan) -> Plan) -> Self {
        let clocks = Rc::new(Cell::new(None::<Rc<Clocks>>));
        let seen = Rc::new(Cell::new(0));
        let (now, noted) = (Rc::clone(&clocks), Rc::clone(&seen));
        let origin = Origin::start(Upstream::Http1, async move |request| {
            if let Some(clocks) = now.take() {
                noted.set(clocks.proxy.get());
            }
            ok(request).await
        })
        .await;
        let proxy = plan(Plan::to(&[origin.address()])).start();
        Self { proxy, clocks, seen, _origin: origin }
    }

    /// Clocks that stand at nought, and are read when the next request is seen.
    fn wind(&self) -> Rc<Clocks> {
        let clocks = Rc::<Clocks>::default();
        self.clocks.set(Some(Rc::clone(&clocks)));
        clocks
    }

    /// Sees that a request comes after so many round trips and on the first half of one more.
    async fn takes(&self, round_trips: u32, ask: impl AsyncFn(&Self)) {
        let mut all = Vec::new();
        for _ in 0..ATTEMPTS {
            ask(self).await;
            all.push(self.seen.get());
            assert!(self.seen.get() > 2 * round_trips, "fewer than {round_trips}: {all:?}");
            if self.seen.get() == 2 * round_trips + 1 {
                return;
            }
        }
        panic!("always more than {round_trips} round trips: {all:?} halves");
    }
}

const ALL: &str = "protocols = [\"http1\", \"http2\", \"http3\"]";

async fn over_quic(scene: &Scene) {
    let address = relay_datagrams(scene.proxy.address(), scene.wind()).await;
    let mut client = Client::over_quic(Quic::connect(address, SITE).await);
    assert_eq!(client.get("/").await.text(), "ok");
}

async fn over_tcp(scene: &Scene, speaks: Downstream) {
    let address = relay_bytes(scene.proxy.address(), scene.wind()).await;
    let mut client = Client::connect(address, speaks).await;
    assert_eq!(client.get("/").await.text(), "ok");
}

async fn a_handshake_of_quic_takes_one() {
    Scene::set(|plan| plan.tls().listener(ALL)).await.takes(1, over_quic).await;
}

async fn a_retry_costs_one_more() {
    let scene = Scene::set(|plan| plan.tls().listener(ALL).listener("quic.retry = \"always\"")).await;
    scene.takes(2, over_quic).await;
}

async fn early_data_takes_none() {
    let scene = Scene::set(|plan| plan.tls().listener(ALL).listener("tls.early_data = true")).await;
    let mut tls = Arc::unwrap_or_clone(client_config(&[b"h3"], false));
    tls.enable_early_data = true;
    let config = quic::config(Arc::new(tls));
    // What it remembers of the first connection, and of each one after it, lets the next begin early.
    let first = Quic::connect_with(config.clone(), scene.proxy.address(), SITE).await.unwrap();
    assert_eq!(Client::over_quic(first).get("/").await.text(), "ok");
    let early = async |scene: &Scene| {
        let address = relay_datagrams(scene.proxy.address(), scene.wind()).await;
        let (endpoint, connecting) = quic::begin(config.clone(), address, SITE);
        let Ok((connection, _)) = connecting.into_0rtt() else { panic!("nothing was remembered") };
        let mut client = Client::over_quic(Quic::over(endpoint, connection));
        assert_eq!(client.call(get("/")).await.text(), "ok");
    };
    scene.takes(0, early).await;
}

async fn tcp_with_tls_takes_two() {
    let scene = Scene::set(|plan| plan.tls()).await;
    for speaks in [Downstream::H1Tls, Downstream::H2Tls] {
        scene.takes(2, async |scene: &Scene| over_tcp(scene, speaks).await).await;
    }
}

async fn tcp_alone_takes_one() {
    Scene::set(|plan| plan).await.takes(1, async |scene: &Scene| over_tcp(scene, Downstream::H1).await).await;
}
