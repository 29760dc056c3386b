//! `[server.admin]` and `[server.observe]`.

use super::{Fallback, Key, Shape};

pub(super) static ADMIN: &[Key] = &[
    Key::new(
        "bind",
        Shape::Text("an address"),
        Fallback::Required,
        "The one address: \"unix:/path\", whose file is made with mode 0600, or a TCP address, which needs `token_file`.",
    )
    .example("\"unix:/run/tidegate/admin.sock\""),
    Key::new(
        "token_file",
        Shape::Text("a path"),
        Fallback::Told("none"),
        "A file whose first line is the token that every request must bring as `Authorization: Bearer TOKEN`. Must be \
         there for a TCP address; on a Unix socket it may.",
    )
    .example("\"/etc/tidegate/admin.token\""),
    HOSTS,
];

pub(super) static OBSERVE: &[Key] = &[
    Key::new(
        "bind",
        Shape::Text("an address"),
        Fallback::Required,
        "The one address, TCP or \"unix:/path\", whose file is made with mode 0600. Whoever can reach it may look.",
    )
    .example("\"127.0.0.1:9900\""),
    HOSTS,
];

const HOSTS: Key = Key::new(
    "hosts",
    Shape::OneOrMany(&Shape::Text("a host")),
    Fallback::Told("none"),
    "Names that may stand in `Host` beside `localhost` and addresses. Another name is refused, so that no page on the web \
     can point a name of its own at this listener (DNS rebinding).",
)
.example("[\"status.internal\"]");
