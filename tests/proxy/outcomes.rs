//! The table of faults: what is injected, in which phase, and the one word that the access log and `Proxy-Status` have for
//! it alike. In every line the phases add up to the whole, and the phase of the fault is the one that took long.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::support::client::{Client, Reply, get, post, with};
use crate::support::origin::{Closed, Origin, RawOrigin, echo, ok};
use crate::support::pair::{Downstream, Pair, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::raw::Raw;
use crate::support::{eventually, tests};

tests! {
    success_is_ok_in_every_phase,
    a_host_without_a_route_is_destination_not_found,
    a_client_that_is_not_admitted_is_denied,
    an_ambiguous_request_is_an_http_request_error,
    a_head_too_large_is_told_as_such,
    a_head_that_is_late_is_told_as_such,
    a_body_too_large_is_told_as_such,
    a_method_we_do_not_carry_is_not_implemented,
    a_loop_is_detected,
    a_host_of_another_certificate_is_misdirected,
    an_upstream_without_endpoints_is_unavailable,
    a_refused_connection_fails_in_connect,
    a_silent_handshake_times_out_in_tls,
    a_certificate_that_does_not_verify_fails_in_tls,
    an_endpoint_without_tls_fails_in_tls,
    an_endpoint_that_closes_fails_before_the_first_byte,
    an_endpoint_that_says_nothing_times_out_before_the_first_byte,
    an_endpoint_that_takes_nothing_times_out_before_the_first_byte,
    an_answer_that_is_no_http_is_a_protocol_error,
    an_answer_that_breaks_off_is_incomplete,
    an_answer_that_falls_silent_is_stalled,
    an_exchange_past_its_total_is_timed_out,
    a_switch_to_another_protocol_is_a_failed_upgrade,
    a_client_that_stops_sending_is_stalled,
    a_client_that_leaves_is_gone,
    an_attempt_elsewhere_is_counted_and_timed,
}

/// How long the injected waits are at the least: what rounding and the timer's tick cannot hide.
const WAIT: Duration = Duration::from_millis(100);

/// The plan with an access log that the test reads.
fn logged(plan: Plan) -> Plan {
    plan.more("[server.access_log]\noutput = \"@/access.log\"\nformat = \"json\"")
}

/// The log's line number `at`, once it is there.
async fn line(proxy: &Proxy, at: usize) -> Value {
    let path = proxy.file("access.log");
    let lines = || fs::read_to_string(&path).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    eventually(|| lines().len() > at).await;
    serde_json::from_str(&lines()[at]).unwrap()
}

/// What was not reached is not in the line.
fn milliseconds(line: &Value, field: &str) -> f64 {
    line[field].as_f64().unwrap_or_default()
}

const PHASES: [&str; 5] = ["queue_ms", "connect_ms", "tls_ms", "first_byte_ms", "body_ms"];

/// The phases are the whole.
fn adds_up(line: &Value) {
    let sum: f64 = PHASES.iter().map(|phase| milliseconds(line, phase)).sum();
    let total = milliseconds(line, "duration_ms");
    // Each is cut off at a microsecond.
    assert!((sum - total).abs() < 0.01, "{sum} is not {total}: {line}");
}

/// The line says this status and this outcome; a wait was in this phase and in no other.
fn told(line: &Value, status: u16, outcome: &str, waited: Option<&str>) {
    assert_eq!(line["outcome"], outcome, "{line}");
    assert_eq!(line["status"].as_u64().unwrap_or_default(), u64::from(status), "{line}");
    assert!(outcome == "ok" || line["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{line}");
    adds_up(line);
    for phase in PHASES {
        let took = milliseconds(line, phase);
        if waited == Some(phase) {
            assert!(took >= WAIT.as_secs_f64() * 900.0, "nothing waited in {phase}: {line}");
        } else if waited.is_some() {
            let longest = milliseconds(line, waited.unwrap());
            assert!(took < longest, "{phase} took longer than {waited:?}: {line}");
        }
    }
}

/// What went to the client and what was logged are one word.
async fn refused(reply: &Reply, proxy: &Proxy, status: u16, outcome: &str, waited: Option<&str>) {
    reply.is_fault(status, outcome);
    told(&line(proxy, 0).await, status, outcome, waited);
}

async fn start(plan: Plan) -> (Proxy, Client) {
    let proxy = logged(plan).start();
    let client = Client::connect(proxy.address(), Downstream::H1).await;
    (proxy, client)
}

async fn to_echo() -> Plan {
    Plan::to(&[Origin::start(Upstream::Http1, echo).await.address()])
}

async fn success_is_ok_in_every_phase() {
    for up in [Upstream::Http1, Upstream::Http2, Upstream::Http2Tls] {
        let pair = Pair { down: Downstream::H1, up };
        let mut scene = pair.planned(logged, ok).await;
        for turn in 0..2 {
            assert_eq!(scene.client.get("/a?b=c").await.status(), 200);
            let line = line(&scene.proxy, turn).await;
            told(&line, 200, "ok", None);
            let connected = milliseconds(&line, "connect_ms") > 0.0;
            assert_eq!(connected, turn == 0, "{line}");
            let shaken = milliseconds(&line, "tls_ms") > 0.0;
            assert_eq!(shaken, turn == 0 && up == Upstream::Http2Tls, "{line}");
            assert!(milliseconds(&line, "first_byte_ms") > 0.0, "{line}");
        }
    }
}

async fn a_host_without_a_route_is_destination_not_found() {
    let (proxy, mut client) = start(to_echo().await.route("host = \"other.test\"")).await;
    refused(&client.get("/").await, &proxy, 404, "destination_not_found", None).await;
}

async fn a_client_that_is_not_admitted_is_denied() {
    let (proxy, mut client) = start(to_echo().await.route("allow = [\"192.0.2.0/24\"]")).await;
    refused(&client.get("/").await, &proxy, 403, "http_request_denied", None).await;
}

async fn an_ambiguous_request_is_an_http_request_error() {
    let (proxy, _) = start(to_echo().await).await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(raw.response().await.unwrap().status(), 400);
    told(&line(&proxy, 0).await, 400, "http_request_error", None);
}

async fn a_head_too_large_is_told_as_such() {
    let (proxy, _) = start(to_echo().await.listener("limits.max_header_size = \"4KiB\"")).await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\nx: {}\r\n\r\n", "x".repeat(8192))).await;
    assert_eq!(raw.response().await.unwrap().status(), 431);
    told(&line(&proxy, 0).await, 431, "request_header_too_large", None);
}

async fn a_head_that_is_late_is_told_as_such() {
    let (proxy, _) = start(to_echo().await.listener("timeouts.header = \"100ms\"")).await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("GET / HTTP/1.1\r\nHost").await;
    assert_eq!(raw.response().await.unwrap().status(), 408);
    told(&line(&proxy, 0).await, 408, "request_header_timeout", None);
}

async fn a_body_too_large_is_told_as_such() {
    let (proxy, mut client) = start(to_echo().await.listener("limits.max_body = \"4B\"")).await;
    refused(&client.call(post("/", "12345")).await, &proxy, 413, "request_body_too_large", None).await;
}

async fn a_method_we_do_not_carry_is_not_implemented() {
    let (proxy, _) = start(to_echo().await).await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n").await;
    assert_eq!(raw.response().await.unwrap().status(), 501);
    told(&line(&proxy, 0).await, 501, "request_not_implemented", None);
}

async fn a_loop_is_detected() {
    let origin = Origin::start(Upstream::Http1, echo).await;
    let (proxy, mut client) = start(Plan::to(&[origin.address()])).await;
    assert_eq!(client.get("/").await.status(), 200);
    let seen = origin.only();
    let via = seen.headers["via"].to_str().unwrap().to_owned();
    let via = [via.as_str(); 32].join(", ");
    let request = with(get("/"), "via", Box::leak(via.into_boxed_str()));
    let reply = client.call(request).await;
    reply.is_fault(502, "proxy_loop_detected");
    told(&line(&proxy, 1).await, 502, "proxy_loop_detected", None);
}

async fn a_host_of_another_certificate_is_misdirected() {
    let pair = Pair { down: Downstream::H1Tls, up: Upstream::Http1 };
    let mut scene = pair.planned(logged, ok).await;
    let reply = scene.client.call(with(get("/"), "host", "elsewhere.example")).await;
    refused(&reply, &scene.proxy, 421, "misdirected_request", None).await;
}

async fn an_upstream_without_endpoints_is_unavailable() {
    let plan = Plan::default()
        .routes("[[route]]\nupstream = \"names\"")
        .more("[upstream.names]\nendpoints = [\"dns:no.such.name.invalid:80\"]");
    let (proxy, mut client) = start(plan).await;
    refused(&client.get("/").await, &proxy, 503, "destination_unavailable", None).await;
}

async fn a_refused_connection_fails_in_connect() {
    let closed = Closed::bind();
    let (proxy, mut client) = start(Plan::to(&[closed.address()]).route("retry = { attempts = 0 }")).await;
    refused(&client.get("/").await, &proxy, 502, "connection_refused", None).await;
    let line = line(&proxy, 0).await;
    assert!(milliseconds(&line, "connect_ms") > 0.0 && milliseconds(&line, "first_byte_ms") == 0.0, "{line}");
}

fn over_tls(origin: &RawOrigin) -> Plan {
    Plan::to(&[origin.address()])
        .route("retry = { attempts = 0 }")
        .upstream("tls = { ca = \"@/ca.pem\", server_name = \"origin.test\" }\ntimeouts.connect = \"100ms\"")
}

async fn a_silent_handshake_times_out_in_tls() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| drop(connection.rest().await)).await;
    let (proxy, mut client) = start(over_tls(&origin)).await;
    refused(&client.get("/").await, &proxy, 504, "connection_timeout", Some("tls_ms")).await;
}

async fn a_certificate_that_does_not_verify_fails_in_tls() {
    let origin = Origin::start(Upstream::Http2Tls, ok).await;
    let plan = Plan::to(&[origin.address()])
        .route("retry = { attempts = 0 }")
        .upstream("tls = { ca = \"@/ca.pem\", server_name = \"somebody.else.test\" }");
    let (proxy, mut client) = start(plan).await;
    refused(&client.get("/").await, &proxy, 502, "tls_certificate_error", None).await;
    assert!(milliseconds(&line(&proxy, 0).await, "tls_ms") > 0.0);
}

async fn an_endpoint_without_tls_fails_in_tls() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| {
        connection.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
        connection.rest().await;
    });
    let (proxy, mut client) = start(over_tls(&origin.await)).await;
    refused(&client.get("/").await, &proxy, 502, "tls_protocol_error", None).await;
}

async fn an_endpoint_that_closes_fails_before_the_first_byte() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| {
        connection.request().await;
        tokio::time::sleep(WAIT).await;
    });
    let (proxy, mut client) = start(Plan::to(&[origin.await.address()])).await;
    refused(&client.get("/").await, &proxy, 502, "connection_terminated", Some("first_byte_ms")).await;
}

async fn an_endpoint_that_says_nothing_times_out_before_the_first_byte() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| drop(connection.rest().await)).await;
    let plan = Plan::to(&[origin.address()]).upstream("timeouts.response = \"100ms\"");
    let (proxy, mut client) = start(plan).await;
    refused(&client.get("/").await, &proxy, 504, "http_response_timeout", Some("first_byte_ms")).await;
}

async fn an_endpoint_that_takes_nothing_times_out_before_the_first_byte() {
    let origin = RawOrigin::start(async |connection: Raw, _| {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(connection);
    });
    let plan = Plan::to(&[origin.await.address()]).upstream("timeouts.response = \"200ms\"");
    let (proxy, mut client) = start(plan).await;
    let reply = client.call(post("/", Bytes::from(vec![0; 16 << 20]))).await;
    refused(&reply, &proxy, 504, "connection_write_timeout", Some("first_byte_ms")).await;
}

async fn an_answer_that_is_no_http_is_a_protocol_error() {
    let origin = RawOrigin::answering_once("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    let (proxy, mut client) = start(Plan::to(&[origin.address()])).await;
    refused(&client.get("/").await, &proxy, 502, "http_protocol_error", None).await;
}

async fn an_answer_that_breaks_off_is_incomplete() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
        tokio::time::sleep(WAIT).await;
    });
    let (proxy, _) = start(Plan::to(&[origin.await.address()])).await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    raw.rest().await;
    let line = line(&proxy, 0).await;
    told(&line, 200, "http_response_incomplete", Some("body_ms"));
    assert_eq!(line["bytes_out"], 4, "{line}");
}

async fn an_answer_that_falls_silent_is_stalled() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
        connection.rest().await;
    });
    let plan = Plan::to(&[origin.await.address()]).upstream("timeouts.stream_idle = \"100ms\"");
    let (proxy, _) = start(plan).await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    raw.rest().await;
    told(&line(&proxy, 0).await, 200, "http_response_stalled", Some("body_ms"));
}

async fn an_exchange_past_its_total_is_timed_out() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| drop(connection.rest().await)).await;
    let (proxy, mut client) = start(Plan::to(&[origin.address()]).route("timeouts.total = \"100ms\"")).await;
    refused(&client.get("/").await, &proxy, 504, "exchange_timeout", Some("first_byte_ms")).await;
}

async fn a_switch_to_another_protocol_is_a_failed_upgrade() {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n";
    let origin = RawOrigin::answering_once(answer).await;
    let (proxy, _) = start(Plan::to(&[origin.address()])).await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(raw.response().await.unwrap().status(), 502);
    told(&line(&proxy, 0).await, 502, "http_upgrade_failed", None);
}

async fn a_client_that_stops_sending_is_stalled() {
    let (proxy, _) = start(to_echo().await.listener("timeouts.client_stall = \"100ms\"")).await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf").await;
    assert_eq!(raw.response().await.unwrap().status(), 408);
    let line = line(&proxy, 0).await;
    told(&line, 408, "client_stall", Some("first_byte_ms"));
    assert_eq!(line["bytes_in"], 4, "{line}");
}

async fn a_client_that_leaves_is_gone() {
    let origin = RawOrigin::start(async |mut connection: Raw, _| drop(connection.rest().await)).await;
    let (proxy, _) = start(Plan::to(&[origin.address()])).await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    eventually(|| origin.connections() == 1).await;
    tokio::time::sleep(WAIT).await;
    raw.reset();
    told(&line(&proxy, 0).await, 0, "client_gone", Some("first_byte_ms"));
}

async fn an_attempt_elsewhere_is_counted_and_timed() {
    let closed = Closed::bind();
    let origin = Origin::start(Upstream::Http1, ok).await;
    let plan = Plan::to(&[closed.address(), origin.address()]);
    let (proxy, mut client) = start(plan).await;
    for turn in 0..2 {
        assert_eq!(client.get("/").await.status(), 200);
        let line = line(&proxy, turn).await;
        told(&line, 200, "ok", None);
        assert_eq!(line["endpoint"], origin.address().to_string(), "{line}");
    }
    let attempts: Vec<_> =
        [line(&proxy, 0).await, line(&proxy, 1).await].iter().map(|line| line["attempts"].clone()).collect();
    assert!(attempts.contains(&2.into()), "{attempts:?}");
}
