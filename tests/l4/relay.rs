//! Sessions of mode `tcp`: bytes, ends, resets, endpoints that are not there, limits and deadlines.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;

use tidegate::base::error::Kind;

use crate::support::*;

/// Bytes that tell where they belong: no two stretches of a transfer are alike.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

#[test]
fn transfers_of_any_size_arrive_whole_both_ways_at_once() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let lengths: Vec<(usize, usize)> =
        (0..24).map(|n| (rng.usize(..1 << (n + 1).min(23)), rng.usize(..1 << (n + 1).min(23)))).collect();
    let (told, heard) = mpsc::channel();
    let answers = lengths.clone();
    let endpoint = Endpoint::new(move |mut stream| {
        let mut number = [0; 8];
        stream.read_exact(&mut number).unwrap();
        let number = u64::from_le_bytes(number);
        let mut writing = stream.try_clone().unwrap();
        let answer = bytes(!number, answers[number as usize].1);
        let writer = thread::spawn(move || {
            writing.write_all(&answer).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        told.send((number, end_of(&mut stream))).unwrap();
        writer.join().unwrap();
    });
    let proxy = start(&relay(&[endpoint.address], "", ""));
    thread::scope(|scope| {
        for (number, (there, back)) in (0..).zip(&lengths) {
            let mut stream = proxy.connect("relay");
            scope.spawn(move || {
                let mut writing = stream.try_clone().unwrap();
                let reader = thread::spawn(move || end_of(&mut stream));
                writing.write_all(&u64::to_le_bytes(number)).unwrap();
                writing.write_all(&bytes(number, *there)).unwrap();
                writing.shutdown(Shutdown::Write).unwrap();
                assert!(reader.join().unwrap() == Ok(bytes(!number, *back)), "session {number}");
            });
        }
    });
    for _ in &lengths {
        let (number, came) = heard.recv_timeout(PATIENCE).unwrap();
        assert!(came == Ok(bytes(number, lengths[number as usize].0)), "session {number}");
    }
    let sum = |of: fn(&(usize, usize)) -> usize| lengths.iter().map(of).sum::<usize>() as u64;
    let there = sum(|(there, _)| *there) + 8 * lengths.len() as u64;
    proxy.counts("bytes", |totals| {
        (totals.bytes_downstream_in, totals.bytes_downstream_out) == (there, sum(|(_, back)| *back))
            && totals.sessions_open == 0
            && totals.sessions_spliced > 0
    });
}

#[test]
fn an_end_is_passed_on_and_the_other_way_stays_open() {
    let endpoint = Endpoint::new(|mut stream| {
        let heard = end_of(&mut stream).unwrap();
        stream.write_all(&heard).unwrap();
        stream.write_all(b" and more").unwrap();
    });
    let proxy = start(&relay(&[endpoint.address], "", ""));
    let mut session = proxy.connect("relay");
    session.write_all(b"all").unwrap();
    session.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut session).unwrap(), b"all and more");
}

#[test]
fn an_endpoint_may_end_first() {
    let (told, heard) = mpsc::channel();
    let endpoint = Endpoint::new(move |mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        told.send(end_of(&mut stream)).unwrap();
    });
    let proxy = start(&relay(&[endpoint.address], "", ""));
    let mut session = proxy.connect("relay");
    assert_eq!(end_of(&mut session).unwrap(), b"bye");
    session.write_all(b"one more thing").unwrap();
    drop(session);
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap().unwrap(), b"one more thing");
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    let (told, heard) = mpsc::channel();
    let endpoint = Endpoint::new(move |mut stream| {
        stream.write_all(b"hello").unwrap();
        told.send(end_of(&mut stream)).unwrap();
    });
    let proxy = start(&relay(&[endpoint.address], "", ""));
    let mut session = proxy.connect("relay");
    session.read_exact(&mut [0; 5]).unwrap();
    reset(session);
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset));
    proxy.counts("outcome", |totals| totals.outcome(Kind::ClientGone) == 1);
}

#[test]
fn a_reset_of_the_endpoint_reaches_the_client() {
    let endpoint = Endpoint::new(|mut stream| {
        stream.read_exact(&mut [0; 5]).unwrap();
        reset(stream);
    });
    let proxy = start(&relay(&[endpoint.address], "", ""));
    let mut session = proxy.connect("relay");
    session.write_all(b"hello").unwrap();
    assert_eq!(end_of(&mut session), Err(ErrorKind::ConnectionReset));
    proxy.counts("outcome", |totals| totals.outcome(Kind::ConnectionTerminated) == 1);
}

#[test]
fn another_endpoint_is_tried_before_any_byte_was_relayed() {
    let echo = Endpoint::echo();
    let proxy = start(&relay(&[nobody(), echo.address, nobody()], "", ""));
    for n in 0..12 {
        let mut session = proxy.connect("relay");
        echoes(&mut session, format!("session {n}").as_bytes());
    }
    assert_eq!(echo.accepted(), 12);
}

#[test]
fn a_client_is_reset_where_no_endpoint_answers() {
    let proxy = start(&relay(&[nobody(), nobody()], "", ""));
    let mut session = proxy.connect("relay");
    assert_eq!(end_of(&mut session), Err(ErrorKind::ConnectionReset));
    proxy.counts("outcome", |totals| {
        totals.outcome(Kind::ConnectionRefused) == 1
            && totals.connections_open == 0
            && totals.upstream_connect_failures == 2
    });
}

#[test]
fn a_reader_that_takes_its_time_holds_the_sender_back() {
    let endpoint = Endpoint::new(|mut stream| {
        let answer = bytes(7, 32 << 20);
        stream.write_all(&answer).unwrap();
    });
    let proxy = start(&relay(&[endpoint.address], "", ""));
    let mut session = proxy.connect("relay");
    // What lies in buffers of the kernel is bounded: far less than the whole has left the endpoint by now.
    session.read_exact(&mut [0]).unwrap();
    thread::sleep(std::time::Duration::from_millis(100));
    let mut rest = Vec::new();
    let mut piece = vec![0; 10_000];
    while let Ok(read @ 1..) = session.read(&mut piece) {
        rest.extend_from_slice(&piece[..read]);
    }
    assert!(rest == bytes(7, 32 << 20)[1..]);
}

#[test]
fn a_session_in_which_nothing_moves_is_ended() {
    let echo = Endpoint::echo();
    let proxy = start(&relay(&[echo.address], "timeouts = { idle = \"200ms\" }", ""));
    let mut session = proxy.connect("relay");
    echoes(&mut session, b"hello");
    assert_eq!(end_of(&mut session), Err(ErrorKind::ConnectionReset));
    proxy.counts("sessions", |totals| totals.sessions_open == 0);
}

#[test]
fn a_session_is_cut_at_its_greatest_age_however_busy_it_is() {
    let echo = Endpoint::echo();
    let proxy = start(&relay(&[echo.address], "timeouts = { max_age = \"300ms\" }", ""));
    let mut session = proxy.connect("relay");
    let mut buffer = [0; 16];
    while session.write_all(b"0123456789abcdef").is_ok() && session.read_exact(&mut buffer).is_ok() {}
    proxy.counts("outcome", |totals| totals.outcome(Kind::ExchangeTimeout) == 1);
}

#[test]
fn clients_past_the_limit_wait_for_a_place() {
    let echo = Endpoint::echo();
    let proxy = start(&relay(&[echo.address], "limits = { max_connections = 2 }", ""));
    let mut first = proxy.connect("relay");
    let mut second = proxy.connect("relay");
    echoes(&mut first, b"first");
    echoes(&mut second, b"second");
    let mut third = proxy.connect("relay");
    third.write_all(b"third").unwrap();
    third.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
    assert!(third.read(&mut [0; 5]).is_err(), "served past the limit");
    drop(first);
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut back = [0; 5];
    third.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"third");
}

#[test]
fn an_address_has_no_more_sessions_than_it_may() {
    let echo = Endpoint::echo();
    let proxy = start(&relay(&[echo.address], "limits = { max_connections_per_ip = 1 }", ""));
    let mut first = proxy.connect("relay");
    echoes(&mut first, b"first");
    let mut second = proxy.connect("relay");
    assert!(!matches!(second.read(&mut [0]), Ok(1..)));
    drop(first);
    proxy.counts("sessions", |totals| totals.sessions_open == 0 && totals.connections_refused == 1);
    echoes(&mut proxy.connect("relay"), b"third");
}

#[test]
fn the_fewest_sessions_decide_with_least_requests() {
    let endpoints = [Endpoint::named("a"), Endpoint::named("b"), Endpoint::named("c")];
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let proxy = start(&relay(&addresses, "", "balance = \"least-requests\""));
    let open = || {
        let mut session = proxy.connect("relay");
        let mut name = [0];
        session.read_exact(&mut name).unwrap();
        (name[0], session)
    };
    let mut sessions: Vec<(u8, TcpStream)> = (0..9).map(|_| open()).collect();
    sessions.retain(|(name, _)| *name != b'b');
    proxy.counts("sessions", |totals| totals.sessions_open == 6);
    let names: Vec<u8> = (0..3)
        .map(|_| {
            let (name, session) = open();
            sessions.push((name, session));
            name
        })
        .collect();
    assert_eq!(names, b"bbb");
}
