//! Permits that limit how many of something are open, over all workers; dropping a permit returns it. A worker takes
//! one before it accepts, so that clients of a full listener wait in the kernel's backlog instead of being accepted and
//! closed. `PerAddress` needs the client's address, so it refuses after accept.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How many of something may be open at once.
#[derive(Debug)]
pub struct Limit {
    open: AtomicU32,
    max: AtomicU32,
    /// Tasks that wait for a permit; while it is zero, giving one back touches nothing but `open`.
    waiting: AtomicU32,
    freed: Notify,
}

impl Limit {
    /// A limit of `max` permits.
    pub fn new(max: u32) -> Self {
        Self { open: AtomicU32::new(0), max: AtomicU32::new(max), waiting: AtomicU32::new(0), freed: Notify::new() }
    }

    /// Takes a permit, if one is free.
    pub fn acquire(self: &Arc<Self>) -> Option<Permit> {
        let max = self.max.load(Ordering::SeqCst);
        self.open
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |open| (open < max).then_some(open + 1))
            .ok()
            .map(|_| Permit { limit: Arc::clone(self) })
    }

    /// Takes a permit, waiting until one is free. Cancel-safe: a dropped future holds nothing.
    pub async fn acquired(self: &Arc<Self>) -> Permit {
        if let Some(permit) = self.acquire() {
            return permit;
        }
        let _waiting = Waiting::new(self);
        loop {
            // The registration comes before the look, so a permit given back in between is not missed.
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(permit) = self.acquire() {
                return permit;
            }
            freed.await;
        }
    }

    /// Changes the limit. Fewer than what is open: nothing is closed, nothing is given until enough came back.
    pub fn set_max(&self, max: u32) {
        let before = self.max.swap(max, Ordering::SeqCst);
        if max > before {
            self.freed.notify_waiters();
        }
    }

    /// The limit.
    pub fn max(&self) -> u32 {
        self.max.load(Ordering::Relaxed)
    }

    /// Permits that are out.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }
}

/// One of what a [`Limit`] allows; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    limit: Arc<Limit>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.open.fetch_sub(1, Ordering::SeqCst);
        if self.limit.waiting.load(Ordering::SeqCst) > 0 {
            // Every waiter, not one: a waiter that was notified may be dropped before it runs.
            self.limit.freed.notify_waiters();
        }
    }
}

struct Waiting<'a>(&'a Limit);

impl<'a> Waiting<'a> {
    fn new(limit: &'a Limit) -> Self {
        limit.waiting.fetch_add(1, Ordering::SeqCst);
        Self(limit)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How many of something one client address may have open. An IPv6 client counts by its /64, which is what one
/// subscriber holds; an IPv4-mapped address counts as the IPv4 address.
#[derive(Debug)]
pub struct PerAddress {
    max: AtomicU32,
    shards: [Mutex<HashMap<AddressKey, u32>>; SHARDS],
    /// Keyed: clients choose their addresses, and whoever has many networks must not choose the shard.
    hash: RandomState,
}

impl PerAddress {
    /// A limit of `max` for each address.
    pub fn new(max: u32) -> Self {
        Self { max: AtomicU32::new(max), shards: std::array::from_fn(|_| Mutex::default()), hash: RandomState::new() }
    }

    /// Takes a permit for `address`, if it has one left.
    pub fn acquire(self: &Arc<Self>, address: IpAddr) -> Option<AddressPermit> {
        let key = AddressKey::of(address);
        let max = self.max.load(Ordering::Relaxed);
        let mut shard = self.shard(key);
        let open = shard.get(&key).copied().unwrap_or(0);
        if open >= max {
            return None;
        }
        shard.insert(key, open + 1);
        drop(shard);
        Some(AddressPermit { limits: Arc::clone(self), key })
    }

    /// Changes the limit; nothing is closed.
    pub fn set_max(&self, max: u32) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Permits that are out for `address`.
    pub fn open(&self, address: IpAddr) -> u32 {
        let key = AddressKey::of(address);
        self.shard(key).get(&key).copied().unwrap_or(0)
    }

    fn shard(&self, key: AddressKey) -> MutexGuard<'_, HashMap<AddressKey, u32>> {
        let index = self.hash.hash_one(key) as usize % SHARDS;
        // A poisoned map is whole: no step under the lock can panic half-way through a change.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of what [`PerAddress`] allows an address; given back when dropped.
#[derive(Debug)]
pub struct AddressPermit {
    limits: Arc<PerAddress>,
    key: AddressKey,
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut shard = self.limits.shard(self.key);
        match shard.get_mut(&self.key) {
            Some(open) if *open > 1 => *open -= 1,
            // An address without an open connection takes no memory.
            _ => {
                shard.remove(&self.key);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AddressKey {
    V4(u32),
    V6Network(u64),
}

impl AddressKey {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6Network((v6.to_bits() >> 64) as u64),
        }
    }
}

/// Counts one up on `new` and down on drop: what is in flight on something that others look at.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicU32>);

impl InFlight {
    /// Counts one up.
    pub fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Locks of [`PerAddress`]: few enough to be cheap, enough that workers seldom meet.
const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn gives_no_more_than_its_maximum_and_takes_back_on_drop() {
        let limit = Arc::new(Limit::new(2));
        let first = limit.acquire().unwrap();
        let _second = limit.acquire().unwrap();
        assert!(limit.acquire().is_none());
        drop(first);
        assert!(limit.acquire().is_some());
        assert_eq!(limit.open(), 1);
    }

    #[test]
    fn a_waiter_is_woken_by_a_permit_that_comes_back() {
        let limit = Arc::new(Limit::new(1));
        let held = limit.acquire().unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting = Box::pin(limit.acquired());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        drop(held);
        assert!(waiting.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn a_waiter_is_woken_by_a_raised_limit() {
        let limit = Arc::new(Limit::new(0));
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting = Box::pin(limit.acquired());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        limit.set_max(1);
        assert!(waiting.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn a_waiter_that_leaves_takes_nothing_with_it() {
        let limit = Arc::new(Limit::new(1));
        let held = limit.acquire().unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let mut first = Box::pin(limit.acquired());
        let mut second = Box::pin(limit.acquired());
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(held);
        drop(first);
        let Poll::Ready(_permit) = second.as_mut().poll(&mut context) else { panic!("the second waiter was lost") };
        assert_eq!(limit.open(), 1);
        drop(second);
        assert_eq!(limit.waiting.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn threads_never_pass_the_maximum() {
        let limit = Arc::new(Limit::new(3));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let permit = limit.acquire();
                        assert!(limit.open() <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(limit.open(), 0);
    }

    #[test]
    fn addresses_are_counted_apart_and_forgotten_when_idle() {
        let limits = Arc::new(PerAddress::new(1));
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let held = limits.acquire(one).unwrap();
        assert!(limits.acquire(one).is_none());
        assert!(limits.acquire("::ffff:192.0.2.1".parse().unwrap()).is_none(), "the mapped form is the same client");
        let _other = limits.acquire(two).unwrap();
        drop(held);
        assert_eq!(limits.open(one), 0);
        assert_eq!(limits.shards.iter().map(|shard| shard.lock().unwrap().len()).sum::<usize>(), 1);
    }

    #[test]
    fn an_ipv6_client_counts_by_its_network() {
        let limits = Arc::new(PerAddress::new(1));
        let _held = limits.acquire("2001:db8:1:2::1".parse().unwrap()).unwrap();
        assert!(limits.acquire("2001:db8:1:2:ffff::9".parse().unwrap()).is_none());
        assert!(limits.acquire("2001:db8:1:3::1".parse().unwrap()).is_some());
    }
}
