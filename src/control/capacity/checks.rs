//! The checks of system limits. Pure functions of the facts about the system.

use super::demand::{Demand, Spread, endpoints_of, spreads};
use super::{Facts, Finding, Verdict};
use crate::base::units::format_size;
use crate::config::Config;
use crate::control::limits::connections_within;

/// Every finding about this system, in the order in which a connection would meet its cause.
pub fn examine(config: &Config, facts: &Facts) -> Vec<Finding> {
    let demand = Demand::of(config, facts);
    let mut findings = Vec::new();
    findings.extend(descriptors(&demand, facts));
    findings.extend(backlog(&demand, facts));
    findings.extend(syn_backlog(&demand, facts));
    findings.extend(buffer("net.core.rmem_max", "recv_buffer", facts.rmem_max, demand.recv_buffer));
    findings.extend(buffer("net.core.wmem_max", "send_buffer", facts.wmem_max, demand.send_buffer));
    findings.extend(fast_open(config, facts));
    findings.extend(local_ports(config, facts));
    findings.extend(conntrack(&demand, facts));
    findings.extend(processors(config, facts));
    findings.extend(memory(&demand, facts));
    findings
}

fn set(name: &str, value: impl std::fmt::Display) -> String {
    format!("sysctl -w {name}={value}")
}

fn descriptors(demand: &Demand, facts: &Facts) -> Option<Finding> {
    let what = "descriptors (hard limit)";
    let Some(hard) = facts.descriptors? else { return Some(Finding::new(what, "unlimited", "", None)) };
    let raise = |to: u64| {
        let mut fix = format!("LimitNOFILE={to} in the unit, or `ulimit -Hn {to}` before the start");
        // The kernel's own bounds come first: above them the unit's line is refused.
        for (name, granted) in [("fs.nr_open", facts.nr_open), ("fs.file-max", facts.file_max)] {
            if granted.is_some_and(|granted| granted < to) {
                fix = format!("{}\n{fix}", set(name, to));
            }
        }
        fix
    };
    let needed = demand.descriptors;
    if let Some(written) = demand.written.filter(|_| demand.is_bounded || hard < needed) {
        let at_least = if demand.is_bounded { "" } else { "at least " };
        let streams = match demand.streams {
            0 => String::new(),
            streams => format!(" with {streams} streams"),
        };
        let keys = if demand.streams > 0 { "max_connections, max_concurrent_streams" } else { "max_connections" };
        let wanted = format!("{at_least}{needed} for {written} connections{streams} ({keys})");
        return Some(Finding::new(
            what,
            hard.to_string(),
            wanted,
            (hard < needed).then(|| (Verdict::Bad, raise(needed))),
        ));
    }
    let allowed = u64::from(connections_within(Some(hard)));
    let wanted = format!("allows {allowed} connections; {FEW_CONNECTIONS} or more is usual");
    let few = (allowed < FEW_CONNECTIONS).then(|| (Verdict::Warn, raise(GOOD_DESCRIPTORS)));
    Some(Finding::new(what, hard.to_string(), wanted, few).rule_of_thumb())
}

fn backlog(demand: &Demand, facts: &Facts) -> Option<Finding> {
    let (backlog, granted) = (u64::from(demand.backlog?), facts.somaxconn?);
    let name = "net.core.somaxconn";
    let wanted = format!("{backlog} (backlog)");
    Some(Finding::new(
        name,
        granted.to_string(),
        wanted,
        (granted < backlog).then(|| (Verdict::Warn, set(name, backlog))),
    ))
}

fn syn_backlog(demand: &Demand, facts: &Facts) -> Option<Finding> {
    let (backlog, granted) = (u64::from(demand.backlog?), facts.max_syn_backlog?);
    let name = "net.ipv4.tcp_max_syn_backlog";
    // With cookies a full queue costs options of the handshake, not the connection.
    if facts.syncookies == Some(true) {
        return Some(Finding::new(name, granted.to_string(), "any, with tcp_syncookies on", None));
    }
    let wanted = format!("{backlog} (backlog), tcp_syncookies being off");
    let fix = (granted < backlog)
        .then(|| (Verdict::Warn, format!("{}\n{}", set("net.ipv4.tcp_syncookies", 1), set(name, backlog))));
    Some(Finding::new(name, granted.to_string(), wanted, fix))
}

fn buffer(name: &'static str, key: &str, granted: Option<u64>, wanted: Option<u32>) -> Option<Finding> {
    let (granted, wanted) = (granted?, u64::from(wanted?));
    let short = (granted < wanted).then(|| (Verdict::Warn, set(name, wanted)));
    Some(Finding::new(name, granted.to_string(), format!("{wanted} ({key})"), short))
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
    Some(Finding::new(name, granted.to_string(), format!("bits of {needed} set (fast_open)"), fix))
}

/// Each connection takes a port of ours, of which every address of ours has as many for each endpoint.
fn local_ports(config: &Config, facts: &Facts) -> Vec<Finding> {
    let (Some((first, last)), true) =
        (facts.local_ports, config.upstreams.iter().any(|one| endpoints_of(one).is_some()))
    else {
        return Vec::new();
    };
    let ports = u64::from(last.saturating_sub(first)) + 1;
    let name = "net.ipv4.ip_local_port_range";
    let found = format!("{first} {last}: {ports} ports");
    let spreads = spreads(config);
    if spreads.is_empty() {
        let few = (ports < FEW_PORTS).then(|| (Verdict::Warn, set(name, WIDE_PORTS)));
        let wanted = "as many connections at a time to one endpoint";
        return vec![Finding::new(name, found, wanted, few).rule_of_thumb()];
    }
    let each = |spread: &Spread<'_>| {
        let Spread { upstream, needed, endpoints, sources } = spread;
        let from = if *sources > 1 { format!(" from {sources} addresses") } else { String::new() };
        let plural = if *endpoints == 1 { "" } else { "s" };
        let wanted = format!(
            "{needed} connections to {endpoints} endpoint{plural} of `{}`{from} (max_connections)",
            upstream.name
        );
        let capacity = ports.saturating_mul(*endpoints).saturating_mul(*sources);
        let fix = || {
            let wide = if last - first < WIDE_PORT_COUNT { set(name, WIDE_PORTS) + "\nor " } else { String::new() };
            let addresses = needed.div_ceil((ports * endpoints).max(1));
            format!("{wide}`source` with {addresses} addresses in [upstream.{}], or more endpoints", upstream.name)
        };
        Finding::new(name, found.clone(), wanted, (capacity < *needed).then(|| (Verdict::Warn, fix())))
    };
    spreads.iter().map(each).collect()
}

/// Once its table is full, the packet filter drops packets of new connections without a word to us.
fn conntrack(demand: &Demand, facts: &Facts) -> Option<Finding> {
    let granted = facts.conntrack_max?;
    let name = "net.netfilter.nf_conntrack_max";
    let needed = demand.written? * 2;
    let short = (granted < needed).then(|| (Verdict::Warn, set(name, needed)));
    Some(Finding::new(name, granted.to_string(), format!("{needed}, two for each connection (max_connections)"), short))
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
    Some(Finding::new("processors", found, format!("{workers} (workers)"), fix).rule_of_thumb())
}

fn memory(demand: &Demand, facts: &Facts) -> Option<Finding> {
    let limit = facts.memory_limit?;
    let relayed = demand.relayed.min(demand.connections);
    let needed = (demand.connections - relayed) * MEMORY_OF_A_CONNECTION + relayed * MEMORY_OF_A_SESSION;
    let affordable = demand.connections.saturating_mul(limit) / needed.max(1);
    let wanted = format!("{} for {} busy connections", format_size(needed), demand.connections);
    let fix = (limit < needed).then(|| {
        let help = format!(
            "`limits.max_connections` of {affordable} together in the listeners, or MemoryMax={needed} in the unit"
        );
        (Verdict::Warn, help)
    });
    Some(Finding::new("memory (cgroup)", format_size(limit), wanted, fix).rule_of_thumb())
}

/// Fewer than this is a limit somebody forgot: the usual 1,024 descriptors of a shell.
const FEW_CONNECTIONS: u64 = 10_000;
/// What the unit in deploy/systemd asks for.
const GOOD_DESCRIPTORS: u64 = 1_048_576;
/// Fewer than the kernel's own default of 28,232 has been set by somebody.
const FEW_PORTS: u64 = 28_000;
const WIDE_PORTS: &str = "'1024 65535'";
const WIDE_PORT_COUNT: u16 = 65_535 - 1_024;
/// Both sockets with a TLS session and buffers under way; an idle one takes far less.
const MEMORY_OF_A_CONNECTION: u64 = 64 << 10;
/// Both sockets in the kernel with a little under way; our own state is small beside it.
const MEMORY_OF_A_SESSION: u64 = 16 << 10;
