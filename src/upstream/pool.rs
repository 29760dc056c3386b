//! The connections of one worker, by endpoint: a stack of idle HTTP/1 connections, and the shared connections of HTTP/2
//! and HTTP/3. Configured limits are totals, divided among the workers. One task per worker closes connections that are
//! idle for too long or too old, so that a connection needs no timer of its own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Upstream;
use super::endpoint::Endpoint;
use super::http1::{Http1, Slot};
use super::sessions::Sessions;
use super::worker::WorkerUpstream;
use super::{http2, http3, quic};
use crate::base::addr::Address;
use crate::base::error::{Error, Kind, Retry};
use crate::body::ledger::Measured;
use crate::config::model::PoolLimits;
use crate::net::timer;
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::counters::Counters;
use crate::telemetry::series::Scope;
use crate::transport::tls::client::ServerName;

/// Interval of the sweep, and so the precision of idle and age limits. It runs only while there are connections.
const SWEEP: Duration = Duration::from_millis(500);
/// Part of the age limit by which connections vary (± 10 %), so that those opened together do not all close together.
const AGE_JITTER: f64 = 0.1;

/// All pools of one worker.
pub struct Pools {
    worker: usize,
    workers: usize,
    telemetry: Arc<WorkerTelemetry>,
    pools: RefCell<FxHashMap<PoolKey, Rc<EndpointPool>>>,
    clock: Rc<Clock>,
}

/// What makes connections interchangeable. The identity covers TLS, protocol and socket options; the name that TLS
/// verifies may differ by endpoint.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    upstream: Arc<str>,
    identity: u64,
    address: Address,
    server_name: Option<ServerName<'static>>,
}

/// State that all pools of a worker read: the time of the last sweep, so that requests need not read the clock.
struct Clock {
    now: Cell<Instant>,
    open: Cell<u32>,
    draining: Cell<bool>,
    sweeping: Cell<bool>,
    pools: RefCell<Weak<Pools>>,
}

/// One worker's connections to one endpoint.
pub(super) struct EndpointPool {
    idle: RefCell<VecDeque<Rc<Slot>>>,
    pub(super) http2: Sessions<http2::Shared>,
    pub(super) http3: Sessions<http3::Shared>,
    pub(super) quic: Sessions<quic::Shared>,
    limits: Cell<Limits>,
    /// Endpoints of living generations that use the pool; if there are none, no connection comes back to it.
    attached: Cell<u32>,
    pub(super) connecting: Connecting,
    /// Early data was rejected: the next connection waits for its handshake.
    pub(super) waits_for_handshake: Cell<bool>,
    clock: Rc<Clock>,
}

#[derive(Clone, Copy)]
struct Limits {
    max_idle: usize,
    idle_timeout: Duration,
    max_age: Duration,
}

/// Connections being made, and the requests that wait for one of them instead of making their own.
#[derive(Default)]
pub(super) struct Connecting {
    under_way: Cell<usize>,
    waiting: Cell<usize>,
    changed: Notify,
    /// The last failure, and the number of failures.
    failure: RefCell<Option<Error>>,
    failures: Cell<u64>,
}

/// Counts a connection as being made. Dropping it, with any result, wakes the waiting requests.
pub(super) struct Attempt<'a>(&'a Connecting);

impl Pools {
    /// The pools of worker `worker` of `workers`. Must be created inside the worker's runtime.
    pub fn new(worker: usize, workers: usize, telemetry: Arc<WorkerTelemetry>) -> Rc<Self> {
        let clock = Clock {
            now: Cell::new(Instant::now()),
            open: Cell::new(0),
            draining: Cell::new(false),
            sweeping: Cell::new(false),
            pools: RefCell::new(Weak::new()),
        };
        let pools = Rc::new(Self {
            worker,
            workers: workers.max(1),
            telemetry,
            pools: RefCell::default(),
            clock: Rc::new(clock),
        });
        pools.clock.pools.replace(Rc::downgrade(&pools));
        pools
    }

    /// An upstream for this worker; called once for each upstream of a generation. Idle connections of the previous
    /// generation are kept if upstream, identity and address are the same.
    pub fn attach(self: &Rc<Self>, upstream: &Arc<Upstream>) -> Rc<WorkerUpstream> {
        WorkerUpstream::new(Rc::clone(self), Arc::clone(upstream))
    }

    /// Closes connections that no living generation uses. Called after a generation was replaced; connections still in
    /// use by an older one are closed when they are returned.
    pub fn retire_unused(&self) {
        self.pools.borrow_mut().retain(|_, pool| {
            let used = pool.attached.get() > 0;
            if !used {
                pool.close_idle();
            }
            used
        });
    }

    /// Closes every idle connection, and the others as soon as their exchanges end: the worker drains.
    pub fn close_idle(&self) {
        self.clock.draining.set(true);
        self.pools.borrow().values().for_each(|pool| pool.close_idle());
    }

    /// Current number of idle HTTP/1 connections and open shared ones.
    pub fn resting(&self) -> (usize, usize) {
        let pools = self.pools.borrow();
        pools.values().fold((0, 0), |(idle, sessions), pool| {
            (idle + pool.idle.borrow().len(), sessions + pool.http2.len() + pool.http3.len() + pool.quic.len())
        })
    }

    /// Number of endpoints that have a pool.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.pools.borrow().len()
    }

    pub(super) fn worker(&self) -> (usize, usize) {
        (self.worker, self.workers)
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.telemetry.counters
    }

    /// The metrics of an upstream on this worker.
    pub(super) fn measured(&self, upstream: &Arc<str>) -> Rc<Measured> {
        Measured::new(&self.telemetry, Scope::Upstream, upstream)
    }

    /// The metrics of an upstream's sessions on this worker.
    pub(super) fn sessions_measured(&self, upstream: &Arc<str>) -> Rc<Measured> {
        Measured::new(&self.telemetry, Scope::UpstreamSessions, upstream)
    }

    /// The pool of an endpoint, with the current limits of the upstream, which may change without a new identity.
    pub(super) fn pool(&self, upstream: &Upstream, endpoint: &Endpoint) -> Rc<EndpointPool> {
        let key = PoolKey {
            upstream: Arc::clone(upstream.origin.as_ref().map_or(&upstream.name, |origin| &origin.name)),
            identity: upstream.identity(),
            address: endpoint.address.clone(),
            server_name: endpoint.server_name.clone(),
        };
        let limits = Limits::shared_out(&upstream.config.pool, self.workers);
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(key).or_insert_with(|| {
            Rc::new(EndpointPool {
                idle: RefCell::default(),
                http2: Sessions::default(),
                http3: Sessions::default(),
                quic: Sessions::default(),
                limits: Cell::new(limits),
                attached: Cell::new(0),
                connecting: Connecting::default(),
                waits_for_handshake: Cell::default(),
                clock: Rc::clone(&self.clock),
            })
        });
        pool.limits.set(limits);
        Rc::clone(pool)
    }

    fn sweep(&self) {
        let now = Instant::now();
        self.clock.now.set(now);
        for pool in self.pools.borrow().values() {
            pool.sweep(now);
        }
        self.retire_unused();
    }
}

impl Clock {
    /// Starts the sweep if it is not running; it ends by itself when no connection is open.
    fn start_sweeping(&self) {
        if self.sweeping.replace(true) {
            return;
        }
        self.now.set(Instant::now());
        let pools = self.pools.borrow().clone();
        tokio::task::spawn_local(async move {
            loop {
                timer::sleep(SWEEP).await;
                let Some(pools) = pools.upgrade() else { return };
                pools.sweep();
                if pools.clock.open.get() == 0 {
                    pools.clock.sweeping.set(false);
                    return;
                }
            }
        });
    }
}

impl Limits {
    fn shared_out(limits: &PoolLimits, workers: usize) -> Self {
        Self {
            // At least one, or a worker would connect for every request.
            max_idle: (limits.max_idle_per_endpoint as usize / workers).max(1),
            idle_timeout: limits.idle_timeout,
            max_age: limits.max_age,
        }
    }
}

impl EndpointPool {
    /// The time of the last sweep.
    pub(super) fn now(&self) -> Instant {
        self.clock.now.get()
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        self.limits.get().idle_timeout
    }

    /// When a connection made now becomes too old.
    pub(super) fn expiry(&self) -> Instant {
        let jitter = 1.0 + AGE_JITTER * (2.0 * fastrand::f64() - 1.0);
        // Practically never, if the sum would overflow.
        let never = Duration::from_secs(u64::from(u32::MAX));
        Instant::now() + self.limits.get().max_age.min(never).mul_f64(jitter)
    }

    /// Whether a connection that expires at this time may be returned.
    pub(super) fn keeps(&self, expires: Instant) -> bool {
        self.attached.get() > 0 && !self.clock.draining.get() && self.now() < expires
    }

    pub(super) fn connection_opened(&self) {
        self.clock.open.set(self.clock.open.get() + 1);
        self.clock.start_sweeping();
    }

    pub(super) fn connection_closed(&self) {
        self.clock.open.set(self.clock.open.get() - 1);
    }

    pub(super) fn attach(&self) {
        self.attached.set(self.attached.get() + 1);
    }

    pub(super) fn detach(&self) {
        self.attached.set(self.attached.get() - 1);
    }

    /// Puts an idle connection on the stack; if the stack is full, the one idle for longest is closed.
    pub(super) fn rest(&self, slot: Rc<Slot>) {
        let mut idle = self.idle.borrow_mut();
        idle.push_back(slot);
        if idle.len() > self.limits.get().max_idle
            && let Some(oldest) = idle.pop_front()
        {
            oldest.close();
        }
    }

    /// Takes the connection that became idle last: it is the least likely to have been closed by the endpoint, and
    /// surplus connections age and are closed.
    pub(super) fn take_idle(&self) -> Option<Http1> {
        loop {
            let slot = self.idle.borrow_mut().pop_back()?;
            if let Some(session) = slot.take() {
                return Some(session);
            }
        }
    }

    /// Removes an idle connection that has ended.
    pub(super) fn forget(&self, slot: &Rc<Slot>) {
        let mut idle = self.idle.borrow_mut();
        if let Some(place) = idle.iter().rposition(|other| Rc::ptr_eq(other, slot)) {
            idle.remove(place);
        }
    }

    fn close_idle(&self) {
        self.idle.take().iter().for_each(|slot| slot.close());
        self.http2.retire();
        self.http3.retire();
        self.quic.retire();
    }

    fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|slot| {
            let stays = slot.stays(now);
            if !stays {
                slot.close();
            }
            stays
        });
        self.http2.sweep(now);
        self.http3.sweep(now);
        self.quic.sweep(now);
    }
}

impl Connecting {
    /// Starts a connection attempt.
    pub(super) fn attempt(&self) -> Attempt<'_> {
        self.under_way.set(self.under_way.get() + 1);
        Attempt(self)
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.get()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// Notes a failed attempt for the waiting requests; if each made its own, their timeouts would add up.
    pub(super) fn failed(&self, error: &Error) {
        self.failures.set(self.failures.get() + 1);
        self.failure.replace(Some(error.restated()));
    }

    /// Waits until a connection that is being made is ready or has failed. Other requests may be faster to use it, so
    /// repeated waiting ends at `until`.
    ///
    /// # Errors
    /// The attempt failed, with its error; or the time is up.
    pub(super) async fn wait(&self, until: Instant) -> Result<(), Error> {
        struct Waiting<'a>(&'a Cell<usize>);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        self.waiting.set(self.waiting.get() + 1);
        let _waiting = Waiting(&self.waiting);
        let failures = self.failures.get();
        let left = until.saturating_duration_since(Instant::now());
        if timer::timeout(left, self.changed.notified()).await.is_err() {
            let reason = "others used up every connection to the endpoint before it was this one's turn";
            return Err(Error::upstream(Kind::ConnectionTimeout, Retry::Always, reason));
        }
        match &*self.failure.borrow() {
            Some(error) if self.failures.get() != failures => Err(error.restated()),
            _ => Ok(()),
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
