//! Configurations of raw QUIC, and clients and endpoints that speak it. Everything has a deadline: a test that hangs fails.

#[path = "../support/sessions.rs"]
mod sessions;

use std::future::Future;
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, ReadError, ServerConfig, VarInt};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tidegate::base::stream_code::StreamCode;
use tidegate::config::{self, Config};
use tidegate::transport::tls::development::{Authority, Leaf, make_authority, make_leaf};

use self::sessions::send_back;
pub use self::sessions::{PATIENCE, Proxy, Served, echoes, nobody, patient, reset};

/// The name in every certificate.
pub const EDGE: &str = "edge.test";
/// What listeners and endpoints of tests agree on.
pub const ECHO: &str = "echo/1";

struct Made {
    authority: Authority,
    edge: Leaf,
    client: Leaf,
    folder: TempDir,
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let authority = make_authority().unwrap();
        let leaf = |host| make_leaf(&[host], &authority).unwrap();
        let (edge, client) = (leaf(EDGE), leaf("a-site"));
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("ca.pem", &authority.cert_pem);
        put("edge.pem", &edge.cert_pem);
        put("edge.key", &edge.key_pem);
        put("client.pem", &client.cert_pem);
        put("client.key", &client.key_pem);
        Made { authority, edge, client, folder }
    })
}

/// Runs what a test does on a runtime of its own.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("the test hangs") })
}

/// `@` stands for the folder of the certificates, `TLS` for what a listener needs of them, `TRUST` for what an upstream does.
pub fn parse(text: &str) -> Config {
    let text = text
        .replace("TLS", "tls.certificates = [{ cert = \"@/edge.pem\", key = \"@/edge.key\" }]")
        .replace("TRUST", "tls = { server_name = \"edge.test\", ca = \"@/ca.pem\" }")
        .replace('@', made().folder.path().to_str().unwrap());
    config::parse("test.toml", &text).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

/// A proxy that serves what `text` says.
pub fn start(text: &str) -> Proxy {
    Proxy::start(text, parse)
}

/// One `quic` listener called `edge` for the protocol `echo/1`, whose upstream `to` has these endpoints.
pub fn edge(endpoints: &[String], listener: &str, upstream: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "[server]\nworkers = 1\n[[listener]]\nname = \"edge\"\nbind = \"127.0.0.1:0\"\nmode = \"quic\"\nTLS\nalpn = {{ \
         \"{ECHO}\" = \"to\" }}\n{listener}\n[upstream.to]\nendpoints = [{}]\n{upstream}\n",
        endpoints.join(", ")
    )
}

/// What an upstream is whose endpoints speak raw QUIC.
pub const OVER_QUIC: &str = "protocol = \"quic\"\nalpn = \"echo/1\"\nTRUST";

/// A code of Tidegate's own, as it is received.
pub fn code(code: StreamCode) -> VarInt {
    VarInt::from_u64(code.number()).unwrap()
}

/// A client that speaks raw QUIC.
pub struct Client {
    pub endpoint: Endpoint,
    pub connection: Connection,
}

impl Client {
    pub async fn new(to: SocketAddr) -> Self {
        Self::with(to, ECHO, false).await.unwrap()
    }

    /// One that asks for a protocol, and has a certificate where it is `known`.
    pub async fn with(to: SocketAddr, alpn: &str, known: bool) -> Result<Self, ConnectionError> {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connection = endpoint.connect_with(client_config(alpn, known), to, EDGE).unwrap().await?;
        Ok(Self { endpoint, connection })
    }

    /// Sends `bytes` on a stream of its own, ends it, and gives what comes back until its end.
    pub async fn exchange(&self, bytes: &[u8]) -> Result<Vec<u8>, ReadError> {
        let (mut send, mut recv) = self.connection.open_bi().await.unwrap();
        let sending = async {
            let _ = send.write_all(bytes).await;
            let _ = send.finish();
        };
        let receiving = async {
            let mut back = Vec::new();
            while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
                back.extend_from_slice(&chunk.bytes);
            }
            Ok(back)
        };
        tokio::join!(sending, receiving).1
    }

    pub async fn echoes(&self, bytes: &[u8]) {
        assert!(self.exchange(bytes).await.unwrap() == bytes, "other bytes came back");
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn chain(leaf: &Leaf) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(leaf.cert_pem.as_bytes()).map(Result::unwrap).collect()
}

fn key(leaf: &Leaf) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap()
}

fn client_config(alpn: &str, known: bool) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(made().authority.cert_pem.as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut tls = if known {
        builder.with_client_auth_cert(chain(&made().client), key(&made().client)).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// An endpoint that speaks raw QUIC; what it does with its connections is the test's.
pub fn quic_endpoint() -> Endpoint {
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain(&made().edge), key(&made().edge))
        .unwrap();
    tls.alpn_protocols = vec![ECHO.as_bytes().to_vec()];
    let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap()
}

impl Served {
    pub fn named(&self) -> String {
        self.address.to_string()
    }
}

/// An endpoint on a Unix socket that sends back what comes, and passes the end on.
pub fn echo_at(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut back = stream.try_clone().unwrap();
                send_back(stream, &mut back);
                let _ = back.shutdown(Shutdown::Write);
            });
        }
    });
}

/// Bytes of a length that nobody guesses.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..length).map(|_| random.u8(..)).collect()
}
