//! Facts about the system: `/proc`, `/sys` and the cgroups, read below a root that tests can replace. What cannot be
//! read is `None`, and is not judged.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What was read; `None`: it could not be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Descriptors a process may have at most; `Some(None)`: unlimited.
    pub descriptors: Option<Option<u64>>,
    /// What a backlog is capped at.
    pub somaxconn: Option<u64>,
    /// Handshakes under way that a socket remembers without cookies.
    pub max_syn_backlog: Option<u64>,
    /// Whether handshakes go on without a place in the queue.
    pub syncookies: Option<bool>,
    /// The largest receive buffer that may be asked for, bytes.
    pub rmem_max: Option<u64>,
    /// The largest send buffer that may be asked for, bytes.
    pub wmem_max: Option<u64>,
    /// First and last port of our ends of connections.
    pub local_ports: Option<(u16, u16)>,
    /// Bit 1: for connections we make, bit 2: for those we accept.
    pub fast_open: Option<u64>,
    /// What a process's limit on descriptors can be raised to.
    pub nr_open: Option<u64>,
    /// Descriptors of all processes together.
    pub file_max: Option<u64>,
    /// Connections the packet filter can follow; `None`: it follows none.
    pub conntrack_max: Option<u64>,
    /// Processors that the affinity mask allows.
    pub processors: Option<usize>,
    /// Processors' worth of time that the cgroup allows.
    pub cpu_limit: Option<f64>,
    /// Bytes that the cgroup allows.
    pub memory_limit: Option<u64>,
    /// Whether a time service says that the clock is set; `None`: no service that tells.
    pub clock_synchronized: Option<bool>,
}

impl Facts {
    /// Reads what is below `root`; limits are those of process `pid`, or of this one.
    pub fn read(root: &Path, pid: Option<u32>) -> Self {
        let process = root.join("proc").join(pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string()));
        let sysctl = |name: &str| number(&root.join("proc/sys").join(name));
        let (cpu_limit, memory_limit) = cgroup_limits(root, &process);
        Self {
            descriptors: descriptors(&text(&process.join("limits")).unwrap_or_default()),
            somaxconn: sysctl("net/core/somaxconn"),
            max_syn_backlog: sysctl("net/ipv4/tcp_max_syn_backlog"),
            syncookies: sysctl("net/ipv4/tcp_syncookies").map(|value| value != 0),
            rmem_max: sysctl("net/core/rmem_max"),
            wmem_max: sysctl("net/core/wmem_max"),
            local_ports: text(&root.join("proc/sys/net/ipv4/ip_local_port_range")).and_then(|range| {
                let mut ports = range.split_whitespace().map(|port| port.parse().ok());
                Some((ports.next()??, ports.next()??))
            }),
            fast_open: sysctl("net/ipv4/tcp_fastopen"),
            nr_open: sysctl("fs/nr_open"),
            file_max: sysctl("fs/file-max"),
            conntrack_max: sysctl("net/netfilter/nf_conntrack_max"),
            processors: text(&process.join("status")).as_deref().and_then(processors),
            cpu_limit,
            memory_limit,
            clock_synchronized: clock(root),
        }
    }
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn number<T: FromStr>(path: &Path) -> Option<T> {
    text(path)?.trim().parse().ok()
}

/// The hard limit: the soft one is raised to it at start.
fn descriptors(limits: &str) -> Option<Option<u64>> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(None),
        hard => hard.parse().ok().map(Some),
    }
}

/// Counts a mask such as `Cpus_allowed:\tff,ffffffff`.
fn processors(status: &str) -> Option<usize> {
    let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:"))?;
    let ones = mask.chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum::<u32>();
    (ones > 0).then_some(ones as usize)
}

/// The least that the cgroup and those above it allow, of version 2 or 1.
fn cgroup_limits(root: &Path, process: &Path) -> (Option<f64>, Option<u64>) {
    let membership = text(&process.join("cgroup")).unwrap_or_default();
    let mounted = root.join("sys/fs/cgroup");
    let (mut cpu, mut memory): (Option<f64>, Option<u64>) = (None, None);
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let of = |controller: &str| controllers.split(',').any(|one| one == controller);
        let base = match controllers {
            "" => mounted.clone(),
            _ if of("memory") => mounted.join("memory"),
            _ if of("cpu") => mounted.join("cpu"),
            _ => continue,
        };
        for folder in folders(&base, path) {
            cpu = least(cpu, cpu_max(&folder), f64::min);
            memory = least(memory, memory_max(&folder), u64::min);
        }
    }
    (cpu, memory)
}

/// The folder of a cgroup and of each above it. In a container the path may be one of outside, and only the top is there.
fn folders(base: &Path, path: &str) -> Vec<PathBuf> {
    let inner = Path::new(path.trim_start_matches('/'));
    inner.ancestors().map(|part| base.join(part)).collect()
}

fn cpu_max(folder: &Path) -> Option<f64> {
    let (quota, period): (f64, f64) = match text(&folder.join("cpu.max")) {
        Some(line) => {
            let mut fields = line.split_whitespace();
            (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?)
        }
        None => (number(&folder.join("cpu.cfs_quota_us"))?, number(&folder.join("cpu.cfs_period_us"))?),
    };
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

fn memory_max(folder: &Path) -> Option<u64> {
    let bytes = number(&folder.join("memory.max")).or_else(|| number(&folder.join("memory.limit_in_bytes")))?;
    // Version 1 writes its "unlimited" as the largest multiple of a page.
    (bytes < 1 << 60).then_some(bytes)
}

fn least<T>(one: Option<T>, other: Option<T>, least: fn(T, T) -> T) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(least(one, other)),
        (one, other) => one.or(other),
    }
}

fn clock(root: &Path) -> Option<bool> {
    // systemd-timesyncd makes the folder at its start and the file once the clock is set.
    let folder = root.join("run/systemd/timesync");
    folder.exists().then(|| folder.join("synchronized").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn reads_what_is_there_and_leaves_out_what_is_not() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(Facts::read(root, None), Facts::default());
        write(
            root,
            "proc/self/limits",
            "Limit   Soft  Hard  Units\nMax open files            1024                 4096                 files\n",
        );
        write(root, "proc/7/limits", "Max open files            1024                 unlimited            files\n");
        write(root, "proc/self/status", "Name:\tx\nCpus_allowed:\t3,000000ff\n");
        write(root, "proc/sys/net/core/somaxconn", "128\n");
        write(root, "proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
        write(root, "proc/sys/net/ipv4/tcp_syncookies", "0\n");
        let facts = Facts::read(root, None);
        assert_eq!(facts.descriptors, Some(Some(4096)));
        assert_eq!(Facts::read(root, Some(7)).descriptors, Some(None));
        assert_eq!((facts.processors, facts.somaxconn), (Some(10), Some(128)));
        assert_eq!((facts.local_ports, facts.syncookies), (Some((32768, 60999)), Some(false)));
    }

    #[test]
    fn the_least_of_the_cgroups_above_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "proc/self/cgroup", "0::/a/b\n");
        write(root, "sys/fs/cgroup/a/cpu.max", "150000 100000\n");
        write(root, "sys/fs/cgroup/a/memory.max", "max\n");
        write(root, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
        write(root, "sys/fs/cgroup/a/b/memory.max", "1073741824\n");
        write(root, "sys/fs/cgroup/memory.max", "2147483648\n");
        let facts = Facts::read(root, None);
        assert_eq!((facts.cpu_limit, facts.memory_limit), (Some(1.5), Some(1 << 30)));
    }

    #[test]
    fn the_old_cgroups_are_read_as_well() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "proc/self/cgroup", "3:memory:/x\n2:cpu,cpuacct:/x\n1:name=systemd:/x\n");
        write(root, "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "200000\n");
        write(root, "sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n");
        write(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
        write(root, "sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712\n");
        let facts = Facts::read(root, None);
        assert_eq!((facts.cpu_limit, facts.memory_limit), (Some(2.0), None));
    }

    #[test]
    fn this_system_says_something() {
        let facts = Facts::read(Path::new("/"), None);
        assert!(facts.descriptors.is_some() && facts.processors.is_some());
    }
}
