//! Two proxies with one QUIC connection between them: TCP goes in on the one side and comes out on the other.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;

use tidegate::app::ExitReason;

use crate::support::*;

/// The near side: a `tcp` listener called `near`, whose connections become streams to these far sides.
fn near(far: &[&Proxy], listener: &str, upstream: &str) -> String {
    let endpoints: Vec<_> = far.iter().map(|far| format!("\"{}\"", far.address("edge"))).collect();
    format!(
        "[server]\nworkers = 1\n[[listener]]\nname = \"near\"\nbind = \"127.0.0.1:0\"\nmode = \"tcp\"\nupstream = \
         \"far\"\n{listener}\n[upstream.far]\nendpoints = [{}]\n{upstream}\n",
        endpoints.join(", ")
    )
}

fn far(endpoints: &[String], listener: &str) -> Proxy {
    start(&edge(endpoints, listener, ""))
}

#[test]
fn two_hundred_connections_share_one_quic_connection() {
    let echo = Served::echo();
    let far = far(&[echo.named()], "limits.max_concurrent_streams = 1000");
    let near = start(&near(&[&far], "", OVER_QUIC));
    let address = near.address("near");
    let clients: Vec<_> = (0..200_u64)
        .map(|n| {
            thread::spawn(move || {
                let stream = patient(std::net::TcpStream::connect(address).unwrap());
                let bytes = noise(1 + (n as usize * 7919) % 100_000, n);
                let (sent, mut writer) = (bytes.clone(), stream.try_clone().unwrap());
                let writing = thread::spawn(move || {
                    writer.write_all(&sent).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut back = Vec::new();
                let mut stream = stream;
                stream.read_to_end(&mut back).unwrap();
                writing.join().unwrap();
                assert!(back == bytes, "other bytes came back to {n}");
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!(echo.accepted(), 200);
    far.counts("far", |totals| totals.sessions == 200 && totals.sessions_open == 0);
    near.counts("near", |totals| totals.sessions == 200 && totals.sessions_open == 0 && totals.outcome_ok == 200);
    assert_eq!(far.0.counters().quic_connections, 1);
}

#[test]
fn more_streams_than_the_far_side_allows_take_another_connection() {
    let echo = Served::echo();
    let far = far(&[echo.named()], "limits.max_concurrent_streams = 4");
    let near = start(&near(&[&far], "", OVER_QUIC));
    let mut held: Vec<_> = (0..10).map(|_| near.connect("near")).collect();
    for stream in &mut held {
        echoes(stream, b"all at once");
    }
    assert_eq!(far.0.counters().quic_connections, 3);
}

#[test]
fn http_goes_through_and_keeps_its_connections() {
    let web = start(
        "[server]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = { body = \
         \"from afar\" }\n",
    );
    let far = far(&[web.address("web").to_string()], "");
    let near = start(&near(&[&far], "", OVER_QUIC));
    let mut stream = near.connect("near");
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: far.test\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"from afar") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
    assert_eq!(near.0.counters().sessions, 1);
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let greeter = Served::new(|mut stream| {
        stream.write_all(b"220 ready").unwrap();
        let _ = stream.read(&mut [0]);
    });
    let far = far(&[greeter.named()], "");
    let near = start(&near(&[&far], "", OVER_QUIC));
    let mut greeting = [0; 9];
    near.connect("near").read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ready");
}

#[test]
fn a_reset_on_either_side_is_a_reset_on_the_other() {
    let breaks = Served::new(|mut stream| {
        let mut asked = [0];
        let _ = stream.read(&mut asked);
        if asked == *b"r" {
            reset(stream);
        } else {
            // Until the client's reset comes.
            let error = stream.read(&mut asked).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    });
    let far = far(&[breaks.named()], "");
    let near = start(&near(&[&far], "", OVER_QUIC));
    let mut stream = near.connect("near");
    stream.write_all(b"r").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut stream = near.connect("near");
    stream.write_all(b"w").unwrap();
    far.counts("through", |totals| totals.sessions == 2);
    far.counts("the byte", |totals| totals.bytes_upstream_out == 2);
    reset(stream);
    far.counts("over", |totals| totals.sessions_open == 0);
    near.counts("over", |totals| totals.sessions_open == 0);
}

#[test]
fn only_a_near_side_that_proves_who_it_is_gets_through() {
    let echo = Served::echo();
    let far = far(&[echo.named()], "tls.client_auth = { ca = \"@/ca.pem\", mode = \"require\" }");
    let stranger = start(&near(&[&far], "", OVER_QUIC));
    let known = OVER_QUIC
        .replace("TRUST", "tls = { server_name = \"edge.test\", ca = \"@/ca.pem\", client_cert = \"@/client.pem\", client_key = \"@/client.key\" }");
    let known = start(&near(&[&far], "", &known));
    echoes(&mut known.connect("near"), b"known");
    let mut stream = stranger.connect("near");
    let _ = stream.write_all(b"unknown");
    assert!(stream.read(&mut [0]).is_err(), "a stranger got through");
    assert_eq!(echo.accepted(), 1);
}

#[test]
fn a_far_side_that_drains_costs_no_connection() {
    let echo = Served::echo();
    let (first, second) = (far(&[echo.named()], ""), far(&[echo.named()], ""));
    let near = start(&near(&[&first, &second], "", OVER_QUIC));
    let mut sessions: Vec<_> = (0..4).map(|_| near.connect("near")).collect();
    sessions.iter_mut().for_each(|session| echoes(session, b"before"));
    first.0.drain();
    // From the first moment of the drain on, every new connection is served, and those that are open go on.
    for n in 0..40 {
        echoes(&mut near.connect("near"), &noise(500, n));
    }
    sessions.iter_mut().for_each(|session| echoes(session, b"meanwhile"));
    drop(sessions);
    assert_eq!(first.0.wait(), ExitReason::Drained);
    echoes(&mut near.connect("near"), b"after");
    near.counts("over", |totals| totals.sessions_open == 0);
    assert_eq!(near.0.counters().outcomes.iter().sum::<u64>(), 0);
}

#[test]
fn a_near_side_that_drains_lets_its_sessions_end() {
    let echo = Served::echo();
    let far = far(&[echo.named()], "");
    let near = start(&near(&[&far], "", OVER_QUIC));
    let mut session = near.connect("near");
    echoes(&mut session, b"before");
    near.0.drain();
    echoes(&mut session, b"meanwhile");
    session.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    session.read_to_end(&mut rest).unwrap();
    assert_eq!(near.0.wait(), ExitReason::Drained);
}

#[test]
fn a_far_side_that_is_not_there_resets_the_client() {
    let text = near(&[], "", OVER_QUIC)
        .replace("endpoints = []", "endpoints = [\"127.0.0.1:9\"]\ntimeouts.connect = \"300ms\"");
    let near = start(&text);
    let mut stream = near.connect("near");
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_reload_turns_relaying_into_streams_and_back_at_one_address() {
    let echo = Served::echo();
    let far = far(&[echo.named()], "");
    let bind = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let streams = near(&[&far], "", OVER_QUIC).replace("127.0.0.1:0", &bind);
    let plain = near(&[], "", "")
        .replace("127.0.0.1:0", &bind)
        .replace("endpoints = []", &format!("endpoints = [\"{}\"]", echo.address));
    let near = start(&plain);
    let mut before = near.connect("near");
    echoes(&mut before, b"relayed");
    near.reload(&streams);
    for n in 0..10 {
        echoes(&mut near.connect("near"), &noise(100, n));
    }
    echoes(&mut before, b"still");
    assert!(far.0.counters().sessions > 0);
    near.reload(&plain);
    echoes(&mut near.connect("near"), b"relayed again");
}

/// What the near side sends early, and an idle connection that soon closes, so that the next one resumes.
const EARLY: &str = "quic.early_data = true\npool.idle_timeout = \"200ms\"\ntimeouts.connect = \"3s\"";

/// A far side at an address that another may have after it.
fn far_at(bind: &str, echo: &Served) -> Proxy {
    start(&edge(&[echo.named()], "tls.early_data = true", "").replace("127.0.0.1:0", bind))
}

fn free_udp() -> String {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// One session, and the end of the connection that it left behind.
fn once(near: &Proxy, far: &Proxy, seed: u64) {
    let mut stream = near.connect("near");
    echoes(&mut stream, &noise(100_000, seed));
    drop(stream);
    far.counts("closed", |totals| totals.connections_open == 0);
}

#[test]
fn a_connection_that_resumes_carries_bytes_in_its_first_flight() {
    let echo = Served::echo();
    let far = far_at("127.0.0.1:0", &echo);
    let near = start(&near(&[&far], "", &format!("{OVER_QUIC}\n{EARLY}")));
    for n in 0..3 {
        once(&near, &far, n);
    }
    assert_eq!(far.0.counters().quic_connections, 3);
    assert_eq!(far.0.counters().early_data_accepted, 2);
    assert_eq!(near.0.counters().outcomes.iter().sum::<u64>(), 0);
}

#[test]
fn early_bytes_that_are_not_taken_are_sent_again() {
    let (echo, bind) = (Served::echo(), free_udp());
    let first = far_at(&bind, &echo);
    let near = start(&near(&[&first], "", &format!("{OVER_QUIC}\n{EARLY}")));
    once(&near, &first, 1);
    first.0.stop();
    first.0.wait();
    // It knows nothing of the tickets of the one before.
    let second = far_at(&bind, &echo);
    once(&near, &second, 2);
    assert_eq!(second.0.counters().early_data_accepted, 0);
    assert_eq!(near.0.counters().outcomes.iter().sum::<u64>(), 0);
}

#[test]
fn early_bytes_to_nobody_go_to_another_endpoint() {
    let echo = Served::echo();
    let (first, second) = (far_at("127.0.0.1:0", &echo), far_at("127.0.0.1:0", &echo));
    let near = start(&near(&[&first, &second], "", &format!("{OVER_QUIC}\n{EARLY}")));
    for n in 0..4 {
        let mut stream = near.connect("near");
        echoes(&mut stream, &noise(1000, n));
    }
    for far in [&first, &second] {
        far.counts("closed", |totals| totals.connections_open == 0);
    }
    first.0.stop();
    first.0.wait();
    for n in 0..4 {
        once(&near, &second, n);
    }
    assert_eq!(near.0.counters().outcomes.iter().sum::<u64>(), 0);
}
