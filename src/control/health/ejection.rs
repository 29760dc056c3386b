//! Ejects endpoints that failed real traffic, schedules their return, and never ejects the last one of an upstream.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::config::model;
use crate::upstream::Upstream;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::health::outlier::Crew;
use crate::upstream::health::state::{Bar, State};

/// An endpoint that is out until then.
pub(super) struct Ejected {
    pub(super) upstream: Arc<str>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) until: Instant,
}

impl Ejected {
    /// Those of an upstream.
    pub(super) fn of(upstream: &Upstream) -> Vec<Self> {
        let set = upstream.endpoints.load();
        let out = set.all().iter().filter_map(|endpoint| {
            let until = endpoint.state.standing().ejection.until()?;
            Some(Self { upstream: Arc::clone(&upstream.name), endpoint: Arc::clone(endpoint), until })
        });
        out.collect()
    }
}

/// Ejects the endpoints of an upstream that failed often enough in a row, as far as they may be.
pub(super) fn eject(upstream: &Upstream, rules: &model::Outlier, now: Instant) -> Vec<Ejected> {
    let set = upstream.endpoints.load();
    let mut ejected = Vec::new();
    for endpoint in set.all() {
        let failures = endpoint.state.failures_in_a_row();
        if failures < rules.consecutive_failures {
            continue;
        }
        // The next row begins whatever becomes of this one, so that whoever fails on does not wake us for every failure.
        endpoint.state.forget_failures();
        // The last requests of one that is out already.
        if !endpoint.state.is_ready() {
            continue;
        }
        let states = || set.all().iter().map(|endpoint| endpoint.state.state());
        let crew = Crew {
            all: set.all().len(),
            ejected: set.all().iter().filter(|endpoint| endpoint.state.has(Bar::Ejected)).count(),
            others_ready: states().filter(|state| *state == State::Ready).count() - 1,
        };
        if let Err(spared) = crew.may_lose(rules.max_ejected) {
            spare(upstream, endpoint, failures, &spared.to_string(), now);
            continue;
        }
        let (until, times) = {
            let mut standing = endpoint.state.standing();
            let until = standing.ejection.eject(now, rules.eject_for);
            standing.ejected_until = Some(SystemTime::now() + (until - now));
            standing.ejections += 1;
            (until, standing.ejection.times())
        };
        endpoint.state.set(Bar::Ejected, true);
        let for_s = (until - now).as_secs_f64();
        let left = crew.others_ready;
        warn!(upstream = %upstream.name, endpoint = %endpoint.label, failures, for_s, times, left,
            "endpoint ejected: several requests in a row failed");
        ejected.push(Ejected { upstream: Arc::clone(&upstream.name), endpoint: Arc::clone(endpoint), until });
    }
    ejected
}

/// Tells of an endpoint that fails and stays in: once in a while, as it goes on failing.
fn spare(upstream: &Upstream, endpoint: &Endpoint, failures: u32, why: &str, now: Instant) {
    let (name, label) = (&upstream.name, &endpoint.label);
    if endpoint.state.standing().tells_that_it_is_spared(now, TELL_AGAIN) {
        warn!(upstream = %name, endpoint = %label, failures, "requests to the endpoint fail, but it is not ejected: {why}");
    } else {
        debug!(upstream = %name, endpoint = %label, failures, "endpoint not ejected: {why}");
    }
}

/// Lets an endpoint in again, at its time or before; says whether it was out.
pub(super) fn let_back(endpoint: &Endpoint, now: Instant) -> bool {
    {
        let mut standing = endpoint.state.standing();
        standing.ejection.let_back(now);
        standing.ejected_until = None;
    }
    endpoint.state.forget_failures();
    endpoint.state.set(Bar::Ejected, false)
}

/// Lets those in again that are out for their failures alone, where nobody else is left: an endpoint that fails at times is
/// better than none. To be asked whenever an endpoint of an upstream goes out for another reason.
pub(in crate::control) fn spare_the_last(upstream: &Upstream, now: Instant) {
    let set = upstream.endpoints.load();
    if set.all().iter().any(|endpoint| endpoint.state.is_ready()) {
        return;
    }
    for endpoint in set.all().iter().filter(|endpoint| endpoint.state.state() == State::Ejected) {
        if let_back(endpoint, now) {
            info!(upstream = %upstream.name, endpoint = %endpoint.label,
                "endpoint back in use before the end of its ejection: no other is ready");
        }
    }
}

/// How long nothing is said again of an endpoint that fails and stays in.
const TELL_AGAIN: Duration = Duration::from_secs(60);
