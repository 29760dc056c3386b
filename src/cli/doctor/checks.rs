//! The checks of `tidegate doctor` besides system limits: clock, certificates, admin and observe listeners. Pure
//! functions of facts and time.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::config::Config;
use crate::control::capacity::{self, Facts, Finding, Verdict};
use crate::transport::tls::cert_store::Certificate;

/// A certificate and its end.
#[derive(Clone, Debug)]
pub(super) struct CertificateFact {
    pub file: PathBuf,
    pub not_after: SystemTime,
}

impl From<&Certificate> for CertificateFact {
    fn from(certificate: &Certificate) -> Self {
        Self { file: certificate.file.clone(), not_after: certificate.not_after }
    }
}

/// Every finding, those about the system first.
pub(super) fn examine(
    config: &Config,
    facts: &Facts,
    certificates: &[CertificateFact],
    now: SystemTime,
) -> Vec<Finding> {
    let mut findings = capacity::examine(config, facts);
    findings.push(clock(facts, now));
    findings.extend(certificates.iter().map(|certificate| end_of(certificate, now)));
    findings.extend(control_listeners(config));
    findings
}

fn clock(facts: &Facts, now: SystemTime) -> Finding {
    let date = httpdate::fmt_http_date(now);
    let is_absurd = now < SystemTime::UNIX_EPOCH + EARLIEST;
    let fix = "timedatectl set-ntp true".to_owned();
    let fault = match facts.clock_synchronized {
        _ if is_absurd => Some((Verdict::Bad, fix)),
        Some(false) => Some((Verdict::Warn, fix)),
        _ => None,
    };
    Finding::new("clock", date, "the right time: certificates are judged by it", fault)
}

fn end_of(certificate: &CertificateFact, now: SystemTime) -> Finding {
    let left = certificate.not_after.duration_since(now).unwrap_or_default();
    let days = left.as_secs() / 86_400;
    let fix = || {
        format!(
            "renew {} (its last day is near; a changed file is taken by itself or at a reload)",
            certificate.file.display()
        )
    };
    let fault = match days {
        0..BAD_DAYS => Some((Verdict::Bad, fix())),
        BAD_DAYS..FEW_DAYS => Some((Verdict::Warn, fix())),
        _ => None,
    };
    let plural = if days == 1 { "" } else { "s" };
    let name = certificate.file.file_name().unwrap_or(certificate.file.as_os_str());
    Finding::new(
        "certificate",
        format!("{}: {days} day{plural} left", name.display()),
        format!("{FEW_DAYS} days"),
        fault,
    )
}

fn control_listeners(config: &Config) -> [Finding; 2] {
    let lines = |name: &str, bind: &str| format!("[server.{name}] with `bind = \"{bind}\"`");
    let server = &config.server;
    let observe = (server.observe.is_none()).then(|| (Verdict::Warn, lines("observe", "127.0.0.1:9900")));
    let admin = (server.admin.is_none()).then(|| (Verdict::Warn, lines("admin", "unix:/run/tidegate/admin.sock")));
    let word = |fault: &Option<_>| if fault.is_some() { "none" } else { "set" };
    [
        Finding::new("observe listener", word(&observe), "for /readyz, /metrics and the status page", observe),
        Finding::new("admin listener", word(&admin), "for `tidegate status`, `reload` and `drain`", admin),
    ]
}

/// 1 January 2025: before this program was.
const EARLIEST: Duration = Duration::from_secs(1_735_689_600);
const FEW_DAYS: u64 = 21;
const BAD_DAYS: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn examined(listener: &str, more: &str, facts: Facts) -> Vec<Finding> {
        let text = format!(
            "{more}\n[[listener]]\nbind = \":80\"\n{listener}\n[[route]]\nupstream = \"app\"\n\
             [upstream.app]\nendpoints = [\"10.0.0.1:80\", \"10.0.0.2:80\", \"unix:/x\"]\n"
        );
        let config = config::parse("test.toml", &text).unwrap_or_else(|faults| panic!("{faults}"));
        examine(&config, &facts, &[], SystemTime::UNIX_EPOCH + NOW)
    }

    fn judged(findings: &[Finding], what: &str) -> (Verdict, String) {
        let finding = findings
            .iter()
            .find(|finding| finding.what.contains(what))
            .unwrap_or_else(|| panic!("{what}: {findings:#?}"));
        (finding.verdict, finding.fix.clone())
    }

    #[test]
    fn of_what_cannot_be_read_nothing_is_said() {
        let findings = examined("", "", Facts::default());
        let said: Vec<_> = findings.iter().map(|finding| finding.what).collect();
        assert_eq!(said, ["clock", "observe listener", "admin listener"]);
    }

    #[test]
    fn certificates_are_told_before_they_end() {
        let now = SystemTime::UNIX_EPOCH + NOW;
        let verdict = |days: u64| {
            let not_after = now + Duration::from_secs(days * 86_400 + 60);
            end_of(&CertificateFact { file: "certs/a.pem".into(), not_after }, now).verdict
        };
        let seen = [0, 2, 3, 20, 21, 90].map(verdict);
        use Verdict::{Bad, Ok, Warn};
        assert_eq!(seen, [Bad, Bad, Warn, Warn, Ok, Ok]);
    }

    #[test]
    fn a_clock_that_was_never_set_is_bad() {
        assert_eq!(clock(&Facts::default(), SystemTime::UNIX_EPOCH).verdict, Verdict::Bad);
        let now = SystemTime::UNIX_EPOCH + NOW;
        assert_eq!(clock(&Facts::default(), now).verdict, Verdict::Ok);
        let facts = Facts { clock_synchronized: Some(false), ..Facts::default() };
        assert_eq!(clock(&facts, now).verdict, Verdict::Warn);
    }

    #[test]
    fn listeners_to_look_from_are_missed() {
        let findings = examined("", "[server]\nobserve.bind = \"127.0.0.1:9900\"", Facts::default());
        assert_eq!(judged(&findings, "observe").0, Verdict::Ok);
        assert_eq!(judged(&findings, "admin").0, Verdict::Warn);
    }
}
