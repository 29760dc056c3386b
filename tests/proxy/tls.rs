//! TLS towards clients: which certificate they see, what they may ask for on it, and who they are.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use http::uri::Scheme;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::certificates::{client_config, leaf_of};
use crate::support::client::{Client, get};
use crate::support::origin::{Origin, ok};
use crate::support::pair::Upstream;
use crate::support::proxy::{Plan, Proxy};
use crate::support::raw::Raw;
use crate::support::tests;

tests! {
    the_certificate_is_chosen_by_name,
    a_host_of_another_certificate_is_misdirected,
    a_certificate_may_be_demanded_of_clients,
    a_certificate_may_be_asked_of_clients,
    the_protocol_is_chosen_by_alpn,
    tls_1_2_is_taken_unless_forbidden,
    cleartext_on_a_tls_port_is_closed,
    sessions_are_resumed,
    the_end_is_told_with_close_notify,
}

async fn connect(
    address: SocketAddr,
    name: &'static str,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(config).connect(name.try_into().unwrap(), socket).await
}

const CERTIFICATES: &str = "tls.certificates = [\
    { cert = \"@/site.pem\", key = \"@/site.key\" }, \
    { cert = \"@/other.pem\", key = \"@/other.key\" }, \
    { cert = \"@/wildcard.pem\", key = \"@/wildcard.key\" }]";

async fn start(keys: &str) -> (Origin, Proxy) {
    let origin = Origin::start(Upstream::Http1, ok).await;
    let proxy = Plan::to(&[origin.address()]).listener(keys).start();
    (origin, proxy)
}

async fn the_certificate_is_chosen_by_name() {
    let (_origin, proxy) = start(CERTIFICATES).await;
    for (name, leaf) in
        [("example.org", "site"), ("www.example.org", "site"), ("other.test", "other"), ("a.wild.test", "wildcard")]
    {
        let stream = connect(proxy.address(), name, client_config(&[], false)).await.unwrap();
        assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], leaf_of(leaf), "{name}");
    }
    // The fallback is the first; it does not do for these names, and the client says so.
    for name in ["unknown.test", "wild.test", "127.0.0.1"] {
        assert!(connect(proxy.address(), name, client_config(&[], false)).await.is_err(), "{name}");
    }
}

/// PITFALLS 1.
async fn a_host_of_another_certificate_is_misdirected() {
    for http2 in [false, true] {
        let (origin, proxy) = start(CERTIFICATES).await;
        let alpn: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
        let stream = connect(proxy.address(), "example.org", client_config(&[alpn], false)).await.unwrap();
        let mut client = Client::over(stream, http2, Scheme::HTTPS).await;
        for (host, covered) in
            [("example.org", true), ("www.example.org:443", true), ("other.test", false), ("none.test", false)]
        {
            let mut request = get("/");
            request.headers_mut().insert("host", host.parse().unwrap());
            let reply = client.call(request).await;
            match covered {
                true => assert_eq!(reply.status(), StatusCode::OK, "{host}"),
                false => reply.is_fault(421, "misdirected_request"),
            }
        }
        assert_eq!(origin.count(), 2);
    }
}

/// Whether a client gets an answer. With TLS 1.3 it learns of a refusal only when it reads.
async fn is_served(proxy: &Proxy, known: bool) -> bool {
    let Ok(mut stream) = connect(proxy.address(), "example.org", client_config(&[], known)).await else { return false };
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer.starts_with(b"HTTP/1.1 200 OK\r\n")
}

async fn a_certificate_may_be_demanded_of_clients() {
    let keys = format!("{CERTIFICATES}\ntls.client_auth = {{ mode = \"require\", ca = \"@/ca.pem\" }}");
    let (origin, proxy) = start(&keys).await;
    assert!(!is_served(&proxy, false).await);
    assert!(origin.seen().is_empty());
    assert!(is_served(&proxy, true).await);
}

async fn a_certificate_may_be_asked_of_clients() {
    let keys = format!("{CERTIFICATES}\ntls.client_auth = {{ mode = \"optional\", ca = \"@/ca.pem\" }}");
    let (_origin, proxy) = start(&keys).await;
    assert!(is_served(&proxy, false).await);
    assert!(is_served(&proxy, true).await);
    // A certificate of somebody else's authority is refused, not overlooked.
    let keys = format!("{CERTIFICATES}\ntls.client_auth = {{ mode = \"optional\", ca = \"@/foreign.pem\" }}");
    let foreign = tidegate::transport::tls::development::make_authority().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("foreign.pem");
    std::fs::write(&path, foreign.cert_pem).unwrap();
    let (_origin, proxy) = start(&keys.replace("@/foreign.pem", path.to_str().unwrap())).await;
    assert!(is_served(&proxy, false).await);
    assert!(!is_served(&proxy, true).await);
}

async fn the_protocol_is_chosen_by_alpn() {
    let (_origin, proxy) = start(CERTIFICATES).await;
    let chosen = async |offer: &[&[u8]]| {
        let stream = connect(proxy.address(), "example.org", client_config(offer, false)).await.unwrap();
        stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)
    };
    assert_eq!(chosen(&[b"h2", b"http/1.1"]).await.as_deref(), Some(&b"h2"[..]));
    assert_eq!(chosen(&[b"http/1.1", b"h2"]).await.as_deref(), Some(&b"h2"[..]), "what we would rather speak");
    assert_eq!(chosen(&[b"http/1.1"]).await.as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(chosen(&[]).await, None);
    let (_origin, proxy) = start(&format!("{CERTIFICATES}\nprotocols = [\"http1\"]")).await;
    let stream = connect(proxy.address(), "example.org", client_config(&[b"h2", b"http/1.1"], false)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

async fn tls_1_2_is_taken_unless_forbidden() {
    let old = || {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS12]).unwrap();
        let roots = crate::support::certificates::roots();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    };
    let (_origin, proxy) = start(CERTIFICATES).await;
    let stream = connect(proxy.address(), "example.org", old()).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    let (_origin, proxy) = start(&format!("{CERTIFICATES}\ntls.min_version = \"1.3\"")).await;
    assert!(connect(proxy.address(), "example.org", old()).await.is_err());
}

async fn cleartext_on_a_tls_port_is_closed() {
    let (origin, proxy) = start(CERTIFICATES).await;
    let mut raw = Raw::connect(proxy.address()).await;
    raw.send("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n").await;
    let (rest, _) = raw.rest().await;
    assert!(!rest.starts_with(b"HTTP/"), "{rest:?}");
    assert!(origin.seen().is_empty());
}

async fn sessions_are_resumed() {
    let (_origin, proxy) = start(CERTIFICATES).await;
    let config = client_config(&[b"http/1.1"], false);
    for resumed in [false, true] {
        let stream = connect(proxy.address(), "example.org", Arc::clone(&config)).await.unwrap();
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        assert_eq!(kind == rustls::HandshakeKind::Resumed, resumed, "{kind:?}");
        // The ticket comes with the first answer.
        let mut client = Client::over(stream, false, Scheme::HTTPS).await;
        assert_eq!(client.get("/").await.text(), "ok");
    }
    assert_eq!(proxy.running().counters().handshakes_resumed(), 1);
}

async fn the_end_is_told_with_close_notify() {
    let (_origin, proxy) = start(CERTIFICATES).await;
    let mut stream = connect(proxy.address(), "example.org", client_config(&[], false)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // rustls tells an end without close_notify as an error.
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"ok"));
}
