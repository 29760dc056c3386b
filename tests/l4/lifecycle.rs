//! Generations, drain and the end of the process, under open sessions.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use tidegate::app::ExitReason;

use crate::support::*;

#[test]
fn a_session_lives_through_a_reload_that_keeps_its_listener() {
    let (first, second) = (Endpoint::echo(), Endpoint::named("second"));
    let text = relay(&[first.address], "", "");
    let proxy = start(&text);
    let bound = proxy.address("relay");
    let mut session = proxy.connect("relay");
    echoes(&mut session, b"before");
    proxy.reload(&relay(&[second.address], "", ""));
    assert_eq!(proxy.address("relay"), bound);
    echoes(&mut session, b"after");
    let mut later = proxy.connect("relay");
    let mut name = [0; 6];
    later.read_exact(&mut name).unwrap();
    assert_eq!(&name, b"second");
    echoes(&mut session, b"still");
}

#[test]
fn a_session_outlives_its_listener() {
    let echo = Endpoint::echo();
    let text = relay(&[echo.address], "", "");
    let other =
        format!("{text}\n[[listener]]\nname = \"other\"\nbind = \"127.0.0.1:0\"\nmode = \"tcp\"\nupstream = \"to\"\n");
    let proxy = start(&other);
    let address = proxy.address("other");
    let mut session = proxy.connect("other");
    echoes(&mut session, b"before");
    proxy.reload(&text);
    assert!(eventually(|| TcpStream::connect(address).is_err()), "the listener is still there");
    echoes(&mut session, b"after");
}

#[test]
fn a_reload_brings_the_first_listener_of_layer_4() {
    let echo = Endpoint::echo();
    let http = "[server]\nworkers = 2\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = {}\n";
    let proxy = start(http);
    proxy.reload(&format!("{http}{}", relay(&[echo.address], "", "").replace("[server]\nworkers = 1\n", "")));
    for _ in 0..20 {
        echoes(&mut proxy.connect("relay"), b"through");
    }
    proxy.counts("sessions", |totals| totals.sessions == 20);
}

#[test]
fn a_listener_goes_over_from_requests_to_sessions_at_the_same_address() {
    let echo = Endpoint::echo();
    let bind = free();
    let http =
        format!("[[listener]]\nname = \"relay\"\nbind = \"{bind}\"\n[[route]]\nrespond = {{ body = \"http\" }}\n");
    let proxy = start(&http);
    let mut web = proxy.connect("relay");
    web.write_all(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n").unwrap();
    assert!(end_of(&mut web).unwrap().ends_with(b"http"));
    let layer4 = relay(&[echo.address], "", "").replace("127.0.0.1:0", &bind.to_string());
    proxy.reload(&layer4);
    // The workers that served requests accept what was already waiting; from then on the others do.
    assert!(eventually(|| {
        let mut session = proxy.connect("relay");
        session.write_all(b"through").unwrap();
        let mut back = [0; 7];
        session.read_exact(&mut back).is_ok() && &back == b"through"
    }));
}

#[test]
fn a_drain_waits_for_sessions_and_takes_no_new_ones() {
    let echo = Endpoint::echo();
    let proxy = start(&relay(&[echo.address], "", ""));
    let address = proxy.address("relay");
    let mut session = proxy.connect("relay");
    echoes(&mut session, b"before");
    proxy.0.drain();
    assert!(eventually(|| TcpStream::connect(address).is_err()), "it still accepts");
    echoes(&mut session, b"while it drains");
    session.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut session), Ok(vec![]));
    drop(session);
    assert_eq!(proxy.0.wait(), ExitReason::Drained);
}

#[test]
fn a_drain_without_sessions_ends_at_once() {
    let echo = Endpoint::echo();
    let proxy = start(&relay(&[echo.address], "", ""));
    proxy.0.drain();
    assert_eq!(proxy.0.wait(), ExitReason::Drained);
}

#[test]
fn what_is_open_when_a_drain_runs_out_of_time_is_reset() {
    let echo = Endpoint::echo();
    let text = relay(&[echo.address], "", "").replace("workers = 1", "workers = 1\ndrain_timeout = \"300ms\"");
    let proxy = start(&text);
    let mut session = proxy.connect("relay");
    echoes(&mut session, b"before");
    proxy.0.drain();
    assert_eq!(end_of(&mut session), Err(ErrorKind::ConnectionReset));
    assert_eq!(proxy.0.wait(), ExitReason::DrainTimeout { connections: 1 });
}

#[test]
fn what_was_accepted_by_the_kernel_before_a_drain_is_served() {
    let echo = Endpoint::echo();
    let proxy = start(&relay(&[echo.address], "", ""));
    let mut sessions: Vec<_> = (0..50).map(|_| proxy.connect("relay")).collect();
    proxy.0.drain();
    for session in &mut sessions {
        echoes(session, b"served");
    }
    drop(sessions);
    assert_eq!(proxy.0.wait(), ExitReason::Drained);
}
