//! Switching protocols: by Upgrade (RFC 9110 §7.8) and by extended CONNECT (RFC 8441, RFC 9220), to what the route allows, both
//! ways, and never by accident. PITFALLS 7.

use std::cell::Cell;
use std::rc::Rc;

use tidegate::app::ExitReason;
use tidegate::base::error::Kind;

use crate::support::body::noise;
use crate::support::frames;
use crate::support::origin::{RawOrigin, echo};
use crate::support::pair::{Downstream, Pair, Scene, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::raw::{End, Raw};
use crate::support::tunnel::{self, ACCEPT, Asking, KEY, TARGET, TunnelOrigin};
use crate::support::{downstreams, eventually, pairs, tests};

pairs! {
    a_websocket_is_carried,
    what_is_in_a_tunnel_arrives_whole,
    half_of_a_tunnel_may_end_first,
    a_client_that_breaks_off_breaks_the_endpoint,
    an_endpoint_that_breaks_off_breaks_the_client,
    a_refused_handshake_is_an_ordinary_answer,
    a_client_that_leaves_ends_the_handshake,
    silence_ends_a_tunnel,
}

downstreams! {
    other_protocols_pass_where_the_route_names_them,
    a_101_to_another_protocol_is_told_as_502,
    tunnels_are_counted,
    a_tunnel_has_its_line_in_the_log,
    a_drain_cuts_tunnels_at_its_end,
    a_drain_waits_for_tunnels,
}

tests! {
    bytes_pass_both_ways_after_the_switch,
    bytes_sent_ahead_of_the_switch_pass,
    a_switch_works_over_tls,
    a_switched_connection_is_not_used_again,
    an_endpoint_may_refuse_to_switch,
    a_protocol_that_the_route_does_not_name_is_not_asked_for,
    a_route_may_allow_other_protocols,
    a_request_with_a_body_does_not_switch,
    a_switch_to_another_protocol_is_told_as_502,
    http_1_0_does_not_switch,
    a_half_that_ends_lets_the_other_go_on,
    an_endpoint_that_breaks_breaks_the_client,
    a_protocol_that_the_route_does_not_name_is_refused_on_streams,
    a_route_that_answers_itself_opens_no_tunnel,
    a_connect_without_a_protocol_is_refused,
    an_accept_that_does_not_fit_is_told_as_502,
    success_that_switches_nothing_is_told_as_502,
    words_ahead_of_the_101_are_told_as_502,
    an_extended_connect_with_a_length_is_refused,
    an_extended_connect_without_its_parts_is_refused,
    a_handshake_without_a_key_is_refused_where_it_is_ours_to_answer,
    an_endpoint_that_offers_nothing_is_told_as_502,
    an_endpoint_that_speaks_both_is_asked_over_http_1_1,
    tunnels_share_a_connection_and_end_apart,
    the_silence_of_the_route_wins,
}

/// A proxy in front of an origin of tunnels.
async fn before(pair: Pair, plan: impl FnOnce(Plan) -> Plan, behaviour: impl AsyncFn(Asking) + 'static) -> Proxy {
    let origin = TunnelOrigin::start(pair.up, behaviour).await;
    plan(pair.plan(&[origin.address()])).start()
}

async fn echoes(asking: Asking) {
    asking.switch(&[]).await.echo().await;
}

async fn a_websocket_is_carried(pair: Pair) {
    let is_raw = pair.up == Upstream::Http1;
    let down = pair.down;
    let proxy = before(
        pair,
        |plan| plan,
        async move |asking: Asking| {
            assert_eq!((&*asking.method, &*asking.target), (if is_raw { "GET" } else { "CONNECT" }, TARGET));
            assert_eq!(asking.protocol, "websocket");
            let field = |name: &str| asking.fields.get(name).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(field("sec-websocket-version").unwrap(), "13");
            assert_eq!(field("sec-websocket-protocol").unwrap(), "chat, superchat");
            assert_eq!(field("sec-websocket-extensions").unwrap(), "permessage-deflate");
            assert_eq!(field("origin").unwrap(), "https://example.org");
            assert_eq!(field("upgrade").is_some(), is_raw);
            // RFC 8441 §5.1: there is none on streams. The client's own passes where both have one.
            let key = field("sec-websocket-key");
            assert_eq!(key.is_some(), is_raw);
            if is_raw && matches!(down, Downstream::H1 | Downstream::H1Tls) {
                assert_eq!(key.unwrap(), KEY);
            }
            asking.switch(&[("sec-websocket-protocol", "chat"), ("x-more", "1")]).await.echo().await;
        },
    )
    .await;
    let fields = [
        ("sec-websocket-protocol", "chat, superchat"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("origin", "https://example.org"),
    ];
    let answer = tunnel::ask(proxy.address(), pair.down, &fields).await;
    assert_eq!((answer.field("sec-websocket-protocol"), answer.field("x-more")), (Some("chat"), Some("1")));
    if let Some(accept) = answer.field("sec-websocket-accept") {
        assert_eq!(accept, ACCEPT);
    }
    let mut tunnel = answer.switched(pair.down);
    for word in ["one", "\0\r\n\r\n", "three"] {
        tunnel.send(word).await;
        assert_eq!(tunnel.exactly(word.len()).await.unwrap(), word.as_bytes());
    }
    tunnel.finish().await;
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Clean));
}

/// More than all windows and buffers on the way hold, both ways at once.
async fn what_is_in_a_tunnel_arrives_whole(pair: Pair) {
    let sent = noise().slice(..3 << 19);
    let expected = sent.clone();
    let proxy = before(
        pair,
        |plan| plan,
        async move |asking: Asking| {
            let mut tunnel = asking.switch(&[]).await;
            assert!(tunnel.exactly(expected.len()).await.unwrap() == expected);
            tunnel.send(expected.clone()).await;
            tunnel.finish().await;
            let _ = tunnel.rest().await;
        },
    )
    .await;
    let mut tunnel = tunnel::ask(proxy.address(), pair.down, &[]).await.switched(pair.down);
    tunnel.send(sent.clone()).await;
    assert!(tunnel.exactly(sent.len()).await.unwrap() == sent);
    tunnel.finish().await;
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Clean));
}

async fn half_of_a_tunnel_may_end_first(pair: Pair) {
    let proxy = before(
        pair,
        |plan| plan,
        async |asking: Asking| {
            let ends_first = asking.fields.contains_key("x-you-first");
            let mut tunnel = asking.switch(&[]).await;
            if ends_first {
                tunnel.send("bye").await;
                tunnel.finish().await;
            }
            let (said, end) = tunnel.rest().await;
            assert_eq!((&*said, end), (&b"all I have to say"[..], End::Clean));
            if !ends_first {
                tunnel.send("bye").await;
                tunnel.finish().await;
            }
        },
    )
    .await;
    for fields in [&[][..], &[("x-you-first", "1")]] {
        let mut tunnel = tunnel::ask(proxy.address(), pair.down, fields).await.switched(pair.down);
        if !fields.is_empty() {
            assert_eq!(tunnel.exactly(3).await.unwrap(), b"bye");
        }
        tunnel.send("all I have to say").await;
        tunnel.finish().await;
        let rest = if fields.is_empty() { b"bye".to_vec() } else { Vec::new() };
        assert_eq!(tunnel.rest().await, (rest, End::Clean));
    }
}

async fn a_client_that_breaks_off_breaks_the_endpoint(pair: Pair) {
    let (told, mut hear) = tokio::sync::mpsc::unbounded_channel();
    let proxy = before(
        pair,
        |plan| plan,
        async move |asking: Asking| {
            let mut tunnel = asking.switch(&[]).await;
            told.send(tunnel.rest().await).unwrap();
        },
    )
    .await;
    let mut tunnel = tunnel::ask(proxy.address(), pair.down, &[]).await.switched(pair.down);
    tunnel.send("half").await;
    eventually(|| proxy.running().counters().bytes_upstream_out > 0).await;
    let _connection = tunnel.reset().await;
    let (_, end) = hear.recv().await.unwrap();
    assert_eq!(end, End::Broken);
    eventually(|| proxy.running().counters().tunnels_open == 0).await;
}

async fn an_endpoint_that_breaks_off_breaks_the_client(pair: Pair) {
    let proxy = before(
        pair,
        |plan| plan,
        async |asking: Asking| {
            let mut tunnel = asking.switch(&[]).await;
            tunnel.send("half").await;
            assert_eq!(tunnel.exactly(4).await.unwrap(), b"seen");
            tunnel.reset().await;
        },
    )
    .await;
    let mut tunnel = tunnel::ask(proxy.address(), pair.down, &[]).await.switched(pair.down);
    assert_eq!(tunnel.exactly(4).await.unwrap(), b"half");
    tunnel.send("seen").await;
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Broken));
}

async fn a_refused_handshake_is_an_ordinary_answer(pair: Pair) {
    let proxy = before(
        pair,
        |plan| plan,
        async |asking: Asking| {
            asking.answer(403, "not you", &[("x-why", "because")]).await;
        },
    )
    .await;
    let answer = tunnel::ask(proxy.address(), pair.down, &[]).await;
    assert_eq!((answer.status, &*answer.body, answer.field("x-why")), (403, &b"not you"[..], Some("because")));
    eventually(|| proxy.running().counters().outcome_ok == 1).await;
    assert_eq!(proxy.running().counters().tunnels, 0);
}

async fn a_client_that_leaves_ends_the_handshake(pair: Pair) {
    let (told, mut hear) = tokio::sync::mpsc::unbounded_channel();
    let proxy = before(
        pair,
        |plan| plan,
        async move |asking: Asking| {
            told.send("asked").unwrap();
            asking.given_up().await;
            told.send("left").unwrap();
        },
    )
    .await;
    let asked = tunnel::begin(proxy.address(), pair.down, "websocket", &[]).await;
    assert_eq!(hear.recv().await.unwrap(), "asked");
    asked.give_up();
    assert_eq!(hear.recv().await.unwrap(), "left");
}

async fn silence_ends_a_tunnel(pair: Pair) {
    let (told, mut hear) = tokio::sync::mpsc::unbounded_channel();
    let plan = |plan: Plan| plan.upstream("timeouts.tunnel_idle = \"400ms\"");
    let proxy = before(pair, plan, async move |asking: Asking| {
        let mut tunnel = asking.switch(&[]).await;
        told.send(tunnel.rest().await.1).unwrap();
    })
    .await;
    let mut tunnel = tunnel::ask(proxy.address(), pair.down, &[]).await.switched(pair.down);
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Broken));
    assert_eq!(hear.recv().await.unwrap(), End::Broken);
}

async fn other_protocols_pass_where_the_route_names_them(pair: Pair) {
    let plan = |plan: Plan| plan.route("upgrade = [\"custom\", \"websocket\"]");
    let proxy = before(pair, plan, async |asking: Asking| {
        assert_eq!(asking.protocol, "custom");
        echoes(asking).await;
    })
    .await;
    let answer = tunnel::begin(proxy.address(), pair.down, "custom", &[]).await.answer().await;
    let mut tunnel = answer.tunnel.unwrap();
    tunnel.send("ping").await;
    assert_eq!(tunnel.exactly(4).await.unwrap(), b"ping");
}

/// What an HTTP/1.1 origin answers with, word for word, and what becomes of it.
async fn answered_with(down: Downstream, words: &'static str) -> tunnel::Answer {
    let origin = RawOrigin::answering_once(words).await;
    let pair = Pair { down, up: Upstream::Http1 };
    let proxy = pair.plan(&[origin.address()]).start();
    tunnel::ask(proxy.address(), down, &[]).await
}

async fn a_101_to_another_protocol_is_told_as_502(pair: Pair) {
    for words in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        answered_with(pair.down, words).await.is_fault(502, "http_upgrade_failed");
    }
}

async fn an_accept_that_does_not_fit_is_told_as_502() {
    // A client that has a key of its own judges the answer to it.
    for down in [Downstream::H2, Downstream::H3] {
        let words = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        answered_with(down, words).await.is_fault(502, "http_upgrade_failed");
    }
}

async fn success_that_switches_nothing_is_told_as_502() {
    let words = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for down in [Downstream::H2Tls, Downstream::H3] {
        answered_with(down, words).await.is_fault(502, "http_upgrade_failed");
    }
    let answer = answered_with(Downstream::H1, words).await;
    assert_eq!((answer.status, &*answer.body), (200, &b"ok"[..]));
}

async fn words_ahead_of_the_101_are_told_as_502() {
    let words = "hello HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    for down in [Downstream::H1, Downstream::H2, Downstream::H3] {
        assert_eq!(answered_with(down, words).await.status, 502);
    }
}

async fn a_protocol_that_the_route_does_not_name_is_refused_on_streams() {
    for down in [Downstream::H2, Downstream::H3] {
        let proxy = before(Pair { down, up: Upstream::Http1 }, |plan| plan, echoes).await;
        let answer = tunnel::begin(proxy.address(), down, "h2c", &[]).await.answer().await;
        answer.is_fault(501, "request_not_implemented");
    }
}

async fn a_route_that_answers_itself_opens_no_tunnel() {
    for down in [Downstream::H2, Downstream::H3] {
        for (status, told) in [(200, 501), (404, 404)] {
            let routes = format!("[[route]]\nrespond.status = {status}\n");
            let proxy = Pair { down, up: Upstream::Http1 }.plan(&[]).routes(&routes).start();
            assert_eq!(tunnel::ask(proxy.address(), down, &[]).await.status, told);
        }
    }
}

async fn a_connect_without_a_protocol_is_refused() {
    let proxy = before(Pair { down: Downstream::H2, up: Upstream::Http1 }, |plan| plan, echoes).await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(frames::preface()).await;
    let fields = frames::block(&[(":method", "CONNECT"), (":authority", "example.org:443")]);
    raw.send(frames::frame(frames::HEADERS, frames::END_HEADERS, 1, &fields)).await;
    let verdict = frames::verdict(&mut raw, 1).await;
    // An answer, and not the place of 200 in the static table.
    assert!(verdict.kind == frames::HEADERS && verdict.payload[0] != 0x88, "{verdict:?}");
    eventually(|| proxy.running().counters().outcome(Kind::RequestNotImplemented) == 1).await;
}

async fn an_extended_connect_with_a_length_is_refused() {
    for down in [Downstream::H2, Downstream::H3] {
        let proxy = before(Pair { down, up: Upstream::Http1 }, |plan| plan, echoes).await;
        let answer = tunnel::ask(proxy.address(), down, &[("content-length", "0")]).await;
        answer.is_fault(400, "http_request_error");
    }
}

async fn an_extended_connect_without_its_parts_is_refused() {
    let all =
        [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    for missing in [":scheme", ":path", ":authority"] {
        let proxy = before(Pair { down: Downstream::H2, up: Upstream::Http1 }, |plan| plan, echoes).await;
        let mut raw = Raw::connect(proxy.address()).await;
        let fields: Vec<_> = all.into_iter().filter(|(name, _)| *name != missing).collect();
        raw.send(frames::preface()).await;
        raw.send(frames::frame(frames::HEADERS, frames::END_HEADERS, 1, &frames::block(&fields))).await;
        let verdict = frames::verdict(&mut raw, 1).await;
        let is_refused = verdict.kind == frames::RST_STREAM || verdict.payload[0] == frames::STATUS_400;
        assert!(is_refused, "{missing}: {verdict:?}");
    }
}

async fn a_handshake_without_a_key_is_refused_where_it_is_ours_to_answer() {
    for (up, told) in [(Upstream::Http2, 400), (Upstream::Http3, 400), (Upstream::Http1, 101)] {
        let proxy = before(Pair { down: Downstream::H1, up }, |plan| plan, echoes).await;
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send(ASK.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "")).await;
        assert_eq!(raw.response().await.unwrap().status(), told, "{up:?}");
    }
}

async fn an_endpoint_that_offers_nothing_is_told_as_502() {
    for up in [Upstream::Http2, Upstream::Http2Tls, Upstream::Http3] {
        let origin = TunnelOrigin::start_with(up, false, async |_: Asking| panic!("it was asked")).await;
        for down in [Downstream::H1, Downstream::H2] {
            let proxy = Pair { down, up }.plan(&[origin.address()]).start();
            tunnel::ask(proxy.address(), down, &[]).await.is_fault(502, "http_upgrade_failed");
        }
    }
}

async fn an_endpoint_that_speaks_both_is_asked_over_http_1_1() {
    let origin = TunnelOrigin::start_auto(false, async |asking: Asking| match &*asking.protocol {
        "" => asking.answer(200, "ok", &[]).await,
        _ => {
            assert_eq!(asking.method, "GET");
            echoes(asking).await;
        }
    })
    .await;
    let tls = "tls = { server_name = \"origin.test\", ca = \"@/ca.pem\" }";
    let tls = tls.replace("origin.test", crate::support::certificates::ORIGIN);
    let proxy = Plan::to(&[origin.address()]).upstream(&tls).start();
    let mut client = crate::support::client::Client::connect(proxy.address(), Downstream::H1).await;
    for _ in 0..2 {
        // It is known to speak HTTP/2 by now, and goes on doing so for requests.
        assert_eq!(client.get("/").await.text(), "ok");
        let mut tunnel = tunnel::ask(proxy.address(), Downstream::H2, &[]).await.switched(Downstream::H2);
        tunnel.send("ping").await;
        assert_eq!(tunnel.exactly(4).await.unwrap(), b"ping");
    }
}

async fn tunnels_share_a_connection_and_end_apart() {
    let pair = Pair { down: Downstream::H2, up: Upstream::Http2 };
    let proxy = before(pair, |plan| plan, echoes).await;
    let mut tunnels = Vec::new();
    for _ in 0..8 {
        tunnels.push(tunnel::ask(proxy.address(), pair.down, &[]).await.switched(pair.down));
    }
    let gone = tunnels.split_off(4);
    for tunnel in gone {
        tunnel.reset().await;
    }
    eventually(|| proxy.running().counters().tunnels_open == 4).await;
    assert_eq!(proxy.running().counters().upstream_connects, 1);
    for (number, tunnel) in tunnels.iter_mut().enumerate() {
        let word = format!("still here: {number}");
        tunnel.send(word.clone()).await;
        assert_eq!(tunnel.exactly(word.len()).await.unwrap(), word.as_bytes());
    }
}

async fn the_silence_of_the_route_wins() {
    let plan = |plan: Plan| plan.route("timeouts.tunnel_idle = \"400ms\"").upstream("timeouts.tunnel_idle = \"1h\"");
    let proxy = before(Pair::PLAIN, plan, echoes).await;
    let mut tunnel = tunnel::ask(proxy.address(), Downstream::H1, &[]).await.switched(Downstream::H1);
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Broken));
}

async fn tunnels_are_counted(pair: Pair) {
    let proxy = before(pair, |plan| plan, echoes).await;
    let mut tunnel = tunnel::ask(proxy.address(), pair.down, &[]).await.switched(pair.down);
    let counters = proxy.running().counters();
    assert_eq!((counters.tunnels, counters.tunnels_open), (1, 1));
    tunnel.send("ping").await;
    assert_eq!(tunnel.exactly(4).await.unwrap(), b"ping");
    let counters = proxy.running().counters();
    // While it is open, not when it has ended; over QUIC they are counted now and then.
    assert!(counters.bytes_upstream_in > 4 && (counters.bytes_downstream_in > 4 || pair.down == Downstream::H3));
    tunnel.finish().await;
    let _ = tunnel.rest().await;
    eventually(|| proxy.running().counters().outcome_ok == 1).await;
    assert_eq!(proxy.running().counters().tunnels_open, 0);
}

async fn a_tunnel_has_its_line_in_the_log(pair: Pair) {
    let plan = |plan: Plan| plan.server("access_log = { output = \"@/access.log\", format = \"json\" }");
    let proxy = before(pair, plan, echoes).await;
    let log = proxy.file("access.log");
    let mut tunnel = tunnel::ask(proxy.address(), pair.down, &[]).await.switched(pair.down);
    tunnel.send("four").await;
    assert_eq!(tunnel.exactly(4).await.unwrap(), b"four");
    assert_eq!(std::fs::read_to_string(&log).unwrap_or_default(), "", "it has not ended");
    let _connection = tunnel.reset().await;
    eventually(|| std::fs::read_to_string(&log).unwrap_or_default().ends_with('\n')).await;
    let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&4.into(), &4.into()), "{line:#}");
    assert_eq!(line["outcome"], "client_gone", "{line:#}");
    let is_h1 = matches!(pair.down, Downstream::H1 | Downstream::H1Tls);
    assert_eq!(line["status"], if is_h1 { 101 } else { 200 }, "{line:#}");
}

async fn a_drain_cuts_tunnels_at_its_end(pair: Pair) {
    let proxy = before(pair, |plan| plan.server("drain_timeout = \"100ms\""), echoes).await;
    let mut tunnel = tunnel::ask(proxy.address(), pair.down, &[]).await.switched(pair.down);
    proxy.running().drain();
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Broken));
    let reason = proxy.left().await;
    assert!(matches!(reason, ExitReason::DrainTimeout { .. } | ExitReason::Drained), "{reason:?}");
}

async fn a_drain_waits_for_tunnels(pair: Pair) {
    let proxy = before(pair, |plan| plan, echoes).await;
    let mut tunnel = tunnel::ask(proxy.address(), pair.down, &[]).await.switched(pair.down);
    proxy.running().drain();
    eventually(|| std::net::TcpStream::connect(proxy.address()).is_err()).await;
    tunnel.send("ping").await;
    assert_eq!(tunnel.exactly(4).await.unwrap(), b"ping");
    tunnel.finish().await;
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Clean));
    drop(tunnel);
    assert!(matches!(proxy.left().await, ExitReason::Drained));
}

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches every connection and then gives back, with a mark, what it gets.
async fn echoing() -> RawOrigin {
    RawOrigin::start(async |mut connection: Raw, _| {
        let request = connection.head().await.unwrap();
        assert_eq!(request.field("upgrade"), Some("websocket"), "{request:?}");
        assert!(request.field("connection").unwrap().eq_ignore_ascii_case("upgrade"));
        assert_eq!(request.field("sec-websocket-version"), Some("13"));
        connection.send(format!("{SWITCH}hello ")).await;
        while let Some(bytes) = connection.exactly(4).await {
            connection.send([&b"<"[..], &bytes, b">"].concat()).await;
        }
    })
    .await
}

async fn switched(raw: &mut Raw) {
    let head = raw.head().await.expect("no answer");
    assert_eq!(head.status(), 101);
    assert_eq!(head.field("upgrade"), Some("websocket"));
    assert!(head.field("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert!(head.has("sec-websocket-accept"));
}

async fn bytes_pass_both_ways_after_the_switch() {
    let origin = echoing().await;
    let proxy = Plan::to(&[origin.address()]).start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(ASK).await;
    switched(&mut raw).await;
    assert_eq!(raw.exactly(6).await.unwrap(), b"hello ");
    for _ in 0..3 {
        raw.send(b"\0\r\n\xff").await;
        assert_eq!(raw.exactly(6).await.unwrap(), b"<\0\r\n\xff>");
    }
    raw.finish().await;
    assert_eq!(raw.rest().await, (Vec::new(), End::Clean));
}

async fn bytes_sent_ahead_of_the_switch_pass() {
    let origin = echoing().await;
    let proxy = Plan::to(&[origin.address()]).start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(format!("{ASK}\u{1}\u{2}\u{3}\u{4}")).await;
    switched(&mut raw).await;
    assert_eq!(raw.exactly(12).await.unwrap(), b"hello <\x01\x02\x03\x04>");
}

async fn a_switch_works_over_tls() {
    let origin = echoing().await;
    let proxy = Plan::to(&[origin.address()]).tls().start();
    let mut raw = Raw::connect_tls(proxy.address()).await;
    raw.send(ASK).await;
    switched(&mut raw).await;
    raw.send("ping").await;
    assert_eq!(raw.exactly(12).await.unwrap(), b"hello <ping>");
}

async fn a_switched_connection_is_not_used_again() {
    let origin = echoing().await;
    let proxy = Plan::to(&[origin.address()]).start();
    for number in 1..=3 {
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send(ASK).await;
        switched(&mut raw).await;
        assert_eq!(raw.exactly(6).await.unwrap(), b"hello ");
        raw.finish().await;
        raw.closed().await;
        assert_eq!(origin.connections(), number);
    }
}

async fn an_endpoint_may_refuse_to_switch() {
    let refusal = "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno";
    let origin = RawOrigin::answering(refusal).await;
    let proxy = Plan::to(&[origin.address()]).start();
    let mut raw = Raw::connect(proxy.address()).await;
    for _ in 0..2 {
        raw.send(ASK).await;
        let answer = raw.response().await.unwrap();
        assert_eq!((answer.status(), answer.text()), (426, "no"));
    }
    // A request that was sent behind it is a request like any other.
    raw.send(format!("{ASK}GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")).await;
    for _ in 0..2 {
        assert_eq!(raw.response().await.unwrap().status(), 426);
    }
    assert_eq!(origin.connections(), 1);
}

/// Sees that a request reaches the origin without its wish to switch.
async fn not_asked_for(plan: impl FnOnce(Plan) -> Plan, request: &str) {
    let scene: Scene = Pair::PLAIN.planned(plan, echo).await;
    let mut raw = scene.raw().await;
    raw.send(request).await;
    assert_eq!(raw.response().await.unwrap().status(), 200);
    let fields = scene.origin.only().headers;
    assert!(!fields.contains_key("upgrade") && !fields.contains_key("connection"), "{fields:?}");
}

async fn a_protocol_that_the_route_does_not_name_is_not_asked_for() {
    not_asked_for(|plan| plan, &ASK.replace("websocket", "h2c")).await;
    not_asked_for(|plan| plan.route("upgrade = []"), ASK).await;
    // RFC 9110 §7.8: without the token in Connection it is not asked for.
    not_asked_for(|plan| plan, &ASK.replace("Connection: Upgrade\r\n", "")).await;
}

async fn a_request_with_a_body_does_not_switch() {
    let with_body = ASK.replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody");
    not_asked_for(|plan| plan, &with_body).await;
}

async fn http_1_0_does_not_switch() {
    not_asked_for(|plan| plan, &ASK.replace("HTTP/1.1", "HTTP/1.0")).await;
}

async fn a_route_may_allow_other_protocols() {
    let origin = RawOrigin::answering_once(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: Custom/1\r\n\r\nhi",
    )
    .await;
    let proxy = Plan::to(&[origin.address()]).route("upgrade = [\"custom/1\"]").start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(ASK.replace("websocket", "custom/1")).await;
    assert_eq!(raw.head().await.unwrap().status(), 101);
    assert_eq!(raw.rest().await, (b"hi".to_vec(), End::Clean));
}

async fn a_switch_to_another_protocol_is_told_as_502() {
    for named in ["Upgrade: h2c\r\n", ""] {
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n{named}\r\n");
        let origin = RawOrigin::answering_once(answer).await;
        let proxy = Plan::to(&[origin.address()]).start();
        let mut raw = Raw::connect(proxy.address()).await;
        raw.send(ASK).await;
        let answer = raw.response().await.unwrap();
        assert_eq!(answer.status(), 502);
        assert!(answer.field("proxy-status").unwrap().contains("http_upgrade_failed"));
    }
}

/// An origin that switches and then does what a test wants.
async fn switching<F: AsyncFn(Raw) + 'static>(then: F) -> (RawOrigin, Proxy, Raw) {
    let used = Rc::new(Cell::new(false));
    let origin = RawOrigin::start(async move |mut connection: Raw, _| {
        assert!(!used.replace(true), "one connection is enough");
        connection.head().await.unwrap();
        connection.send(SWITCH).await;
        then(connection).await;
    })
    .await;
    let proxy = Plan::to(&[origin.address()]).start();
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send(ASK).await;
    switched(&mut raw).await;
    (origin, proxy, raw)
}

async fn a_half_that_ends_lets_the_other_go_on() {
    let (_origin, _proxy, mut raw) = switching(async |mut connection: Raw| {
        let (all, end) = connection.rest().await;
        assert_eq!(end, End::Clean);
        connection.send(all).await;
    })
    .await;
    raw.send("all I have to say").await;
    raw.finish().await;
    assert_eq!(raw.rest().await, (b"all I have to say".to_vec(), End::Clean));
}

async fn an_endpoint_that_breaks_breaks_the_client() {
    let (_origin, _proxy, mut raw) = switching(async |mut connection: Raw| {
        connection.send("half").await;
        assert_eq!(connection.exactly(4).await.unwrap(), b"seen");
        connection.reset();
    })
    .await;
    assert_eq!(raw.exactly(4).await.unwrap(), b"half");
    raw.send("seen").await;
    let (rest, end) = raw.rest().await;
    assert_eq!((rest.len(), end), (0, End::Broken));
}
