//! Drains and resumes endpoints for an operator. The drain is part of the endpoint's state, so it outlives reloads, and
//! takes effect by a new endpoint set for every worker.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{info, warn};

use super::health::spare_the_last;
use super::requests::EndpointDrain;
use super::workers::Workers;
use crate::snapshot::Snapshot;
use crate::upstream::health::state::Bar;
use crate::upstream::registry::Registry;

/// What a drain names is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No upstream of the generation in force has the name.
    #[error("no upstream has this name")]
    Upstream,
    /// No endpoint of the upstream has the address.
    #[error("the upstream has no endpoint with this address")]
    Endpoint,
}

/// Drains or resumes the endpoints that are meant: a name may stand for several. Requests that are under way there finish,
/// and idle connections close. Gives their labels.
///
/// # Errors
/// As [`Unknown`]; then nothing has changed.
pub fn drain(
    order: &EndpointDrain,
    snapshot: &Snapshot,
    registry: &Registry,
    workers: &Workers,
) -> Result<Vec<Arc<str>>, Unknown> {
    let upstream = snapshot.upstream_named(&order.upstream).ok_or(Unknown::Upstream)?;
    let set = upstream.endpoints.load();
    let meant = set.all().iter().filter(|endpoint| endpoint.is_called(&order.endpoint));
    let labels: Vec<_> = meant
        .map(|endpoint| {
            endpoint.state.set(Bar::Drained, order.drained);
            Arc::clone(&endpoint.label)
        })
        .collect();
    if labels.is_empty() {
        return Err(Unknown::Endpoint);
    }
    spare_the_last(upstream, Instant::now());
    let set = registry.endpoint_set(&upstream.config);
    upstream.endpoints.store(Arc::clone(&set));
    workers.set_endpoints(&upstream.name, &set);
    let (left, endpoints) = (set.endpoints().len(), labels.join(", "));
    match order.drained {
        true => info!(upstream = %upstream.name, endpoints, left, "endpoint drained"),
        false => info!(upstream = %upstream.name, endpoints, left, "endpoint resumed"),
    }
    if left == 0 {
        warn!(upstream = %upstream.name, "requests to this upstream are answered with 503: {}", set.why_none());
    }
    Ok(labels)
}
