//! HTTP/3 on one accepted QUIC connection, through the proxy's stack; the counterpart of `connection` for TCP.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Response, Version};

use super::connection::refused;
use super::listeners::WorkerListener;
use super::quic::Held;
use super::worker::Worker;
use crate::base::addr::canonical;
use crate::body::load::Load;
use crate::protocol::http3;
use crate::protocol::link::Link;
use crate::proxy::context::{Connection, Ends};
use crate::proxy::rescue;
use crate::proxy::stack::stack;
use crate::transport::quic::QuicAccepted;

/// Serves one connection until it ends; `held` is given back then. Not cancel-safe: dropping it closes the connection.
pub(super) async fn serve(worker: Rc<Worker>, listener: Rc<WorkerListener>, accepted: QuicAccepted, held: Held) {
    let QuicAccepted { connection: quic, accepted, early, established } = accepted;
    let (generation, profile) = listener.now();
    // Where the handshake proved it to be. A client that has moved since is still the one that was let in.
    let client = canonical(quic.remote_address());
    let ends = generation.tells_of_clients.then(|| {
        let local = quic.local_ip().zip(listener.port()).map(|(ip, port)| canonical((ip, port).into()));
        Box::new(Ends { peer: Some(client), local, tlvs: Box::default() })
    });
    // An old generation is not kept for as long as the connection lives.
    drop(generation);
    let draining = Rc::clone(&listener);
    let link = Link::new(
        Load::new(Arc::clone(worker.telemetry())),
        profile.settings.deadlines.clone(),
        Rc::new(move || draining.is_draining()),
    );
    if early {
        link.begin_early(established);
    }
    let connection = Rc::new(Connection {
        forwarded: profile.policy.connection(Some(client.ip()), true),
        home: listener,
        link: Rc::clone(&link),
        remote: Some(client),
        ends,
        tls: Some(accepted),
        spare: Default::default(),
    });
    let refuse = {
        let connection = Rc::clone(&connection);
        Rc::new(move |refusal| {
            let (error, id) = refused(&worker, &connection, refusal, Version::HTTP_3);
            with_length(rescue::answer(&error, None, &id))
        })
    };
    let settings = Rc::clone(&profile.settings);
    drop(profile);
    http3::serve(quic, settings, link, refuse, stack(connection)).await;
    drop(held);
}

fn with_length(mut answer: Response<Bytes>) -> Response<Bytes> {
    let length = HeaderValue::from(answer.body().len());
    answer.headers_mut().insert(CONTENT_LENGTH, length);
    answer
}
