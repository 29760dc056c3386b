//! A TCP or Unix connection that becomes a stream of a QUIC connection: `mode = "tcp"` with an upstream of `protocol =
//! "quic"`. Runs on the HTTP workers, as QUIC does.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use super::listeners::{ConnectionPermit, WorkerListener};
use super::session::{self, Client, Ground, Way};
use super::worker::Worker;
use crate::base::error::Kind;
use crate::base::id::UpstreamId;
use crate::net::io::Socket;
use crate::net::timer::{Instant, Timer};
use crate::protocol::quic_stream::Relay;
use crate::protocol::quic_stream::end::End;
use crate::proxy::context::Ends;

/// Relays one connection until it ends; `permit` is given back then. `told`: the client, the other end of the connection, and
/// what else a PROXY header told.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    listener: &WorkerListener,
    socket: Socket,
    upstream: usize,
    told: (Option<SocketAddr>, Option<SocketAddr>, Option<Box<Ends>>),
    permit: ConnectionPermit,
) {
    let (address, peer, ends) = told;
    let (local, tlvs) = ends.map(|ends| (ends.local, ends.tlvs)).unwrap_or_default();
    let client = Client { address, peer, local, tlvs, sni: None };
    let ground = Ground::new(worker, listener);
    let cut = overdue(Rc::clone(worker), &ground);
    // The model counts its upstreams in memory; a configuration of four billion does not load.
    let way = Way::Shared(UpstreamId(upstream as u32));
    session::relay(ground, Rc::new(client), Relay::new(End::Socket(socket)), way, cut).await;
    drop(permit);
}

/// Ends when the session is too old, or when the process drains and it had its time: as on layer 4.
fn overdue(worker: Rc<Worker>, ground: &Ground) -> impl Future<Output = (Kind, &'static str)> + use<> {
    let drain_timeout = ground.generation.snapshot.server.drain_timeout;
    let age = ground.profile.spec.config.timeouts.max_age;
    let timer = Timer::new();
    if let Some(age) = age {
        timer.set(Instant::now() + age);
    }
    let mut draining_until = None;
    let too_old = age.map(|age| Instant::now() + age);
    poll_fn(move |cx| {
        // A drain wakes whoever waits on a timer.
        if draining_until.is_none() && worker.is_draining() {
            let until = Instant::now() + drain_timeout;
            draining_until = Some(until);
            timer.set(too_old.map_or(until, |old| old.min(until)));
        }
        if timer.poll_expired(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(match draining_until {
            Some(until) if Instant::now() >= until => {
                (Kind::ExchangeTimeout, "it was still open when the time to drain was over")
            }
            _ => (Kind::ExchangeTimeout, "it reached max_age"),
        })
    })
}
