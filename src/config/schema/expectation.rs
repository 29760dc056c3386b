//! `[[expect]]` and its tables.

use super::{Fallback, Key, Shape};

pub(super) static EXPECTATION: &[Key] = &[
    Key::new(
        "request",
        Shape::Text("a request"),
        Fallback::Required,
        "The request: a method, which may be left out for GET, and a URL: \"GET https://example.org/x\". The schemes \
         tcp://, tls://, udp:// and quic:// stand for a connection to a layer 4 or QUIC listener.",
    )
    .example("\"GET http://localhost:8080/\""),
    Key::new("headers", Shape::Map(&Shape::Text("a value")), Fallback::Told("none"), "Request headers.")
        .example("{ x-canary = \"yes\" }"),
    Key::new(
        "client",
        Shape::Text("an address"),
        Fallback::Told("192.0.2.1, which stands for a client on the internet"),
        "Client address.",
    )
    .example("\"10.0.0.7\""),
    Key::new(
        "listener",
        Shape::Text("the name of a listener"),
        Fallback::Told("chosen by the port of the URL"),
        "Listener that receives the request.",
    )
    .example("\":8080\""),
    Key::new(
        "protocol",
        Shape::Choice { words: &["http1", "http2", "http3"], later: &[] },
        Fallback::Told("http2 over TLS, otherwise http1, if the listener supports it"),
        "HTTP version of the request.",
    )
    .example("\"http1\""),
    Key::new(
        "upgrade",
        Shape::Text("a protocol"),
        Fallback::Told("websocket with ws:// and wss://, otherwise none"),
        "Protocol to switch to, by Upgrade on http1, or by extended CONNECT on http2 and http3.",
    )
    .example("\"websocket\""),
    Key::new(
        "sni",
        Shape::Text("a name"),
        Fallback::Told("the host of the URL"),
        "Server name (SNI) in the client's TLS handshake.",
    )
    .example("\"example.org\""),
    Key::new(
        "alpn",
        Shape::OneOrMany(&Shape::Text("a protocol")),
        Fallback::Told("none"),
        "ALPN protocols that a tls:// or quic:// client offers.",
    )
    .example("\"tunnel/1\""),
    Key::new("route", Shape::Text("the name of a route"), Fallback::Told("any"), "Route that must match.")
        .example("\"*/*\""),
    Key::new(
        "upstream",
        Shape::OneOrMany(&Shape::Text("the name of an upstream")),
        Fallback::Told("any"),
        "Upstream that must be used; for a weighted route, all upstreams it may use.",
    )
    .example("\"app\""),
    Key::new(
        "status",
        Shape::Count { min: 100, max: 599 },
        Fallback::Told("any"),
        "Status that the proxy itself must answer with: for a redirect, a fixed response or a refusal.",
    )
    .example("308"),
    Key::new(
        "outcome",
        Shape::Text("an outcome as in the access log"),
        Fallback::Told("any"),
        "Outcome that the refusal must have in the access log, metrics and Proxy-Status.",
    )
    .example("\"http_request_denied\""),
    Key::new(
        "header",
        Shape::Map(&Shape::Text("a value or `~ regex`")),
        Fallback::Told("any"),
        "Response headers that the proxy's own answer must have: an exact value, or \"~ regex\".",
    )
    .example("{ location = \"~ ^https:\" }"),
    Key::new("sent", Shape::Table(SENT), Fallback::Table, "What the endpoint must receive."),
];

static SENT: &[Key] = &[
    Key::new("host", Shape::Text("a host"), Fallback::Told("any"), "Host or :authority.").example("\"example.org\""),
    Key::new("path", Shape::Text("a path"), Fallback::Told("any"), "Path with query.").example("\"/x?y=1\""),
    Key::new(
        "header",
        Shape::Map(&Shape::Text("a value or `~ regex`")),
        Fallback::Told("any"),
        "Headers the endpoint must receive: an exact value, or \"~ regex\".",
    )
    .example("{ x-forwarded-proto = \"https\" }"),
    Key::new(
        "without",
        Shape::OneOrMany(&Shape::Text("the name of a header")),
        Fallback::Told("none"),
        "Headers the endpoint must not receive.",
    )
    .example("[\"x-debug\"]"),
];
