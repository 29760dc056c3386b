//! `[upstream.NAME]` and its tables.

use super::{DEADLINE, Fallback, Key, Shape, WEIGHT_MAX};
use crate::config::defaults;

pub(super) static UPSTREAM: &[Key] = &[
    Key::new(
        "endpoints",
        Shape::OneOrMany(&Shape::Either(&[Shape::Text("an address"), Shape::Table(ENDPOINT)])),
        Fallback::Required,
        "Addresses: \"10.0.0.1:8080\", \"[::1]:8080\", \"unix:/path\", \"dns:name:8080\" (resolved at start and by TTL), or \
         tables with an address and a weight.",
    )
    .example("[\"127.0.0.1:3000\"]"),
    Key::new(
        "protocol",
        Shape::Choice { words: &["auto", "http1", "http2", "http3", "quic"], later: &[] },
        Fallback::Text("auto"),
        "What is spoken: auto is ALPN over TLS and http1 on cleartext; http2 on cleartext is prior knowledge (h2c). quic: a raw \
         stream for each session, for listeners with mode tcp or quic.",
    ),
    Key::new(
        "alpn",
        Shape::Text("an ALPN protocol"),
        Fallback::Told("none; needed with protocol quic"),
        "With protocol quic: the protocol that is asked for in the handshake.",
    )
    .example("\"tunnel/1\""),
    Key::new(
        "alt_svc",
        Shape::Flag,
        Fallback::Flag(false),
        "Use HTTP/3 where an endpoint's own answers offer it on the same host (Alt-Svc, RFC 7838), and what was spoken before \
         where that cannot be reached.",
    ),
    Key::new("quic", Shape::Table(super::quic::UPSTREAM), Fallback::Table, "How QUIC is spoken to the endpoints."),
    Key::new(
        "balance",
        Shape::Choice {
            words: &["round-robin", "random", "least-requests", "p2c-ewma", "ring-hash", "maglev"],
            later: &[],
        },
        Fallback::Text("round-robin"),
        "How an endpoint is picked, each by weight: in turn, by chance, the fewest requests in flight over all workers (on \
         layer 4 the fewest sessions), of two the one that answers sooner for its load (p2c-ewma), or by a hash of \
         `hash_on` (ring-hash, maglev).",
    )
    .cost("least-requests and p2c-ewma: one atomic pair for a request"),
    Key::new(
        "hash_on",
        Shape::Text("client-ip, sni, path, header:NAME or cookie:NAME"),
        Fallback::Text("client-ip"),
        "What ring-hash and maglev hash: client-ip (behind trusted proxies as well), sni, path (without the query), header:NAME \
         or cookie:NAME; the client's address where a request lacks it. Layer 4 knows client-ip and sni.",
    ),
    Key::new(
        "health",
        Shape::Table(HEALTH),
        Fallback::Told("none: endpoints are not asked"),
        "Active checks: an endpoint that fails several in a row takes no new work. Every endpoint is ready until it has.",
    ),
    Key::new(
        "outlier",
        Shape::Table(OUTLIER),
        Fallback::Told("none"),
        "Passive checks: an endpoint that fails real traffic takes no new work for a while, unless it is the last that is ready.",
    ),
    Key::new(
        "send_proxy_protocol",
        Shape::Choice { words: &["off", "v1", "v2"], later: &[] },
        Fallback::Text("off"),
        "Tells the endpoint the client's address in a PROXY protocol header before the first byte. With http every request \
         then has a connection of its own.",
    )
    .cost("with http: no pooled connections"),
    Key::new(
        "source",
        Shape::OneOrMany(&Shape::Text("an address")),
        Fallback::Told("the system's choice"),
        "Local addresses to connect from, in turn: each has some 28,000 ports for each endpoint.",
    )
    .example("[\"10.0.0.9\", \"10.0.0.10\"]"),
    Key::new(
        "tls",
        Shape::Either(&[Shape::Flag, Shape::Table(TLS)]),
        Fallback::Flag(false),
        "TLS to the endpoints, verified; `true` for the system's authorities and the endpoint's own name.",
    ),
    Key::new("pool", Shape::Table(POOL), Fallback::Table, "Kept connections; totals that are shared out among the workers."),
    Key::new("timeouts", Shape::Table(TIMEOUTS), Fallback::Table, "How long the endpoints may take."),
    Key::new("socket", Shape::Table(SOCKET), Fallback::Table, "Socket options of connections to the endpoints."),
    Key::later("sticky"),
    Key::later("slow_start"),
    Key::later("limits"),
];

static ENDPOINT: &[Key] = &[
    Key::new("address", Shape::Text("an address"), Fallback::Required, "Where it is.").example("\"10.0.0.2:8080\""),
    Key::new(
        "weight",
        Shape::Count { min: 1, max: WEIGHT_MAX },
        Fallback::Count(defaults::WEIGHT as u64),
        "Its share of the picks.",
    ),
];

static TLS: &[Key] = &[
    Key::new(
        "server_name",
        Shape::Text("a name"),
        Fallback::Told("the endpoint's own name or address"),
        "The name to ask for and to verify.",
    )
    .example("\"api.internal\""),
    Key::new(
        "ca",
        Shape::Text("a path"),
        Fallback::Told("the system's"),
        "The authorities to trust: a PEM file. Relative paths are taken from the directory of the file that names them.",
    )
    .example("\"certs/ca.pem\""),
    Key::new(
        "client_cert",
        Shape::Text("a path"),
        Fallback::Told("none"),
        "Our certificate, where the endpoints ask for one: a PEM file.",
    )
    .example("\"certs/client.pem\""),
    Key::new("client_key", Shape::Text("a path"), Fallback::Told("none"), "Its private key: a PEM file.")
        .example("\"certs/client.key\""),
    Key::new(
        "insecure",
        Shape::Flag,
        Fallback::Flag(false),
        "Verify nothing: whoever sits between may read and change everything.",
    ),
];

static POOL: &[Key] = &[
    Key::new(
        "max_idle_per_endpoint",
        Shape::Count { min: 0, max: 1_000_000 },
        Fallback::Count(defaults::MAX_IDLE_PER_ENDPOINT as u64),
        "Idle connections kept for one endpoint.",
    )
    .cost("a descriptor each, here and at the endpoint"),
    Key::new("idle_timeout", DEADLINE, Fallback::Duration(defaults::POOL_IDLE_TIMEOUT), "How long one may stay idle."),
    Key::new(
        "max_age",
        DEADLINE,
        Fallback::Duration(defaults::POOL_MAX_AGE),
        "Age after which one takes no further request.",
    ),
];

static HEALTH: &[Key] = &[
    Key::new(
        "path",
        Shape::Text("a path"),
        Fallback::Told("none: a TCP connection, or a QUIC handshake"),
        "What is asked for over HTTP, as requests are sent (TLS included): 200 to 399 is well. Left out: that a TCP connection \
         is taken is well enough, which a process that hangs still does. Over QUIC it is a whole handshake.",
    )
    .example("\"/healthz\""),
    Key::new("host", Shape::Text("a name"), Fallback::Told("the endpoint's own"), "The Host of the check.")
        .example("\"api.internal\""),
    Key::new(
        "interval",
        DEADLINE,
        Fallback::Duration(defaults::HEALTH_INTERVAL),
        "From one check of an endpoint to the next, moved by up to a tenth so that they do not all come at once; the first is made \
         at once.",
    )
    .cost("a connection to each endpoint"),
    Key::new(
        "timeout",
        DEADLINE,
        Fallback::Told("1s, or the interval where that is shorter"),
        "How long a check may take; at most the interval.",
    )
    .example("\"1s\""),
    Key::new(
        "healthy_after",
        Shape::Count { min: 1, max: 1_000 },
        Fallback::Count(defaults::HEALTHY_AFTER as u64),
        "Checks in a row that must do for an endpoint to be let in again.",
    ),
    Key::new(
        "unhealthy_after",
        Shape::Count { min: 1, max: 1_000 },
        Fallback::Count(defaults::UNHEALTHY_AFTER as u64),
        "Checks in a row that must fail for an endpoint to be taken out.",
    ),
];

static OUTLIER: &[Key] = &[
    Key::new(
        "consecutive_failures",
        Shape::Count { min: 1, max: 1_000_000 },
        Fallback::Count(defaults::OUTLIER_FAILURES as u64),
        "Failures in a row, over all workers, that take an endpoint out: connections that come to nothing or break before an \
         answer, answers that do not come in time, answers 500 and above.",
    ),
    Key::new(
        "eject_for",
        DEADLINE,
        Fallback::Duration(defaults::EJECT_FOR),
        "For how long the first time; each time in a row as long again, up to ten times that. A row ends once the endpoint stayed \
         in for as long as it had been out.",
    ),
    Key::new(
        "max_ejected",
        Shape::Text("a share such as \"50%\""),
        Fallback::Text("50%"),
        "The share of an upstream's endpoints that may be out by this at once, rounded down; one may always be, but never the last \
         that is ready.",
    ),
];

static TIMEOUTS: &[Key] = &[
    Key::new("connect", DEADLINE, Fallback::Duration(defaults::CONNECT_TIMEOUT), "TCP and TLS together."),
    Key::new("response", DEADLINE, Fallback::Duration(defaults::RESPONSE_TIMEOUT), "Request sent to response head."),
    Key::new(
        "stream_idle",
        DEADLINE,
        Fallback::Duration(defaults::STREAM_IDLE),
        "Silence of the origin inside a body: event streams and gRPC live with it. On layer 4 silence of both sides.",
    ),
    Key::new(
        "tunnel_idle",
        DEADLINE,
        Fallback::Duration(defaults::TUNNEL_IDLE),
        "Silence in both directions after protocols were switched (WebSocket); both ends are reset then.",
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
    Key::never("backlog", "nothing waits to be accepted on connections to an upstream"),
    Key::new("recv_buffer", super::listener::BUFFER, Fallback::Text("default"), "SO_RCVBUF.")
        .cost("up to this much kernel memory for a connection"),
    Key::new("send_buffer", super::listener::BUFFER, Fallback::Text("default"), "SO_SNDBUF.")
        .cost("up to this much kernel memory for a connection"),
    Key::new(
        "fast_open",
        Shape::Flag,
        Fallback::Flag(defaults::FAST_OPEN),
        "TCP_FASTOPEN_CONNECT: data in the first packet, which the network may repeat.",
    ),
    Key::new(
        "user_timeout",
        Shape::Either(&[Shape::Word("default"), DEADLINE]),
        Fallback::Text("default"),
        "TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged; \"default\" is the system's.",
    ),
];
