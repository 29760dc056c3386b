//! What the configuration asks of the system, beside what the system grants. Pure: facts and time come as arguments.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::facts::Facts;
use super::{Finding, Verdict};
use crate::base::units::format_size;
use crate::config::Config;
use crate::config::model::{Bind, EndpointAddress, SocketOptions, Upstream};
use crate::control::limits::{RESERVED_DESCRIPTORS, connections_within};
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

/// Every finding, in the order in which a connection would meet its cause.
pub(super) fn examine(
    config: &Config,
    facts: &Facts,
    certificates: &[CertificateFact],
    now: SystemTime,
) -> Vec<Finding> {
    let demand = Demand::of(config, facts);
    let mut findings = Vec::new();
    findings.extend(descriptors(&demand, facts));
    findings.extend(backlog(&demand, facts));
    findings.extend(syn_backlog(&demand, facts));
    findings.extend(buffer("net.core.rmem_max", "recv_buffer", facts.rmem_max, demand.recv_buffer));
    findings.extend(buffer("net.core.wmem_max", "send_buffer", facts.wmem_max, demand.send_buffer));
    findings.extend(fast_open(config, facts));
    findings.extend(local_ports(config, &demand, facts));
    findings.extend(conntrack(&demand, facts));
    findings.extend(processors(config, facts));
    findings.extend(memory(&demand, facts));
    findings.push(clock(facts, now));
    findings.extend(certificates.iter().map(|certificate| end_of(certificate, now)));
    findings.extend(control_listeners(config));
    findings
}

/// What a configuration asks for.
struct Demand {
    /// The sum of `max_connections`, where every listener has one.
    written: Option<u64>,
    /// Connections that can be open at a time.
    connections: u64,
    /// The largest; `None`: no TCP listener.
    backlog: Option<u32>,
    recv_buffer: Option<u32>,
    send_buffer: Option<u32>,
}

impl Demand {
    fn of(config: &Config, facts: &Facts) -> Self {
        let written = config.listeners.iter().map(|listener| listener.limits.max_connections.map(u64::from)).sum();
        let possible = u64::from(connections_within(facts.descriptors.flatten()));
        let tcp = config.listeners.iter().filter(|one| one.binds.iter().any(|bind| !matches!(bind, Bind::Unix(_))));
        let sockets = || {
            let upstreams = config.upstreams.iter().map(|upstream| &upstream.socket);
            config.listeners.iter().map(|listener| &listener.socket).chain(upstreams)
        };
        let largest = |size: fn(&SocketOptions) -> Option<u32>| sockets().filter_map(size).max();
        Self {
            written,
            connections: written.map_or(possible, |written: u64| written.min(possible)),
            backlog: tcp.map(|listener| listener.socket.backlog).max(),
            recv_buffer: largest(|socket| socket.recv_buffer),
            send_buffer: largest(|socket| socket.send_buffer),
        }
    }
}

fn finding(
    what: &'static str,
    found: impl Into<String>,
    wanted: impl Into<String>,
    otherwise: Option<(Verdict, String)>,
) -> Finding {
    let (verdict, fix) = otherwise.unwrap_or((Verdict::Ok, String::new()));
    Finding { verdict, what, found: found.into(), wanted: wanted.into(), fix }
}

fn set(name: &str, value: impl std::fmt::Display) -> String {
    format!("sysctl -w {name}={value}")
}

fn descriptors(demand: &Demand, facts: &Facts) -> Option<Finding> {
    let what = "descriptors (hard limit)";
    let Some(hard) = facts.descriptors? else { return Some(finding(what, "unlimited", "", None)) };
    let allowed = u64::from(connections_within(Some(hard)));
    let raise = |to: u64| format!("LimitNOFILE={to} in the unit, or `ulimit -Hn {to}` before the start");
    Some(match demand.written {
        Some(written) => {
            let needed = written * 2 + RESERVED_DESCRIPTORS;
            let wanted = format!("{needed} for {written} connections (max_connections)");
            finding(what, hard.to_string(), wanted, (hard < needed).then(|| (Verdict::Bad, raise(needed))))
        }
        None => {
            let wanted = format!("allows {allowed} connections; {FEW_CONNECTIONS} or more is usual");
            let few = (allowed < FEW_CONNECTIONS).then(|| (Verdict::Warn, raise(GOOD_DESCRIPTORS)));
            finding(what, hard.to_string(), wanted, few)
        }
    })
}

fn backlog(demand: &Demand, facts: &Facts) -> Option<Finding> {
    let (backlog, granted) = (u64::from(demand.backlog?), facts.somaxconn?);
    let name = "net.core.somaxconn";
    let wanted = format!("{backlog} (backlog)");
    Some(finding(name, granted.to_string(), wanted, (granted < backlog).then(|| (Verdict::Warn, set(name, backlog)))))
}

fn syn_backlog(demand: &Demand, facts: &Facts) -> Option<Finding> {
    let (backlog, granted) = (u64::from(demand.backlog?), facts.max_syn_backlog?);
    let name = "net.ipv4.tcp_max_syn_backlog";
    // With cookies a full queue costs options of the handshake, not the connection.
    if facts.syncookies == Some(true) {
        return Some(finding(name, granted.to_string(), "any, with tcp_syncookies on", None));
    }
    let wanted = format!("{backlog} (backlog), tcp_syncookies being off");
    let fix = (granted < backlog)
        .then(|| (Verdict::Warn, format!("{}\n{}", set("net.ipv4.tcp_syncookies", 1), set(name, backlog))));
    Some(finding(name, granted.to_string(), wanted, fix))
}

fn buffer(name: &'static str, key: &str, granted: Option<u64>, wanted: Option<u32>) -> Option<Finding> {
    let (granted, wanted) = (granted?, u64::from(wanted?));
    let short = (granted < wanted).then(|| (Verdict::Warn, set(name, wanted)));
    Some(finding(name, granted.to_string(), format!("{wanted} ({key})"), short))
}

fn fast_open(config: &Config, facts: &Facts) -> Option<Finding> {
    let granted = facts.fast_open?;
    let accepts = config.listeners.iter().any(|listener| listener.socket.fast_open);
    let connects = config.upstreams.iter().any(|upstream| upstream.socket.fast_open);
    let needed = u64::from(connects) | u64::from(accepts) << 1;
    if needed == 0 {
        return None;
    }
    let name = "net.ipv4.tcp_fastopen";
    let lacks = granted & needed != needed;
    let fix = lacks.then(|| (Verdict::Warn, set(name, granted | needed)));
    Some(finding(name, granted.to_string(), format!("bits of {needed} set (fast_open)"), fix))
}

/// Each connection to one endpoint takes a port of ours, so the ports are as many as there can be at a time.
fn local_ports(config: &Config, demand: &Demand, facts: &Facts) -> Option<Finding> {
    let (first, last) = facts.local_ports?;
    let ports = u64::from(last.saturating_sub(first)) + 1;
    let endpoints = config.upstreams.iter().filter_map(tcp_endpoints).min()?;
    let name = "net.ipv4.ip_local_port_range";
    let (found, each) = (format!("{first} {last}: {ports} ports"), demand.connections.div_ceil(endpoints));
    if demand.written.is_none() {
        let few = (ports < FEW_PORTS).then(|| (Verdict::Warn, set(name, WIDE_PORTS)));
        return Some(finding(name, found, "as many connections at a time to one endpoint", few));
    }
    let wanted = format!("{each} connections to one endpoint, each request on its own (max_connections)");
    let fix = (ports < each)
        .then(|| (Verdict::Warn, format!("{}\nor more endpoints, or `protocol = \"http2\"`", set(name, WIDE_PORTS))));
    Some(finding(name, found, wanted, fix))
}

/// How many a TCP upstream has; a name may stand for more.
fn tcp_endpoints(upstream: &Upstream) -> Option<u64> {
    let tcp = upstream.endpoints.iter().filter(|endpoint| !matches!(endpoint.address, EndpointAddress::Unix(_)));
    Some(tcp.count() as u64).filter(|count| *count > 0)
}

/// Once its table is full, the packet filter drops packets of new connections without a word to us.
fn conntrack(demand: &Demand, facts: &Facts) -> Option<Finding> {
    let granted = facts.conntrack_max?;
    let name = "net.netfilter.nf_conntrack_max";
    let needed = demand.written? * 2;
    let short = (granted < needed).then(|| (Verdict::Warn, set(name, needed)));
    Some(finding(name, granted.to_string(), format!("{needed}, two for each connection (max_connections)"), short))
}

fn processors(config: &Config, facts: &Facts) -> Option<Finding> {
    let mask = facts.processors?;
    let allowed = facts.cpu_limit.map_or(mask, |limit| mask.min((limit.ceil() as usize).max(1)));
    let found = match facts.cpu_limit {
        Some(limit) => format!("{mask}, {limit} of them by the cgroup"),
        None => mask.to_string(),
    };
    let workers = config.server.workers;
    let help = || {
        format!("`workers = \"auto\"` in [server], or {workers} processors in the cgroup (CPUQuota={}%)", workers * 100)
    };
    let fix = (workers > allowed).then(|| (Verdict::Warn, help()));
    Some(finding("processors", found, format!("{workers} (workers)"), fix))
}

fn memory(demand: &Demand, facts: &Facts) -> Option<Finding> {
    let limit = facts.memory_limit?;
    let affordable = limit / MEMORY_OF_A_CONNECTION;
    let needed = demand.connections * MEMORY_OF_A_CONNECTION;
    let wanted = format!("{} for {} busy connections", format_size(needed), demand.connections);
    let fix = (limit < needed).then(|| {
        let help = format!(
            "`limits.max_connections` of {affordable} together in the listeners, or MemoryMax={needed} in the unit"
        );
        (Verdict::Warn, help)
    });
    Some(finding("memory (cgroup)", format_size(limit), wanted, fix))
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
    finding("clock", date, "the right time: certificates are judged by it", fault)
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
    finding("certificate", format!("{}: {days} day{plural} left", name.display()), format!("{FEW_DAYS} days"), fault)
}

fn control_listeners(config: &Config) -> [Finding; 2] {
    let lines = |name: &str, bind: &str| format!("[server.{name}] with `bind = \"{bind}\"`");
    let server = &config.server;
    let observe = (server.observe.is_none()).then(|| (Verdict::Warn, lines("observe", "127.0.0.1:9900")));
    let admin = (server.admin.is_none()).then(|| (Verdict::Warn, lines("admin", "unix:/run/tidegate/admin.sock")));
    let word = |fault: &Option<_>| if fault.is_some() { "none" } else { "set" };
    [
        finding("observe listener", word(&observe), "for /readyz, /metrics and the status page", observe),
        finding("admin listener", word(&admin), "for `tidegate status`, `reload` and `drain`", admin),
    ]
}

/// Fewer than this is a limit somebody forgot: the usual 1,024 descriptors of a shell.
const FEW_CONNECTIONS: u64 = 10_000;
/// What the unit in deploy/systemd asks for.
const GOOD_DESCRIPTORS: u64 = 1_048_576;
/// Fewer than the kernel's own default of 28,232 has been set by somebody.
const FEW_PORTS: u64 = 28_000;
const WIDE_PORTS: &str = "'1024 65535'";
/// Both sockets with a TLS session and buffers under way; an idle one takes far less.
const MEMORY_OF_A_CONNECTION: u64 = 64 << 10;
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
    fn descriptors_must_do_for_the_connections_that_are_promised() {
        let facts = |hard| Facts { descriptors: Some(Some(hard)), ..Facts::default() };
        let limit = "limits.max_connections = 10000";
        let (verdict, fix) = judged(&examined(limit, "", facts(20_000)), "descriptors");
        assert_eq!(verdict, Verdict::Bad);
        assert!(fix.contains("LimitNOFILE=20256"), "{fix}");
        assert_eq!(judged(&examined(limit, "", facts(20_256)), "descriptors").0, Verdict::Ok);
        assert_eq!(judged(&examined("", "", facts(1024)), "descriptors").0, Verdict::Warn);
        assert_eq!(judged(&examined("", "", facts(1 << 20)), "descriptors").0, Verdict::Ok);
    }

    #[test]
    fn the_backlog_is_cut_by_the_kernel() {
        let facts =
            Facts { somaxconn: Some(128), max_syn_backlog: Some(256), syncookies: Some(false), ..Facts::default() };
        let findings = examined("", "", facts.clone());
        assert_eq!(judged(&findings, "somaxconn"), (Verdict::Warn, "sysctl -w net.core.somaxconn=4096".to_owned()));
        let (verdict, fix) = judged(&findings, "tcp_max_syn_backlog");
        assert_eq!(verdict, Verdict::Warn);
        assert!(fix.contains("sysctl -w net.ipv4.tcp_syncookies=1"), "{fix}");
        let cookies = Facts { syncookies: Some(true), ..facts.clone() };
        assert_eq!(judged(&examined("", "", cookies), "tcp_max_syn_backlog").0, Verdict::Ok);
        assert_eq!(judged(&examined("socket.backlog = 100", "", facts), "somaxconn").0, Verdict::Ok);
    }

    #[test]
    fn buffers_and_fast_open_are_looked_at_where_they_are_asked_for() {
        let facts = Facts { rmem_max: Some(212_992), wmem_max: Some(212_992), fast_open: Some(1), ..Facts::default() };
        let findings = examined("", "", facts.clone());
        assert!(findings.iter().all(|finding| !finding.what.contains("mem_max") && !finding.what.contains("fastopen")));
        let findings =
            examined("socket = { recv_buffer = \"1MiB\", send_buffer = \"64KiB\", fast_open = true }", "", facts);
        assert_eq!(judged(&findings, "rmem_max"), (Verdict::Warn, "sysctl -w net.core.rmem_max=1048576".to_owned()));
        assert_eq!(judged(&findings, "wmem_max").0, Verdict::Ok);
        assert_eq!(judged(&findings, "fastopen"), (Verdict::Warn, "sysctl -w net.ipv4.tcp_fastopen=3".to_owned()));
    }

    #[test]
    fn ports_are_shared_out_by_endpoint() {
        let facts = |ports| Facts { local_ports: Some(ports), ..Facts::default() };
        let limit = "limits.max_connections = 100000";
        let (verdict, fix) = judged(&examined(limit, "", facts((32_768, 60_999))), "port_range");
        assert_eq!(verdict, Verdict::Warn);
        assert!(fix.contains("ip_local_port_range='1024 65535'"), "{fix}");
        assert_eq!(judged(&examined(limit, "", facts((1_024, 65_535))), "port_range").0, Verdict::Ok);
        assert_eq!(judged(&examined("", "", facts((32_768, 60_999))), "port_range").0, Verdict::Ok);
        assert_eq!(judged(&examined("", "", facts((60_000, 60_999))), "port_range").0, Verdict::Warn);
    }

    #[test]
    fn a_packet_filter_follows_both_connections() {
        let facts = |max| Facts { conntrack_max: Some(max), ..Facts::default() };
        let limit = "limits.max_connections = 100000";
        assert_eq!(judged(&examined(limit, "", facts(65_536)), "conntrack").0, Verdict::Warn);
        assert_eq!(judged(&examined(limit, "", facts(262_144)), "conntrack").0, Verdict::Ok);
    }

    #[test]
    fn workers_and_connections_must_fit_into_the_cgroup() {
        let facts = Facts {
            processors: Some(8),
            cpu_limit: Some(1.5),
            memory_limit: Some(64 << 20),
            descriptors: Some(Some(100_000)),
            ..Facts::default()
        };
        let findings = examined("", "[server]\nworkers = 4", facts.clone());
        assert_eq!(judged(&findings, "processors").0, Verdict::Warn);
        let (verdict, fix) = judged(&findings, "memory");
        assert_eq!(verdict, Verdict::Warn);
        assert!(fix.contains("max_connections` of 1024"), "{fix}");
        let findings = examined("limits.max_connections = 1000", "[server]\nworkers = 2", facts);
        assert_eq!(judged(&findings, "processors").0, Verdict::Ok);
        assert_eq!(judged(&findings, "memory").0, Verdict::Ok);
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
