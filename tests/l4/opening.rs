//! What stands before the first relayed byte: PROXY headers in and out, ClientHellos, the deadlines on both.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tidegate::base::error::Kind;

use crate::support::*;

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.0/8\"]";
const HEADER: &[u8] = b"PROXY TCP4 192.0.2.9 192.0.2.1 4000 443\r\n";

/// The first flight of a client that asks for `name` and speaks `alpn`.
fn hello(name: &str, alpn: &[&str]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Says its name, and then sends back what it got before the end.
fn telling(name: &'static str) -> Endpoint {
    Endpoint::new(move |mut stream| {
        let mut got = Vec::new();
        if stream.write_all(name.as_bytes()).is_ok() && stream.read_to_end(&mut got).is_ok() {
            let _ = stream.write_all(&got);
        }
    })
}

fn passthrough(listener: &str, endpoints: [&Endpoint; 2]) -> String {
    let [first, second] = endpoints.map(|endpoint| endpoint.address);
    format!(
        "[server]\nworkers = 1\n[[listener]]\nname = \"relay\"\nbind = \"127.0.0.1:0\"\nmode = \"tls-passthrough\"\n\
         {listener}\n[upstream.first]\nendpoints = [\"{first}\"]\n[upstream.second]\nendpoints = [\"{second}\"]\n"
    )
}

/// Sends `bytes` in pieces, ends, and gives what comes back.
fn exchange(stream: &mut TcpStream, bytes: &[u8], pieces: usize) -> Result<Vec<u8>, ErrorKind> {
    stream.set_nodelay(true).unwrap();
    for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
        stream.write_all(piece).unwrap();
        if pieces > 1 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    end_of(stream)
}

#[test]
fn a_hello_leads_where_its_name_says_and_arrives_untouched() {
    let (first, second) = (telling("first"), telling("second"));
    let text = passthrough(
        "sni = { \"a.example\" = \"first\", \"*.b.example\" = \"second\", default = \"second\" }",
        [&first, &second],
    );
    let proxy = start(&text);
    for (name, pieces, leads) in [
        ("a.example", 1, "first"),
        ("A.example", 7, "first"),
        ("x.b.example", 40, "second"),
        ("c.example", 1, "second"),
    ] {
        let sent = hello(name, &[]);
        let got = exchange(&mut proxy.connect("relay"), &sent, pieces).unwrap();
        assert_eq!(&got[..leads.len()], leads.as_bytes(), "{name}");
        assert!(got[leads.len()..] == sent, "{name}: the endpoint got other bytes");
    }
    proxy.counts("all well", |totals| totals.outcome_ok == 4 && totals.hellos_refused == 0);
}

#[test]
fn a_protocol_decides_before_the_name() {
    let (first, second) = (telling("first"), telling("second"));
    let text = passthrough("sni = { \"a.example\" = \"first\" }\nalpn = { \"imap\" = \"second\" }", [&first, &second]);
    let proxy = start(&text);
    let got = exchange(&mut proxy.connect("relay"), &hello("a.example", &["h2", "imap"]), 1).unwrap();
    assert!(got.starts_with(b"second"));
    let got = exchange(&mut proxy.connect("relay"), &hello("a.example", &["h2"]), 1).unwrap();
    assert!(got.starts_with(b"first"));
}

#[test]
fn what_leads_nowhere_is_closed_and_counted() {
    let (first, second) = (telling("first"), telling("second"));
    let proxy = start(&passthrough("sni = { \"a.example\" = \"first\" }", [&first, &second]));
    for bytes in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), hello("b.example", &[])] {
        let mut stream = proxy.connect("relay");
        stream.write_all(&bytes).unwrap();
        assert_eq!(end_of(&mut stream), Ok(Vec::new()));
    }
    proxy.counts("both refused", |totals| {
        totals.hellos_refused == 2
            && totals.outcome(Kind::HttpRequestError) == 1
            && totals.outcome(Kind::DestinationNotFound) == 1
    });
    assert_eq!(first.accepted() + second.accepted(), 0);
}

#[test]
fn a_hello_that_does_not_come_in_time_ends_the_connection() {
    let (first, second) = (telling("first"), telling("second"));
    let text = passthrough("sni = { default = \"first\" }\ntimeouts.handshake = \"60ms\"", [&first, &second]);
    let proxy = start(&text);
    let mut stream = proxy.connect("relay");
    stream.write_all(&hello("a.example", &[])[..20]).unwrap();
    assert_eq!(end_of(&mut stream), Ok(Vec::new()));
    proxy.counts("late", |totals| totals.outcome(Kind::ClientStall) == 1 && totals.sessions_open == 0);
    assert_eq!(first.accepted(), 0);
}

#[test]
fn a_header_is_taken_off_and_told_on() {
    let endpoint = telling("");
    let listener = format!("proxy_protocol = \"require\"\n{TRUSTED}");
    let proxy = start(&relay(&[endpoint.address], &listener, "send_proxy_protocol = \"v1\""));
    let sent = [HEADER, b"hello"].concat();
    for pieces in [1, 11, sent.len()] {
        let got = exchange(&mut proxy.connect("relay"), &sent, pieces).unwrap();
        assert_eq!(got, sent, "in {pieces} pieces");
    }
}

#[test]
fn without_a_header_the_endpoint_is_told_of_the_connection() {
    let endpoint = telling("");
    let proxy = start(&relay(&[endpoint.address], "", "send_proxy_protocol = \"v1\""));
    let mut stream = proxy.connect("relay");
    let (own, to) = (stream.local_addr().unwrap(), proxy.address("relay"));
    let got = exchange(&mut stream, b"hello", 1).unwrap();
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello", own.port(), to.port());
    assert_eq!(String::from_utf8(got).unwrap(), expected);
}

#[test]
fn an_endpoint_that_speaks_first_is_told_of_the_client_before_the_client_speaks() {
    let endpoint = Endpoint::new(|mut stream| {
        let mut line = Vec::new();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && byte != *b"\n" {
            line.push(byte[0]);
        }
        let _ = stream.write_all(&line);
        let _ = stream.read(&mut byte);
    });
    let proxy = start(&relay(&[endpoint.address], "", "send_proxy_protocol = \"v1\""));
    let mut stream = proxy.connect("relay");
    let mut banner = [0; 5];
    stream.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"PROXY");
}

#[test]
fn a_required_header_that_is_missing_or_not_to_be_believed_ends_the_connection() {
    let endpoint = telling("");
    for (trusted, bytes, kind) in [
        (TRUSTED, &b"GET / HTTP/1.1\r\n"[..], Kind::HttpRequestDenied),
        (TRUSTED, b"PROXY TCP4 nonsense\r\n", Kind::HttpRequestError),
        ("trusted_proxies = [\"192.0.2.0/24\"]", HEADER, Kind::HttpRequestDenied),
    ] {
        let listener = format!("proxy_protocol = \"require\"\n{trusted}");
        let proxy = start(&relay(&[endpoint.address], &listener, ""));
        let mut stream = proxy.connect("relay");
        // Whoever is refused at once may be gone before this.
        let _ = stream.write_all(bytes);
        let ended = end_of(&mut stream);
        assert!(
            matches!(ended, Ok(ref got) if got.is_empty()) || ended == Err(ErrorKind::ConnectionReset),
            "{ended:?}"
        );
        proxy.counts("refused", |totals| totals.proxy_headers_refused == 1 && totals.outcome(kind) == 1);
    }
    assert_eq!(endpoint.accepted(), 0);
}

#[test]
fn an_optional_header_is_looked_for_where_it_would_be_believed() {
    let endpoint = telling("");
    for (trusted, told) in
        [(TRUSTED, &b"hello"[..]), ("trusted_proxies = [\"192.0.2.0/24\"]", &[HEADER, b"hello"].concat())]
    {
        let listener = format!("proxy_protocol = \"optional\"\n{trusted}");
        let proxy = start(&relay(&[endpoint.address], &listener, ""));
        let sent = [HEADER, b"hello"].concat();
        assert_eq!(exchange(&mut proxy.connect("relay"), &sent, 1).unwrap(), told);
        assert_eq!(exchange(&mut proxy.connect("relay"), b"plain", 1).unwrap(), b"plain");
    }
}

#[test]
fn a_header_that_does_not_come_in_time_ends_the_connection() {
    let endpoint = telling("");
    let listener = format!("proxy_protocol = \"require\"\n{TRUSTED}\ntimeouts.handshake = \"60ms\"");
    let proxy = start(&relay(&[endpoint.address], &listener, ""));
    let mut stream = proxy.connect("relay");
    stream.write_all(b"PROXY ").unwrap();
    assert_eq!(end_of(&mut stream), Ok(Vec::new()));
    proxy.counts("late", |totals| totals.outcome(Kind::RequestHeaderTimeout) == 1);
}
