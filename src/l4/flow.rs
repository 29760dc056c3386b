//! The table of flows (sans-io): lookup, and expiry. A flow consists of the datagrams between one client address and
//! one address of ours; it ends after silence in both directions, or at its maximum age. The caller supplies the time;
//! a datagram costs a lookup and a store.

use std::collections::HashMap;
use std::hash::RandomState;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::life::Admission;
use super::timer::{Tick, Wheel};
use crate::base::limit::{Limit, PerAddress};

/// Whose a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The socket that its datagrams come in on.
    pub group: GroupId,
    /// The client, as that socket tells it: an IPv4 client of a socket for both families is a mapped address.
    pub client: SocketAddr,
    /// The address of ours that the client sends to, and has its answers from; `None`: the socket has only one.
    pub local: Option<IpAddr>,
    /// The client that a proxy at the address `client` tells of, where it tells of several.
    pub told: Option<SocketAddr>,
}

/// The flows of one listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// One flow, while it lasts; the number is another's later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u32);

/// How long the flows of a group last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The silence that ends one.
    pub idle: Duration,
    /// The age that ends one; `None`: none does.
    pub max_age: Option<Duration>,
}

/// Why the time of a flow is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Nothing came either way.
    Idle,
    /// It is as old as it may be.
    Age,
}

/// The flows of one worker, each with a `T`.
pub struct Flows<T> {
    slots: Slab<Slot<T>>,
    /// Keyed hashing: clients choose their addresses.
    index: HashMap<Key, FlowId, RandomState>,
    groups: Slab<Group>,
    /// A flow is looked at when its time may be up, and later again if something came since.
    wheel: Wheel,
}

struct Slot<T> {
    key: Key,
    began: Instant,
    last: Tick,
    flow: T,
}

struct Group {
    times: Times,
    flows: usize,
}

impl<T> Flows<T> {
    /// None, as time begins.
    pub fn new(now: Instant) -> Self {
        Self { slots: Slab::new(), index: HashMap::default(), groups: Slab::new(), wheel: Wheel::new(now) }
    }

    /// The tick that `now` lies in.
    pub fn tick(&self, now: Instant) -> Tick {
        self.wheel.tick(now)
    }

    /// Makes room for the flows of one more socket.
    pub fn open_group(&mut self, times: Times) -> GroupId {
        GroupId(self.groups.insert(Group { times, flows: 0 }) as u32)
    }

    /// Changes how long the flows of a group last, those that there are included.
    pub fn set_times(&mut self, group: GroupId, times: Times) {
        let Some(known) = self.groups.get_mut(group.0 as usize) else { return };
        if std::mem::replace(&mut known.times, times) == times {
            return;
        }
        let ids: Vec<_> = self.of(group).collect();
        for id in ids {
            self.set(id);
        }
    }

    /// Forgets a group; its flows must have ended.
    pub fn close_group(&mut self, group: GroupId) {
        debug_assert_eq!(self.count(group), 0);
        self.groups.try_remove(group.0 as usize);
    }

    /// Flows of a group.
    pub fn count(&self, group: GroupId) -> usize {
        self.groups.get(group.0 as usize).map_or(0, |group| group.flows)
    }

    /// Whether there is no flow at all.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Every flow there is.
    pub fn all(&self) -> impl Iterator<Item = FlowId> {
        self.slots.iter().map(|(place, _)| FlowId(place as u32))
    }

    /// The flows of a group.
    pub fn of(&self, group: GroupId) -> impl Iterator<Item = FlowId> {
        self.slots.iter().filter(move |(_, slot)| slot.key.group == group).map(|(place, _)| FlowId(place as u32))
    }

    /// The flow of this client.
    pub fn find(&self, key: &Key) -> Option<FlowId> {
        self.index.get(key).copied()
    }

    /// Whose a flow is.
    pub fn key(&self, id: FlowId) -> Option<&Key> {
        Some(&self.slots.get(id.0 as usize)?.key)
    }

    /// What a flow is to its owner.
    pub fn get(&self, id: FlowId) -> Option<&T> {
        Some(&self.slots.get(id.0 as usize)?.flow)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut T> {
        Some(&mut self.slots.get_mut(id.0 as usize)?.flow)
    }

    /// Begins a flow of a client that has none, in a group that there is, with the number that `flow` is told.
    ///
    /// # Errors
    /// What `flow` gives; nothing is changed then.
    pub fn open<E>(&mut self, key: Key, now: Instant, flow: impl FnOnce(FlowId) -> Result<T, E>) -> Result<FlowId, E> {
        debug_assert!(self.find(&key).is_none() && self.groups.contains(key.group.0 as usize));
        let vacant = self.slots.vacant_entry();
        let id = FlowId(vacant.key() as u32);
        let flow = flow(id)?;
        vacant.insert(Slot { key, began: now, last: self.wheel.tick(now), flow });
        self.index.insert(key, id);
        if let Some(group) = self.groups.get_mut(key.group.0 as usize) {
            group.flows += 1;
        }
        self.set(id);
        Ok(id)
    }

    /// Notes that something came, either way.
    pub fn touch(&mut self, id: FlowId, now: Tick) {
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            slot.last = now;
        }
    }

    /// Ends a flow; gives whose it was, when it began, and what it was.
    pub fn end(&mut self, id: FlowId) -> Option<(Key, Instant, T)> {
        let slot = self.slots.try_remove(id.0 as usize)?;
        self.wheel.clear(id.0);
        self.index.remove(&slot.key);
        if let Some(group) = self.groups.get_mut(slot.key.group.0 as usize) {
            group.flows -= 1;
        }
        Some((slot.key, slot.began, slot.flow))
    }

    /// A flow whose time is up, which is the caller's to end.
    pub fn expired(&mut self, now: Tick) -> Option<(FlowId, Expiry)> {
        while let Some(place) = self.wheel.pop(now) {
            let id = FlowId(place);
            match self.due(id) {
                Some((due, expiry)) if due <= now => return Some((id, expiry)),
                Some((due, _)) => self.wheel.set(place, due),
                None => {}
            }
        }
        None
    }

    /// When [`Flows::expired`] is to be called again; `None`: there is no flow.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.wheel.next().map(|tick| self.wheel.moment(tick))
    }

    fn set(&mut self, id: FlowId) {
        if let Some((due, _)) = self.due(id) {
            self.wheel.set(id.0, due);
        }
    }

    /// When the time of a flow is up, and why.
    fn due(&self, id: FlowId) -> Option<(Tick, Expiry)> {
        let slot = self.slots.get(id.0 as usize)?;
        let times = self.groups.get(slot.key.group.0 as usize)?.times;
        let idle = slot.last + Wheel::ticks(times.idle);
        Some(match times.max_age.map(|age| self.wheel.tick(slot.began) + Wheel::ticks(age)) {
            Some(age) if age <= idle => (age, Expiry::Age),
            _ => (idle, Expiry::Idle),
        })
    }
}

/// What lets clients have flows.
pub struct Gate<'a> {
    /// The listener's `max_connections`, over all workers.
    pub listener: Option<&'a Arc<Limit>>,
    /// Its `max_connections_per_ip`.
    pub per_address: Option<&'a Arc<PerAddress>>,
    /// What the process can have open.
    pub process: &'a Arc<Limit>,
}

/// The limit that keeps a client from a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `max_connections`.
    Listener,
    /// `max_connections_per_ip`.
    Address,
    /// The descriptor limit.
    Process,
}

impl Gate<'_> {
    /// Takes what a flow of `client` needs, all of it or nothing.
    ///
    /// # Errors
    /// The first limit that is reached.
    pub fn admit(&self, client: IpAddr) -> Result<Admission, Full> {
        let address = self.per_address.map(|limit| limit.acquire(client).ok_or(Full::Address)).transpose()?;
        let listener = self.listener.map(|limit| limit.acquire().ok_or(Full::Listener)).transpose()?;
        Ok(Admission::new(self.process.acquire().ok_or(Full::Process)?, listener, address))
    }
}

#[cfg(test)]
mod tests;
