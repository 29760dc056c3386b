//! Development certificates as files: a CA's pair, and a pair signed by it for some hosts. Used by `cert`, `demo` and
//! `proxy --tls`; nothing else in the program creates or writes keys.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::transport::tls::development::{Authority, MakeError, make_authority, make_leaf};

use super::{Exit, terminal};

/// The four PEM files of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The authority's certificate: what clients trust.
    pub ca: PathBuf,
    /// The authority's key.
    pub ca_key: PathBuf,
    /// The certificate of the hosts.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What becomes of the authority's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Written to `ca_key`, to sign again; or read from there.
    Authority,
    /// Forgotten: nothing more will be signed.
    Nothing,
}

/// Whether the authority is a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// Made now.
    New,
    /// Read from the directory.
    Old,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// One file of the CA's pair is missing, or the pair was not made by `tidegate cert`.
    #[error("{} {reason}", .ca.display())]
    Authority {
        /// The authority's certificate.
        ca: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file that cannot be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An invalid host, or no randomness from the system.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] MakeError),
}

impl Certificate {
    /// The files for `host` in `directory`; `*` becomes `_`, as do letters that file names should not have.
    pub fn named(directory: &Path, host: &str) -> Self {
        let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || ".-_".contains(*letter);
        let stem: String = host.chars().map(|letter| if is_plain(&letter) { letter } else { '_' }).collect();
        Self {
            ca: directory.join("ca.pem"),
            ca_key: directory.join("ca.key"),
            cert: directory.join(format!("{stem}.pem")),
            key: directory.join(format!("{stem}.key")),
        }
    }

    /// Whether writing would replace a certificate or its key.
    pub fn exists(&self) -> bool {
        self.cert.exists() || self.key.exists()
    }

    /// Makes a certificate for `hosts` and writes it, with the directory where there is none. Keys get mode 0600.
    ///
    /// # Errors
    /// An invalid host, a CA that cannot sign, or a file that cannot be written.
    pub fn create(&self, hosts: &[String], keep: Keep) -> Result<Signer, CertificateError> {
        let (authority, signer) = self.authority(keep)?;
        let leaf = make_leaf(hosts, &authority)?;
        if let Some(directory) = self.ca.parent() {
            fs::create_dir_all(directory).map_err(|source| file_error(directory, source))?;
        }
        if signer == Signer::New {
            write(&self.ca, &authority.cert_pem, 0o644)?;
            if keep == Keep::Authority {
                write(&self.ca_key, &authority.key_pem, 0o600)?;
            }
        }
        write(&self.key, &leaf.key_pem, 0o600)?;
        write(&self.cert, &leaf.cert_pem, 0o644)?;
        Ok(signer)
    }

    /// How to ask `host` on `port` of this machine with curl, trusting the authority.
    pub fn curl(&self, host: &str, port: u16) -> String {
        let ca = self.ca.display();
        let suffix = if port == 443 { String::new() } else { format!(":{port}") };
        if host.contains(':') {
            // In quotes, since brackets mean something to shells.
            return format!("curl --cacert {ca} 'https://[{host}]{suffix}/'");
        }
        let host = host.replace('*', "www");
        // No name service need know the host yet.
        let is_found = host == "localhost" || host.parse::<IpAddr>().is_ok();
        let resolve = if is_found { String::new() } else { format!("--resolve {host}:{port}:127.0.0.1 ") };
        format!("curl --cacert {ca} {resolve}https://{host}{suffix}/")
    }

    fn authority(&self, keep: Keep) -> Result<(Authority, Signer), CertificateError> {
        let is_there = (self.ca.exists(), self.ca_key.exists());
        let refuse = |reason| CertificateError::Authority { ca: self.ca.clone(), reason };
        match (keep, is_there) {
            (Keep::Nothing, _) | (_, (false, false)) => Ok((make_authority()?, Signer::New)),
            (_, (true, true)) => {
                let [ca, key] = [&self.ca, &self.ca_key]
                    .map(|path| fs::read_to_string(path).map_err(|source| file_error(path, source)));
                let authority = Authority::from_pem(&ca?, &key?).map_err(|_| {
                    refuse("and ca.key are not a pair made by `tidegate cert`: move both away, or choose another --out")
                })?;
                Ok((authority, Signer::Old))
            }
            (_, (true, false)) => Err(refuse(
                "exists without its ca.key, so nothing can be signed: move it away, or choose another --out",
            )),
            (_, (false, true)) => {
                Err(refuse("is missing, but its ca.key exists: move that away, or choose another --out"))
            }
        }
    }
}

impl CertificateError {
    /// Reports it on stderr.
    pub fn report(&self) -> Exit {
        match self {
            Self::Make(MakeError::Host(_)) => {
                terminal::complain(
                    self,
                    "use a host name (in punycode if it is not ASCII), `*.` and a name, or an IP address",
                );
                Exit::Usage
            }
            Self::Authority { .. } => {
                terminal::complain(self, "");
                Exit::Fault
            }
            Self::File { .. } | Self::Make(_) => {
                terminal::complain(self, "");
                Exit::System
            }
        }
    }
}

/// Replaces the file rather than its content, so that the mode holds for an old file too.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let written = match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes())),
    };
    written.map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: io::Error) -> CertificateError {
    CertificateError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn hosts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn keys_are_for_the_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let files = Certificate::named(&directory.path().join("new"), "localhost");
        assert_eq!(files.create(&hosts(&["localhost"]), Keep::Authority).unwrap(), Signer::New);
        for (path, mode) in [(&files.ca_key, 0o600), (&files.key, 0o600), (&files.ca, 0o644), (&files.cert, 0o644)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
        }
    }

    #[test]
    fn the_authority_of_the_directory_signs_again() {
        let directory = tempfile::tempdir().unwrap();
        let first = Certificate::named(directory.path(), "a.example");
        first.create(&hosts(&["a.example"]), Keep::Authority).unwrap();
        let authority = fs::read(&first.ca).unwrap();
        let second = Certificate::named(directory.path(), "b.example");
        assert_eq!(second.create(&hosts(&["b.example"]), Keep::Authority).unwrap(), Signer::Old);
        assert_eq!(fs::read(&first.ca).unwrap(), authority);
    }

    #[test]
    fn a_pair_that_does_not_match_signs_nothing() {
        let [one, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let files = [&one, &other].map(|directory| Certificate::named(directory.path(), "a"));
        for files in &files {
            files.create(&hosts(&["a"]), Keep::Authority).unwrap();
        }
        fs::copy(&files[0].ca_key, &files[1].ca_key).unwrap();
        let error = files[1].create(&hosts(&["a"]), Keep::Authority).unwrap_err();
        assert!(matches!(error, CertificateError::Authority { .. }), "{error}");
        fs::remove_file(&files[1].ca_key).unwrap();
        assert!(matches!(files[1].create(&hosts(&["a"]), Keep::Authority), Err(CertificateError::Authority { .. })));
    }

    #[test]
    fn an_authority_that_signs_once_leaves_no_key() {
        let directory = tempfile::tempdir().unwrap();
        let files = Certificate::named(directory.path(), "localhost");
        files.create(&hosts(&["localhost"]), Keep::Nothing).unwrap();
        assert!(!files.ca_key.exists() && files.ca.exists());
    }

    #[test]
    fn files_are_named_after_the_host() {
        let name = |host| Certificate::named(Path::new("certs"), host).cert;
        assert_eq!(name("example.org"), Path::new("certs/example.org.pem"));
        assert_eq!(name("*.example.org"), Path::new("certs/_.example.org.pem"));
        assert_eq!(name("../::1"), Path::new("certs/..___1.pem"));
    }

    #[test]
    fn curl_finds_a_host_that_no_name_service_knows() {
        let curl = |host, port| Certificate::named(Path::new("c"), host).curl(host, port);
        assert_eq!(curl("localhost", 443), "curl --cacert c/ca.pem https://localhost/");
        assert_eq!(curl("::1", 8443), "curl --cacert c/ca.pem 'https://[::1]:8443/'");
        let resolved = "curl --cacert c/ca.pem --resolve www.a.test:8443:127.0.0.1 https://www.a.test:8443/";
        assert_eq!(curl("*.a.test", 8443), resolved);
    }
}
