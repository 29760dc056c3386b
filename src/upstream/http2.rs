//! HTTP/2 connections to an endpoint. Each is shared by as many requests as the endpoint allows streams; the pool opens
//! another one when they are used up. hyper would queue further requests without a bound, so streams are counted here.

mod tasks;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use http::{Method, Request, Response, Version, header};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};

pub(super) use self::tasks::LocalTasks;
use super::client::{Answer, SendFailure, StreamPlace, Upgraded};
use super::connector::{Connected, Metered};
use super::failure::{self, Progress};
use super::pool::EndpointPool;
use super::sessions::{Life, Multiplexed, Place, Sessions};
use crate::base::error::Error;
use crate::body::Body;
use crate::body::incoming::Incoming;
use crate::body::request;
use crate::body::tunnel::{Http2Tunnel, PumpPlace};

/// Streams on one connection, however many the endpoint allows: past it another connection serves better, as one lost
/// packet stalls every stream of a connection. It also bounds what a connection may hold, see `CONNECTION_WINDOW`.
pub(super) const MAX_STREAMS: usize = 64;
/// Bytes an endpoint may send on one stream ahead of its client: 80 Mbit/s at 50 ms, and what one slow client may hold.
const STREAM_WINDOW: u32 = 512 * 1024;
/// Bytes an endpoint may send on one connection ahead of all clients. No less than all of its streams together, so that
/// clients who read nothing never stall the stream of one who does (hyper#2899). Reached only if all of them stall.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;
/// Bytes of a request's body kept for one stream while the endpoint's window is closed.
const MAX_SEND_BUFFER: usize = 256 * 1024;
/// Bytes of an answer's header list, as on HTTP/1.
const MAX_HEADER_LIST: u32 = 64 * 1024;
/// Silence, while streams are open, after which the endpoint is asked for a sign of life. More often is taken for abuse:
/// gRPC's default closes with ENHANCE_YOUR_CALM below five minutes without streams, and some below 30 s with.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long that sign may take.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams that the endpoint allows as long as it has not said how many. hyper tells nobody when SETTINGS came, and no endpoint
/// says this number.
const UNTOLD: usize = 0x7e11_0e55;

type Driven = Connection<TokioIo<Metered>, Body, LocalTasks>;

/// One connection and its streams.
pub(super) struct Shared {
    life: Life,
    /// Dropping it lets open streams finish and then closes the connection.
    sender: RefCell<Option<SendRequest<Body>>>,
    /// Held here, not by its task alone, to ask how many streams the endpoint allows at the moment.
    connection: RefCell<Option<Driven>>,
    /// Who is to look again when the endpoint has sent something, or never will.
    waiting: Rc<RefCell<Vec<Waker>>>,
    /// Goes on with each read that brings something of the endpoint.
    received: Rc<Cell<u32>>,
}

/// A connection, and how far its endpoint was when a request was sent on it.
pub(super) struct Pulse {
    session: Rc<Shared>,
    received: u32,
}

/// A stream in the hands of one request.
pub struct Http2(Place<Shared>);

/// Its place on the connection while the answer's body comes.
pub struct StreamGuard {
    _place: Place<Shared>,
}

/// Starts HTTP/2 on a new connection and spawns the task that drives it.
pub(super) async fn start(connected: Connected, pool: &Rc<EndpointPool>) -> Result<Http2, Error> {
    let (alone, waiting, received) = (connected.alone, connected.io.waiting(), connected.io.received());
    let mut builder = Builder::new(LocalTasks);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_max_send_streams(UNTOLD)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(false);
    let (sender, connection) = match builder.handshake(TokioIo::new(connected.io)).await {
        Ok(started) => started,
        Err(error) => return Err(failure::not_sent(error)),
    };
    let shared = Rc::new(Shared {
        life: Life::new(pool, alone),
        sender: RefCell::new(Some(sender)),
        connection: RefCell::new(Some(connection)),
        waiting,
        received,
    });
    shared.begin();
    tokio::task::spawn_local(drive(Rc::clone(&shared)));
    Ok(shared.stream())
}

async fn drive(shared: Rc<Shared>) {
    let mut announced = None;
    let _ended = poll_fn(|cx| match shared.connection.borrow_mut().as_mut() {
        Some(connection) => {
            PumpPlace::announce_again(announced.take());
            // What it looks at from here on is what it spawns a task for.
            request::take_looked_at();
            let polled = Pin::new(&mut *connection).poll(cx).map(drop);
            announced = PumpPlace::take_announced();
            polled
        }
        None => Poll::Ready(()),
    })
    .await;
    shared.connection.take();
    shared.waiting.take().into_iter().for_each(Waker::wake);
    shared.ended();
}

impl Shared {
    /// Whether the endpoint has said that it takes extended CONNECT.
    pub(super) fn takes_connect(&self) -> bool {
        let connection = self.connection.try_borrow();
        connection.is_ok_and(|driven| driven.as_ref().is_some_and(Driven::is_extended_connect_protocol_enabled))
    }
}

impl Multiplexed for Shared {
    type Stream = Http2;

    fn life(&self) -> &Life {
        &self.life
    }

    fn among(pool: &EndpointPool) -> &Sessions<Self> {
        &pool.http2
    }

    fn free(&self) -> usize {
        if self.life.is_retired() {
            return 0;
        }
        let allowed = match self.connection.try_borrow() {
            Ok(connection) => connection.as_ref().map_or(0, Driven::current_max_send_streams),
            Err(_) => MAX_STREAMS,
        };
        allowed.min(MAX_STREAMS).saturating_sub(self.life.open())
    }

    fn close(&self) {
        self.sender.take();
    }
}

impl From<Place<Shared>> for Http2 {
    fn from(place: Place<Shared>) -> Self {
        Self(place)
    }
}

impl Pulse {
    /// Gives the connection up where nothing came from the endpoint since: that it is gone is told by nobody where packets
    /// vanish, and each request to come would wait as long. PING would tell later than most deadlines. Streams that are
    /// open have their own.
    pub(super) fn overdue(&self) {
        if self.session.received.get() == self.received {
            self.session.retire();
        }
    }
}

impl Http2 {
    /// To be asked right before the request is sent.
    pub(super) fn pulse(&self) -> Pulse {
        let session = self.0.session();
        Pulse { session: Rc::clone(session), received: session.received.get() }
    }

    pub(super) fn is_reused(&self) -> bool {
        self.0.is_reused()
    }

    /// Whether the endpoint takes extended CONNECT (RFC 8441 §3), once it has said so. Cancel-safe.
    pub(super) async fn takes_connect(&self) -> bool {
        let shared = self.0.session();
        poll_fn(|cx| match shared.connection.borrow().as_ref().map(Driven::current_max_send_streams) {
            Some(UNTOLD) => {
                shared.waiting.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
            Some(_) => Poll::Ready(shared.takes_connect()),
            None => Poll::Ready(false),
        })
        .await
    }

    /// Sends one request on this stream. Dropping the future resets the stream.
    pub(super) fn send(self, mut request: Request<Body>) -> impl Future<Output = Result<Answer, SendFailure>> {
        let shared = self.0.session();
        let place = (request.method() == Method::CONNECT).then(|| {
            let place = Rc::<PumpPlace>::default();
            *request.body_mut() = Body::Connect(Rc::clone(&place));
            place
        });
        *request.version_mut() = Version::HTTP_2;
        // RFC 9113 §8.3.1: `:authority` takes its place, from the URI.
        request.headers_mut().remove(header::HOST);
        let sent = match shared.sender.borrow_mut().as_mut() {
            Some(sender) => Ok(sender.try_send_request(request)),
            None => Err(request),
        };
        let sent = sent.map_err(Box::new);
        async move {
            match sent {
                Ok(sending) => self.answered(sending.await, place),
                Err(request) => Err(SendFailure { error: failure::session_gone(), request: Some(request) }),
            }
        }
    }

    fn answered(
        self,
        answered: Result<Response<hyper::body::Incoming>, TrySendError<Request<Body>>>,
        place: Option<Rc<PumpPlace>>,
    ) -> Result<Answer, SendFailure> {
        let shared = self.0.session();
        match answered {
            Ok(mut response) if response.extensions().get::<OnUpgrade>().is_some() => {
                let upgrade = hyper::upgrade::on(&mut response);
                let stream: Option<Box<dyn std::any::Any>> = Some(Box::new(self.0));
                let opening = async move { Http2Tunnel::open(upgrade, &place.unwrap_or_default(), stream).await };
                let upgraded = Some(Upgraded::opening(opening));
                Ok(Answer { response: response.map(Incoming::Http2), upgraded, stream: None })
            }
            Ok(response) => Ok(Answer {
                response: response.map(Incoming::Http2),
                upgraded: None,
                stream: Some(StreamPlace::Http2(StreamGuard { _place: self.0 })),
            }),
            Err(mut failed) => {
                let request = failed.take_message();
                let progress = Progress { reused: self.is_reused(), received: false };
                let (error, broken) = match &request {
                    Some(_) => (failure::not_sent(failed.into_error()), true),
                    None => failure::http2(failed.into_error(), progress),
                };
                // At once, not when the connection's task gets to see it: the next try must not land here again.
                if broken {
                    shared.retire();
                }
                Err(SendFailure::new(error, request))
            }
        }
    }
}

#[cfg(test)]
mod tests;
