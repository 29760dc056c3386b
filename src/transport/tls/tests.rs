//! Handshakes over loopback: both roles of this room with each other, and each with a rustls that was set up otherwise.

use std::future::Future;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server as tls_server};

use super::client::ClientTls;
use super::kind_of;
use super::server::{Accepted, Alpn, ServerTls};
use super::testing::Folder;
use crate::base::error::{Error, Kind, Retry, Side};
use crate::config::model::{
    CertificateFiles, ClientAuth, ListenerTls, Protocols, TlsVersion, UpstreamProtocol, UpstreamTls,
};
use crate::net::io::Socket;
use crate::net::testing::on_worker;

const BOTH: Protocols = Protocols { http1: true, http2: true, http3: false };

type Served = Result<(Box<tls_server::TlsStream<Socket>>, Accepted), Error>;
type Connected = Result<Box<client::TlsStream<Socket>>, Error>;

async fn sockets() -> (Socket, Socket) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (left, right) = tokio::join!(tokio::net::TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (Socket::Tcp(left.unwrap()), Socket::Tcp(right.unwrap().0))
}

fn name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}

fn listener(certificates: Vec<CertificateFiles>) -> ListenerTls {
    ListenerTls { certificates, min_version: TlsVersion::V1_2, client_auth: ClientAuth::Off, early_data: false }
}

fn serve(tls: &ListenerTls) -> Arc<ServerTls> {
    ServerTls::new(tls, BOTH, None).unwrap()
}

fn trusting(folder: &Folder) -> UpstreamTls {
    UpstreamTls { ca: Some(folder.ca()), ..UpstreamTls::default() }
}

fn client(tls: &UpstreamTls) -> Arc<ClientTls> {
    ClientTls::new(Some(tls), UpstreamProtocol::Auto).unwrap()
}

/// A handshake between the two.
async fn shake(server: &ServerTls, client: &ClientTls, host: &str) -> (Served, Connected) {
    let (left, right) = sockets().await;
    tokio::join!(server.accept(right), async { client.connect(left, &name(host)).await })
}

/// A handshake of a client of another make, up to the byte that it reads after the tickets.
async fn shake_with(server: &ServerTls, config: &Arc<ClientConfig>, host: &str) -> Served {
    let (left, right) = sockets().await;
    let connector = TlsConnector::from(Arc::clone(config));
    let connecting = async {
        if let Ok(mut stream) = connector.connect(name(host), left).await {
            let _ = stream.read(&mut [0]).await;
        }
    };
    let serving = async {
        let mut served = server.accept(right).await;
        if let Ok((stream, _)) = &mut served {
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
        }
        served
    };
    tokio::join!(serving, connecting).0
}

fn client_config(
    folder: &Folder,
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.ca()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// An endpoint of another make.
async fn connect_to(config: ServerConfig, client: &ClientTls, host: &str) -> Connected {
    let (left, right) = sockets().await;
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(right);
    tokio::join!(accepting, async { client.connect(left, &name(host)).await }).1
}

fn server_config(files: &CertificateFiles) -> ServerConfig {
    let chain = CertificateDer::pem_file_iter(&files.cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap()
}

fn assert_upstream(error: &Error, kind: Kind, reason: &str) {
    assert_eq!((error.kind(), error.side(), error.retry()), (kind, Side::Upstream, Retry::Always), "{error:?}");
    assert!(error.reason().contains(reason), "{error}");
}

fn assert_downstream(error: &Error, kind: Kind, reason: &str) {
    assert_eq!((error.kind(), error.side()), (kind, Side::Downstream), "{error:?}");
    assert!(error.reason().contains(reason), "{error}");
}

#[test]
fn the_certificate_is_that_of_the_name_asked_for() {
    on_worker(async {
        let folder = Folder::new();
        let server = serve(&listener(vec![
            folder.leaf("first", &["first.test"]),
            folder.leaf("wild", &["*.example.test"]),
            folder.leaf("exact", &["www.example.test"]),
        ]));
        let client = client(&UpstreamTls { insecure: true, ..UpstreamTls::default() });
        for (host, file) in [
            ("www.example.test", "exact"),
            ("api.example.test", "wild"),
            ("else.test", "first"),
            ("127.0.0.1", "first"),
        ] {
            let (served, connected) = shake(&server, &client, host).await;
            let leaf = CertificateDer::from_pem_file(folder.ca().with_file_name(format!("{file}.pem"))).unwrap();
            assert_eq!(connected.unwrap().get_ref().1.peer_certificates().unwrap()[0], leaf, "{host}");
            // An address is no server name (RFC 6066 §3).
            let sni = served.unwrap().1.sni;
            assert_eq!(sni.as_deref(), (host != "127.0.0.1").then_some(host));
        }
    });
}

#[test]
fn bytes_cross_a_verified_channel_and_alpn_prefers_h2() {
    on_worker(async {
        let folder = Folder::new();
        let server = serve(&listener(vec![folder.leaf("a", &["a.test", "127.0.0.1"])]));
        let client = client(&trusting(&folder));
        for host in ["a.test", "127.0.0.1"] {
            let (served, connected) = shake(&server, &client, host).await;
            let ((mut served, accepted), mut connected) = (served.unwrap(), connected.unwrap());
            assert!(accepted.alpn == Alpn::Http2 && !accepted.resumed && !accepted.client_cert);
            assert_eq!(accepted.version, TlsVersion::V1_3);
            connected.write_all(b"ping").await.unwrap();
            connected.flush().await.unwrap();
            let mut bytes = [0; 4];
            served.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"ping");
        }
    });
}

#[test]
fn alpn_follows_what_the_listener_and_the_upstream_speak() {
    on_worker(async {
        let folder = Folder::new();
        let tls = listener(vec![folder.leaf("a", &["a.test"])]);
        let server = ServerTls::new(&tls, Protocols { http1: true, http2: false, http3: false }, None).unwrap();
        let (served, connected) = shake(&server, &client(&trusting(&folder)), "a.test").await;
        assert!(served.unwrap().1.alpn != Alpn::Http2);
        assert_eq!(connected.unwrap().get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));

        let only_h2 = ClientTls::new(Some(&trusting(&folder)), UpstreamProtocol::Http2).unwrap();
        let (served, connected) = shake(&server, &only_h2, "a.test").await;
        assert_downstream(&served.unwrap_err(), Kind::TlsProtocolError, "no application protocol in common");
        assert_upstream(&connected.unwrap_err(), Kind::TlsAlertReceived, "no application protocol in common");
    });
}

#[test]
fn an_endpoint_that_ignores_alpn_does_not_speak_h2() {
    on_worker(async {
        let folder = Folder::new();
        let config = || server_config(&folder.leaf("a", &["a.test"]));
        let only_h2 = ClientTls::new(Some(&trusting(&folder)), UpstreamProtocol::Http2).unwrap();
        let error = connect_to(config(), &only_h2, "a.test").await.unwrap_err();
        assert_upstream(&error, Kind::TlsProtocolError, "did not agree to HTTP/2");
        assert!(connect_to(config(), &client(&trusting(&folder)), "a.test").await.is_ok());
    });
}

#[test]
fn post_quantum_keys_are_agreed_on_in_one_round_by_who_has_them() {
    on_worker(async {
        let folder = Folder::new();
        let server = serve(&listener(vec![folder.leaf("a", &["a.test"])]));
        let (served, connected) = shake(&server, &client(&trusting(&folder)), "a.test").await;
        let connected = connected.unwrap();
        assert!(served.is_ok());
        let session = connected.get_ref().1;
        assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        // One that has no ML-KEM, and one that has it but sent its share for X25519 only.
        let classic = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
        let reluctant = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::X25519MLKEM768];
        for kx_groups in [classic, reluctant] {
            let provider = CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() };
            let config = client_config(&folder, provider, rustls::ALL_VERSIONS);
            let served = shake_with(&server, &config, "a.test").await.unwrap().0;
            let session = served.get_ref().1;
            assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519);
            assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        }
    });
}

#[test]
fn an_endpoint_without_post_quantum_keys_needs_no_second_round() {
    on_worker(async {
        let folder = Folder::new();
        let files = folder.leaf("a", &["a.test"]);
        let chain = CertificateDer::pem_file_iter(&files.cert).unwrap().map(Result::unwrap).collect();
        let provider = CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..aws_lc_rs::default_provider() };
        let config = ServerConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
        let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
        let config = config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let connected = connect_to(config, &client(&trusting(&folder)), "a.test").await.unwrap();
        assert_eq!(connected.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    });
}

#[test]
fn the_minimum_version_holds() {
    on_worker(async {
        let folder = Folder::new();
        let mut tls = listener(vec![folder.leaf("a", &["a.test"])]);
        let old = client_config(&folder, aws_lc_rs::default_provider(), &[&rustls::version::TLS12]);
        let (_, accepted) = shake_with(&serve(&tls), &old, "a.test").await.unwrap();
        assert_eq!(accepted.version, TlsVersion::V1_2);
        tls.min_version = TlsVersion::V1_3;
        let error = shake_with(&serve(&tls), &old, "a.test").await.unwrap_err();
        assert_downstream(&error, Kind::TlsProtocolError, "no TLS version in common");
    });
}

#[test]
fn sessions_resume_in_both_versions_and_after_a_reload() {
    on_worker(async {
        let folder = Folder::new();
        let tls = listener(vec![folder.leaf("a", &["a.test"])]);
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = client_config(&folder, aws_lc_rs::default_provider(), &[version]);
            let first = serve(&tls);
            assert!(!shake_with(&first, &config, "a.test").await.unwrap().1.resumed);
            assert!(shake_with(&first, &config, "a.test").await.unwrap().1.resumed);
            let reloaded = ServerTls::new(&tls, BOTH, Some(&first)).unwrap();
            assert!(shake_with(&reloaded, &config, "a.test").await.unwrap().1.resumed);
            // Each resumption brings the next ticket.
            assert!(shake_with(&reloaded, &config, "a.test").await.unwrap().1.resumed);
            // One that never saw the keys cannot.
            assert!(!shake_with(&serve(&tls), &config, "a.test").await.unwrap().1.resumed);
        }
    });
}

#[test]
fn our_own_connections_resume() {
    on_worker(async {
        let folder = Folder::new();
        let server = serve(&listener(vec![folder.leaf("a", &["a.test"])]));
        let client = client(&trusting(&folder));
        let mut resumed = Vec::new();
        for _ in 0..2 {
            let (served, connected) = shake(&server, &client, "a.test").await;
            let ((mut served, accepted), mut connected) = (served.unwrap(), connected.unwrap());
            resumed.push(accepted.resumed);
            served.write_all(b"x").await.unwrap();
            served.flush().await.unwrap();
            connected.read_exact(&mut [0]).await.unwrap();
        }
        assert_eq!(resumed, [false, true]);
    });
}

#[test]
fn a_ticket_does_not_get_around_new_rules_for_client_certificates() {
    on_worker(async {
        let folder = Folder::new();
        let mut tls = listener(vec![folder.leaf("a", &["a.test"])]);
        let config = client_config(&folder, aws_lc_rs::default_provider(), rustls::ALL_VERSIONS);
        let first = serve(&tls);
        shake_with(&first, &config, "a.test").await.unwrap();
        tls.client_auth = ClientAuth::Require { ca: folder.ca(), place: folder.place(1) };
        let stricter = ServerTls::new(&tls, BOTH, Some(&first)).unwrap();
        assert!(shake_with(&stricter, &config, "a.test").await.is_err());
    });
}

#[test]
fn client_certificates_are_off_optional_or_required() {
    on_worker(async {
        let folder = Folder::new();
        let mut tls = listener(vec![folder.leaf("a", &["a.test"])]);
        let identity = folder.leaf("client", &["client.test"]);
        let anonymous = client(&trusting(&folder));
        let identity = Some((identity.cert, identity.key));
        let known = client(&UpstreamTls { client_identity: identity, ..trusting(&folder) });
        let other = Folder::new();
        let files = other.leaf("stranger", &["client.test"]);
        let stranger = client(&UpstreamTls { client_identity: Some((files.cert, files.key)), ..trusting(&folder) });

        let off = serve(&tls);
        assert!(!shake(&off, &known, "a.test").await.0.unwrap().1.client_cert);

        tls.client_auth = ClientAuth::Optional { ca: folder.ca(), place: folder.place(1) };
        let optional = serve(&tls);
        assert!(!shake(&optional, &anonymous, "a.test").await.0.unwrap().1.client_cert);
        assert!(shake(&optional, &known, "a.test").await.0.unwrap().1.client_cert);
        let error = shake(&optional, &stranger, "a.test").await.0.unwrap_err();
        assert_downstream(&error, Kind::TlsCertificateError, "unknown authority");

        tls.client_auth = ClientAuth::Require { ca: folder.ca(), place: folder.place(1) };
        let required = serve(&tls);
        assert!(shake(&required, &known, "a.test").await.0.unwrap().1.client_cert);
        let (served, connected) = shake(&required, &anonymous, "a.test").await;
        assert_downstream(&served.unwrap_err(), Kind::TlsCertificateError, "one is required");
        // With TLS 1.3 the endpoint's refusal comes after the handshake (RFC 8446 §4.4.4).
        let error = connected.unwrap().read(&mut [0]).await.unwrap_err();
        assert_eq!(kind_of(&error), Some(Kind::TlsAlertReceived));
    });
}

#[test]
fn a_missing_authority_for_clients_is_a_fault_at_its_place() {
    let folder = Folder::new();
    let mut tls = listener(vec![folder.leaf("a", &["a.test"])]);
    tls.client_auth = ClientAuth::Optional { ca: "nowhere.pem".into(), place: folder.place(7) };
    tls.certificates[0].key = "nowhere.key".into();
    let faults = ServerTls::new(&tls, BOTH, None).unwrap_err();
    let lines: Vec<_> = faults.iter().map(|fault| fault.place.as_ref().unwrap().line).collect();
    assert_eq!(lines, [1, 7]);
}

#[test]
fn the_endpoints_certificate_is_judged() {
    on_worker(async {
        let folder = Folder::new();
        let files = folder.leaf("a", &["a.test"]);
        let trusting = client(&trusting(&folder));
        let error = connect_to(server_config(&files), &trusting, "b.test").await.unwrap_err();
        assert_upstream(&error, Kind::TlsCertificateError, "for another name");

        let other = Folder::new();
        let error = connect_to(server_config(&other.leaf("x", &["a.test"])), &trusting, "a.test").await.unwrap_err();
        assert_upstream(&error, Kind::TlsCertificateError, "unknown authority");

        let expired = folder.outdated("old", "a.test");
        let error = connect_to(server_config(&expired), &trusting, "a.test").await.unwrap_err();
        assert_upstream(&error, Kind::TlsCertificateError, "has expired");

        let insecure = client(&UpstreamTls { insecure: true, ..UpstreamTls::default() });
        assert!(connect_to(server_config(&expired), &insecure, "whatever.test").await.is_ok());
    });
}

/// Sends `bytes` where a handshake is expected, and closes.
async fn answer(mut socket: Socket, bytes: &[u8]) {
    let _ = socket.write_all(bytes).await;
    let _ = socket.shutdown().await;
    let _ = socket.read_to_end(&mut Vec::new()).await;
}

async fn accept_from(server: &ServerTls, bytes: &[u8]) -> Error {
    let (left, right) = sockets().await;
    tokio::join!(server.accept(right), answer(left, bytes)).0.map(drop).unwrap_err()
}

async fn connect_while<F: Future>(client: &ClientTls, other: impl FnOnce(Socket) -> F) -> Error {
    let (left, right) = sockets().await;
    let asked = name("a.test");
    tokio::join!(client.connect(left, &asked), other(right)).0.map(drop).unwrap_err()
}

#[test]
fn what_is_no_tls_is_named() {
    on_worker(async {
        let folder = Folder::new();
        let server = serve(&listener(vec![folder.leaf("a", &["a.test"])]));
        let client = client(&trusting(&folder));
        let error = accept_from(&server, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_downstream(&error, Kind::TlsProtocolError, "does not speak TLS");
        let error = connect_while(&client, |socket| answer(socket, b"HTTP/1.1 400 Bad Request\r\n\r\n")).await;
        assert_upstream(&error, Kind::TlsProtocolError, "does not speak TLS");
    });
}

#[test]
fn who_leaves_during_the_handshake_is_named() {
    on_worker(async {
        let folder = Folder::new();
        let server = serve(&listener(vec![folder.leaf("a", &["a.test"])]));
        assert_downstream(&accept_from(&server, b"").await, Kind::ClientGone, "the client left");
        assert_downstream(&accept_from(&server, &[22, 3, 1]).await, Kind::ClientGone, "the client left");
        let client = client(&trusting(&folder));
        let error = connect_while(&client, |socket| answer(socket, b"")).await;
        assert_upstream(&error, Kind::ConnectionTerminated, "closed the connection during the TLS handshake");
        let error = connect_while(&client, async |socket: Socket| socket.reset()).await;
        assert_upstream(&error, Kind::ConnectionTerminated, "closed the connection during the TLS handshake");
    });
}

#[test]
fn a_client_that_does_not_trust_us_is_heard() {
    on_worker(async {
        let folder = Folder::new();
        let server = serve(&listener(vec![folder.leaf("a", &["a.test"])]));
        let other = Folder::new();
        let stranger = client(&trusting(&other));
        let (served, connected) = shake(&server, &stranger, "a.test").await;
        assert_downstream(&served.unwrap_err(), Kind::TlsAlertReceived, "refused our certificate");
        assert_upstream(&connected.unwrap_err(), Kind::TlsCertificateError, "unknown authority");
    });
}

#[test]
fn faults_of_an_upstreams_files_are_told() {
    let folder = Folder::new();
    let (a, b) = (folder.leaf("a", &["a.test"]), folder.leaf("b", &["b.test"]));
    let fault = |tls: UpstreamTls| ClientTls::new(Some(&tls), UpstreamProtocol::Auto).unwrap_err().what;
    let missing = UpstreamTls { ca: Some("nowhere.pem".into()), ..UpstreamTls::default() };
    assert!(fault(missing).starts_with("cannot read nowhere.pem"));
    let mixed = UpstreamTls { client_identity: Some((a.cert, b.key)), ..trusting(&folder) };
    assert!(fault(mixed).contains("does not belong to the certificate"));
    let named = UpstreamTls { server_name: Some("not a name".into()), ..trusting(&folder) };
    assert!(fault(named).contains("`not a name`"));
    let tls = client(&UpstreamTls { server_name: Some("api.test".into()), ..trusting(&folder) });
    assert_eq!(tls.server_name("10.0.0.1").unwrap(), name("api.test"));
    assert_eq!(client(&trusting(&folder)).server_name("10.0.0.1").unwrap(), name("10.0.0.1"));
}

/// Whom a client that believes anybody meets.
async fn leaf_served(server: &ServerTls, host: &str) -> CertificateDer<'static> {
    let anybody = client(&UpstreamTls { insecure: true, ..UpstreamTls::default() });
    let stream = shake(server, &anybody, host).await.1.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn leaf_in(files: &CertificateFiles) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&files.cert).unwrap()
}

#[test]
fn new_files_are_met_by_new_handshakes_and_open_connections_live_on() {
    on_worker(async {
        let folder = Folder::new();
        let files = folder.leaf("a", &["a.test"]);
        let server = serve(&listener(vec![files.clone()]));
        let old = leaf_in(&files);
        let (served, connected) = shake(&server, &client(&trusting(&folder)), "a.test").await;
        assert!(server.renew().is_empty(), "nothing was written yet");

        folder.leaf("a", &["a.test", "also.test"]);
        let renewal = server.renew();
        assert_eq!(renewal.certificates[0].names, ["a.test", "also.test"]);
        assert!(renewal.faults.is_empty() && !renewal.authorities);
        assert_ne!(leaf_served(&server, "a.test").await, old);
        assert_eq!(leaf_served(&server, "a.test").await, leaf_in(&files));
        assert!(server.covers(Some("a.test"), "also.test"));

        let (mut served, mut connected) = (served.unwrap().0, connected.unwrap());
        served.write_all(b"still here").await.unwrap();
        served.flush().await.unwrap();
        let mut read = [0; 10];
        connected.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"still here");
    });
}

#[test]
fn a_half_written_pair_waits_and_the_others_are_renewed() {
    on_worker(async {
        let folder = Folder::new();
        let (one, two) = (folder.leaf("one", &["one.test"]), folder.leaf("two", &["two.test"]));
        let server = serve(&listener(vec![one.clone(), two.clone()]));
        let old = leaf_in(&one);
        let key = std::fs::read_to_string(&one.key).unwrap();
        folder.leaf("one", &["one.test"]);
        let new_key = std::fs::read_to_string(&one.key).unwrap();
        // The certificate is there, its key is not yet.
        folder.write("one.key", &key);
        folder.leaf("two", &["two.test"]);
        let renewal = server.renew();
        assert_eq!(renewal.certificates.len(), 1);
        assert!(renewal.faults[0].what.contains("does not belong to the certificate"), "{:?}", renewal.faults);
        assert_eq!(leaf_served(&server, "one.test").await, old);
        assert_eq!(leaf_served(&server, "two.test").await, leaf_in(&two));

        std::fs::remove_file(&one.key).unwrap();
        assert!(server.renew().faults[0].what.contains("cannot read"));
        assert_eq!(leaf_served(&server, "one.test").await, old);

        folder.write("one.key", &new_key);
        let renewal = server.renew();
        assert!(renewal.faults.is_empty() && renewal.certificates.len() == 1, "{renewal:?}");
        assert_eq!(leaf_served(&server, "one.test").await, leaf_in(&one));
    });
}

#[test]
fn other_authorities_end_what_old_tickets_vouch_for() {
    on_worker(async {
        let folder = Folder::new();
        let mut tls = listener(vec![folder.leaf("a", &["a.test"])]);
        tls.client_auth = ClientAuth::Optional { ca: folder.ca(), place: folder.place(1) };
        let server = serve(&tls);
        let config = client_config(&folder, aws_lc_rs::default_provider(), rustls::ALL_VERSIONS);
        assert!(!shake_with(&server, &config, "a.test").await.unwrap().1.resumed);
        assert!(shake_with(&server, &config, "a.test").await.unwrap().1.resumed);

        let other = Folder::new();
        let own = std::fs::read_to_string(folder.ca()).unwrap();
        folder.write("ca.pem", &std::fs::read_to_string(other.ca()).unwrap());
        assert!(server.renew().authorities);
        assert!(!shake_with(&server, &config, "a.test").await.unwrap().1.resumed);

        folder.write("ca.pem", "nonsense");
        assert_eq!(server.renew().faults.len(), 1);
        folder.write("ca.pem", &own);
        assert!(server.renew().authorities);
    });
}

#[test]
fn a_client_believes_the_authorities_that_its_file_holds_now() {
    on_worker(async {
        let (folder, other) = (Folder::new(), Folder::new());
        let server = serve(&listener(vec![other.leaf("a", &["a.test"])]));
        let tls = client(&trusting(&folder));
        let before = tls.fingerprint();
        assert!(!tls.renew().unwrap());
        assert!(shake(&server, &tls, "a.test").await.1.is_err());

        folder.write("ca.pem", "nonsense");
        assert!(tls.renew().is_err());
        assert_eq!(tls.fingerprint(), before);

        folder.write("ca.pem", &std::fs::read_to_string(other.ca()).unwrap());
        assert!(tls.renew().unwrap());
        assert_ne!(tls.fingerprint(), before);
        assert!(shake(&server, &tls, "a.test").await.1.is_ok());
    });
}
