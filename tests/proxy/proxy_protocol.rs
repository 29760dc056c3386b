//! The PROXY protocol: clients as proxies in front of us name them, and as endpoints behind us are told of them.

use std::net::SocketAddr;

use http::header::CONNECTION;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::support::client::{Client, get};
use crate::support::origin::{Closed, Origin, RawOrigin, echo, ok};
use crate::support::pair::{Downstream, Pair, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::raw::Raw;
use crate::support::{eventually, tcp_downstreams, tcp_pairs, tests, upstreams};

tcp_downstreams! {
    the_client_is_whom_a_trusted_proxy_names,
    who_must_send_a_header_and_does_not_is_closed,
    a_trusted_proxy_may_send_no_header_where_it_is_optional,
}

upstreams! {
    every_request_has_a_connection_that_says_who_asks,
    requests_at_once_do_not_share_a_connection,
    an_endpoint_that_is_tried_next_is_told_as_well,
}

// QUIC has no place for a header: `proxy_protocol` is of TCP.
tcp_pairs! { what_a_header_says_is_passed_on }

tests! {
    a_header_may_come_byte_by_byte,
    a_header_of_a_stranger_is_a_bad_request_where_it_is_optional,
    strangers_are_closed_where_it_is_required,
    a_broken_header_is_refused,
    a_late_header_is_refused,
    a_connection_that_says_nothing_is_no_header_refused,
    a_listener_without_the_key_takes_it_for_a_request,
    a_header_of_the_proxy_itself_leaves_its_address,
    limits_and_rules_are_for_the_client_that_is_named,
    the_log_has_the_client_and_the_other_end,
    a_unix_socket_is_believed,
    a_client_without_an_address_is_told_as_unknown,
    a_switched_connection_begins_with_the_header_too,
}

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n";
const REQUIRED: &str = "proxy_protocol = \"require\"\ntrusted_proxies = [\"127.0.0.0/8\"]";
const OPTIONAL: &str = "proxy_protocol = \"optional\"\ntrusted_proxies = [\"127.0.0.0/8\"]";
const FOREIGN: &str = "trusted_proxies = [\"10.0.0.0/8\"]";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";

/// A version 2 header for a client of IPv4.
fn v2(tlvs: &[u8]) -> Vec<u8> {
    let ends = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 1, 0xbb];
    let length = (ends.len() + tlvs.len()) as u16;
    [SIGNATURE, &[0x21, 0x11], &length.to_be_bytes(), &ends, tlvs].concat()
}

fn refused(proxy: &Proxy) -> u64 {
    proxy.running().counters().proxy_headers_refused
}

async fn the_client_is_whom_a_trusted_proxy_names(pair: Pair) {
    let origin = Origin::start(pair.up, ok).await;
    for keys in [REQUIRED, OPTIONAL] {
        let proxy = pair.plan(&[origin.address()]).listener(keys).start();
        for header in [V1.to_vec(), v2(&[])] {
            let mut client = Client::connect_saying(&header, proxy.address(), pair.down).await;
            for _ in 0..2 {
                assert_eq!(client.get("/").await.status(), 200);
            }
        }
        assert_eq!(refused(&proxy), 0);
    }
    let seen = origin.seen();
    assert_eq!(seen.len(), 8);
    assert!(seen.iter().all(|seen| seen.headers["x-forwarded-for"] == "192.0.2.7"), "{seen:?}");
}

async fn who_must_send_a_header_and_does_not_is_closed(pair: Pair) {
    let origin = Origin::start(pair.up, ok).await;
    let proxy = pair.plan(&[origin.address()]).listener(REQUIRED).start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(GET).await;
    raw.closed().await;
    eventually(|| refused(&proxy) == 1).await;
    assert!(origin.seen().is_empty());
}

async fn a_trusted_proxy_may_send_no_header_where_it_is_optional(pair: Pair) {
    let scene = pair.planned(|plan| plan.listener(OPTIONAL), ok).await;
    let mut client = scene.client;
    assert_eq!(client.get("/").await.status(), 200);
    assert_eq!(scene.origin.only().headers["x-forwarded-for"], "127.0.0.1");
}

async fn a_header_may_come_byte_by_byte() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let proxy = Plan::to(&[origin.address()]).listener(REQUIRED).start();
    let mut raw = Raw::connect(proxy.address()).await;
    for byte in [&v2(b"\x04\0\x01a"), GET.as_bytes()].concat() {
        raw.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.response().await.unwrap().status(), 200);
    assert_eq!(origin.only().headers["x-forwarded-for"], "192.0.2.7");
}

async fn a_header_of_a_stranger_is_a_bad_request_where_it_is_optional() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let keys = format!("proxy_protocol = \"optional\"\n{FOREIGN}");
    let proxy = Plan::to(&[origin.address()]).listener(&keys).start();
    for header in [V1.to_vec(), v2(&[])] {
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send([&header, GET.as_bytes()].concat()).await;
        assert_eq!(raw.response().await.unwrap().status(), 400);
    }
    let mut client = Client::connect(proxy.address(), Downstream::H1).await;
    assert_eq!(client.get("/").await.status(), 200);
    assert_eq!(origin.only().headers["x-forwarded-for"], "127.0.0.1");
}

async fn strangers_are_closed_where_it_is_required() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let keys = format!("proxy_protocol = \"require\"\n{FOREIGN}");
    let proxy = Plan::to(&[origin.address()]).listener(&keys).start();
    for header in [V1, b""] {
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send([header, GET.as_bytes()].concat()).await;
        raw.closed().await;
    }
    eventually(|| refused(&proxy) == 2).await;
    assert!(origin.seen().is_empty());
}

async fn a_broken_header_is_refused() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let proxy = Plan::to(&[origin.address()]).listener(OPTIONAL).start();
    let wrong_checksum = v2(b"\x03\0\x04abcd");
    let too_long = [SIGNATURE, b"\x21\x11\xff\xff"].concat();
    let broken = [&b"PROXY TCP4 nobody\r\n"[..], b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", &wrong_checksum, &too_long];
    for header in broken {
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send([header, GET.as_bytes()].concat()).await;
        raw.closed().await;
    }
    eventually(|| refused(&proxy) == 4).await;
    assert!(origin.seen().is_empty());
}

async fn a_late_header_is_refused() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let keys = format!("{REQUIRED}\ntimeouts.handshake = \"50ms\"");
    let proxy = Plan::to(&[origin.address()]).listener(&keys).start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("PROXY TCP4").await;
    raw.closed().await;
    eventually(|| refused(&proxy) == 1).await;
    eventually(|| proxy.running().counters().connections_open == 0).await;
}

async fn a_connection_that_says_nothing_is_no_header_refused() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let proxy = Plan::to(&[origin.address()]).listener(REQUIRED).start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.finish().await;
    raw.closed().await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("PROXY").await;
    raw.finish().await;
    raw.closed().await;
    eventually(|| proxy.running().counters().connections_open == 0).await;
    assert_eq!((proxy.running().counters().connections_accepted, refused(&proxy)), (2, 1));
}

async fn a_listener_without_the_key_takes_it_for_a_request() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let proxy = Plan::to(&[origin.address()]).listener("trusted_proxies = [\"127.0.0.0/8\"]").start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send([V1, GET.as_bytes()].concat()).await;
    assert_eq!(raw.response().await.unwrap().status(), 400);
}

async fn a_header_of_the_proxy_itself_leaves_its_address() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let proxy = Plan::to(&[origin.address()]).listener(REQUIRED).start();
    let local = [SIGNATURE, b"\x20\0\0\0"].concat();
    for header in [&b"PROXY UNKNOWN\r\n"[..], &local] {
        let mut client = Client::connect_saying(header, proxy.address(), Downstream::H1).await;
        assert_eq!(client.get("/").await.status(), 200);
    }
    let seen = origin.seen();
    assert!(seen.iter().all(|seen| seen.headers["x-forwarded-for"] == "127.0.0.1"), "{seen:?}");
}

fn v1_of(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.1 40000 443\r\n").into()
}

async fn limits_and_rules_are_for_the_client_that_is_named() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let keys = format!("{REQUIRED}\nlimits.max_connections_per_ip = 1");
    let routes = "[[route]]\nupstream = \"origin\"\ndeny = [\"203.0.113.0/24\"]\n";
    let proxy = Plan::to(&[origin.address()]).listener(&keys).routes(routes).start();
    let connect = async |client: &str| Client::connect_saying(&v1_of(client), proxy.address(), Downstream::H1).await;
    let mut first = connect("192.0.2.7").await;
    assert_eq!(first.get("/").await.status(), 200);
    // Another client through the same proxy is another; the same one is one too many.
    assert_eq!(connect("192.0.2.8").await.get("/").await.status(), 200);
    let mut again = connect("192.0.2.7").await;
    assert!(again.send(get("/")).await.is_err());
    assert_eq!(proxy.running().counters().connections_refused, 1);
    drop((first, again));
    eventually(|| proxy.running().counters().connections_open == 0).await;
    assert_eq!(connect("192.0.2.7").await.get("/").await.status(), 200);
    assert_eq!(connect("203.0.113.9").await.get("/").await.status(), 403);
}

async fn the_log_has_the_client_and_the_other_end() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let log = "access_log = { output = \"@/access.log\", format = \"json\" }";
    let proxy = Plan::to(&[origin.address()]).server(log).listener(REQUIRED).start();
    let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
    socket.write_all(&[V1, GET.as_bytes()].concat()).await.unwrap();
    let path = proxy.file("access.log");
    let lines = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually(|| lines().ends_with('\n')).await;
    let line: serde_json::Value = serde_json::from_str(&lines()).unwrap();
    assert_eq!(line["client_ip"], "192.0.2.7", "{line:#}");
    assert_eq!(line["peer"], socket.local_addr().unwrap().to_string(), "{line:#}");
}

/// A proxy that listens on a file, in front of an origin that is told with these keys.
async fn on_a_file(keys: &str, origin: SocketAddr, upstream: &str) -> (Proxy, UnixStream) {
    let text = format!(
        "[server]\nworkers = 1\n[[listener]]\nname = \"main\"\nbind = \"unix:@/main.sock\"\n{keys}\n\
         [[route]]\nupstream = \"origin\"\n[upstream.origin]\nendpoints = [\"{origin}\"]\n{upstream}\n"
    );
    let proxy = Proxy::start(&text);
    let stream = UnixStream::connect(proxy.file("main.sock")).await.unwrap();
    (proxy, stream)
}

async fn answer_on(mut stream: UnixStream, bytes: &[u8]) -> String {
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

async fn a_unix_socket_is_believed() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    // Nobody need be trusted by address.
    for (keys, header) in [("proxy_protocol = \"require\"", V1), (OPTIONAL, &v2(&[]))] {
        let (_proxy, stream) = on_a_file(keys, origin.address(), "").await;
        let answer = answer_on(stream, &[header, GET.as_bytes()].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let seen = origin.seen();
    assert!(seen.iter().all(|seen| seen.headers["x-forwarded-for"] == "192.0.2.7"), "{seen:?}");
}

async fn a_client_without_an_address_is_told_as_unknown() {
    for (version, header) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", [SIGNATURE, b"\x20\0\0\0"].concat())] {
        let origin = Origin::start_told(true, Upstream::Http1, ok).await;
        let keys = format!("send_proxy_protocol = \"{version}\"");
        let (_proxy, stream) = on_a_file("", origin.address(), &keys).await;
        let answer = answer_on(stream, GET.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(origin.only().told, header);
    }
}

async fn every_request_has_a_connection_that_says_who_asks(pair: Pair) {
    if !takes_headers(pair) {
        return;
    }
    let origin = Origin::start_told(true, pair.up, echo).await;
    let proxy = pair.plan(&[origin.address()]).upstream("send_proxy_protocol = \"v1\"").start();
    let socket = TcpStream::connect(proxy.address()).await.unwrap();
    let (client, local) = (socket.local_addr().unwrap(), proxy.address());
    let mut connection = Client::over(socket, false, http::uri::Scheme::HTTP).await;
    for _ in 0..3 {
        assert_eq!(connection.get("/").await.status(), 200);
    }
    assert_eq!(origin.connections(), 3);
    let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", client.port(), local.port());
    for seen in origin.seen() {
        assert_eq!(String::from_utf8_lossy(&seen.told), line);
        // The endpoint is the one to close, and keeps the port while it has to be kept.
        assert_eq!(seen.headers.contains_key(CONNECTION), pair.up == Upstream::Http1);
    }
    let counters = proxy.running().counters();
    assert_eq!((counters.upstream_connects, counters.upstream_reuses), (3, 0));
}

async fn requests_at_once_do_not_share_a_connection(pair: Pair) {
    if !takes_headers(pair) {
        return;
    }
    let origin = Origin::start_told(true, pair.up, ok).await;
    let proxy = pair.plan(&[origin.address()]).upstream("send_proxy_protocol = \"v2\"").start();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(proxy.address(), Downstream::H2).await);
    }
    let mut asked = Vec::new();
    for client in &clients {
        for _ in 0..3 {
            let mut sender = client.another();
            let request = http::Request::get("http://example.org/").body(crate::support::body::Sent::empty()).unwrap();
            asked.push(tokio::task::spawn_local(async move { sender.send_request(request).await.unwrap().status() }));
        }
    }
    for answer in asked {
        assert_eq!(answer.await.unwrap(), 200);
    }
    assert_eq!(origin.connections(), 12);
    let mut ports: Vec<_> = origin.seen().iter().map(|seen| seen.told[24..26].to_vec()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 4, "a client of its own for each of four connections");
}

async fn an_endpoint_that_is_tried_next_is_told_as_well(pair: Pair) {
    if !takes_headers(pair) {
        return;
    }
    let closed = Closed::bind();
    let origin = Origin::start_told(true, pair.up, ok).await;
    let plan = pair.plan(&[closed.address(), origin.address()]).upstream("send_proxy_protocol = \"v2\"");
    let proxy = plan.start();
    let mut client = Client::connect(proxy.address(), pair.down).await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert!(origin.seen().iter().all(|seen| seen.told.starts_with(SIGNATURE)));
}

/// There is no place for a header before a QUIC handshake, and a configuration that wants one is refused.
fn takes_headers(pair: Pair) -> bool {
    pair.up != Upstream::Http3
}

async fn what_a_header_says_is_passed_on(pair: Pair) {
    if !takes_headers(pair) {
        return;
    }
    let origin = Origin::start_told(true, pair.up, ok).await;
    let plan = pair.plan(&[origin.address()]).listener(REQUIRED).upstream("send_proxy_protocol = \"v2\"");
    let proxy = plan.start();
    let with_checksum = |checksum: &[u8]| v2(&[b"\x02\0\x09a.example\xea\0\x02\x01x\x03\0\x04", checksum].concat());
    let header = with_checksum(&crc32c::crc32c(&with_checksum(&[0; 4])).to_be_bytes());
    let mut client = Client::connect_saying(&header, proxy.address(), pair.down).await;
    assert_eq!(client.get("/").await.status(), 200);
    assert_eq!(origin.only().told, header, "the same ends, the same words, and so the same checksum");
}

async fn a_switched_connection_begins_with_the_header_too() {
    let origin = RawOrigin::start(async move |mut connection: Raw, _| {
        let line = connection.until(b"\r\n").await.unwrap();
        assert!(line.starts_with(b"PROXY TCP4 127.0.0.1 "));
        let request = connection.request().await.unwrap();
        assert_eq!(request.field("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
        connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        let bytes = connection.exactly(4).await.unwrap();
        connection.send(bytes).await;
    })
    .await;
    let proxy = Plan::to(&[origin.address()]).upstream("send_proxy_protocol = \"v1\"").start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("GET / HTTP/1.1\r\nHost: example.org\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(raw.head().await.unwrap().status(), 101);
    raw.send("ping").await;
    assert_eq!(raw.exactly(4).await.unwrap(), b"ping");
}
