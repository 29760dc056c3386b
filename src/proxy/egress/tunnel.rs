//! CONNECT (RFC 9110 §9.3.6) on every version of HTTP: connects to the destination and relays bytes in both directions.

use std::rc::Rc;
use std::sync::Arc;

use http::Response;
use http::request::Parts;
use tokio::time::Instant;

use super::dial::Dialer;
use super::target::Target;
use crate::base::error::{Error, Kind};
use crate::body::Body;
use crate::body::incoming::Incoming;
use crate::body::phase_clock::Phase;
use crate::net::relay::{Breakable, End, relay};
use crate::proxy::stack::Scene;
use crate::proxy::tunnel::{self, Carried, ClientEnd, failure_of};
use crate::route::egress::Egress;

/// Connects and says so; what follows is relayed.
///
/// # Errors
/// Why there is no connection.
pub async fn open(
    scene: &Scene,
    egress: &Arc<Egress>,
    target: Target,
    head: &mut Parts,
    body: Incoming,
) -> Result<Response<Body>, Error> {
    let Some(client) = ClientEnd::take(head.version, &mut head.extensions, body) else {
        return Err(Error::downstream(Kind::HttpRequestError, "CONNECT that cannot become a tunnel"));
    };
    let mut endpoint = reached(scene, egress, target, async |dialer| dialer.connect().await).await?;
    let counters = Arc::clone(scene.connection.link.load().counters());
    let idle = egress.outbound.timeouts.tunnel_idle;
    Ok(tunnel::open(client, scene, Response::new(()), async move |mut client, stop| {
        let relayed = relay(&mut client, &mut endpoint, idle, stop).await;
        counters.bytes_upstream_out.add(relayed.up);
        counters.bytes_upstream_in.add(relayed.down);
        if !matches!(relayed.end, End::Closed) {
            // A clean end would pass a truncated stream on as a whole one.
            endpoint.reset_on_drop();
        }
        Carried { up: relayed.up, down: relayed.down, failure: failure_of(&relayed.end) }
    }))
}

/// What `connect` reaches the destination with; what is told of it is the same for every tunnel.
///
/// # Errors
/// Those of `connect`.
pub async fn reached<T>(
    scene: &Scene,
    egress: &Arc<Egress>,
    target: Target,
    connect: impl AsyncFnOnce(&Dialer) -> Result<T, Error>,
) -> Result<T, Error> {
    let exchange = &scene.exchange;
    // As requests that go out are counted and logged.
    exchange.ledger().upstream = Some(scene.generation.origins.measured(&egress.cleartext.name));
    exchange.ledger().attempt(Rc::new(Arc::from(target.label())));
    let counters = scene.connection.link.load().counters();
    counters.upstream_connects.add(1);
    exchange.clock().enter(Phase::Connect, Instant::now());
    let connected = connect(&Dialer::new(Arc::clone(egress), target)).await;
    match &connected {
        Ok(_) => exchange.note_first_byte(),
        Err(_) => counters.upstream_connect_failures.add(1),
    }
    connected
}
