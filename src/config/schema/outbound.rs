//! `listener.forward`: for clients that are pointed at a proxy.

use super::{DEADLINE, Fallback, Key, Shape};
use crate::config::defaults;

pub(super) static LISTENER: &[Key] = &[
    Key::new(
        "allow",
        Shape::OneOrMany(&Shape::Text("a destination")),
        Fallback::Told("none; needed, as nothing is allowed that is not written"),
        "Where clients may go, over TCP and over UDP (CONNECT-UDP) alike: `name:port`, `*.name:port` for all names below \
         it, `*:port` for every host, an address or a network with a port (`10.0.0.0/8:*`, `[2001:db8::/32]:443`). The \
         port is a number, a range (`8000-8999`) or `*`. Addresses that are not public (private, loopback, link-local, \
         multicast, shared, reserved, and IPv6 that has an IPv4 address inside) are reached by an address or network \
         alone, whatever a name resolves to.",
    )
    .example("[\"*.example.org:443\", \"10.0.0.0/8:*\"]"),
    Key::new(
        "deny",
        Shape::OneOrMany(&Shape::Text("a destination")),
        Fallback::Told("none"),
        "Where they may not go, written alike; it wins over `allow`.",
    )
    .example("[\"ads.example.org:*\"]"),
    Key::new(
        "users",
        Shape::Text("a path"),
        Fallback::Told("none: whoever gets to the listener may use it"),
        "A password file: lines `name:hash` with a hash of bcrypt (`htpasswd -B`) or Argon2id. Clients send Basic \
         authentication in Proxy-Authorization, else they get 407. The file is read again when it changes.",
    )
    .cost("a hash on a thread of its own for each name and password that was not seen for five minutes")
    .example("\"config/users.htpasswd\""),
    Key::new(
        "name_servers",
        Shape::OneOrMany(&Shape::Text("an address")),
        Fallback::Told("the system's"),
        "Name servers to ask instead of the system's, each an address with its port.",
    )
    .example("[\"192.0.2.53:53\"]"),
    Key::new("timeouts", Shape::Table(TIMEOUTS), Fallback::Table, "How long origins may take."),
];

static TIMEOUTS: &[Key] = &[
    Key::new(
        "connect",
        DEADLINE,
        Fallback::Duration(defaults::OUTBOUND_CONNECT_TIMEOUT),
        "Resolving the name, connecting to the first of its addresses that answers, and TLS together.",
    ),
    Key::new("response", DEADLINE, Fallback::Duration(defaults::RESPONSE_TIMEOUT), "Request sent to response head."),
    Key::new(
        "stream_idle",
        DEADLINE,
        Fallback::Duration(defaults::STREAM_IDLE),
        "Silence of the origin inside a body.",
    ),
    Key::new(
        "tunnel_idle",
        DEADLINE,
        Fallback::Duration(defaults::OUTBOUND_TUNNEL_IDLE),
        "Silence of both sides of a tunnel.",
    ),
];
