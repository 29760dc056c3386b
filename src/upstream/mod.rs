//! Upstreams: named sets of endpoints and connections to them. `registry` makes an [`Upstream`] from its configuration
//! on the control thread; each worker uses it through its own pools: it picks an endpoint, takes a session with it, and
//! sends one request on that.

pub mod alternative;
pub mod balance;
pub mod client;
pub mod connector;
pub mod endpoint;
pub mod endpoint_set;
mod failure;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod health;
mod http1;
mod http2;
mod http3;
pub mod origin;
pub mod pool;
pub mod quic;
pub mod registry;
mod sessions;
mod silence;
mod switching;
pub mod worker;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustc_hash::FxHasher;

use crate::base::id::UpstreamId;
use crate::config::model;
use crate::transport::tls::client::ClientTls;
use endpoint_set::EndpointSet;

/// One compiled `[upstream.*]`, shared by all workers of a generation.
pub struct Upstream {
    /// Its number inside the snapshot.
    pub id: UpstreamId,
    /// Its name, unique inside a configuration.
    pub name: Arc<str>,
    /// What was configured.
    pub config: Arc<model::Upstream>,
    /// `None`: cleartext.
    pub tls: Option<Arc<ClientTls>>,
    /// Equal where the settings of pooled connections are: protocol, TLS, socket options,
    /// where they come from and what is said first.
    pub settings: u64,
    /// Replaced when names resolve anew. Workers hold their own pointer and are told; new generations start from this.
    pub endpoints: ArcSwap<EndpointSet>,
    /// Where it is none of the configuration's, but an origin that a client named.
    pub origin: Option<origin::Origin>,
}

impl Upstream {
    /// Whether a request may end up on a stream of a shared connection, by configuration or because ALPN may choose it.
    pub fn may_multiplex(&self) -> bool {
        match self.config.protocol {
            model::UpstreamProtocol::Http1 => false,
            model::UpstreamProtocol::Http2 | model::UpstreamProtocol::Http3 | model::UpstreamProtocol::Quic => true,
            model::UpstreamProtocol::Auto => self.tls.is_some(),
        }
    }

    /// What makes the connections of two upstreams interchangeable, as a number: their settings, and what the files of
    /// their TLS hold now.
    pub fn identity(&self) -> u64 {
        let mut hasher = FxHasher::default();
        (self.settings, self.tls.as_ref().map(|tls| tls.fingerprint())).hash(&mut hasher);
        hasher.finish()
    }

    /// The part of the settings that connections depend on, as a number. Timeouts and pool limits are not: they may
    /// change on a reload without costing a connection.
    pub fn settings_of(config: &model::Upstream) -> u64 {
        let mut hasher = FxHasher::default();
        config.protocol.hash(&mut hasher);
        config.tls.hash(&mut hasher);
        config.socket.hash(&mut hasher);
        config.source.hash(&mut hasher);
        config.alpn.hash(&mut hasher);
        config.alt_svc.hash(&mut hasher);
        config.quic.hash(&mut hasher);
        config.send_proxy_protocol.hash(&mut hasher);
        hasher.finish()
    }
}
