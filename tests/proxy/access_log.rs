//! The access log of a proxy that serves: what its lines say of real requests, who is let through, what becomes of it at
//! reloads and at the end, and that nothing waits for whoever reads it. Request ids and traces as the origin sees them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::body::Sent;
use crate::support::certificates::SITE;
use crate::support::client::{Client, get, post};
use crate::support::origin::{Closed, Origin, RawOrigin, echo, ok};
use crate::support::pair::{Downstream, Pair, Scene, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::raw::Raw;
use crate::support::{eventually, pairs, tests};

pairs! {
    a_line_says_what_happened,
    ids_and_traces_are_passed_on,
    ids_and_traces_are_begun,
}

tests! {
    every_format_has_its_line,
    answers_of_our_own_are_logged,
    refused_heads_are_logged,
    failures_have_their_word_and_reason,
    clients_that_go_are_logged,
    nobody_can_forge_a_line,
    only_what_is_asked_for_is_logged,
    a_sample_is_taken,
    listeners_and_routes_can_be_left_out,
    an_id_is_put_on_without_a_log,
    no_id_is_put_on_where_it_is_off,
    a_renamed_file_is_opened_anew_and_no_line_is_lost,
    a_refused_reload_opens_the_file_anew,
    a_reload_moves_the_log,
    a_log_that_cannot_be_opened_refuses,
    what_was_logged_is_written_at_the_end,
    a_reader_that_stops_stops_nobody,
    a_request_is_logged_by_the_generation_that_it_began_with,
}

/// The keys of a log into a file.
fn logged(keys: &str) -> String {
    format!("access_log = {{ output = \"@/access.log\", {keys} }}")
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Waits for this many lines of the log, and sees that there are no more.
async fn lines_of(proxy: &Proxy, count: usize) -> Vec<String> {
    let path = proxy.file("access.log");
    eventually(|| lines(&path).len() >= count).await;
    let lines = lines(&path);
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

async fn objects_of(proxy: &Proxy, count: usize) -> Vec<Value> {
    let lines = lines_of(proxy, count).await;
    lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

async fn object_of(proxy: &Proxy) -> Value {
    objects_of(proxy, 1).await.remove(0)
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_else(|| panic!("{field} in {object:#}"))
}

fn number(object: &Value, field: &str) -> f64 {
    object[field].as_f64().unwrap_or_else(|| panic!("{field} in {object:#}"))
}

/// The parts of an exchange add up to the whole, to the rounding of each.
fn adds_up(object: &Value) {
    let parts = ["queue_ms", "connect_ms", "tls_ms", "first_byte_ms", "body_ms"].map(|part| number(object, part));
    let whole = number(object, "duration_ms");
    assert!((parts.iter().sum::<f64>() - whole).abs() < 0.01, "{parts:?} of {whole}");
}

async fn a_line_says_what_happened(pair: Pair) {
    let mut scene =
        pair.planned(|plan| plan.server(&logged("request_headers = \"x-a\"")).route("name = \"all\""), echo).await;
    let mut request = post("/v1/items?token=secret", "12345");
    request.headers_mut().insert("x-a", "one two".parse().unwrap());
    request.headers_mut().insert("user-agent", "test/1".parse().unwrap());
    request.headers_mut().insert("referer", "https://example.org/from?secret".parse().unwrap());
    let reply = scene.client.call(request).await;
    let object = object_of(&scene.proxy).await;
    let tls = pair.is_tls();
    for (field, value) in [
        ("method", "POST"),
        ("path", "/v1/items"),
        ("host", SITE),
        ("scheme", if tls { "https" } else { "http" }),
        (
            "protocol",
            match pair.down {
                Downstream::H1 | Downstream::H1Tls => "HTTP/1.1",
                Downstream::H2 | Downstream::H2Tls => "HTTP/2.0",
                Downstream::H3 => "HTTP/3.0",
            },
        ),
        ("outcome", "ok"),
        ("client_ip", "127.0.0.1"),
        ("listener", "main"),
        ("route", "all"),
        ("upstream", "origin"),
        ("endpoint", &*scene.origin.address().to_string()),
        ("user_agent", "test/1"),
        ("referer", "https://example.org/from"),
        ("request_id", reply.field("x-request-id").unwrap()),
    ] {
        assert_eq!(text(&object, field), value, "{field}");
    }
    assert!(text(&object, "peer").starts_with("127.0.0.1:"));
    assert_eq!((number(&object, "status"), number(&object, "attempts")), (200.0, 1.0));
    assert_eq!((number(&object, "bytes_in"), number(&object, "bytes_out")), (5.0, reply.body.len() as f64));
    assert_eq!(object["request_headers"]["x-a"], "one two");
    assert_eq!(object.get("sni").and_then(Value::as_str), tls.then_some(SITE));
    assert_eq!(object.get("tls_version").and_then(Value::as_str), tls.then_some("1.3"));
    assert_eq!((object.get("query"), object.get("reason")), (None, None));
    assert_eq!(number(&object, "tls_ms") > 0.0, pair.up == Upstream::Http2Tls);
    assert!(number(&object, "duration_ms") > 0.0);
    adds_up(&object);
}

async fn ids_and_traces_are_passed_on(pair: Pair) {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let mut scene = pair.planned(|plan| plan.server(&logged("")), ok).await;
    let mut request = get("/");
    request.headers_mut().insert("x-request-id", "given-7".parse().unwrap());
    request.headers_mut().insert("traceparent", TRACE.parse().unwrap());
    request.headers_mut().insert("tracestate", "a=b".parse().unwrap());
    let reply = scene.client.call(request).await;
    let seen = scene.origin.only();
    assert_eq!(reply.field("x-request-id"), Some("given-7"));
    assert_eq!(
        (&seen.headers["x-request-id"], &seen.headers["traceparent"]),
        (&"given-7".parse().unwrap(), &TRACE.parse().unwrap())
    );
    assert_eq!(seen.headers["tracestate"], "a=b");
    let object = object_of(&scene.proxy).await;
    assert_eq!(text(&object, "request_id"), "given-7");
    assert_eq!(text(&object, "trace_id"), &TRACE[3..35]);
    assert_eq!(text(&object, "parent_id"), &TRACE[36..52]);
}

async fn ids_and_traces_are_begun(pair: Pair) {
    let mut scene = pair.planned(|plan| plan.server(&logged("")), ok).await;
    let mut request = get("/");
    // Neither is one that can be passed on.
    request.headers_mut().insert("x-request-id", "<script>".parse().unwrap());
    request.headers_mut().insert("traceparent", "00-0-0-0".parse().unwrap());
    request.headers_mut().insert("tracestate", "a=b".parse().unwrap());
    let reply = scene.client.call(request).await;
    let seen = scene.origin.only();
    let object = object_of(&scene.proxy).await;
    let id = text(&object, "request_id");
    assert_eq!(id.len(), 32);
    assert_eq!((reply.field("x-request-id"), seen.headers["x-request-id"].to_str().unwrap()), (Some(id), id));
    let trace = format!("00-{}-{}-01", text(&object, "trace_id"), text(&object, "parent_id"));
    assert_eq!(seen.headers["traceparent"], *trace);
    assert_eq!(seen.headers.get("tracestate"), None);
}

async fn every_format_has_its_line() {
    let formats = [
        ("json", r#"^\{"time":"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","method":"GET","path":"/x y"#),
        (
            "logfmt",
            r#"^time=20\S+Z method=GET path=/a host=example\.org scheme=http protocol=HTTP/1\.1 status=200 outcome=ok bytes_in=0 bytes_out=2 duration_ms=\d+\.\d{3} queue_ms=.* user_agent="a b" referer=/r$"#,
        ),
        (
            "combined",
            r#"^127\.0\.0\.1 - - \[\d\d/[A-Z][a-z][a-z]/20\d\d:\d\d:\d\d:\d\d \+0000\] "GET /a HTTP/1\.1" 200 2 "/r" "a b"$"#,
        ),
        ("{method} {path} {status} {bytes_out} {sni} {duration_ms}", r"^GET /a 200 2 - \d+\.\d{3}$"),
    ];
    for (format, pattern) in formats {
        let pattern = pattern.replace("/x y", "/a");
        let mut scene = Pair::PLAIN.planned(|plan| plan.server(&logged(&format!("format = \"{format}\""))), ok).await;
        let mut request = get("/a?b=c");
        request.headers_mut().insert("user-agent", "a b".parse().unwrap());
        request.headers_mut().insert("referer", "/r?q".parse().unwrap());
        scene.client.call(request).await;
        let line = lines_of(&scene.proxy, 1).await.remove(0);
        assert!(regex::Regex::new(&pattern).unwrap().is_match(&line), "{format}: {line}");
    }
}

async fn answers_of_our_own_are_logged() {
    let routes = "[[route]]\nname = \"fixed\"\npath = \"/fixed\"\nrespond.body = \"hello\"\n\
                  [[route]]\nname = \"moved\"\npath = \"/moved\"\nredirect.to = \"/fixed\"\n";
    let proxy = Plan::to(&[]).routes(routes).server(&logged("")).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for target in ["/fixed", "/moved", "/nowhere"] {
        client.get(target).await;
    }
    let objects = objects_of(&proxy, 3).await;
    let told: Vec<_> =
        objects.iter().map(|one| (one["status"].as_u64(), one["route"].as_str(), text(one, "outcome"))).collect();
    assert_eq!(
        told,
        [
            (Some(200), Some("fixed"), "ok"),
            (Some(308), Some("moved"), "ok"),
            (Some(404), None, "destination_not_found")
        ]
    );
    assert_eq!(number(&objects[0], "bytes_out"), 5.0);
    assert_eq!((objects[0].get("upstream"), number(&objects[0], "attempts")), (None, 0.0));
}

async fn refused_heads_are_logged() {
    let proxy = Plan::to(&["127.0.0.1:1".parse().unwrap()]).server(&logged("")).start();
    for head in [
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n",
        "\x01\x02\x03\r\n\r\n",
        // These hyper refuses by itself.
        "GET /<script> HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send(head).await;
        assert_eq!(raw.response().await.unwrap().status(), 400);
    }
    for object in objects_of(&proxy, 5).await {
        assert_eq!((number(&object, "status"), text(&object, "outcome")), (400.0, "http_request_error"), "{object:#}");
        assert!(!text(&object, "reason").is_empty());
    }
}

async fn failures_have_their_word_and_reason() {
    let closed = Closed::bind();
    let proxy = Plan::to(&[closed.address()]).server(&logged("")).start();
    Client::connect(proxy.address(), Downstream::H1).await.get("/").await.is_fault(502, "connection_refused");
    let object = object_of(&proxy).await;
    assert_eq!((text(&object, "outcome"), number(&object, "status")), ("connection_refused", 502.0));
    assert_eq!(text(&object, "endpoint"), closed.address().to_string());
    assert!(!text(&object, "reason").is_empty() && number(&object, "attempts") >= 1.0, "{object:#}");
    adds_up(&object);
}

async fn clients_that_go_are_logged() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| {
        connection.request().await;
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = Plan::to(&[origin.address()]).server(&logged("format = \"combined\"")).start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually(|| origin.connections() == 1).await;
    raw.reset();
    let line = lines_of(&proxy, 1).await.remove(0);
    assert!(line.ends_with("\"GET /slow HTTP/1.1\" 499 0 \"-\" \"-\""), "{line}");
}

async fn nobody_can_forge_a_line() {
    let agent = b"x\" 200 1 \"-\" \\ \t\xff\xc2\x9b31m{\"status\":500}";
    for format in ["json", "logfmt", "combined", "{path} {user_agent}"] {
        let origin = Origin::start(Upstream::Http1, ok).await;
        let proxy = Plan::to(&[origin.address()]).server(&logged(&format!("format = \"{format}\""))).start();
        let mut raw = Raw::connect(proxy.address()).await;
        let mut head = b"GET /a\"{\"b\":1}%0a HTTP/1.1\r\nHost: example.org\r\nUser-Agent: ".to_vec();
        head.extend_from_slice(agent);
        head.extend_from_slice(b"\r\n\r\n");
        raw.send(&head).await;
        let status = raw.response().await.unwrap().status();
        let line = lines_of(&proxy, 1).await.remove(0);
        assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line}");
        match format {
            "json" => {
                let object: Value = serde_json::from_str(&line).unwrap();
                assert_eq!(number(&object, "status"), f64::from(status));
                assert_eq!(text(&object, "user_agent"), String::from_utf8_lossy(agent));
            }
            "combined" => assert_eq!(line.matches('"').count(), 6, "{line}"),
            "logfmt" => assert_eq!(line.matches(" status=").count(), 1, "{line}"),
            _ => assert!(!line.contains('"'), "{line}"),
        }
    }
}

async fn only_what_is_asked_for_is_logged() {
    let only = "only = \"status >= 400 or path ~ '^/slow' and not request_headers.x-quiet = 'yes'\"";
    let routes = "[[route]]\npath = \"/gone\"\nrespond.status = 410\n[[route]]\nrespond.body = \"x\"\n";
    let proxy = Plan::to(&[]).routes(routes).server(&logged(&format!("{only}, format = \"{{path}}\""))).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for target in ["/", "/gone", "/slow", "/fast"] {
        client.get(target).await;
    }
    let mut quiet = get("/slow/quiet");
    quiet.headers_mut().insert("x-quiet", "yes".parse().unwrap());
    client.call(quiet).await;
    client.get("/slow/last").await;
    assert_eq!(lines_of(&proxy, 3).await, ["/gone", "/slow", "/slow/last"]);
}

async fn a_sample_is_taken() {
    let routes = "[[route]]\nrespond.body = \"x\"\n";
    let proxy = Plan::to(&[]).routes(routes).server(&logged("sample = 0.5, format = \"{path}\"")).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for number in 0..400 {
        client.get(&format!("/{number}")).await;
    }
    let file = std::fs::File::open(proxy.file("access.log")).unwrap();
    drop(client);
    proxy.running().drain();
    proxy.left().await;
    let count = std::io::read_to_string(file).unwrap().lines().count();
    assert!((120..280).contains(&count), "{count} of 400");
}

async fn listeners_and_routes_can_be_left_out() {
    let routes =
        "[[route]]\npath = \"/quiet\"\naccess_log = false\nrespond.body = \"x\"\n[[route]]\nrespond.body = \"x\"\n";
    let silent = "[[listener]]\nname = \"silent\"\nbind = \"127.0.0.1:0\"\naccess_log = false\n";
    let proxy = Plan::to(&[]).routes(routes).more(silent).server(&logged("format = \"{listener} {path}\"")).start();
    let mut client = Client::connect(proxy.address_of("silent"), Downstream::H1).await;
    client.get("/").await;
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    for target in ["/quiet", "/loud"] {
        client.get(target).await;
    }
    assert_eq!(lines_of(&proxy, 1).await, ["main /loud"]);
}

async fn an_id_is_put_on_without_a_log() {
    let keys = "request_id = \"always\"\ntraceparent = \"always\"";
    let mut scene = Pair::PLAIN.planned(|plan| plan.listener(keys), ok).await;
    let reply = scene.client.get("/").await;
    let seen = scene.origin.only();
    assert_eq!(seen.headers["x-request-id"], reply.field("x-request-id").unwrap());
    assert_eq!(seen.headers["traceparent"].len(), 55);
}

async fn no_id_is_put_on_where_it_is_off() {
    let keys = "request_id = \"off\"\ntraceparent = \"off\"";
    let mut scene = Pair::PLAIN.planned(|plan| plan.listener(keys).server(&logged("")), ok).await;
    let reply = scene.client.get("/").await;
    let seen = scene.origin.only();
    assert_eq!((reply.field("x-request-id"), seen.headers.get("x-request-id")), (None, None));
    assert_eq!(seen.headers.get("traceparent"), None);
    let object = object_of(&scene.proxy).await;
    assert_eq!(object.get("trace_id"), None);
}

/// A scene whose log has a line with the path of each request.
async fn pathed() -> (Scene, Plan) {
    let plan = |plan: Plan| plan.server(&logged("format = \"{path}\""));
    let scene = Pair::PLAIN.planned(plan, ok).await;
    let again = plan(Pair::PLAIN.plan(&[scene.origin.address()]));
    (scene, again)
}

async fn a_renamed_file_is_opened_anew_and_no_line_is_lost() {
    let (mut scene, plan) = pathed().await;
    let (path, mut total) = (scene.proxy.file("access.log"), 0);
    let mut old = Vec::new();
    for turn in 0..4 {
        for number in 0..50 {
            scene.client.get(&format!("/{turn}/{number}")).await;
            total += 1;
        }
        if turn == 2 {
            eventually(|| lines(&path).len() > 10).await;
        }
        let renamed = scene.proxy.file(&format!("access.log.{turn}"));
        std::fs::rename(&path, &renamed).unwrap();
        old.push(renamed);
        assert!(scene.proxy.reload(&plan.text()));
        assert!(path.exists(), "it was opened anew");
    }
    scene.client.get("/last").await;
    // What waited in a buffer while the file was renamed stands in the new one.
    old.push(path);
    let kept = || old.iter().map(|path: &PathBuf| lines(path).len()).sum::<usize>();
    eventually(|| kept() > total).await;
    assert_eq!(kept(), total + 1);
    assert_eq!(lines(&old[4]).last().map(String::as_str), Some("/last"));
    // And what was written before it was renamed, in the old one.
    assert!(lines(&old[2]).len() > 10);
}

async fn a_refused_reload_opens_the_file_anew() {
    let (mut scene, plan) = pathed().await;
    let renamed = scene.proxy.file("access.log.1");
    scene.client.get("/before").await;
    lines_of(&scene.proxy, 1).await;
    std::fs::rename(scene.proxy.file("access.log"), &renamed).unwrap();
    let faulty = plan.listener("tls.certificates = [{ cert = \"@/none.pem\", key = \"@/none.key\" }]");
    assert!(!scene.proxy.reload(&faulty.text()));
    scene.client.get("/after").await;
    assert_eq!(lines_of(&scene.proxy, 1).await, ["/after"]);
    assert_eq!(lines(&renamed), ["/before"]);
}

async fn a_reload_moves_the_log() {
    let (mut scene, plan) = pathed().await;
    scene.client.get("/one").await;
    let moved = plan.text().replace("@/access.log", "@/other.log").replace("{path}", "{method} {path}");
    assert!(scene.proxy.reload(&moved));
    scene.client.get("/two").await;
    let other = scene.proxy.file("other.log");
    eventually(|| lines(&other).len() == 1).await;
    assert_eq!(lines(&other), ["GET /two"]);
    assert_eq!(lines_of(&scene.proxy, 1).await, ["/one"]);
    assert!(scene.proxy.reload(&Pair::PLAIN.plan(&[scene.origin.address()]).text()));
    scene.client.get("/three").await;
    assert!(scene.proxy.reload(&moved));
    scene.client.get("/four").await;
    eventually(|| lines(&other).len() == 2).await;
    assert_eq!(lines(&other), ["GET /two", "GET /four"]);
}

async fn a_log_that_cannot_be_opened_refuses() {
    let (mut scene, plan) = pathed().await;
    for output in ["@/none/access.log", "@", "syslog:@/none", "journald:@/none"] {
        let text = plan.text().replace("@/access.log", output);
        assert!(!scene.proxy.reload(&text), "{output}");
    }
    scene.client.get("/still").await;
    assert_eq!(lines_of(&scene.proxy, 1).await, ["/still"]);
}

async fn what_was_logged_is_written_at_the_end() {
    let (mut scene, _) = pathed().await;
    // Its name goes with the folder of the test; its lines do not.
    let file = std::fs::File::open(scene.proxy.file("access.log")).unwrap();
    for number in 0..20 {
        scene.client.get(&format!("/{number}")).await;
    }
    scene.proxy.running().stop();
    scene.proxy.left().await;
    assert_eq!(std::io::read_to_string(file).unwrap().lines().count(), 20);
}

async fn a_reader_that_stops_stops_nobody() {
    let routes = "[[route]]\nrespond.body = \"x\"\n";
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Open for both, so that it has a reader, who never reads.
    let _reader = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let log = format!("access_log = {{ output = {pipe:?}, query = true }}");
    let proxy = Plan::to(&[]).routes(routes).server(&log).start();
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    let long = format!("/{}?{}", "a".repeat(3_000), "b".repeat(3_000));
    let losses = std::sync::Arc::clone(&proxy.running().control_counters().access_log);
    let mut answered = 0;
    while losses.dropped() == 0 {
        let mut request = get(&long);
        for name in ["user-agent", "referer"] {
            request.headers_mut().insert(name, "c".repeat(3_000).parse().unwrap());
        }
        assert_eq!(client.call(request).await.text(), "x");
        answered += 1;
    }
    // 16 MiB of lines of 8 KiB and a little more.
    assert!((1_500..2_500).contains(&answered), "{answered}");
    assert_eq!(client.get("/").await.text(), "x");
}

async fn a_request_is_logged_by_the_generation_that_it_began_with() {
    let plan = |plan: Plan| plan.server(&logged("format = \"{path}\""));
    let mut scene = Pair::PLAIN.planned(plan, echo).await;
    let again = plan(Pair::PLAIN.plan(&[scene.origin.address()]));
    let (feed, body) = Sent::fed();
    let sending = scene.client.call(post("/upload", body));
    let reloading = async {
        eventually(|| scene.origin.count() == 1).await;
        assert!(scene.proxy.reload(&again.text().replace("{path}", "{path} {status}")));
        drop(feed);
    };
    tokio::join!(sending, reloading);
    assert_eq!(lines_of(&scene.proxy, 1).await, ["/upload"]);
    scene.client.get("/next").await;
    assert_eq!(lines_of(&scene.proxy, 2).await, ["/upload", "/next 200"]);
}
