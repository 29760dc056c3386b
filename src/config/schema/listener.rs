//! `[[listener]]` and its tables.

use std::time::Duration;

use super::{DEADLINE, Fallback, Key, Shape};
use crate::config::defaults;

pub(super) static LISTENER: &[Key] = &[
    Key::new(
        "name",
        Shape::Text("a name"),
        Fallback::Told("the first address of `bind`"),
        "Name used by routes, logs and metrics. Must be unique.",
    )
    .example("\"web\""),
    Key::new(
        "bind",
        Shape::OneOrMany(&Shape::Text("an address")),
        Fallback::Required,
        "Addresses to accept on: \":80\" (port 80 on all IPv4 and IPv6 addresses), \"127.0.0.1:80\", \"[::1]:80\", \
         \"unix:/path\". With port 0 the system chooses a port.",
    )
    .example("\":8080\""),
    Key::new(
        "mode",
        Shape::Choice { words: &["http", "forward", "tcp", "tls-passthrough", "udp", "quic"], later: &[] },
        Fallback::Text("http"),
        "What the listener serves. http: requests, by routes. forward: requests of clients that use this proxy \
         explicitly (`http_proxy=`). tcp: TCP connections, relayed as they are. tls-passthrough: TLS connections, \
         relayed by the ClientHello without terminating TLS. udp: datagrams. quic: streams of QUIC connections, \
         which are terminated here.",
    ),
    Key::new(
        "upstream",
        Shape::Text("the name of an upstream"),
        Fallback::Told("none; required with modes tcp and udp"),
        "With mode tcp or udp: the upstream for every connection or flow.",
    )
    .example("\"pg\""),
    Key::new(
        "sni",
        Shape::Map(&Shape::Text("the name of an upstream")),
        Fallback::Told("none; required with mode tls-passthrough"),
        "With mode tls-passthrough: server names, exact or with a leading `*.`, and `default`, each with its \
         upstream. Without `default`, connections that match nothing are closed. With mode udp: the same for QUIC.",
    )
    .example("{ \"db.example.org\" = \"pg\", \"*.example.org\" = \"sites\", default = \"sites\" }"),
    Key::new(
        "alpn",
        Shape::Map(&Shape::Text("the name of an upstream")),
        Fallback::Told("none"),
        "With `sni`: ALPN protocols and their upstreams, looked up before the name; the first protocol of the \
         client's list that appears here decides. With mode quic: the protocols offered in the handshake, and the \
         upstream for the streams of each.",
    )
    .example("{ \"acme-tls/1\" = \"acme\" }"),
    Key::new(
        "proxy_protocol",
        Shape::Choice { words: &["off", "optional", "require"], later: &[] },
        Fallback::Text("off"),
        "Expect a PROXY protocol header (v1 or v2) at the start of each connection. It is accepted from \
         `trusted_proxies` only. \"require\" closes connections that send none or whose peer is not trusted.",
    ),
    Key::new(
        "protocols",
        Shape::OneOrMany(&Shape::Choice { words: &["http1", "http2", "http3"], later: &[] }),
        Fallback::Told("[\"http1\", \"http2\"], and \"http3\" with tls"),
        "HTTP versions to serve. http2: by ALPN over TLS, by prior knowledge on cleartext (detected). http3: with \
         TLS, on the UDP port of the same number, advertised by Alt-Svc on the other versions.",
    )
    .example("[\"http1\", \"http2\"]"),
    Key::new(
        "trusted_proxies",
        Shape::OneOrMany(&Shape::Text("a network")),
        Fallback::Told("none"),
        "Networks whose PROXY protocol header is accepted, and whose X-Forwarded-* and Forwarded headers are kept \
         and appended to. Those of anyone else are replaced.",
    )
    .example("[\"10.0.0.0/8\"]"),
    Key::new(
        "alt_svc",
        Shape::Either(&[Shape::Choice { words: &["auto", "off"], later: &[] }, Shape::Count { min: 1, max: 65_535 }]),
        Fallback::Text("auto"),
        "With http3: the port that responses over http1 and http2 advertise in Alt-Svc (RFC 7838). \"auto\": the \
         listener's own. A number: the port where clients reach it if that differs. \"off\": do not advertise.",
    ),
    Key::new(
        "quic",
        Shape::Table(super::quic::LISTENER),
        Fallback::Table,
        "QUIC transport settings, for http3 and \
     mode quic.",
    ),
    Key::new("tls", Shape::Table(TLS), Fallback::Told("cleartext"), "TLS termination."),
    Key::new("limits", Shape::Table(LIMITS), Fallback::Table, "Limits of the listener."),
    Key::new(
        "timeouts",
        Shape::Table(TIMEOUTS),
        Fallback::Table,
        "Timeouts of the client side, the same for every HTTP version.",
    ),
    Key::new(
        "socket",
        Shape::Table(SOCKET),
        Fallback::Table,
        "Socket options, set before bind and listen. The log shows what the kernel granted.",
    ),
    Key::new(
        "forwarding",
        Shape::Table(FORWARDING),
        Fallback::Table,
        "Request headers that tell the upstream about \
     the client.",
    ),
    Key::new(
        "access_log",
        Shape::Flag,
        Fallback::Flag(true),
        "Whether its requests are written to the access log, if there is one.",
    ),
    Key::new(
        "request_id",
        STAMP,
        Fallback::Text("auto"),
        "Whether to add `x-request-id` to requests and responses that have none. A valid one from the client is \
         always passed on. \"auto\": if the request is written to the access log, or its route uses `{request_id}`.",
    ),
    Key::new(
        "traceparent",
        STAMP,
        Fallback::Text("auto"),
        "Whether to start a trace (W3C Trace Context) for requests without a valid `traceparent`. A valid one is \
         always passed on. \"auto\": if the request is written to the access log.",
    ),
    Key::new(
        "forward",
        Shape::Table(super::outbound::LISTENER),
        Fallback::Told("none; required with mode forward"),
        "With mode forward: who may use the proxy, and which destinations are allowed.",
    ),
];

/// Whether a header that follows a request is put on it.
const STAMP: Shape = Shape::Choice { words: &["auto", "always", "off"], later: &[] };

static TLS: &[Key] = &[
    Key::new(
        "certificates",
        Shape::List(&Shape::Table(CERTIFICATE)),
        Fallback::Required,
        "Certificate chains and keys, chosen by SNI: exact names first, then wildcards. The first entry is used when \
         no name matches.",
    )
    .example("[{ cert = \"certs/example.org.pem\", key = \"certs/example.org.key\" }]"),
    Key::new(
        "min_version",
        Shape::Choice { words: &["1.2", "1.3"], later: &[] },
        Fallback::Text("1.2"),
        "Oldest TLS version to accept.",
    ),
    Key::new("client_auth", Shape::Table(CLIENT_AUTH), Fallback::Told("off"), "Client certificates (mutual TLS)."),
    Key::new(
        "early_data",
        Shape::Flag,
        Fallback::Flag(false),
        "Accept 0-RTT over QUIC: a returning client may send safe requests before the handshake completes. They are \
         forwarded with `Early-Data: 1` (RFC 8470). An attacker who records them can replay them.",
    )
    .cost("sessions are kept in memory, behind a lock that each handshake takes"),
];

static CERTIFICATE: &[Key] = &[
    Key::new(
        "cert",
        Shape::Text("a path"),
        Fallback::Required,
        "PEM file with the certificate chain, leaf first. Relative paths are resolved against the directory of the \
         file that names them.",
    )
    .example("\"certs/example.org.pem\""),
    Key::new("key", Shape::Text("a path"), Fallback::Required, "PEM file with its private key.")
        .example("\"certs/example.org.key\""),
];

static CLIENT_AUTH: &[Key] = &[
    Key::new(
        "mode",
        Shape::Choice { words: &["off", "optional", "require"], later: &[] },
        Fallback::Text("off"),
        "Whether a client certificate is requested (optional) or required (require).",
    ),
    Key::new(
        "ca",
        Shape::Text("a path"),
        Fallback::Told("none; required unless mode is \"off\""),
        "PEM file with the CA certificates that client certificates are verified against.",
    )
    .example("\"certs/clients.pem\""),
];

static LIMITS: &[Key] = &[
    Key::new(
        "max_connections",
        Shape::Either(&[Shape::Word("auto"), Shape::Count { min: 1, max: u32::MAX as u64 }]),
        Fallback::Text("auto"),
        "Open connections, over all workers. Further connections wait in the backlog. \"auto\": derived from the \
         file descriptor limit. With mode udp: flows; datagrams that would begin another one are dropped.",
    )
    .cost("a file descriptor and a few KiB each"),
    Key::new(
        "max_connections_per_ip",
        Shape::Either(&[Shape::Word("unlimited"), Shape::Count { min: 1, max: u32::MAX as u64 }]),
        Fallback::Text("unlimited"),
        "Open connections of one client address, over all workers.",
    )
    .cost("a lookup in a shared table for each accepted connection"),
    Key::new(
        "max_header_size",
        Shape::Size { min: 1 << 10, max: 16 << 20 },
        Fallback::Size(defaults::MAX_HEADER_SIZE as u64),
        "Size of a request head. A larger one is answered with 431.",
    )
    .cost("up to this much memory for each connection that is receiving a head"),
    Key::new(
        "max_headers",
        Shape::Count { min: 1, max: 10_000 },
        Fallback::Count(defaults::MAX_HEADERS as u64),
        "Number of header fields in a request. More are answered with 431.",
    ),
    Key::new(
        "max_concurrent_streams",
        Shape::Count { min: 1, max: 1_000_000 },
        Fallback::Count(defaults::MAX_CONCURRENT_STREAMS as u64),
        "Concurrent streams of one HTTP/2, HTTP/3 or raw QUIC connection.",
    )
    .cost("the buffers of one request for each stream"),
    Key::new(
        "max_body",
        Shape::Either(&[Shape::Word("unlimited"), Shape::Size { min: 0, max: 1 << 60 }]),
        Fallback::Text("unlimited"),
        "Size of a request body. A larger one is answered with 413. A route may set its own limit.",
    ),
];

static TIMEOUTS: &[Key] = &[
    Key::new(
        "handshake",
        DEADLINE,
        Fallback::Duration(defaults::HANDSHAKE_TIMEOUT),
        "Time for the TLS handshake; with mode tls-passthrough, for the ClientHello. A PROXY protocol header has the \
         same time of its own.",
    ),
    Key::new(
        "header",
        DEADLINE,
        Fallback::Duration(defaults::HEADER_TIMEOUT),
        "Time for a request head: from accepting the connection, or from the first byte of a later request, to the \
         last byte of the head.",
    ),
    Key::new(
        "client_stall",
        DEADLINE,
        Fallback::Duration(defaults::CLIENT_STALL),
        "How long the client may make no progress with a body: it neither sends request bytes that are being waited \
         for nor takes response bytes that are ready.",
    ),
    Key::new(
        "idle",
        DEADLINE,
        Fallback::Duration(defaults::IDLE_TIMEOUT),
        "How long a connection may be idle between requests. With mode udp: the silence that ends a flow. With modes \
         tcp and tls-passthrough: the silence that ends a session; the default there is the upstream's \
         `stream_idle`.",
    ),
    Key::new(
        "max_age",
        Shape::Either(&[Shape::Word("off"), DEADLINE]),
        Fallback::Text("off"),
        "Age after which a connection is closed gracefully (GOAWAY or `Connection: close`); requests in progress \
         finish. Layer 4 sessions and flows are cut.",
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
        "Length of the accept queue of each worker. The kernel caps it at net.core.somaxconn.",
    ),
    Key::new(
        "recv_buffer",
        BUFFER,
        Fallback::Text("default"),
        "SO_RCVBUF; \"default\" keeps the kernel's automatic sizing.",
    )
    .cost("up to this much kernel memory for each connection"),
    Key::new(
        "send_buffer",
        BUFFER,
        Fallback::Text("default"),
        "SO_SNDBUF; \"default\" keeps the kernel's automatic sizing.",
    )
    .cost("up to this much kernel memory for each connection"),
    Key::new(
        "fast_open",
        Shape::Flag,
        Fallback::Flag(defaults::FAST_OPEN),
        "TCP_FASTOPEN: accept data in the SYN packet. The network may deliver it twice.",
    ),
    Key::new(
        "user_timeout",
        Shape::Either(&[Shape::Word("default"), DEADLINE]),
        Fallback::Text("default"),
        "TCP_USER_TIMEOUT: how long sent data may stay unacknowledged; \"default\" is the system's.",
    ),
];

pub(super) static KEEPALIVE: &[Key] = &[
    Key::new(
        "idle",
        PROBE,
        Fallback::Duration(defaults::KEEPALIVE_IDLE),
        "Idle time before the first probe, in whole seconds.",
    ),
    Key::new(
        "interval",
        PROBE,
        Fallback::Duration(defaults::KEEPALIVE_INTERVAL),
        "Time between probes, in whole \
     seconds.",
    ),
    Key::new(
        "count",
        Shape::Count { min: 1, max: 127 },
        Fallback::Count(defaults::KEEPALIVE_COUNT as u64),
        "Unanswered probes after which the connection is considered dead.",
    ),
];

static FORWARDING: &[Key] = &[
    Key::new(
        "x_forwarded",
        Shape::Flag,
        Fallback::Flag(defaults::X_FORWARDED),
        "Send X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host. With mode forward the default is false, so \
         that strangers do not learn the client's address.",
    ),
    Key::new("forwarded", Shape::Flag, Fallback::Flag(defaults::FORWARDED), "Send Forwarded (RFC 7239)."),
    Key::new(
        "via",
        Shape::Either(&[Shape::Word("off"), Shape::Text("a pseudonym")]),
        Fallback::Text(defaults::VIA),
        "Pseudonym sent in Via (RFC 9110 §7.6.3); \"off\" sends no Via.",
    ),
];

/// The kernel's ranges for TCP_KEEPIDLE and TCP_KEEPINTVL.
const PROBE: Shape = Shape::Duration { min: Duration::from_secs(1), max: Duration::from_secs(32_767) };
/// The kernel doubles what it is given and keeps it in an int.
pub(super) const BUFFER: Shape = Shape::Either(&[Shape::Word("default"), Shape::Size { min: 1 << 10, max: 1 << 29 }]);
