//! A development authority and what it signs, as PEM text. P-256 throughout: every client accepts it, and its
//! handshakes are the cheapest.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

/// A certificate and its key.
pub struct Leaf {
    /// The certificate.
    pub certificate_pem: String,
    /// The key, PKCS #8.
    pub key_pem: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn generate() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let params = Self::params()?;
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem })
    }

    /// The one that [`generate`](Self::generate) made once; `None` where it is another's, or no pair.
    pub fn read(certificate_pem: String, key_pem: &str) -> Option<Self> {
        let key = KeyPair::from_pem(key_pem).ok()?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?;
        // What it signs is found by name and key, so these two must be in it.
        let holds = |part: &[u8]| certificate.windows(part.len()).any(|window| window == part);
        if !holds(NAME.as_bytes()) || !holds(key.public_key_raw()) {
            return None;
        }
        Some(Self { issuer: Issuer::new(Self::params().ok()?, key), certificate_pem })
    }

    /// A certificate for `hosts`, names and addresses, with a key of its own.
    ///
    /// # Errors
    /// A host that is not ASCII.
    pub fn issue(&self, hosts: &[String]) -> Result<Leaf, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(hosts)?;
        set_validity(&mut params, LEAF_DAYS);
        // RFC 5280, appendix A.1: at most 64 letters in a common name. What counts are the alternative names.
        let common_name = hosts.first().filter(|host| host.len() <= 64).map_or("tidegate", String::as_str);
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Its certificate, signed by itself.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its key, PKCS #8.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    fn params() -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::new([])?;
        set_validity(&mut params, AUTHORITY_DAYS);
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params)
    }
}

fn set_validity(params: &mut CertificateParams, days: u64) {
    let day = Duration::from_secs(24 * 60 * 60);
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // A client's clock may be behind ours.
    params.not_before = epoch + today.saturating_sub(day);
    params.not_after = epoch + today + day * u32::try_from(days).unwrap_or(u32::MAX);
}

const NAME: &str = "Tidegate development authority";

const AUTHORITY_DAYS: u64 = 3650;

/// What browsers bear at most is 398.
const LEAF_DAYS: u64 = 396;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls_pki_types::{ServerName, UnixTime};

    use super::*;

    fn verify(authority: &Authority, leaf: &Leaf, name: &str) -> Result<(), rustls::Error> {
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der(authority.certificate_pem())).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&der(&leaf.certificate_pem), &[], &name, &[], UnixTime::now()).map(|_| ())
    }

    #[test]
    fn a_client_accepts_every_host_and_no_other() {
        let authority = Authority::generate().unwrap();
        let hosts = ["localhost", "*.example.org", "127.0.0.1", "::1"].map(str::to_owned);
        let leaf = authority.issue(&hosts).unwrap();
        for name in ["localhost", "www.example.org", "127.0.0.1", "::1"] {
            verify(&authority, &leaf, name).unwrap();
        }
        for name in ["example.org", "a.b.example.org", "127.0.0.2"] {
            verify(&authority, &leaf, name).unwrap_err();
        }
    }

    #[test]
    fn one_that_was_read_signs_like_the_one_that_was_made() {
        let made = Authority::generate().unwrap();
        let read = Authority::read(made.certificate_pem().to_owned(), &made.key_pem()).unwrap();
        let leaf = read.issue(&["localhost".to_owned()]).unwrap();
        verify(&made, &leaf, "localhost").unwrap();
    }

    #[test]
    fn half_of_another_pair_is_not_read() {
        let [one, other] = [Authority::generate().unwrap(), Authority::generate().unwrap()];
        assert!(Authority::read(one.certificate_pem().to_owned(), &other.key_pem()).is_none());
        assert!(Authority::read("no certificate".to_owned(), &one.key_pem()).is_none());
    }
}
