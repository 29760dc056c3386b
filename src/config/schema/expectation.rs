//! `[[expect]]` and its tables.

use super::{Fallback, Key, Shape};

pub(super) static EXPECTATION: &[Key] = &[
    Key::new(
        "request",
        Shape::Text("a request"),
        Fallback::Required,
        "What is asked: a method, which may be left out for GET, and an address: \"GET https://example.org/x\". With tcp://, \
         tls://, udp:// and quic:// it is a connection to a listener that reads no requests.",
    )
    .example("\"GET http://localhost:8080/\""),
    Key::new(
        "headers",
        Shape::Map(&Shape::Text("a value")),
        Fallback::Told("none"),
        "Headers that the request brings.",
    )
    .example("{ x-canary = \"yes\" }"),
    Key::new(
        "client",
        Shape::Text("an address"),
        Fallback::Told("192.0.2.1, somebody on the internet"),
        "The client's address.",
    )
    .example("\"10.0.0.7\""),
    Key::new(
        "listener",
        Shape::Text("the name of a listener"),
        Fallback::Told("by the port of the address"),
        "The listener that it comes to.",
    )
    .example("\":8080\""),
    Key::new(
        "protocol",
        Shape::Choice { words: &["http1", "http2", "http3"], later: &[] },
        Fallback::Told("http2 over TLS, else http1, as far as the listener speaks it"),
        "What it is spoken in.",
    )
    .example("\"http1\""),
    Key::new(
        "upgrade",
        Shape::Text("a protocol"),
        Fallback::Told("websocket with ws:// and wss://, else none"),
        "The protocol that it would switch to, by Upgrade on http1, by extended CONNECT on http2 and http3.",
    )
    .example("\"websocket\""),
    Key::new(
        "sni",
        Shape::Text("a name"),
        Fallback::Told("the host of the address"),
        "The name of the client's TLS handshake.",
    )
    .example("\"example.org\""),
    Key::new(
        "alpn",
        Shape::OneOrMany(&Shape::Text("a protocol")),
        Fallback::Told("none"),
        "The protocols that a tls:// or quic:// client offers.",
    )
    .example("\"tunnel/1\""),
    Key::new(
        "route",
        Shape::Text("the name of a route"),
        Fallback::Told("any"),
        "The route that must take it.",
    )
    .example("\"*/*\""),
    Key::new(
        "upstream",
        Shape::OneOrMany(&Shape::Text("the name of an upstream")),
        Fallback::Told("any"),
        "The upstream that it must go to; for a weighted route, every one that it may go to.",
    )
    .example("\"app\""),
    Key::new(
        "status",
        Shape::Count { min: 100, max: 599 },
        Fallback::Told("any"),
        "The status that the proxy itself must answer with: of a redirect, a fixed response, or a refusal.",
    )
    .example("308"),
    Key::new(
        "outcome",
        Shape::Text("a word of the access log"),
        Fallback::Told("any"),
        "The word that its refusal must have in log, metrics and Proxy-Status.",
    )
    .example("\"http_request_denied\""),
    Key::new(
        "header",
        Shape::Map(&Shape::Text("a value or `~ regex`")),
        Fallback::Told("any"),
        "Headers that the proxy's own answer must have: a value exactly, or \"~ regex\".",
    )
    .example("{ location = \"~ ^https:\" }"),
    Key::new(
        "sent",
        Shape::Table(SENT),
        Fallback::Table,
        "What an endpoint must get to see of it.",
    ),
];

static SENT: &[Key] = &[
    Key::new("host", Shape::Text("a host"), Fallback::Told("any"), "Host, or :authority.").example("\"example.org\""),
    Key::new("path", Shape::Text("a path"), Fallback::Told("any"), "The path with its query.").example("\"/x?y=1\""),
    Key::new(
        "header",
        Shape::Map(&Shape::Text("a value or `~ regex`")),
        Fallback::Told("any"),
        "Headers it must have: a value exactly, or \"~ regex\".",
    )
    .example("{ x-forwarded-proto = \"https\" }"),
    Key::new(
        "without",
        Shape::OneOrMany(&Shape::Text("the name of a header")),
        Fallback::Told("none"),
        "Headers it must not have.",
    )
    .example("[\"x-debug\"]"),
];
