//! Development certificates: a CA that a developer's machine can trust, and leaf certificates for hosts. For `tidegate
//! cert`, `demo` and tests; not for production.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// How long a leaf is good: 90 days, like those of the public authorities.
pub const LEAF_LIFETIME: Duration = Duration::from_hours(24 * 90);
/// How long an authority is good: two years.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_hours(24 * 730);
/// How the authority's common name begins; a part of its key's identifier follows, so that a client that trusts an
/// earlier authority says "unknown authority" of this one, not "wrong signature".
const AUTHORITY_NAME: &str = "Tidegate development authority";

/// An authority for development.
pub struct Authority {
    /// Its certificate, PEM: what clients are told to trust.
    pub cert_pem: String,
    /// Its key, PEM: to be kept private, whoever has it can be anyone to those who trust it.
    pub key_pem: String,
    key: KeyPair,
}

/// A certificate for hosts and its key.
pub struct Leaf {
    /// The leaf and its authority, PEM, in the order a listener wants.
    pub cert_pem: String,
    /// The key, PEM.
    pub key_pem: String,
}

/// A certificate that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A host is neither a DNS name, nor a wildcard of one, nor an IP address.
    #[error("`{0}` is neither a host name nor an IP address")]
    Host(String),
    /// There is no host to make a certificate for.
    #[error("no host given")]
    NoHost,
    /// The key of the authority cannot be read.
    #[error("the CA's key cannot be used")]
    AuthorityKey(#[source] rcgen::Error),
    /// The certificate of the authority is not [`make_authority`]'s, or its key is another one's.
    #[error("the CA's certificate and key are not a pair made by tidegate")]
    NoPair,
    /// The library cannot make it.
    #[error("the certificate cannot be made")]
    Library(#[from] rcgen::Error),
}

impl Authority {
    /// An authority made earlier by [`make_authority`], so that what trusts it keeps trusting new leaves.
    ///
    /// # Errors
    /// The key cannot be read, or the two do not belong together.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, MakeError> {
        let key = KeyPair::from_pem(key_pem).map_err(MakeError::AuthorityKey)?;
        let certificate = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| MakeError::NoPair)?;
        // Clients find a leaf's authority by its name and its key, so the certificate has to hold both.
        let holds = |part: &[u8]| certificate.windows(part.len()).any(|window| window == part);
        if !holds(AUTHORITY_NAME.as_bytes()) || !holds(key.public_key_raw()) {
            return Err(MakeError::NoPair);
        }
        Ok(Self { cert_pem: cert_pem.to_owned(), key_pem: key_pem.to_owned(), key })
    }
}

/// Makes an authority with an ECDSA P-256 key.
///
/// # Errors
/// The library cannot make it.
pub fn make_authority() -> Result<Authority, MakeError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let cert_pem = authority_params(&key).self_signed(&key)?.pem();
    Ok(Authority { cert_pem, key_pem: key.serialize_pem(), key })
}

/// Makes a certificate with an ECDSA P-256 key for `hosts`: DNS names, wildcards and IP addresses.
///
/// # Errors
/// There is no host, or one of them is neither a name nor an address.
pub fn make_leaf(hosts: &[impl AsRef<str>], authority: &Authority) -> Result<Leaf, MakeError> {
    make_leaf_with(hosts, authority, |_| {})
}

/// The same with changes by `edit`.
pub(super) fn make_leaf_with(
    hosts: &[impl AsRef<str>],
    authority: &Authority,
    edit: impl FnOnce(&mut CertificateParams),
) -> Result<Leaf, MakeError> {
    let mut params = CertificateParams::default();
    params.subject_alt_names =
        hosts.iter().map(|host| alternative_name(host.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let first = hosts.first().ok_or(MakeError::NoHost)?;
    // At most 64 characters fit (RFC 5280, ub-common-name); nobody reads it to decide.
    params.distinguished_name = subject(first.as_ref().chars().take(64).collect::<String>());
    live(&mut params, LEAF_LIFETIME);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    edit(&mut params);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let issuer = Issuer::new(authority_params(&authority.key), &authority.key);
    let leaf = params.signed_by(&key, &issuer)?;
    Ok(Leaf { cert_pem: leaf.pem() + &authority.cert_pem, key_pem: key.serialize_pem() })
}

/// Always the same but for its dates: a leaf is signed with nothing of the authority but its name and its key.
fn authority_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let identifier: String = params.key_identifier(key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = subject(format!("{AUTHORITY_NAME} {identifier}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    live(&mut params, AUTHORITY_LIFETIME);
    params
}

fn subject(name: String) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn alternative_name(host: &str) -> Result<SanType, MakeError> {
    let fault = || MakeError::Host(host.to_owned());
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > 253 || !name.split('.').all(is_label) {
        return Err(fault());
    }
    host.to_ascii_lowercase().try_into().map(SanType::DnsName).map_err(|_| fault())
}

/// From an hour ago, as clocks differ between the machine and what connects to it.
fn live(params: &mut CertificateParams, lifetime: Duration) {
    let now = date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = now - Duration::from_hours(1);
    params.not_after = now + lifetime;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_another_pair_is_no_authority() {
        let [one, other] = [make_authority().unwrap(), make_authority().unwrap()];
        assert!(Authority::from_pem(&one.cert_pem, &one.key_pem).is_ok());
        assert!(matches!(Authority::from_pem(&one.cert_pem, &other.key_pem), Err(MakeError::NoPair)));
        assert!(matches!(Authority::from_pem(&one.cert_pem, "no key"), Err(MakeError::AuthorityKey(_))));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let authority = make_authority().unwrap();
        for host in ["", "a b", "-a.test", "a..test", "http://a.test", "a.test:443", "*", "*.*.test", "ä.test"] {
            assert!(matches!(make_leaf(&[host], &authority), Err(MakeError::Host(_))), "{host}");
        }
        assert!(matches!(make_leaf(&[""; 0], &authority), Err(MakeError::NoHost)));
        let long = format!("{}.test", vec!["a".repeat(60); 4].join("."));
        for host in ["localhost", "a_b.test", "*.a.test", "127.0.0.1", "::1", "[::1]", "A.test", &long] {
            assert!(make_leaf(&[host], &authority).is_ok(), "{host}");
        }
    }

    #[test]
    fn an_authority_read_back_signs_for_those_who_trust_it() {
        let made = make_authority().unwrap();
        let read = Authority::from_pem(&made.cert_pem, &made.key_pem).unwrap();
        let leaf = make_leaf(&["a.test"], &read).unwrap();
        assert!(leaf.cert_pem.ends_with(&made.cert_pem));
        assert!(leaf.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
    }
}
