//! The pairs of protocols that the suite runs over.

use std::future::Future;
use std::net::SocketAddr;

use http::{Request, Response};
use tidegate::body::incoming::Incoming;

use super::body::Sent;
use super::certificates::ORIGIN;
use super::client::Client;
use super::origin::Origin;
use super::proxy::{Plan, Proxy};
use super::raw::Raw;

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Downstream {
    H1,
    H1Tls,
    H2,
    H2Tls,
    H3,
}

/// What the origin speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    Http1,
    Http2,
    Http2Tls,
    Http3,
}

/// One of each.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub down: Downstream,
    pub up: Upstream,
}

/// Runs a test for one pair.
pub fn pair<F: Future<Output = ()>>(down: Downstream, up: Upstream, test: impl FnOnce(Pair) -> F) {
    super::run(test(Pair { down, up }));
}

/// A proxy between an origin and a client.
pub struct Scene {
    pub client: Client,
    pub origin: Origin,
    pub proxy: Proxy,
}

impl Pair {
    /// HTTP/1.1 on both sides, for what is the same on all.
    pub const PLAIN: Self = Self { down: Downstream::H1, up: Upstream::Http1 };

    /// Sets the scene with an origin that behaves so.
    pub async fn scene<F>(self, behaviour: F) -> Scene
    where
        F: AsyncFn(Request<Incoming>) -> Response<Sent> + 'static,
    {
        self.planned(|plan| plan, behaviour).await
    }

    /// The same, with more in the configuration.
    pub async fn planned<F>(self, plan: impl FnOnce(Plan) -> Plan, behaviour: F) -> Scene
    where
        F: AsyncFn(Request<Incoming>) -> Response<Sent> + 'static,
    {
        let origin = Origin::start(self.up, behaviour).await;
        let proxy = plan(self.plan(&[origin.address()])).start();
        let client = Client::connect(proxy.address(), self.down).await;
        Scene { client, origin, proxy }
    }

    /// The configuration that both sides need.
    pub fn plan(self, endpoints: &[SocketAddr]) -> Plan {
        let plan = Plan::to(endpoints);
        let plan = match self.down {
            Downstream::H1 | Downstream::H2 => plan,
            Downstream::H1Tls | Downstream::H2Tls => plan.tls(),
            Downstream::H3 => plan.tls().listener("protocols = [\"http1\", \"http2\", \"http3\"]"),
        };
        let tls = format!("tls = {{ server_name = \"{ORIGIN}\", ca = \"@/ca.pem\" }}");
        match self.up {
            Upstream::Http1 => plan,
            Upstream::Http2 => plan.upstream("protocol = \"http2\""),
            Upstream::Http2Tls => plan.upstream("protocol = \"http2\"").upstream(&tls),
            Upstream::Http3 => plan.upstream("protocol = \"http3\"").upstream(&tls),
        }
    }

    /// Whether the client has many streams on a connection.
    pub fn has_streams(self) -> bool {
        matches!(self.down, Downstream::H2 | Downstream::H2Tls | Downstream::H3)
    }

    /// Whether the client's connection is encrypted.
    pub fn is_tls(self) -> bool {
        matches!(self.down, Downstream::H1Tls | Downstream::H2Tls | Downstream::H3)
    }
}

impl Scene {
    /// Another connection, with HTTP/1.1 in raw bytes.
    pub async fn raw(&self) -> Raw {
        Raw::connect(self.proxy.address()).await
    }
}
