//! CONNECT-UDP (RFC 9298) through `mode = "forward"`, and the datagrams of HTTP that carry it (RFC 9297).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tidegate::app::ExitReason;
use tidegate::http3::capsule::{Capsules, write_datagram_head};
use tidegate::http3::datagram;
use tokio::net::UdpSocket;
use tokio::task::spawn_local;

use crate::support::names::Names;
use crate::support::origin::{Origin, ok};
use crate::support::pair::{Downstream, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::quic::Quic;
use crate::support::raw::End;
use crate::support::tunnel::{Answer, Tunnel, Wish, begin_with};
use crate::support::{certificates, eventually, tests};

tests! {
    datagrams_pass_both_ways_in_capsules_on_every_http,
    datagrams_pass_in_frames_of_quic,
    what_is_longer_than_a_packet_is_lost_unless_it_is_small,
    what_was_sent_ahead_of_the_request_is_not_lost,
    contexts_that_nobody_registered_are_dropped,
    what_cannot_be_read_breaks_the_tunnel,
    what_icmp_tells_ends_the_tunnel,
    silence_ends_the_tunnel,
    a_drain_cuts_the_tunnel_at_its_end,
    a_reload_leaves_tunnels_alone,
    floods_are_bounded_and_end,
    a_tunnel_is_counted_and_logged,
    nobody_gets_where_he_may_not,
    who_asks_has_to_say_who_it_is,
    a_name_is_resolved_before_the_answer,
    what_is_no_such_request_is_told_so,
    only_forward_listeners_take_datagrams,
}

const NEAR: &str = "forward.allow = \"127.0.0.0/8:*\"";
/// Frames of QUIC that clients take datagrams in; `None`: they take none.
const FRAMES: Option<usize> = Some(65_535);
const EVERY: [Downstream; 5] = [Downstream::H1, Downstream::H1Tls, Downstream::H2, Downstream::H2Tls, Downstream::H3];

fn plan(speaks: Downstream, keys: &str) -> Plan {
    let plan = Plan::default().listener("mode = \"forward\"").listener(keys).routes("");
    match speaks {
        Downstream::H1 | Downstream::H2 => plan,
        Downstream::H1Tls | Downstream::H2Tls => plan.tls(),
        Downstream::H3 => plan.tls().listener("protocols = [\"http1\", \"http2\", \"http3\"]"),
    }
}

/// Gives every datagram back, in brackets.
async fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    spawn_local(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&[b"<", &buffer[..length], b">"].concat(), from).await.unwrap();
        }
    });
    address
}

async fn ask(
    proxy: &Proxy,
    speaks: Downstream,
    target: &str,
    datagrams: Option<usize>,
    fields: &[(&'static str, &str)],
) -> Answer {
    let wish = Wish { protocol: "connect-udp", target, datagrams };
    begin_with(proxy.address(), speaks, wish, fields).await.answer().await
}

fn target(host: &str, port: u16) -> String {
    format!("/.well-known/masque/udp/{host}/{port}/")
}

async fn tunnel(proxy: &Proxy, speaks: Downstream, to: SocketAddr, datagrams: Option<usize>) -> Tunnel {
    let fields = [("capsule-protocol", "?1")];
    let answer = ask(proxy, speaks, &target(&to.ip().to_string(), to.port()), datagrams, &fields).await;
    assert_eq!(answer.field("capsule-protocol"), Some("?1"), "{speaks:?}: {} {:?}", answer.status, answer.fields);
    let is_h1 = matches!(speaks, Downstream::H1 | Downstream::H1Tls);
    assert_eq!(answer.status, if is_h1 { 101 } else { 200 });
    assert_eq!(answer.field("upgrade"), is_h1.then_some("connect-udp"));
    assert!(answer.field("content-length").is_none() && answer.field("transfer-encoding").is_none());
    answer.tunnel.expect("no tunnel")
}

/// A datagram of the context zero in a capsule.
fn capsule(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_datagram_head(payload.len() + 1, &mut bytes);
    [&bytes[..], &[0], payload].concat()
}

/// The next datagram that comes in a capsule.
async fn received(tunnel: &mut Tunnel) -> Option<Vec<u8>> {
    let mut capsules = Capsules::new(70_000);
    loop {
        let byte = tunnel.exactly(1).await?;
        if let (_, Some(datagram)) = capsules.next(&byte) {
            assert_eq!(datagram.payload[0], 0, "the context");
            return Some(datagram.payload[1..].to_vec());
        }
    }
}

/// A datagram of a stream in a frame of QUIC.
fn frame(stream: u64, context: u8, payload: &[u8]) -> Bytes {
    let mut bytes = Vec::new();
    datagram::write_stream(stream, &mut bytes);
    [&bytes[..], &[context], payload].concat().into()
}

async fn datagrams_pass_both_ways_in_capsules_on_every_http() {
    let echo = echo().await;
    for speaks in EVERY {
        let proxy = plan(speaks, NEAR).start();
        let mut tunnel = tunnel(&proxy, speaks, echo, None).await;
        for payload in [&b"one"[..], b"", &[7; 3000]] {
            // In two pieces, with a capsule before it that nobody knows.
            let mut bytes = [&[0x17, 3, 1, 2, 3][..], &capsule(payload)].concat();
            let rest = bytes.split_off(bytes.len() / 2);
            tunnel.send(bytes).await;
            tunnel.send(rest).await;
            let came = received(&mut tunnel).await.unwrap();
            assert!(came == [b"<", payload, b">"].concat(), "{speaks:?}: {} bytes", came.len());
        }
        tunnel.finish().await;
        assert_eq!(tunnel.rest().await, (Vec::new(), End::Clean), "{speaks:?}");
        drop(tunnel);
        eventually(|| proxy.running().counters().tunnels_open == 0).await;
    }
}

async fn datagrams_pass_in_frames_of_quic() {
    let echo = echo().await;
    let proxy = plan(Downstream::H3, NEAR).start();
    let mut tunnel = tunnel(&proxy, Downstream::H3, echo, FRAMES).await;
    let quic = tunnel.quic().clone();
    for payload in [&b"one"[..], b"", &[7; 1000]] {
        quic.send_datagram(frame(0, 0, payload)).unwrap();
        assert_eq!(quic.read_datagram().await.unwrap(), frame(0, 0, &[b"<", payload, b">"].concat()));
    }
    // Either way in, the same way out.
    tunnel.send(capsule(b"two")).await;
    assert_eq!(quic.read_datagram().await.unwrap(), frame(0, 0, b"<two>"));
    tunnel.finish().await;
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Clean));
}

async fn what_is_longer_than_a_packet_is_lost_unless_it_is_small() {
    let echo = echo().await;
    let proxy = plan(Downstream::H3, NEAR).start();
    let mut tunnel = tunnel(&proxy, Downstream::H3, echo, Some(700)).await;
    // What every path takes comes in a capsule. Of the rest one learns so what the path takes.
    tunnel.send([capsule(&[3; 1230]), capsule(&[3; 1231]), capsule(&[3; 20_000])].concat()).await;
    assert_eq!(received(&mut tunnel).await.unwrap().len(), 1232);
    // What is too long for UDP's way is lost, and nothing else.
    tunnel.send([capsule(&[3; 65_520]), capsule(b"next")].concat()).await;
    assert_eq!(tunnel.quic().read_datagram().await.unwrap(), frame(0, 0, b"<next>"));
    assert_eq!(proxy.running().counters().datagrams_dropped, 3);
    tunnel.finish().await;
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Clean));
}

async fn what_was_sent_ahead_of_the_request_is_not_lost() {
    let echo = echo().await;
    let names = Names::start().await;
    names.says("slow.test", &["127.0.0.1"]);
    let proxy = plan(Downstream::H3, &format!("{NEAR}\n{}", names.key())).start();
    let quic = Quic::connect(proxy.address(), certificates::SITE).await;
    let config = tidegate::http3::Config { datagrams: true, ..Default::default() };
    let (sender, driver) = tidegate::http3::client::start(quic.connection.clone(), config.into());
    spawn_local(driver);
    assert!(sender.connect_protocol_allowed().await);
    quic.connection.send_datagram(frame(0, 0, b"eager")).unwrap();
    let uri = format!("https://{}{}", certificates::SITE, target("slow.test", echo.port()));
    let (_feed, body) = crate::support::body::Sent::fed();
    let mut request = http::Request::connect(uri).body(body).unwrap();
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("connect-udp"));
    let Ok(answer) = sender.send(request, drop).await else { panic!("no answer") };
    assert_eq!(answer.status(), 200);
    assert_eq!(quic.connection.read_datagram().await.unwrap(), frame(0, 0, b"<eager>"));
}

async fn contexts_that_nobody_registered_are_dropped() {
    let echo = echo().await;
    let proxy = plan(Downstream::H3, NEAR).start();
    let mut tunnel = tunnel(&proxy, Downstream::H3, echo, FRAMES).await;
    let quic = tunnel.quic().clone();
    quic.send_datagram(frame(0, 2, b"whose?")).unwrap();
    quic.send_datagram(frame(0, 0, b"ours")).unwrap();
    assert_eq!(quic.read_datagram().await.unwrap(), frame(0, 0, b"<ours>"));
    let mut strange = Vec::new();
    write_datagram_head(5, &mut strange);
    tunnel.send([&strange[..], b"\x04abcd", &capsule(b"more")].concat()).await;
    assert_eq!(quic.read_datagram().await.unwrap(), frame(0, 0, b"<more>"));
    assert_eq!(proxy.running().counters().datagrams_dropped, 2);
}

async fn what_cannot_be_read_breaks_the_tunnel() {
    let echo = echo().await;
    let mut huge = Vec::new();
    write_datagram_head(65_529, &mut huge);
    huge.resize(huge.len() + 65_529, 0);
    // A capsule that its stream ends within, a datagram without a context, one past what UDP has.
    let broken = [(vec![0, 5, 0, 1], true), (vec![0, 0], false), (huge, false)];
    for speaks in [Downstream::H1, Downstream::H2, Downstream::H3] {
        let proxy = plan(speaks, NEAR).start();
        for (bytes, ends) in &broken {
            let mut tunnel = tunnel(&proxy, speaks, echo, None).await;
            tunnel.send(bytes.clone()).await;
            if *ends {
                tunnel.finish().await;
            }
            assert_eq!(tunnel.rest().await.1, End::Broken, "{speaks:?}: {:?}", &bytes[..2]);
        }
        let kind = tidegate::base::error::Kind::HttpRequestError as usize;
        eventually(|| proxy.running().counters().outcomes[kind] == broken.len() as u64).await;
    }
}

async fn what_icmp_tells_ends_the_tunnel() {
    let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for speaks in [Downstream::H1, Downstream::H2, Downstream::H3] {
        let proxy = plan(speaks, NEAR).start();
        let mut tunnel = tunnel(&proxy, speaks, gone, None).await;
        tunnel.send(capsule(b"anybody?")).await;
        assert_eq!(tunnel.rest().await, (Vec::new(), End::Broken), "{speaks:?}");
        let kind = tidegate::base::error::Kind::ConnectionRefused as usize;
        eventually(|| proxy.running().counters().outcomes[kind] == 1).await;
    }
}

async fn silence_ends_the_tunnel() {
    let echo = echo().await;
    for speaks in [Downstream::H1, Downstream::H2, Downstream::H3] {
        let proxy = plan(speaks, &format!("{NEAR}\nforward.timeouts.tunnel_idle = \"300ms\"")).start();
        let mut tunnel = tunnel(&proxy, speaks, echo, None).await;
        // A capsule that means nothing is no sign of life.
        tunnel.send(vec![0x17, 0]).await;
        assert_eq!(tunnel.rest().await, (Vec::new(), End::Broken), "{speaks:?}");
    }
}

async fn a_drain_cuts_the_tunnel_at_its_end() {
    let echo = echo().await;
    for speaks in [Downstream::H1, Downstream::H2, Downstream::H3] {
        let proxy = plan(speaks, NEAR).server("drain_timeout = \"100ms\"").start();
        let mut tunnel = tunnel(&proxy, speaks, echo, FRAMES).await;
        proxy.running().drain();
        assert_eq!(tunnel.rest().await, (Vec::new(), End::Broken), "{speaks:?}");
        let reason = proxy.left().await;
        assert!(matches!(reason, ExitReason::DrainTimeout { .. } | ExitReason::Drained), "{reason:?}");
    }
}

async fn a_reload_leaves_tunnels_alone() {
    let echo = echo().await;
    for speaks in [Downstream::H1, Downstream::H2, Downstream::H3] {
        let proxy = plan(speaks, NEAR).start();
        let mut open = tunnel(&proxy, speaks, echo, None).await;
        assert!(proxy.reload(&plan(speaks, "forward.allow = \"10.0.0.0/8:*\"").text()));
        open.send(capsule(b"still")).await;
        assert_eq!(received(&mut open).await.unwrap(), b"<still>", "{speaks:?}");
        ask(&proxy, speaks, &target("127.0.0.1", echo.port()), None, &[])
            .await
            .is_fault(403, "destination_ip_prohibited");
    }
}

async fn floods_are_bounded_and_end() {
    let echo = echo().await;
    let proxy = plan(Downstream::H3, NEAR).start();
    let mut tunnel = tunnel(&proxy, Downstream::H3, echo, FRAMES).await;
    let quic = tunnel.quic().clone();
    let totals = || proxy.running().counters();
    // For its own stream and for streams that are not there, with and without a context that is known.
    for number in 0..1500u32 {
        let context = u8::from(number % 5 == 4);
        quic.send_datagram_wait(frame(u64::from(number % 3) * 4, context, &number.to_be_bytes())).await.unwrap();
    }
    // A capsule that means nothing passes, however long.
    let mut long = vec![0x17, 0x80, 4, 0, 0];
    long.resize(5 + (4 << 16), 0);
    tunnel.send(long).await;
    let answered = async {
        loop {
            tunnel.send(capsule(b"done")).await;
            // Of all that waits the oldest is lost, and so may be any.
            let came = async { while quic.read_datagram().await.unwrap() != frame(0, 0, b"<done>") {} };
            if tokio::time::timeout(Duration::from_millis(200), came).await.is_ok() {
                break;
            }
        }
    };
    answered.await;
    tunnel.finish().await;
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Clean));
    eventually(|| totals().tunnels_open == 0).await;
    // Behind the end of its stream.
    for _ in 0..100 {
        quic.send_datagram_wait(frame(0, 0, b"late")).await.unwrap();
    }
    drop((tunnel, quic));
    eventually(|| totals().connections_open == 0).await;
    // But for those that wait for their streams: about a thousand.
    assert!(totals().datagrams_dropped > 500, "{}", totals().datagrams_dropped);
}

async fn a_tunnel_is_counted_and_logged() {
    let echo = echo().await;
    let proxy = plan(Downstream::H3, NEAR).server("access_log = { output = \"@/access.log\" }").start();
    let mut tunnel = tunnel(&proxy, Downstream::H3, echo, FRAMES).await;
    let quic = tunnel.quic().clone();
    for _ in 0..3 {
        quic.send_datagram(frame(0, 0, b"four")).unwrap();
        quic.read_datagram().await.unwrap();
    }
    tunnel.finish().await;
    assert_eq!(tunnel.rest().await, (Vec::new(), End::Clean));
    eventually(|| proxy.running().counters().tunnels_open == 0).await;
    let totals = proxy.running().counters();
    assert_eq!((totals.tunnels, totals.datagrams_in, totals.datagrams_out, totals.datagrams_dropped), (1, 3, 3, 0));
    assert_eq!((totals.bytes_upstream_out, totals.bytes_upstream_in), (12, 18));
    let path = proxy.file("access.log");
    let text = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually(|| text().ends_with('\n')).await;
    let line: serde_json::Value = serde_json::from_str(&text()).unwrap();
    let told = |name: &str| line[name].to_string();
    let destination = format!("\"{echo}\"");
    for (name, value) in [
        ("method", "\"CONNECT\""),
        ("status", "200"),
        ("outcome", "\"ok\""),
        ("destination", &destination),
        ("bytes_in", "12"),
        ("bytes_out", "18"),
    ] {
        assert_eq!(told(name), value, "{name} in {line:#}");
    }
}

async fn nobody_gets_where_he_may_not() {
    let echo = echo().await;
    for speaks in EVERY {
        let keys = "forward.allow = [\"*:*\", \"127.0.0.2:*\"]\nforward.deny = \"no.test:*\"";
        let proxy = plan(speaks, keys).start();
        for (host, kind) in [
            ("127.0.0.1", "destination_ip_prohibited"),
            ("%3A%3Affff%3A127.0.0.1", "destination_ip_prohibited"),
            ("%3A%3A1", "destination_ip_prohibited"),
            ("10.0.0.1", "destination_ip_prohibited"),
            ("no.test", "http_request_denied"),
            ("%6eo.test.", "http_request_denied"),
        ] {
            let answer = ask(&proxy, speaks, &target(host, echo.port()), None, &[]).await;
            answer.is_fault(403, kind);
            assert!(answer.field("capsule-protocol").is_none());
        }
        assert_eq!(proxy.running().counters().tunnels, 0);
    }
}

async fn who_asks_has_to_say_who_it_is() {
    let echo = echo().await;
    let proxy = plan(Downstream::H3, &format!("{NEAR}\nforward.users = \"@/users\"")).start();
    let to = target("127.0.0.1", echo.port());
    let answer = ask(&proxy, Downstream::H3, &to, None, &[]).await;
    answer.is_fault(407, "proxy_authentication_required");
    let right = [("proxy-authorization", "Basic YW5uOnNlY3JldA==")];
    assert_eq!(ask(&proxy, Downstream::H3, &to, None, &right).await.status, 200);
}

async fn a_name_is_resolved_before_the_answer() {
    let (echo, names) = (echo().await, Names::start().await);
    names.says("a.test", &["127.0.0.1"]);
    names.says("far.test", &["10.0.0.1"]);
    let proxy =
        plan(Downstream::H3, &format!("forward.allow = [\"*.test:*\", \"127.0.0.1:*\"]\n{}", names.key())).start();
    let ask = async |host: &str| ask(&proxy, Downstream::H3, &target(host, echo.port()), None, &[]).await;
    let mut tunnel = ask("A.Test.").await.switched(Downstream::H3);
    tunnel.send(capsule(b"x")).await;
    assert_eq!(received(&mut tunnel).await.unwrap(), b"<x>");
    ask("far.test").await.is_fault(403, "destination_ip_prohibited");
    ask("nowhere.test").await.is_fault(502, "dns_error");
}

async fn what_is_no_such_request_is_told_so() {
    for speaks in EVERY {
        let proxy = plan(speaks, "forward.allow = \"*:*\"").start();
        for path in ["/", "/.well-known/masque/udp/a.example/0/", "/.well-known/masque/udp/a.example/53/?x=y"] {
            let answer = ask(&proxy, speaks, path, None, &[]).await;
            // What was sent ahead of the answer is no request of the client.
            let is_h1 = matches!(speaks, Downstream::H1 | Downstream::H1Tls);
            assert_eq!(answer.field("connection"), is_h1.then_some("close"), "{speaks:?}");
            answer.is_fault(400, "http_request_error");
        }
        let fields = [("content-type", "text/plain")];
        let answer = ask(&proxy, speaks, &target("a.example", 53), None, &fields).await;
        answer.is_fault(400, "http_request_error");
        if !matches!(speaks, Downstream::H1 | Downstream::H1Tls) {
            let wish = Wish { protocol: "websocket", target: "/chat", datagrams: None };
            let answer = begin_with(proxy.address(), speaks, wish, &[]).await.answer().await;
            answer.is_fault(501, "request_not_implemented");
        }
    }
}

async fn only_forward_listeners_take_datagrams() {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let proxy = Plan::to(&[origin.address()]).tls().listener("protocols = [\"http1\", \"http2\", \"http3\"]").start();
    let quic = Quic::connect(proxy.address(), certificates::SITE).await;
    assert_eq!(quic.connection.max_datagram_size(), None);
    // RFC 9220 §3: a route switches to what it allows.
    let answer = ask(&proxy, Downstream::H3, &target("127.0.0.1", 53), FRAMES, &[]).await;
    assert_eq!((answer.status, answer.fields.get("capsule-protocol")), (501, None::<&http::HeaderValue>));
    let forward = plan(Downstream::H3, NEAR).start();
    let quic = Quic::connect(forward.address(), certificates::SITE).await;
    assert!(quic.connection.max_datagram_size().is_some());
}
