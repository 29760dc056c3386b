//! Health of endpoints, on the control thread: runs active checks, ejects endpoints that fail real traffic, readmits
//! both, and reports the upstreams whose endpoints changed. `upstream::health` decides what a result means,
//! [`Schedule`] (sans-io) when to check, [`Ask`] how.

mod ejection;
mod schedule;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::discovery::Change;
use crate::base::addr::Address;
use crate::config::model;
use crate::upstream::Upstream;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::health::active::{Rules, Verdict};
use crate::upstream::health::probe::probe;
use crate::upstream::health::standing::LastCheck;
use crate::upstream::health::state::Bar;
use crate::upstream::registry::Registry;
pub(super) use ejection::spare_the_last;
use ejection::{Ejected, eject, let_back};
pub use schedule::Schedule;

/// Checks under way at once: a start with thousands of endpoints shall not take every descriptor at one moment.
const MAX_UNDER_WAY: usize = 256;

/// Who asks an endpoint how it is.
pub trait Ask: Clone + 'static {
    /// Asks once; the deadline is the caller's.
    ///
    /// # Errors
    /// Why it is not well, for people.
    fn ask(
        &self,
        upstream: &Upstream,
        endpoint: &Endpoint,
        health: &model::Health,
    ) -> impl Future<Output = Result<(), String>>;
}

/// Over the network.
#[derive(Clone, Copy, Debug)]
pub struct Network;

impl Ask for Network {
    async fn ask(&self, upstream: &Upstream, endpoint: &Endpoint, health: &model::Health) -> Result<(), String> {
        probe(upstream, endpoint, health).await.map_err(|unwell| unwell.to_string())
    }
}

/// An endpoint that is asked: its upstream's name and its address, as its state is known by.
type Key = (Arc<str>, Address);

/// The health of all upstreams of the generation in force.
pub struct Health<A> {
    registry: Arc<Registry>,
    asker: A,
    upstreams: Vec<Arc<Upstream>>,
    checks: HashMap<u64, Check>,
    numbers: HashMap<Key, u64>,
    last_number: u64,
    schedule: Schedule,
    under_way: JoinSet<Done>,
    numbers_under_way: HashMap<Id, (u64, Instant)>,
    ejected: Vec<Ejected>,
}

/// What is asked of one endpoint. Its number is another where the question is another, so that an answer to the old one is
/// not taken for one to the new.
struct Check {
    health: Arc<model::Health>,
    upstream: Arc<Upstream>,
    endpoint: Arc<Endpoint>,
}

/// How a check went.
struct Done {
    took: std::time::Duration,
    result: Result<(), String>,
}

impl<A: Ask> Health<A> {
    /// Watches nothing yet.
    pub fn new(registry: Arc<Registry>, asker: A) -> Self {
        Self {
            registry,
            asker,
            upstreams: Vec::new(),
            checks: HashMap::new(),
            numbers: HashMap::new(),
            last_number: 0,
            schedule: Schedule::default(),
            under_way: JoinSet::new(),
            numbers_under_way: HashMap::new(),
            ejected: Vec::new(),
        }
    }

    /// Watches the endpoints of these upstreams instead of those before: a new generation is in force, or names resolved anew.
    /// An endpoint that is asked the same as before keeps its time and its row of checks; one that is asked something else is
    /// asked at once. Gives what changed where endpoints were out for checks or failures that nobody wants to know of any more.
    pub fn replace(&mut self, upstreams: &[Arc<Upstream>]) -> Vec<Change> {
        let now = Instant::now();
        self.upstreams = upstreams.to_vec();
        let mut before = (std::mem::take(&mut self.numbers), std::mem::take(&mut self.checks));
        for upstream in upstreams {
            let Some(health) = upstream.config.health.clone().map(Arc::new) else { continue };
            for endpoint in upstream.endpoints.load().all() {
                let key = (Arc::clone(&upstream.name), endpoint.address.clone());
                let known = before.0.remove(&key);
                let same = known.filter(|number| before.1.get(number).is_some_and(|check| check.health == health));
                let number = same.unwrap_or_else(|| {
                    if known.is_some() {
                        endpoint.state.standing().verdict.restart();
                    }
                    self.last_number += 1;
                    self.schedule.add(self.last_number, now);
                    self.last_number
                });
                let (health, upstream) = (Arc::clone(&health), Arc::clone(upstream));
                self.checks.insert(number, Check { health, upstream, endpoint: Arc::clone(endpoint) });
                self.numbers.insert(key, number);
            }
        }
        self.schedule.retain(|number| self.checks.contains_key(&number));
        self.ejected = upstreams.iter().flat_map(|upstream| Ejected::of(upstream)).collect();
        let freed = upstreams.iter().filter(|upstream| forget_what_is_not_asked(upstream, now));
        freed.map(|upstream| self.renewed(upstream, now)).collect()
    }

    /// Waits for the next change. Cancel-safe: checks that are under way go on.
    pub async fn changed(&mut self) -> Vec<Change> {
        loop {
            self.ask();
            let next =
                [self.schedule.next().filter(|_| !self.is_full()), self.ejected.iter().map(|out| out.until).min()];
            let pause = async move {
                match next.into_iter().flatten().min() {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            let registry = Arc::clone(&self.registry);
            let changed = tokio::select! {
                Some(done) = self.under_way.join_next_with_id() => self.take_in(done),
                () = registry.alarm().notified() => self.judge(),
                () = pause => self.let_back(),
            };
            if !changed.is_empty() {
                let now = Instant::now();
                return changed.iter().map(|upstream| self.renewed(upstream, now)).collect();
            }
        }
    }

    fn is_full(&self) -> bool {
        self.under_way.len() >= MAX_UNDER_WAY
    }

    /// Starts the checks that are due.
    fn ask(&mut self) {
        let now = Instant::now();
        while !self.is_full()
            && let Some(number) = self.schedule.take(now)
        {
            let Some(check) = self.checks.get(&number) else { continue };
            let (upstream, endpoint) = (Arc::clone(&check.upstream), Arc::clone(&check.endpoint));
            let (asker, health) = (self.asker.clone(), Arc::clone(&check.health));
            let task = self.under_way.spawn_local(async move {
                let began = Instant::now();
                let asked = timeout(health.timeout, asker.ask(&upstream, &endpoint, &health)).await;
                let result = asked.unwrap_or_else(|_| Err(format!("no answer within {:?}", health.timeout)));
                Done { took: began.elapsed(), result }
            });
            self.numbers_under_way.insert(task.id(), (number, now));
        }
    }

    /// Takes in how a check went, and any other that is over; gives the upstreams of which endpoints went out or came in.
    fn take_in(&mut self, done: Result<(Id, Done), JoinError>) -> Vec<Arc<Upstream>> {
        let mut changed: Vec<Arc<Upstream>> = Vec::new();
        let mut next = Some(done);
        while let Some(done) = next {
            if let Some(upstream) = self.checked(done)
                && !changed.iter().any(|known| Arc::ptr_eq(known, &upstream))
            {
                changed.push(upstream);
            }
            // Endpoints that fail together go out together: one new set, not one for each.
            next = self.under_way.try_join_next_with_id();
        }
        changed
    }

    fn checked(&mut self, done: Result<(Id, Done), JoinError>) -> Option<Arc<Upstream>> {
        let (id, done) = match done {
            Ok(done) => done,
            // A check that panicked has told nothing of the endpoint, and is not to end the watch over it.
            Err(error) => {
                let took = std::time::Duration::ZERO;
                (error.id(), Done { took, result: Err("the check itself failed".to_owned()) })
            }
        };
        let (number, began) = self.numbers_under_way.remove(&id)?;
        // A reload took it away meanwhile, or asks something else.
        let check = self.checks.get(&number)?;
        self.schedule.done(number, began, check.health.interval, fastrand::f64(), Instant::now());
        check.take_in(done).then(|| Arc::clone(&check.upstream))
    }

    /// Ejects whoever failed real traffic often enough.
    fn judge(&mut self) -> Vec<Arc<Upstream>> {
        let now = Instant::now();
        let mut changed = Vec::new();
        for upstream in &self.upstreams {
            let Some(rules) = &upstream.config.outlier else { continue };
            let ejected = eject(upstream, rules, now);
            if !ejected.is_empty() {
                self.ejected.extend(ejected);
                changed.push(Arc::clone(upstream));
            }
        }
        changed
    }

    /// Lets in those whose time is over.
    fn let_back(&mut self) -> Vec<Arc<Upstream>> {
        let now = Instant::now();
        let (over, out) = std::mem::take(&mut self.ejected).into_iter().partition(|ejected| ejected.until <= now);
        self.ejected = out;
        let mut changed: Vec<Arc<Upstream>> = Vec::new();
        for Ejected { upstream, endpoint, .. } in over {
            if !let_back(&endpoint, now) {
                continue;
            }
            info!(%upstream, endpoint = %endpoint.label, "endpoint back in use after its ejection");
            let known = changed.iter().any(|known| known.name == upstream);
            let current = self.upstreams.iter().find(|current| current.name == upstream).filter(|_| !known);
            changed.extend(current.cloned());
        }
        changed
    }

    /// The endpoints of an upstream as they are to be picked from now on.
    fn renewed(&self, upstream: &Arc<Upstream>, now: Instant) -> Change {
        spare_the_last(upstream, now);
        let endpoints = self.registry.endpoint_set(&upstream.config);
        upstream.endpoints.store(Arc::clone(&endpoints));
        if endpoints.endpoints().is_empty() {
            warn!(upstream = %upstream.name, "requests to this upstream are answered with 503: {}", endpoints.why_none());
        }
        Change { upstream: Arc::clone(upstream), endpoints }
    }
}

impl Check {
    /// Takes in how it went; says whether the endpoint went out or came in by it.
    fn take_in(&self, done: Done) -> bool {
        let rules = Rules { healthy_after: self.health.healthy_after, unhealthy_after: self.health.unhealthy_after };
        let (upstream, endpoint) = (&self.upstream.name, &self.endpoint.label);
        let failure: Option<Arc<str>> = done.result.err().map(Into::into);
        let (changed, verdict) = {
            let mut standing = self.endpoint.state.standing();
            match failure {
                None => standing.checks_passed += 1,
                Some(_) => standing.checks_failed += 1,
            }
            let last = LastCheck { at: SystemTime::now(), took: done.took, failure: failure.clone() };
            standing.last_check = Some(last);
            (standing.verdict.checked(failure.is_none(), rules), standing.verdict)
        };
        if !changed {
            if let Some(reason) = &failure {
                debug!(%upstream, %endpoint, %reason, against = verdict.against(), "check failed");
            }
            return false;
        }
        let moved = self.endpoint.state.set(Bar::Unhealthy, verdict.is_unhealthy());
        let left = self.upstream.endpoints.load().all().iter().filter(|endpoint| endpoint.state.is_ready()).count();
        match failure {
            Some(reason) => {
                let checks = rules.unhealthy_after;
                warn!(%upstream, %endpoint, %reason, checks, left, "endpoint unhealthy: it gets no new requests");
            }
            None => info!(%upstream, %endpoint, checks = rules.healthy_after, left, "endpoint healthy again"),
        }
        moved
    }
}

/// Lifts the bars that the configuration no longer puts up; says whether there was one.
fn forget_what_is_not_asked(upstream: &Upstream, now: Instant) -> bool {
    let mut lifted = false;
    for endpoint in upstream.endpoints.load().all() {
        if upstream.config.health.is_none() {
            let mut standing = endpoint.state.standing();
            standing.verdict = Verdict::default();
            standing.last_check = None;
            lifted |= endpoint.state.set(Bar::Unhealthy, false);
        }
        if upstream.config.outlier.is_none() {
            lifted |= let_back(endpoint, now);
        }
    }
    lifted
}

#[cfg(test)]
mod tests;
