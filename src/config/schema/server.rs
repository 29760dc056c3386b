//! The root of a file and `[server]`.

use super::{Fallback, Key, Shape, YEAR, control, expectation, listener, logs, route, upstream};
use crate::config::defaults;
use std::time::Duration;

/// The keys of a whole file.
pub static ROOT: &[Key] = &[
    Key::new(
        "include",
        Shape::OneOrMany(&Shape::Text("a path or a pattern")),
        Fallback::Told("none"),
        "Other files to merge into this one. They are read after it, in byte order of their paths; `*` and `?` match \
         anything except a slash. Relative paths are resolved against the directory of the including file. \
         `[server]` may appear in one file only.",
    )
    .example("[\"sites/*.toml\"]"),
    Key::new("server", Shape::Table(SERVER), Fallback::Table, "Settings of the whole process."),
    Key::new(
        "listener",
        Shape::Tables(listener::LISTENER),
        Fallback::Required,
        "Addresses to accept connections on, and the protocols spoken there. May be repeated.",
    ),
    Key::new(
        "route",
        Shape::Tables(route::ROUTE),
        Fallback::Required,
        "A match on requests and what to do with those that match. The most specific match wins: exact host, longest \
         wildcard, no host; then exact path, longest prefix, regular expression; then the number of further \
         predicates; then the order in the file. A route needs exactly one of `upstream`, `weighted`, `redirect` \
         and `respond`. May be repeated.",
    ),
    Key::new(
        "upstream",
        Shape::Named(upstream::UPSTREAM),
        Fallback::Told("none"),
        "A named set of endpoints and how to connect to them. May be repeated under other names.",
    ),
    Key::new(
        "expect",
        Shape::Tables(expectation::EXPECTATION),
        Fallback::Told("none"),
        "A test: a request and what must become of it. `tidegate check`, every start and every reload run all tests; \
         a failing test rejects the configuration. May be repeated.",
    ),
];

static SERVER: &[Key] = &[
    Key::new(
        "workers",
        Shape::Either(&[Shape::Word("auto"), Shape::Count { min: 1, max: 1024 }]),
        Fallback::Text("auto"),
        "Number of data-plane threads. Each has its own runtime, sockets and connection pools. \"auto\": as many as \
         the CPU affinity mask and the cgroup's CPU quota allow.",
    )
    .cost("a thread, and idle connections to every endpoint"),
    Key::new(
        "drain_timeout",
        Shape::Duration { min: Duration::ZERO, max: YEAR },
        Fallback::Duration(defaults::DRAIN_TIMEOUT),
        "How long requests in progress may take to finish after a drain has begun. What is still open then is closed.",
    ),
    Key::new(
        "drain_delay",
        Shape::Duration { min: Duration::ZERO, max: YEAR },
        Fallback::Duration(defaults::DRAIN_DELAY),
        "How long to keep accepting connections after SIGTERM while `/readyz` already answers 503, so that load \
         balancers have time to notice. Then the drain begins. A second SIGTERM, or SIGINT, begins it at once.",
    ),
    Key::new(
        "user",
        Shape::Text("a user of this system"),
        Fallback::Told("keep the current user"),
        "User to switch to when started as root, after every address is bound and every file is read: a name or a \
         number. Root privileges are then gone for reloads too. Not needed under systemd, where `User=` or \
         `DynamicUser=` already avoids root.",
    )
    .example("\"tidegate\""),
    Key::new(
        "group",
        Shape::Text("a group of this system"),
        Fallback::Told("the user's own"),
        "Group to switch to together with `user`. The user's supplementary groups are set as well.",
    )
    .example("\"tidegate\""),
    Key::new("metrics", Shape::Table(METRICS), Fallback::Table, "Limits on what gets metrics of its own."),
    Key::new(
        "watch",
        Shape::Flag,
        Fallback::Flag(defaults::WATCH),
        "Reload when a file of the configuration, or a token file, changes on disk, as SIGHUP does. Certificates, \
         keys and CA files are always watched.",
    ),
    Key::new(
        "admin",
        Shape::Table(control::ADMIN),
        Fallback::Told("none"),
        "Admin listener: everything that `observe` shows, plus the configuration in force, reload, drain and the log \
         level. `tidegate status`, `reload` and `drain` connect to it. No upstream may point at it.",
    ),
    Key::new(
        "observe",
        Shape::Table(control::OBSERVE),
        Fallback::Told("none"),
        "Read-only listener: the status page at `/`, and `/status`, `/metrics`, `/healthz` and `/readyz`. No \
         upstream may point at it.",
    ),
    Key::new(
        "quic_key_file",
        Shape::Text("a path"),
        Fallback::Told("none: random keys made at start"),
        "File of 32 or more random bytes, from which the keys for QUIC stateless resets and address tokens are \
         derived. With a fixed key, clients learn at once that a process which crashed or restarted no longer knows \
         their connections, and several proxies behind one address accept each other's tokens. Keep it secret (mode \
         0600).",
    )
    .example("\"/var/lib/tidegate/quic.key\""),
    Key::new(
        "log",
        Shape::Table(logs::LOG),
        Fallback::Table,
        "The process's own log, written to stderr. A reload applies changes.",
    ),
    Key::new(
        "access_log",
        Shape::Table(logs::ACCESS_LOG),
        Fallback::Told("off"),
        "One line per request, written by a separate thread. Lines that do not fit into its queue are dropped and \
         counted.",
    )
    .cost("formatting on the workers, one writer thread, and at most 16 MiB of queued lines"),
];

static METRICS: &[Key] = &[Key::new(
    "max_routes",
    Shape::Count { min: 0, max: 1_000_000 },
    Fallback::Count(defaults::METRICS_MAX_ROUTES as u64),
    "Number of routes with metrics of their own, in the order of the file. Routes beyond it are counted together as \
     `(others)`.",
)
.cost("840 bytes for each route and each worker that has used it, and 3.5 KiB of a scrape for each route")];
