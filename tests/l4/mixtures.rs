//! What flows changes its nature: small messages and bulk in turns on one session, single bytes, stalls on both sides,
//! an urgent mark, a ClientHello and a PROXY header in pieces.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;

use crate::support::*;

fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

/// Sends and reads back at once.
fn exchange(stream: &mut TcpStream, sent: &[u8]) {
    let mut writing = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || writing.write_all(sent).unwrap());
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).unwrap();
        assert!(back == sent, "other bytes came back");
    });
}

#[test]
fn a_session_is_chatty_then_full_then_chatty_again() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let echo = Endpoint::echo();
    let proxy = start(&relay(&[echo.address], "", ""));
    let mut session = proxy.connect("relay");
    session.set_nodelay(true).unwrap();
    let mut sum = 0;
    for _ in 0..4 {
        for _ in 0..100 {
            let message = bytes(rng.u64(..), rng.usize(1..300));
            echoes(&mut session, &message);
            sum += message.len();
        }
        let bulk = bytes(rng.u64(..), rng.usize(1 << 20..6 << 20));
        exchange(&mut session, &bulk);
        sum += bulk.len();
        // About as much as decides between the two.
        for _ in 0..20 {
            let message = bytes(rng.u64(..), rng.usize(1 << 10..140 << 10));
            exchange(&mut session, &message);
            sum += message.len();
        }
    }
    session.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut session), Ok(vec![]));
    drop(session);
    proxy.counts("bytes", |totals| {
        (totals.bytes_downstream_in, totals.bytes_downstream_out) == (sum as u64, sum as u64)
            && totals.sessions_spliced == 1
            && totals.outcome_ok == 1
    });
}

#[test]
fn what_is_sent_byte_by_byte_arrives() {
    let echo = Endpoint::new(|mut stream| {
        stream.set_nodelay(true).unwrap();
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte) {
            stream.write_all(&byte).unwrap();
        }
    });
    let proxy = start(&relay(&[echo.address], "", ""));
    let mut session = proxy.connect("relay");
    session.set_nodelay(true).unwrap();
    let all = bytes(3, 4_000);
    let mut reading = session.try_clone().unwrap();
    let reader = thread::spawn(move || end_of(&mut reading));
    for byte in all.chunks(1) {
        session.write_all(byte).unwrap();
    }
    session.shutdown(Shutdown::Write).unwrap();
    assert!(reader.join().unwrap() == Ok(all));
}

#[test]
fn two_who_both_write_before_they_read_are_not_mixed_up() {
    let (told, heard) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let endpoint = Endpoint::new(move |mut stream| {
        let mut writing = stream.try_clone().unwrap();
        let writer = thread::spawn(move || {
            writing.write_all(&bytes(11, 20 << 20)).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        wait.lock().unwrap().recv().unwrap();
        told.send(end_of(&mut stream)).unwrap();
        writer.join().unwrap();
    });
    let proxy = start(&relay(&[endpoint.address], "", ""));
    let mut session = proxy.connect("relay");
    let mut writing = session.try_clone().unwrap();
    let writer = thread::spawn(move || {
        writing.write_all(&bytes(12, 20 << 20)).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    // Both directions are full, and both stand still.
    let seen = std::cell::Cell::new(0);
    assert!(eventually(|| {
        thread::sleep(std::time::Duration::from_millis(50));
        let now = proxy.0.counters().bytes_upstream_in + proxy.0.counters().bytes_downstream_in;
        now > 0 && seen.replace(now) == now
    }));
    go.send(()).unwrap();
    // The client takes a little at a time.
    let (mut came, mut piece) = (Vec::new(), vec![0; 7_001]);
    while let Ok(read @ 1..) = session.read(&mut piece) {
        came.extend_from_slice(&piece[..read]);
    }
    assert!(came == bytes(11, 20 << 20));
    assert!(heard.recv_timeout(PATIENCE).unwrap() == Ok(bytes(12, 20 << 20)));
    writer.join().unwrap();
    proxy.counts("outcome", |totals| totals.outcome_ok == 1 && totals.sessions_open == 0);
}

#[test]
fn an_urgent_mark_holds_nothing_up() {
    let (told, heard) = mpsc::channel();
    let endpoint = Endpoint::new(move |mut stream| told.send(end_of(&mut stream)).unwrap());
    let proxy = start(&relay(&[endpoint.address], "", ""));
    for bulk in [0, 300 << 10] {
        let mut session = proxy.connect("relay");
        let before = bytes(1, bulk + 100);
        session.write_all(&before).unwrap();
        let urgent = rustix::net::send(&session, b"!", rustix::net::SendFlags::OOB).unwrap();
        session.write_all(b"after").unwrap();
        session.shutdown(Shutdown::Write).unwrap();
        assert_eq!((urgent, end_of(&mut session)), (1, Ok(vec![])), "{bulk}");
        // The urgent byte itself stands beside the stream and is not passed on.
        let mut came = heard.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(came.ends_with(b"after"));
        came.truncate(came.len() - 5);
        assert!(came == before, "{bulk}: {} bytes of {}", came.len(), before.len());
    }
}

/// A listener that asks for a PROXY header and reads the ClientHello behind it.
fn by_hello(endpoint: std::net::SocketAddr, upstream: &str) -> String {
    let listener = "proxy_protocol = \"require\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    relay(&[endpoint], listener, upstream).replace(
        "mode = \"tcp\"\nupstream = \"to\"",
        "mode = \"tls-passthrough\"\nsni = { \"*.example.org\" = \"to\" }",
    )
}

#[test]
fn a_hello_and_what_follows_arrive_untouched_however_they_are_cut() {
    let (told, heard) = mpsc::channel();
    let endpoint = Endpoint::new(move |mut stream| told.send(end_of(&mut stream)).unwrap());
    let proxy = start(&by_hello(endpoint.address, "send_proxy_protocol = \"v1\""));
    let header = b"PROXY TCP4 203.0.113.9 192.0.2.1 40123 443\r\n";
    for hello in [&include_bytes!("../hellos/chromium.bin")[..], include_bytes!("../hellos/curl.bin")] {
        let sent = [header, hello, &bytes(5, 200_000)].concat();
        for piece in [1, 2, 7, 1000, sent.len()] {
            let mut session = proxy.connect("relay");
            session.set_nodelay(true).unwrap();
            // The rest needs not be cut as finely.
            let (first, rest) = sent.split_at((header.len() + hello.len() + 50).min(sent.len()));
            for part in first.chunks(piece) {
                session.write_all(part).unwrap();
                if piece < 10 {
                    thread::yield_now();
                }
            }
            session.write_all(rest).unwrap();
            session.shutdown(Shutdown::Write).unwrap();
            assert_eq!(end_of(&mut session), Ok(vec![]));
            assert!(heard.recv_timeout(PATIENCE).unwrap().as_ref() == Ok(&sent), "in pieces of {piece}");
        }
    }
    proxy.counts("refused", |totals| totals.hellos_refused == 0 && totals.proxy_headers_refused == 0);
}
