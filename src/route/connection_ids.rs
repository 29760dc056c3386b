//! Which endpoint issued which QUIC connection ID, over all workers of a listener. For a datagram relay, a client that
//! changed its address is a new client, possibly on another worker, but its packets name the connection they belong to
//! (RFC 9000 §5.1). Looked up for clients without a flow, filled from the first packets of endpoints; bounded, the
//! oldest entry is removed.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connection IDs with their endpoints.
#[derive(Debug, Default)]
pub struct ConnectionIds {
    shards: [Mutex<Shard>; SHARDS],
    /// Which lengths there are, a bit each: a short header does not say how long its connection ID is.
    lengths: AtomicU32,
    /// Keyed: endpoints choose the IDs.
    hash: RandomState,
}

/// An endpoint of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The endpoint's address.
    pub endpoint: SocketAddr,
}

#[derive(Debug, Default)]
struct Shard {
    places: HashMap<Id, Place>,
    /// The oldest first.
    order: VecDeque<Id>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Id {
    length: u8,
    bytes: [u8; LONGEST],
}

impl ConnectionIds {
    /// Notes that `endpoint` chose `id` for itself. Too short a one is not noted: others might have the same.
    pub fn learn(&self, id: &[u8], place: &Place) {
        let Some(id) = Id::new(id).filter(|id| usize::from(id.length) >= SHORTEST) else { return };
        let mut shard = self.shard(&id);
        if shard.places.insert(id, place.clone()).is_none() {
            shard.order.push_back(id);
            if shard.order.len() > MOST / SHARDS
                && let Some(oldest) = shard.order.pop_front()
            {
                shard.places.remove(&oldest);
            }
        }
        drop(shard);
        // The store comes after the entry is there: who sees the length finds the entry.
        self.lengths.fetch_or(1 << id.length, Ordering::Release);
    }

    /// Who chose the connection ID of a packet with a long header.
    pub fn find(&self, id: &[u8]) -> Option<Place> {
        let id = Id::new(id)?;
        if self.lengths.load(Ordering::Acquire) & 1 << id.length == 0 {
            return None;
        }
        self.shard(&id).places.get(&id).cloned()
    }

    /// Who chose the connection ID that `bytes`, a packet with a short header without its first byte, begin with.
    pub fn find_beginning(&self, bytes: &[u8]) -> Option<Place> {
        let lengths = self.lengths.load(Ordering::Acquire);
        // The longest first: a shorter one may begin as it does.
        (SHORTEST..=LONGEST.min(bytes.len()))
            .rev()
            .filter(|length| lengths & 1 << length != 0)
            .find_map(|length| self.find(&bytes[..length]))
    }

    fn shard(&self, id: &Id) -> MutexGuard<'_, Shard> {
        let index = self.hash.hash_one(id) as usize % SHARDS;
        // Nothing is half-done where a panic may come.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Id {
    fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; LONGEST];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        Some(Self { length: id.len() as u8, bytes })
    }
}

/// RFC 9000 §17.2.
const LONGEST: usize = 20;
/// Four bytes are guessed by chance once in four billion datagrams.
const SHORTEST: usize = 4;
/// What is kept of a listener, in all: a few megabytes.
const MOST: usize = 65_536;
/// Few enough to be cheap, enough that workers seldom meet.
const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn place(port: u16) -> Place {
        Place { upstream: "app".into(), endpoint: ([127, 0, 0, 1], port).into() }
    }

    #[test]
    fn an_id_leads_to_the_endpoint_that_chose_it_whatever_stands_behind_it() {
        let ids = ConnectionIds::default();
        assert_eq!(ids.find_beginning(b"12345678 and more"), None);
        ids.learn(b"12345678", &place(1));
        ids.learn(b"1234", &place(2));
        ids.learn(b"12345678901234567890", &place(3));
        assert_eq!(ids.find_beginning(b"12345678 and more"), Some(place(1)));
        assert_eq!(ids.find_beginning(b"1234567"), Some(place(2)));
        assert_eq!(ids.find_beginning(b"12345678901234567890 and more"), Some(place(3)));
        assert_eq!(ids.find_beginning(b"123"), None);
        assert_eq!((ids.find(b"1234"), ids.find(b"123456")), (Some(place(2)), None));
        ids.learn(b"1234", &place(4));
        assert_eq!(ids.find(b"1234"), Some(place(4)), "the last who chose it");
    }

    #[test]
    fn what_is_too_short_or_too_long_is_not_noted() {
        let ids = ConnectionIds::default();
        for id in [&b""[..], b"123", &[7; 21]] {
            ids.learn(id, &place(1));
            assert_eq!(ids.find(id), None);
        }
        assert_eq!(ids.find_beginning(&[7; 40]), None);
    }

    #[test]
    fn the_oldest_is_forgotten_when_there_are_too_many() {
        let ids = ConnectionIds::default();
        for n in 0..2 * MOST as u64 {
            ids.learn(&n.to_be_bytes(), &place(1));
        }
        let kept: usize = ids.shards.iter().map(|shard| shard.lock().unwrap().places.len()).sum();
        assert!(kept <= MOST && kept > MOST / 2);
        assert_eq!(ids.find(&0_u64.to_be_bytes()), None);
        assert_eq!(ids.find(&(2 * MOST as u64 - 1).to_be_bytes()), Some(place(1)));
    }
}
