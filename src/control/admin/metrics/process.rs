//! Metrics of the process: memory, processor time, file descriptors. Read from `/proc` at each scrape; unreadable
//! values are left out.

use std::fs;

use crate::control::limits;

/// The process as the system sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    /// Seconds.
    pub(super) cpu: Option<f64>,
    /// Bytes.
    pub(super) resident: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_fds: Option<u64>,
    /// `None`: unlimited.
    pub(super) max_fds: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self {
            cpu: cpu_seconds(&stat),
            resident: number_of(&status, "VmRSS:").map(|kib| kib * 1024),
            threads: number_of(&status, "Threads:"),
            open_fds: open_fds(),
            max_fds: limits::descriptor_limit(),
        }
    }
}

fn number_of(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// utime and stime are the 14th and 15th field (proc(5)); the name before them may hold anything but ends in `)`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

fn open_fds() -> Option<u64> {
    // Linux 6.2 and later tell the number as the size; counting entries takes long where there are many.
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        count => Some(count),
    }
}

/// What Linux counts the processor's time in towards user space, on every architecture that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        let process = Process::read();
        assert!(process.resident.unwrap() > 1 << 20);
        assert!(process.threads.unwrap() >= 1);
        assert!((3..100_000).contains(&process.open_fds.unwrap()));
        assert!(process.cpu.unwrap() >= 0.0);
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 250 13 14";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(cpu_seconds(""), None);
    }
}
