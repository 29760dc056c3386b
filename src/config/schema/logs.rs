//! `[server.log]` and `[server.access_log]`.

use super::{Fallback, Key, Shape};

pub(super) static LOG: &[Key] = &[
    Key::new(
        "level",
        Shape::Text("a level"),
        Fallback::Told("\"info\""),
        "What it says: \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"; libraries stay at warn unless they are \
         named, as in \"debug,hyper=trace\". `--log-level` and TIDEGATE_LOG win.",
    )
    .example("\"info\""),
    Key::new(
        "format",
        Shape::Choice { words: &["text", "json"], later: &[] },
        Fallback::Text("text"),
        "Lines for people, or a JSON object each.",
    ),
];

pub(super) static ACCESS_LOG: &[Key] = &[
    Key::new(
        "output",
        Shape::Either(&[
            Shape::Word("stdout"),
            Shape::Word("stderr"),
            Shape::Word("syslog"),
            Shape::Word("journald"),
            Shape::Text("a path"),
        ]),
        Fallback::Text("stdout"),
        "Where lines go: \"stdout\", \"stderr\", \"syslog\" (/dev/log, or another socket as \"syslog:/path\"), \"journald\" \
         (or \"journald:/path\"), or a file, which is appended to, made with mode 0640 and opened anew at HUP and reloads.",
    ),
    Key::new(
        "format",
        Shape::Either(&[
            Shape::Word("json"),
            Shape::Word("logfmt"),
            Shape::Word("combined"),
            Shape::Text("a template of fields"),
        ]),
        Fallback::Text("json"),
        "How a line looks: \"json\", \"logfmt\", \"combined\" (as of Apache and nginx), or a template such as \
         \"{client_ip} {method} {path} {status} {duration_ms}\". docs/access-log.md lists the fields.",
    ),
    Key::new(
        "only",
        Shape::Text("a condition"),
        Fallback::Told("every exchange"),
        "Which exchanges are logged: comparisons of fields (= != < <= > >=, ~ for regular expressions), `and`, `or`, \
         `not`, parentheses; texts in single quotes.",
    )
    .example("\"status >= 400 or duration > 500ms\""),
    Key::new("sample", Shape::Share, Fallback::Number("1.0"), "The share of these that is logged, by chance."),
    Key::new(
        "query",
        Shape::Flag,
        Fallback::Flag(false),
        "Whether query strings are logged, of the request and of Referer: they often hold what is secret.",
    ),
    Key::new(
        "request_headers",
        Shape::OneOrMany(&Shape::Text("the name of a header")),
        Fallback::Told("none"),
        "Request headers that are logged as well, the first line of each. Authorization, Proxy-Authorization, Cookie and \
         Set-Cookie never are.",
    )
    .example("[\"x-tenant\"]"),
    Key::new(
        "response_headers",
        Shape::OneOrMany(&Shape::Text("the name of a header")),
        Fallback::Told("none"),
        "The same of the answer's headers, as the client gets them.",
    )
    .example("[\"content-type\"]"),
];
