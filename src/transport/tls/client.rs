//! TLS towards endpoints: one `ClientTls` for each upstream, shared by all workers and kept across generations while
//! its settings and files are unchanged. Changed file contents are swapped inside it.

use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use quinn::crypto::rustls::QuicClientConfig;
use rustc_hash::FxHasher;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme};
pub use rustls_pki_types::ServerName;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::cert_store::{CertFault, unusable};
use super::failure;
use super::pem::{read_certificates, read_key};
use super::provider::provider;
use super::server::{H2, HTTP1};
use crate::base::error::{Error, Kind, Retry};
use crate::config::model::{CertificateFiles, Place, UpstreamProtocol, UpstreamTls};
use crate::net::io::Socket;

/// What an upstream needs to speak TLS to its endpoints.
pub struct ClientTls {
    config: UpstreamTls,
    protocol: UpstreamProtocol,
    live: ArcSwap<Live>,
    /// `tls.server_name`.
    name: Option<ServerName<'static>>,
}

/// What was made of the files at one time.
struct Live {
    connector: TlsConnector,
    /// The same for QUIC, by what is agreed on and whether anything is sent early: an upstream has one of these.
    quic: Mutex<Vec<MadeForQuic>>,
    /// A number that changes with whom is trusted and who we say we are.
    fingerprint: u64,
}

/// What QUIC connections begin with.
struct MadeForQuic {
    alpn: Box<[u8]>,
    early: bool,
    config: quinn::ClientConfig,
}

impl ClientTls {
    /// Reads the files and joins everything; `None` for the defaults: the system's authorities, no certificate of ours.
    ///
    /// # Errors
    /// What is wrong with a file or a name. It has no place; the caller knows where the upstream is written.
    pub fn new(tls: Option<&UpstreamTls>, protocol: UpstreamProtocol) -> Result<Arc<Self>, CertFault> {
        let config = tls.cloned().unwrap_or_default();
        let live = ArcSwap::from_pointee(Live::new(&config, protocol)?);
        let name = config.server_name.as_deref().map(parse_name).transpose()?;
        Ok(Arc::new(Self { config, protocol, live, name }))
    }

    /// Reads the files again and uses what is new in them from the next connection on; says whether anything is.
    ///
    /// # Errors
    /// A file that does not do; what was in use stays in use.
    pub fn renew(&self) -> Result<bool, CertFault> {
        if self.config.ca.is_none() && self.config.client_identity.is_none() {
            return Ok(false);
        }
        let live = Live::new(&self.config, self.protocol)?;
        let is_new = live.fingerprint != self.fingerprint();
        if is_new {
            self.live.store(Arc::new(live));
        }
        Ok(is_new)
    }

    /// A number that changes with whom is trusted and who we say we are: connections are interchangeable only while it
    /// stays.
    pub fn fingerprint(&self) -> u64 {
        self.live.load().fingerprint
    }

    /// Whether it was made of the same settings, whatever the files held.
    pub fn has_settings_of(&self, other: &Self) -> bool {
        self.config == other.config && self.protocol == other.protocol
    }

    /// The name to ask an endpoint for and to verify: `tls.server_name`, else the endpoint's own host (a name or an IP
    /// address, without brackets).
    ///
    /// # Errors
    /// The host is neither.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, CertFault> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => parse_name(host),
        }
    }

    /// Does the handshake. The deadline is the caller's. Cancel-safe in that the connection is closed when dropped.
    ///
    /// # Errors
    /// The endpoint's fault, of a `tls_*` kind or `connection_terminated`; always worth another endpoint, as nothing of
    /// a request was sent.
    pub async fn connect(&self, socket: Socket, name: &ServerName<'static>) -> Result<Box<TlsStream<Socket>>, Error> {
        let handshake = self.live.load().connector.connect(name.clone(), socket);
        let stream = Box::new(handshake.await.map_err(failure::of_endpoint)?);
        if self.protocol == UpstreamProtocol::Http2 && stream.get_ref().1.alpn_protocol() != Some(H2) {
            // RFC 9113 §3.2: over TLS, HTTP/2 has to be agreed on.
            let reason = "the endpoint did not agree to HTTP/2 (ALPN)";
            return Err(Error::upstream(Kind::TlsProtocolError, Retry::Always, reason));
        }
        Ok(stream)
    }

    /// As [`connect`](Self::connect), where nothing but HTTP/1.1 will do.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_http1(
        &self,
        socket: Socket,
        name: &ServerName<'static>,
    ) -> Result<Box<TlsStream<Socket>>, Error> {
        let live = self.live.load_full();
        let handshake = live.connector.with_alpn(vec![HTTP1.to_vec()]).connect(name.clone(), socket);
        Ok(Box::new(handshake.await.map_err(failure::of_endpoint)?))
    }

    /// What QUIC connections begin with that agree on `alpn`, with the tickets of those before. `early`: whether something may
    /// be sent before the endpoint has answered.
    ///
    /// # Errors
    /// None that configuration could cause.
    pub(in crate::transport) fn quic(&self, alpn: &[u8], early: bool) -> Result<quinn::ClientConfig, Error> {
        let live = self.live.load();
        let mut made = live.quic.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made.iter().find(|made| *made.alpn == *alpn && made.early == early) {
            return Ok(made.config.clone());
        }
        let mut config = ClientConfig::clone(live.connector.config());
        config.alpn_protocols = vec![alpn.to_vec()];
        config.enable_early_data = early;
        // A ticket that was given over TCP is not for QUIC.
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let crypto = QuicClientConfig::try_from(config)
            .map_err(|error| Error::internal("TLS cannot be set up for QUIC").because(error))?;
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        made.push(MadeForQuic { alpn: alpn.into(), early, config: config.clone() });
        Ok(config)
    }
}

/// Names of endpoints whose tickets are kept.
const SESSIONS: usize = 256;

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Live {
    fn new(tls: &UpstreamTls, protocol: UpstreamProtocol) -> Result<Self, CertFault> {
        let mut fingerprint = FxHasher::default();
        let builder =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(|error| {
                CertFault::new(format!("TLS cannot be set up: {error}"), "this is a fault of the build")
            })?;
        let builder = if tls.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider())))
        } else {
            builder.with_root_certificates(roots(tls.ca.as_deref(), &mut fingerprint)?)
        };
        let mut config = match &tls.client_identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let (chain, secret) = (read_certificates(cert)?, read_key(key)?);
                (&chain, secret.secret_der()).hash(&mut fingerprint);
                builder.with_client_auth_cert(chain, secret).map_err(|error| unusable(&error, &files(cert, key)))?
            }
        };
        config.alpn_protocols = match protocol {
            UpstreamProtocol::Auto => vec![H2.to_vec(), HTTP1.to_vec()],
            UpstreamProtocol::Http1 => vec![HTTP1.to_vec()],
            UpstreamProtocol::Http2 => vec![H2.to_vec()],
            // Theirs is set where QUIC is spoken.
            UpstreamProtocol::Http3 | UpstreamProtocol::Quic => Vec::new(),
        };
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { connector, quic: Mutex::default(), fingerprint: fingerprint.finish() })
    }
}

fn parse_name(name: &str) -> Result<ServerName<'static>, CertFault> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| CertFault::new(format!("`{name}` cannot be verified"), "name a host or an IP address"))
}

fn roots(ca: Option<&Path>, fingerprint: &mut impl Hasher) -> Result<RootCertStore, CertFault> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        found.certs.hash(fingerprint);
        // Some systems carry authorities that no one can parse any more; the others serve.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let help = "install the system's certificates (Debian: ca-certificates), or name a `ca` file";
            return Err(CertFault::new("the system has no certificate authorities", help));
        }
        return Ok(roots);
    };
    for certificate in read_certificates(path)? {
        certificate.hash(fingerprint);
        roots.add(certificate).map_err(|error| {
            let what = format!("{} holds a certificate that is no authority: {error}", path.display());
            CertFault::new(what, "name a PEM file with the certificates of the authorities")
        })?;
    }
    Ok(roots)
}

fn files(cert: &Path, key: &Path) -> CertificateFiles {
    let place = Place { file: "".into(), line: 0, column: 0 };
    CertificateFiles { cert: cert.to_path_buf(), key: key.to_path_buf(), place }
}

/// `insecure = true`: whoever answers is believed, as long as it holds the key of the certificate it shows.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
