//! `listener.forward`: settings of forward mode.

use super::{DEADLINE, Fallback, Key, Shape};
use crate::config::defaults;

pub(super) static LISTENER: &[Key] = &[
    Key::new(
        "allow",
        Shape::OneOrMany(&Shape::Text("a destination")),
        Fallback::Told("none; required, because nothing is allowed by default"),
        "Allowed destinations, for TCP and UDP (CONNECT-UDP) alike: `name:port`, `*.name:port` for all names below \
         it, `*:port` for every host, or an address or network with a port (`10.0.0.0/8:*`, `[2001:db8::/32]:443`). \
         The port is a number, a range (`8000-8999`) or `*`. Addresses that are not public (private, loopback, \
         link-local, multicast, shared, reserved, and IPv6 addresses that embed an IPv4 address) are allowed only \
         by an address or a network, never by a name that resolves to them.",
    )
    .example("[\"*.example.org:443\", \"10.0.0.0/8:*\"]"),
    Key::new(
        "deny",
        Shape::OneOrMany(&Shape::Text("a destination")),
        Fallback::Told("none"),
        "Denied destinations, in the same notation. `deny` takes precedence over `allow`.",
    )
    .example("[\"ads.example.org:*\"]"),
    Key::new(
        "users",
        Shape::Text("a path"),
        Fallback::Told("none: no authentication"),
        "Password file with lines of the form `name:hash`, where the hash is bcrypt (`htpasswd -B`) or Argon2id. \
         Clients must send Basic credentials in Proxy-Authorization; otherwise the answer is 407. The file is read \
         again when it changes.",
    )
    .cost("a password hash on a separate thread for each name and password not seen for five minutes")
    .example("\"config/users.htpasswd\""),
    Key::new(
        "name_servers",
        Shape::OneOrMany(&Shape::Text("an address")),
        Fallback::Told("the system's"),
        "DNS servers to use instead of the system's, each an address with a port.",
    )
    .example("[\"192.0.2.53:53\"]"),
    Key::new("timeouts", Shape::Table(TIMEOUTS), Fallback::Table, "Timeouts towards destinations."),
];

static TIMEOUTS: &[Key] = &[
    Key::new(
        "connect",
        DEADLINE,
        Fallback::Duration(defaults::OUTBOUND_CONNECT_TIMEOUT),
        "Time to resolve the name, connect to the first address that answers, and complete TLS.",
    ),
    Key::new(
        "response",
        DEADLINE,
        Fallback::Duration(defaults::RESPONSE_TIMEOUT),
        "Time from sending the request to \
     receiving the response head.",
    ),
    Key::new(
        "stream_idle",
        DEADLINE,
        Fallback::Duration(defaults::STREAM_IDLE),
        "How long the destination may be silent within a response body.",
    ),
    Key::new(
        "tunnel_idle",
        DEADLINE,
        Fallback::Duration(defaults::OUTBOUND_TUNNEL_IDLE),
        "How long a tunnel may be silent in both directions.",
    ),
];
