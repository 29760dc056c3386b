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
        "Other files to merge, read after this one in byte order of their paths; `*` and `?` stand for anything but a \
         slash. Taken from the directory of the file that names them. `[server]` stands in one file only.",
    )
    .example("[\"sites/*.toml\"]"),
    Key::new("server", Shape::Table(SERVER), Fallback::Table, "The process as a whole."),
    Key::new(
        "listener",
        Shape::Tables(listener::LISTENER),
        Fallback::Required,
        "Addresses that are accepted on, and what is spoken there. May be repeated.",
    ),
    Key::new(
        "route",
        Shape::Tables(route::ROUTE),
        Fallback::Required,
        "A match on a request and what to do with it. The most specific match wins: exact host, longest wildcard, none; \
         exact path, longest prefix, regular expression; then the number of further predicates, then the order in the \
         file. Exactly one of upstream, weighted, redirect and respond says what is done. May be repeated.",
    ),
    Key::new(
        "upstream",
        Shape::Named(upstream::UPSTREAM),
        Fallback::Told("none"),
        "A named set of endpoints and how to reach them. May be repeated under other names.",
    ),
    Key::new(
        "expect",
        Shape::Tables(expectation::EXPECTATION),
        Fallback::Told("none"),
        "A test: a request, and what is to become of it. `tidegate check`, each start and each reload try all of them, and one \
         that does not hold refuses the file. May be repeated.",
    ),
];

static SERVER: &[Key] = &[
    Key::new(
        "workers",
        Shape::Either(&[Shape::Word("auto"), Shape::Count { min: 1, max: 1024 }]),
        Fallback::Text("auto"),
        "Data-plane threads, each with its own runtime, sockets and pools. \"auto\": as many as the affinity mask and \
         the quota of the cgroup allow.",
    )
    .cost("a thread, and idle connections to every endpoint"),
    Key::new(
        "drain_timeout",
        Shape::Duration { min: Duration::ZERO, max: YEAR },
        Fallback::Duration(defaults::DRAIN_TIMEOUT),
        "How long open exchanges may take to finish once a drain began.",
    ),
    Key::new(
        "drain_delay",
        Shape::Duration { min: Duration::ZERO, max: YEAR },
        Fallback::Duration(defaults::DRAIN_DELAY),
        "How long connections are still accepted after TERM, while `/readyz` says no already, before the drain begins: \
         the time that load balancers take to notice. A second TERM, or an INT, begins the drain at once.",
    ),
    Key::new(
        "user",
        Shape::Text("a user of this system"),
        Fallback::Told("stay who we are"),
        "Who to be once every address is bound and every file is read, where started as root: a name, or a number. What only \
         root may do is then past doing, for a reload too. Not needed under systemd, whose `User=` or `DynamicUser=` never \
         makes it root.",
    )
    .example("\"tidegate\""),
    Key::new(
        "group",
        Shape::Text("a group of this system"),
        Fallback::Told("the user's own"),
        "The group to be with `user`; the user's other groups are taken as well.",
    )
    .example("\"tidegate\""),
    Key::new("metrics", Shape::Table(METRICS), Fallback::Table, "What is counted one by one."),
    Key::new(
        "watch",
        Shape::Flag,
        Fallback::Flag(defaults::WATCH),
        "Whether a change of the files of the configuration is put in force by itself, as HUP does; so is a changed \
         token. Certificates, keys and authorities are watched always.",
    ),
    Key::new(
        "admin",
        Shape::Table(control::ADMIN),
        Fallback::Told("none"),
        "Where the running process is asked and told what to do: everything that `observe` shows, and the \
         configuration, reload, drain and the level of the log. `tidegate status`, `reload` and `drain` speak to it. No \
         upstream may point at it.",
    ),
    Key::new(
        "observe",
        Shape::Table(control::OBSERVE),
        Fallback::Told("none"),
        "Where the running process can be looked at: the status page at `/`, `/status`, `/metrics`, `/healthz` and \
         `/readyz`. It changes nothing. No upstream may point at it.",
    ),
    Key::new(
        "quic_key_file",
        Shape::Text("a path"),
        Fallback::Told("none: made at start"),
        "32 or more random bytes, of which the keys of QUIC's stateless resets and address tokens are derived. With it clients \
         learn at once that a process which crashed has forgotten them, and proxies behind one address agree. Keep it secret: \
         mode 0600.",
    )
    .example("\"/var/lib/tidegate/quic.key\""),
    Key::new(
        "log",
        Shape::Table(logs::LOG),
        Fallback::Table,
        "The process's own log, on stderr. A reload puts changes in force.",
    ),
    Key::new(
        "access_log",
        Shape::Table(logs::ACCESS_LOG),
        Fallback::Told("off"),
        "A line for each exchange, written off the path of requests: what does not fit into the queue is dropped and \
         counted.",
    )
    .cost("formatting on the workers, one thread that writes, and at most 16 MiB of lines that wait"),
];

static METRICS: &[Key] = &[Key::new(
    "max_routes",
    Shape::Count { min: 0, max: 1_000_000 },
    Fallback::Count(defaults::METRICS_MAX_ROUTES as u64),
    "Routes with series of their own, in the order of the file; those past it are counted together as `(others)`.",
)
.cost("840 bytes on each worker that has used the route, and 3.5 KiB of a scrape")];
