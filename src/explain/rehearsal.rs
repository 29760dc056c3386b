//! A stage without an audience: what a worker has at hand when a request comes, made for a request that nobody sends, so that
//! it can be put to the very functions that traffic goes through. Nothing is connected, spawned or waited for.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;

use crate::body::load::Load;
use crate::config::model::TlsVersion;
use crate::protocol::link::Link;
use crate::proxy::context::{Connection, Home, Profile};
use crate::proxy::stack::{Decided, Scene, decided};
use crate::proxy::witness::Witness;
use crate::snapshot::{ListenerSpec, Snapshot, WorkerSnapshot};
use crate::telemetry::WorkerTelemetry;
use crate::transport::tls::server::{Accepted, Alpn};
use crate::upstream::origin::Origins;
use crate::upstream::pool::Pools;

/// A worker that carries nothing, with one generation. For many requests of one generation make it once.
pub struct Rehearsal {
    telemetry: Arc<WorkerTelemetry>,
    generation: Rc<WorkerSnapshot>,
}

/// Who asks, and where.
pub struct Cast<'a> {
    /// The listener.
    pub listener: &'a ListenerSpec,
    /// The client's address.
    pub client: SocketAddr,
    /// The name of its handshake; `None`: without a name, or in cleartext.
    pub sni: Option<&'a str>,
    /// What it is served over.
    pub alpn: Alpn,
    /// The port it came to.
    pub port: Option<u16>,
}

struct Stage {
    generation: Rc<WorkerSnapshot>,
    profile: Rc<Profile>,
}

impl Rehearsal {
    /// For requests that meet this generation.
    pub fn new(snapshot: &Arc<Snapshot>) -> Self {
        let telemetry = Arc::new(WorkerTelemetry::new());
        let pools = Pools::new(0, 1, Arc::clone(&telemetry));
        let upstreams = snapshot.upstreams.iter().map(|upstream| pools.attach(upstream)).collect();
        let generation =
            WorkerSnapshot::new(Arc::clone(snapshot), upstreams, Origins::new(pools), Arc::clone(&telemetry), None);
        Self { telemetry, generation: Rc::new(generation) }
    }

    /// What is decided about a request, each step told to `witness`.
    pub fn decide(&self, cast: &Cast<'_>, head: Parts, witness: &mut impl Witness) -> Decided {
        let spec = Rc::new(cast.listener.clone());
        let profile = Rc::new(Profile::new(spec, &self.generation, cast.port));
        let is_stream = head.version >= http::Version::HTTP_2;
        let tls = cast.listener.tls.is_some().then(|| Accepted {
            sni: cast.sni.map(Rc::from),
            alpn: cast.alpn.clone(),
            version: TlsVersion::V1_3,
            resumed: false,
            client_cert: false,
        });
        let load = Load::new(Arc::clone(&self.telemetry));
        let link = Link::new(load, profile.settings.deadlines.clone(), Rc::new(|| false));
        let stage = Stage { generation: Rc::clone(&self.generation), profile: Rc::clone(&profile) };
        let connection = Rc::new(Connection {
            forwarded: profile.policy.connection(Some(cast.client.ip()), tls.is_some()),
            home: Rc::new(stage),
            link,
            remote: Some(cast.client),
            ends: None,
            tls,
            spare: Default::default(),
        });
        let exchange = connection.begin(profile.limits(is_stream));
        exchange.ledger().listener = Some(Rc::clone(&profile.measured));
        let generation = Rc::clone(&self.generation);
        let scene = Scene { connection, exchange, generation, profile, informational: None };
        decided(scene, head, witness)
    }
}

impl Home for Stage {
    fn now(&self) -> (Rc<WorkerSnapshot>, Rc<Profile>) {
        (Rc::clone(&self.generation), Rc::clone(&self.profile))
    }
}
