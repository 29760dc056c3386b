//! The state shared by the exchanges of one downstream connection, and the values of placeholders for one request.

use std::cell::{OnceCell, RefCell};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};

use super::affinity::Asker;
use super::headers::forwarded::{ForwardedFor, Policy};
use super::headers::via::Via;
use super::normalize::Normalized;
use super::rescue;
use crate::base::template::Placeholder;
use crate::body::exchange::{Exchange, Limits};
use crate::body::ledger::Measured;
use crate::config::model::{AltSvc, Listener, SendProxyProtocol};
use crate::net::proxy_protocol::{self, Transport};
use crate::protocol::http::Settings;
use crate::protocol::link::{Deadlines, Link};
use crate::route::action::Values as RouteValues;
use crate::snapshot::{ListenerSpec, WorkerSnapshot};
use crate::telemetry::access_log::Logger;
use crate::transport::tls::server::Accepted;

/// A listener in one generation, with values computed once for all its connections on a worker.
pub struct Profile {
    /// The listener.
    pub spec: Rc<ListenerSpec>,
    /// The headers about clients that endpoints get.
    pub policy: Policy,
    /// The entry in `Via`; `None` where it is off.
    pub via: Option<Via>,
    /// The protocols and limits of its connections.
    pub settings: Rc<Settings>,
    /// The Alt-Svc of responses; `None`: none.
    pub alt_svc: Option<HeaderValue>,
    /// Its metrics on this worker.
    pub measured: Rc<Measured>,
    /// Its access log on this worker; `None`: none.
    pub logger: Option<Rc<Logger>>,
    /// Whether its requests are logged, by configuration.
    pub is_logged: bool,
}

impl Profile {
    /// Computes it for the connections of one address with this port.
    pub fn new(spec: Rc<ListenerSpec>, generation: &WorkerSnapshot, port: Option<u16>) -> Self {
        let config = &spec.config;
        let settings = Settings {
            http1: config.protocols.http1,
            http2: config.protocols.http2,
            max_header_size: config.limits.max_header_size,
            max_headers: config.limits.max_headers,
            max_concurrent_streams: config.limits.max_concurrent_streams,
            // Of all requests only those to a forward listener have any.
            datagrams: config.mode.outbound().is_some(),
            deadlines: Deadlines {
                header: config.timeouts.header,
                client_stall: config.timeouts.client_stall,
                idle: config.timeouts.idle,
                max_age: config.timeouts.max_age,
                drain: generation.snapshot.server.drain_timeout,
            },
        };
        Self {
            policy: Policy::new(&config.forwarding, &config.trusted_proxies),
            via: config.forwarding.via.as_deref().and_then(Via::new),
            settings: Rc::new(settings),
            alt_svc: alt_svc(config, port),
            measured: generation.listener_measured(&spec),
            logger: generation.logger.clone().filter(|_| config.access_log),
            is_logged: generation.snapshot.server.access_log.is_some() && config.access_log,
            spec,
        }
    }
}

/// RFC 7838 §3: HTTP/3 on the same host, to be remembered for a day.
fn alt_svc(config: &Listener, port: Option<u16>) -> Option<HeaderValue> {
    // In forward mode, Alt-Svc would be wrong for the origin's responses.
    if !config.protocols.http3 || config.tls.is_none() || config.mode.outbound().is_some() {
        return None;
    }
    let port = match config.alt_svc {
        AltSvc::Auto => port?,
        AltSvc::Port(port) => port,
        AltSvc::Off => return None,
    };
    HeaderValue::try_from(format!("h3=\":{port}\"; ma=86400")).ok()
}

impl Profile {
    /// The limits that an exchange starts with; `judge_client`: see [`Limits`].
    pub fn limits(&self, judge_client: bool) -> Limits {
        let client_stall = self.spec.config.timeouts.client_stall;
        Limits { client_stall, stream_idle: client_stall, judge_client }
    }
}

/// The current configuration of the place where a connection was accepted. Read once for each request, so that a reload
/// reaches open connections and no request sees two generations.
pub trait Home {
    /// The generation, and the listener in it.
    fn now(&self) -> (Rc<WorkerSnapshot>, Rc<Profile>);
}

/// One downstream connection, as seen by its exchanges.
pub struct Connection {
    /// Where it was accepted.
    pub home: Rc<dyn Home>,
    /// Its deadlines and its exchanges.
    pub link: Rc<Link>,
    /// The client's address, from a PROXY header or else from the socket; `None` on a Unix socket.
    pub remote: Option<SocketAddr>,
    /// Further facts about it, if anything needs them.
    pub ends: Option<Box<Ends>>,
    /// The headers about the client that endpoints get.
    pub forwarded: ForwardedFor,
    /// The result of the TLS handshake; `None` on cleartext.
    pub tls: Option<Accepted>,
    /// An exchange that has ended and can be reused.
    pub spare: RefCell<Option<Rc<Exchange>>>,
}

/// The addresses of a connection below HTTP; kept if it began with a PROXY header, or if endpoints are sent one.
#[derive(Debug)]
pub struct Ends {
    /// The peer of our socket; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The address that the client connected to.
    pub local: Option<SocketAddr>,
    /// The TLVs of its PROXY header.
    pub tlvs: Box<[u8]>,
}

impl Connection {
    /// The peer of our socket; `None` on a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.ends.as_ref().map_or(self.remote, |ends| ends.peer)
    }

    /// The PROXY header for an endpoint, if the upstream sends one. It includes the TLVs that were received.
    pub fn header_for_endpoint(&self, version: SendProxyProtocol) -> Option<Vec<u8>> {
        if version == SendProxyProtocol::Off {
            return None;
        }
        let (local, tlvs) = self.ends.as_ref().map_or((None, &[][..]), |ends| (ends.local, &*ends.tlvs));
        let mut header = Vec::new();
        proxy_protocol::write(&mut header, version, Transport::Stream, self.remote, local, tlvs);
        Some(header)
    }

    /// Starts an exchange, reusing an earlier one if it is free.
    pub fn begin(&self, limits: Limits) -> Rc<Exchange> {
        // The streams of HTTP/2 overlap, and each needs its own exchange.
        if limits.judge_client {
            return Exchange::begin(self.link.load(), limits);
        }
        let exchange = match self.spare.take() {
            Some(spare) => spare.begin_again(limits),
            None => Exchange::begin(self.link.load(), limits),
        };
        self.spare.replace(Some(Rc::clone(&exchange)));
        exchange
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The server name of the TLS handshake.
    pub fn sni(&self) -> Option<&str> {
        self.tls.as_ref().and_then(|tls| tls.sni.as_deref())
    }
}

/// The facts about a request that were established while it was routed.
pub struct Facts {
    /// Its authority and its path.
    pub normalized: Normalized,
    /// Its target as the client sent it.
    pub target: PathAndQuery,
    /// Where in the path the part that `*` of the route's path matched begins.
    pub rest: usize,
    /// The client's address.
    pub client: Option<IpAddr>,
}

impl Facts {
    /// Whether the target is in origin-form (RFC 9112 §3.2.1); clients that use the proxy explicitly send others.
    pub fn is_origin_form(&self) -> bool {
        self.target.as_str().starts_with('/')
    }

    /// The values that a hash key can be made of.
    pub fn asker<'a>(&'a self, connection: &'a Connection, fields: &'a HeaderMap) -> Asker<'a> {
        let path = self.normalized.path_of(&self.target);
        Asker { client: self.client, sni: connection.sni(), path, fields }
    }

    /// The values of placeholders.
    pub fn values<'a>(&'a self, connection: &'a Connection, id: &'a RequestId) -> Values<'a> {
        let path = self.normalized.path_of(&self.target);
        Values {
            connection,
            host: self.normalized.host(),
            port: self.normalized.port(),
            path,
            query: self.target.query(),
            rest: path.get(self.rest..).unwrap_or_default(),
            client: self.client,
            id,
        }
    }
}

/// The values of placeholders for one request.
pub struct Values<'a> {
    /// The connection.
    pub connection: &'a Connection,
    /// The effective host.
    pub host: &'a str,
    /// The effective port.
    pub port: Option<u16>,
    /// The path as the client sent it.
    pub path: &'a str,
    /// The query, without its `?`.
    pub query: Option<&'a str>,
    /// What `*` of the route's path matched.
    pub rest: &'a str,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The request's id.
    pub id: &'a RequestId,
}

/// The id of a request: the one it arrived with, or one created when it is first needed.
#[derive(Default)]
pub struct RequestId(OnceCell<String>);

impl RequestId {
    /// Takes over the id that the request arrived with.
    pub fn adopt(&self, fields: &HeaderMap) {
        if let Some(id) = rescue::given_request_id(fields) {
            let _ = self.0.set(id);
        }
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        self.0.get_or_init(rescue::new_request_id)
    }
}

impl RouteValues for Values<'_> {
    fn append(&self, hole: Placeholder, out: &mut String) {
        match hole {
            Placeholder::Scheme => out.push_str(self.connection.scheme()),
            Placeholder::Host => out.push_str(self.host),
            Placeholder::Port => {
                let default = if self.connection.tls.is_some() { 443 } else { 80 };
                out.push_str(itoa::Buffer::new().format(self.port.unwrap_or(default)));
            }
            Placeholder::Path => out.push_str(self.path),
            Placeholder::Query => out.push_str(self.query.unwrap_or_default()),
            Placeholder::PathAndQuery => {
                out.push_str(self.path);
                if let Some(query) = self.query {
                    out.push('?');
                    out.push_str(query);
                }
            }
            Placeholder::Rest => out.push_str(self.rest),
            Placeholder::ClientIp => {
                if let Some(client) = self.client {
                    let _ = write!(out, "{client}");
                }
            }
            Placeholder::RequestId => out.push_str(self.id.as_str()),
            Placeholder::Sni => out.push_str(self.connection.sni().unwrap_or_default()),
        }
    }
}
