//! `tidegate doctor`: compares the limits of the system with what a configuration needs, and suggests settings.
//! `control::capacity` reads and judges the system, [`checks`] the rest; this file prints.

mod checks;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;

use crate::base::id::Generation;
use crate::config::{self, Config};
use crate::control::capacity::{Facts, Finding, Verdict};
use crate::control::compile;
use crate::upstream::registry::Registry;

use self::checks::CertificateFact;
use super::run::{find_configuration, no_configuration};
use super::terminal::Palette;
use super::{Exit, serving, terminal};

/// Arguments of `tidegate doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Configuration file [default: ./tidegate.toml, then /etc/tidegate/tidegate.toml]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Check the limits of the process with this id, such as a running tidegate, instead of this shell's
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,

    /// Print a JSON list instead of the table
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Prints the table. 1 where something is bad.
    pub fn run(self) -> Exit {
        let Some(path) = self.config.clone().or_else(find_configuration) else {
            terminal::print_error(&no_configuration("doctor --config FILE"));
            return Exit::Usage;
        };
        let examined = config::load(&path).and_then(|config| {
            let certificates = certificates(&config)?;
            Ok(checks::examine(&config, &Facts::read(Path::new("/"), self.pid), &certificates, SystemTime::now()))
        });
        let findings = match examined {
            Ok(findings) => findings,
            Err(faults) => {
                serving::report(&faults);
                return Exit::Fault;
            }
        };
        terminal::print(&if self.json { json(&findings) } else { summed(&findings, Palette::stdout()) });
        if findings.iter().any(|finding| finding.verdict == Verdict::Bad) { Exit::Fault } else { Exit::Done }
    }
}

fn certificates(config: &Config) -> Result<Vec<CertificateFact>, config::Faults> {
    let snapshot = compile::compile(config, None, &Registry::new(), Generation(1))?;
    let stores = snapshot.listeners.iter().filter_map(|listener| Some(listener.tls.as_ref()?.certificates()));
    let facts = stores.flat_map(|store| {
        let fact = |one: &_| CertificateFact::from(one);
        store.certificates().map(fact).collect::<Vec<_>>()
    });
    Ok(facts.collect())
}

fn json(findings: &[Finding]) -> String {
    // Strings and words alone, which always have a JSON form.
    serde_json::to_string_pretty(findings).unwrap_or_default() + "\n"
}

/// The table, how many there are of each, and how a setting stays.
fn summed(findings: &[Finding], colours: Palette) -> String {
    let mut out = table(findings, colours);
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (warned, bad) = (count(Verdict::Warn), count(Verdict::Bad));
    let _ = writeln!(out, "\n{} ok, {warned} warnings, {bad} failed", count(Verdict::Ok));
    out + how_to_keep(findings)
}

/// A setting of the kernel is gone with the next boot.
pub(super) fn how_to_keep(findings: &[Finding]) -> &'static str {
    if findings.iter().any(|finding| finding.fix.contains("sysctl -w")) {
        "`sysctl -w` lasts until the next boot; a line `name = value` in /etc/sysctl.d/90-tidegate.conf is permanent.\n"
    } else {
        ""
    }
}

/// A line for each, with what to do below it.
pub(super) fn table(findings: &[Finding], colours: Palette) -> String {
    let width = |text: fn(&Finding) -> &str| findings.iter().map(|one| text(one).chars().count()).max().unwrap_or(0);
    let (what, found) = (width(|one| one.what), width(|one| &one.found).min(WIDEST));
    let mut out = String::new();
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Ok => colours.good("ok  "),
            Verdict::Warn => colours.warning("warn"),
            Verdict::Bad => colours.bad("bad "),
        };
        let line = format!("{:what$}  {:found$}  {}", finding.what, finding.found, finding.wanted);
        let _ = writeln!(out, "{verdict}  {}", line.trim_end());
        for line in finding.fix.lines() {
            let _ = writeln!(out, "      {}", colours.bold(line));
        }
    }
    out
}

const WIDEST: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(verdict: Verdict, fix: &str) -> Finding {
        let (found, wanted) = ("128".to_owned(), "at least 4096".to_owned());
        Finding { verdict, what: "net.core.somaxconn", found, wanted, fix: fix.to_owned(), is_asked: true }
    }

    #[test]
    fn the_table_says_what_to_type() {
        let findings = [finding(Verdict::Ok, ""), finding(Verdict::Warn, "sysctl -w net.core.somaxconn=4096")];
        let text = summed(&findings, Palette::plain());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "ok    net.core.somaxconn  128  at least 4096");
        assert_eq!(lines[1], "warn  net.core.somaxconn  128  at least 4096");
        assert_eq!(lines[2], "      sysctl -w net.core.somaxconn=4096");
        assert_eq!(lines[4], "1 ok, 1 warnings, 0 failed");
        assert!(lines[5].contains("/etc/sysctl.d/"));
    }

    #[test]
    fn programs_get_json() {
        let read: serde_json::Value = serde_json::from_str(&json(&[finding(Verdict::Bad, "x")])).unwrap();
        assert_eq!(read[0]["verdict"], "bad");
        assert_eq!(read[0]["fix"], "x");
    }
}
