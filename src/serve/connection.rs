//! One downstream connection from its socket to its end: the TLS handshake, then HTTP through the proxy's stack. Spawned
//! by the accept loop, which never waits for it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::listeners::{ConnectionPermit, WorkerListener};
use super::worker::Worker;
use crate::base::error::{Error, Kind};
use crate::body::load::Load;
use crate::config::model::TlsVersion;
use crate::net::io::Socket;
use crate::net::timer;
use crate::protocol::http::{self, Refuse, Settled};
use crate::protocol::link::Link;
use crate::proxy::context::{Connection, Home, Profile};
use crate::proxy::stack::stack;
use crate::proxy::{record, rescue};
use crate::snapshot::WorkerSnapshot;
use crate::transport::Channel;
use crate::transport::tls::server::Accepted;

/// Serves one connection until it ends; `permit` is given back then. Not cancel-safe: dropping it closes the connection.
pub async fn serve(
    worker: Rc<Worker>,
    listener: Rc<WorkerListener>,
    socket: Socket,
    remote: Option<SocketAddr>,
    permit: ConnectionPermit,
) {
    let profile = listener.profile();
    let (channel, tls) = match &profile.spec.tls {
        None => (Channel::Plain(socket), None),
        // Boxed, so that an open connection does not hold the room that its handshake took.
        Some(_) => match Box::pin(handshake(&worker, &profile, socket)).await {
            Ok((channel, accepted)) => (channel, Some(accepted)),
            Err(error) => {
                worker.counters().handshakes_failed.add(1);
                tracing::debug!(
                    client.addr = remote.map(tracing::field::display),
                    kind = error.kind().as_str(),
                    reason = error.reason(),
                    source = std::error::Error::source(&error).map(tracing::field::display),
                    "TLS handshake failed"
                );
                return;
            }
        },
    };
    let settled = match &tls {
        None => Settled::Nothing,
        Some(accepted) if accepted.alpn_h2 => Settled::Http2,
        // RFC 9113 §3.3: over TLS, HTTP/2 is chosen by ALPN alone.
        Some(_) => Settled::Http1,
    };
    let draining = Rc::clone(&listener);
    let link = Link::new(
        Load::new(Arc::clone(worker.telemetry())),
        profile.settings.deadlines.clone(),
        Rc::new(move || draining.is_draining()),
    );
    let connection = Rc::new(Connection {
        forwarded: profile.policy.connection(remote.map(|remote| remote.ip()), tls.is_some()),
        home: listener,
        link: Rc::clone(&link),
        remote,
        tls,
        spare: Default::default(),
    });
    let refuse = refuse(&worker, &connection);
    http::serve(channel, settled, Rc::clone(&profile.settings), link, refuse, stack(connection)).await;
    drop(permit);
}

/// The handshake under its deadline.
async fn handshake(worker: &Worker, profile: &Profile, socket: Socket) -> Result<(Channel, Accepted), Error> {
    let Some(tls) = &profile.spec.tls else { return Err(Error::internal("a handshake without certificates")) };
    let limit = profile.spec.config.timeouts.handshake;
    match timer::timeout(limit, tls.accept(socket)).await {
        Ok(Ok((stream, accepted))) => {
            worker.counters().handshake(accepted.version == TlsVersion::V1_2, accepted.resumed);
            Ok((Channel::Server(stream), accepted))
        }
        Ok(Err(error)) => Err(error),
        Err(timer::Elapsed) => {
            Err(Error::downstream(Kind::RequestHeaderTimeout, "the TLS handshake was not finished in time"))
        }
    }
}

/// What a client is told whose head was refused before hyper saw it; counted and logged as any other request.
fn refuse(worker: &Rc<Worker>, connection: &Rc<Connection>) -> Refuse {
    let (worker, connection) = (Rc::clone(worker), Rc::clone(connection));
    Rc::new(move |refusal| {
        worker.counters().heads_refused.add(1);
        let error = Error::downstream(refusal.kind, refusal.reason);
        let id = rescue::new_request_id();
        tracing::debug!(kind = error.kind().as_str(), reason = error.reason(), request_id = %id, "request refused");
        record::enter_refused(&connection, &error, &id);
        rescue::raw_answer(&error, &id)
    })
}

impl Home for WorkerListener {
    fn now(&self) -> (Rc<WorkerSnapshot>, Rc<Profile>) {
        WorkerListener::now(self)
    }
}
