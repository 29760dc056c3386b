//! What the exchanges of one downstream connection share, and what templates may ask of one request.

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

/// A listener of one generation, with what is computed from it once for all its connections on a worker.
pub struct Profile {
    /// The listener.
    pub spec: Rc<ListenerSpec>,
    /// What endpoints are told about clients.
    pub policy: Policy,
    /// The entry in `Via`; `None` where it is off.
    pub via: Option<Via>,
    /// What its connections speak.
    pub settings: Rc<Settings>,
    /// What answers say of where HTTP/3 is to be had; `None`: nothing.
    pub alt_svc: Option<HeaderValue>,
    /// What its worker measures of it.
    pub measured: Rc<Measured>,
    /// Where its requests are logged; `None`: nowhere.
    pub logger: Option<Rc<Logger>>,
    /// Whether they are, by configuration.
    pub is_logged: bool,
}

impl Profile {
    /// Computes it, for the connections of one address; `port` is its port.
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
    // Of an origin's answers it would be untrue.
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
    /// The deadlines that an exchange begins with; `judge_client`: see [`Limits`].
    pub fn limits(&self, judge_client: bool) -> Limits {
        let client_stall = self.spec.config.timeouts.client_stall;
        Limits { client_stall, stream_idle: client_stall, judge_client }
    }
}

/// What is in force where a connection was accepted. Asked once for each request, so that a reload reaches open
/// connections and no request sees two generations.
pub trait Home {
    /// The generation, and the listener as it has it.
    fn now(&self) -> (Rc<WorkerSnapshot>, Rc<Profile>);
}

/// One downstream connection, as its exchanges see it.
pub struct Connection {
    /// Where it was accepted.
    pub home: Rc<dyn Home>,
    /// Its deadlines and its exchanges.
    pub link: Rc<Link>,
    /// The client's socket, as a PROXY header tells it, or else the other end; `None` on a Unix socket.
    pub remote: Option<SocketAddr>,
    /// Its other facts, where somebody asks for them.
    pub ends: Option<Box<Ends>>,
    /// What endpoints are told about the client.
    pub forwarded: ForwardedFor,
    /// What the handshake settled; `None` on cleartext.
    pub tls: Option<Accepted>,
    /// An exchange that is over and can be used again.
    pub spare: RefCell<Option<Rc<Exchange>>>,
}

/// What is known of a connection below HTTP: kept where a PROXY header came with it, or endpoints are told of clients.
#[derive(Debug)]
pub struct Ends {
    /// The other end of our socket; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Where the client connected to.
    pub local: Option<SocketAddr>,
    /// What else its PROXY header said.
    pub tlvs: Box<[u8]>,
}

impl Connection {
    /// The other end of our socket; `None` on a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.ends.as_ref().map_or(self.remote, |ends| ends.peer)
    }

    /// The PROXY header that tells an endpoint of the client, where endpoints are told. What a header told of its other
    /// facts is passed on.
    pub fn header_for_endpoint(&self, version: SendProxyProtocol) -> Option<Vec<u8>> {
        if version == SendProxyProtocol::Off {
            return None;
        }
        let (local, tlvs) = self.ends.as_ref().map_or((None, &[][..]), |ends| (ends.local, &*ends.tlvs));
        let mut header = Vec::new();
        proxy_protocol::write(&mut header, version, Transport::Stream, self.remote, local, tlvs);
        Some(header)
    }

    /// Begins an exchange, with the one of an earlier request where that is free again.
    pub fn begin(&self, limits: Limits) -> Rc<Exchange> {
        // The streams of HTTP/2 overlap, and each has its own end.
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

    /// The name of the handshake.
    pub fn sni(&self) -> Option<&str> {
        self.tls.as_ref().and_then(|tls| tls.sni.as_deref())
    }
}

/// What was decided about a request.
pub struct Facts {
    /// Its authority and its path.
    pub normalized: Normalized,
    /// Its target as the client sent it.
    pub target: PathAndQuery,
    /// Where in the path begins what `*` of the route's path matched.
    pub rest: usize,
    /// The client's address.
    pub client: Option<IpAddr>,
}

impl Facts {
    /// Whether the target is a path (RFC 9112 §3.2.1), as it is unless a client speaks to us as to a forward proxy.
    pub fn is_origin_form(&self) -> bool {
        self.target.as_str().starts_with('/')
    }

    /// What a key of it may be made of.
    pub fn asker<'a>(&'a self, connection: &'a Connection, fields: &'a HeaderMap) -> Asker<'a> {
        let path = self.normalized.path_of(&self.target);
        Asker { client: self.client, sni: connection.sni(), path, fields }
    }

    /// What templates may ask.
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

/// What placeholders stand for in one request.
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

/// The id of a request: the one it came with, or one that is made when it is first asked for.
#[derive(Default)]
pub struct RequestId(OnceCell<String>);

impl RequestId {
    /// Takes the id that the request came with.
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
