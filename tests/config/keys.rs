//! Every key of the schema does something: each has a row here whose value changes the model, and each default, written
//! out, changes nothing.

use std::collections::BTreeSet;

use regex::Regex;
use tidegate::config::schema::{Key, ROOT};
use tidegate::config::{self, Config};
use tidegate::control::diff::diff;

/// A key, what must stand beside it, and a line that changes the model.
struct Row(&'static str, &'static str, &'static str);

const TLS: &str = "tls.certificates = [{ cert = \"a\", key = \"b\" }]\n";
const LOGGED: &str = "access_log.query = false\n";
const UPH3: &str = "tls.server_name = \"a\"\nprotocol = \"http3\"\n";
const H3: &str = "protocols = [\"http2\", \"http3\"]\ntls.certificates = [{ cert = \"a\", key = \"b\" }]\n";
const UP: &str = "upstream = \"app\"\n";
const ANSWER: &str = "respond.body = \"x\"\n";
const MOVED: &str = "redirect.to = \"/x\"\n";
const UPTLS: &str = "tls.server_name = \"a\"\n";
const HELLO: &str = "mode = \"tls-passthrough\"\nsni = { default = \"app\" }\n";
const FORWARD: &str = "mode = \"forward\"\nforward.allow = \"a.example:443\"\n";
const TRUSTED: &str = "trusted_proxies = \"10.0.0.0/8\"\n";
const HASHED: &str = "balance = \"maglev\"\n";
const SAYS: &str = "outcome = \"ok\"\n";
const ASKED: &str = "health.unhealthy_after = 9\n";
const JUDGED: &str = "outlier.max_ejected = \"9%\"\n";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row("server.workers", "", "workers = 77"),
    Row("server.drain_timeout", "", "drain_timeout = \"7s\""),
    Row("server.watch", "", "watch = false"),
    Row("server.metrics", "", "metrics = { max_routes = 7 }"),
    Row("server.metrics.max_routes", "", "metrics.max_routes = 7"),
    Row("server.drain_delay", "", "drain_delay = \"7s\""),
    Row("server.user", "", "user = \"nobody\""),
    Row("server.group", "user = \"nobody\"\n", "group = \"nogroup\""),
    Row("server.quic_key_file", "", "quic_key_file = \"k\""),
    Row("server.admin", "", "admin.bind = \"unix:/a\""),
    Row("server.admin.bind", "", "admin.bind = \"unix:/b\""),
    Row("server.admin.token_file", "admin.bind = \"unix:/a\"\n", "admin.token_file = \"t\""),
    Row("server.admin.hosts", "admin.bind = \"unix:/a\"\n", "admin.hosts = \"a.example\""),
    Row("server.observe", "", "observe.bind = \"unix:/a\""),
    Row("server.observe.bind", "", "observe.bind = \":9900\""),
    Row("server.observe.hosts", "observe.bind = \"unix:/a\"\n", "observe.hosts = [\"a.example\"]"),
    Row("server.log", "", "log = { format = \"json\" }"),
    Row("server.log.level", "", "log.level = \"debug,hyper=trace\""),
    Row("server.log.format", "", "log.format = \"json\""),
    Row("server.access_log", "", "access_log = {}"),
    Row("server.access_log.output", LOGGED, "access_log.output = \"access.log\""),
    Row("server.access_log.format", LOGGED, "access_log.format = \"{status}\""),
    Row("server.access_log.only", LOGGED, "access_log.only = \"status >= 400\""),
    Row("server.access_log.sample", LOGGED, "access_log.sample = 0.5"),
    Row("server.access_log.query", "access_log.sample = 1\n", "access_log.query = true"),
    Row("server.access_log.request_headers", LOGGED, "access_log.request_headers = \"x-a\""),
    Row("server.access_log.response_headers", LOGGED, "access_log.response_headers = [\"x-a\"]"),
    Row("listener.name", "", "name = \"x\""),
    Row("listener.bind", "", "bind = [\":0\", \":81\"]"),
    Row("listener.mode", "", "mode = \"tcp\""),
    Row("listener.upstream", "mode = \"tcp\"\n", "upstream = \"other\""),
    Row("listener.sni", "mode = \"tls-passthrough\"\nalpn = { h2 = \"app\" }\n", "sni = { \"*.a.example\" = \"app\" }"),
    Row("listener.alpn", HELLO, "alpn = { h2 = \"other\" }"),
    Row("listener.forward", "", "mode = \"forward\"\nforward = { allow = \"a.example:443\" }"),
    Row("listener.forward.allow", "", "mode = \"forward\"\nforward.allow = \"a.example:443\""),
    Row("listener.forward.deny", FORWARD, "forward.deny = [\"10.0.0.0/8:*\"]"),
    Row("listener.forward.users", FORWARD, "forward.users = \"users\""),
    Row("listener.forward.name_servers", FORWARD, "forward.name_servers = \"192.0.2.53:53\""),
    Row("listener.forward.timeouts", FORWARD, "forward.timeouts = { connect = \"7s\" }"),
    Row("listener.forward.timeouts.connect", FORWARD, "forward.timeouts.connect = \"7s\""),
    Row("listener.forward.timeouts.response", FORWARD, "forward.timeouts.response = \"7s\""),
    Row("listener.forward.timeouts.stream_idle", FORWARD, "forward.timeouts.stream_idle = \"7s\""),
    Row("listener.forward.timeouts.tunnel_idle", FORWARD, "forward.timeouts.tunnel_idle = \"7s\""),
    Row("listener.proxy_protocol", TRUSTED, "proxy_protocol = \"require\""),
    Row("listener.protocols", "", "protocols = \"http2\""),
    Row("listener.alt_svc", H3, "alt_svc = 8443"),
    Row("listener.quic", H3, "quic = { retry = \"off\" }"),
    Row("listener.quic.congestion", H3, "quic.congestion = \"bbr\""),
    Row("listener.quic.retry", H3, "quic.retry = \"always\""),
    Row("listener.quic.keep_alive", H3, "quic.keep_alive = \"7s\""),
    Row("listener.quic.stream_window", H3, "quic.stream_window = \"64KiB\""),
    Row("listener.quic.connection_window", H3, "quic.connection_window = \"2MiB\""),
    Row("listener.quic.segmentation_offload", H3, "quic.segmentation_offload = false"),
    Row("listener.quic.qlog", H3, "quic.qlog = \"q\""),
    Row("listener.trusted_proxies", "", "trusted_proxies = [\"10.0.0.0/8\"]"),
    Row("listener.tls", "", TLS),
    Row("listener.tls.certificates", "", TLS),
    Row("listener.tls.certificates.cert", "", TLS),
    Row("listener.tls.certificates.key", "", TLS),
    Row("listener.tls.min_version", TLS, "tls.min_version = \"1.3\""),
    Row("listener.tls.client_auth", TLS, "tls.client_auth = { mode = \"require\", ca = \"c\" }"),
    Row("listener.tls.client_auth.mode", TLS, "tls.client_auth = { mode = \"optional\", ca = \"c\" }"),
    Row("listener.tls.client_auth.ca", TLS, "tls.client_auth = { mode = \"optional\", ca = \"d\" }"),
    Row("listener.tls.early_data", TLS, "tls.early_data = true"),
    Row("listener.limits", "", "limits = { max_headers = 7 }"),
    Row("listener.limits.max_connections", "", "limits.max_connections = 7"),
    Row("listener.limits.max_connections_per_ip", "", "limits.max_connections_per_ip = 7"),
    Row("listener.limits.max_header_size", "", "limits.max_header_size = \"7KiB\""),
    Row("listener.limits.max_headers", "", "limits.max_headers = 7"),
    Row("listener.limits.max_concurrent_streams", "", "limits.max_concurrent_streams = 7"),
    Row("listener.limits.max_body", "", "limits.max_body = \"0B\""),
    Row("listener.timeouts", "", "timeouts = { idle = \"7s\" }"),
    Row("listener.timeouts.handshake", "", "timeouts.handshake = \"7s\""),
    Row("listener.timeouts.header", "", "timeouts.header = \"7s\""),
    Row("listener.timeouts.client_stall", "", "timeouts.client_stall = \"7s\""),
    Row("listener.timeouts.idle", "", "timeouts.idle = \"7s\""),
    Row("listener.timeouts.max_age", "", "timeouts.max_age = \"7s\""),
    Row("listener.socket", "", "socket = { nodelay = false }"),
    Row("listener.socket.nodelay", "", "socket.nodelay = false"),
    Row("listener.socket.keepalive", "", "socket.keepalive = \"off\""),
    Row("listener.socket.keepalive.idle", "", "socket.keepalive.idle = \"7s\""),
    Row("listener.socket.keepalive.interval", "", "socket.keepalive.interval = \"7s\""),
    Row("listener.socket.keepalive.count", "", "socket.keepalive.count = 7"),
    Row("listener.socket.backlog", "", "socket.backlog = 7"),
    Row("listener.socket.recv_buffer", "", "socket.recv_buffer = \"7KiB\""),
    Row("listener.socket.send_buffer", "", "socket.send_buffer = \"7KiB\""),
    Row("listener.socket.fast_open", "", "socket.fast_open = true"),
    Row("listener.socket.user_timeout", "", "socket.user_timeout = \"7s\""),
    Row("listener.forwarding", "", "forwarding = { via = \"off\" }"),
    Row("listener.forwarding.x_forwarded", "", "forwarding.x_forwarded = false"),
    Row("listener.forwarding.forwarded", "", "forwarding.forwarded = true"),
    Row("listener.forwarding.via", "", "forwarding.via = \"gate\""),
    Row("listener.access_log", "", "access_log = false"),
    Row("listener.request_id", "", "request_id = \"always\""),
    Row("listener.traceparent", "", "traceparent = \"off\""),
    Row("route.name", UP, "name = \"x\""),
    Row("route.listener", UP, "listener = \"base\""),
    Row("route.host", UP, "host = \"example.org\""),
    Row("route.path", UP, "path = \"/x\""),
    Row("route.method", UP, "method = \"GET\""),
    Row("route.header", UP, "header = { a = \"b\" }"),
    Row("route.query", UP, "query = { a = \"~ b\" }"),
    Row("route.upstream", "", "upstream = \"other\""),
    Row("route.weighted", "", "weighted = [{ upstream = \"app\", weight = 2 }, { upstream = \"other\" }]"),
    Row("route.weighted.upstream", "", "weighted = [{ upstream = \"other\" }]"),
    Row("route.weighted.weight", "", "weighted = [{ upstream = \"app\", weight = 7 }]"),
    Row("route.redirect", "", "redirect = { to = \"/x\" }"),
    Row("route.redirect.to", "", "redirect.to = \"/x\""),
    Row("route.redirect.status", MOVED, "redirect.status = 301"),
    Row("route.respond", "", "respond = {}"),
    Row("route.respond.status", ANSWER, "respond.status = 404"),
    Row("route.respond.body", "respond.status = 201\n", "respond.body = \"x\""),
    Row("route.respond.content_type", ANSWER, "respond.content_type = \"text/html\""),
    Row("route.strip_prefix", UP, "strip_prefix = \"/v1\""),
    Row("route.replace_path", UP, "replace_path = \"/v1\""),
    Row("route.host_header", UP, "host_header = \"example.org:80\""),
    Row("route.max_body", UP, "max_body = \"unlimited\""),
    Row("route.allow", UP, "allow = \"10.0.0.0/8\""),
    Row("route.deny", UP, "deny = \"10.0.0.1\""),
    Row("route.upgrade", UP, "upgrade = []"),
    Row("route.buffer", UP, "buffer = { request = \"7KiB\" }"),
    Row("route.buffer.request", UP, "buffer.request = \"7KiB\""),
    Row("route.buffer.response", UP, "buffer.response = \"7KiB\""),
    Row("route.grpc_web", UP, "grpc_web = true"),
    Row("route.normalize_path", UP, "normalize_path = true"),
    Row("route.timeouts", UP, "timeouts = { total = \"7s\" }"),
    Row("route.timeouts.response", UP, "timeouts.response = \"7s\""),
    Row("route.timeouts.total", UP, "timeouts.total = \"7s\""),
    Row("route.timeouts.tunnel_idle", UP, "timeouts.tunnel_idle = \"7s\""),
    Row("route.retry", UP, "retry = { attempts = 0 }"),
    Row("route.retry.attempts", UP, "retry.attempts = 0"),
    Row("route.retry.on", UP, "retry.on = [\"503\", \"reset-before-headers\"]"),
    Row("route.retry.replay", UP, "retry.replay = \"0B\""),
    Row("route.request_headers", UP, "request_headers = { remove = \"a\" }"),
    Row("route.request_headers.remove", UP, "request_headers.remove = \"a\""),
    Row("route.request_headers.set", UP, "request_headers.set = { a = \"{host}\" }"),
    Row("route.request_headers.add", UP, "request_headers.add = { a = \"b\" }"),
    Row("route.response_headers", UP, "response_headers = { remove = \"a\" }"),
    Row("route.response_headers.remove", UP, "response_headers.remove = \"a\""),
    Row("route.response_headers.set", UP, "response_headers.set = { a = \"b\" }"),
    Row("route.response_headers.add", UP, "response_headers.add = { a = \"b\" }"),
    Row("route.access_log", UP, "access_log = false"),
    Row("expect.request", SAYS, "request = \"PUT http://a.example/\""),
    Row("expect.headers", SAYS, "headers = { a = \"b\" }"),
    Row("expect.client", SAYS, "client = \"10.0.0.7\""),
    Row("expect.listener", SAYS, "listener = \"base\""),
    Row("expect.protocol", SAYS, "protocol = \"http2\""),
    Row("expect.upgrade", SAYS, "upgrade = \"websocket\""),
    Row("expect.sni", SAYS, "sni = \"a.example\""),
    Row("expect.alpn", SAYS, "alpn = \"x\""),
    Row("expect.route", SAYS, "route = \"*/*\""),
    Row("expect.upstream", SAYS, "upstream = [\"app\", \"other\"]"),
    Row("expect.status", SAYS, "status = 404"),
    Row("expect.outcome", "status = 403\n", "outcome = \"http_request_denied\""),
    Row("expect.header", SAYS, "header = { a = \"~ b\" }"),
    Row("expect.sent", SAYS, "sent = { host = \"a.example\" }"),
    Row("expect.sent.host", SAYS, "sent.host = \"a.example\""),
    Row("expect.sent.path", SAYS, "sent.path = \"/x\""),
    Row("expect.sent.header", SAYS, "sent.header = { a = \"b\" }"),
    Row("expect.sent.without", SAYS, "sent.without = \"a\""),
    Row("upstream.endpoints", "", "endpoints = [\"127.0.0.1:1\", \"[::1]:2\"]"),
    Row("upstream.endpoints.address", "", "endpoints = [{ address = \"127.0.0.1:7\" }]"),
    Row("upstream.endpoints.weight", "", "endpoints = [{ address = \"127.0.0.1:3000\", weight = 7 }]"),
    Row("upstream.protocol", "", "protocol = \"http2\""),
    Row("upstream.balance", "", "balance = \"random\""),
    Row("upstream.hash_on", HASHED, "hash_on = \"header:x-a\""),
    Row("upstream.health", "", "health = {}"),
    Row("upstream.health.path", ASKED, "health.path = \"/healthz\""),
    Row("upstream.health.host", "health.path = \"/\"\n", "health.host = \"a.example\""),
    Row("upstream.health.interval", ASKED, "health.interval = \"7s\""),
    Row("upstream.health.timeout", ASKED, "health.timeout = \"700ms\""),
    Row("upstream.health.healthy_after", ASKED, "health.healthy_after = 7"),
    Row("upstream.health.unhealthy_after", "health.path = \"/\"\n", "health.unhealthy_after = 7"),
    Row("upstream.outlier", "", "outlier = {}"),
    Row("upstream.outlier.consecutive_failures", JUDGED, "outlier.consecutive_failures = 7"),
    Row("upstream.outlier.eject_for", JUDGED, "outlier.eject_for = \"7s\""),
    Row("upstream.outlier.max_ejected", "outlier.eject_for = \"9s\"\n", "outlier.max_ejected = \"7%\""),
    Row("upstream.send_proxy_protocol", "", "send_proxy_protocol = \"v1\""),
    Row("upstream.source", "", "source = [\"127.0.0.2\", \"127.0.0.3\"]"),
    Row("upstream.alpn", "", "tls.insecure = true\nprotocol = \"quic\"\nalpn = \"x\""),
    Row("upstream.alt_svc", UPTLS, "alt_svc = true"),
    Row("upstream.quic", UPH3, "quic = { early_data = true }"),
    Row("upstream.quic.congestion", UPH3, "quic.congestion = \"newreno\""),
    Row("upstream.quic.keep_alive", UPH3, "quic.keep_alive = \"7s\""),
    Row("upstream.quic.stream_window", UPH3, "quic.stream_window = \"64KiB\""),
    Row("upstream.quic.connection_window", UPH3, "quic.connection_window = \"2MiB\""),
    Row("upstream.quic.segmentation_offload", UPH3, "quic.segmentation_offload = false"),
    Row("upstream.quic.qlog", UPH3, "quic.qlog = \"q\""),
    Row("upstream.quic.early_data", UPH3, "quic.early_data = true"),
    Row("upstream.tls", "", "tls = true"),
    Row("upstream.tls.server_name", "tls.insecure = true\n", "tls.server_name = \"a.example\""),
    Row("upstream.tls.ca", UPTLS, "tls.ca = \"ca.pem\""),
    Row("upstream.tls.client_cert", UPTLS, "tls.client_cert = \"c\"\ntls.client_key = \"k\""),
    Row("upstream.tls.client_key", UPTLS, "tls.client_cert = \"c\"\ntls.client_key = \"l\""),
    Row("upstream.tls.insecure", UPTLS, "tls.insecure = true"),
    Row("upstream.pool", "", "pool = { max_age = \"7s\" }"),
    Row("upstream.pool.max_idle_per_endpoint", "", "pool.max_idle_per_endpoint = 0"),
    Row("upstream.pool.idle_timeout", "", "pool.idle_timeout = \"7s\""),
    Row("upstream.pool.max_age", "", "pool.max_age = \"7s\""),
    Row("upstream.timeouts", "", "timeouts = { connect = \"7s\" }"),
    Row("upstream.timeouts.connect", "", "timeouts.connect = \"7s\""),
    Row("upstream.timeouts.response", "", "timeouts.response = \"7s\""),
    Row("upstream.timeouts.stream_idle", "", "timeouts.stream_idle = \"7s\""),
    Row("upstream.timeouts.tunnel_idle", "", "timeouts.tunnel_idle = \"7s\""),
    Row("upstream.socket", "", "socket = { nodelay = false }"),
    Row("upstream.socket.nodelay", "", "socket.nodelay = false"),
    Row("upstream.socket.keepalive", "", "socket.keepalive = \"off\""),
    Row("upstream.socket.keepalive.idle", "", "socket.keepalive.idle = \"7s\""),
    Row("upstream.socket.keepalive.interval", "", "socket.keepalive.interval = \"7s\""),
    Row("upstream.socket.keepalive.count", "", "socket.keepalive.count = 7"),
    Row("upstream.socket.recv_buffer", "", "socket.recv_buffer = \"7KiB\""),
    Row("upstream.socket.send_buffer", "", "socket.send_buffer = \"7KiB\""),
    Row("upstream.socket.fast_open", "", "socket.fast_open = true"),
    Row("upstream.socket.user_timeout", "", "socket.user_timeout = \"7s\""),
];

/// Tables that are tested by the keys in them, and `include`, which files.rs tests.
const ELSEWHERE: [&str; 6] = ["include", "server", "listener", "route", "upstream", "expect"];

/// A configuration whose table of the row's kind has some more lines.
fn file(key: &str, lines: &str) -> String {
    let kind = key.split('.').next().unwrap();
    let more = |table: &str| if table == kind { lines } else { "" };
    // What the lines say must not stand before.
    let unless = |name: &str, usual: &str| {
        let has =
            lines.lines().any(|line| line.starts_with(&format!("{name} =")) || line.starts_with(&format!("{name}.")));
        if has { String::new() } else { usual.to_owned() }
    };
    let bind = if kind == "listener" { unless("bind", "bind = \":8080\"\n") } else { "bind = \":8080\"\n".into() };
    let relayed = if kind == "listener" && lines.contains("\"tcp\"") { unless("upstream", UP) } else { String::new() };
    let endpoints = "endpoints = [\"127.0.0.1:3000\"]\n".to_owned();
    let own = if kind == "upstream" { unless("endpoints", &endpoints) } else { endpoints.clone() };
    let acts = ["upstream", "weighted", "redirect", "respond"].iter().any(|name| unless(name, "x").is_empty());
    // Streams are no requests.
    let action = match kind {
        "route" if acts => "",
        _ if key == "upstream.alpn" => "upstream = \"other\"\n",
        _ => UP,
    };
    // Only where it is asked about: it is tried against the rest.
    let expectation = match kind {
        "expect" => format!("\n[[expect]]\n{}{lines}\n", unless("request", "request = \"http://a.example/\"\n")),
        _ => String::new(),
    };
    format!(
        "[server]\n{}\n[[listener]]\n{bind}{relayed}{}\n[[listener]]\nname = \"base\"\nbind = \":8081\"\n\n[[route]]\n{action}{}\n\n\
         [upstream.app]\n{own}{}\n\n[upstream.other]\n{endpoints}{expectation}",
        more("server"),
        more("listener"),
        more("route"),
        more("upstream"),
    )
}

/// A file for each row.
pub(crate) fn files() -> Vec<(&'static str, String)> {
    ROWS.iter().map(|Row(key, beside, line)| (*key, file(key, &format!("{beside}{line}")))).collect()
}

fn read(key: &str, lines: &str) -> String {
    let text = file(key, lines);
    let config = config::parse_with("rows.toml", &text, &|_| None).unwrap_or_else(|faults| panic!("{key}\n{faults}"));
    without_places(&config)
}

/// The model as a text that says nothing about where things stand.
pub(crate) fn without_places(config: &Config) -> String {
    let mut config = config.clone();
    config.files.clear();
    let text = format!("{config:#?}");
    Regex::new(r"Place \{[^}]*\}").unwrap().replace_all(&text, "_").into_owned()
}

fn keys_of(keys: &'static [Key], path: &str, found: &mut Vec<(String, &'static Key)>) {
    for key in keys.iter().filter(|key| key.is_here()) {
        let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        if let Some(inner) = key.shape.keys() {
            keys_of(inner, &path, found);
        }
        found.push((path, key));
    }
}

pub(crate) fn all_keys() -> Vec<(String, &'static Key)> {
    let mut found = Vec::new();
    keys_of(ROOT, "", &mut found);
    found
}

#[test]
fn every_key_has_a_row_and_every_row_a_key() {
    let keys: BTreeSet<String> = all_keys().into_iter().map(|(path, _)| path).collect();
    let rows: BTreeSet<String> = ROWS.iter().map(|row| row.0).chain(ELSEWHERE).map(str::to_owned).collect();
    assert_eq!(keys.difference(&rows).collect::<Vec<_>>(), Vec::<&String>::new(), "keys without a row");
    assert_eq!(rows.difference(&keys).collect::<Vec<_>>(), Vec::<&String>::new(), "rows without a key");
}

#[test]
fn every_key_changes_the_model() {
    for Row(key, beside, line) in ROWS {
        let before = read(key, beside);
        let after = read(key, &format!("{beside}{line}"));
        assert_ne!(before, after, "{key} changes nothing");
    }
}

#[test]
fn every_default_written_out_changes_nothing() {
    let mut tried = 0;
    for (path, key) in all_keys() {
        let Some(Row(_, beside, _)) = ROWS.iter().find(|row| row.0 == path) else { continue };
        let Some(value) = key.fallback.toml() else { continue };
        // Keys inside lists of tables have no dotted form; tests of the model cover them.
        if path.contains("weighted.") || path.contains("endpoints.") || path.contains("client_auth.") {
            continue;
        }
        let (_, dotted) = path.split_once('.').unwrap();
        let before = read(&path, beside);
        assert_eq!(before, read(&path, &format!("{beside}{dotted} = {value}")), "{path} = {value}");
        tried += 1;
    }
    assert!(tried > 40, "{tried}");
}

#[test]
fn every_key_tells_what_it_does() {
    for (path, key) in all_keys() {
        assert!(key.doc.ends_with('.'), "{path}: {}", key.doc);
        assert!(!key.cost.ends_with('.'), "{path}: {}", key.cost);
        let shown = key.fallback.toml().is_some() || !key.example.is_empty() || key.shape.keys().is_some();
        assert!(shown, "{path} has neither a default nor an example");
    }
}

#[test]
fn what_later_versions_bring_is_refused() {
    for line in [
        "limits.max_requests = 1",
        "sticky = {}",
        "slow_start = \"1s\"",
        "endpoints = [\"srv:_http._tcp.api.internal\"]",
    ] {
        refused("upstream.x", line);
    }
}

fn refused(key: &str, line: &str) {
    let faults = config::parse("later.toml", &file(key, line)).expect_err(line).to_string();
    assert_eq!(faults.matches("error: ").count(), 1, "{faults}");
    assert!(faults.contains("not in this version"), "{faults}");
}

#[test]
fn a_reload_tells_of_every_key() {
    let config = |row: &Row, lines: &str| {
        config::parse_with("rows.toml", &file(row.0, lines), &|_| None).unwrap_or_else(|faults| panic!("{faults}"))
    };
    let mut silent = Vec::new();
    for row in ROWS {
        let (before, after) = (config(row, row.1), config(row, &format!("{}{}", row.1, row.2)));
        let told = diff(&before, &after);
        if without_places(&before) != without_places(&after) && told.is_empty() {
            silent.push(row.0);
        }
    }
    assert!(silent.is_empty(), "nothing is told of {silent:?}");
}
