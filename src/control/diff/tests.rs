use super::*;
use crate::config;

fn read(text: &str) -> Config {
    config::parse("test.toml", text).unwrap_or_else(|faults| panic!("{faults}"))
}

fn told(before: &str, after: &str) -> Vec<String> {
    diff(&read(before), &read(after))
}

const SITE: &str = r#"
[server]
workers = 2
[[listener]]
name = "web"
bind = [":80", "127.0.0.1:81"]
limits = { max_connections = 100 }
[[listener]]
name = "admin"
bind = ":9000"
[[route]]
name = "api"
path = "/api/*"
upstream = "api"
[[route]]
name = "rest"
listener = "web"
upstream = "rest"
[upstream.api]
endpoints = ["10.0.0.1:80", { address = "10.0.0.2:80", weight = 2 }]
[upstream.rest]
endpoints = "10.0.1.1:80"
"#;

#[test]
fn the_same_file_moved_about_is_no_change() {
    assert!(told(SITE, SITE).is_empty());
    assert!(told(SITE, &format!("# a comment\n\n{SITE}")).is_empty());
}

#[test]
fn listeners_are_told_by_name_and_address() {
    let after = SITE
        .replace("[\":80\", \"127.0.0.1:81\"]", "[\":80\", \":8080\"]")
        .replace("max_connections = 100", "max_connections = 200, max_headers = 50")
        .replace("name = \"admin\"", "name = \"inner\"");
    assert_eq!(
        told(SITE, &after),
        [
            "listener inner added: :9000",
            "listener admin removed: :9000",
            "listener web: address :8080 added",
            "listener web: address 127.0.0.1:81 removed",
            "listener web: limits.max_connections 100 -> 200, limits.max_headers 128 -> 50 (for new connections)",
        ]
    );
}

#[test]
fn a_listener_that_moves_in_the_file_moves_no_route() {
    let (web, admin) = (
        "name = \"web\"\nbind = [\":80\", \"127.0.0.1:81\"]\nlimits = { max_connections = 100 }",
        "name = \"admin\"\nbind = \":9000\"",
    );
    let after = SITE.replace(web, "*").replace(admin, web).replace('*', admin);
    // The paths of the routes hold a star too.
    let after = after.replace(&format!("/api/{admin}"), "/api/*");
    assert_ne!(SITE, after);
    assert!(told(SITE, &after).is_empty(), "{:?}", told(SITE, &after));
}

#[test]
fn routes_are_counted_and_named() {
    let after = SITE
        .replace("name = \"rest\"", "name = \"all\"")
        .replace("path = \"/api/*\"", "path = \"/v1/*\"\ntimeouts = { response = \"5s\" }")
        + "[[route]]\nname = \"more\"\npath = \"/more\"\nrespond = {}\n";
    assert_eq!(
        told(SITE, &after),
        ["routes +2 -1: added all, more; removed rest", "route api: path, timeouts.response none -> 5s"]
    );
}

#[test]
fn the_order_of_routes_is_told() {
    let route = |name: &str| format!("[[route]]\nname = \"{name}\"\npath = \"~ ^/{name}\"\nrespond = {{}}\n");
    let before = format!("{SITE}{}{}", route("x"), route("y"));
    let after = format!("{SITE}{}{}", route("y"), route("x"));
    assert_eq!(told(&before, &after), ["routes: the order of those that stay changes"]);
}

#[test]
fn endpoints_are_told_one_by_one() {
    let after = SITE
        .replace("\"10.0.0.1:80\", ", "\"10.0.0.3:80\", ")
        .replace("weight = 2", "weight = 5")
        .replace("endpoints = \"10.0.1.1:80\"", "endpoints = \"10.0.1.1:80\"\nbalance = \"random\"\ntls = true");
    assert_eq!(
        told(SITE, &after),
        [
            "upstream api: endpoint 10.0.0.3:80 added",
            "upstream api: endpoint 10.0.0.2:80 weight 2 -> 5",
            "upstream api: endpoint 10.0.0.1:80 removed",
            "upstream rest: tls off -> on, balance round-robin -> random",
        ]
    );
}

#[test]
fn upstreams_come_and_go_without_touching_routes_of_others() {
    // `aaa` stands first by name, so that every other upstream gets a new number.
    let after = format!("{SITE}[upstream.aaa]\nendpoints = [\"10.1.0.1:80\", \"10.1.0.2:80\"]\n");
    assert_eq!(told(SITE, &after), ["upstream aaa added: 2 endpoints"]);
    assert_eq!(told(&after, SITE), ["upstream aaa removed"]);
}

#[test]
fn what_waits_for_a_restart_is_said() {
    let after = SITE.replace("workers = 2", "workers = 3\ndrain_timeout = \"5s\"");
    assert_eq!(told(SITE, &after), ["server: workers 2 -> 3 (with a restart), drain_timeout 30s -> 5s"]);
    let before = SITE.replace("bind = \":9000\"", "bind = \":9000\"\nsocket = { recv_buffer = \"64KiB\" }");
    assert_eq!(told(&before, SITE), ["listener admin: socket.recv_buffer 64KiB -> none (with a restart)"]);
}

#[test]
fn a_limit_where_there_was_none_says_what_it_counts() {
    let before = SITE.replace("limits = { max_connections = 100 }", "");
    let line = &told(&before, SITE)[0];
    assert_eq!(
        line,
        "listener web: limits.max_connections none -> 100 (connections that are open already do not count)"
    );
}

#[test]
fn huge_changes_are_told_in_part() {
    let many = |from: u32| -> String {
        let endpoints: Vec<_> = (from..from + 100).map(|n| format!("\"10.2.{}.{}:80\"", n / 200, n % 200)).collect();
        format!("{SITE}[upstream.many]\nendpoints = [{}]\n", endpoints.join(","))
    };
    let lines = diff(&read(&many(0)), &read(&many(100)));
    assert_eq!(lines.len(), 200);
    let short = shorten(lines);
    assert_eq!(short.len(), MOST_LINES);
    assert_eq!(short.last().unwrap(), "and 141 more");
    let few = vec!["x".to_owned(); MOST_LINES];
    assert_eq!(shorten(few.clone()), few);
    let names: Vec<String> = (0..9).map(|n| n.to_string()).collect();
    assert_eq!(some(names.iter().map(String::as_str)), "0, 1, 2, 3, 4, 4 more");
}

#[test]
fn layer_4_is_told_by_the_names_of_upstreams() {
    const RELAYS: &str = r#"
[[listener]]
name = "pg"
bind = ":5432"
mode = "tcp"
upstream = "pg"
[[listener]]
name = "sni"
bind = ":443"
mode = "tls-passthrough"
sni = { default = "pg", "a.example" = "pg" }
[upstream.pg]
endpoints = "10.0.0.5:5432"
health = {}
"#;
    // Another upstream moves the numbers of the others.
    let more = format!("{RELAYS}[upstream.aaa]\nendpoints = \"10.0.0.1:1\"\n");
    assert_eq!(told(RELAYS, &more), ["upstream aaa added: endpoint 10.0.0.1:1"]);
    let after = more
        .replace("upstream = \"pg\"", "upstream = \"aaa\"\ntimeouts.idle = \"60s\"")
        .replace("\"a.example\" = \"pg\"", "\"b.example\" = \"pg\"")
        .replace("health = {}", "health.interval = \"7s\"\noutlier = {}\nbalance = \"maglev\"\nhash_on = \"sni\"");
    assert_eq!(
        told(&more, &after),
        [
            "listener pg: upstream pg -> aaa, timeouts.idle the upstream's -> 60s (for new connections)",
            "listener sni: sni (for new connections)",
            "upstream pg: balance round-robin -> maglev, hash_on client-ip -> sni, health.interval 5s -> 7s, \
             outlier off -> on",
        ]
    );
}
