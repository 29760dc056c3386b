//! Reads certificates and keys from PEM files, and reports faults in them.

use std::fmt;
use std::path::Path;

use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::model::Place;

/// What is wrong with a certificate, a key or an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFault {
    /// Where the file was named, where that is known.
    pub place: Option<Place>,
    /// What is wrong, with the path of the file.
    pub what: String,
    /// What to do about it.
    pub help: String,
}

impl CertFault {
    pub(in crate::transport) fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { place: None, what: what.into(), help: help.into() }
    }

    pub(super) fn at(self, place: &Place) -> Self {
        Self { place: Some(place.clone()), ..self }
    }
}

impl fmt::Display for CertFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for CertFault {}

/// Every certificate of a file, at least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertFault> {
    certificates(path, &read(path)?)
}

/// Every certificate in what was read from a file, at least one.
pub(super) fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertFault> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| CertFault::new(format!("{} is not proper PEM: {}", path.display(), told(&error)), PEM_HELP))?;
    if !certificates.is_empty() {
        return Ok(certificates);
    }
    let help = if contains(bytes, b"PRIVATE KEY-----") {
        "it holds a private key: `cert` and `key` may be swapped"
    } else {
        PEM_HELP
    };
    Err(CertFault::new(format!("{} holds no certificate", path.display()), help))
}

/// The private key of a file.
pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertFault> {
    key(path, &read(path)?)
}

/// The private key in what was read from a file.
pub(super) fn key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, CertFault> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| {
        let what = match error {
            PemError::NoItemsFound => format!("{} holds no private key", path.display()),
            _ => format!("{} is not proper PEM: {}", path.display(), told(&error)),
        };
        let help = if contains(bytes, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") {
            "the key is encrypted: `openssl pkey -in KEY -out PLAIN_KEY` decrypts it"
        } else if contains(bytes, b"-----BEGIN CERTIFICATE-----") {
            "it holds a certificate: `cert` and `key` may be swapped"
        } else {
            "a key file begins with `-----BEGIN PRIVATE KEY-----`, or EC or RSA before PRIVATE"
        };
        CertFault::new(what, help)
    })
}

const PEM_HELP: &str = "a certificate file begins with `-----BEGIN CERTIFICATE-----`, the leaf first";

/// The bytes of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CertFault> {
    std::fs::read(path).map_err(|error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => "a path is relative to the folder of the file that names it; `tidegate cert` makes certificates for development",
            std::io::ErrorKind::PermissionDenied => "the user of the process must be able to read it",
            _ => "it must be a readable file",
        };
        CertFault::new(format!("cannot read {}: {error}", path.display()), help)
    })
}

/// The reason without the bytes, which may be those of a key.
fn told(error: &PemError) -> &'static str {
    match error {
        PemError::MissingSectionEnd { .. } => "a section has no end",
        PemError::IllegalSectionStart { .. } => "a section begins wrongly",
        PemError::Base64Decode(_) => "a section is not base64",
        PemError::SectionTooLarge => "a section is too large",
        _ => "it cannot be decoded",
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}
