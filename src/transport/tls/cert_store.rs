//! The certificates of one listener, chosen by the server name (SNI, RFC 6066 §3): the exact name, then the wildcard of
//! one label, then the first certificate.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustc_hash::{FxHashMap, FxHasher};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

use super::pem;
pub use super::pem::CertFault;
use super::provider::provider;
use crate::config::model::{CertificateFiles, Place};

/// The certificates of one listener.
#[derive(Debug)]
pub struct CertStore {
    /// Never empty; the first is the fallback.
    entries: Vec<Entry>,
    exact: FxHashMap<Box<str>, usize>,
    /// `example.org` for `*.example.org`.
    wildcard: FxHashMap<Box<str>, usize>,
    warnings: Vec<CertFault>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Arc<CertifiedKey>,
    certificate: Certificate,
    key_file: PathBuf,
    /// A number that changes with what the two files hold.
    content: u64,
}

/// What came of reading files again that are in use.
#[derive(Debug)]
pub(super) struct Renewed {
    /// `None`: the files hold what they held.
    pub(super) store: Option<CertStore>,
    /// The new certificates.
    pub(super) changed: Vec<Certificate>,
    /// Pairs that do not do; what was in use before stays.
    pub(super) faults: Vec<CertFault>,
}

/// What `check` and the status page tell of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The names it is for, lowercased; wildcards as `*.example.org`.
    pub names: Vec<String>,
    /// The addresses it is for.
    pub addresses: Vec<IpAddr>,
    /// When it ends.
    pub not_after: SystemTime,
    /// The file of the chain.
    pub file: PathBuf,
}

impl CertStore {
    /// Reads and checks every certificate and key.
    ///
    /// # Errors
    /// Every fault of every file, each at the place where the file is named: missing, unreadable, not PEM, empty, the
    /// key not that of the certificate, expired, not yet valid.
    pub fn load(files: &[CertificateFiles]) -> Result<Self, Vec<CertFault>> {
        Self::load_at(files, None, SystemTime::now())
    }

    /// As [`CertStore::load`]; what `previous` has of the same files with the same content is taken over.
    pub(super) fn load_after(files: &[CertificateFiles], previous: Option<&Self>) -> Result<Self, Vec<CertFault>> {
        Self::load_at(files, previous, SystemTime::now())
    }

    fn load_at(files: &[CertificateFiles], previous: Option<&Self>, now: SystemTime) -> Result<Self, Vec<CertFault>> {
        let mut store = Self::with_room_for(files.len());
        let mut faults = Vec::new();
        for (place, pair) in files.iter().enumerate() {
            match Entry::load(pair, previous.and_then(|previous| previous.entry_of(pair, place)), now) {
                Ok(entry) => store.add(entry, &pair.place),
                Err(found) => faults.extend(found.into_iter().map(|fault| fault.at(&pair.place))),
            }
        }
        if faults.is_empty() && store.entries.is_empty() {
            faults.push(CertFault::new("no certificate is named", "name one in `tls.certificates`"));
        }
        if faults.is_empty() { Ok(store) } else { Err(faults) }
    }

    /// Reads the files again, which are those it was loaded from.
    pub(super) fn renewed(&self, files: &[CertificateFiles]) -> Renewed {
        let now = SystemTime::now();
        let mut store = Self::with_room_for(files.len());
        let (mut changed, mut faults) = (Vec::new(), Vec::new());
        for (place, pair) in files.iter().enumerate() {
            let before = self.entry_of(pair, place);
            match (Entry::load(pair, before, now), before) {
                (Ok(entry), before) => {
                    if before.is_none_or(|before| before.content != entry.content) {
                        changed.push(entry.certificate.clone());
                    }
                    store.add(entry, &pair.place);
                }
                (Err(found), before) => {
                    faults.extend(found.into_iter().map(|fault| fault.at(&pair.place)));
                    before.into_iter().for_each(|before| store.add(before.clone(), &pair.place));
                }
            }
        }
        Renewed { store: (!changed.is_empty()).then_some(store), changed, faults }
    }

    /// Certificates whose files hold something else than those that `previous` has of the same files.
    pub(super) fn changed_since<'a>(&'a self, previous: &'a Self) -> impl Iterator<Item = &'a Certificate> {
        let known: FxHashMap<_, _> = previous.entries.iter().map(|entry| (entry.files(), entry.content)).collect();
        let changed = move |entry: &&Entry| known.get(&entry.files()).is_some_and(|content| *content != entry.content);
        self.entries.iter().filter(changed).map(|entry| &entry.certificate)
    }

    fn with_room_for(entries: usize) -> Self {
        Self {
            entries: Vec::with_capacity(entries),
            exact: FxHashMap::default(),
            wildcard: FxHashMap::default(),
            warnings: Vec::new(),
        }
    }

    /// What it has of these files; most often at the same place.
    fn entry_of(&self, pair: &CertificateFiles, place: usize) -> Option<&Entry> {
        let is_it = |entry: &&Entry| entry.files() == (pair.cert.as_path(), pair.key.as_path());
        self.entries.get(place).filter(is_it).or_else(|| self.entries.iter().find(is_it))
    }

    fn add(&mut self, entry: Entry, place: &Place) {
        let index = self.entries.len();
        for name in &entry.certificate.names {
            let (names, key) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcard, parent),
                None => (&mut self.exact, name.as_str()),
            };
            if let Some(first) = names.get(key) {
                let (file, other) = (entry.certificate.file.display(), self.entries[*first].certificate.file.display());
                let what = format!("{file} is not used for {name}: {other} comes first");
                let fault = CertFault::new(what, "each name is served by one certificate");
                self.warnings.push(fault.at(place));
            } else {
                names.insert(key.into(), index);
            }
        }
        self.entries.push(entry);
    }

    /// What was loaded, in the order of the configuration.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.entries.iter().map(|entry| &entry.certificate)
    }

    /// What is odd but no fault: a name that two certificates claim.
    pub fn warnings(&self) -> &[CertFault] {
        &self.warnings
    }

    /// Whether `host` (lowercase, no port) is one of the names of the very certificate that a client gets who asks for
    /// `sni`. Where it is not, a request for `host` belongs on another connection: 421 (RFC 9110 §15.5.20). A client
    /// that asked for `host` itself is always right here, even if all it got was the fallback.
    pub fn covers(&self, sni: Option<&str>, host: &str) -> bool {
        if sni == Some(host) {
            return true;
        }
        self.entries[self.index(sni)].certificate.is_for(host)
    }

    /// The certificate that a client gets who asks for `sni`, with its place in the configuration's list.
    pub fn chosen(&self, sni: Option<&str>) -> (usize, &Certificate) {
        let index = self.index(sni);
        (index, &self.entries[index].certificate)
    }

    fn index(&self, sni: Option<&str>) -> usize {
        let Some(name) = sni else { return 0 };
        if let Some(index) = self.exact.get(name) {
            return *index;
        }
        // RFC 6125 §6.4.3: a wildcard stands for one whole label.
        let wildcard = name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        wildcard.copied().unwrap_or(0)
    }
}

impl ResolvesServerCert for CertStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls lowercases the name (DNS names compare without case).
        Some(Arc::clone(&self.entries[self.index(hello.server_name())].key))
    }
}

impl Certificate {
    /// Whole days until it ends; negative once it has.
    pub fn days_left(&self) -> i64 {
        let days = |time: Duration| (time.as_secs() / (24 * 60 * 60)) as i64;
        self.not_after.duration_since(SystemTime::now()).map_or_else(|past| -1 - days(past.duration()), days)
    }

    /// Whether it is for a host: by name, by a wildcard of one label, or by address.
    pub fn is_for(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(wildcard) => parent == Some(wildcard),
            None => name == host,
        })
    }
}

impl Entry {
    /// Reads a pair. `before` is what is in use of the same files, taken over where they hold what they held.
    fn load(pair: &CertificateFiles, before: Option<&Self>, now: SystemTime) -> Result<Self, Vec<CertFault>> {
        let (cert, key) = both(pem::read(&pair.cert), pem::read(&pair.key))?;
        let content = fingerprint(&[&cert, &key]);
        if let Some(before) = before.filter(|before| before.content == content && now <= before.certificate.not_after) {
            return Ok(before.clone());
        }
        let (chain, key) = both(pem::certificates(&pair.cert, &cert), pem::key(&pair.key, &key))?;
        let mut faults = Vec::new();
        let certificate = Certificate::read(&chain[0], pair, now).map_err(|fault| faults.push(fault));
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| faults.push(unusable(&error, pair)));
        match (certificate, key) {
            (Ok(certificate), Ok(key)) => {
                Ok(Self { key: Arc::new(key), certificate, key_file: pair.key.clone(), content })
            }
            _ => Err(faults),
        }
    }

    fn files(&self) -> (&Path, &Path) {
        (&self.certificate.file, &self.key_file)
    }
}

/// Both, or what is wrong with either.
fn both<A, B>(a: Result<A, CertFault>, b: Result<B, CertFault>) -> Result<(A, B), Vec<CertFault>> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (a, b) => Err(a.err().into_iter().chain(b.err()).collect()),
    }
}

/// A number that changes with the content of files; whoever writes them is trusted.
pub(super) fn fingerprint(contents: &[&[u8]]) -> u64 {
    let mut hasher = FxHasher::default();
    contents.hash(&mut hasher);
    hasher.finish()
}

impl Certificate {
    fn read(leaf: &CertificateDer<'_>, pair: &CertificateFiles, now: SystemTime) -> Result<Self, CertFault> {
        let file = pair.cert.display();
        let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
            let help = "make a new one: `tidegate cert HOST` for development";
            return Err(CertFault::new(format!("{file} holds no proper X.509 certificate"), help));
        };
        let validity = parsed.validity();
        if now > time(validity.not_after) {
            let what = format!("the certificate in {file} expired on {}", date(validity.not_after));
            return Err(CertFault::new(what, "renew it; clients refuse it"));
        }
        if now < time(validity.not_before) {
            let what = format!("the certificate in {file} is not valid before {}", date(validity.not_before));
            return Err(CertFault::new(what, "check the clock of this machine"));
        }
        let (names, addresses) = names(&parsed);
        Ok(Self { names, addresses, not_after: time(validity.not_after), file: pair.cert.clone() })
    }
}

/// Only subject alternative names count: clients ignore the common name (RFC 9110 §4.3.4).
fn names(certificate: &X509Certificate<'_>) -> (Vec<String>, Vec<IpAddr>) {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return (names, addresses) };
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
            _ => {}
        }
    }
    (names, addresses)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

pub(super) fn unusable(error: &TlsError, pair: &CertificateFiles) -> CertFault {
    let (cert, key) = (pair.cert.display(), pair.key.display());
    match error {
        TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let help = "the first certificate of the file must be the one the key was made for";
            CertFault::new(format!("the key in {key} does not belong to the certificate in {cert}"), help)
        }
        TlsError::InvalidCertificate(_) => {
            let help = "make a new one: `tidegate cert HOST` for development";
            CertFault::new(format!("the certificate in {cert} cannot be used: {error}"), help)
        }
        _ => CertFault::new(format!("the key in {key} cannot be used"), "ECDSA, Ed25519 and RSA keys can"),
    }
}

fn time(time: ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
    let time = if time.timestamp() < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    time.unwrap_or(UNIX_EPOCH)
}

fn date(time: ASN1Time) -> String {
    time.to_datetime().date().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::tls::testing::Folder;

    const DAY: Duration = Duration::from_hours(24);

    fn whats(result: Result<CertStore, Vec<CertFault>>) -> Vec<String> {
        result.unwrap_err().into_iter().map(|fault| fault.what).collect()
    }

    #[test]
    fn the_exact_name_goes_before_the_wildcard_and_the_first_is_the_fallback() {
        let folder = Folder::new();
        let store = CertStore::load(&[
            folder.leaf("first", &["first.test", "10.0.0.1"]),
            folder.leaf("wild", &["*.example.test"]),
            folder.leaf("exact", &["WWW.example.test", "other.test"]),
        ])
        .unwrap();
        assert_eq!(store.index(Some("first.test")), 0);
        assert_eq!(store.index(Some("api.example.test")), 1);
        assert_eq!(store.index(Some("www.example.test")), 2);
        assert_eq!(store.index(Some("other.test")), 2);
        // A wildcard is one label, no less and no more.
        assert_eq!(store.index(Some("example.test")), 0);
        assert_eq!(store.index(Some("a.b.example.test")), 0);
        assert_eq!(store.index(Some("unknown.test")), 0);
        assert_eq!(store.index(None), 0);
    }

    #[test]
    fn covers_what_the_chosen_certificate_is_for_and_nothing_else() {
        let folder = Folder::new();
        let store = CertStore::load(&[
            folder.leaf("first", &["first.test", "10.0.0.1", "::1"]),
            folder.leaf("wild", &["*.example.test", "extra.test"]),
        ])
        .unwrap();
        assert!(store.covers(Some("api.example.test"), "web.example.test"));
        assert!(store.covers(Some("api.example.test"), "extra.test"));
        assert!(!store.covers(Some("api.example.test"), "first.test"));
        assert!(!store.covers(Some("api.example.test"), "a.web.example.test"));
        assert!(!store.covers(Some("api.example.test"), "example.test"));
        assert!(store.covers(None, "10.0.0.1") && store.covers(None, "[::1]") && store.covers(None, "::1"));
        assert!(!store.covers(None, "10.0.0.2") && !store.covers(None, "api.example.test"));
        assert!(store.covers(Some("unknown.test"), "unknown.test"));
    }

    #[test]
    fn tells_what_it_serves() {
        let folder = Folder::new();
        let store = CertStore::load(&[folder.leaf("a", &["a.test", "*.a.test", "127.0.0.1"])]).unwrap();
        let certificate = store.certificates().next().unwrap();
        assert_eq!(certificate.names, ["a.test", "*.a.test"]);
        assert_eq!(certificate.addresses, [IpAddr::from([127, 0, 0, 1])]);
        let left = certificate.not_after.duration_since(SystemTime::now()).unwrap();
        assert!(left > 89 * DAY && left <= 90 * DAY);
    }

    #[test]
    fn a_name_that_two_certificates_claim_is_a_warning_and_the_first_has_it() {
        let folder = Folder::new();
        let store =
            CertStore::load(&[folder.leaf("a", &["same.test"]), folder.leaf("b", &["same.test", "b.test"])]).unwrap();
        assert_eq!((store.index(Some("same.test")), store.index(Some("b.test"))), (0, 1));
        let warning = &store.warnings()[0];
        assert!(warning.what.contains("b.pem is not used for same.test"), "{warning}");
        assert_eq!(warning.place.as_ref().unwrap().line, 2);
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_place() {
        let folder = Folder::new();
        let good = folder.leaf("good", &["good.test"]);
        let swapped =
            CertificateFiles { cert: good.key.clone(), key: good.cert.clone(), ..folder.leaf("x", &["x.test"]) };
        let mixed = CertificateFiles { key: good.key.clone(), ..folder.leaf("mixed", &["mixed.test"]) };
        let missing =
            CertificateFiles { cert: "nowhere.pem".into(), key: "nowhere.key".into(), place: folder.place(9) };
        let faults = CertStore::load(&[good, swapped, mixed, missing]).unwrap_err();
        let told: Vec<_> =
            faults.iter().map(|fault| (fault.place.as_ref().unwrap().line, fault.what.as_str())).collect();
        assert!(told[0].0 == 2 && told[0].1.ends_with("good.key holds no certificate"), "{told:?}");
        assert!(faults[0].help.contains("swapped") && faults[1].help.contains("swapped"), "{faults:?}");
        assert!(told[1].0 == 2 && told[1].1.ends_with("good.pem holds no private key"), "{told:?}");
        assert!(told[2].0 == 3 && told[2].1.contains("does not belong to the certificate"), "{told:?}");
        assert!(told[3].0 == 9 && told[3].1.starts_with("cannot read nowhere.pem"), "{told:?}");
        assert!(told[4].0 == 9 && told[4].1.starts_with("cannot read nowhere.key"), "{told:?}");
    }

    #[test]
    fn a_certificate_outside_its_time_is_a_fault() {
        let folder = Folder::new();
        let files = [folder.leaf("a", &["a.test"])];
        let now = SystemTime::now();
        let late = whats(CertStore::load_at(&files, None, now + 91 * DAY));
        assert!(late[0].contains("a.pem expired on 20"), "{late:?}");
        let early = whats(CertStore::load_at(&files, None, now - DAY));
        assert!(early[0].contains("a.pem is not valid before 20"), "{early:?}");
        assert!(CertStore::load_at(&files, None, now + 89 * DAY).is_ok());
    }

    #[test]
    fn files_that_are_no_certificates_are_faults() {
        let folder = Folder::new();
        let good = folder.leaf("good", &["good.test"]);
        let told = |cert: &str, key: &str| {
            let cert = folder.write("cert", cert);
            let key = folder.write("key", key);
            whats(CertStore::load(&[CertificateFiles { cert, key, place: folder.place(1) }]))
        };
        let key = std::fs::read_to_string(&good.key).unwrap();
        let cert = std::fs::read_to_string(&good.cert).unwrap();
        assert!(told("", &key)[0].ends_with("holds no certificate"));
        assert!(told("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n", &key)[0].contains("not base64"));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(told(garbage, &key)[0].contains("no proper X.509 certificate"));
        assert!(told(&cert, &cert.replace("CERTIFICATE", "PRIVATE KEY"))[0].ends_with("cannot be used"));
        assert!(whats(CertStore::load(&[]))[0].contains("no certificate is named"));
    }
}
