//! Clients whose ClientHello is not complete yet, on listeners that route by it: holds a few datagrams of each client
//! for a moment. Unreadable ones go to the default.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::base::id::UpstreamId;
use crate::l4::flow::Key;
use crate::l4::life::Told;
use crate::l4::quic::Initials;
use crate::l4::sni::Reading;
use crate::net::proxy_protocol::Header;
use crate::net::sys::Outgoing;
use crate::route::l4::HelloTable;

/// Who waits.
#[derive(Default)]
pub(super) struct Hellos {
    waiting: HashMap<Key, Waiting>,
    /// When the wait of each is over, the first first. One that was decided stands here until then.
    order: VecDeque<(Instant, Key)>,
}

struct Waiting {
    initials: Initials,
    held: Held,
    until: Instant,
}

/// What came of one client.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// In their order.
    pub(super) datagrams: Vec<Box<[u8]>>,
    /// What a proxy told of the client.
    pub(super) told: Option<Told>,
    bytes: usize,
}

/// Where a client's datagrams go.
pub(super) enum Decision {
    /// Nobody knows yet.
    Waits,
    /// There, those that were held first, and then the others of the batch that it came of, from this one on.
    To { upstream: UpstreamId, sni: Option<Box<str>>, held: Held, rest: usize },
    /// Nowhere: what they ask for is not configured, and there is no default.
    Nowhere { dropped: u64 },
}

/// How long a ClientHello may take: a client sends what was lost again after a second.
const WAIT: Duration = Duration::from_secs(3);
/// What is held of one client.
const MAX_HELD: usize = 16;
const MAX_HELD_BYTES: usize = 24 * 1024;
/// Clients that wait at a time, on one worker.
const MAX_WAITING: usize = 1024;

impl Hellos {
    /// Reads more datagrams of a client that has no flow; `told` is what a proxy tells of it.
    pub(super) fn read(
        &mut self,
        key: &Key,
        told: Option<&Header<'_>>,
        table: &HelloTable,
        batch: &[Outgoing<'_>],
        now: Instant,
    ) -> Decision {
        let known = self.waiting.remove(key);
        let is_new = known.is_none();
        let mut waiting = known.unwrap_or_else(|| Waiting::new(now + WAIT, told));
        for (place, datagram) in batch.iter().flat_map(Outgoing::datagrams).enumerate() {
            let (upstream, sni) = match waiting.initials.read(datagram) {
                Reading::Incomplete if waiting.held.has_room(datagram) && self.waiting.len() < MAX_WAITING => {
                    waiting.held.bytes += datagram.len();
                    waiting.held.datagrams.push(datagram.into());
                    continue;
                }
                Reading::Hello(hello) => (table.find(hello.sni(), hello.alpn()), hello.into_sni()),
                _ => (table.find(None, std::iter::empty()), None),
            };
            let held = waiting.held;
            return match upstream {
                Some(upstream) => Decision::To { upstream, sni, held, rest: place },
                None => {
                    let came: u64 = batch.iter().map(Outgoing::count).sum();
                    // Of these, `place` are among those that are held.
                    Decision::Nowhere { dropped: held.datagrams.len() as u64 + came - place as u64 }
                }
            };
        }
        if is_new {
            self.order.push_back((waiting.until, *key));
        }
        self.waiting.insert(*key, waiting);
        Decision::Waits
    }

    /// A client whose wait is over, and what was held of it.
    pub(super) fn expired(&mut self, now: Instant) -> Option<(Key, Held)> {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            let (until, key) = self.order.pop_front()?;
            // Decided meanwhile, and perhaps another wait of the same client.
            if self.waiting.get(&key).is_some_and(|waiting| waiting.until == until) {
                return self.waiting.remove(&key).map(|waiting| (key, waiting.held));
            }
        }
        None
    }

    /// When [`Hellos::expired`] is to be asked.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.order.front().map(|(until, _)| *until)
    }
}

impl Waiting {
    fn new(until: Instant, told: Option<&Header<'_>>) -> Self {
        let told = told.map(|header| Told {
            client: header.client,
            local: header.local,
            tlvs: header.tlvs.into(),
            ..Told::default()
        });
        Self { initials: Initials::default(), held: Held { told, ..Held::default() }, until }
    }
}

impl Held {
    fn has_room(&self, datagram: &[u8]) -> bool {
        self.datagrams.len() < MAX_HELD && self.bytes + datagram.len() <= MAX_HELD_BYTES
    }

    /// What a proxy told, as it tells it.
    pub(super) fn header(&self) -> Option<Header<'_>> {
        self.told.as_ref().map(|told| Header { length: 0, client: told.client, local: told.local, tlvs: &told.tlvs })
    }
}
