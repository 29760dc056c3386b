//! Compares the demand of a configuration with the limits of the system: file descriptors, ports, queues, buffers.
//! `tidegate doctor` shows everything; `tidegate check` and the log at start show limits that are too low. Nothing is
//! refused.

mod checks;
mod demand;
mod facts;

use std::path::Path;

use serde::Serialize;
use tracing::warn;

use crate::config::Config;

pub use checks::examine;
pub use demand::Demand;
pub use facts::Facts;

/// How a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, less well than the configuration asks for.
    Warn,
    /// Something that the configuration asks for will not be.
    Bad,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it is.
    pub verdict: Verdict,
    /// What was looked at.
    pub what: &'static str,
    /// What there is.
    pub found: String,
    /// What the configuration asks for.
    pub wanted: String,
    /// What to type or to write, a line each; empty where all is well.
    pub fix: String,
    /// Whether the configuration asks for it in so many words; a rule of thumb otherwise.
    #[serde(skip)]
    pub is_asked: bool,
}

impl Finding {
    /// A finding that is well unless `otherwise` says how and what to do.
    pub fn new(
        what: &'static str,
        found: impl Into<String>,
        wanted: impl Into<String>,
        otherwise: Option<(Verdict, String)>,
    ) -> Self {
        let (verdict, fix) = otherwise.unwrap_or((Verdict::Ok, String::new()));
        Self { verdict, what, found: found.into(), wanted: wanted.into(), fix, is_asked: true }
    }

    fn rule_of_thumb(mut self) -> Self {
        self.is_asked = false;
        self
    }
}

/// Where this system grants less than the configuration asks for in so many words.
pub fn shortages(config: &Config) -> Vec<Finding> {
    short_of(config, &Facts::read(Path::new("/"), None))
}

/// Says in the log what [`shortages`] finds, a line each.
pub fn warn_of_shortages(config: &Config) {
    for Finding { what, found, wanted, fix, .. } in shortages(config) {
        warn!(found, wanted, remedy = fix.replace('\n', "; "), "the system provides less than configured: {what}");
    }
}

fn short_of(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = examine(config, facts);
    findings.retain(|finding| finding.is_asked && finding.verdict != Verdict::Ok);
    findings
}

#[cfg(test)]
mod tests;
