//! `[[route]]` and its tables.

use super::{DEADLINE, Fallback, Key, Shape, WEIGHT_MAX};
use crate::config::defaults;

pub(super) static ROUTE: &[Key] = &[
    Key::new(
        "name",
        Shape::Text("a name"),
        Fallback::Told("derived from host, path and predicates"),
        "Name used in logs and metrics. Must be unique.",
    )
    .example("\"api\""),
    Key::new(
        "listener",
        Shape::OneOrMany(&Shape::Text("the name of a listener")),
        Fallback::Told("every listener"),
        "Listeners the route belongs to.",
    )
    .example("\":8080\""),
    Key::new(
        "host",
        Shape::OneOrMany(&Shape::Text("a host")),
        Fallback::Told("every host"),
        "Hosts to match: \"api.example.org\", or \"*.example.org\" for any name below it.",
    )
    .example("[\"example.org\", \"*.example.org\"]"),
    Key::new(
        "path",
        Shape::Text("a path"),
        Fallback::Told("every path"),
        "Path to match: \"/exact\", \"/prefix/*\" (whole segments; also matches /prefix), or \"~ ^/regex$\".",
    )
    .example("\"/v1/*\""),
    Key::new("method", Shape::OneOrMany(&Shape::Text("a method")), Fallback::Told("every method"), "Methods to match.")
        .example("[\"GET\", \"POST\"]"),
    Key::new(
        "header",
        Shape::Map(&Shape::Text("a value or `~ regex`")),
        Fallback::Told("none"),
        "Request headers to match, all of them: an exact value, or \"~ regex\".",
    )
    .example("{ x-canary = \"yes\" }"),
    Key::new(
        "query",
        Shape::Map(&Shape::Text("a value or `~ regex`")),
        Fallback::Told("none"),
        "Query parameters to match, all of them: an exact value, or \"~ regex\".",
    )
    .example("{ version = \"~ ^2\" }"),
    Key::new("upstream", Shape::Text("the name of an upstream"), Fallback::Told("none"), "Forward to this upstream.")
        .example("\"app\""),
    Key::new(
        "weighted",
        Shape::List(&Shape::Table(SHARE)),
        Fallback::Told("none"),
        "Forward to one of several upstreams, chosen at random in proportion to their weights.",
    )
    .example("[{ upstream = \"app\", weight = 95 }, { upstream = \"next\", weight = 5 }]"),
    Key::new("redirect", Shape::Table(REDIRECT), Fallback::Told("none"), "Answer with a redirect."),
    Key::new("respond", Shape::Table(RESPOND), Fallback::Told("none"), "Answer with a fixed response."),
    Key::new(
        "strip_prefix",
        Shape::Text("a path"),
        Fallback::Told("none"),
        "Prefix to remove from the path before forwarding: with \"/v1\", /v1/x becomes /x and /v1 becomes /.",
    )
    .example("\"/v1\""),
    Key::new(
        "replace_path",
        Shape::Text("a path with placeholders"),
        Fallback::Told("none"),
        "Path to forward instead; {rest} is what `*` in the route's path matched.",
    )
    .example("\"/new{rest}\""),
    Key::new(
        "host_header",
        Shape::Text("preserve, upstream or a name"),
        Fallback::Text("preserve"),
        "Host to send to the upstream: the client's (preserve), the endpoint's own (upstream), or this name.",
    ),
    Key::new(
        "max_body",
        Shape::Either(&[Shape::Word("unlimited"), Shape::Size { min: 0, max: 1 << 60 }]),
        Fallback::Told("the listener's"),
        "Size of a request body. A larger one is answered with 413.",
    )
    .example("\"10MiB\""),
    Key::new(
        "allow",
        Shape::OneOrMany(&Shape::Text("a network")),
        Fallback::Told("every client"),
        "Client networks that may use the route. Others are answered with 403.",
    )
    .example("[\"10.0.0.0/8\"]"),
    Key::new(
        "deny",
        Shape::OneOrMany(&Shape::Text("a network")),
        Fallback::Told("none"),
        "Client networks that are refused. Checked before `allow`.",
    )
    .example("[\"10.66.0.0/16\"]"),
    Key::new(
        "upgrade",
        Shape::OneOrMany(&Shape::Text("a protocol")),
        Fallback::Only(defaults::UPGRADE),
        "Protocols that clients may upgrade to, by Upgrade or extended CONNECT; [] for none.",
    ),
    Key::new(
        "timeouts",
        Shape::Table(TIMEOUTS),
        Fallback::Table,
        "Timeouts of the route. They take precedence over the upstream's.",
    ),
    Key::new("retry", Shape::Table(RETRY), Fallback::Table, "When a failed request is sent again."),
    Key::new(
        "buffer",
        Shape::Table(BUFFER),
        Fallback::Table,
        "Body buffering. Without it, bodies are streamed and nothing is read ahead.",
    ),
    Key::new(
        "grpc_web",
        Shape::Flag,
        Fallback::Flag(false),
        "Translate gRPC-Web requests from browsers to gRPC, and their responses back. Other requests pass unchanged.",
    ),
    Key::new(
        "normalize_path",
        Shape::Flag,
        Fallback::Flag(false),
        "Forward the normalized path, which is the form that routes are matched against, and list the changes in \
         x-normalized-path. Without it the path is forwarded byte for byte.",
    ),
    Key::new(
        "request_headers",
        Shape::Table(EDITS),
        Fallback::Table,
        "Changes to the request headers sent to the upstream, applied in the order remove, set, add.",
    ),
    Key::new(
        "response_headers",
        Shape::Table(EDITS),
        Fallback::Table,
        "Changes to the response headers sent to the client, applied in the order remove, set, add.",
    ),
    Key::new(
        "access_log",
        Shape::Flag,
        Fallback::Flag(true),
        "Whether its requests are written to the access log, if there is one.",
    ),
    Key::later("sticky"),
];

static SHARE: &[Key] = &[
    Key::new("upstream", Shape::Text("the name of an upstream"), Fallback::Required, "Upstream of this share.")
        .example("\"app\""),
    Key::new(
        "weight",
        Shape::Count { min: 0, max: WEIGHT_MAX },
        Fallback::Count(defaults::WEIGHT as u64),
        "Relative weight; 0 for no requests.",
    ),
];

static REDIRECT: &[Key] = &[
    Key::new(
        "to",
        Shape::Text("a location with placeholders"),
        Fallback::Required,
        "Value of Location: an absolute URL or a path.",
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
        "Status code.",
    ),
    Key::new("body", Shape::Text("a body"), Fallback::Text(""), "Response body."),
    Key::new(
        "content_type",
        Shape::Text("a media type"),
        Fallback::Text(defaults::RESPOND_CONTENT_TYPE),
        "Content-Type of the body.",
    ),
];

static TIMEOUTS: &[Key] = &[
    Key::new(
        "response",
        DEADLINE,
        Fallback::Told("the upstream's"),
        "Time from sending the request to receiving the \
     response head.",
    )
    .example("\"30s\""),
    Key::new(
        "total",
        Shape::Either(&[Shape::Word("off"), DEADLINE]),
        Fallback::Text("off"),
        "Time for the whole request, including retries and both bodies. Does not apply after an upgrade.",
    ),
    Key::new(
        "tunnel_idle",
        DEADLINE,
        Fallback::Told("the upstream's"),
        "How long an upgraded connection (WebSocket) may be silent in both directions.",
    )
    .example("\"5m\""),
];

static RETRY: &[Key] = &[
    Key::new(
        "attempts",
        Shape::Count { min: 0, max: 10 },
        Fallback::Count(defaults::RETRY_ATTEMPTS as u64),
        "Number of retries after the first attempt.",
    )
    .cost("up to that much more load on endpoints that already fail"),
    Key::new(
        "on",
        Shape::OneOrMany(&Shape::Text("connect-failure, reset-before-headers or a status")),
        Fallback::Only(defaults::RETRY_ON),
        "Failures to retry: \"connect-failure\", \"reset-before-headers\", or a status such as \"503\". A request \
         that is not idempotent and may already have been processed is never sent again.",
    ),
    Key::new(
        "replay",
        Shape::Size { min: 0, max: 1 << 30 },
        Fallback::Size(defaults::RETRY_REPLAY),
        "Bytes of a request body kept for retries. Requests with a larger body are sent once.",
    )
    .cost("up to this much memory for each request in progress"),
];

static BUFFER: &[Key] = &[
    Key::new(
        "request",
        Shape::Size { min: 1 << 10, max: 1 << 30 },
        Fallback::Told("none"),
        "Bytes of the request body to read before an endpoint is chosen. The rest of a larger body is streamed.",
    )
    .example("\"1MiB\"")
    .cost("up to this much memory, plus 128 KiB, for each request in progress"),
    Key::new(
        "response",
        Shape::Size { min: 1 << 10, max: 1 << 30 },
        Fallback::Told("none"),
        "Bytes of the response body to read ahead of the client, so that a slow client does not hold up the endpoint.",
    )
    .example("\"1MiB\"")
    .cost("up to this much memory, plus 256 KiB, for each request in progress"),
];

static EDITS: &[Key] = &[
    Key::new(
        "remove",
        Shape::OneOrMany(&Shape::Text("the name of a header")),
        Fallback::Told("none"),
        "Headers to remove.",
    )
    .example("[\"x-debug\"]"),
    Key::new(
        "set",
        Shape::Map(&Shape::Text("a value")),
        Fallback::Told("none"),
        "Headers to set; an existing value \
     is replaced.",
    )
    .example("{ x-client = \"{client_ip}\" }"),
    Key::new(
        "add",
        Shape::Map(&Shape::Text("a value")),
        Fallback::Told("none"),
        "Headers to append; existing values \
     are kept.",
    )
    .example("{ x-env = \"prod\" }"),
];
