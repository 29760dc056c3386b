use std::future::Future;
use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ConnectionError, Incoming, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::base::error::Side;
use crate::config::model::{UpstreamProtocol, UpstreamTls};
use crate::net::testing::on_worker;
use crate::transport::quic::tests::simulated::simulated;
use crate::transport::quic::{self, congestion};
use crate::transport::tls::provider::provider;
use crate::transport::tls::testing::Folder;

fn options() -> UpstreamQuic {
    UpstreamQuic::default()
}

/// An endpoint called `origin.test`.
struct Origin {
    folder: Folder,
    endpoint: Endpoint,
}

impl Origin {
    fn bind(alpn: &[u8]) -> Self {
        let folder = Folder::new();
        let files = folder.leaf("origin", &["origin.test"]);
        let chain = CertificateDer::pem_file_iter(&files.cert).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        let crypto = QuicServerConfig::try_from(config).unwrap();
        let config = ServerConfig::with_crypto(Arc::new(crypto));
        Self { folder, endpoint: Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap() }
    }

    fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    fn tls(&self) -> Arc<ClientTls> {
        self.tls_with(|_| {})
    }

    fn tls_with(&self, edit: impl FnOnce(&mut UpstreamTls)) -> Arc<ClientTls> {
        let mut tls = UpstreamTls { ca: Some(self.folder.ca()), ..UpstreamTls::default() };
        edit(&mut tls);
        ClientTls::new(Some(&tls), UpstreamProtocol::Auto).unwrap()
    }

    async fn next(&self) -> Incoming {
        self.endpoint.accept().await.unwrap()
    }

    /// The way there for who comes from one of `sources`.
    fn way<'a>(
        &self,
        tls: &'a ClientTls,
        name: &'a ServerName<'static>,
        options: &'a UpstreamQuic,
        sources: &'a Sources,
    ) -> Way<'a> {
        Way { address: self.address(), tls, name, alpn: H3, options, sources, on_trial: false }
    }

    /// What comes of connecting while this does `met` with the first who asks.
    async fn met<F: Future>(&self, tls: &ClientTls, name: &str, met: impl FnOnce(Incoming) -> F) -> Result<(), Error> {
        let name = tls.server_name(name).unwrap();
        let (sources, options) = (Sources::default(), options());
        let way = self.way(tls, &name, &options, &sources);
        let (answer, _) = tokio::join!(way.connect(), async { met(self.next().await).await });
        answer.map(drop)
    }
}

/// As an endpoint that likes everybody.
async fn accept(incoming: Incoming) -> Option<Connection> {
    incoming.await.ok()
}

#[test]
fn connections_of_a_worker_share_one_socket() {
    on_worker(async {
        let origin = Origin::bind(H3);
        let (tls, sources) = (origin.tls(), Sources::default());
        let name = tls.server_name("origin.test").unwrap();
        let mut ports = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..3 {
            let options = options();
            let way = origin.way(&tls, &name, &options, &sources);
            let (ours, theirs) = tokio::join!(way.connect(), async { accept(origin.next().await).await });
            let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
            ports.push(theirs.remote_address().port());
            let mut stream = ours.open_uni().await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            stream.finish().unwrap();
            let mut stream = theirs.accept_uni().await.unwrap();
            assert_eq!(stream.read_to_end(100).await.unwrap(), b"hello");
            kept.push((ours, theirs));
        }
        assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    });
}

#[test]
fn connects_from_each_source_in_turn_and_past_one_that_is_not_ours() {
    on_worker(async {
        let origin = Origin::bind(H3);
        let tls = origin.tls();
        let name = tls.server_name("origin.test").unwrap();
        // RFC 5737: an address for documentation is nobody's.
        let sources = Sources::new(&["127.0.0.7", "192.0.2.1", "127.0.0.8"].map(|source| source.parse().unwrap()), 0);
        let mut from = Vec::new();
        for _ in 0..4 {
            let options = options();
            let way = origin.way(&tls, &name, &options, &sources);
            let (ours, theirs) = tokio::join!(way.connect(), async { accept(origin.next().await).await });
            ours.unwrap();
            from.push(theirs.unwrap().remote_address().ip().to_string());
        }
        assert_eq!(from, ["127.0.0.7", "127.0.0.8", "127.0.0.8", "127.0.0.7"]);
        let foreign = Sources::new(&["192.0.2.1".parse().unwrap()], 0);
        let error = origin.way(&tls, &name, &options(), &foreign).connect().await.unwrap_err();
        assert_eq!(error.reason(), "an address of `source` is none of this machine");
    });
}

#[test]
fn says_why_a_handshake_failed() {
    on_worker(async {
        let origin = Origin::bind(H3);
        let said = |answer: Result<(), Error>| {
            let error = answer.unwrap_err();
            assert_eq!((error.side(), error.retry()), (Side::Upstream, Retry::Always));
            (error.kind(), error.reason())
        };
        let other_name = origin.met(&origin.tls(), "another.test", accept).await;
        let refused_certificate = "the endpoint's certificate cannot be accepted";
        assert_eq!(said(other_name), (Kind::TlsCertificateError, refused_certificate));
        let others = Folder::new();
        let strangers = origin.tls_with(|tls| tls.ca = Some(others.ca()));
        let unknown = origin.met(&strangers, "origin.test", accept).await;
        let unknown_authority = "the endpoint's certificate comes from an unknown authority";
        assert_eq!(said(unknown), (Kind::TlsCertificateError, unknown_authority));
        let unverified = origin.tls_with(|tls| tls.insecure = true);
        assert!(origin.met(&unverified, "another.test", accept).await.is_ok());
        let refused = origin.met(&origin.tls(), "origin.test", async |incoming: Incoming| incoming.refuse()).await;
        assert_eq!(said(refused), (Kind::ConnectionRefused, "the endpoint refused the connection"));
        let else_spoken = Origin::bind(b"another");
        let answer = else_spoken.met(&else_spoken.tls(), "origin.test", accept).await;
        let no_protocol = "no application protocol in common with the endpoint (TLS alert)";
        assert_eq!(said(answer), (Kind::TlsAlertReceived, no_protocol));
        let (tls, sources) = (origin.tls(), Sources::default());
        let (name, options) = (tls.server_name("origin.test").unwrap(), options());
        let way = |address| Way { address, ..origin.way(&tls, &name, &options, &sources) };
        let nowhere = way("127.0.0.1:0".parse().unwrap());
        assert_eq!(said(nowhere.connect().await.map(drop)).0, Kind::DestinationUnavailable);
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(closed) = std::net::UdpSocket::bind(any).and_then(|socket| socket.local_addr()) else { continue };
            let nobody = way(closed).connect().await.map(drop);
            assert_eq!(said(nobody), (Kind::ConnectionRefused, "the endpoint refused the connection"));
        }
    });
}

/// Both ends of a connection to an endpoint of an upstream with these lines: ours, then the endpoint's.
async fn connected_with(lines: &str) -> (Connection, Connection) {
    let text = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\n[[route]]\nupstream = \"api\"\n[upstream.api]\nendpoints = [\"127.0.0.1:1\"]\n\
         protocol = \"http3\"\ntls = true\n[upstream.api.quic]\n{lines}"
    );
    let config = crate::config::parse("test.toml", &text).unwrap_or_else(|faults| panic!("{faults}"));
    let origin = Origin::bind(H3);
    let (tls, sources) = (origin.tls(), Sources::default());
    let name = tls.server_name("origin.test").unwrap();
    let way = origin.way(&tls, &name, &config.upstreams[0].quic, &sources);
    let (ours, theirs) = tokio::join!(way.connect(), async { accept(origin.next().await).await });
    (ours.unwrap(), theirs.unwrap())
}

#[test]
fn congestion_control_towards_endpoints_is_the_one_that_is_written() {
    on_worker(async {
        for (word, is_it) in
            [("", 0), ("congestion = \"cubic\"", 0), ("congestion = \"bbr\"", 1), ("congestion = \"newreno\"", 2)]
        {
            let (ours, _theirs) = connected_with(word).await;
            assert_eq!(congestion::which(&ours), Some(is_it), "{word}");
        }
    });
}

/// What an endpoint may send at once on a stream and then on a second one, while nobody reads.
async fn sent_at_once(lines: &str) -> [usize; 2] {
    let (_ours, theirs) = connected_with(lines).await;
    let (mut first, mut second) = (theirs.open_uni().await.unwrap(), theirs.open_uni().await.unwrap());
    let bytes = vec![0; 64 * 1024 * 1024];
    let sent = first.write(&bytes).await.unwrap();
    let more = tokio::select! {
        biased;
        more = second.write(&bytes) => more.unwrap(),
        () = std::future::ready(()) => 0,
    };
    [sent, more]
}

#[test]
fn windows_bound_what_an_endpoint_sends_ahead() {
    const KIB: usize = 1024;
    on_worker(async {
        assert_eq!(sent_at_once("stream_window = \"64KiB\"").await, [64 * KIB, 64 * KIB]);
        let both = "stream_window = \"64KiB\"\nconnection_window = \"96KiB\"";
        assert_eq!(sent_at_once(both).await, [64 * KIB, 32 * KIB]);
    });
}

#[test]
fn a_silent_endpoint_is_asked_whether_it_is_there() {
    simulated(async {
        let pings = |connection: &Connection| connection.stats().frame_tx.ping;
        for (lines, expected) in [("keep_alive = \"1s\"", 90..=110), ("", 8..=12)] {
            let (ours, _theirs) = connected_with(lines).await;
            // What looks for the size of datagrams that fits is a PING too.
            tokio::time::sleep(Duration::from_secs(5)).await;
            let before = pings(&ours);
            tokio::time::sleep(Duration::from_secs(100)).await;
            assert_eq!(ours.close_reason(), None, "{lines}");
            let asked = pings(&ours) - before;
            assert!(expected.contains(&asked), "{lines}: {asked}");
        }
        let (ours, _theirs) = connected_with("keep_alive = \"off\"").await;
        assert_eq!(ours.closed().await, ConnectionError::TimedOut);
    });
}

#[test]
fn without_offload_each_datagram_to_an_endpoint_is_sent_for_itself() {
    on_worker(async {
        for (lines, alone) in [("segmentation_offload = false", true), ("", false)] {
            let (ours, theirs) = connected_with(lines).await;
            let mut send = ours.open_uni().await.unwrap();
            let receiving = async { theirs.accept_uni().await.unwrap().read_to_end(1_000_000).await.unwrap().len() };
            let sending = async {
                send.write_all(&[7; 300_000]).await.unwrap();
                send.finish().unwrap();
            };
            assert_eq!(tokio::join!(receiving, sending).0, 300_000);
            let sent = ours.stats().udp_tx;
            assert_eq!(sent.ios == sent.datagrams, alone, "{lines}: {sent:?}");
        }
    });
}

#[test]
fn a_folder_for_qlog_gets_a_file_for_each_connection_to_an_endpoint() {
    simulated(async {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("logs");
        for _ in 0..2 {
            let (ours, _theirs) = connected_with(&format!("qlog = {:?}", logs.to_str().unwrap())).await;
            quic::close(&ours, 0_u64);
        }
        // It is written out when nothing can come of the connection any more.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let files: Vec<_> = std::fs::read_dir(&logs).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(files.len(), 2);
        for file in files {
            assert!(file.to_str().unwrap().ends_with("-client.sqlog"), "{}", file.display());
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains("qlog") && text.len() > 1000, "{}: {} bytes", file.display(), text.len());
        }
    });
}
