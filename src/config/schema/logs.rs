//! `[server.log]` and `[server.access_log]`.

use super::{Fallback, Key, Shape};

pub(super) static LOG: &[Key] = &[
    Key::new(
        "level",
        Shape::Text("a level"),
        Fallback::Told("\"info\""),
        "Log level: \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\". Libraries stay at warn unless \
         they are named, as in \"debug,hyper=trace\". `--log-level` and TIDEGATE_LOG take precedence.",
    )
    .example("\"info\""),
    Key::new(
        "format",
        Shape::Choice { words: &["text", "json"], later: &[] },
        Fallback::Text("text"),
        "\"text\" for people, \"json\" for one JSON object per line.",
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
        "Where lines are written: \"stdout\", \"stderr\", \"syslog\" (/dev/log, or another socket as \
         \"syslog:/path\"), \"journald\" (or \"journald:/path\"), or a file. A file is created with mode 0640, \
         appended to, and reopened on SIGHUP and on reloads.",
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
        "Line format: \"json\", \"logfmt\", \"combined\" (as in Apache and nginx), or a template such as \
         \"{client_ip} {method} {path} {status} {duration_ms}\". docs/access-log.md lists the fields.",
    ),
    Key::new(
        "only",
        Shape::Text("a condition"),
        Fallback::Told("every request"),
        "Condition on the requests to log: comparisons of fields (= != < <= > >=, ~ for regular expressions), `and`, \
         `or`, `not`, parentheses; strings in single quotes.",
    )
    .example("\"status >= 400 or duration > 500ms\""),
    Key::new(
        "sample",
        Shape::Share,
        Fallback::Number("1.0"),
        "Share of the matching requests to log, chosen at \
     random.",
    ),
    Key::new(
        "query",
        Shape::Flag,
        Fallback::Flag(false),
        "Whether to log the query strings of the request and of Referer. They often contain secrets.",
    ),
    Key::new(
        "request_headers",
        Shape::OneOrMany(&Shape::Text("the name of a header")),
        Fallback::Told("none"),
        "Additional request headers to log; of a repeated header, its first line. Authorization, \
         Proxy-Authorization, Cookie and Set-Cookie are never logged.",
    )
    .example("[\"x-tenant\"]"),
    Key::new(
        "response_headers",
        Shape::OneOrMany(&Shape::Text("the name of a header")),
        Fallback::Told("none"),
        "Additional response headers to log, as sent to the client.",
    )
    .example("[\"content-type\"]"),
];
