//! TLS towards clients: one `ServerTls` for each listener and generation, shared by all workers. Changed file contents
//! are swapped inside it: new handshakes use them, open connections keep what they negotiated.

use std::hash::{Hash, Hasher};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustc_hash::FxHasher;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::{HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::quic::QuicCrypto;
use super::cert_store::{CertFault, CertStore, Certificate, Renewed};
use super::early_data::EarlySessions;
use super::failure;
use super::pem::read_certificates;
use super::provider::provider;
use crate::base::error::Error;
use crate::config::model::{ClientAuth, Listener, ListenerTls, Mode, Protocols, TlsVersion};
use crate::net::io::Socket;

/// What a listener needs to terminate TLS.
pub struct ServerTls {
    config: ListenerTls,
    offer: Offer,
    live: ArcSwap<Live>,
}

/// What is offered by ALPN (RFC 7301), the first first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    tcp: Vec<Vec<u8>>,
    /// None: the listener speaks no QUIC.
    quic: Vec<Vec<u8>>,
}

/// What was made of the files at one time.
struct Live {
    acceptor: TlsAcceptor,
    /// `None`: no QUIC is spoken.
    quic: Option<Arc<QuicCrypto>>,
    certificates: Arc<CertStore>,
    authentication: Authentication,
    ticketer: Arc<dyn ProducesTickets>,
    early_sessions: EarlySessions,
}

/// Who checks the clients.
#[derive(Clone)]
struct Authentication {
    verifier: Arc<dyn ClientCertVerifier>,
    /// What a ticket vouches for: whoever may resume with it has passed this authentication.
    trust: u64,
}

/// What came of reading the files of a listener again.
#[derive(Debug, Default)]
pub struct Renewal {
    /// Certificates that are new, in use from now on.
    pub certificates: Vec<Certificate>,
    /// Whether clients are checked by other authorities from now on.
    pub authorities: bool,
    /// Files that do not do; what was in use stays in use.
    pub faults: Vec<CertFault>,
}

/// What the handshake told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The name the client asked for, lowercase.
    pub sni: Option<Rc<str>>,
    /// What was agreed on by ALPN.
    pub alpn: Alpn,
    /// The version.
    pub version: TlsVersion,
    /// No new key exchange signature was made: the client came with a ticket.
    pub resumed: bool,
    /// The client proved who it is.
    pub client_cert: bool,
}

/// A protocol that a handshake agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Alpn {
    /// None.
    #[default]
    None,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/3.
    Http3,
    /// One of a listener with `mode = "quic"`.
    Other(Rc<str>),
}

impl ServerTls {
    /// Reads the files and joins everything. `previous` is what the same listener had before a reload: its ticket keys
    /// stay in use, so that clients resume, unless the rules for client certificates changed, which a resumption would
    /// walk around.
    ///
    /// # Errors
    /// Every fault of every file.
    pub fn new(
        tls: &ListenerTls,
        offer: impl Into<Offer>,
        previous: Option<&ServerTls>,
    ) -> Result<Arc<Self>, Vec<CertFault>> {
        let offer = offer.into();
        let previous = previous.map(|previous| previous.live.load_full());
        let known = previous.as_ref().map(|previous| &*previous.certificates);
        let (certificates, authentication) =
            match (CertStore::load_after(&tls.certificates, known), Authentication::new(&tls.client_auth)) {
                (Ok(certificates), Ok(authentication)) => (Arc::new(certificates), authentication),
                (certificates, authentication) => {
                    return Err(certificates.err().into_iter().flatten().chain(authentication.err()).collect());
                }
            };
        let live = Live::new(tls, &offer, certificates, authentication, previous.as_deref());
        let live = ArcSwap::from_pointee(live.map_err(|fault| vec![fault])?);
        Ok(Arc::new(Self { config: tls.clone(), offer, live }))
    }

    /// Reads the files again and uses what is new in them from the next handshake on. A pair that does not fit together
    /// (it may be half-written) or a file that cannot be used stays as it was, and the others are renewed.
    pub fn renew(&self) -> Renewal {
        let before = self.live.load_full();
        let Renewed { store, changed, mut faults } = before.certificates.renewed(&self.config.certificates);
        let authentication = Authentication::new(&self.config.client_auth).unwrap_or_else(|fault| {
            faults.push(fault);
            before.authentication.clone()
        });
        let authorities = authentication.trust != before.authentication.trust;
        if store.is_none() && !authorities {
            return Renewal { faults, ..Renewal::default() };
        }
        let certificates = store.map_or_else(|| Arc::clone(&before.certificates), Arc::new);
        match Live::new(&self.config, &self.offer, certificates, authentication, Some(&before)) {
            Ok(live) => {
                self.live.store(Arc::new(live));
                Renewal { certificates: changed, authorities, faults }
            }
            Err(fault) => {
                faults.push(fault);
                Renewal { faults, ..Renewal::default() }
            }
        }
    }

    /// What handshakes over QUIC are done with now; `None`: the listener speaks none.
    pub fn quic(&self) -> Option<Arc<QuicCrypto>> {
        self.live.load().quic.clone()
    }

    /// The certificates it serves now.
    pub fn certificates(&self) -> Arc<CertStore> {
        Arc::clone(&self.live.load().certificates)
    }

    /// Whether the certificate for `sni` is for `host` too; see [`CertStore::covers`].
    pub fn covers(&self, sni: Option<&str>, host: &str) -> bool {
        self.live.load().certificates.covers(sni, host)
    }

    /// What its files hold now and held otherwise in `previous`, where both name them.
    pub fn changed_since(&self, previous: &Self) -> Renewal {
        let (now, before) = (self.live.load(), previous.live.load());
        let certificates = now.certificates.changed_since(&before.certificates).cloned().collect();
        let same_authority = previous.config.client_auth == self.config.client_auth;
        let authorities = same_authority && now.authentication.trust != before.authentication.trust;
        Renewal { certificates, authorities, faults: Vec::new() }
    }

    /// Does the handshake. The deadline is the caller's. Cancel-safe in that the connection is closed when dropped.
    ///
    /// # Errors
    /// The client's fault, of a `tls_*` kind, or `client_gone`.
    pub async fn accept(&self, socket: Socket) -> Result<(Box<TlsStream<Socket>>, Accepted), Error> {
        let handshake = self.live.load().acceptor.accept(socket);
        let stream = Box::new(handshake.await.map_err(failure::of_client)?);
        let session = stream.get_ref().1;
        let accepted = Accepted {
            sni: session.server_name().map(Rc::from),
            alpn: Alpn::of(session.alpn_protocol()),
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => TlsVersion::V1_2,
                _ => TlsVersion::V1_3,
            },
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            client_cert: session.peer_certificates().is_some_and(|chain| !chain.is_empty()),
        };
        Ok((stream, accepted))
    }
}

impl Live {
    fn new(
        tls: &ListenerTls,
        offer: &Offer,
        certificates: Arc<CertStore>,
        authentication: Authentication,
        previous: Option<&Self>,
    ) -> Result<Self, CertFault> {
        let previous = previous.filter(|previous| previous.authentication.trust == authentication.trust);
        let ticketer = match previous {
            Some(previous) => Arc::clone(&previous.ticketer),
            None => Ticketer::new().map_err(|error| internal(&error))?,
        };
        let early_sessions = previous.map_or_else(EarlySessions::new, |previous| previous.early_sessions.clone());
        let config = |versions| {
            let mut config = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(versions)
                .map_err(|error| internal(&error))?
                .with_client_cert_verifier(Arc::clone(&authentication.verifier))
                .with_cert_resolver(Arc::clone(&certificates) as _);
            config.ticketer = Arc::clone(&ticketer);
            // Tickets hold the whole session, so nothing is kept here and no lock is taken for it.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            // A ticket costs a seal, a key derivation and a record in each full handshake. One lets the next connection
            // resume, and that one brings the next ticket; a client that opens several at once asks for more (RFC 9149).
            config.send_tls13_tickets = 1;
            config.max_tls13_tickets = 4;
            Ok(config)
        };
        let mut over_tcp = config(versions(tls.min_version))?;
        over_tcp.alpn_protocols.clone_from(&offer.tcp);
        let quic = if offer.quic.is_empty() {
            None
        } else {
            // RFC 9001 §4.2: nothing older than TLS 1.3.
            let mut over_quic = config(TLS13_ALONE)?;
            over_quic.alpn_protocols.clone_from(&offer.quic);
            if tls.early_data {
                early_sessions.serve(&mut over_quic);
            }
            let quic = QuicCrypto::new(over_quic);
            Some(quic.map_err(|error| CertFault::new(format!("QUIC cannot be set up: {error}"), ""))?)
        };
        let acceptor = TlsAcceptor::from(Arc::new(over_tcp));
        Ok(Self { acceptor, quic, certificates, authentication, ticketer, early_sessions })
    }
}

impl Authentication {
    fn new(auth: &ClientAuth) -> Result<Self, CertFault> {
        let (verifier, trust) = verifier(auth)?;
        Ok(Self { verifier, trust })
    }
}

impl Renewal {
    /// Whether nothing is new.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty() && !self.authorities
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").field("certificates", &self.live.load().certificates).finish_non_exhaustive()
    }
}

/// ALPN of HTTP/2 over TLS, RFC 9113 §3.1.
pub(super) const H2: &[u8] = b"h2";
/// ALPN of HTTP/1.1, RFC 7301 §6.
pub(super) const HTTP1: &[u8] = b"http/1.1";

/// ALPN of HTTP/3, RFC 9114 §3.1.
pub(super) const HTTP3: &[u8] = b"h3";

impl Offer {
    /// What a listener speaks.
    pub fn of(listener: &Listener) -> Self {
        match &listener.mode {
            Mode::Quic(routes) => {
                let quic = routes.iter().map(|(protocol, _)| protocol.as_bytes().to_vec()).collect();
                Self { tcp: Vec::new(), quic }
            }
            _ => listener.protocols.into(),
        }
    }
}

impl From<Protocols> for Offer {
    fn from(Protocols { http1, http2, http3 }: Protocols) -> Self {
        let names = |names: &[(bool, &[u8])]| names.iter().filter(|name| name.0).map(|name| name.1.to_vec()).collect();
        Self { tcp: names(&[(http2, H2), (http1, HTTP1)]), quic: names(&[(http3, HTTP3)]) }
    }
}

impl Alpn {
    /// The protocol of a name.
    pub fn of(name: Option<&[u8]>) -> Self {
        match name {
            None => Self::None,
            Some(HTTP1) => Self::Http1,
            Some(H2) => Self::Http2,
            Some(HTTP3) => Self::Http3,
            // What is agreed on was offered, and so was text.
            Some(other) => Self::Other(String::from_utf8_lossy(other).into()),
        }
    }

    /// The name.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Http1 => Some("http/1.1"),
            Self::Http2 => Some("h2"),
            Self::Http3 => Some("h3"),
            Self::Other(name) => Some(name),
        }
    }
}

fn versions(min: TlsVersion) -> &'static [&'static rustls::SupportedProtocolVersion] {
    match min {
        TlsVersion::V1_2 => rustls::ALL_VERSIONS,
        TlsVersion::V1_3 => TLS13_ALONE,
    }
}

const TLS13_ALONE: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Who checks the clients, and a number that changes with what is accepted.
fn verifier(auth: &ClientAuth) -> Result<(Arc<dyn ClientCertVerifier>, u64), CertFault> {
    let (ca, place, required) = match auth {
        ClientAuth::Off => return Ok((WebPkiClientVerifier::no_client_auth(), 0)),
        ClientAuth::Optional { ca, place } => (ca, place, false),
        ClientAuth::Require { ca, place } => (ca, place, true),
    };
    let mut trust = FxHasher::default();
    required.hash(&mut trust);
    let roots = roots(ca, &mut trust).map_err(|fault| fault.at(place))?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    let verifier = builder.build().map_err(|error| {
        CertFault::new(format!("{} cannot be used to check clients: {error}", ca.display()), CA_HELP).at(place)
    })?;
    Ok((verifier, trust.finish() | 1))
}

/// The authorities of a PEM file.
fn roots(path: &Path, trust: &mut impl Hasher) -> Result<RootCertStore, CertFault> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        certificate.as_ref().hash(trust);
        roots.add(certificate).map_err(|error| {
            CertFault::new(format!("{} holds a certificate that is no authority: {error}", path.display()), CA_HELP)
        })?;
    }
    Ok(roots)
}

const CA_HELP: &str = "name a PEM file with the certificates of the authorities";

fn internal(error: &rustls::Error) -> CertFault {
    CertFault::new(format!("TLS cannot be set up: {error}"), "the system's source of randomness may be missing")
}
