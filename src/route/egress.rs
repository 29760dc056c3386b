//! `mode = "forward"`, compiled: the destinations and users of a listener, and the settings common to all its requests.
//! `control::compile` makes it, `proxy::egress` uses it.

use std::sync::Arc;

use super::access::Access;
use super::action::{Action, Edits, ForwardRule, Route, Split};
use super::user_file::UserFile;
use crate::base::id::RouteId;
use crate::config::defaults;
use crate::config::model::{
    self, Balance, Bind, HashOn, HostHeader, Outbound, PathRewrite, PoolLimits, RetryRules, SendProxyProtocol,
    SocketOptions, UpstreamProtocol, UpstreamQuic, UpstreamTimeouts, UpstreamTls,
};
use crate::net::resolve::Names;
use crate::transport::tls::client::ClientTls;

/// Connections that are kept for one origin: a client asks for a page at a time.
const MAX_IDLE_PER_ORIGIN: u32 = 32;

/// What a forward listener does with requests.
pub struct Egress {
    /// Where clients may go.
    pub outbound: Arc<Outbound>,
    /// Who tells where names are.
    pub names: Arc<dyn Names>,
    /// Who clients are; `None`: that is not asked.
    pub users: Option<Arc<UserFile>>,
    /// How origins are spoken to.
    pub cleartext: Arc<model::Upstream>,
    /// The same over TLS; `None`: the listener is cleartext, where nobody sends an `https` request in the clear.
    pub secure: Option<(Arc<model::Upstream>, Arc<ClientTls>)>,
    /// Where forward listeners are: a request that goes there goes in circles.
    pub circles: Vec<Bind>,
    /// Where `[server.admin]` and `[server.observe]` are: not for clients.
    pub guarded: Vec<Bind>,
    /// The route that all its requests take.
    pub route: Route,
}

impl Egress {
    /// The settings of a listener's origins; `tls`: over TLS.
    pub fn origins(listener: &model::Listener, outbound: &Outbound, tls: bool) -> Arc<model::Upstream> {
        let timeouts = &outbound.timeouts;
        Arc::new(model::Upstream {
            name: Self::series(&listener.name),
            endpoints: Vec::new(),
            protocol: UpstreamProtocol::Auto,
            alpn: None,
            alt_svc: false,
            quic: UpstreamQuic::default(),
            tls: tls.then(UpstreamTls::default),
            balance: Balance::RoundRobin,
            hash_on: HashOn::ClientIp,
            health: None,
            outlier: None,
            send_proxy_protocol: SendProxyProtocol::Off,
            source: Vec::new(),
            pool: PoolLimits {
                max_idle_per_endpoint: MAX_IDLE_PER_ORIGIN,
                idle_timeout: defaults::POOL_IDLE_TIMEOUT,
                max_age: defaults::POOL_MAX_AGE,
            },
            timeouts: UpstreamTimeouts {
                connect: timeouts.connect,
                response: timeouts.response,
                stream_idle: timeouts.stream_idle,
                tunnel_idle: timeouts.tunnel_idle,
            },
            // Written for clients; data in the first packet is theirs alone to allow.
            socket: SocketOptions { fast_open: false, ..listener.socket.clone() },
            place: listener.place.clone(),
        })
    }

    /// What everything that goes out through a listener is counted as: one name, whatever clients name.
    pub fn series(listener: &str) -> Arc<str> {
        format!("forward:{listener}").into()
    }

    /// The route that its requests take: they are sent as they are, where they say.
    pub fn route(listener: &model::Listener) -> Route {
        Route {
            id: RouteId(u32::MAX),
            name: Arc::clone(&listener.name),
            action: Action::Forward(ForwardRule {
                split: Split::new(&[(0, 1)]),
                rewrite: PathRewrite::Keep,
                host_header: HostHeader::Preserve,
                response_timeout: None,
                total_timeout: None,
                tunnel_idle: None,
                // All addresses of the origin were tried within one attempt.
                retry: RetryRules {
                    attempts: 0,
                    on_connect_failure: false,
                    on_reset_before_headers: false,
                    on_status: Vec::new(),
                    replay: defaults::RETRY_REPLAY,
                },
                upgrade: vec![defaults::UPGRADE.to_owned()],
                buffer: model::BodyBuffers::default(),
                grpc_web: false,
                normalize_path: false,
            }),
            max_body: None,
            access: Access::default(),
            request_headers: Edits::default(),
            response_headers: Edits::default(),
            access_log: true,
            place: listener.place.clone(),
        }
    }
}
