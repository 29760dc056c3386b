//! Certificates, keys and CAs that change while in use: read again, validated, and swapped in without a reload. An
//! invalid one is reported once, and the previous one stays in use until the files change again.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::egress;
use crate::config::Config;
use crate::config::model::ClientAuth;
use crate::snapshot::{ListenerSpec, Snapshot};
use crate::telemetry::counters::ControlCounters;
use crate::transport::tls::cert_store::{CertFault, Certificate};
use crate::upstream::Upstream;

/// What was told of the files, and when they are read again without being asked.
#[derive(Default)]
pub struct CertWatch {
    told: HashSet<String>,
    again: Option<Instant>,
}

impl CertWatch {
    /// Reads the files of a generation again and puts in use what is new in them. Blocks on reading. Gives the upstreams
    /// whose connections are no longer interchangeable with those that are open.
    pub fn look(&mut self, snapshot: &Snapshot, counters: &ControlCounters) -> Vec<Arc<Upstream>> {
        let mut faults = HashSet::new();
        for listener in &snapshot.listeners {
            let Some(tls) = &listener.tls else { continue };
            let renewal = tls.renew();
            for certificate in &renewal.certificates {
                counters.certificate_swaps.add(1);
                let names = names(certificate);
                let file = certificate.file.display();
                info!(listener = %listener.name, %file, names, days_left = certificate.days_left(), "new certificate in use");
            }
            if renewal.authorities {
                counters.certificate_swaps.add(1);
                info!(listener = %listener.name, "new CA certificates for client certificates in use");
            }
            for fault in renewal.faults {
                self.tell("listener", &listener.name, &fault, counters, &mut faults);
            }
        }
        for listener in &snapshot.listeners {
            let Some(users) = listener.egress.as_ref().and_then(|egress| egress.users.as_ref()) else { continue };
            match users.renew() {
                Ok(false) => {}
                Ok(true) => {
                    let (file, users) = (users.path().display(), users.users().len());
                    info!(listener = %listener.name, %file, users, "new password file in use");
                }
                Err(fault) => {
                    for text in egress::lines(users.path(), &fault) {
                        self.tell_text(format!("listener {}: {text}", listener.name), counters, &mut faults);
                    }
                }
            }
        }
        let mut changed = Vec::new();
        for upstream in &snapshot.upstreams {
            let Some(tls) = &upstream.tls else { continue };
            match tls.renew() {
                Ok(false) => {}
                Ok(true) => {
                    counters.certificate_swaps.add(1);
                    info!(upstream = %upstream.name, "new CA certificates or a new client certificate in use");
                    changed.push(Arc::clone(upstream));
                }
                Err(fault) => self.tell("upstream", &upstream.name, &fault, counters, &mut faults),
            }
        }
        // A certificate may come of age, a permission may be granted on a folder above: nothing tells of those.
        self.again = (!faults.is_empty()).then(|| Instant::now() + RETRY);
        self.told = faults;
        changed
    }

    /// When to look again although nothing was written: a file that does not do was told.
    pub fn again(&self) -> Option<Instant> {
        self.again
    }

    fn tell(
        &mut self,
        kind: &str,
        name: &str,
        fault: &CertFault,
        counters: &ControlCounters,
        faults: &mut HashSet<String>,
    ) {
        self.tell_text(format!("{kind} {name}: {}", fault.what), counters, faults);
    }

    fn tell_text(&mut self, text: String, counters: &ControlCounters, faults: &mut HashSet<String>) {
        if !self.told.contains(&text) && !faults.contains(&text) {
            counters.certificate_failures.add(1);
            warn!("{text}; the previous one stays in use");
        }
        faults.insert(text);
    }
}

/// Every file that is looked at.
pub fn files(config: &Config) -> impl Iterator<Item = &Path> {
    let of_listeners = config.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| {
        let ca = match &tls.client_auth {
            ClientAuth::Off => None,
            ClientAuth::Optional { ca, .. } | ClientAuth::Require { ca, .. } => Some(ca.as_path()),
        };
        tls.certificates.iter().flat_map(|pair| [pair.cert.as_path(), &pair.key]).chain(ca)
    });
    let of_upstreams = config.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref()).flat_map(|tls| {
        let identity = tls.client_identity.iter().flat_map(|(cert, key)| [cert.as_path(), key]);
        tls.ca.as_deref().into_iter().chain(identity)
    });
    let of_users = config.listeners.iter().filter_map(|listener| listener.mode.outbound());
    let of_users = of_users.filter_map(|outbound| outbound.users.as_ref().map(|(path, _)| path.as_path()));
    of_listeners.chain(of_users).chain(of_upstreams)
}

/// What a reload has brought in with files that are named as before, in words.
pub fn renewed(before: &Snapshot, now: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for listener in &now.listeners {
        let old = before.listener(&listener.name).and_then(|old| old.tls.as_ref());
        let (Some(tls), Some(old)) = (&listener.tls, old) else { continue };
        let renewal = tls.changed_since(old);
        lines.extend(renewal.certificates.iter().map(|certificate| {
            format!("listener {}: certificate {} renewed", listener.name, certificate.file.display())
        }));
        if renewal.authorities {
            lines.push(format!("listener {}: authorities renewed", listener.name));
        }
    }
    for listener in &now.listeners {
        let users = |listener: &ListenerSpec| listener.egress.as_ref().and_then(|egress| egress.users.clone());
        let old = before.listener(&listener.name).and_then(|old| users(old));
        if let (Some(users), Some(old)) = (users(listener), old)
            && users.path() == old.path()
            && !users.holds_what(&old)
        {
            lines.push(format!("listener {}: password file {} renewed", listener.name, users.path().display()));
        }
    }
    for upstream in &now.upstreams {
        let old = before.upstream_named(&upstream.name).and_then(|old| old.tls.as_ref());
        let (Some(tls), Some(old)) = (&upstream.tls, old) else { continue };
        if tls.has_settings_of(old) && tls.fingerprint() != old.fingerprint() {
            lines.push(format!("upstream {}: authorities or client certificate renewed", upstream.name));
        }
    }
    lines
}

fn names(certificate: &Certificate) -> String {
    let addresses = certificate.addresses.iter().map(ToString::to_string);
    certificate.names.iter().cloned().chain(addresses).collect::<Vec<_>>().join(" ")
}

/// How long files that do not do are left alone while nobody writes them.
const RETRY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Generation;
    use crate::config;
    use crate::control::compile::compile;
    use crate::transport::tls::development::{make_authority, make_leaf};
    use crate::upstream::registry::Registry;

    struct Site {
        folder: tempfile::TempDir,
        registry: Registry,
    }

    impl Site {
        fn new() -> Self {
            let site = Self { folder: tempfile::tempdir().unwrap(), registry: Registry::new() };
            site.write_pair();
            site.write_authority();
            site
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.folder.path().join(name), text).unwrap();
        }

        fn write_pair(&self) {
            let leaf = make_leaf(&["a.test"], &make_authority().unwrap()).unwrap();
            self.write("a.pem", &leaf.cert_pem);
            self.write("a.key", &leaf.key_pem);
        }

        fn write_authority(&self) {
            self.write("ca.pem", &make_authority().unwrap().cert_pem);
        }

        fn config(&self) -> Config {
            let path = self.folder.path().join("tidegate.toml");
            self.write("tidegate.toml", SITE);
            config::load(&path).unwrap_or_else(|faults| panic!("{faults}"))
        }

        fn compile(&self, previous: Option<&Snapshot>) -> Snapshot {
            compile(&self.config(), previous, &self.registry, Generation(1)).unwrap_or_else(|faults| panic!("{faults}"))
        }
    }

    const SITE: &str = "[[listener]]\nname = \"web\"\nbind = \":0\"\ntls = { certificates = [{ cert = \"a.pem\", key = \"a.key\" }], client_auth = { mode = \"optional\", ca = \"ca.pem\" } }\n\
        [[route]]\nupstream = \"app\"\n[upstream.app]\nendpoints = \"127.0.0.1:1\"\ntls = { ca = \"ca.pem\", client_cert = \"a.pem\", client_key = \"a.key\" }\n";

    #[test]
    fn every_file_is_looked_at() {
        let site = Site::new();
        let config = site.config();
        let names: Vec<_> = files(&config).map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.pem", "a.key", "ca.pem", "ca.pem", "a.pem", "a.key"]);
    }

    #[test]
    fn a_fault_is_told_and_counted_once_and_again_when_it_is_another() {
        let (site, counters, mut watch) = (Site::new(), ControlCounters::default(), CertWatch::default());
        let snapshot = site.compile(None);
        assert!(watch.look(&snapshot, &counters).is_empty() && watch.again().is_none());
        let key = std::fs::read_to_string(site.folder.path().join("a.key")).unwrap();
        site.write("a.key", "nonsense");
        // One at the listener, one at the upstream.
        for _ in 0..3 {
            assert!(watch.look(&snapshot, &counters).is_empty());
            assert_eq!(counters.certificate_failures.value(), 2);
            assert!(watch.again().is_some());
        }
        std::fs::remove_file(site.folder.path().join("a.key")).unwrap();
        watch.look(&snapshot, &counters);
        assert_eq!(counters.certificate_failures.value(), 4);
        site.write("a.key", &key);
        watch.look(&snapshot, &counters);
        assert!(watch.again().is_none());
        assert_eq!(counters.certificate_swaps.value(), 0, "the files hold what they held");
    }

    #[test]
    fn upstreams_whose_files_changed_are_named() {
        let (site, counters, mut watch) = (Site::new(), ControlCounters::default(), CertWatch::default());
        let snapshot = site.compile(None);
        let before = snapshot.upstreams[0].identity();
        site.write_authority();
        let changed = watch.look(&snapshot, &counters);
        assert_eq!(changed.len(), 1);
        assert_ne!(changed[0].identity(), before);
        assert_eq!(counters.certificate_swaps.value(), 2, "the listener's authorities, and the upstream's");
        assert!(watch.look(&snapshot, &counters).is_empty());
    }

    #[test]
    fn a_reload_tells_of_files_that_hold_something_new() {
        let site = Site::new();
        let first = site.compile(None);
        let second = site.compile(Some(&first));
        assert!(renewed(&first, &second).is_empty());
        let tls = |snapshot: &Snapshot| snapshot.upstreams[0].tls.clone().unwrap();
        assert!(Arc::ptr_eq(&tls(&first), &tls(&second)), "sessions that can be resumed are kept");
        site.write_pair();
        let third = site.compile(Some(&second));
        let lines = renewed(&second, &third);
        assert!(lines[0].starts_with("listener web: certificate ") && lines[0].ends_with("a.pem renewed"), "{lines:?}");
        assert_eq!(lines[1], "upstream app: authorities or client certificate renewed");
        assert_eq!(lines.len(), 2);
    }
}
