//! All metrics: name, kind, unit, labels and help. A test compares them with `docs/metrics.md`. Names follow
//! OpenMetrics: the unit is the last part of the name, and counters end in `_total`.

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// One metric family.
#[derive(Debug)]
pub struct Family {
    /// Without the endings that unit and kind add; see [`Family::exposed`].
    pub name: &'static str,
    /// What is counted.
    pub kind: Kind,
    /// `seconds`, `bytes`; empty: none.
    pub unit: &'static str,
    /// The labels of its samples, without `le`.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

/// What a family counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by bucket.
    Histogram,
    /// Always 1; what it tells is in its labels.
    Info,
}

impl Family {
    /// The name of its samples; those of a histogram have `_bucket`, `_sum` and `_count` behind it.
    pub fn exposed(&self) -> String {
        let unit = if self.unit.is_empty() { "" } else { "_" };
        let ending = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{}{unit}{}{ending}", self.name, self.unit)
    }

    pub(super) fn unit(&self) -> Option<Unit> {
        (!self.unit.is_empty()).then(|| Unit::Other(self.unit.to_owned()))
    }

    pub(super) fn metric_type(&self) -> MetricType {
        match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        }
    }
}

/// Defines the families and [`FAMILIES`], the list of them all.
macro_rules! families {
    ($($name:ident = $kind:ident $exposed:literal $unit:literal $labels:tt $help:literal;)+) => {
        $(
            pub(super) static $name: Family =
                Family { name: $exposed, kind: Kind::$kind, unit: $unit, labels: &$labels, help: $help };
        )+

        /// Every family outside the scopes, in the order they are written.
        static PLAIN: &[&Family] = &[$(&$name),+];
    };
}

/// What is counted of exchanges by listener, by route and by upstream alike.
#[derive(Debug)]
pub struct Scoped {
    pub(super) requests: Family,
    pub(super) responses: Family,
    pub(super) outcomes: Family,
    pub(super) duration: Family,
    pub(super) first_byte: Family,
    pub(super) request_bytes: Family,
    pub(super) response_bytes: Family,
}

impl Scoped {
    fn families(&self) -> [&Family; 7] {
        let Self { requests, responses, outcomes, duration, first_byte, request_bytes, response_bytes } = self;
        [requests, responses, outcomes, duration, first_byte, request_bytes, response_bytes]
    }
}

macro_rules! scoped {
    ($prefix:literal, $label:literal) => {
        Scoped {
            requests: Family {
                name: concat!($prefix, "_requests"),
                kind: Kind::Counter,
                unit: "",
                labels: &[$label],
                help: concat!("Requests by ", $label, ", counted when they end"),
            },
            responses: Family {
                name: concat!($prefix, "_responses"),
                kind: Kind::Counter,
                unit: "",
                labels: &[$label, "class"],
                help: concat!("Responses sent, by ", $label, " and class of status"),
            },
            outcomes: Family {
                name: concat!($prefix, "_outcomes"),
                kind: Kind::Counter,
                unit: "",
                labels: &[$label, "kind"],
                help: concat!("How requests ended, by ", $label, ": ok, or what went wrong in the words of RFC 9209"),
            },
            duration: Family {
                name: concat!($prefix, "_request_duration"),
                kind: Kind::Histogram,
                unit: "seconds",
                labels: &[$label],
                help: concat!("Time from the request head to the end of the response, by ", $label),
            },
            first_byte: Family {
                name: concat!($prefix, "_first_byte"),
                kind: Kind::Histogram,
                unit: "seconds",
                labels: &[$label],
                help: concat!("Time from having a connection to the response head, by ", $label),
            },
            request_bytes: Family {
                name: concat!($prefix, "_request_body"),
                kind: Kind::Counter,
                unit: "bytes",
                labels: &[$label],
                help: concat!("Size of request bodies, by ", $label),
            },
            response_bytes: Family {
                name: concat!($prefix, "_response_body"),
                kind: Kind::Counter,
                unit: "bytes",
                labels: &[$label],
                help: concat!("Size of response bodies, by ", $label),
            },
        }
    };
}

/// What is counted of sessions and flows by listener and by upstream alike.
#[derive(Debug)]
pub struct Relayed {
    pub(super) ended: Family,
    pub(super) outcomes: Family,
    pub(super) duration: Family,
    pub(super) received: Family,
    pub(super) sent: Family,
}

impl Relayed {
    fn families(&self) -> [&Family; 5] {
        let Self { ended, outcomes, duration, received, sent } = self;
        [ended, outcomes, duration, received, sent]
    }
}

macro_rules! relayed {
    ($prefix:literal, $label:literal) => {
        Relayed {
            ended: Family {
                name: concat!($prefix, "_sessions_ended"),
                kind: Kind::Counter,
                unit: "",
                labels: &[$label],
                help: concat!("Sessions and flows by ", $label, ", counted when they end"),
            },
            outcomes: Family {
                name: concat!($prefix, "_session_outcomes"),
                kind: Kind::Counter,
                unit: "",
                labels: &[$label, "kind"],
                help: concat!("How sessions and flows ended, by ", $label, ": ok, or what went wrong"),
            },
            duration: Family {
                name: concat!($prefix, "_session_duration"),
                kind: Kind::Histogram,
                unit: "seconds",
                labels: &[$label],
                help: concat!("From accept, or the first datagram, to the end, by ", $label),
            },
            received: Family {
                name: concat!($prefix, "_session_received"),
                kind: Kind::Counter,
                unit: "bytes",
                labels: &[$label],
                help: concat!("Bytes relayed from clients, by ", $label, ", counted when the session ends"),
            },
            sent: Family {
                name: concat!($prefix, "_session_sent"),
                kind: Kind::Counter,
                unit: "bytes",
                labels: &[$label],
                help: concat!("Bytes relayed to clients, by ", $label, ", counted when the session ends"),
            },
        }
    };
}

pub(super) static BY_LISTENER: Scoped = scoped!("tidegate", "listener");
pub(super) static BY_ROUTE: Scoped = scoped!("tidegate_route", "route");
pub(super) static BY_UPSTREAM: Scoped = scoped!("tidegate_upstream", "upstream");
pub(super) static SESSIONS_BY_LISTENER: Relayed = relayed!("tidegate", "listener");
pub(super) static SESSIONS_BY_UPSTREAM: Relayed = relayed!("tidegate_upstream", "upstream");

families! {
    REQUESTS_STARTED = Counter "tidegate_requests_started" "" ["protocol"] "Requests whose head was read and accepted";
    REQUESTS_IN_FLIGHT = Gauge "tidegate_requests_in_flight" "" [] "Requests in progress";
    HEADS_REFUSED = Counter "tidegate_heads_refused" "" [] "HTTP/1 heads refused as malformed, ambiguous or late; each also counts as a request of its listener";
    RETRIES = Counter "tidegate_retries" "" [] "Requests sent again";
    TUNNELS = Gauge "tidegate_tunnels" "" [] "Open tunnels: requests that switched protocols, and CONNECT";
    TUNNELS_STARTED = Counter "tidegate_tunnels_started" "" [] "Requests that became tunnels";
    TIMEOUTS = Counter "tidegate_timeouts" "" ["kind"] "Requests, sessions and flows that ended because a deadline passed";
    SESSIONS = Gauge "tidegate_sessions" "" [] "Open sessions: connections of clients that are relayed on layer 4";
    SESSIONS_STARTED = Counter "tidegate_sessions_started" "" [] "Sessions started";
    SESSIONS_SPLICED = Counter "tidegate_sessions_spliced" "" [] "Of these, the ones with bytes moved inside the kernel (splice)";
    FLOWS = Gauge "tidegate_flows" "" [] "Open flows: client addresses whose datagrams are relayed";
    FLOWS_STARTED = Counter "tidegate_flows_started" "" [] "Flows started";
    DATAGRAMS = Counter "tidegate_datagrams" "" ["direction"] "Datagrams from clients (received) and to them (sent)";
    DATAGRAMS_DROPPED = Counter "tidegate_datagrams_dropped" "" [] "Datagrams dropped in either direction: full buffer, no flow allowed, or no endpoint";
    HELLOS_REFUSED = Counter "tidegate_hellos_refused" "" [] "Connections closed because they did not begin with a ClientHello that matches an upstream";
    PROXY_HEADERS_REFUSED = Counter "tidegate_proxy_headers_refused" "" [] "Connections closed, and datagrams dropped, because of a PROXY protocol header that was missing, malformed or from an untrusted sender";
    QUIC_CONNECTIONS = Counter "tidegate_quic_connections" "" [] "QUIC connections of clients that were established";
    QUIC_MOVED = Counter "tidegate_quic_moved" "" [] "Of these, the ones whose client had changed address, counted when they end";
    QUIC_HANDSHAKE_FAILURES = Counter "tidegate_quic_handshake_failures" "" [] "QUIC handshakes with clients that failed or took too long";
    QUIC_RETRIES_SENT = Counter "tidegate_quic_retries_sent" "" [] "Retry packets sent: clients asked to prove their address before a QUIC handshake";
    QUIC_REFUSED = Counter "tidegate_quic_refused" "" [] "QUIC connections refused because a limit was reached or the listener was draining";
    QUIC_DATAGRAMS_DROPPED = Counter "tidegate_quic_datagrams_dropped" "" [] "QUIC packets lost because a socket buffer, or the mailbox of a worker, was full";
    QUIC_DATAGRAMS_STEERED = Counter "tidegate_quic_datagrams_steered" "" [] "QUIC packets passed between workers because the kernel delivered them to the wrong one";
    EARLY_DATA_ACCEPTED = Counter "tidegate_early_data_accepted" "" [] "QUIC connections with accepted early data (0-RTT)";
    CONNECTIONS = Gauge "tidegate_connections" "" [] "Open connections of clients";
    CONNECTIONS_PARKED = Gauge "tidegate_connections_parked" "" [] "Of these, the idle ones that are parked, without buffers";
    CONNECTIONS_ACCEPTED = Counter "tidegate_connections_accepted" "" [] "Connections accepted from clients";
    CONNECTIONS_REFUSED = Counter "tidegate_connections_refused" "" [] "Connections closed at accept because of max_connections_per_ip";
    CONNECTIONS_HANDED_OVER = Counter "tidegate_connections_handed_over" "" [] "Connections handed to another worker at accept";
    BODY_BYTES_BUFFERED = Gauge "tidegate_body_bytes_buffered" "" [] "Bytes of bodies held by routes with `buffer`: read ahead of an endpoint or of a client";
    PROCESS_PERMITS = Gauge "tidegate_process_permits" "" [] "Connections that hold a permit of the process";
    PROCESS_PERMITS_MAX = Gauge "tidegate_process_permits_max" "" [] "Permits of the process, derived from the file descriptor limit";
    LISTENER_PERMITS = Gauge "tidegate_listener_permits" "" ["listener"] "Connections that hold a permit of their listener, if it has max_connections";
    LISTENER_PERMITS_MAX = Gauge "tidegate_listener_permits_max" "" ["listener"] "The listener's max_connections";
    TLS_HANDSHAKES = Counter "tidegate_tls_handshakes" "" ["version", "resumed"] "TLS handshakes with clients that succeeded";
    TLS_HANDSHAKE_FAILURES = Counter "tidegate_tls_handshake_failures" "" [] "TLS handshakes with clients that failed or took too long";
    CERTIFICATE_NOT_AFTER = Gauge "tidegate_certificate_not_after" "seconds" ["listener", "name"] "When the certificate expires, in Unix time";
    NETWORK = Counter "tidegate_network" "bytes" ["side", "direction"] "Bytes on connections of clients (downstream) and endpoints (upstream), including heads, excluding TLS";
    POOL_CONNECTS = Counter "tidegate_pool_connects" "" [] "Attempts to connect to endpoints";
    POOL_CONNECT_FAILURES = Counter "tidegate_pool_connect_failures" "" [] "Of these, the ones that failed";
    POOL_REUSES = Counter "tidegate_pool_reuses" "" [] "Requests that used a pooled connection";
    POOL_WAITS = Counter "tidegate_pool_waits" "" [] "Requests that waited for a connection which another request was making";
    POOL_WAIT = Counter "tidegate_pool_wait" "seconds" [] "Total time that they waited";
    ENDPOINT_READY = Gauge "tidegate_endpoint_ready" "" ["upstream", "endpoint"] "1 if the endpoint gets new requests, otherwise 0";
    ENDPOINT_STATE = Gauge "tidegate_endpoint_state" "" ["upstream", "endpoint", "state"] "1 for the current state of the endpoint, 0 for the others: ready, drained, unhealthy, ejected";
    ENDPOINT_CHECKS = Counter "tidegate_endpoint_checks" "" ["upstream", "endpoint", "result"] "Active checks of the endpoint, if configured: passed or failed";
    ENDPOINT_EJECTIONS = Counter "tidegate_endpoint_ejections" "" ["upstream", "endpoint"] "Ejections of the endpoint after failures in a row, if [outlier] is configured";
    ENDPOINT_IN_FLIGHT = Gauge "tidegate_endpoint_in_flight" "" ["upstream", "endpoint"] "Requests in progress at the endpoint, if the balancing policy counts them";
    ENDPOINT_CONNECT_FAILURES = Counter "tidegate_endpoint_connect_failures" "" ["upstream", "endpoint"] "Failed attempts to connect to the endpoint";
    ENDPOINT_ALTERNATIVE = Gauge "tidegate_endpoint_alternative" "" ["upstream", "endpoint", "stage"] "1 for the stage of the HTTP/3 that the endpoint offers by Alt-Svc, if alt_svc is on: offered, used, resting; 0 for the other stages";
    ENDPOINT_ALTERNATIVE_FAILURES = Counter "tidegate_endpoint_alternative_failures" "" ["upstream", "endpoint"] "How often the HTTP/3 offered by the endpoint could not be reached or stopped responding; no request fails because of it";
    WORKER_REQUESTS = Counter "tidegate_worker_requests" "" ["worker", "plane"] "Requests whose head was read, by worker";
    WORKER_CONNECTIONS = Gauge "tidegate_worker_connections" "" ["worker", "plane"] "Open connections of clients, by worker";
    WORKER_LOOP_LAG = Histogram "tidegate_worker_loop_lag" "seconds" ["worker", "plane"] "How late the worker's timers fire, measured once a second";
    WORKER_HEARTBEAT_AGE = Gauge "tidegate_worker_heartbeat_age" "seconds" ["worker", "plane"] "Time since the worker's last heartbeat, which is due once a second";
    RELOADS = Counter "tidegate_reloads" "" ["result"] "Reloads: ok, or failed (nothing changed)";
    CERTIFICATE_SWAPS = Counter "tidegate_certificate_swaps" "" ["result"] "Changed certificates and CAs put in use without a reload: ok, or failed (the old ones stay in use; counted once per fault)";
    LAST_RELOAD_SUCCESSFUL = Gauge "tidegate_last_reload_successful" "" [] "1 if the last reload succeeded or there was none, 0 if it failed";
    LAST_RELOAD = Gauge "tidegate_last_reload_timestamp" "seconds" [] "When the last reload ended, in Unix time; absent before the first";
    GENERATION = Gauge "tidegate_generation" "" [] "The number of the configuration in force";
    DRAINING = Gauge "tidegate_draining" "" [] "1 while the process drains";
    ACCESS_LOG_DROPPED = Counter "tidegate_access_log_dropped" "" [] "Access log lines dropped because the queue was full; absent while the log is off";
    ACCESS_LOG_WRITE_ERRORS = Counter "tidegate_access_log_write_errors" "" [] "Failed writes of the access log; absent while the log is off";
    BUILD = Info "tidegate_build" "" ["version"] "The running version";
    PROCESS_START = Gauge "process_start_time" "seconds" [] "When the process started to serve, in Unix time";
    PROCESS_CPU = Counter "process_cpu" "seconds" [] "Processor time of user and system";
    PROCESS_RESIDENT = Gauge "process_resident_memory" "bytes" [] "Resident memory";
    PROCESS_THREADS = Gauge "process_threads" "" [] "Threads";
    PROCESS_FDS = Gauge "process_open_fds" "" [] "Open file descriptors";
    PROCESS_MAX_FDS = Gauge "process_max_fds" "" [] "Limit on open file descriptors";
}

/// Every family, in the order they are written.
pub fn all() -> impl Iterator<Item = &'static Family> {
    let scoped = [&BY_LISTENER, &BY_ROUTE, &BY_UPSTREAM].into_iter().flat_map(Scoped::families);
    let relayed = [&SESSIONS_BY_LISTENER, &SESSIONS_BY_UPSTREAM].into_iter().flat_map(Relayed::families);
    scoped.chain(relayed).chain(PLAIN.iter().copied())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        let mut seen = HashSet::new();
        for family in all() {
            let name = family.exposed();
            assert!(name.starts_with("tidegate_") || name.starts_with("process_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(!family.help.ends_with('.') && !family.help.is_empty(), "{name}");
            assert!(seen.insert(name.clone()), "{name} is there twice");
        }
    }

    /// A family that is not explained is one that nobody can use.
    #[test]
    fn every_family_stands_in_the_documentation() {
        let page = include_str!("../../../../docs/metrics.md");
        let missing: Vec<_> = all().map(Family::exposed).filter(|name| !page.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
        let known: HashSet<_> = all().map(Family::exposed).collect();
        let stale: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .filter(|name| name.starts_with("tidegate_") || name.starts_with("process_"))
            .filter(|name| !known.contains(*name))
            .collect();
        assert!(stale.is_empty(), "in docs/metrics.md and nowhere else: {stale:?}");
        for family in all() {
            let name = family.exposed();
            let line = page.lines().find(|line| line.starts_with(&format!("| `{name}`"))).unwrap_or_default();
            for label in family.labels {
                assert!(line.contains(&format!("`{label}`")), "docs/metrics.md: {name} has a label {label}");
            }
        }
    }
}
