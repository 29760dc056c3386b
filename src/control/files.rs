//! The files of the generation in force: which are watched, what to do when they change, and whether their content
//! differs.

use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use rustc_hash::FxHasher;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::cert_watch::{self, CertWatch};
use super::requests::Trigger;
use super::watch::{Changed, FileWatch, Watched};
use crate::config::{Config, Faults, Reading};
use crate::snapshot::Snapshot;
use crate::telemetry::counters::ControlCounters;
use crate::upstream::Upstream;

/// The files behind the generation in force.
#[derive(Default)]
pub struct Files {
    watch: FileWatch,
    certificates: CertWatch,
    /// What the configuration was last read from, accepted or not.
    read: Watched,
    are_certificates_due: bool,
    /// What the token of the admin listener was, as a number, when its file was last read for it.
    token: Option<u64>,
    /// The last refusal, unless a reload came since.
    refused: Option<String>,
}

impl Files {
    /// Watches what a configuration that is in force from now on depends on.
    pub fn put_in_force(&mut self, config: &Config) {
        self.refused = None;
        self.token = token(config);
        self.watch_for(config);
    }

    /// Watches what was just read, accepted or not: its mending is to be seen too. `in_force` says whether.
    pub fn note(&mut self, reading: &Reading, in_force: &Config) {
        let mut configuration = reading.files.clone();
        // A certificate that was missing may come, and the configuration that names it is good then.
        if let Ok(config) = &reading.result {
            configuration.extend(cert_watch::files(config).map(Path::to_owned));
        }
        configuration.extend(token_file(in_force).map(Path::to_owned));
        self.read = Watched { configuration, searched: reading.searched.clone(), certificates: Vec::new() };
        self.watch_for(in_force);
    }

    /// Whether files that changed by themselves say something else than what is in force.
    pub fn is_news(&mut self, result: &Result<Config, Faults>, in_force: &Config) -> bool {
        let is_same = result.as_ref().is_ok_and(|config| config == in_force && token(config) == self.token);
        if is_same && self.refused.take().is_some() {
            info!("the files match the configuration in force again");
        }
        !is_same
    }

    /// Notes a refusal and says whether it is to be told: not where nothing but a watch has come to the same again.
    pub fn refuse(&mut self, why: String, trigger: Trigger) -> bool {
        let is_repeated = trigger == Trigger::Watch && self.refused.as_ref() == Some(&why);
        self.refused = Some(why);
        !is_repeated
    }

    /// Waits until files have changed. Where those of the configuration have, the others are due after them. Cancel-safe.
    pub async fn changed(&mut self) -> Changed {
        if self.are_certificates_due {
            return Changed { configuration: false, certificates: true };
        }
        let again = self.certificates.again();
        tokio::select! {
            changed = self.watch.changed() => {
                self.are_certificates_due = changed.certificates;
                changed
            }
            () = until(again) => Changed { configuration: false, certificates: true },
        }
    }

    /// See [`CertWatch::look`].
    pub fn look_at_certificates(&mut self, snapshot: &Snapshot, counters: &ControlCounters) -> Vec<Arc<Upstream>> {
        self.are_certificates_due = false;
        self.certificates.look(snapshot, counters)
    }

    fn watch_for(&mut self, in_force: &Config) {
        let mut watched = if in_force.server.watch { self.read.clone() } else { Watched::default() };
        watched.certificates.extend(cert_watch::files(in_force).map(Path::to_owned));
        self.watch.watch(watched);
    }
}

fn token_file(config: &Config) -> Option<&Path> {
    config.server.admin.as_ref()?.token_file.as_ref().map(|file| &*file.path)
}

fn token(config: &Config) -> Option<u64> {
    let mut hasher = FxHasher::default();
    std::fs::read(token_file(config)?).ok()?.hash(&mut hasher);
    Some(hasher.finish())
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
