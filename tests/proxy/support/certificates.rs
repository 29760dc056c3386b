//! Certificates of the tests: one authority and the leaves it signed, made once for the process, written to a folder
//! that vanishes with the proxy that reads them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use quinn::Endpoint;
use quinn::crypto::rustls::QuicServerConfig;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tidegate::transport::tls::development::{Authority, Leaf, make_authority, make_leaf};

/// The name that clients ask for unless a test says otherwise.
pub const SITE: &str = "example.org";
/// The name of origins that speak TLS.
pub const ORIGIN: &str = "origin.test";

struct Made {
    authority: Authority,
    site: Leaf,
    other: Leaf,
    wildcard: Leaf,
    origin: Leaf,
    client: Leaf,
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let authority = make_authority().unwrap();
        let leaf = |hosts: &[&str]| make_leaf(hosts, &authority).unwrap();
        Made {
            site: leaf(&[SITE, "www.example.org"]),
            other: leaf(&["other.test"]),
            wildcard: leaf(&["*.wild.test"]),
            origin: leaf(&[ORIGIN]),
            client: leaf(&["a-client"]),
            authority,
        }
    })
}

/// The certificates as files.
pub struct Files(TempDir);

impl Files {
    pub fn write() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let made = made();
        files.put("ca.pem", &made.authority.cert_pem);
        let leaves = [("site", &made.site), ("other", &made.other), ("wildcard", &made.wildcard)];
        for (name, leaf) in leaves {
            files.put(&format!("{name}.pem"), &leaf.cert_pem);
            files.put(&format!("{name}.key"), &leaf.key_pem);
        }
        files.put("users", &users());
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }
}

/// A password file with two users, bcrypt and Argon2id, whose hashes are made as cheaply as they can be.
fn users() -> String {
    let hash = |password: &str| {
        let hash = bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap();
        hash.format_for_version(bcrypt::Version::TwoY)
    };
    format!("ann:{}\nben:{}\n", hash("secret"), argon2id("geheim"))
}

fn argon2id(password: &str) -> String {
    use argon2::{Algorithm, Argon2, Params, Version};
    use base64::Engine as _;
    let mut output = [0; 32];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    argon2.hash_password_into(password.as_bytes(), b"saltsalt", &mut output).unwrap();
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes);
    format!("$argon2id$v=19$m=8,t=1,p=1${}${}", base64(b"saltsalt"), base64(&output))
}

/// The leaf that a listener shows for `name`: `site`, `other` or `wildcard`.
pub fn leaf_of(name: &str) -> CertificateDer<'static> {
    let made = made();
    let leaf = match name {
        "site" => &made.site,
        "other" => &made.other,
        "wildcard" => &made.wildcard,
        _ => panic!("no leaf {name}"),
    };
    chain(leaf).remove(0)
}

/// What a client is set up with: it trusts the authority, offers `alpn`, and has a certificate where it is `known`.
pub fn client_config(alpn: &[&[u8]], known: bool) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots());
    let mut config = if known {
        builder.with_client_auth_cert(chain(&made().client), key(&made().client)).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// What a client trusts.
pub fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(made().authority.cert_pem.as_bytes()).unwrap()).unwrap();
    roots
}

/// What an origin is set up with.
pub fn origin_config(alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain(&made().origin), key(&made().origin))
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// An origin's end of QUIC that speaks HTTP/3.
pub fn quic_origin(address: SocketAddr) -> Endpoint {
    let crypto = QuicServerConfig::try_from(origin_config(&[b"h3"])).unwrap();
    Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(crypto)), address).unwrap()
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
