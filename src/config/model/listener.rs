//! `[[listener]]`: addresses to accept on, and the protocols spoken there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{AltSvc, HostPattern, Outbound, Place, Quic, SocketOptions, Stamp};

/// `[[listener]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Unique; default: its first address.
    pub name: Arc<str>,
    /// Where it accepts.
    pub binds: Vec<Bind>,
    /// What it is for.
    pub mode: Mode,
    /// What it speaks, with `mode = "http"`.
    pub protocols: Protocols,
    /// What answers on HTTP/1 and HTTP/2 say of HTTP/3.
    pub alt_svc: AltSvc,
    /// `[listener.quic]`.
    pub quic: Quic,
    /// TLS, where it is terminated here.
    pub tls: Option<ListenerTls>,
    /// Whether a PROXY protocol header stands before everything else.
    pub proxy_protocol: ProxyProtocol,
    /// Whose PROXY header, X-Forwarded-* and Forwarded are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// `[listener.limits]`.
    pub limits: ListenerLimits,
    /// `[listener.timeouts]`.
    pub timeouts: ListenerTimeouts,
    /// `[listener.socket]`.
    pub socket: SocketOptions,
    /// `[listener.forwarding]`: what is told to the upstream about the client.
    pub forwarding: Forwarding,
    /// Whether its requests go into the access log, where there is one. Default: true.
    pub access_log: bool,
    /// Whether `x-request-id` is put on requests.
    pub request_id: Stamp,
    /// Whether `traceparent` (W3C Trace Context) is put on requests.
    pub traceparent: Stamp,
    /// Where it was written.
    pub place: Place,
}

/// One address to accept on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// `":80"`: the port on every address of both families.
    AnyAddress(u16),
    /// `"127.0.0.1:80"`, `"[::]:80"`.
    Address(SocketAddr),
    /// `"unix:/path"`.
    Unix(PathBuf),
}

/// `listener.mode`. Upstreams are indices into [`Config::upstreams`](super::Config::upstreams).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Requests, by routes.
    Http,
    /// Requests of clients that are pointed at a proxy, to where they say.
    Forward(Arc<Outbound>),
    /// Every connection is relayed to one upstream.
    Tcp {
        /// To whom.
        upstream: usize,
        /// As a stream of a QUIC connection: that is what the upstream speaks.
        as_streams: bool,
    },
    /// TLS connections are relayed as they are, by what their ClientHello asks for.
    TlsPassthrough(HelloRoutes),
    /// Datagrams are relayed, a flow for each client address.
    Udp(UdpRoute),
    /// QUIC ends here, and each of its streams becomes a connection or a stream of the upstream that the handshake's ALPN
    /// protocol stands for.
    Quic(Vec<(String, usize)>),
}

/// Where datagrams go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UdpRoute {
    /// To one upstream.
    Upstream(usize),
    /// QUIC, by the ClientHello in its first datagrams; what cannot be read goes to the default.
    Quic(HelloRoutes),
}

/// `listener.sni` and `listener.alpn`: where a connection goes by its ClientHello. An ALPN protocol that is named here decides
/// before the name does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloRoutes {
    /// Names, lowercased, exact ones before wildcards are asked, the longest wildcard first.
    pub sni: Vec<(HostPattern, usize)>,
    /// ALPN protocol names.
    pub alpn: Vec<(String, usize)>,
    /// What matches nothing, or names nothing; `None`: closed.
    pub default: Option<usize>,
}

/// `listener.proxy_protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Not looked for: the bytes are the client's own.
    #[default]
    Off,
    /// Taken where it comes from a trusted proxy.
    Optional,
    /// Whoever does not send one, or is not trusted, is closed.
    Require,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// HTTP/1.1 and HTTP/1.0.
    pub http1: bool,
    /// HTTP/2: by ALPN over TLS, by prior knowledge on cleartext.
    pub http2: bool,
    /// HTTP/3, on the UDP port of the same number.
    pub http3: bool,
}

/// `listener.tls`.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// Chosen by SNI; the first is the fallback. Never empty.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version accepted.
    pub min_version: TlsVersion,
    /// Client certificates.
    pub client_auth: ClientAuth,
    /// 0-RTT over QUIC. Default: false.
    pub early_data: bool,
}

/// A certificate chain and its key, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Where it was written.
    pub place: Place,
}

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2, RFC 5246.
    V1_2,
    /// TLS 1.3, RFC 8446.
    V1_3,
}

/// `listener.tls.client_auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No client certificate is asked for.
    Off,
    /// Asked for; verified against `ca` where one is sent.
    Optional {
        /// The authorities, a PEM file.
        ca: PathBuf,
        /// Where it was written.
        place: Place,
    },
    /// The handshake fails without one.
    Require {
        /// The authorities, a PEM file.
        ca: PathBuf,
        /// Where it was written.
        place: Place,
    },
}

/// `[listener.limits]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerLimits {
    /// Open connections over all workers; `None`: from the descriptor limit.
    pub max_connections: Option<u32>,
    /// Open connections of one client address over all workers; `None`: unlimited.
    pub max_connections_per_ip: Option<u32>,
    /// Bytes of a request head; 431 past it.
    pub max_header_size: u32,
    /// Header fields of a request; 431 past it.
    pub max_headers: u32,
    /// Concurrent streams of one HTTP/2, HTTP/3 or raw QUIC connection.
    pub max_concurrent_streams: u32,
    /// Bytes of a request body, 413 past it; `None`: unlimited.
    pub max_body: Option<u64>,
}

/// `[listener.timeouts]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTimeouts {
    /// TLS handshake.
    pub handshake: Duration,
    /// Accept, or the first byte of a later head, to the head's last byte.
    pub header: Duration,
    /// The client neither sends what we want of its body nor takes what we have for it.
    pub client_stall: Duration,
    /// Between requests; on `udp` the silence that ends a flow.
    pub idle: Duration,
    /// The silence that ends a session of `tcp` and `tls-passthrough`; `None`: not written, the upstream's `stream_idle` holds.
    pub session_idle: Option<Duration>,
    /// Age after which a connection is asked to go, and a session or flow is cut; `None`: off.
    pub max_age: Option<Duration>,
}

/// `[listener.forwarding]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// X-Forwarded-For, -Proto and -Host. Default: true.
    pub x_forwarded: bool,
    /// Forwarded (RFC 7239). Default: false.
    pub forwarded: bool,
    /// Via (RFC 9110 §7.6.3): the pseudonym, `None` for no Via. Default: `tidegate`, on requests.
    pub via: Option<Arc<str>>,
}

impl Listener {
    /// Whether QUIC ends here, on UDP.
    pub fn takes_quic(&self) -> bool {
        match self.mode {
            Mode::Http | Mode::Forward(_) => self.protocols.http3,
            Mode::Quic(_) => true,
            Mode::Tcp { .. } | Mode::TlsPassthrough(_) | Mode::Udp(_) => false,
        }
    }

    /// Whether it accepts connections, of TCP or of a Unix socket.
    pub fn takes_connections(&self) -> bool {
        match self.mode {
            Mode::Http | Mode::Forward(_) => self.protocols.http1 || self.protocols.http2,
            Mode::Tcp { .. } | Mode::TlsPassthrough(_) => true,
            Mode::Udp(_) | Mode::Quic(_) => false,
        }
    }
}

impl Mode {
    /// The word of the configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Forward(_) => "forward",
            Self::Tcp { .. } => "tcp",
            Self::TlsPassthrough(_) => "tls-passthrough",
            Self::Udp(_) => "udp",
            Self::Quic(_) => "quic",
        }
    }

    /// Whether it belongs to the layer 4 plane.
    pub fn is_layer4(&self) -> bool {
        !matches!(self, Self::Http | Self::Forward(_) | Self::Quic(_) | Self::Tcp { as_streams: true, .. })
    }

    /// Whether it serves requests, by routes or by what they ask for.
    pub fn serves_requests(&self) -> bool {
        matches!(self, Self::Http | Self::Forward(_))
    }

    /// Whether it asks routes.
    pub fn has_routes(&self) -> bool {
        matches!(self, Self::Http)
    }

    /// Who may go where through it, with mode `forward`.
    pub fn outbound(&self) -> Option<&Arc<Outbound>> {
        match self {
            Self::Forward(outbound) => Some(outbound),
            _ => None,
        }
    }

    /// Whether it relays sessions, of layer 4 or of QUIC.
    pub fn relays(&self) -> bool {
        !self.serves_requests()
    }

    /// Whether it accepts datagrams, not connections.
    pub fn is_udp(&self) -> bool {
        matches!(self, Self::Udp(_))
    }

    /// The upstreams it may send to without asking a route, each once, in the order of their numbers.
    pub fn upstreams(&self) -> Vec<usize> {
        let mut upstreams = match self {
            Self::Http | Self::Forward(_) => Vec::new(),
            Self::Tcp { upstream, .. } | Self::Udp(UdpRoute::Upstream(upstream)) => vec![*upstream],
            Self::Quic(routes) => routes.iter().map(|(_, upstream)| *upstream).collect(),
            Self::TlsPassthrough(routes) | Self::Udp(UdpRoute::Quic(routes)) => {
                let names = routes.sni.iter().map(|(_, upstream)| *upstream);
                names.chain(routes.alpn.iter().map(|(_, upstream)| *upstream)).chain(routes.default).collect()
            }
        };
        upstreams.sort_unstable();
        upstreams.dedup();
        upstreams
    }
}

impl Protocols {
    /// The words of the configuration.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let Self { http1, http2, http3 } = self;
        let words = [(http1, "http1"), (http2, "http2"), (http3, "http3")];
        words.into_iter().filter_map(|(on, word)| on.then_some(word))
    }
}

impl ProxyProtocol {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Optional => "optional",
            Self::Require => "require",
        }
    }
}
