//! The program as a person meets it: every command's exit code and what it says, on the built binary.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

#[test]
fn without_arguments_it_says_what_to_type() {
    let (code, out, err) = tidegate(&[], Path::new("."));
    assert_eq!((code, out.as_str()), (2, ""));
    for command in ["tidegate demo", "tidegate proxy --from", "tidegate run"] {
        assert!(err.contains(command), "{err}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let (code, out, _) = tidegate(&["--help"], Path::new("."));
    assert_eq!(code, 0);
    for word in [
        "run",
        "demo",
        "proxy",
        "check",
        "explain",
        "cert",
        "status",
        "reload",
        "drain",
        "doctor",
        "schema",
        "completions",
        "Exit codes:",
    ] {
        assert!(out.contains(word), "{out}");
    }
    let (code, out, _) = tidegate(&["help", "run"], Path::new("."));
    assert!(code == 0 && out.contains("--config"), "{out}");
    let (code, out, _) = tidegate(&["--version"], Path::new("."));
    assert_eq!((code, out), (0, concat!("tidegate ", env!("CARGO_PKG_VERSION"), "\n").to_owned()));
}

#[test]
fn commands_of_later_versions_say_so_and_are_not_listed() {
    let (_, help, _) = tidegate(&["--help"], Path::new("."));
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let (code, _, err) = tidegate(&["upgrade", "--some", "thing"], Path::new("."));
    assert_eq!(code, 2);
    assert!(err.contains("not in this version"), "{err}");
    assert!(!commands.contains("upgrade"), "it is listed");
}

#[test]
fn a_typing_error_is_a_fault_of_usage() {
    for words in [&["chekc"][..], &["run", "--confg", "x"], &["--log-level", "loud", "check"], &["cert"], &["proxy"]] {
        let (code, _, err) = tidegate(words, Path::new("."));
        assert_eq!(code, 2, "{words:?}: {err}");
        assert!(!err.is_empty());
    }
}

#[test]
fn a_wrong_level_in_the_environment_is_told() {
    let mut command = program(&["completions", "bash"], Path::new("."));
    let output = command.env("TIDEGATE_LOG", "loud").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("TIDEGATE_LOG"));
}

#[test]
fn run_and_check_without_a_file_name_what_needs_none() {
    if Path::new("/etc/tidegate/tidegate.toml").exists() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for command in ["run", "check"] {
        let (code, _, err) = tidegate(&[command], directory.path());
        assert_eq!(code, 2, "{command}");
        assert!(err.contains("tidegate demo") && err.contains("tidegate proxy"), "{err}");
    }
}

#[test]
fn check_prints_what_a_file_would_serve() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "tidegate.toml", SMALL);
    for words in [&["check"][..], &["check", "tidegate.toml"], &["check", "--config", "tidegate.toml"]] {
        let (code, out, err) = tidegate(words, directory.path());
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.contains("app") && out.contains("127.0.0.1:3000"), "{out}");
    }
}

#[test]
fn check_shows_every_fault_by_line_and_column() {
    let directory = tempfile::tempdir().unwrap();
    let text = SMALL.replace("\"app\"", "\"ap\"").replace("bind", "bnid");
    write(directory.path(), "site.toml", &text);
    for words in [&["check", "site.toml"][..], &["run", "--config", "site.toml"], &["run", "site.toml"]] {
        let (code, out, err) = tidegate(words, directory.path());
        assert_eq!((code, out.as_str()), (1, ""));
        for part in ["--> site.toml:2:1", "--> site.toml:5:12", "did you mean `bind`?", "did you mean `app`?", "^^^^"] {
            assert!(err.contains(part), "no {part} in:\n{err}");
        }
        assert!(!err.contains('\x1b'), "colours in a pipe");
    }
}

/// What `docs/explain.md` shows.
const EXPLAINED: &str = r#"[[listener]]
name = "web"
bind = ":8080"
limits.max_body = "1MiB"

[[route]]
name = "api"
host = "*.example.org"
path = "/v1/*"
upstream = "api"
strip_prefix = "/v1"
timeouts = { total = "5m" }
request_headers.set = { x-client = "{client_ip}" }
request_headers.remove = ["x-debug"]

[[route]]
name = "posts"
path = "/v1/*"
method = "POST"
upstream = "api"

[[route]]
name = "office"
path = "/admin"
allow = ["10.0.0.0/8"]
respond = { body = "hello\n" }

[[route]]
name = "rest"
redirect = { to = "https://www.example.org{path_and_query}" }

[upstream.api]
endpoints = ["10.0.0.1:8080", { address = "10.0.0.2:8080", weight = 2 }]
balance = "least-requests"

[[expect]]
request = "http://api.example.org:8080/v1/users"
route = "api"
upstream = "api"
sent = { path = "/users", without = "x-debug" }

[[expect]]
request = "http://example.org:8080/admin"
status = 403
"#;

#[test]
fn explain_tells_what_decides() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "site.toml", EXPLAINED);
    let asked = ["explain", "-c", "site.toml", "http://api.example.org:8080/v1/users", "-H", "x-debug: 1"];
    let (code, out, err) = tidegate(&asked, directory.path());
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(!out.contains('\x1b'), "colours in a pipe");
    assert!(out.lines().all(|line| line.chars().count() <= 100), "{out}");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explain.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &out).unwrap();
    }
    assert_eq!(out, fs::read_to_string(golden).unwrap(), "UPDATE_GOLDEN=1 cargo test --test cli explain");
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/explain.md")).unwrap();
    assert!(page.contains(&out) && page.contains(EXPLAINED), "docs/explain.md shows something else");
}

#[test]
fn explain_ends_with_one_where_a_request_would_be_refused() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "tidegate.toml", EXPLAINED);
    for (words, code, told) in [
        (&["http://example.org:8080/admin"][..], 1, "refused with 403, http_request_denied"),
        (&["http://example.org:8080/admin", "--client", "10.1.2.3"], 0, "respond: answered with 200"),
        (&["http://example.org:8080/x", "--json"], 0, "\"action\": \"redirect\""),
        (&["PUT", "http://a.example.org:8080/v1/x", "-H", "content-length: 2000000"], 1, "request_body_too_large"),
        (&["http://example.org:8080/a/../b"], 1, "a dot segment in the path"),
        (
            &["CONNECT", "http://example.org:8080"],
            1,
            "decided by the request itself: CONNECT outside of mode `forward`",
        ),
        (&["OPTIONS", "http://example.org:8080/", "-H", "max-forwards: 0"], 1, "or a Max-Forwards"),
        (&["http://example.org:9/"], 1, "no listener accepts port 9"),
        (&["https://example.org/"], 1, "no listener takes https"),
        (&["http://example.org:8080/", "--http", "3"], 1, "speaks http1, http2, not HTTP/3"),
    ] {
        let words: Vec<&str> = std::iter::once("explain").chain(words.iter().copied()).collect();
        let (ended, out, err) = tidegate(&words, directory.path());
        assert_eq!(ended, code, "{words:?}\n{out}{err}");
        assert!(out.contains(told), "{words:?}: no {told} in\n{out}");
    }
    for words in [
        &["explain"][..],
        &["explain", "/x"],
        &["explain", "http://a/", "-H", "x"],
        &["explain", "http://a/", "--http", "9"],
    ] {
        assert_eq!(tidegate(words, directory.path()).0, 2, "{words:?}");
    }
}

#[test]
fn an_expectation_that_does_not_hold_refuses_the_file() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "tidegate.toml", EXPLAINED);
    let (code, out, err) = tidegate(&["check"], directory.path());
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("2 expectations hold"), "{out}");
    let wrong = EXPLAINED.replace("route = \"api\"\nupstream = \"api\"\nsent", "route = \"posts\"\nsent");
    write(directory.path(), "tidegate.toml", &wrong.replace("status = 403", "status = 200"));
    for words in [&["check"][..], &["run"]] {
        let (code, _, err) = tidegate(words, directory.path());
        assert_eq!(code, 1, "{err}");
        for part in [
            "--> tidegate.toml:38:9",
            "route `api` takes it",
            "route `posts`: method is POST, not GET",
            "tidegate.toml:43:10",
            "403 http_request_denied",
            "2 faults",
        ] {
            assert!(err.contains(part), "no {part} in:\n{err}");
        }
    }
    // Why it does not hold can still be asked.
    assert_eq!(tidegate(&["explain", "http://api.example.org:8080/v1/users"], directory.path()).0, 0);
}

#[test]
fn check_reads_the_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let tls = "tls.certificates = [{ cert = \"certs/localhost.pem\", key = \"certs/localhost.key\" }]\n\n[[route]]";
    write(directory.path(), "tidegate.toml", &SMALL.replace("\n[[route]]", tls));
    let (code, _, err) = tidegate(&["check"], directory.path());
    assert_eq!(code, 1);
    assert!(err.contains("certs/localhost.pem") && err.contains("tidegate.toml:3:"), "{err}");

    assert_eq!(tidegate(&["cert", "localhost"], directory.path()).0, 0);
    let (code, _, err) = tidegate(&["check"], directory.path());
    assert_eq!(code, 0, "{err}");

    fs::copy(directory.path().join("certs/ca.key"), directory.path().join("certs/localhost.key")).unwrap();
    let (code, _, err) = tidegate(&["check"], directory.path());
    assert_eq!(code, 1);
    assert!(err.contains("does not belong"), "{err}");
}

#[test]
fn doctor_says_what_to_set() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "tidegate.toml", "[[listener]]\nbind = \":8080\"\n[[route]]\nrespond = {}\n");
    let (code, out, err) = tidegate(&["doctor"], folder.path());
    assert_eq!(code, 0, "{out}{err}");
    for word in ["descriptors", "net.core.somaxconn", "clock", "warn  observe listener", "[server.observe]", " ok, "] {
        assert!(out.contains(word), "{word}: {out}");
    }
    // More connections than any process may have descriptors for.
    let greedy = "[[listener]]\nbind = \":8080\"\nlimits.max_connections = 4000000000\n[[route]]\nrespond = {}\n";
    write(folder.path(), "greedy.toml", greedy);
    let (code, out, _) = tidegate(&["doctor", "--config", "greedy.toml", "--json"], folder.path());
    let findings: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(findings[0]["verdict"], "bad", "{out}");
    assert_eq!(code, 1);
    // That is no fault of the file.
    let (code, out, err) = tidegate(&["check", "greedy.toml"], folder.path());
    assert_eq!(code, 0, "{err}");
    let (_, short) = out
        .split_once("\nthis system provides less than the configuration asks for\nbad   descriptors (hard limit)  ")
        .expect(&out);
    assert!(
        short.contains("for 4000000000 connections (max_connections)\n") && short.contains("LimitNOFILE="),
        "{out}"
    );
    let (code, _, err) = tidegate(&["doctor", "--config", "missing.toml"], folder.path());
    assert_eq!(code, 1, "{err}");
}

#[test]
fn cert_writes_what_a_client_accepts() {
    let directory = tempfile::tempdir().unwrap();
    let certs = directory.path().join("certs");
    let (code, out, _) = tidegate(&["cert", "localhost", "*.example.org", "127.0.0.1"], directory.path());
    assert_eq!(code, 0);
    assert!(out.contains("curl --cacert certs/ca.pem"), "{out}");
    for key in ["ca.key", "localhost.key"] {
        assert_eq!(fs::metadata(certs.join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
    }
    PrivateKeyDer::from_pem_file(certs.join("localhost.key")).unwrap();
    for name in ["localhost", "www.example.org", "127.0.0.1"] {
        verify(&certs, "localhost.pem", name).unwrap();
    }
    verify(&certs, "localhost.pem", "example.com").unwrap_err();
}

#[test]
fn cert_overwrites_nothing_unless_told_and_never_the_authority() {
    let directory = tempfile::tempdir().unwrap();
    let certs = directory.path().join("certs");
    let all = || ["ca.pem", "ca.key", "localhost.pem", "localhost.key"].map(|name| fs::read(certs.join(name)).unwrap());
    assert_eq!(tidegate(&["cert", "localhost"], directory.path()).0, 0);
    let first = all();
    let (code, _, err) = tidegate(&["cert", "localhost"], directory.path());
    assert_eq!(code, 1);
    assert!(err.contains("--force"), "{err}");
    assert_eq!(all(), first);
    assert_eq!(tidegate(&["cert", "localhost", "--force"], directory.path()).0, 0);
    let second = all();
    assert_eq!(first[..2], second[..2]);
    assert_ne!(first[2..], second[2..]);
    verify(&certs, "localhost.pem", "localhost").unwrap();
}

#[test]
fn cert_refuses_what_is_no_host() {
    let directory = tempfile::tempdir().unwrap();
    for host in ["http://localhost", "a b", "*"] {
        let (code, _, err) = tidegate(&["cert", host], directory.path());
        assert_eq!(code, 2, "{host}: {err}");
    }
    assert!(!directory.path().join("certs").exists());
}

#[test]
fn completions_and_the_manual_come_from_the_same_definitions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, _) = tidegate(&["completions", shell], Path::new("."));
        assert_eq!(code, 0);
        assert!(out.contains("print-config") && out.contains("explain"), "{shell}");
    }
    let (code, out, _) = tidegate(&["man"], Path::new("."));
    assert_eq!(code, 0);
    assert!(out.contains(".TH tidegate 1"), "{out}");
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(tidegate(&["man", "--out", "man1"], directory.path()).0, 0);
    assert!(directory.path().join("man1/tidegate-proxy.1").exists());
}

#[test]
fn proxy_prints_a_configuration_that_check_accepts() {
    let directory = tempfile::tempdir().unwrap();
    let words = ["proxy", "--from", ":8080", "--to", "127.0.0.1:3000", "--to", "app.internal:80", "--print-config"];
    let (code, out, err) = tidegate(&words, directory.path());
    assert_eq!((code, err.as_str()), (0, ""));
    write(directory.path(), "tidegate.toml", &out);
    let (code, _, err) = tidegate(&["check"], directory.path());
    assert_eq!(code, 0, "{err}");
}

#[test]
fn proxy_says_what_is_wrong_with_an_option() {
    let directory = tempfile::tempdir().unwrap();
    let said = |words: &[&str]| tidegate(words, directory.path());
    let (code, _, err) = said(&["proxy", "--from", "everywhere", "--to", "3000"]);
    assert_eq!(code, 1);
    assert!(err.contains("<command line>:2:9") && err.contains("everywhere"), "{err}");
    for to in ["app", "ftp://app", "http://app/path"] {
        assert_eq!(said(&["proxy", "--to", to]).0, 2, "{to}");
    }
    assert_eq!(said(&["proxy", "--to", "http://a", "--to", "https://b"]).0, 2);
    assert_eq!(said(&["proxy", "--to", "3000", "--tls-from", ":443"]).0, 2);
}

#[test]
fn an_upstream_that_is_not_verified_is_told_loudly() {
    let directory = tempfile::tempdir().unwrap();
    let (_, text, _) =
        tidegate(&["proxy", "--to", "https://127.0.0.1", "--insecure", "--print-config"], directory.path());
    write(directory.path(), "tidegate.toml", &text);
    let (code, _, err) = tidegate(&["check"], directory.path());
    assert_eq!(code, 0);
    assert!(err.contains("WARN") && err.contains("insecure"), "{err}");
}

#[test]
fn proxy_forwards_and_leaves_at_term() {
    let origin = origin();
    let mut proxy = Running::start(&["proxy", "--from", FREE, "--to", &origin.to_string()], Path::new("."));
    let answer = ask(proxy.listening(), "/through");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("tide"), "{answer}");
    assert_eq!(proxy.end(Signal::TERM), 0);
}

#[test]
fn run_serves_a_file_and_leaves_at_int() {
    let directory = tempfile::tempdir().unwrap();
    let text = SMALL.replace(":8080", FREE).replace("127.0.0.1:3000", &origin().to_string());
    write(directory.path(), "tidegate.toml", &text);
    let mut proxy = Running::start(&["run"], directory.path());
    assert!(ask(proxy.listening(), "/").ends_with("tide"));
    assert_eq!(proxy.end(Signal::INT), 0);
}

#[test]
fn an_address_that_the_system_refuses_ends_with_3() {
    let taken = TcpListener::bind(FREE).unwrap();
    let from = taken.local_addr().unwrap().to_string();
    let (code, _, err) = tidegate(&["proxy", "--from", &from, "--to", "3000"], Path::new("."));
    assert_eq!(code, 3, "{err}");
    assert!(err.contains(&from), "{err}");
}

#[test]
fn the_demo_succeeds_in_every_row_and_leaves() {
    let mut demo = program(&["demo", "--exit"], Path::new("."));
    let (code, out, err) = finish(
        demo.env("TIDEGATE_DEMO_CLEARTEXT", FREE)
            .env("TIDEGATE_DEMO_TLS", FREE)
            .env("TIDEGATE_DEMO_TCP", FREE)
            .env("TIDEGATE_DEMO_QUIC", FREE)
            .env("TIDEGATE_DEMO_OBSERVE", FREE),
    );
    assert_eq!(code, 0, "{out}{err}");
    let rows: Vec<&str> = out.lines().filter(|line| line.contains("://")).collect();
    assert_eq!(rows.len(), 7, "{out}");
    assert!(rows.iter().all(|row| row.contains(" 200 ")), "{out}");
    assert_eq!(rows.iter().filter(|row| row.contains("TLS 1.3")).count(), 3, "{out}");
    assert_eq!(rows.iter().filter(|row| row.contains(" HTTP/2 ")).count(), 2, "{out}");
    assert_eq!(rows.iter().filter(|row| row.contains(" HTTP/3 ")).count(), 1, "{out}");
    for scheme in [" tcp://", " quic://"] {
        assert_eq!(rows.iter().filter(|row| row.contains(scheme) && row.contains(" as sent ")).count(), 1, "{out}");
    }
    assert!(!out.contains('\x1b'), "colours in a pipe");
}

#[test]
fn the_demo_takes_another_port_where_one_is_taken() {
    let taken = TcpListener::bind(FREE).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut demo = program(&["demo", "--exit"], Path::new("."));
    let (code, out, err) = finish(
        demo.env("TIDEGATE_DEMO_CLEARTEXT", &address)
            .env("TIDEGATE_DEMO_TLS", FREE)
            .env("TIDEGATE_DEMO_TCP", FREE)
            .env("TIDEGATE_DEMO_QUIC", FREE)
            .env("TIDEGATE_DEMO_OBSERVE", FREE),
    );
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains(&format!("note: {address} is in use")), "{out}");
}

#[test]
fn the_demo_stays_up_and_says_what_to_try() {
    let mut demo = program(&["demo"], Path::new("."));
    let mut demo = Running::of(
        demo.env("TIDEGATE_DEMO_CLEARTEXT", FREE)
            .env("TIDEGATE_DEMO_TLS", FREE)
            .env("TIDEGATE_DEMO_TCP", FREE)
            .env("TIDEGATE_DEMO_QUIC", FREE)
            .env("TIDEGATE_DEMO_OBSERVE", FREE),
    );
    let command = demo.wait_for("curl http://");
    let address = command.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    assert!(ask(address, "/").contains("<title>Tidegate demo</title>"));
    assert!(ask(address, "/bytes/100000").ends_with(&"~".repeat(100_000)));
    assert!(ask(address, "/stream").contains("20 of 20\n"));
    let ca = demo.wait_for("--cacert").split_whitespace().nth(2).unwrap().to_owned();
    assert!(Path::new(&ca).exists());
    let dashboard = demo.wait_for("Dashboard:");
    let dashboard = dashboard.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    assert!(ask(dashboard.parse().unwrap(), "/status").contains("\"name\":\"demo\""));
    assert_eq!(demo.end(Signal::INT), 0);
    assert!(!Path::new(&ca).exists(), "{ca} is left behind");
}

#[test]
fn proxy_adds_https_with_a_certificate_of_its_own() {
    let words = ["proxy", "--from", FREE, "--to", &origin().to_string(), "--tls", "localhost", "--tls-from", FREE];
    let mut proxy = Running::start(&words, Path::new("."));
    let ca = proxy.wait_for("--cacert").split_whitespace().nth(2).unwrap().to_owned();
    let directory = Path::new(&ca).parent().unwrap();
    verify(directory, "localhost.pem", "localhost").unwrap();
    assert!(directory.join("localhost.key").exists(), "certificates are looked after: a key that is gone is a fault");
    assert!(!directory.join("ca.key").exists());
    assert_eq!(proxy.end(Signal::TERM), 0);
    assert!(!directory.exists(), "the key is left behind");
}

/// [`SMALL`] to an origin of its own, with these keys of `[server]`.
fn small_with(keys: &str) -> String {
    let text = SMALL.replace(":8080", FREE).replace("127.0.0.1:3000", &origin().to_string());
    format!("[server]\n{keys}\n{text}")
}

#[test]
fn the_access_log_goes_to_standard_output_and_the_file_of_its_name() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "tidegate.toml", &small_with("access_log = {}"));
    let mut proxy = Running::start(&["run"], directory.path());
    let address = proxy.listening();
    ask(address, "/to-stdout");
    let line = proxy.wait_for("/to-stdout");
    assert!(line.starts_with("{\"time\":") && line.ends_with('}'), "{line}");
    // HUP with another log, then with the same one after a rename.
    let text = std::fs::read_to_string(directory.path().join("tidegate.toml")).unwrap();
    let text = text.replace("access_log = {}", "access_log = { output = \"access.log\", format = \"{path}\" }");
    write(directory.path(), "tidegate.toml", &text);
    kill_process(Pid::from_child(&proxy.child), Signal::HUP).unwrap();
    proxy.wait_for("reloaded");
    ask(address, "/one");
    std::fs::rename(directory.path().join("access.log"), directory.path().join("access.log.1")).unwrap();
    kill_process(Pid::from_child(&proxy.child), Signal::HUP).unwrap();
    proxy.wait_for("reloaded");
    ask(address, "/two");
    assert_eq!(proxy.end(Signal::TERM), 0);
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    // Each worker hands on its own lines, so that their order is not the requests'.
    let all = read("access.log.1") + &read("access.log");
    let mut lines: Vec<_> = all.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["/one", "/two"]);
    assert!(read("access.log").contains("/two\n"));
}

#[test]
fn the_log_of_the_process_can_be_json_and_its_level_changes_with_a_reload() {
    let directory = tempfile::tempdir().unwrap();
    let text = small_with("log = { format = \"json\" }");
    write(directory.path(), "tidegate.toml", &text);
    let mut proxy = Running::start(&["run"], directory.path());
    let line = proxy.wait_for("\"address\":");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!((&line["level"], &line["listener"]), (&"info".into(), &FREE.into()), "{line}");
    let address: SocketAddr = line["address"].as_str().unwrap().parse().unwrap();
    write(directory.path(), "tidegate.toml", &text.replace("\"json\"", "\"json\", level = \"debug\""));
    kill_process(Pid::from_child(&proxy.child), Signal::HUP).unwrap();
    proxy.wait_for("reloaded");
    ask(address, "/");
    let line = proxy.wait_for("exchange ended");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["status"], &line["outcome"]), (&"debug".into(), &200.into(), &"ok".into()));
    assert_eq!(proxy.end(Signal::TERM), 0);
}

#[test]
fn a_level_of_the_command_line_wins_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "tidegate.toml", &small_with("log.level = \"off\""));
    let mut proxy = Running::start(&["run", "--log-level", "info"], directory.path());
    proxy.wait_for("ready");
    assert_eq!(proxy.end(Signal::TERM), 0);
}

#[test]
fn check_tells_of_a_log_without_a_folder_and_makes_none() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "tidegate.toml", &small_with("access_log.output = \"logs/access.log\""));
    let (code, _, err) = tidegate(&["check"], directory.path());
    assert_eq!(code, 1);
    assert!(err.contains("logs/access.log") && err.contains("tidegate.toml:2:"), "{err}");
    std::fs::create_dir(directory.path().join("logs")).unwrap();
    let (code, out, err) = tidegate(&["check"], directory.path());
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("access log to logs/access.log as JSON"), "{out}");
    assert!(!directory.path().join("logs/access.log").exists());
}

/// An address with whatever port is free.
const FREE: &str = "127.0.0.1:0";

/// The smallest useful file.
const SMALL: &str = "\
[[listener]]
bind = \":8080\"

[[route]]
upstream = \"app\"

[upstream.app]
endpoints = [\"127.0.0.1:3000\"]
";

/// What no command may take longer than, on a slow machine with a debug build.
const DEADLINE: Duration = Duration::from_secs(30);

fn program(words: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(words).current_dir(directory).stdin(Stdio::null());
    command.env_remove("TIDEGATE_LOG").env_remove("NO_COLOR");
    command
}

/// Runs it to its end: exit code, stdout, stderr.
fn tidegate(words: &[&str], directory: &Path) -> (i32, String, String) {
    finish(&mut program(words, directory))
}

fn finish(command: &mut Command) -> (i32, String, String) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = Pid::from_child(&child);
    let (done, is_done) = channel::<()>();
    let watch = thread::spawn(move || {
        if is_done.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            let _ = kill_process(id, Signal::KILL);
        }
    });
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    drop(done);
    watch.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(stdout), text(stderr));
    (status.code().unwrap_or_else(|| panic!("{command:?} did not end: {out}{err}")), out, err)
}

/// A process that serves; killed on drop.
struct Running {
    child: Child,
    /// The lines of both its outputs.
    said: Receiver<String>,
}

impl Running {
    fn start(words: &[&str], directory: &Path) -> Self {
        Self::of(&mut program(words, directory))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (lines, said) = channel();
        for pipe in [Box::new(out) as Box<dyn Read + Send>, Box::new(err)] {
            let lines = lines.clone();
            thread::spawn(move || BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|l| lines.send(l)));
        }
        Self { child, said }
    }

    /// Reads what it says until a line holds `word`.
    fn wait_for(&self, word: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        let mut before = String::new();
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(word) => return line,
                Ok(line) => before.extend([&line, "\n"]),
                Err(error) => panic!("no `{word}` ({error}) in:\n{before}"),
            }
        }
    }

    /// The address of its first listener, from the log.
    fn listening(&self) -> SocketAddr {
        let line = self.wait_for("address=");
        let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
        address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {line}"))
    }

    /// Sends a signal and waits for its exit code.
    fn end(&mut self, signal: Signal) -> i32 {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "still there after {signal:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An origin that answers `tide` to everything, for as long as the test runs.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind(FREE).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|length| length > 0) {
                    if line == "\r\n" {
                        let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntide");
                    }
                    line.clear();
                }
            });
        }
    });
    address
}

/// The whole answer to one GET.
fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Judges a certificate as a client that trusts the authority beside it.
fn verify(directory: &Path, file: &str, name: &str) -> Result<(), rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let leaf = CertificateDer::from_pem_file(directory.join(file)).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now()).map(drop)
}

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).unwrap();
}
