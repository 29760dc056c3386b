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
        Shape::Choice { words: &["auto", "http1", "http2"], later: &["http3", "quic"] },
        Fallback::Text("auto"),
        "What is spoken: auto is ALPN over TLS and http1 on cleartext; http2 on cleartext is prior knowledge (h2c).",
    ),
    Key::new(
        "balance",
        Shape::Choice {
            words: &["round-robin", "random", "least-requests"],
            later: &["p2c-ewma", "ring-hash", "maglev"],
        },
        Fallback::Text("round-robin"),
        "How an endpoint is picked: in turn, by chance, or the fewest requests in flight over all workers; each by weight.",
    )
    .cost("least-requests: one atomic pair for a request"),
    Key::new(
        "tls",
        Shape::Either(&[Shape::Flag, Shape::Table(TLS)]),
        Fallback::Flag(false),
        "TLS to the endpoints, verified; `true` for the system's authorities and the endpoint's own name.",
    ),
    Key::new("pool", Shape::Table(POOL), Fallback::Table, "Kept connections; totals that are shared out among the workers."),
    Key::new("timeouts", Shape::Table(TIMEOUTS), Fallback::Table, "How long the endpoints may take."),
    Key::new("socket", Shape::Table(SOCKET), Fallback::Table, "Socket options of connections to the endpoints."),
    Key::later("hash_on"),
    Key::later("sticky"),
    Key::later("slow_start"),
    Key::later("health"),
    Key::later("outlier"),
    Key::later("limits"),
    Key::later("send_proxy_protocol"),
    Key::later("source"),
    Key::later("alpn"),
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

static TIMEOUTS: &[Key] = &[
    Key::new("connect", DEADLINE, Fallback::Duration(defaults::CONNECT_TIMEOUT), "TCP and TLS together."),
    Key::new("response", DEADLINE, Fallback::Duration(defaults::RESPONSE_TIMEOUT), "Request sent to response head."),
    Key::new(
        "stream_idle",
        DEADLINE,
        Fallback::Duration(defaults::STREAM_IDLE),
        "Silence of the origin inside a body: event streams and gRPC live with it.",
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
