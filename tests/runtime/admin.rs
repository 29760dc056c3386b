//! The admin and observe listeners of the program itself: who may ask, what is answered, and what a drain does.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};
use tidegate::app::Running;
use tidegate::base::addr::Address;

use crate::process::{Process, answering, forwarding};
use crate::support::{Client, Origin, PATIENCE, Site, eventually, start};

const OWN: &str = "[server]\nadmin.bind = \"unix:admin.sock\"\nobserve.bind = \"127.0.0.1:0\"\n";

/// A program with both listeners.
struct Served {
    process: Process,
    web: SocketAddr,
    observe: SocketAddr,
    admin: PathBuf,
}

/// An answer, taken apart.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Served {
    fn start(configuration: &str) -> Self {
        Self::with(OWN, configuration)
    }

    fn with(own: &str, configuration: &str) -> Self {
        let mut process = Process::start(&format!("{own}{configuration}"));
        let mut address = |name: &str| {
            let line = process.wait_for(&format!("listener=\"{name}\"").replace("\"web\"", "web"));
            line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
        };
        let web = address("web").parse().unwrap();
        address("server.admin");
        let observe = address("server.observe").parse().unwrap();
        process.wait_for("ready");
        let admin = process.file().with_file_name("admin.sock");
        Self { process, web, observe, admin }
    }

    fn observe(&self, path: &str) -> Reply {
        observed(self.observe, path)
    }

    fn admin(&self, method: &str, path: &str) -> Reply {
        exchange(UnixStream::connect(&self.admin).unwrap(), &request(method, path, "localhost", ""))
    }

    fn order(&self, method: &str, path: &str, body: &Value) -> Reply {
        let body = body.to_string();
        let fields = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        let text = request(method, path, "localhost", &fields) + &body;
        exchange(UnixStream::connect(&self.admin).unwrap(), &text)
    }

    fn drain(&self, endpoint: SocketAddr, resume: bool) -> Reply {
        self.order("POST", "/drain", &json!({ "upstream": "app", "endpoint": endpoint.to_string(), "resume": resume }))
    }

    fn write(&self, own: &str, configuration: &str) {
        fs::write(self.process.file(), format!("{own}{configuration}")).unwrap();
    }

    /// `tidegate` beside the configuration.
    fn command(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let command = command.args(words).current_dir(self.process.file().parent().unwrap()).env("NO_COLOR", "1");
        let Output { status, stdout, stderr } = command.output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn request(method: &str, path: &str, host: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{fields}\r\n")
}

fn exchange(mut stream: impl Read + Write, request: &str) -> Reply {
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let head = head.to_ascii_lowercase();
    Reply { status: head[9..12].parse().unwrap(), head, body: body.to_owned() }
}

fn connected(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn observed(address: SocketAddr, path: &str) -> Reply {
    exchange(connected(address), &request("GET", path, "localhost", ""))
}

fn address_of(running: &Running) -> SocketAddr {
    match running.address_of("web") {
        Some(Address::Socket(address)) => address,
        other => panic!("{other:?}"),
    }
}

#[test]
fn observe_reads_and_admin_does_everything() {
    let served = Served::start(&answering("x"));
    Client::at(served.web).get("/");
    for path in ["/", "/healthz", "/readyz", "/metrics", "/status"] {
        assert_eq!(served.observe(path).status, 200, "{path}");
        assert_eq!(served.admin("GET", path).status, 200, "{path}");
    }
    for (method, path) in [("GET", "/config"), ("POST", "/reload"), ("POST", "/drain"), ("PUT", "/log-level")] {
        let reply = exchange(connected(served.observe), &request(method, path, "localhost", ""));
        assert_eq!(reply.status, 404, "{path} is on observe");
    }
    assert_eq!(served.admin("GET", "/nothing").status, 404);
    let status = served.observe("/status").json();
    assert_eq!((&status["state"], &status["generation"]), (&json!("ready"), &json!(1)));
    assert_eq!(status["listeners"][0]["addresses"], json!([served.web.to_string()]));
    assert_eq!(status["traffic"]["answers"]["2xx"], 1);
    assert_eq!(status["routes"][0]["match"], "*/*");
    assert!(served.observe("/metrics").body.ends_with("# EOF\n"));
    let config = served.admin("GET", "/config");
    assert!(config.body.contains("drain_timeout = \"30s\""), "{config:?}");
}

#[test]
fn methods_are_answered_as_http_asks() {
    let served = Served::start(&answering("x"));
    let head = exchange(connected(served.observe), &request("HEAD", "/healthz", "localhost", ""));
    assert_eq!((head.status, head.body.as_str(), head.field("content-length")), (200, "", Some("3")));
    for method in ["POST", "DELETE", "OPTIONS", "TRACE"] {
        let reply = exchange(connected(served.observe), &request(method, "/status", "localhost", ""));
        assert_eq!((reply.status, reply.field("allow")), (405, Some("get, head")), "{method}");
    }
    assert_eq!(served.admin("GET", "/reload").field("allow"), Some("post"));
    let page = served.observe("/");
    assert_eq!(page.field("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.field("cache-control"), Some("no-store"));
    assert!(page.field("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
    for (body, status) in [("{", 400), ("[]", 400), ("{\"upstream\":\"app\"}", 400), ("{\"resume\":true}", 400)] {
        let fields = format!("content-length: {}\r\n", body.len());
        let text = request("POST", "/drain", "localhost", &fields) + body;
        assert_eq!(exchange(UnixStream::connect(&served.admin).unwrap(), &text).status, status, "{body}");
    }
    let text = request("POST", "/drain", "localhost", "content-type: text/plain\r\ncontent-length: 2\r\n") + "{}";
    assert_eq!(exchange(UnixStream::connect(&served.admin).unwrap(), &text).status, 415);
    // Nothing of all that drained it.
    assert_eq!(served.observe("/readyz").status, 200);
}

#[test]
fn a_page_on_the_web_cannot_have_a_browser_ask() {
    let served = Served::with(
        "[server]\nadmin.bind = \"unix:admin.sock\"\nobserve = { bind = \"127.0.0.1:0\", hosts = \"tide.internal\" }\n",
        &answering("x"),
    );
    let asked =
        |host: &str, fields: &str| exchange(connected(served.observe), &request("GET", "/status", host, fields)).status;
    assert_eq!(asked("rebound.example", ""), 421);
    assert_eq!(asked("tide.internal:9900", ""), 200);
    assert_eq!(asked(&served.observe.to_string(), ""), 200);
    assert_eq!(asked("localhost", "origin: http://evil.example\r\n"), 403);
    assert_eq!(asked("localhost", "origin: null\r\n"), 403);
    assert_eq!(asked("localhost", "origin: http://localhost\r\n"), 200);
    assert_eq!(asked("localhost", "sec-fetch-site: cross-site\r\n"), 403);
    let text = request("POST", "/drain", "localhost", "origin: http://evil.example\r\ncontent-length: 0\r\n");
    assert_eq!(exchange(UnixStream::connect(&served.admin).unwrap(), &text).status, 403);
    assert_eq!(served.observe("/readyz").status, 200);
}

#[test]
fn admin_over_tcp_wants_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "hunter2\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let own = format!("[server.admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"{}\"\n", token.display());
    let mut process = Process::start(&format!("{own}{}", answering("x")));
    let line = process.wait_for("listener=\"server.admin\"");
    let address = line.split("address=").nth(1).unwrap().trim().parse().unwrap();
    let asked = |fields: &str| exchange(connected(address), &request("GET", "/config", "localhost", fields));
    let refused = asked("");
    assert_eq!((refused.status, refused.field("www-authenticate")), (401, Some("bearer realm=\"tidegate\"")));
    assert_eq!(asked("authorization: Bearer hunter\r\n").status, 401);
    let config = asked("authorization: Bearer hunter2\r\n");
    assert_eq!(config.status, 200);
    assert!(!config.body.contains("hunter2") && config.body.contains("token_file"), "{config:?}");
    // The token changes with a reload.
    fs::write(&token, "other\n").unwrap();
    process.signal(Signal::HUP);
    process.wait_for("reloaded");
    assert_eq!(asked("authorization: Bearer hunter2\r\n").status, 401);
    assert_eq!(asked("authorization: Bearer other\r\n").status, 200);
    // A file without a token is a fault, and the one in force stays.
    fs::write(&token, "\n").unwrap();
    process.signal(Signal::HUP);
    process.wait_for("contains no token");
    assert_eq!(asked("authorization: Bearer other\r\n").status, 200);
}

#[test]
fn the_socket_is_the_owners_alone_and_goes_with_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.sock");
    // Left behind by a process that was killed.
    drop(UnixListener::bind(&path).unwrap());
    let own = |more: &str| {
        format!("[server]\nadmin.bind = \"unix:{}\"\nobserve.bind = \"127.0.0.1:0\"\n{more}", path.display())
    };
    let mut served = Served::with(&own(""), &answering("x"));
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket() && UnixStream::connect(&path).is_ok());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let reload = || exchange(UnixStream::connect(&path).unwrap(), &request("POST", "/reload", "localhost", "")).status;
    // It stays over a reload, with the clients that are connected.
    let mut kept = UnixStream::connect(&path).unwrap();
    served.write(&own("drain_timeout = \"7s\"\n"), &answering("x"));
    assert_eq!(reload(), 200);
    assert_eq!(fs::metadata(&path).unwrap().ino(), metadata.ino());
    kept.write_all(request("GET", "/healthz", "localhost", "").as_bytes()).unwrap();
    let mut text = String::new();
    kept.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    // It moves with its address.
    let moved = folder.path().join("moved.sock");
    served.write(&own("").replace("own.sock", "moved.sock"), &answering("x"));
    assert_eq!(reload(), 200);
    assert!(UnixStream::connect(&moved).is_ok() && !path.exists());
    served.process.signal(Signal::TERM);
    assert_eq!(served.process.exit_code(), Some(0));
    assert!(!moved.exists());
}

#[test]
fn an_address_in_use_refuses_the_reload_and_changes_nothing() {
    let served = Served::start(&answering("old"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = OWN.replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string());
    served.write(&own, &answering("new"));
    let reply = served.admin("POST", "/reload");
    assert_eq!((reply.status, &reply.json()["error"]), (422, &json!("cannot_listen")));
    assert_eq!(Client::at(served.web).get("/").body, "old");
    assert_eq!(served.observe("/healthz").status, 200);
}

#[test]
fn a_reload_answers_with_its_changes_or_with_every_fault() {
    let served = Served::start(&answering("old"));
    served.write(OWN, &answering("new").replace("name = \"web\"", "name = \"web\"\nlimits.max_headers = 7"));
    let reply = served.admin("POST", "/reload");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.json()["changes"][0].as_str().unwrap().contains("web"), "{reply:?}");
    assert_eq!(Client::at(served.web).get("/").body, "new");

    served.write(OWN, &answering("broken").replace("respond", "respnod").replace("bind", "bnid"));
    let reply = served.admin("POST", "/reload");
    let refused = reply.json();
    assert_eq!((reply.status, &refused["error"]), (422, &json!("configuration_faults")));
    let faults = refused["faults"].as_array().unwrap();
    let fault = faults.iter().find(|fault| fault["message"].as_str().unwrap().contains("bnid")).unwrap();
    assert_eq!((&fault["line"], &fault["column"]), (&json!(6), &json!(1)));
    assert!(fault["file"].as_str().unwrap().ends_with("tidegate.toml"));
    assert!(fault["help"].as_str().unwrap().contains("`bind`"));
    assert!(refused["detail"].as_str().unwrap().contains("^^^^"));
    assert_eq!(Client::at(served.web).get("/").body, "new");
    let status = served.observe("/status").json();
    assert_eq!(
        (&status["last_reload"]["result"], &status["last_reload"]["trigger"]),
        (&json!("refused"), &json!("admin"))
    );
}

#[test]
fn it_answers_while_the_worker_has_more_than_it_can_do() {
    let served = Served::with(&format!("{OWN}workers = 1\n"), &answering("x"));
    let over = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut stream = connected(served.web);
                let burst = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(64);
                let mut buffer = vec![0; 1 << 16];
                while !over.load(Ordering::Relaxed) {
                    stream.write_all(burst.as_bytes()).unwrap();
                    assert!(stream.read(&mut buffer).unwrap() > 0);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        assert!(eventually(|| done.load(Ordering::Relaxed) > 100));
        for path in ["/healthz", "/readyz", "/status", "/metrics", "/"].iter().cycle().take(25) {
            assert_eq!(served.observe(path).status, 200, "{path}");
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn silent_clients_keep_nobody_out() {
    let served = Served::start(&answering("x"));
    // More than there are seats.
    let silent: Vec<_> = (0..80)
        .map(|number| {
            let mut stream = connected(served.observe);
            if number % 2 == 0 {
                stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: loc").unwrap();
            }
            stream
        })
        .collect();
    assert_eq!(served.observe("/healthz").status, 200);
    // A head that never ends is not waited for, nor a body.
    let mut stream = UnixStream::connect(&served.admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request("POST", "/drain", "localhost", "content-length: 9\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    let large = "x".repeat(70_000);
    let reply = served.order("PUT", "/log-level", &json!({ "level": large }));
    assert_eq!(reply.status, 413);
    drop(silent);
}

#[test]
fn the_level_of_the_log_changes_while_it_runs() {
    let mut served = Served::start(&answering("x"));
    assert_eq!(served.admin("GET", "/log-level").json(), json!({ "level": "info" }));
    assert_eq!(served.order("PUT", "/log-level", &json!({ "level": "loud" })).status, 422);
    assert_eq!(served.order("PUT", "/log-level", &json!({ "level": "debug" })).json(), json!({ "level": "debug" }));
    served.process.wait_for("the log level was changed");
    // Once more: an event that only a debug log has.
    Client::at(served.web).get("/");
    served.process.wait_for("DEBUG");
    assert_eq!(served.admin("GET", "/log-level").json(), json!({ "level": "debug" }));
}

fn two_endpoints(one: SocketAddr, two: SocketAddr) -> String {
    format!(
        "[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n[[route]]\nupstream = \"app\"\n\
         [upstream.app]\nendpoints = [\"{one}\", \"{two}\"]\n"
    )
}

fn states(served: &Served) -> Vec<String> {
    let status = served.observe("/status").json();
    let endpoints = status["upstreams"][0]["endpoints"].as_array().unwrap();
    endpoints.iter().map(|endpoint| endpoint["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_endpoint_drains_under_load_without_a_failed_request() {
    let (one, two) =
        (start(&Site::new().listener("web").answer("one")), start(&Site::new().listener("web").answer("two")));
    let (first, second) = (address_of(&one), address_of(&two));
    let served = Served::with(&format!("{OWN}workers = 2\n"), &two_endpoints(first, second));
    let over = AtomicBool::new(false);
    let bodies = [AtomicU64::new(0), AtomicU64::new(0)];
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::at(served.web);
                while !over.load(Ordering::Relaxed) {
                    let answer = client.get("/");
                    assert_eq!(answer.status, 200, "{answer:?}");
                    bodies[usize::from(answer.body == "two")].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let moves = |body: usize| {
            let before = bodies[body].load(Ordering::Relaxed);
            eventually(|| bodies[body].load(Ordering::Relaxed) > before + 20)
        };
        assert!(moves(0) && moves(1));
        for round in 0..5 {
            let reply = served.drain(first, false);
            assert_eq!(
                reply.json(),
                json!({ "upstream": "app", "endpoints": [first.to_string()], "state": "drained" })
            );
            // Pooled connections close once nothing is under way on them; then nothing can arrive there any more.
            assert!(eventually(|| one.counters().connections_open == 0), "connections stay open");
            if round == 0 {
                assert_eq!(served.admin("POST", "/reload").status, 200);
            }
            let before = one.counters().requests;
            assert!(moves(1));
            assert_eq!((one.counters().requests, states(&served)), (before, vec!["drained".into(), "ready".into()]));
            assert_eq!(served.drain(first, true).json()["state"], "ready");
            assert!(moves(0));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(served.drain("127.0.0.1:1".parse().unwrap(), false).json()["error"], "unknown_endpoint");
    let unknown = json!({ "upstream": "nobody", "endpoint": "127.0.0.1:1" });
    assert_eq!(served.order("POST", "/drain", &unknown).json()["error"], "unknown_upstream");
}

#[test]
fn explain_knows_how_endpoints_are() {
    let [one, two] = ["127.0.0.1:1", "127.0.0.1:2"].map(|address| address.parse().unwrap());
    let served = Served::start(&(two_endpoints(one, two) + "balance = \"least-requests\"\n"));
    let ask = |url: &str| served.order("POST", "/explain", &json!({ "url": url })).json();
    let url = format!("http://{}/x", served.web);
    let told = ask(&url);
    assert_eq!((&told["served"], &told["action"], &told["generation"]), (&json!(true), &json!("forward"), &json!(1)));
    assert_eq!(told["upstreams"][0]["endpoints"][0]["in_flight"], 0);
    served.drain(one, false);
    let told = ask(&url);
    let states = |told: &Value| -> Vec<String> {
        let endpoints = told["upstreams"][0]["endpoints"].as_array().unwrap();
        endpoints.iter().map(|endpoint| endpoint["state"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((states(&told), &told["served"]), (vec!["drained".into(), "ready".into()], &json!(true)));
    served.drain(two, false);
    let told = ask(&url);
    assert_eq!((&told["served"], &told["refusal"]["status"]), (&json!(false), &json!(503)));
    assert_eq!(told["refusal"]["outcome"], "destination_unavailable");
    assert_eq!(served.order("POST", "/explain", &json!({ "url": "x" })).status, 400);
    assert_eq!(served.order("POST", "/explain", &json!({ "url": url, "x": 1 })).status, 400);
    let reply = exchange(connected(served.observe), &request("POST", "/explain", "localhost", ""));
    assert_eq!(reply.status, 404, "it is on observe");
}

#[test]
fn without_an_endpoint_that_is_not_drained_the_answer_says_so() {
    let one = start(&Site::new().listener("web").answer("one"));
    let first = address_of(&one);
    let configuration = two_endpoints(first, "127.0.0.1:1".parse().unwrap());
    let served = Served::start(&configuration);
    assert_eq!(served.drain(first, false).status, 200);
    assert_eq!(served.drain("127.0.0.1:1".parse().unwrap(), false).status, 200);
    let answer = Client::at(served.web).get("/");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("every endpoint of the upstream is drained"), "{answer:?}");
    assert_eq!(served.drain(first, true).status, 200);
    assert_eq!(Client::at(served.web).get("/").body, "one");
}

#[test]
fn failures_to_connect_stand_at_their_endpoint() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let configuration = two_endpoints(dead, "127.0.0.1:1".parse().unwrap());
    let served = Served::start(&configuration);
    assert_eq!(Client::at(served.web).get("/").status, 502);
    let status = served.observe("/status").json();
    let endpoint = &status["upstreams"][0]["endpoints"][0];
    assert_eq!(endpoint["last_failure"]["kind"], "connection_refused", "{endpoint}");
    assert!(endpoint["connect_failures"].as_u64().unwrap() >= 1);
    assert_eq!(status["errors"][0]["kind"], "connection_refused");
}

#[test]
fn a_drain_of_the_process_turns_readiness_off_and_ends_it() {
    let origin = Origin::start();
    let mut served = Served::start(&forwarding(&origin));
    let mut client = Client::at(served.web);
    client.send("/slow");
    let under_way = origin.next_request();
    let mut kept = connected(served.observe);
    let reply = served.admin("POST", "/drain");
    assert_eq!((reply.status, reply.json()), (202, json!({ "state": "draining" })));
    assert!(eventually(|| served.observe("/readyz").status == 503));
    assert_eq!(served.observe("/readyz").json()["error"], "draining");
    assert_eq!(served.observe("/healthz").status, 200);
    assert_eq!(served.observe("/status").json()["state"], "draining");
    assert_eq!(served.admin("POST", "/reload").status, 409);
    assert_eq!(served.admin("POST", "/drain").status, 202);
    assert_eq!(served.drain(origin.address(), false).status, 409);
    under_way.answer("late");
    assert_eq!(client.receive().body, "late");
    assert_eq!(served.process.exit_code(), Some(0));
    assert!(!served.admin.exists());
    assert_eq!(kept.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn the_commands_speak_to_it() {
    let one = start(&Site::new().listener("web").answer("one"));
    let first = address_of(&one);
    let configuration = two_endpoints(first, "127.0.0.1:1".parse().unwrap());
    let mut served = Served::start(&configuration);
    let endpoint = format!("app/{first}");
    let (code, out, err) = served.command(&["drain", "--endpoint", &endpoint]);
    assert_eq!((code, out), (Some(0), format!("drained  {endpoint}\n")), "{err}");
    let (code, out, err) = served.command(&["status"]);
    assert_eq!(code, Some(0), "{err}");
    let line = out.lines().find(|line| line.contains(&first.to_string())).unwrap();
    assert!(out.contains("ready") && line.contains("drained"), "{out}");
    let (_, out, _) = served.command(&["status", "--json", "--admin", "unix:admin.sock"]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["generation"], 1);
    assert_eq!(served.command(&["drain", "--resume", "--endpoint", &endpoint]).1, format!("ready  {endpoint}\n"));
    assert_eq!(served.command(&["drain", "--endpoint", "app/x"]).0, Some(1));

    let (code, out, err) = served.command(&["reload"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with("generation 2 is in force: 1 listener, 1 route, 1 upstream\n  "), "{out}");
    served.write(OWN, &configuration.replace("[[route]]", "[[route]]\nhots = \"a\""));
    let (code, _, err) = served.command(&["reload"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("unknown key `hots`") && err.ends_with("nothing was changed\n"), "{err}");
    served.write(OWN, &configuration);

    assert_eq!(served.command(&["drain"]).0, Some(0));
    assert_eq!(served.process.exit_code(), Some(0));
    let (code, _, err) = served.command(&["status"]);
    assert_eq!(code, Some(3));
    assert!(err.contains("nothing listens there"), "{err}");
    served.write("", &configuration);
    let (code, _, err) = served.command(&["status"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("[server.admin]"), "{err}");
    assert!(Path::new(&served.process.file()).exists());
}
