//! Resolves the `dns:` names of upstreams on the control thread: at start, and again when their TTL expires. Each
//! address of a name becomes an endpoint. The last good answer stays in use while a name fails to resolve; failures
//! back off. [`Schedule`] (sans-io) decides when, [`Resolve`] asks, and `upstream::registry` applies the result.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::base::backoff::Backoff;
use crate::base::error::{Error, Kind, Retry};
use crate::config::model::EndpointAddress;
use crate::upstream::Upstream;
use crate::upstream::endpoint_set::EndpointSet;
use crate::upstream::registry::Registry;

/// A shorter TTL would ask without end; zero is a common one.
const SHORTEST: Duration = Duration::from_secs(1);
/// A longer TTL, such as that of a hosts file, would keep an address that moved for too long.
const LONGEST: Duration = Duration::from_secs(300);
/// The wait after the first failure, doubled up to the second.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// The longest that one lookup may take, all tries and name servers together.
const LOOKUP: Duration = Duration::from_secs(15);

/// Who turns a name into addresses.
pub trait Resolve {
    /// Asks for the addresses of `host`.
    ///
    /// # Errors
    /// The name has none, or nobody could tell.
    fn resolve(&self, host: Arc<str>) -> impl Future<Output = Result<Resolved, Error>> + Send + 'static;
}

/// What a name resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// At least one.
    pub addresses: Vec<IpAddr>,
    /// How long that may be believed.
    pub valid_for: Duration,
}

/// The system's resolver: `/etc/hosts` and the name servers and search domains of `/etc/resolv.conf`.
pub struct SystemResolver(Result<TokioResolver, Arc<str>>);

/// New endpoints of an upstream, already stored in it; workers have yet to be told.
pub struct Change {
    /// The upstream of the generation in force.
    pub upstream: Arc<Upstream>,
    /// Its endpoints from now on.
    pub endpoints: Arc<EndpointSet>,
}

/// How a lookup ended.
struct Lookup {
    host: Arc<str>,
    resolved: Result<Resolved, Error>,
}

/// Keeps the endpoints of upstreams true to their names.
pub struct Discovery<R> {
    registry: Arc<Registry>,
    resolver: R,
    schedule: Schedule,
    upstreams: Vec<Arc<Upstream>>,
    lookups: JoinSet<Lookup>,
    under_way: HashMap<Id, Arc<str>>,
}

impl<R: Resolve> Discovery<R> {
    /// Watches nothing yet.
    pub fn new(registry: Arc<Registry>, resolver: R) -> Self {
        Self {
            registry,
            resolver,
            schedule: Schedule::default(),
            upstreams: Vec::new(),
            lookups: JoinSet::new(),
            under_way: HashMap::new(),
        }
    }

    /// Watches the names of these upstreams instead of those before: a new generation is in force. Names that stay are not
    /// asked before their time.
    pub fn replace(&mut self, upstreams: &[Arc<Upstream>]) {
        self.upstreams = upstreams.iter().filter(|upstream| names(upstream).next().is_some()).cloned().collect();
        self.schedule.replace(self.upstreams.iter().flat_map(|upstream| names(upstream)), Instant::now());
        self.registry.retain_names(|host| self.schedule.watches(host));
    }

    /// Waits until every name that never resolved was asked once, at most for `limit`, and gives what changed. For the start
    /// of a generation, so that its first request finds endpoints. Names that failed are told in the log; they are asked
    /// again later.
    pub async fn settle(&mut self, limit: Duration) -> Vec<Change> {
        let deadline = Instant::now() + limit;
        let mut changes = Vec::new();
        self.ask();
        while self.under_way.values().any(|host| !self.registry.knows(host)) {
            match timeout_at(deadline, self.lookups.join_next_with_id()).await {
                Ok(Some(done)) => changes.extend(self.take_in(done)),
                Ok(None) | Err(_) => break,
            }
        }
        changes
    }

    /// Waits for the next change. Cancel-safe: a lookup that is under way goes on.
    pub async fn changed(&mut self) -> Vec<Change> {
        loop {
            self.ask();
            let next = self.schedule.next();
            let pause = async move {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(done) = self.lookups.join_next_with_id() => {
                    let changes = self.take_in(done);
                    if !changes.is_empty() {
                        return changes;
                    }
                }
                () = pause => {}
            }
        }
    }

    /// Tells every change to `on_change`, for ever. Cancel-safe.
    pub async fn run(&mut self, mut on_change: impl FnMut(Change)) {
        loop {
            self.changed().await.into_iter().for_each(&mut on_change);
        }
    }

    /// Starts the lookups that are due.
    fn ask(&mut self) {
        for host in self.schedule.due(Instant::now()) {
            let lookup = self.resolver.resolve(Arc::clone(&host));
            let asked = Arc::clone(&host);
            let task = self.lookups.spawn(async move {
                let resolved = timeout(LOOKUP, lookup).await.unwrap_or_else(|_| {
                    Err(Error::upstream(Kind::DnsTimeout, Retry::Always, "no name server answered in time"))
                });
                Lookup { host: asked, resolved }
            });
            self.under_way.insert(task.id(), host);
        }
    }

    /// Takes in how a lookup ended.
    fn take_in(&mut self, done: Result<(Id, Lookup), JoinError>) -> Vec<Change> {
        let now = Instant::now();
        match done {
            Ok((id, Lookup { host, resolved: Ok(resolved) })) => {
                self.under_way.remove(&id);
                if !self.schedule.watches(&host) {
                    // A reload took it away meanwhile.
                    return Vec::new();
                }
                self.schedule.answered(&host, now, resolved.valid_for);
                let count = resolved.addresses.len();
                if self.registry.learn(&host, resolved.addresses) {
                    tracing::info!(%host, addresses = count, "name resolved to new addresses");
                    return self.changes(&host);
                }
            }
            Ok((id, Lookup { host, resolved: Err(error) })) => {
                self.under_way.remove(&id);
                self.failed(&host, &error, now);
            }
            // A resolver that panicked: as good as one that failed.
            Err(error) => {
                if let Some(host) = self.under_way.remove(&error.id()) {
                    self.failed(&host, &Error::internal("the resolver failed").because(error), now);
                }
            }
        }
        Vec::new()
    }

    fn failed(&mut self, host: &Arc<str>, error: &Error, now: Instant) {
        let Some((failures, wait)) = self.schedule.failed(host, now, fastrand::f64()) else { return };
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        let known = self.registry.knows(host);
        // Said once, not at every try.
        if failures == 1 && known {
            tracing::warn!(%host, %error, cause, "name no longer resolves; its last addresses stay in use");
        } else if failures == 1 {
            tracing::warn!(%host, %error, cause, "name does not resolve; its endpoints are missing until it does");
        } else {
            tracing::debug!(%host, %error, cause, failures, ?wait, "name still does not resolve");
        }
    }

    fn changes(&self, host: &str) -> Vec<Change> {
        let concerned = self.upstreams.iter().filter(|upstream| names(upstream).any(|name| name == host));
        let renewed = concerned.map(|upstream| {
            let endpoints = self.registry.endpoint_set(&upstream.config);
            upstream.endpoints.store(Arc::clone(&endpoints));
            Change { upstream: Arc::clone(upstream), endpoints }
        });
        renewed.collect()
    }
}

/// The names an upstream depends on.
fn names(upstream: &Upstream) -> impl Iterator<Item = &str> {
    upstream.config.endpoints.iter().filter_map(|endpoint| match &endpoint.address {
        EndpointAddress::Dns { host, .. } => Some(host.as_str()),
        _ => None,
    })
}

impl SystemResolver {
    /// Reads the system's settings. Where they cannot be read every lookup fails, saying so: a name that does not resolve
    /// is no reason not to start.
    pub fn new() -> Self {
        let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            // One family, so that an endpoint of two families does not count twice and a host without IPv6 never tries it.
            options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
            // The schedule asks when the TTL is over; a cache below it could only answer late.
            options.cache_size = 0;
            builder.build()
        });
        Self(resolver.map_err(|error| error.to_string().into()))
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::new()
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, host: Arc<str>) -> impl Future<Output = Result<Resolved, Error>> + Send + 'static {
        let resolver = self.0.clone();
        async move {
            let failed = |cause: String| {
                Error::upstream(Kind::DnsError, Retry::Always, "the name has no address").because(cause)
            };
            let resolver = resolver.map_err(|cause| failed(cause.to_string()))?;
            let lookup = resolver.lookup_ip(&*host).await.map_err(|error| failed(error.to_string()))?;
            let valid_for = lookup.valid_until().saturating_duration_since(std::time::Instant::now());
            Ok(Resolved { addresses: lookup.iter().collect(), valid_for })
        }
    }
}

/// When to ask for which name (sans-io).
#[derive(Debug, Default)]
pub struct Schedule {
    names: BTreeMap<Arc<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// `None` while it is being asked.
    due: Option<Instant>,
    backoff: Backoff,
}

impl Schedule {
    /// Watches exactly these names; new ones are due at once.
    pub fn replace<'a>(&mut self, names: impl Iterator<Item = &'a str>, now: Instant) {
        let mut before = std::mem::take(&mut self.names);
        for name in names {
            let kept = before.remove_entry(name);
            let (name, entry) = kept.unwrap_or_else(|| {
                (name.into(), Entry { due: Some(now), backoff: Backoff::new(FIRST_RETRY, LAST_RETRY) })
            });
            self.names.entry(name).or_insert(entry);
        }
    }

    /// The names to ask for now; each is under way until it is answered or has failed.
    pub fn due(&mut self, now: Instant) -> Vec<Arc<str>> {
        let due = self.names.iter_mut().filter(|(_, entry)| entry.due.is_some_and(|due| due <= now));
        due.map(|(name, entry)| {
            entry.due = None;
            Arc::clone(name)
        })
        .collect()
    }

    /// Whether anybody wants to know of this name.
    pub fn watches(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// When the next name is due.
    pub fn next(&self) -> Option<Instant> {
        self.names.values().filter_map(|entry| entry.due).min()
    }

    /// The name resolved; it is due again when its time is over, within bounds.
    pub fn answered(&mut self, name: &str, now: Instant, valid_for: Duration) {
        if let Some(entry) = self.names.get_mut(name) {
            entry.backoff.succeeded();
            entry.due = Some(now + valid_for.clamp(SHORTEST, LONGEST));
        }
    }

    /// The name did not resolve: how often in a row, and how long until it is asked again. `None`: nobody wants it any more.
    pub fn failed(&mut self, name: &str, now: Instant, chance: f64) -> Option<(u32, Duration)> {
        let entry = self.names.get_mut(name)?;
        let wait = entry.backoff.failed(chance);
        entry.due = Some(now + wait);
        Some((entry.backoff.failures(), wait))
    }
}

#[cfg(test)]
mod tests;
