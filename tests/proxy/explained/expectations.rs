//! `[[expect]]`: what holds is silent, and what does not is told at its key, with what is the case instead.

use tidegate::explain::expectations::unmet;

use super::compiled;
use crate::support::certificates::Files;
use crate::support::client::Client;
use crate::support::pair::Downstream;
use crate::support::proxy::{Plan, Proxy};
use crate::support::tests;

tests! {
    every_expectation_can_fail_at_its_place,
    what_holds_is_silent,
    a_reload_that_breaks_an_expectation_changes_nothing,
}

const SITE: &str = r#"
[[listener]]
name = "web"
bind = ":8080"
[[listener]]
name = "pg"
bind = ":5432"
mode = "tcp"
upstream = "one"
[[listener]]
name = "out"
bind = ":3128"
mode = "forward"
forward.allow = "*.example.org:443"
[[route]]
name = "app"
path = "/app/*"
upstream = "one"
request_headers.set = { x-env = "prod" }
[[route]]
name = "talk"
path = "/talk"
upstream = "one"
upgrade = []
[[route]]
name = "both"
path = "/both"
weighted = [{ upstream = "one", weight = 3 }, { upstream = "two" }]
host_header = "upstream"
[[route]]
name = "rest"
redirect = { to = "https://www.example.org{path_and_query}" }
[upstream.one]
endpoints = ["127.0.0.1:1"]
[upstream.two]
endpoints = ["127.0.0.1:2"]
[[route]]
name = "other"
path = "/other"
upstream = "two"
"#;

/// What is told of a test with these keys, without colours; empty: it holds.
fn told(keys: &str) -> String {
    let files = Files::write();
    let (config, snapshot) = compiled(&format!("{SITE}[[expect]]\n{keys}\n"), files.folder());
    unmet(&snapshot, &config).render(false)
}

async fn every_expectation_can_fail_at_its_place() {
    let asks = "request = \"http://a.test:8080/app/x\"\n";
    let moved = "request = \"http://a.test:8080/x\"\n";
    // The key of each stands in the third line of the test, whose first is after the site.
    let first = SITE.lines().count() as u32 + 1;
    for (asks, key, column, found) in [
        (asks, "route = \"rest\"", 9, "route `app` takes it"),
        (asks, "upstream = \"two\"", 12, "it goes to `one`"),
        (asks, "status = 308", 10, "it goes to `one`"),
        (asks, "outcome = \"http_request_denied\"", 11, "it goes to `one`"),
        (asks, "header.location = \"x\"", 19, "it goes to `one`"),
        (asks, "sent.host = \"b.test\"", 13, "it is `a.test:8080`"),
        (asks, "sent.path = \"/x\"", 13, "it is `/app/x`"),
        (asks, "sent.header.x-env = \"~ ^dev\"", 21, "it is `prod`"),
        (asks, "sent.header.x-none = \"a\"", 22, "it is not there"),
        (asks, "sent.without = [\"x-none\", \"x-env\"]", 27, "it is there, by request_headers.set"),
        (moved, "header.location = \"https://a.test/x\"", 19, "it is `https://www.example.org/x`"),
        (moved, "status = 301", 10, "answered with 308 here"),
        (moved, "upstream = \"one\"", 12, "answered with 308 here"),
        (
            "request = \"http://a.test:9/\"\n",
            "outcome = \"ok\"",
            11,
            "not served, no_listener: no listener accepts port 9",
        ),
        (
            "request = \"tcp://a.test:5432\"\n",
            "upstream = \"two\"",
            12,
            "error: tcp://a.test:5432/ does not meet upstream `two`",
        ),
        (moved, "header.X-None = \"~ ^1\"", 17, "does not meet header `x-none: ~ ^1`"),
        (
            "request = \"https://a.test/\"\nlistener = \"out\"\n",
            "outcome = \"ok\"",
            11,
            "403 http_request_denied: the destination is not in the listener's `allow`",
        ),
        (
            "request = \"ws://a.test:8080/talk\"\nprotocol = \"http2\"\n",
            "outcome = \"ok\"",
            11,
            "501 request_not_implemented: the route does not let a request switch to this protocol",
        ),
        (
            "request = \"http://a.test:8080/talk\"\nupgrade = \"websocket\"\n",
            "sent.header.upgrade = \"websocket\"",
            23,
            "it is not there",
        ),
        (
            "request = \"http://a.test:8080/both\"\n",
            "sent.host = \"127.0.0.1:3\"",
            13,
            "for `one` it is `127.0.0.1:1`, for `two` it is `127.0.0.1:2`",
        ),
        (
            "request = \"http://a.test:8080/both\"\n",
            "sent.host = \"127.0.0.1:1\"",
            13,
            "^ for `two` it is `127.0.0.1:2`",
        ),
    ] {
        let told = told(&format!("{asks}{key}"));
        assert_eq!(told.matches("error: ").count(), 1, "{told}");
        let line = first + 1 + asks.lines().count() as u32;
        assert!(told.contains(&format!(" --> test.toml:{line}:{column}\n")), "{key}: {line}:{column} in\n{told}");
        assert!(told.contains(found) && told.starts_with("error: "), "{key}: no {found} in\n{told}");
        assert!(!told.contains('\x1b'), "{told}");
    }
    // Of a table that expects of an endpoint what none gets, the table is shown.
    let of_table = told(&format!("{moved}sent = {{ path = \"/x\" }}"));
    assert!(of_table.contains(&format!(" --> test.toml:{}:8\n", first + 2)), "{of_table}");
    // Several are told of as they stand there.
    let several = told(&format!("{moved}sent.path = \"/x\"\nstatus = 301\nroute = \"app\"\nheader.x-none = \"1\""));
    let lines: Vec<_> = several.lines().filter_map(|line| line.trim().strip_prefix("--> test.toml:")).collect();
    let expected: Vec<_> =
        [(2, 1), (3, 10), (4, 9), (5, 17)].iter().map(|(line, column)| format!("{}:{column}", first + line)).collect();
    assert_eq!(lines, expected, "{several}");
}

async fn what_holds_is_silent() {
    for keys in [
        "request = \"POST http://a.test:8080/app/x?y\"\nroute = \"app\"\nupstream = [\"one\"]\noutcome = \"ok\"\n\
         sent = { host = \"a.test:8080\", path = \"/app/x?y\", header = { x-env = \"~ ^p\" }, without = \"x-debug\" }",
        "request = \"http://a.test:8080/x\"\nstatus = 308\nheader = { location = \"~ ^https://www\" }",
        "request = \"tcp://a.test:5432\"\nupstream = \"one\"",
        "request = \"http://a.test:9/\"\noutcome = \"no_listener\"",
        "request = \"http://a.test:8080/both\"\nupstream = [\"two\", \"one\"]\nsent.path = \"/both\"",
        "request = \"https://b.example.org/\"\nlistener = \"out\"\noutcome = \"ok\"",
        "request = \"http://a.test:8080/app/x\"\nupgrade = \"websocket\"\nsent.header.upgrade = \"websocket\"",
    ] {
        assert_eq!(told(keys), "", "{keys}");
    }
}

async fn a_reload_that_breaks_an_expectation_changes_nothing() {
    let text = |path: &str, body: &str| {
        let route = format!("[[route]]\nname = \"own\"\npath = \"{path}\"\nrespond = {{ body = \"{body}\" }}\n");
        let expected =
            "[[expect]]\nrequest = \"http://a.test/kept\"\nlistener = \"main\"\nroute = \"own\"\nstatus = 200\n";
        Plan::default().routes(&route).more(expected).text()
    };
    let proxy = Proxy::start(&text("/kept", "one"));
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    assert!(!proxy.reload(&text("/elsewhere", "two")), "the test does not hold");
    assert_eq!(client.get("/kept").await.text(), "one");
    assert!(proxy.reload(&text("/*", "three")), "it holds again");
    assert_eq!(client.get("/kept").await.text(), "three");
}
