//! Chooses the worker of a new connection. A long-lived connection stays with its worker, and the kernel distributes by
//! hash, not by load; so a worker that has clearly more connections than the least loaded one hands new ones over,
//! before TLS, as raw sockets in the other worker's command queue.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::io::RawSocket;

/// A connection on its way from the worker that accepted it to the one that will serve it, with its permit.
#[derive(Debug)]
pub struct HandedOver<P> {
    /// The socket, in no runtime.
    pub socket: RawSocket,
    /// The client's address; a Unix socket has none.
    pub remote: Option<SocketAddr>,
    /// What the accepting worker took for it.
    pub permit: P,
}

/// The open connections of every worker.
#[derive(Debug)]
pub struct Loads(Box<[Load]>);

/// On cache lines of its own: it is written at every accept and close of one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Load {
    /// Written by its worker alone.
    open: AtomicU32,
    /// Sent to the worker and not yet taken; written by whoever sends, which is rare.
    arriving: AtomicU32,
}

impl Loads {
    /// For `workers` workers, none with a connection.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Load::default()).collect())
    }

    /// Counts a connection that `me` serves from now on. To be called on the thread of worker `me` alone.
    pub fn opened(&self, me: usize) {
        let open = &self.0[me].open;
        open.store(open.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Takes one away. To be called on the thread of worker `me` alone.
    pub fn closed(&self, me: usize) {
        let open = &self.0[me].open;
        open.store(open.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }

    /// Counts a connection sent to `other`, so that the next worker that looks does not send there as well.
    pub fn sent_to(&self, other: usize) {
        self.0[other].arriving.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that was sent to `me` is here; [`Loads::opened`] counts it from now on.
    pub fn arrived(&self, me: usize) {
        self.0[me].arriving.fetch_sub(1, Ordering::Relaxed);
    }

    /// What `worker` holds, with what is on its way to it.
    pub fn of(&self, worker: usize) -> u32 {
        let load = &self.0[worker];
        load.open.load(Ordering::Relaxed).saturating_add(load.arriving.load(Ordering::Relaxed))
    }

    /// The least loaded worker, where `me` holds clearly more: by 8 connections and by an eighth. The slack keeps
    /// short connections, which even out by themselves, where they were accepted.
    pub fn better_worker(&self, me: usize) -> Option<usize> {
        let mine = self.of(me);
        // The usual case of a quiet worker reads no other's cache line.
        if mine <= SLACK {
            return None;
        }
        let (least, load) = (0..self.0.len()).map(|worker| (worker, self.of(worker))).min_by_key(|(_, load)| *load)?;
        (mine > load.saturating_add(SLACK.max(load / 8))).then_some(least)
    }
}

const SLACK: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(open: &[u32]) -> Loads {
        let loads = Loads::new(open.len());
        for (worker, count) in open.iter().enumerate() {
            (0..*count).for_each(|_| loads.opened(worker));
        }
        loads
    }

    #[test]
    fn a_small_difference_moves_nothing() {
        assert_eq!(loads(&[8, 0]).better_worker(0), None);
        assert_eq!(loads(&[108, 100]).better_worker(0), None);
        assert_eq!(loads(&[900, 800]).better_worker(0), None);
        assert_eq!(loads(&[50]).better_worker(0), None);
    }

    #[test]
    fn a_clear_difference_moves_to_the_least_loaded() {
        assert_eq!(loads(&[9, 0]).better_worker(0), Some(1));
        assert_eq!(loads(&[30, 12, 10, 25]).better_worker(0), Some(2));
        assert_eq!(loads(&[901, 800]).better_worker(0), Some(1));
        assert_eq!(loads(&[901, 800]).better_worker(1), None);
    }

    #[test]
    fn what_is_on_its_way_counts_until_it_is_closed() {
        let loads = loads(&[12, 0]);
        (0..4).for_each(|_| loads.sent_to(1));
        assert_eq!(loads.better_worker(0), None);
        loads.opened(1);
        loads.arrived(1);
        assert_eq!(loads.of(1), 4);
        loads.closed(1);
        assert_eq!(loads.of(1), 3);
    }

    #[test]
    fn workers_that_all_give_away_end_up_even() {
        let loads = loads(&[200, 0, 0, 0]);
        for _ in 0..700 {
            match loads.better_worker(0) {
                Some(other) => loads.opened(other),
                None => loads.opened(0),
            }
        }
        let counts: Vec<_> = (0..4).map(|worker| loads.of(worker)).collect();
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 900 / 4 / 8 + 1, "{counts:?}");
    }
}
