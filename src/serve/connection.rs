//! One downstream connection from accept to close: PROXY header, TLS handshake, then HTTP through `proxy::stack`. Spawned by
//! the accept loop, which never waits for it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::Version;

use super::introduction::{self, Expected, introduction};
use super::listeners::{ConnectionPermit, WorkerListener};
use super::tunnel;
use super::worker::Worker;
use crate::base::error::{Error, Kind};
use crate::body::load::Load;
use crate::config::model::{Mode, TlsVersion};
use crate::net::io::Socket;
use crate::net::timer;
use crate::protocol;
use crate::protocol::http::{Refuse, Settled};
use crate::protocol::link::Link;
use crate::protocol::wire::Refusal;
use crate::proxy::context::{Connection, Ends, Home, Profile};
use crate::proxy::stack::stack;
use crate::proxy::{record, rescue};
use crate::snapshot::WorkerSnapshot;
use crate::transport::Channel;
use crate::transport::tls::server::{Accepted, Alpn};

/// Serves one connection until it ends and then releases `permit`. Not cancel-safe: dropping it closes the connection.
pub async fn serve(
    worker: Rc<Worker>,
    listener: Rc<WorkerListener>,
    socket: Socket,
    remote: Option<SocketAddr>,
    mut permit: ConnectionPermit,
) {
    let (generation, profile) = listener.now();
    let tells_of_clients = generation.tells_of_clients;
    // A long-lived connection must not keep an old generation alive.
    drop(generation);
    let expected = introduction::expected(&profile, remote);
    let (mut client, mut ends) = (remote, None);
    if tells_of_clients || expected != Expected::Nothing {
        // Boxed, so that its state is freed and does not enlarge the future of an open connection.
        match Box::pin(introduced(&worker, &profile, &socket, remote, expected)).await {
            Some(introduced) => (client, ends) = (introduced.0, Some(Box::new(introduced.1))),
            None => return,
        }
        if expected != Expected::Nothing && !permit.admit_client(&profile.spec, client) {
            return;
        }
    }
    if let Mode::Tcp { upstream, .. } = profile.spec.config.mode {
        return tunnel::serve(&worker, &listener, socket, upstream, (client, remote, ends), permit).await;
    }
    let Some((channel, tls)) = secured(&worker, &profile, socket, client).await else { return };
    let settled = match &tls {
        None => Settled::Nothing,
        Some(accepted) if accepted.alpn == Alpn::Http2 => Settled::Http2,
        // RFC 9113 §3.3: over TLS, HTTP/2 is negotiated only by ALPN.
        Some(_) => Settled::Http1,
    };
    let draining = Rc::clone(&listener);
    let link = Link::new(
        Load::new(Arc::clone(worker.telemetry())),
        profile.settings.deadlines.clone(),
        Rc::new(move || draining.is_draining()),
    );
    let connection = Rc::new(Connection {
        forwarded: profile.policy.connection(client.map(|client| client.ip()), tls.is_some()),
        home: listener,
        link: Rc::clone(&link),
        remote: client,
        ends,
        tls,
        spare: Default::default(),
    });
    let refuse = refuse(&worker, &connection);
    protocol::http::serve(channel, settled, Rc::clone(&profile.settings), link, refuse, stack(connection)).await;
    drop(permit);
}

/// The client's address and the other facts about its connection; `None`: it must be closed, and that has been logged.
async fn introduced(
    worker: &Worker,
    profile: &Profile,
    socket: &Socket,
    peer: Option<SocketAddr>,
    expected: Expected,
) -> Option<(Option<SocketAddr>, Ends)> {
    let told = match expected {
        Expected::Nothing => None,
        expected => match introduction(profile, socket, expected).await {
            Ok(told) => told,
            Err(error) => {
                // A TCP health check connects and sends nothing; that is not a refused header.
                if error.kind() != Kind::ClientGone {
                    worker.counters().proxy_headers_refused.add(1);
                }
                tracing::debug!(
                    peer.addr = peer.map(tracing::field::display),
                    kind = error.kind().as_str(),
                    reason = error.reason(),
                    "closed: no valid PROXY header"
                );
                return None;
            }
        },
    };
    let told = told.unwrap_or_default();
    let local = if told.client.is_some() { told.local } else { socket.local_address() };
    Some((told.client.or(peer), Ends { peer, local, tlvs: told.tlvs }))
}

/// The channel of the connection, with TLS if the listener uses it; `None`: the handshake failed, and that has been logged.
async fn secured(
    worker: &Worker,
    profile: &Profile,
    socket: Socket,
    client: Option<SocketAddr>,
) -> Option<(Channel, Option<Accepted>)> {
    if profile.spec.tls.is_none() {
        return Some((Channel::Plain(socket), None));
    }
    // Boxed, so that its state is freed and does not enlarge the future of an open connection.
    match Box::pin(handshake(worker, profile, socket)).await {
        Ok((channel, accepted)) => Some((channel, Some(accepted))),
        Err(error) => {
            worker.counters().handshakes_failed.add(1);
            tracing::debug!(
                client.addr = client.map(tracing::field::display),
                kind = error.kind().as_str(),
                reason = error.reason(),
                source = std::error::Error::source(&error).map(tracing::field::display),
                "TLS handshake failed"
            );
            None
        }
    }
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

/// The response to a head that was refused before hyper saw it; counted and logged like any other request.
fn refuse(worker: &Rc<Worker>, connection: &Rc<Connection>) -> Refuse {
    let (worker, connection) = (Rc::clone(worker), Rc::clone(connection));
    Rc::new(move |refusal| {
        let (error, id) = refused(&worker, &connection, refusal, Version::HTTP_11);
        rescue::raw_answer(&error, &id)
    })
}

/// Counts and logs a refused head. Returns the error and the request id for the response.
pub(super) fn refused(worker: &Worker, connection: &Connection, refusal: Refusal, version: Version) -> (Error, String) {
    worker.counters().heads_refused.add(1);
    let error = Error::downstream(refusal.kind, refusal.reason);
    let id = rescue::new_request_id();
    tracing::debug!(kind = error.kind().as_str(), reason = error.reason(), request_id = %id, "request refused");
    record::enter_refused(connection, &error, &id, version);
    (error, id)
}

impl Home for WorkerListener {
    fn now(&self) -> (Rc<WorkerSnapshot>, Rc<Profile>) {
        WorkerListener::now(self)
    }
}
