//! `[[listener]]` and its tables.

use std::time::Duration;

use super::{DEADLINE, Fallback, Key, Shape};
use crate::config::defaults;

pub(super) static LISTENER: &[Key] = &[
    Key::new(
        "name",
        Shape::Text("a name"),
        Fallback::Told("its first address"),
        "What routes, logs and metrics call it; unique.",
    )
    .example("\"web\""),
    Key::new(
        "bind",
        Shape::OneOrMany(&Shape::Text("an address")),
        Fallback::Required,
        "Addresses to accept on: \":80\" (the port on every address of both families), \"127.0.0.1:80\", \"[::1]:80\", \
         \"unix:/path\". Port 0 lets the system choose.",
    )
    .example("\":8080\""),
    Key::new(
        "mode",
        Shape::Choice { words: &["http", "forward", "tcp", "tls-passthrough", "udp", "quic"], later: &[] },
        Fallback::Text("http"),
        "What the listener is for: requests by routes (http), requests of clients that are pointed at a proxy (forward), or on layer 4 raw connections (tcp), TLS connections by their \
         ClientHello, which ends elsewhere (tls-passthrough), datagrams (udp); or streams of QUIC connections, which end here \
         (quic).",
    ),
    Key::new(
        "upstream",
        Shape::Text("the name of an upstream"),
        Fallback::Told("none; needed with tcp and udp"),
        "With mode tcp or udp: where everything goes.",
    )
    .example("\"pg\""),
    Key::new(
        "sni",
        Shape::Map(&Shape::Text("the name of an upstream")),
        Fallback::Told("none; needed with tls-passthrough"),
        "With tls-passthrough: server names, exact or with a leading `*.`, and `default`, each with its upstream. Without a \
         default, what matches nothing is closed. With udp the same for QUIC.",
    )
    .example("{ \"db.example.org\" = \"pg\", \"*.example.org\" = \"sites\", default = \"sites\" }"),
    Key::new(
        "alpn",
        Shape::Map(&Shape::Text("the name of an upstream")),
        Fallback::Told("none"),
        "Beside `sni`: ALPN protocols with their upstreams, asked before the name is: the first of the client's list that \
         stands here. With quic: what is offered in the handshake, and where the streams of each go.",
    )
    .example("{ \"acme-tls/1\" = \"acme\" }"),
    Key::new(
        "proxy_protocol",
        Shape::Choice { words: &["off", "optional", "require"], later: &[] },
        Fallback::Text("off"),
        "A PROXY protocol header (v1 or v2) before everything else, believed from `trusted_proxies` only. \"require\" closes \
         whoever sends none or is not trusted.",
    ),
    Key::new(
        "protocols",
        Shape::OneOrMany(&Shape::Choice { words: &["http1", "http2", "http3"], later: &[] }),
        Fallback::Told("[\"http1\", \"http2\"], and \"http3\" with tls"),
        "What is spoken: http2 by ALPN over TLS, by prior knowledge on cleartext (detected); http3 over TLS on the UDP port of \
         the same number, advertised by Alt-Svc on the others.",
    )
    .example("[\"http1\", \"http2\"]"),
    Key::new(
        "trusted_proxies",
        Shape::OneOrMany(&Shape::Text("a network")),
        Fallback::Told("none"),
        "Networks whose PROXY protocol header, X-Forwarded-* and Forwarded are believed and appended to; anyone else's are replaced.",
    )
    .example("[\"10.0.0.0/8\"]"),
    Key::new(
        "alt_svc",
        Shape::Either(&[Shape::Choice { words: &["auto", "off"], later: &[] }, Shape::Count { min: 1, max: 65_535 }]),
        Fallback::Text("auto"),
        "With http3: what answers on http1 and http2 say of it (RFC 7838): \"auto\" its own port; a number where clients reach \
         it at another.",
    ),
    Key::new("quic", Shape::Table(super::quic::LISTENER), Fallback::Table, "How QUIC is spoken, with http3 and mode quic."),
    Key::new("tls", Shape::Table(TLS), Fallback::Told("cleartext"), "TLS that ends here."),
    Key::new("limits", Shape::Table(LIMITS), Fallback::Table, "What one listener takes on."),
    Key::new(
        "timeouts",
        Shape::Table(TIMEOUTS),
        Fallback::Table,
        "How long clients may take, the same on every protocol.",
    ),
    Key::new(
        "socket",
        Shape::Table(SOCKET),
        Fallback::Table,
        "Socket options, set before bind and listen; what the kernel granted is logged.",
    ),
    Key::new("forwarding", Shape::Table(FORWARDING), Fallback::Table, "What is told to the upstream about the client."),
    Key::new(
        "access_log",
        Shape::Flag,
        Fallback::Flag(true),
        "Whether its requests go into the access log, where there is one.",
    ),
    Key::new(
        "request_id",
        STAMP,
        Fallback::Text("auto"),
        "Whether `x-request-id` is put on requests and on their answers; a good one that came is always passed on. \
         \"auto\": where the request goes into the access log, or its route has `{request_id}`.",
    ),
    Key::new(
        "traceparent",
        STAMP,
        Fallback::Text("auto"),
        "Whether a trace is begun (W3C Trace Context) for requests without a valid `traceparent`; a valid one is always \
         passed on. \"auto\": where the request goes into the access log.",
    ),
    Key::new(
        "forward",
        Shape::Table(super::outbound::LISTENER),
        Fallback::Told("none; needed with forward"),
        "With mode forward: who may use it, and where it may go.",
    ),
];

/// Whether a header that follows a request is put on it.
const STAMP: Shape = Shape::Choice { words: &["auto", "always", "off"], later: &[] };

static TLS: &[Key] = &[
    Key::new(
        "certificates",
        Shape::List(&Shape::Table(CERTIFICATE)),
        Fallback::Required,
        "Chains and keys, chosen by SNI: exact names, then wildcards; the first is the fallback.",
    )
    .example("[{ cert = \"certs/example.org.pem\", key = \"certs/example.org.key\" }]"),
    Key::new(
        "min_version",
        Shape::Choice { words: &["1.2", "1.3"], later: &[] },
        Fallback::Text("1.2"),
        "The oldest TLS version accepted.",
    ),
    Key::new("client_auth", Shape::Table(CLIENT_AUTH), Fallback::Told("off"), "Client certificates."),
    Key::new(
        "early_data",
        Shape::Flag,
        Fallback::Flag(false),
        "0-RTT over QUIC: a client that comes back may send safe requests before the handshake ends; they go on with \
         `Early-Data: 1` (RFC 8470). Whoever records them can send them again.",
    )
    .cost("sessions are kept in memory, under a lock that each handshake takes"),
];

static CERTIFICATE: &[Key] = &[
    Key::new(
        "cert",
        Shape::Text("a path"),
        Fallback::Required,
        "The chain, leaf first: a PEM file. Relative paths are taken from the directory of the file that names them.",
    )
    .example("\"certs/example.org.pem\""),
    Key::new("key", Shape::Text("a path"), Fallback::Required, "Its private key: a PEM file.")
        .example("\"certs/example.org.key\""),
];

static CLIENT_AUTH: &[Key] = &[
    Key::new(
        "mode",
        Shape::Choice { words: &["off", "optional", "require"], later: &[] },
        Fallback::Text("off"),
        "Whether a client certificate is asked for (optional) or demanded (require).",
    ),
    Key::new(
        "ca",
        Shape::Text("a path"),
        Fallback::Told("none; needed unless mode is \"off\""),
        "The authorities that client certificates are verified against: a PEM file.",
    )
    .example("\"certs/clients.pem\""),
];

static LIMITS: &[Key] = &[
    Key::new(
        "max_connections",
        Shape::Either(&[Shape::Word("auto"), Shape::Count { min: 1, max: u32::MAX as u64 }]),
        Fallback::Text("auto"),
        "Open connections over all workers; more wait in the backlog. \"auto\": from the descriptor limit. With udp: flows; \
         datagrams that would begin one more are dropped.",
    )
    .cost("a descriptor and some KiB each"),
    Key::new(
        "max_connections_per_ip",
        Shape::Either(&[Shape::Word("unlimited"), Shape::Count { min: 1, max: u32::MAX as u64 }]),
        Fallback::Text("unlimited"),
        "Open connections of one client address over all workers.",
    )
    .cost("a shared table that is asked at every accept"),
    Key::new(
        "max_header_size",
        Shape::Size { min: 1 << 10, max: 16 << 20 },
        Fallback::Size(defaults::MAX_HEADER_SIZE as u64),
        "Bytes of a request head; 431 past it.",
    )
    .cost("this much memory for a connection whose head is under way"),
    Key::new(
        "max_headers",
        Shape::Count { min: 1, max: 10_000 },
        Fallback::Count(defaults::MAX_HEADERS as u64),
        "Header fields of a request; 431 past it.",
    ),
    Key::new(
        "max_concurrent_streams",
        Shape::Count { min: 1, max: 1_000_000 },
        Fallback::Count(defaults::MAX_CONCURRENT_STREAMS as u64),
        "Concurrent streams of one connection: of HTTP/2, of HTTP/3 and raw ones.",
    )
    .cost("an exchange with its buffers each"),
    Key::new(
        "max_body",
        Shape::Either(&[Shape::Word("unlimited"), Shape::Size { min: 0, max: 1 << 60 }]),
        Fallback::Text("unlimited"),
        "Bytes of a request body; 413 past it. A route may set its own.",
    ),
];

static TIMEOUTS: &[Key] = &[
    Key::new(
        "handshake",
        DEADLINE,
        Fallback::Duration(defaults::HANDSHAKE_TIMEOUT),
        "The TLS handshake; with tls-passthrough the ClientHello. A PROXY protocol header has as long.",
    ),
    Key::new(
        "header",
        DEADLINE,
        Fallback::Duration(defaults::HEADER_TIMEOUT),
        "Accept, or the first byte of a later head, to the head's last byte.",
    ),
    Key::new(
        "client_stall",
        DEADLINE,
        Fallback::Duration(defaults::CLIENT_STALL),
        "The client neither sends what is wanted of its body nor takes what there is for it.",
    ),
    Key::new(
        "idle",
        DEADLINE,
        Fallback::Duration(defaults::IDLE_TIMEOUT),
        "Between requests; with udp the silence that ends a flow. With tcp and tls-passthrough the silence that ends a \
         session, there by default the upstream's `stream_idle`.",
    ),
    Key::new(
        "max_age",
        Shape::Either(&[Shape::Word("off"), DEADLINE]),
        Fallback::Text("off"),
        "Age after which a connection is asked to go (GOAWAY or `Connection: close`); open exchanges finish. Sessions and \
         flows of layer 4 are cut.",
    ),
];

static SOCKET: &[Key] = &[
    Key::new("nodelay", Shape::Flag, Fallback::Flag(defaults::NODELAY), "TCP_NODELAY."),
    Key::new(
        "keepalive",
        Shape::Either(&[Shape::Word("off"), Shape::Table(KEEPALIVE)]),
        Fallback::Table,
        "TCP keep-alive probes; \"off\" for none.",
    ),
    Key::new(
        "backlog",
        Shape::Count { min: 1, max: 65_535 },
        Fallback::Count(defaults::BACKLOG as u64),
        "Connections that wait to be accepted, for each worker; the kernel caps it at net.core.somaxconn.",
    ),
    Key::new(
        "recv_buffer",
        BUFFER,
        Fallback::Text("default"),
        "SO_RCVBUF; \"default\" leaves the kernel's own growth on.",
    )
    .cost("up to this much kernel memory for a connection"),
    Key::new(
        "send_buffer",
        BUFFER,
        Fallback::Text("default"),
        "SO_SNDBUF; \"default\" leaves the kernel's own growth on.",
    )
    .cost("up to this much kernel memory for a connection"),
    Key::new(
        "fast_open",
        Shape::Flag,
        Fallback::Flag(defaults::FAST_OPEN),
        "TCP_FASTOPEN: data in the first packet, which the network may repeat.",
    ),
    Key::new(
        "user_timeout",
        Shape::Either(&[Shape::Word("default"), DEADLINE]),
        Fallback::Text("default"),
        "TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged; \"default\" is the system's.",
    ),
];

pub(super) static KEEPALIVE: &[Key] = &[
    Key::new(
        "idle",
        PROBE,
        Fallback::Duration(defaults::KEEPALIVE_IDLE),
        "Silence before the first probe, whole seconds.",
    ),
    Key::new("interval", PROBE, Fallback::Duration(defaults::KEEPALIVE_INTERVAL), "Between probes, whole seconds."),
    Key::new(
        "count",
        Shape::Count { min: 1, max: 127 },
        Fallback::Count(defaults::KEEPALIVE_COUNT as u64),
        "Unanswered probes before the connection is dead.",
    ),
];

static FORWARDING: &[Key] = &[
    Key::new(
        "x_forwarded",
        Shape::Flag,
        Fallback::Flag(defaults::X_FORWARDED),
        "X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host. With mode forward false by default: strangers need not \
         know whom a proxy speaks for.",
    ),
    Key::new("forwarded", Shape::Flag, Fallback::Flag(defaults::FORWARDED), "Forwarded (RFC 7239)."),
    Key::new(
        "via",
        Shape::Either(&[Shape::Word("off"), Shape::Text("a pseudonym")]),
        Fallback::Text(defaults::VIA),
        "The pseudonym in Via (RFC 9110 §7.6.3), \"off\" for no Via.",
    ),
];

/// The kernel's ranges for TCP_KEEPIDLE and TCP_KEEPINTVL.
const PROBE: Shape = Shape::Duration { min: Duration::from_secs(1), max: Duration::from_secs(32_767) };
/// The kernel doubles what it is given and keeps it in an int.
pub(super) const BUFFER: Shape = Shape::Either(&[Shape::Word("default"), Shape::Size { min: 1 << 10, max: 1 << 29 }]);
