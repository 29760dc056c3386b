//! Clients and endpoints that mean no good.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use tidegate::base::error::Kind;

use crate::process::Process;
use crate::support::*;

const HELLO: &[u8] = include_bytes!("../hellos/curl.bin");

fn by_hello(endpoint: &Endpoint, handshake: &str) -> String {
    relay(&[endpoint.address], &format!("timeouts = {{ handshake = \"{handshake}\" }}"), "")
        .replace("mode = \"tcp\"\nupstream = \"to\"", "mode = \"tls-passthrough\"\nsni = { default = \"to\" }")
}

/// How it ends for who only waits for it, with what came.
fn outcome(mut stream: TcpStream) -> Result<Vec<u8>, ErrorKind> {
    end_of(&mut stream)
}

#[test]
fn garbage_in_the_place_of_a_hello_is_closed_and_counted() {
    let echo = Endpoint::echo();
    let proxy = start(&by_hello(&echo, "20s"));
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut noise = |length| std::iter::repeat_with(|| rng.u8(..)).take(length).collect::<Vec<u8>>();
    let mut kinds = vec![
        [&[0], &noise(64 << 10)[..]].concat(),
        [&b"G"[..], &noise(64 << 10)[..]].concat(),
        // A handshake record, but of another message.
        [&[22, 3, 1, 0xff, 0, 2], &noise(64 << 10)[..]].concat(),
        // A hello that says to be longer than any may be.
        [&[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff], &noise(64 << 10)[..]].concat(),
        // Records without end, a byte of a hello in each.
        [22, 3, 1, 0, 1, 1].repeat(1 << 16),
        // An alert; SSLv2; an empty record again and again.
        vec![21, 3, 1, 0, 2, 2, 40],
        vec![0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10],
        [22, 3, 1, 0, 0].repeat(1 << 15),
    ];
    // The real one with its lengths spoilt.
    kinds.extend([3, 6, 8, 43].map(|at| {
        let mut hello = HELLO.to_vec();
        hello[at] ^= 0x81;
        [&hello[..], &noise(64 << 10)[..]].concat()
    }));
    let count = kinds.len() as u64;
    for (number, kind) in kinds.into_iter().enumerate() {
        let mut session = proxy.connect("relay");
        let _ = session.write_all(&kind);
        let end = outcome(session);
        // A reset where it was closed with bytes unread.
        assert!(matches!(end.as_deref(), Ok([]) | Err(ErrorKind::ConnectionReset)), "{number}: {end:?}");
    }
    proxy.counts("refused", |totals| totals.hellos_refused == count && totals.sessions_open == 0);
    assert_eq!(echo.accepted(), 0);
}

#[test]
fn a_hello_that_never_ends_has_a_deadline_that_dribbling_does_not_move() {
    let echo = Endpoint::echo();
    let proxy = start(&by_hello(&echo, "300ms"));
    let mut session = proxy.connect("relay");
    session.set_nodelay(true).unwrap();
    let mut sent = 0;
    // A byte at a time, for as long as somebody listens.
    while sent < 200 && session.write_all(&HELLO[sent..=sent]).is_ok() {
        sent += 1;
        thread::sleep(Duration::from_millis(5));
    }
    let _ = outcome(session);
    assert_eq!(outcome(proxy.connect("relay")), Ok(vec![]), "nothing at all was sent");
    proxy.counts("outcome", |totals| totals.outcome(Kind::ClientStall) == 2 && totals.sessions_open == 0);
    assert_eq!(echo.accepted(), 0);
}

#[test]
fn a_proxy_header_that_never_ends_has_a_deadline() {
    let echo = Endpoint::echo();
    let listener =
        "proxy_protocol = \"require\"\ntrusted_proxies = [\"127.0.0.0/8\"]\ntimeouts = { handshake = \"300ms\" }";
    let proxy = start(&relay(&[echo.address], listener, ""));
    let header = b"PROXY TCP4 203.0.113.9 192.0.2.1 40123 443\r";
    let mut session = proxy.connect("relay");
    for byte in header.chunks(1) {
        session.write_all(byte).unwrap();
    }
    assert_eq!(outcome(session), Ok(vec![]));
    // One that could be a header for ever.
    let mut session = proxy.connect("relay");
    let _ = session.write_all(&[b"PROXY TCP4 ", &[b'1'; 4096][..]].concat());
    assert!(!matches!(outcome(session), Ok(bytes) if !bytes.is_empty()));
    proxy.counts("outcome", |totals| {
        totals.outcome(Kind::RequestHeaderTimeout) == 1
            && totals.proxy_headers_refused == 2
            && totals.sessions_open == 0
    });
    assert_eq!(echo.accepted(), 0);
}

#[test]
fn a_flood_of_one_address_gets_what_one_address_may_have() {
    let echo = Endpoint::echo();
    let proxy = start(&relay(&[echo.address], "limits = { max_connections_per_ip = 10 }", ""));
    let flood: Vec<_> = (0..400).map(|_| proxy.connect("relay")).collect();
    proxy.counts("refused", |totals| totals.connections_refused == 390 && totals.sessions_open == 10);
    // Another address is served meanwhile.
    let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    other.bind(&std::net::SocketAddr::from(([127, 0, 0, 9], 0)).into()).unwrap();
    other.connect(&proxy.address("relay").into()).unwrap();
    echoes(&mut patient(other.into()), b"from elsewhere");
    drop(flood);
    proxy.counts("sessions", |totals| totals.sessions_open == 0);
    echoes(&mut proxy.connect("relay"), b"again");
}

#[test]
fn an_endpoint_that_closes_or_resets_at_once_does_it_to_its_client_alone() {
    let echo = Endpoint::echo();
    for resets in [false, true] {
        let rude = Endpoint::new(move |stream| {
            if resets {
                reset(stream)
            }
        });
        let text = relay(&[rude.address], "", "");
        let text = format!(
            "{text}\n[[listener]]\nname = \"good\"\nbind = \"127.0.0.1:0\"\nmode = \"tcp\"\nupstream = \
             \"good\"\n[upstream.good]\nendpoints = [\"{}\"]\n",
            echo.address
        );
        let proxy = start(&text);
        let mut good = proxy.connect("good");
        for number in 0..200 {
            let end = outcome(proxy.connect("relay"));
            match resets {
                false => assert_eq!(end, Ok(vec![]), "{number}"),
                true => assert_eq!(end, Err(ErrorKind::ConnectionReset), "{number}"),
            }
            echoes(&mut good, b"still here");
        }
        drop(good);
        proxy.counts("outcome", |totals| {
            // It may come before the connection was seen to stand.
            let bad = totals.outcome(Kind::ConnectionTerminated) + totals.outcome(Kind::ConnectionRefused);
            totals.sessions_open == 0 && bad == if resets { 200 } else { 0 }
        });
    }
}

#[test]
fn an_endpoint_that_accepts_and_never_answers_is_left_after_a_while() {
    let mute = Endpoint::new(|stream| {
        thread::sleep(PATIENCE);
        drop(stream);
    });
    let proxy = start(&relay(&[mute.address], "timeouts = { idle = \"200ms\" }", ""));
    let mut session = proxy.connect("relay");
    session.write_all(b"hello?").unwrap();
    assert_eq!(outcome(session), Err(ErrorKind::ConnectionReset));
    proxy.counts("outcome", |totals| totals.outcome(Kind::HttpResponseStalled) == 1 && totals.sessions_open == 0);
}

#[test]
fn thousands_who_connect_and_reset_leave_nothing_behind() {
    let echo = Endpoint::echo();
    let text = relay(&[echo.address], "", "");
    let hello = "\n[[listener]]\nname = \"hello\"\nbind = \"127.0.0.1:0\"\nmode = \"tls-passthrough\"\nsni = { default = \"to\" }\n";
    let process = Process::start(&format!("{text}{hello}"));
    let (relay, hello) = (process.address("relay"), process.address("hello"));
    let rush = |count: u32| {
        for number in 0..count {
            let mut stream = TcpStream::connect(if number % 2 == 0 { relay } else { hello }).unwrap();
            match number % 5 {
                0 => {}
                1 => stream.write_all(&HELLO[..100]).unwrap(),
                2 => stream.write_all(HELLO).unwrap(),
                3 => drop(stream.write_all(&[0; 30_000])),
                _ => thread::yield_now(),
            }
            if number % 3 != 0 {
                reset(stream);
            }
        }
    };
    rush(300);
    process.empties("the first");
    let (descriptors, memory) = (process.descriptors(), process.memory());
    rush(4_000);
    process.empties("thousands");
    assert!(eventually(|| process.descriptors() <= descriptors + 4), "{descriptors}, now {}", process.descriptors());
    let more = process.memory().saturating_sub(memory);
    assert!(more < 4 << 20, "{more} bytes more than before");
    echoes(&mut process.connect("relay"), b"still here");
    assert!(!process.log().contains("panicked"), "{}", process.log());
}
