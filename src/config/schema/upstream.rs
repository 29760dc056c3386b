//! `[upstream.NAME]` and its tables.

use super::{DEADLINE, Fallback, Key, Shape, WEIGHT_MAX};
use crate::config::defaults;

pub(super) static UPSTREAM: &[Key] = &[
    Key::new(
        "endpoints",
        Shape::OneOrMany(&Shape::Either(&[Shape::Text("an address"), Shape::Table(ENDPOINT)])),
        Fallback::Required,
        "Endpoint addresses: \"10.0.0.1:8080\", \"[::1]:8080\", \"unix:/path\", \"dns:name:8080\" (resolved at start \
         and again when its TTL expires), or tables with an address and a weight.",
    )
    .example("[\"127.0.0.1:3000\"]"),
    Key::new(
        "protocol",
        Shape::Choice { words: &["auto", "http1", "http2", "http3", "quic"], later: &[] },
        Fallback::Text("auto"),
        "Protocol to the endpoints. auto: negotiated by ALPN over TLS, http1 on cleartext. http2 on cleartext: prior \
         knowledge (h2c). quic: one raw stream for each session, for listeners with mode tcp or quic.",
    ),
    Key::new(
        "alpn",
        Shape::Text("an ALPN protocol"),
        Fallback::Told("none; required with protocol quic"),
        "With protocol quic: the ALPN protocol to offer in the handshake.",
    )
    .example("\"tunnel/1\""),
    Key::new(
        "alt_svc",
        Shape::Flag,
        Fallback::Flag(false),
        "Switch to HTTP/3 when an endpoint's responses offer it on the same host (Alt-Svc, RFC 7838), and back to \
         the previous protocol if HTTP/3 cannot be reached.",
    ),
    Key::new(
        "quic",
        Shape::Table(super::quic::UPSTREAM),
        Fallback::Table,
        "QUIC transport settings towards the \
     endpoints.",
    ),
    Key::new(
        "balance",
        Shape::Choice {
            words: &["round-robin", "random", "least-requests", "p2c-ewma", "ring-hash", "maglev"],
            later: &[],
        },
        Fallback::Text("round-robin"),
        "How to choose an endpoint; all policies respect weights. least-requests: the fewest requests in progress \
         over all workers (on layer 4: the fewest sessions). p2c-ewma: of two random endpoints, the one with the \
         lower latency for its load. ring-hash, maglev: by a hash of `hash_on`.",
    )
    .cost("two atomic operations for each request, with least-requests and p2c-ewma"),
    Key::new(
        "hash_on",
        Shape::Text("client-ip, sni, path, header:NAME or cookie:NAME"),
        Fallback::Text("client-ip"),
        "What ring-hash and maglev hash: client-ip (also behind trusted proxies), sni, path (without the query), \
         header:NAME or cookie:NAME. Requests without it are hashed by client address. Layer 4 supports client-ip \
         and sni.",
    ),
    Key::new(
        "health",
        Shape::Table(HEALTH),
        Fallback::Told("none: no active checks"),
        "Active health checks. An endpoint that fails several checks in a row gets no new requests. Endpoints count \
         as healthy until then.",
    ),
    Key::new(
        "outlier",
        Shape::Table(OUTLIER),
        Fallback::Told("none"),
        "Passive health checks. An endpoint that fails real traffic gets no new requests for a while, unless it is \
         the last healthy one.",
    ),
    Key::new(
        "send_proxy_protocol",
        Shape::Choice { words: &["off", "v1", "v2"], later: &[] },
        Fallback::Text("off"),
        "Send the client's address to the endpoint in a PROXY protocol header, before the first byte. With HTTP each \
         request then needs a connection of its own.",
    )
    .cost("no connection reuse with HTTP"),
    Key::new(
        "source",
        Shape::OneOrMany(&Shape::Text("an address")),
        Fallback::Told("the system's choice"),
        "Local addresses to connect from, used in turn. Each has about 28,000 ports for each endpoint.",
    )
    .example("[\"10.0.0.9\", \"10.0.0.10\"]"),
    Key::new(
        "tls",
        Shape::Either(&[Shape::Flag, Shape::Table(TLS)]),
        Fallback::Flag(false),
        "TLS to the endpoints, with certificate verification. `true`: the system's CA certificates and the \
         endpoint's own name.",
    ),
    Key::new(
        "pool",
        Shape::Table(POOL),
        Fallback::Table,
        "Connection pool. The limits are totals, divided among the \
     workers.",
    ),
    Key::new("timeouts", Shape::Table(TIMEOUTS), Fallback::Table, "Timeouts towards the endpoints."),
    Key::new("socket", Shape::Table(SOCKET), Fallback::Table, "Socket options of connections to the endpoints."),
    Key::later("sticky"),
    Key::later("slow_start"),
    Key::later("limits"),
];

static ENDPOINT: &[Key] = &[
    Key::new("address", Shape::Text("an address"), Fallback::Required, "Address of the endpoint.")
        .example("\"10.0.0.2:8080\""),
    Key::new(
        "weight",
        Shape::Count { min: 1, max: WEIGHT_MAX },
        Fallback::Count(defaults::WEIGHT as u64),
        "Relative weight.",
    ),
];

static TLS: &[Key] = &[
    Key::new(
        "server_name",
        Shape::Text("a name"),
        Fallback::Told("the endpoint's own name or address"),
        "Name to send as SNI and to verify.",
    )
    .example("\"api.internal\""),
    Key::new(
        "ca",
        Shape::Text("a path"),
        Fallback::Told("the system's"),
        "PEM file with the CA certificates to trust. Relative paths are resolved against the directory of the file \
         that names them.",
    )
    .example("\"certs/ca.pem\""),
    Key::new(
        "client_cert",
        Shape::Text("a path"),
        Fallback::Told("none"),
        "PEM file with the client certificate, for endpoints that ask for one.",
    )
    .example("\"certs/client.pem\""),
    Key::new("client_key", Shape::Text("a path"), Fallback::Told("none"), "PEM file with its private key.")
        .example("\"certs/client.key\""),
    Key::new(
        "insecure",
        Shape::Flag,
        Fallback::Flag(false),
        "Disable certificate verification. Anyone on the path can then read and change the traffic.",
    ),
];

static POOL: &[Key] = &[
    Key::new(
        "max_idle_per_endpoint",
        Shape::Count { min: 0, max: 1_000_000 },
        Fallback::Count(defaults::MAX_IDLE_PER_ENDPOINT as u64),
        "Idle connections kept for each endpoint.",
    )
    .cost("a file descriptor each, here and at the endpoint"),
    Key::new(
        "idle_timeout",
        DEADLINE,
        Fallback::Duration(defaults::POOL_IDLE_TIMEOUT),
        "How long a connection may \
     stay idle in the pool.",
    ),
    Key::new(
        "max_age",
        DEADLINE,
        Fallback::Duration(defaults::POOL_MAX_AGE),
        "Age after which a connection takes no further requests.",
    ),
];

static HEALTH: &[Key] = &[
    Key::new(
        "path",
        Shape::Text("a path"),
        Fallback::Told("none: TCP connect, or QUIC handshake"),
        "Path to request over HTTP, with the upstream's protocol and TLS settings; any status from 200 to 399 is a \
         success. Without it, a completed TCP connection counts as success, even if the process behind it hangs; \
         with QUIC a completed handshake.",
    )
    .example("\"/healthz\""),
    Key::new("host", Shape::Text("a name"), Fallback::Told("the endpoint's own"), "Host header of the check.")
        .example("\"api.internal\""),
    Key::new(
        "interval",
        DEADLINE,
        Fallback::Duration(defaults::HEALTH_INTERVAL),
        "Time between checks of an endpoint, varied by up to a tenth so that checks spread out. The first check runs \
         at once.",
    )
    .cost("one connection to each endpoint for each check"),
    Key::new(
        "timeout",
        DEADLINE,
        Fallback::Told("1s, or the interval if that is shorter"),
        "Timeout of a check; at most the interval.",
    )
    .example("\"1s\""),
    Key::new(
        "healthy_after",
        Shape::Count { min: 1, max: 1_000 },
        Fallback::Count(defaults::HEALTHY_AFTER as u64),
        "Successful checks in a row after which an endpoint is used again.",
    ),
    Key::new(
        "unhealthy_after",
        Shape::Count { min: 1, max: 1_000 },
        Fallback::Count(defaults::UNHEALTHY_AFTER as u64),
        "Failed checks in a row after which an endpoint is no longer used.",
    ),
];

static OUTLIER: &[Key] = &[
    Key::new(
        "consecutive_failures",
        Shape::Count { min: 1, max: 1_000_000 },
        Fallback::Count(defaults::OUTLIER_FAILURES as u64),
        "Failures in a row, over all workers, after which an endpoint is ejected: connections that fail or break \
         before a response, response timeouts, and statuses of 500 and above.",
    ),
    Key::new(
        "eject_for",
        DEADLINE,
        Fallback::Duration(defaults::EJECT_FOR),
        "Duration of the first ejection. Each further one in a row lasts this much longer, up to ten times this \
         value. A row ends when the endpoint has stayed in for as long as its last ejection.",
    ),
    Key::new(
        "max_ejected",
        Shape::Text("a share such as \"50%\""),
        Fallback::Text("50%"),
        "Share of an upstream's endpoints that may be ejected at the same time, rounded down. One may always be \
         ejected, but never the last healthy one.",
    ),
];

static TIMEOUTS: &[Key] = &[
    Key::new(
        "connect",
        DEADLINE,
        Fallback::Duration(defaults::CONNECT_TIMEOUT),
        "Time to establish a connection, \
     TCP and TLS together.",
    ),
    Key::new(
        "response",
        DEADLINE,
        Fallback::Duration(defaults::RESPONSE_TIMEOUT),
        "Time from sending the request to \
     receiving the response head.",
    ),
    Key::new(
        "stream_idle",
        DEADLINE,
        Fallback::Duration(defaults::STREAM_IDLE),
        "How long an endpoint may be silent within a response body. Event streams and gRPC streams need a long \
         value. On layer 4: silence in both directions.",
    ),
    Key::new(
        "tunnel_idle",
        DEADLINE,
        Fallback::Duration(defaults::TUNNEL_IDLE),
        "How long an upgraded connection (WebSocket) may be silent in both directions. Both ends are then reset.",
    ),
];

static SOCKET: &[Key] = &[
    Key::new("nodelay", Shape::Flag, Fallback::Flag(defaults::NODELAY), "TCP_NODELAY."),
    Key::new(
        "keepalive",
        Shape::Either(&[Shape::Word("off"), Shape::Table(super::listener::KEEPALIVE)]),
        Fallback::Table,
        "TCP keep-alive probes; \"off\" for none.",
    ),
    Key::never("backlog", "connections to an upstream have no accept queue"),
    Key::new("recv_buffer", super::listener::BUFFER, Fallback::Text("default"), "SO_RCVBUF.")
        .cost("up to this much kernel memory for each connection"),
    Key::new("send_buffer", super::listener::BUFFER, Fallback::Text("default"), "SO_SNDBUF.")
        .cost("up to this much kernel memory for each connection"),
    Key::new(
        "fast_open",
        Shape::Flag,
        Fallback::Flag(defaults::FAST_OPEN),
        "TCP_FASTOPEN_CONNECT: send data in the SYN packet. The network may deliver it twice.",
    ),
    Key::new(
        "user_timeout",
        Shape::Either(&[Shape::Word("default"), DEADLINE]),
        Fallback::Text("default"),
        "TCP_USER_TIMEOUT: how long sent data may stay unacknowledged; \"default\" is the system's.",
    ),
];
