//! Test support: a directory of certificates and a CA for them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::development::{Authority, make_authority, make_leaf, make_leaf_with};
use crate::config::model::{CertificateFiles, Place};

pub(in crate::transport) struct Folder {
    folder: tempfile::TempDir,
    pub(in crate::transport) authority: Authority,
    line: AtomicU32,
}

impl Folder {
    pub(in crate::transport) fn new() -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), make_authority().unwrap());
        let folder = Self { folder, authority, line: AtomicU32::new(0) };
        folder.write("ca.pem", &folder.authority.cert_pem);
        folder
    }

    /// The authority's certificate.
    pub(in crate::transport) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for `hosts`; the n-th one is named on line n.
    pub(in crate::transport) fn leaf(&self, name: &str, hosts: &[&str]) -> CertificateFiles {
        let leaf = make_leaf(hosts, &self.authority).unwrap();
        let line = self.line.fetch_add(1, Ordering::Relaxed) + 1;
        CertificateFiles {
            cert: self.write(&format!("{name}.pem"), &leaf.cert_pem),
            key: self.write(&format!("{name}.key"), &leaf.key_pem),
            place: self.place(line),
        }
    }

    /// A certificate that ended long ago.
    pub(in crate::transport) fn outdated(&self, name: &str, host: &str) -> CertificateFiles {
        let end = |params: &mut rcgen::CertificateParams| {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        };
        let leaf = make_leaf_with(&[host], &self.authority, end).unwrap();
        CertificateFiles {
            cert: self.write(&format!("{name}.pem"), &leaf.cert_pem),
            key: self.write(&format!("{name}.key"), &leaf.key_pem),
            place: self.place(0),
        }
    }

    pub(in crate::transport) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(in crate::transport) fn place(&self, line: u32) -> Place {
        Place { file: Arc::from("test.toml"), line, column: 1 }
    }
}
