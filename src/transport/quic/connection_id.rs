//! Connection IDs that identify the worker, so that packets still reach it after a client changed its address
//! (sans-io). An ID has a byte that is the worker's number modulo the number of workers, a byte for this process,
//! random bytes, and a check value that identifies IDs of ours. RFC 9000 §5.1; the program of `net::reuseport_bpf`
//! reads the first byte.

use std::hash::Hasher;
use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use rustc_hash::FxHasher;

/// Bytes of each of them.
pub const LENGTH: usize = 10;

/// What makes and reads the IDs of one process.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionIds {
    /// Workers that share an address.
    workers: u8,
    /// Tells this process apart from others whose connections it may be asked about.
    generation: u8,
    /// Kept secret, so that others cannot make IDs that pass.
    seed: u64,
}

/// Makes the IDs of one worker's connections.
#[derive(Debug)]
pub struct Generator {
    ids: ConnectionIds,
    worker: u8,
}

impl ConnectionIds {
    /// More workers than this cannot be told apart by a byte.
    pub const MOST_WORKERS: usize = 255;

    /// IDs for that many workers, at most [`Self::MOST_WORKERS`].
    pub fn new(workers: usize, generation: u8, seed: u64) -> Self {
        let workers = workers.clamp(1, Self::MOST_WORKERS) as u8;
        Self { workers, generation, seed }
    }

    /// Makes IDs for one worker.
    pub fn generator(self, worker: usize) -> Generator {
        Generator { ids: self, worker: (worker % usize::from(self.workers)) as u8 }
    }

    /// Whom a datagram is for that worker `own` received; `None`: for itself, as far as one can tell.
    pub fn stranger(&self, own: usize, datagram: &[u8]) -> Option<usize> {
        let id = destination(datagram)?;
        let worker = usize::from(*id.first()? % self.workers);
        // What is no ID of ours, of before a restart, say, is anybody's to answer.
        (worker != own && id[1] == self.generation && self.is_ours(id)).then_some(worker)
    }

    /// Whether one who knows the seed made it, in this process or in another one.
    fn is_ours(&self, id: &[u8]) -> bool {
        id.len() == LENGTH && id[CHECKED..] == self.check(&id[..CHECKED])
    }

    fn make(&self, worker: u8) -> [u8; LENGTH] {
        // Any byte that leads to the worker, so that the numbers say less to those who look on.
        let turns = (u8::MAX - worker) / self.workers;
        let mut id = [0; LENGTH];
        id[0] = worker + self.workers * fastrand::u8(..=turns);
        id[1] = self.generation;
        id[2..CHECKED].fill_with(|| fastrand::u8(..));
        let check = self.check(&id[..CHECKED]);
        id[CHECKED..].copy_from_slice(&check);
        id
    }

    fn check(&self, checked: &[u8]) -> [u8; LENGTH - CHECKED] {
        let mut hasher = FxHasher::default();
        hasher.write_u64(self.seed);
        hasher.write(checked);
        // Stirred once more: a byte that changes shall change all of them.
        hasher.write_u64(self.seed.rotate_left(32));
        let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
        [a, b, c, d]
    }
}

/// The destination connection ID of a datagram's first packet, as long as ours are; `None`: it has none of that length.
fn destination(datagram: &[u8]) -> Option<&[u8]> {
    let (first, rest) = datagram.split_first()?;
    if first & LONG_HEADER == 0 {
        // RFC 9000 §17.3: the ID follows at once, and its length is known to whoever gave it.
        return rest.get(..LENGTH);
    }
    // RFC 9000 §17.2: a version of four bytes, then the ID's length.
    let (length, rest) = rest.get(4..)?.split_first()?;
    rest.get(..LENGTH).filter(|_| usize::from(*length) == LENGTH)
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.ids.make(self.worker))
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if self.ids.is_ours(id) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// RFC 9000 §17.2.
const LONG_HEADER: u8 = 0x80;
/// What the check covers; it follows.
const CHECKED: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn short(id: &[u8]) -> Vec<u8> {
        [&[0x40], id, &[7; 20]].concat()
    }

    fn long(id: &[u8]) -> Vec<u8> {
        [&[0xc0, 0, 0, 0, 1, id.len() as u8], id, &[7; 20]].concat()
    }

    #[test]
    fn a_datagram_leads_to_the_worker_that_made_its_id_and_to_nobody_else() {
        for workers in [1, 2, 3, 7, 64, 200, 255] {
            let ids = ConnectionIds::new(workers, 9, 77);
            for worker in 0..workers {
                let id = ids.generator(worker).generate_cid();
                assert_eq!(usize::from(id[0]) % workers, worker);
                for datagram in [short(&id), long(&id)] {
                    assert_eq!(ids.stranger(worker, &datagram), None);
                    let other = (worker + 1) % workers;
                    assert_eq!(ids.stranger(other, &datagram), (workers > 1).then_some(worker));
                }
            }
        }
    }

    #[test]
    fn what_no_worker_of_this_process_made_stays_where_it_is() {
        let ids = ConnectionIds::new(4, 1, 5);
        let id = ids.generator(2).generate_cid();
        for (generation, seed) in [(2, 5), (1, 6)] {
            let others = ConnectionIds::new(4, generation, seed);
            assert_eq!(others.stranger(0, &short(&id)), None);
        }
        for byte in 0..LENGTH {
            let mut forged = id.to_vec();
            forged[byte] ^= 0x10;
            assert_eq!(ids.stranger(3, &short(&forged)), None, "byte {byte}");
        }
        // Another length of the ID, and datagrams that end early.
        assert_eq!(ids.stranger(0, &long(&id[..8])), None);
        for datagram in [short(&id), long(&id)] {
            for end in 0..LENGTH {
                assert_eq!(ids.stranger(0, &datagram[..end]), None);
            }
        }
    }

    #[test]
    fn random_datagrams_are_nobody_elses() {
        fastrand::seed(11);
        let ids = ConnectionIds::new(2, 0, 3);
        for _ in 0..20_000 {
            let datagram: Vec<u8> = (0..fastrand::usize(..40)).map(|_| fastrand::u8(..)).collect();
            assert_eq!(ids.stranger(0, &datagram), None);
            assert_eq!(ids.stranger(1, &datagram), None);
        }
    }

    #[test]
    fn a_process_with_the_same_seed_knows_the_ids_of_the_one_before() {
        let id = ConnectionIds::new(4, 1, 5).generator(3).generate_cid();
        // With another number of workers, too.
        assert!(ConnectionIds::new(2, 200, 5).generator(0).validate(&id).is_ok());
        assert!(ConnectionIds::new(2, 200, 6).generator(0).validate(&id).is_err());
    }

    #[test]
    fn ids_do_not_repeat() {
        let mut generator = ConnectionIds::new(2, 0, 1).generator(1);
        let ids: std::collections::HashSet<_> = (0..10_000).map(|_| generator.generate_cid().to_vec()).collect();
        // Four random bytes and a turn: a repetition is one in hundreds, and quinn draws again.
        assert!(ids.len() > 9_990);
    }
}
