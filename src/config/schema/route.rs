//! `[[route]]` and its tables.

use super::{DEADLINE, Fallback, Key, Shape, WEIGHT_MAX};
use crate::config::defaults;

pub(super) static ROUTE: &[Key] = &[
    Key::new(
        "name",
        Shape::Text("a name"),
        Fallback::Told("made from host, path and predicates"),
        "What logs and metrics call it; unique, and the same across reloads.",
    )
    .example("\"api\""),
    Key::new(
        "listener",
        Shape::OneOrMany(&Shape::Text("the name of a listener")),
        Fallback::Told("every listener"),
        "The listeners it belongs to.",
    )
    .example("\":8080\""),
    Key::new(
        "host",
        Shape::OneOrMany(&Shape::Text("a host")),
        Fallback::Told("every host"),
        "Hosts it matches: \"api.example.org\", or \"*.example.org\" for any name below it.",
    )
    .example("[\"example.org\", \"*.example.org\"]"),
    Key::new(
        "path",
        Shape::Text("a path"),
        Fallback::Told("every path"),
        "Paths it matches: \"/exact\", \"/prefix/*\" (by segment; matches /prefix as well), \"~ ^/regex$\".",
    )
    .example("\"/v1/*\""),
    Key::new(
        "method",
        Shape::OneOrMany(&Shape::Text("a method")),
        Fallback::Told("every method"),
        "Methods it matches.",
    )
    .example("[\"GET\", \"POST\"]"),
    Key::new(
        "header",
        Shape::Map(&Shape::Text("a value or `~ regex`")),
        Fallback::Told("none"),
        "Request headers that must all hold: a value exactly, or \"~ regex\".",
    )
    .example("{ x-canary = \"yes\" }"),
    Key::new(
        "query",
        Shape::Map(&Shape::Text("a value or `~ regex`")),
        Fallback::Told("none"),
        "Query parameters that must all hold: a value exactly, or \"~ regex\".",
    )
    .example("{ version = \"~ ^2\" }"),
    Key::new(
        "upstream",
        Shape::Text("the name of an upstream"),
        Fallback::Told("none"),
        "Forward to the endpoints of this upstream.",
    )
    .example("\"app\""),
    Key::new(
        "weighted",
        Shape::List(&Shape::Table(SHARE)),
        Fallback::Told("none"),
        "Forward to several upstreams, by chance in proportion to their weights.",
    )
    .example("[{ upstream = \"app\", weight = 95 }, { upstream = \"next\", weight = 5 }]"),
    Key::new("redirect", Shape::Table(REDIRECT), Fallback::Told("none"), "Answer with a redirect."),
    Key::new("respond", Shape::Table(RESPOND), Fallback::Told("none"), "Answer with a fixed response."),
    Key::new(
        "strip_prefix",
        Shape::Text("a path"),
        Fallback::Told("none"),
        "Taken from the front of the path before it is forwarded: with \"/v1\", /v1/x becomes /x and /v1 becomes /.",
    )
    .example("\"/v1\""),
    Key::new(
        "replace_path",
        Shape::Text("a path with placeholders"),
        Fallback::Told("none"),
        "The path to forward instead; {rest} is what `*` of the route's path matched.",
    )
    .example("\"/new{rest}\""),
    Key::new(
        "host_header",
        Shape::Text("preserve, upstream or a name"),
        Fallback::Text("preserve"),
        "What the upstream sees as Host: what the client sent (preserve), the endpoint's own (upstream), or this name.",
    ),
    Key::new(
        "max_body",
        Shape::Either(&[Shape::Word("unlimited"), Shape::Size { min: 0, max: 1 << 60 }]),
        Fallback::Told("the listener's"),
        "Bytes of a request body; 413 past it.",
    )
    .example("\"10MiB\""),
    Key::new(
        "allow",
        Shape::OneOrMany(&Shape::Text("a network")),
        Fallback::Told("every client"),
        "Client networks that may use the route; 403 for anyone else.",
    )
    .example("[\"10.0.0.0/8\"]"),
    Key::new(
        "deny",
        Shape::OneOrMany(&Shape::Text("a network")),
        Fallback::Told("none"),
        "Client networks that are refused before `allow` is asked.",
    )
    .example("[\"10.66.0.0/16\"]"),
    Key::new(
        "upgrade",
        Shape::OneOrMany(&Shape::Text("a protocol")),
        Fallback::Only(defaults::UPGRADE),
        "Protocols that may be switched to, by Upgrade or by extended CONNECT; [] for none.",
    ),
    Key::new(
        "timeouts",
        Shape::Table(TIMEOUTS),
        Fallback::Table,
        "Deadlines of the route; they win over the upstream's.",
    ),
    Key::new("retry", Shape::Table(RETRY), Fallback::Table, "When a request is sent again."),
    Key::new(
        "buffer",
        Shape::Table(BUFFER),
        Fallback::Table,
        "Takes bodies in ahead of whoever reads them slowly; without it nothing is held back or read ahead.",
    ),
    Key::new(
        "grpc_web",
        Shape::Flag,
        Fallback::Flag(false),
        "Translates gRPC-Web of browsers to gRPC, and the answers back; gRPC itself passes as it came.",
    ),
    Key::new(
        "normalize_path",
        Shape::Flag,
        Fallback::Flag(false),
        "Forwards the path in the form that routes are matched by, and names what that changed in x-normalized-path; \
         without it the path goes on byte for byte.",
    ),
    Key::new(
        "request_headers",
        Shape::Table(EDITS),
        Fallback::Table,
        "Edits of what goes to the upstream, in the order remove, set, add.",
    ),
    Key::new(
        "response_headers",
        Shape::Table(EDITS),
        Fallback::Table,
        "Edits of what goes to the client, in the order remove, set, add.",
    ),
    Key::new(
        "access_log",
        Shape::Flag,
        Fallback::Flag(true),
        "Whether its requests go into the access log, where there is one.",
    ),
    Key::later("sticky"),
];

static SHARE: &[Key] = &[
    Key::new("upstream", Shape::Text("the name of an upstream"), Fallback::Required, "Where this share goes.")
        .example("\"app\""),
    Key::new(
        "weight",
        Shape::Count { min: 0, max: WEIGHT_MAX },
        Fallback::Count(defaults::WEIGHT as u64),
        "Its share; 0 for none.",
    ),
];

static REDIRECT: &[Key] = &[
    Key::new(
        "to",
        Shape::Text("a location with placeholders"),
        Fallback::Required,
        "The Location: an address or a path.",
    )
    .example("\"https://{host}{path_and_query}\""),
    Key::new(
        "status",
        Shape::Count { min: 300, max: 399 },
        Fallback::Count(defaults::REDIRECT_STATUS as u64),
        "301, 302, 303, 307 or 308.",
    ),
];

static RESPOND: &[Key] = &[
    Key::new(
        "status",
        Shape::Count { min: 200, max: 599 },
        Fallback::Count(defaults::RESPOND_STATUS as u64),
        "The status.",
    ),
    Key::new("body", Shape::Text("a body"), Fallback::Text(""), "The body."),
    Key::new(
        "content_type",
        Shape::Text("a media type"),
        Fallback::Text(defaults::RESPOND_CONTENT_TYPE),
        "Content-Type of the body.",
    ),
];

static TIMEOUTS: &[Key] = &[
    Key::new("response", DEADLINE, Fallback::Told("the upstream's"), "Request sent to response head.")
        .example("\"30s\""),
    Key::new(
        "total",
        Shape::Either(&[Shape::Word("off"), DEADLINE]),
        Fallback::Text("off"),
        "The whole exchange, every send and both bodies; after protocols were switched it means nothing.",
    ),
    Key::new(
        "tunnel_idle",
        DEADLINE,
        Fallback::Told("the upstream's"),
        "Silence in both directions after protocols were switched (WebSocket).",
    )
    .example("\"5m\""),
];

static RETRY: &[Key] = &[
    Key::new(
        "attempts",
        Shape::Count { min: 0, max: 10 },
        Fallback::Count(defaults::RETRY_ATTEMPTS as u64),
        "Sends beyond the first.",
    )
    .cost("that much more load on endpoints that already fail"),
    Key::new(
        "on",
        Shape::OneOrMany(&Shape::Text("connect-failure, reset-before-headers or a status")),
        Fallback::Only(defaults::RETRY_ON),
        "What is tried again: \"connect-failure\", \"reset-before-headers\", or a status such as \"503\". A request that \
         may have been carried out and is not idempotent is never sent again.",
    ),
    Key::new(
        "replay",
        Shape::Size { min: 0, max: 1 << 30 },
        Fallback::Size(defaults::RETRY_REPLAY),
        "Bytes of a request body kept for a second send; larger bodies are sent once.",
    )
    .cost("up to this much memory for a request in flight"),
];

static BUFFER: &[Key] = &[
    Key::new(
        "request",
        Shape::Size { min: 1 << 10, max: 1 << 30 },
        Fallback::Told("none"),
        "Bytes of a request body that are read before an endpoint is asked; what is larger streams from there.",
    )
    .example("\"1MiB\"")
    .cost("up to this much memory, and 128 KiB, for a request in flight"),
    Key::new(
        "response",
        Shape::Size { min: 1 << 10, max: 1 << 30 },
        Fallback::Told("none"),
        "Bytes of an answer that are read ahead of its client, so that a slow one keeps no endpoint waiting.",
    )
    .example("\"1MiB\"")
    .cost("up to this much memory, and 256 KiB, for a request in flight"),
];

static EDITS: &[Key] = &[
    Key::new(
        "remove",
        Shape::OneOrMany(&Shape::Text("the name of a header")),
        Fallback::Told("none"),
        "Headers taken away.",
    )
    .example("[\"x-debug\"]"),
    Key::new("set", Shape::Map(&Shape::Text("a value")), Fallback::Told("none"), "Headers replaced or put.")
        .example("{ x-client = \"{client_ip}\" }"),
    Key::new("add", Shape::Map(&Shape::Text("a value")), Fallback::Told("none"), "Headers appended.")
        .example("{ x-env = \"prod\" }"),
];
