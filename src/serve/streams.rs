//! The raw streams of one accepted QUIC connection, `mode = "quic"`: each bidirectional stream is a session.
//! Unidirectional streams and datagrams go to QUIC endpoints over a connection used only for this client, and what the
//! endpoint sends on it is relayed back. `docs/quic-streams.md` documents it.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendDatagramError, SendStream, VarInt};
use smallvec::SmallVec;
use tokio::sync::Mutex;

use super::listeners::WorkerListener;
use super::quic::Held;
use super::session::{self, Client, Ground, Own, Way};
use super::worker::Worker;
use crate::base::addr::canonical;
use crate::base::drain::Tally;
use crate::base::error::{Error, Kind, Retry};
use crate::base::id::UpstreamId;
use crate::base::stream_code::StreamCode;
use crate::body::phase_clock::PhaseClock;
use crate::config::model::UpstreamProtocol;
use crate::net::timer::{self, Instant, Timer};
use crate::protocol::quic_stream::Relay;
use crate::protocol::quic_stream::end::{End, Stream};
use crate::route::l4::by_alpn;
use crate::telemetry::counters::Counters;
use crate::transport::quic::{self, QuicAccepted, varint};
use crate::upstream::balance::EndpointIndex;

/// A client's connection, as its streams see it.
struct Link {
    ground: Rc<Ground>,
    client: Rc<Client>,
    connection: Connection,
    upstream: UpstreamId,
    /// Streams that are open, of either kind.
    open: Rc<Tally>,
    /// Takes no new streams.
    is_going: Cell<bool>,
    /// The connection to an endpoint that this client has alone, once it needed one.
    own: RefCell<Option<Rc<Own>>>,
    /// Held while that is being made.
    making: Mutex<()>,
}

/// Serves one connection until it ends; `held` is given back then.
pub(super) async fn serve(worker: Rc<Worker>, listener: Rc<WorkerListener>, accepted: QuicAccepted, held: Held) {
    let ground = Ground::new(&worker, &listener);
    let began = Instant::now();
    let connection = accepted.connection;
    let Some(upstream) = by_alpn(&ground.profile.spec.config.mode, accepted.accepted.alpn.as_str()) else {
        // A reload took the protocol away during the handshake.
        return quic::close(&connection, StreamCode::Closing);
    };
    let remote = Some(canonical(connection.remote_address()));
    let local = connection.local_ip().zip(listener.port()).map(|(ip, port)| canonical((ip, port).into()));
    let client = Client { address: remote, peer: remote, local, sni: accepted.accepted.sni, ..Client::default() };
    let link = Rc::new(Link {
        ground,
        client: Rc::new(client),
        connection,
        upstream,
        open: Rc::default(),
        is_going: Cell::new(false),
        own: RefCell::default(),
        making: Mutex::default(),
    });
    link.take(&listener, began).await;
    if let Some(own) = link.own.take() {
        quic::close(&own.connection, StreamCode::Closing);
    }
    // They see for themselves that the connection is gone.
    link.open.emptied().await;
    drop(held);
}

/// Ends when the listener drains or a connection of that age has to go. Drains wake whoever waits on a timer.
async fn leaving(listener: &WorkerListener, began: Instant) {
    let timer = Timer::new();
    if let Some(age) = listener.spec().config.timeouts.max_age {
        timer.set(began + age);
    }
    poll_fn(|cx| if listener.is_draining() { Poll::Ready(()) } else { timer.poll_expired(cx) }).await;
}

impl Link {
    /// Takes what the client opens and sends until the connection ends.
    async fn take(self: &Rc<Self>, listener: &WorkerListener, began: Instant) {
        let mut leaves = pin!(leaving(listener, began));
        let drain_timeout = self.ground.generation.snapshot.server.drain_timeout;
        let mut cut = pin!(async {
            leaving(listener, began).await;
            timer::sleep(drain_timeout).await;
        });
        let mut takes_datagrams = true;
        loop {
            // All of them are cancel-safe.
            tokio::select! {
                biased;
                () = &mut leaves, if !self.is_going.get() => {
                    self.is_going.set(true);
                    // No more are granted; those that were granted before are refused as they come.
                    self.connection.set_max_concurrent_bi_streams(VarInt::from_u32(0));
                    self.connection.set_max_concurrent_uni_streams(VarInt::from_u32(0));
                }
                () = self.open.emptied(), if self.is_going.get() => {
                    return quic::close_saying(&self.connection, StreamCode::Closing, b"draining");
                }
                () = &mut cut => return quic::close_saying(&self.connection, StreamCode::TooOld, b"draining"),
                stream = self.connection.accept_bi() => match stream {
                    Ok(stream) => self.opened(stream),
                    Err(_) => return,
                },
                stream = self.connection.accept_uni() => match stream {
                    Ok(stream) => self.opened_unidirectional(stream),
                    Err(_) => return,
                },
                datagram = self.connection.read_datagram(), if takes_datagrams => match datagram {
                    Ok(datagram) if self.leads_to_quic() => {
                        takes_datagrams = false;
                        tokio::task::spawn_local(Rc::clone(self).pass_datagrams(datagram));
                    }
                    Ok(_) => {
                        self.counters().datagrams_in.add(1);
                        self.counters().datagrams_dropped.add(1);
                    }
                    Err(_) => return,
                },
            }
        }
    }

    fn opened(self: &Rc<Self>, (mut send, mut recv): (SendStream, RecvStream)) {
        if self.is_going.get() {
            let code = varint(StreamCode::Closing);
            let _ = (send.reset(code), recv.stop(code));
            return;
        }
        let own = self.own.borrow().clone().filter(|own| own.connection.close_reason().is_none());
        let way = own.map_or(Way::Shared(self.upstream), Way::Own);
        self.relay(Relay::new(End::Stream(Stream::bidirectional((send, recv)))), way);
    }

    fn opened_unidirectional(self: &Rc<Self>, mut recv: RecvStream) {
        if self.is_going.get() || !self.leads_to_quic() {
            let code = if self.is_going.get() { StreamCode::Closing } else { StreamCode::Unsupported };
            let _ = recv.stop(varint(code));
            return;
        }
        let link = Rc::clone(self);
        let entry = self.open.enter();
        tokio::task::spawn_local(async move {
            match link.own().await {
                Ok(own) => {
                    let relay = Relay::upward(End::Stream(Stream::incoming(recv)));
                    link.relay(relay, Way::OwnUnidirectional(own));
                }
                Err(error) => {
                    let _ = recv.stop(varint(StreamCode::for_kind(error.kind())));
                }
            }
            drop(entry);
        });
    }

    /// The one place where sessions of a client's connection are spawned: each is waited for.
    fn relay(self: &Rc<Self>, relay: Relay, way: Way) {
        let (ground, client, entry) = (Rc::clone(&self.ground), Rc::clone(&self.client), self.open.enter());
        tokio::task::spawn_local(async move {
            // What is too old is cut with its connection.
            session::relay(ground, client, relay, way, pending()).await;
            drop(entry);
        });
    }

    fn leads_to_quic(&self) -> bool {
        let upstream = self.ground.upstream(self.upstream);
        upstream.is_ok_and(|upstream| upstream.upstream().config.protocol == UpstreamProtocol::Quic)
    }

    fn counters(&self) -> &Counters {
        self.ground.worker.counters()
    }

    /// The connection to an endpoint that this client has alone; made when it is first needed, and again when it was lost.
    async fn own(self: &Rc<Self>) -> Result<Rc<Own>, Error> {
        let _making = self.making.lock().await;
        if let Some(own) = &*self.own.borrow()
            && own.connection.close_reason().is_none()
        {
            return Ok(Rc::clone(own));
        }
        let upstream = Rc::clone(self.ground.upstream(self.upstream)?);
        let mut tried = SmallVec::<[EndpointIndex; 4]>::new();
        let mut failure = None;
        while tried.len() < MAX_ATTEMPTS {
            let pick = match self.ground.pick(&upstream, &self.client, &tried) {
                Ok(pick) if !tried.contains(&pick.index()) => pick,
                Ok(_) => break,
                Err(error) => return Err(failure.unwrap_or(error)),
            };
            tried.push(pick.index());
            match upstream.quic_connection(&pick, &PhaseClock::new(Instant::now())).await {
                Ok(connection) => {
                    let own = Rc::new(Own { connection, upstream, pick });
                    if self.connection.close_reason().is_some() {
                        quic::close(&own.connection, StreamCode::Closing);
                    }
                    self.own.replace(Some(Rc::clone(&own)));
                    tokio::task::spawn_local(Rc::clone(self).take_back(Rc::clone(&own)));
                    return Ok(own);
                }
                Err(error) => failure = Some(error),
            }
        }
        let reason = "the upstream has no endpoint that was not tried";
        Err(failure.unwrap_or_else(|| Error::upstream(Kind::DestinationUnavailable, Retry::Never, reason)))
    }

    /// Passes the client's datagrams on, as long as its connection lives.
    async fn pass_datagrams(self: Rc<Self>, first: Bytes) {
        let mut next = Ok(first);
        while let Ok(datagram) = next {
            let counters = self.counters();
            counters.datagrams_in.add(1);
            counters.bytes_downstream_in.add(datagram.len() as u64);
            let length = datagram.len() as u64;
            // Meanwhile more of them wait, as many as the connection holds.
            match self.own().await.map(|own| own.connection.send_datagram(datagram)) {
                Ok(Ok(())) => counters.bytes_upstream_out.add(length),
                // It is too large for the path, or the endpoint takes none: lost, as on any network.
                Ok(Err(_)) | Err(_) => counters.datagrams_dropped.add(1),
            }
            next = self.connection.read_datagram().await;
        }
    }

    /// Passes what the endpoint opens and sends to the client, as long as its connection lives.
    async fn take_back(self: Rc<Self>, own: Rc<Own>) {
        loop {
            // All of them are cancel-safe.
            tokio::select! {
                stream = own.connection.accept_bi() => match stream {
                    Ok(stream) => self.opened_by_endpoint(&own, Stream::bidirectional(stream), true),
                    Err(_) => return,
                },
                stream = own.connection.accept_uni() => match stream {
                    Ok(stream) => self.opened_by_endpoint(&own, Stream::incoming(stream), false),
                    Err(_) => return,
                },
                datagram = own.connection.read_datagram() => match datagram {
                    Ok(datagram) => self.send_datagram(datagram),
                    Err(_) => return,
                },
            }
        }
    }

    fn opened_by_endpoint(self: &Rc<Self>, own: &Rc<Own>, mut stream: Stream, both_ways: bool) {
        if self.is_going.get() {
            return stream.cut(StreamCode::Closing.number());
        }
        let (link, own, entry) = (Rc::clone(self), Rc::clone(own), self.open.enter());
        tokio::task::spawn_local(async move {
            let limit = own.upstream.upstream().config.timeouts.connect;
            let relay = if both_ways {
                let opened = timer::timeout(limit, link.connection.open_bi()).await;
                opened.ok().and_then(Result::ok).map(|parts| {
                    let mut towards_client = Stream::bidirectional(parts);
                    towards_client.announce();
                    Relay::new(End::Stream(towards_client))
                })
            } else {
                let opened = timer::timeout(limit, link.connection.open_uni()).await;
                opened.ok().and_then(Result::ok).map(|send| Relay::downward(End::Stream(Stream::outgoing(send))))
            };
            match relay {
                Some(relay) => link.relay(relay, Way::Opened(own, stream)),
                // The client allows none.
                None => stream.cut(StreamCode::Limit.number()),
            }
            drop(entry);
        });
    }

    fn send_datagram(&self, datagram: Bytes) {
        let (counters, length) = (self.counters(), datagram.len() as u64);
        counters.bytes_upstream_in.add(length);
        match self.connection.send_datagram(datagram) {
            Ok(()) => {
                counters.datagrams_out.add(1);
                counters.bytes_downstream_out.add(length);
            }
            Err(SendDatagramError::ConnectionLost(_)) => {}
            Err(_) => counters.datagrams_dropped.add(1),
        }
    }
}

/// Endpoints that are tried for a connection of a client's own.
const MAX_ATTEMPTS: usize = 4;
