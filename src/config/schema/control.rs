//! `[server.admin]` and `[server.observe]`.

use super::{Fallback, Key, Shape};

pub(super) static ADMIN: &[Key] = &[
    Key::new(
        "bind",
        Shape::Text("an address"),
        Fallback::Required,
        "Address to listen on: \"unix:/path\", created with mode 0600, or a TCP address, which requires `token_file`.",
    )
    .example("\"unix:/run/tidegate/admin.sock\""),
    Key::new(
        "token_file",
        Shape::Text("a path"),
        Fallback::Told("none"),
        "File whose first line is the token that every request must send as `Authorization: Bearer TOKEN`. Required \
         for a TCP address, optional for a Unix socket.",
    )
    .example("\"/etc/tidegate/admin.token\""),
    HOSTS,
];

pub(super) static OBSERVE: &[Key] = &[
    Key::new(
        "bind",
        Shape::Text("an address"),
        Fallback::Required,
        "Address to listen on: a TCP address, or \"unix:/path\", created with mode 0600. There is no authentication: \
         anyone who can reach it can read it.",
    )
    .example("\"127.0.0.1:9900\""),
    HOSTS,
];

const HOSTS: Key = Key::new(
    "hosts",
    Shape::OneOrMany(&Shape::Text("a host")),
    Fallback::Told("none"),
    "Host names accepted in `Host` in addition to `localhost` and IP addresses. Requests with other names are \
     refused, so that a web page cannot reach this listener through a name of its own (DNS rebinding).",
)
.example("[\"status.internal\"]");
