//! A layer 4 listener of one generation on one worker. Open sessions and flows keep the generation they started with.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::upstreams::L4Upstream;
use crate::base::id::UpstreamId;
use crate::body::ledger::Measured;
use crate::config::model;
use crate::route::l4::Layer4;
use crate::snapshot::ListenerSpec;
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::access_log::Logger;
use crate::telemetry::series::Scope;

/// One listener, and where it leads.
pub struct L4Listener {
    /// What was compiled of it.
    pub spec: ListenerSpec,
    /// Where what it takes in goes.
    pub way: Arc<Layer4>,
    /// What this worker measures of it.
    pub measured: Rc<Measured>,
    /// The worker's end of the access log, where there is one and the listener has not turned it off.
    pub logger: Option<Rc<Logger>>,
    upstreams: Rc<[Rc<L4Upstream>]>,
}

impl L4Listener {
    /// The listener of `spec`; `None`: it belongs to the other plane. `upstreams` are by [`UpstreamId`].
    pub fn new(
        spec: ListenerSpec,
        upstreams: &Rc<[Rc<L4Upstream>]>,
        telemetry: &WorkerTelemetry,
        logger: Option<&Rc<Logger>>,
    ) -> Option<Rc<Self>> {
        let way = Arc::new(Layer4::compile(&spec.config.mode)?);
        let logger = logger.filter(|_| spec.config.access_log).cloned();
        let measured = Measured::new(telemetry, Scope::ListenerSessions, &spec.name);
        Some(Rc::new(Self { spec, way, measured, logger, upstreams: Rc::clone(upstreams) }))
    }

    /// What was configured.
    pub fn config(&self) -> &model::Listener {
        &self.spec.config
    }

    /// The upstream of this number.
    pub fn upstream(&self, id: UpstreamId) -> Option<&Rc<L4Upstream>> {
        self.upstreams.get(id.0 as usize)
    }

    /// The upstream of this name.
    pub fn upstream_named(&self, name: &str) -> Option<&Rc<L4Upstream>> {
        self.upstreams.iter().find(|upstream| **upstream.name() == *name)
    }

    /// Whether what `peer` tells of its clients is believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.config().trusted_proxies.iter().any(|network| network.contains(&peer))
    }

    /// The silence that ends a session with this upstream.
    pub fn session_idle(&self, upstream: &L4Upstream) -> Duration {
        self.config().timeouts.session_idle.unwrap_or(upstream.config().timeouts.stream_idle)
    }
}
