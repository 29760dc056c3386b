//! Who counts as the client of a session: whom a trusted proxy names.

use std::io::{Read, Write};

use crate::support::{Endpoint, echoes, relay, start};

const TRUSTED: &str = "proxy_protocol = \"require\"\ntrusted_proxies = [\"127.0.0.1\"]\n";

#[test]
fn the_limit_for_an_address_is_that_of_the_client_which_a_header_names() {
    let echo = Endpoint::echo();
    let listener = format!("{TRUSTED}limits = {{ max_connections_per_ip = 1 }}");
    let proxy = start(&relay(&[echo.address], &listener, ""));
    let connect = |client: &str| {
        let mut session = proxy.connect("relay");
        session.write_all(format!("PROXY TCP4 {client} 198.51.100.1 40000 443\r\n").as_bytes()).unwrap();
        session
    };
    let mut first = connect("192.0.2.7");
    echoes(&mut first, b"first");
    // Another client through the same proxy is another, the same one is one too many.
    echoes(&mut connect("192.0.2.8"), b"second");
    let mut again = connect("192.0.2.7");
    assert!(!matches!(again.read(&mut [0]), Ok(1..)));
    drop((first, again));
    proxy.counts("sessions", |totals| totals.sessions_open == 0 && totals.connections_refused == 1);
    echoes(&mut connect("192.0.2.7"), b"third");
}

#[test]
fn a_header_that_comes_late_is_counted_as_refused() {
    let echo = Endpoint::echo();
    let listener = format!("{TRUSTED}timeouts.handshake = \"50ms\"");
    let proxy = start(&relay(&[echo.address], &listener, ""));
    let mut session = proxy.connect("relay");
    session.write_all(b"PROXY TCP4").unwrap();
    assert!(!matches!(session.read(&mut [0]), Ok(1..)));
    proxy.counts("refused", |totals| totals.proxy_headers_refused == 1 && totals.sessions_open == 0);
    assert_eq!(echo.accepted(), 0);
}
