use super::*;
use crate::config;

fn read(text: &str) -> Config {
    config::parse("test.toml", text).unwrap_or_else(|faults| panic!("{faults}"))
}

fn site(listener: &str, more: &str) -> Config {
    let more = if more.contains("workers") { more.to_owned() } else { format!("[server]\nworkers = 2\n{more}") };
    read(&format!(
        "{more}\n[[listener]]\nbind = \":80\"\n{listener}\n[[route]]\nupstream = \"app\"\n\
         [upstream.app]\nendpoints = [\"10.0.0.1:80\", \"10.0.0.2:80\", \"unix:/x\"]\n"
    ))
}

fn examined(listener: &str, more: &str, facts: Facts) -> Vec<Finding> {
    examine(&site(listener, more), &facts)
}

fn judged(findings: &[Finding], what: &str) -> (Verdict, String) {
    let finding =
        findings.iter().find(|finding| finding.what.contains(what)).unwrap_or_else(|| panic!("{what}: {findings:#?}"));
    (finding.verdict, finding.fix.clone())
}

#[test]
fn descriptors_must_do_for_the_connections_that_are_promised() {
    let facts = |hard| Facts { descriptors: Some(Some(hard)), ..Facts::default() };
    let limit = "limits.max_connections = 10000";
    let (verdict, fix) = judged(&examined(limit, "", facts(20_000)), "descriptors");
    assert_eq!(verdict, Verdict::Bad);
    assert!(fix.contains("LimitNOFILE=20260"), "{fix}");
    assert_eq!(judged(&examined(limit, "", facts(20_260)), "descriptors").0, Verdict::Ok);
    assert_eq!(judged(&examined("", "", facts(1024)), "descriptors").0, Verdict::Warn);
    assert_eq!(judged(&examined("", "", facts(1 << 20)), "descriptors").0, Verdict::Ok);
}

#[test]
fn the_backlog_is_cut_by_the_kernel() {
    let facts = Facts { somaxconn: Some(128), max_syn_backlog: Some(256), syncookies: Some(false), ..Facts::default() };
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
fn quic_asks_for_large_buffers_by_itself() {
    let facts = Facts { rmem_max: Some(212_992), wmem_max: Some(8 << 20), ..Facts::default() };
    let tls = "protocols = [\"http3\", \"http1\"]\ntls.certificates = [{ cert = \"a.pem\", key = \"a.key\" }]";
    let findings = examined(tls, "", facts);
    assert_eq!(judged(&findings, "rmem_max"), (Verdict::Warn, "sysctl -w net.core.rmem_max=4194304".to_owned()));
    assert_eq!(judged(&findings, "wmem_max").0, Verdict::Ok);
    let facts = Facts { rmem_max: Some(212_992), ..Facts::default() };
    let upstream = "[upstream.far]\nendpoints = [\"10.0.0.1:443\"]\nprotocol = \"http3\"\ntls = true";
    assert_eq!(judged(&examined("", upstream, facts), "rmem_max").0, Verdict::Warn);
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

const MILLION: &str = r#"
[server]
workers = 2
[[listener]]
name = "pg"
bind = [":5432", "unix:/x"]
mode = "tcp"
upstream = "pg"
limits.max_connections = 1_000_000
[[listener]]
name = "dns"
bind = ":53"
mode = "udp"
upstream = "dns"
limits.max_connections = 50_000
socket.recv_buffer = "4MiB"
[upstream.pg]
endpoints = ["10.0.0.5:5432", "10.0.0.6:5432"]
source = ["10.0.0.8", "10.0.0.9"]
[upstream.dns]
endpoints = ["10.0.0.53:53"]
"#;

#[test]
fn a_million_sessions_are_counted_in_descriptors_and_ports() {
    let facts = Facts {
        descriptors: Some(Some(1 << 20)),
        nr_open: Some(1 << 20),
        file_max: Some(9_000_000),
        somaxconn: Some(4096),
        rmem_max: Some(212_992),
        local_ports: Some((32_768, 60_999)),
        conntrack_max: Some(262_144),
        ..Facts::default()
    };
    let short = short_of(&read(MILLION), &facts);
    let told: Vec<_> = short.iter().map(|one| (one.verdict, one.what, &*one.wanted, &*one.fix)).collect();
    assert_eq!(
        told,
        [
            (
                Verdict::Bad,
                "descriptors (hard limit)",
                "2051292 for 1050000 connections (max_connections)",
                "sysctl -w fs.nr_open=2051292\nLimitNOFILE=2051292 in the unit, or `ulimit -Hn 2051292` before the start",
            ),
            (Verdict::Warn, "net.core.rmem_max", "4194304 (recv_buffer)", "sysctl -w net.core.rmem_max=4194304",),
            (
                Verdict::Warn,
                "net.ipv4.ip_local_port_range",
                "50000 connections to 1 endpoint of `dns` (max_connections)",
                "sysctl -w net.ipv4.ip_local_port_range='1024 65535'\nor `source` with 2 addresses in [upstream.dns], or \
                 more endpoints",
            ),
            (
                Verdict::Warn,
                "net.ipv4.ip_local_port_range",
                "1000000 connections to 2 endpoints of `pg` from 2 addresses (max_connections)",
                "sysctl -w net.ipv4.ip_local_port_range='1024 65535'\nor `source` with 18 addresses in [upstream.pg], or \
                 more endpoints",
            ),
            (
                Verdict::Warn,
                "net.netfilter.nf_conntrack_max",
                "2100000, two for each connection (max_connections)",
                "sysctl -w net.netfilter.nf_conntrack_max=2100000",
            ),
        ]
    );
    let enough = Facts {
        descriptors: Some(Some(2_100_000)),
        nr_open: Some(2_100_000),
        rmem_max: Some(4 << 20),
        local_ports: Some((1_024, 65_535)),
        conntrack_max: None,
        ..facts
    };
    let sources: Vec<_> = (1..=8).map(|host| format!("\"10.0.1.{host}\"")).collect();
    let wide = MILLION.replace("\"10.0.0.8\", \"10.0.0.9\"", &sources.join(", "));
    assert_eq!(short_of(&read(&wide), &enough), []);
}

#[test]
fn what_nobody_wrote_is_no_shortage() {
    let small = Facts {
        descriptors: Some(Some(1024)),
        local_ports: Some((60_000, 60_999)),
        memory_limit: Some(1 << 20),
        processors: Some(1),
        ..Facts::default()
    };
    assert_eq!(short_of(&site("", ""), &small), []);
    // One listener without a limit: those of the others are the least there can be.
    let two = site("limits.max_connections = 2000\n[[listener]]\nbind = \":81\"", "");
    let short = short_of(&two, &small);
    assert_eq!(short[0].wanted, "at least 4264 for 2000 connections (max_connections)");
}

#[test]
fn streams_of_quic_take_a_descriptor_each_where_they_become_connections() {
    let of = |protocol: &str, alpn: &str| {
        read(&format!(
            "[server]\nworkers = 2\n[[listener]]\nname = \"far\"\nbind = \":4433\"\nmode = \"quic\"\n\
             alpn = {{ site = \"app\" }}\ntls.certificates = [{{ cert = \"a.pem\", key = \"a.key\" }}]\n\
             limits = {{ max_connections = 50, max_concurrent_streams = 200 }}\n\
             [upstream.app]\nendpoints = [\"10.0.0.1:5432\"]\n{protocol}\n{alpn}\n"
        ))
    };
    let facts = |hard| Facts { descriptors: Some(Some(hard)), ..Facts::default() };
    let short = short_of(&of("", ""), &facts(1024));
    // 50 times 200 streams, a socket for each worker with two more descriptors, and what the process keeps.
    assert_eq!(
        short[0].wanted,
        "10262 for 50 connections with 10000 streams (max_connections, max_concurrent_streams)"
    );
    assert_eq!(short_of(&of("", ""), &facts(10_262)), []);
    // Streams of connections that endpoints of QUIC share.
    assert_eq!(short_of(&of("protocol = \"quic\"\ntls = true", "alpn = \"site\""), &facts(1024)), []);
}
