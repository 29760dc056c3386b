//! Compiles `mode = "forward"`: reads the password file, creates the resolver, and takes over the state of the previous
//! generation.

use std::path::Path;
use std::sync::Arc;

use tracing::warn;

use super::compile::own_listeners;
use super::names::Resolvers;
use crate::config::diagnostic::{Excerpt, Fault};
use crate::config::model::{self, Hosts, Outbound, UpstreamProtocol, UpstreamTls};
use crate::config::{Config, Faults, Place};
use crate::net::resolve::Names;
use crate::route::egress::Egress;
use crate::route::user_file::{FileFault, UserFile};
use crate::snapshot::ListenerSpec;
use crate::transport::tls::client::ClientTls;

/// `None`: its faults are told.
pub(super) fn compile(
    listener: &model::Listener,
    outbound: &Arc<Outbound>,
    config: &Config,
    before: Option<&ListenerSpec>,
    faults: &mut Faults,
) -> Option<Arc<Egress>> {
    let before = before.and_then(|before| before.egress.as_ref());
    let users = match &outbound.users {
        None => None,
        Some((path, place)) => match UserFile::load(path) {
            // What is the same stays, with the verdicts that were reached.
            Ok(users) => Some(match before.and_then(|before| before.users.clone()) {
                Some(kept) if kept.holds_what(&users) => kept,
                _ => Arc::new(users),
            }),
            Err(fault) => {
                tell(path, place, fault, faults);
                return None;
            }
        },
    };
    if users.is_none() && outbound.allow.iter().any(|entry| entry.hosts == Hosts::Any) && is_open(listener) {
        warn!(listener = %listener.name, "anyone who can reach this listener can connect anywhere through it; `forward.users` requires a password");
    }
    let names: Arc<dyn Names> = match before {
        Some(before) if before.outbound.name_servers == outbound.name_servers => Arc::clone(&before.names),
        _ => Arc::new(Resolvers::new(&outbound.name_servers)),
    };
    let secure = listener.tls.as_ref().and_then(|_| {
        let origins = Egress::origins(listener, outbound, true);
        match ClientTls::new(Some(&UpstreamTls::default()), UpstreamProtocol::Auto) {
            Ok(tls) => Some((origins, tls)),
            Err(fault) => {
                warn!(listener = %listener.name, "requests for https URLs are refused: {}", fault.what);
                None
            }
        }
    });
    let forwarding = config.listeners.iter().filter(|listener| listener.mode.outbound().is_some());
    Some(Arc::new(Egress {
        outbound: Arc::clone(outbound),
        names,
        users,
        cleartext: Egress::origins(listener, outbound, false),
        secure,
        circles: forwarding.flat_map(|listener| listener.binds.iter().cloned()).collect(),
        guarded: own_listeners(config).map(|own| own.bind.clone()).collect(),
        route: Egress::route(listener),
    }))
}

/// Whether others than this machine may reach it.
fn is_open(listener: &model::Listener) -> bool {
    listener.binds.iter().any(|bind| match bind {
        model::Bind::AnyAddress(_) => true,
        model::Bind::Address(address) => !address.ip().is_loopback(),
        model::Bind::Unix(_) => false,
    })
}

/// Nothing of a line is shown: it holds a secret.
fn tell(path: &Path, place: &Place, fault: FileFault, faults: &mut Faults) {
    match fault {
        FileFault::Unreadable(error) => {
            let what = format!("{} cannot be read: {error}", path.display());
            faults.push_at(place, what, "", Some("`htpasswd -B -c FILE NAME` makes one".to_owned()));
        }
        FileFault::Lines(lines) => {
            for line in lines {
                let file = path.display().to_string().into();
                let place = Place { file, line: line.line, column: line.column };
                let excerpt = Excerpt { place, line: String::new(), offset: 0, width: 1, label: String::new() };
                let (message, help) = (line.what.to_owned(), Some(line.help.to_owned()));
                faults.push(Fault { message, excerpt: Some(excerpt), second: None, help });
            }
        }
    }
}

/// The same in lines of the log.
pub(super) fn lines(path: &Path, fault: &FileFault) -> Vec<String> {
    let file = path.display();
    match fault {
        FileFault::Unreadable(error) => vec![format!("{file} cannot be read: {error}")],
        FileFault::Lines(lines) => {
            lines.iter().map(|fault| format!("{file}:{}:{}: {}", fault.line, fault.column, fault.what)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::base::id::Generation;
    use crate::config;
    use crate::control::cert_watch::{CertWatch, files, renewed};
    use crate::control::compile::compile;
    use crate::snapshot::Snapshot;
    use crate::telemetry::counters::ControlCounters;
    use crate::upstream::registry::Registry;

    fn ann() -> String {
        let hash = bcrypt::hash_with_salt("secret", 4, [7; 16]).unwrap();
        format!("ann:{}\n", hash.format_for_version(bcrypt::Version::TwoY))
    }

    struct Site(tempfile::TempDir);

    impl Site {
        fn with(users: &str) -> Self {
            let site = Self(tempfile::tempdir().unwrap());
            site.write(users);
            site
        }

        fn write(&self, users: &str) {
            std::fs::write(self.0.path().join("users"), users).unwrap();
        }

        fn compile(&self, previous: Option<&Snapshot>) -> Result<Snapshot, String> {
            let path = self.0.path().join("tidegate.toml");
            let text = "[[listener]]\nname = \"out\"\nbind = \":0\"\nmode = \"forward\"\nforward.allow = \"a.example:443\"\nforward.users = \"users\"\n";
            std::fs::write(&path, text).unwrap();
            let config = config::load(&path).unwrap_or_else(|faults| panic!("{faults}"));
            assert!(files(&config).any(|file| file.ends_with("users")), "it is watched");
            compile(&config, previous, &Registry::new(), Generation(1)).map_err(|faults| faults.to_string())
        }
    }

    #[test]
    fn a_line_that_does_not_do_is_told_at_its_place_and_never_shown() {
        let site = Site::with(&format!("{}ben:hunter2\n", ann()));
        let told = site.compile(None).err().unwrap();
        assert!(told.contains("users:2:5") && told.contains("plain password"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }

    #[test]
    fn a_file_that_changes_is_in_use_at_once_and_a_broken_one_changes_nothing() {
        let (site, counters, mut watch) = (Site::with(&ann()), ControlCounters::default(), CertWatch::default());
        let snapshot = site.compile(None).unwrap();
        let users = snapshot.listeners[0].egress.as_ref().unwrap().users.clone().unwrap();
        site.write(&format!("{}{}", ann(), ann().replace("ann", "ben")));
        watch.look(&snapshot, &counters);
        assert_eq!(users.users().len(), 2);
        site.write("ann:secret\n");
        for _ in 0..2 {
            watch.look(&snapshot, &counters);
        }
        assert_eq!((users.users().len(), counters.certificate_failures.value()), (2, 1));
        assert!(watch.again().is_some());
        assert!(site.compile(Some(&snapshot)).is_err());
        site.write(&ann());
        let next = site.compile(Some(&snapshot)).unwrap();
        assert!(renewed(&snapshot, &next)[0].contains("password file"));
    }
}
