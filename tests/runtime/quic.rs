//! QUIC before the first request: proof of addresses, limits, deadlines, reloads and drains, on real sockets.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, TransportErrorCode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tidegate::app::{self, ExitReason, Options, Running};
use tidegate::base::addr::Address;
use tidegate::config::model::Config;
use tidegate::transport::tls::development::{Authority, make_authority, make_leaf};
use tidegate::transport::tls::provider::provider;
use tokio::runtime::Runtime;

use super::support::{PATIENCE, eventually};

/// A listener called `web`, and whom its clients trust.
struct Site {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Site {
    fn new() -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), make_authority().unwrap());
        let leaf = make_leaf(&["web.test"], &authority).unwrap();
        std::fs::write(folder.path().join("web.pem"), leaf.cert_pem).unwrap();
        std::fs::write(folder.path().join("web.key"), leaf.key_pem).unwrap();
        Self { folder, authority }
    }

    /// `more` are lines of the listener.
    fn config(&self, protocols: &str, more: &str) -> Config {
        let file = |name: &str| self.folder.path().join(name);
        let text = format!(
            "[server]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\nprotocols = {protocols}\n\
             tls.certificates = [{{ cert = {:?}, key = {:?} }}]\n{more}\n[[route]]\nrespond = {{}}\n",
            file("web.pem"),
            file("web.key")
        );
        tidegate::config::parse("test.toml", &text).unwrap_or_else(|faults| panic!("{faults}"))
    }

    fn start(&self, more: &str) -> (Running, SocketAddr) {
        let running = app::start(self.config(ALL, more), Options::default()).unwrap_or_else(|error| panic!("{error}"));
        let Some(Address::Socket(address)) = running.address_of("web") else { panic!("no address") };
        (running, address)
    }

    fn client(&self) -> Client {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.cert_pem.as_bytes()).unwrap()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let mut tls = builder.with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let endpoint = runtime.block_on(async { Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap() });
        Client { runtime, endpoint, config }
    }
}

struct Client {
    runtime: Runtime,
    endpoint: Endpoint,
    config: ClientConfig,
}

impl Client {
    fn connect(&self, address: SocketAddr) -> Result<Connection, ConnectionError> {
        self.runtime.block_on(async {
            let connecting = self.endpoint.connect_with(self.config.clone(), address, "web.test").unwrap();
            tokio::time::timeout(PATIENCE, connecting).await.expect("no answer")
        })
    }

    /// Goes on from another port.
    fn rebind(&self) {
        let _entered = self.runtime.enter();
        self.endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    }

    /// Asks for `/` over HTTP/3.
    fn get(&self, connection: &Connection) {
        // RFC 9204 §4.5, static table alone: GET, https, `/` and an authority.
        let mut head = b"\x00\x00\xd1\xd7\xc1\x50\x08web.test".to_vec();
        // RFC 9114 §7.2.2: a HEADERS frame.
        head.splice(0..0, [1, head.len() as u8]);
        let answer = self.runtime.block_on(async {
            let (mut send, mut receive) = connection.open_bi().await.unwrap();
            send.write_all(&head).await.unwrap();
            send.finish().unwrap();
            tokio::time::timeout(PATIENCE, receive.read_to_end(10_000)).await.expect("no answer").unwrap()
        });
        assert_eq!(answer.first(), Some(&1), "no head: {answer:?}");
    }

    /// Begins a handshake and never goes on with it.
    fn begin(&self, address: SocketAddr) {
        let (middle, out) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        middle.set_nonblocking(true).unwrap();
        let to = middle.local_addr().unwrap();
        self.runtime.block_on(async {
            let connecting = self.endpoint.connect_with(self.config.clone(), to, "web.test").unwrap();
            let mut first = [0; 2000];
            let length = loop {
                tokio::task::yield_now().await;
                if let Ok(length) = middle.recv(&mut first) {
                    break length;
                }
            };
            out.send_to(&first[..length], address).unwrap();
            drop(connecting);
        });
    }
}

fn assert_refused(answer: Result<Connection, ConnectionError>) {
    match answer {
        Err(ConnectionError::ConnectionClosed(close)) => {
            assert_eq!(close.error_code, TransportErrorCode::CONNECTION_REFUSED, "{close:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_is_let_in_and_counted() {
    let site = Site::new();
    let (running, address) = site.start("");
    let client = site.client();
    for _ in 0..2 {
        // The ticket comes behind the handshake, and before the answer.
        client.get(&client.connect(address).unwrap());
    }
    assert!(eventually(|| running.counters().quic_connections == 2));
    let counted = running.counters();
    assert_eq!((counted.handshakes_tls13, counted.handshakes_tls13_resumed), (1, 1));
    assert_eq!((counted.connections_accepted, counted.quic_retries_sent, counted.quic_refused), (2, 0, 0));
}

#[test]
fn a_client_that_has_moved_is_counted_when_it_leaves() {
    let site = Site::new();
    let (running, address) = site.start("");
    for moves in [false, true] {
        let client = site.client();
        let connection = client.connect(address).unwrap();
        client.get(&connection);
        if moves {
            client.rebind();
            client.get(&connection);
        }
        connection.close(0x100u32.into(), b"");
        client.runtime.block_on(client.endpoint.wait_idle());
        assert!(eventually(|| running.counters().connections_open == 0));
        assert_eq!(running.counters().quic_moved, u64::from(moves));
    }
}

#[test]
fn clients_prove_their_address_where_that_is_configured() {
    let site = Site::new();
    let (running, address) = site.start("[listener.quic]\nretry = \"always\"");
    site.client().connect(address).unwrap();
    assert!(eventually(|| running.counters().quic_connections == 1));
    assert_eq!(running.counters().quic_retries_sent, 1);
}

#[test]
fn clients_prove_their_address_while_many_handshakes_are_under_way() {
    let site = Site::new();
    let (running, address) = site.start("");
    let client = site.client();
    for n in 0..100 {
        client.begin(address);
        assert!(eventually(|| running.counters().connections_accepted > n));
    }
    assert_eq!(running.counters().quic_retries_sent, 0);
    site.client().connect(address).unwrap();
    assert_eq!(running.counters().quic_retries_sent, 1);
}

#[test]
fn past_a_limit_clients_are_refused_until_a_handshake_that_stalls_has_had_its_time() {
    let site = Site::new();
    let (running, address) = site.start("limits.max_connections = 1\ntimeouts.handshake = \"2s\"");
    site.client().begin(address);
    assert!(eventually(|| running.counters().connections_open == 1));
    let client = site.client();
    assert_refused(client.connect(address));
    assert_eq!(running.counters().quic_refused, 1);
    assert!(eventually(|| running.counters().quic_handshakes_failed == 1));
    client.connect(address).unwrap();
}

#[test]
fn an_address_that_somebody_else_wrote_keeps_nobody_out_without_proof() {
    let site = Site::new();
    let (running, address) = site.start("limits.max_connections_per_ip = 1");
    site.client().begin(address);
    assert!(eventually(|| running.counters().connections_open == 1));
    assert_refused(site.client().connect(address));
    let counted = running.counters();
    assert_eq!((counted.quic_retries_sent, counted.quic_refused, counted.connections_refused), (1, 1, 0));
}

#[test]
fn a_listener_that_goes_refuses_and_is_had_back_with_its_socket() {
    let site = Site::new();
    let (running, address) = site.start("");
    // It drains for as long as this takes.
    site.client().begin(address);
    assert!(eventually(|| running.counters().connections_open == 1));
    let report = running.reload(site.config(r#"["http1"]"#, "")).unwrap();
    assert_eq!((report.sockets.kept, report.sockets.closed), (1, 1));
    let client = site.client();
    assert_refused(client.connect(address));
    let report = running.reload(site.config(ALL, "")).unwrap();
    assert_eq!((report.sockets.kept, report.sockets.opened), (1, 1));
    client.connect(address).unwrap();
    assert!(eventually(|| running.counters().quic_connections == 1));
}

#[test]
fn requests_go_on_while_the_client_moves_and_the_configuration_changes() {
    let site = Site::new();
    let many = |more: &str| {
        let mut config = site.config(ALL, more);
        config.server.workers = 3;
        config
    };
    let running = app::start(many(""), Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let Some(Address::Socket(address)) = running.address_of("web") else { panic!("no address") };
    let client = site.client();
    let connections: Vec<_> = (0..4).map(|_| client.connect(address).unwrap()).collect();
    for round in 0..30 {
        client.rebind();
        for connection in &connections {
            client.get(connection);
        }
        if round % 10 == 9 {
            let report = running.reload(many(&format!("limits.max_headers = {}", 100 + round))).unwrap();
            assert_eq!(report.sockets.kept, 2);
        }
    }
    for connection in &connections {
        assert_eq!(connection.close_reason(), None);
    }
    assert_eq!(running.counters().requests_http3, 120);
}

#[test]
fn who_leaves_refuses_new_connections_and_waits_for_open_ones() {
    let site = Site::new();
    let (running, address) = site.start("timeouts.handshake = \"2s\"");
    site.client().begin(address);
    assert!(eventually(|| running.counters().connections_open == 1));
    running.drain();
    let client = site.client();
    // Until the drain has reached the worker it may be let in.
    assert!(eventually(|| client.connect(address).is_err()));
    assert!(running.counters().quic_refused > 0);
    assert_eq!(running.wait(), ExitReason::Drained);
}

#[test]
fn a_key_file_that_is_no_secret_is_a_fault_at_its_place() {
    let site = Site::new();
    let path = site.folder.path().join("quic.key");
    std::fs::write(&path, "short").unwrap();
    let with = |path: &Path| {
        let mut config = site.config(ALL, "");
        let place = config.listeners[0].place.clone();
        config.server.quic_key_file = Some((path.to_owned(), place));
        app::start(config, Options::default())
    };
    let Err(refused) = with(&path) else { panic!("it started") };
    assert!(refused.to_string().contains("holds 5 bytes"), "{refused}");
    std::fs::write(&path, [7; 32]).unwrap();
    with(&path).unwrap_or_else(|refused| panic!("{refused}"));
}

const ALL: &str = r#"["http1", "http2", "http3"]"#;
