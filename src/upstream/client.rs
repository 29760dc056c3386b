//! One request on one session. The session decides the version; what comes back is the answer's head with its body still
//! arriving, or why there is none and whether the request may be sent again.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use tokio::sync::oneshot;

use super::http1::{self, Http1};
use super::http2::{self, Http2};
use super::http3::{self, Http3};
use crate::base::error::Error;
use crate::body::Body;
use crate::body::incoming::Incoming;
use crate::body::tunnel::Http2Tunnel;
use crate::net::relay::Breakable;

/// The right to send one request to an endpoint. Dropped unused, it goes back to the pool.
pub enum Session {
    /// A connection of its own.
    Http1(Http1),
    /// A stream on a shared connection.
    Http2(Http2),
    /// The same over QUIC.
    Http3(Http3),
}

/// Whether the endpoint of a shared connection shows any sign of life.
pub struct Pulse(Option<http2::Pulse>);

impl Pulse {
    /// The deadline of an answer has passed. A connection on which nothing at all came meanwhile takes no more requests.
    pub fn overdue(&self) {
        if let Some(pulse) = &self.0 {
            pulse.overdue();
        }
    }
}

pin_project_lite::pin_project! {
    /// One of two futures with the same outcome.
    #[project = EitherProjection]
    enum Either<L, R> {
        Left { #[pin] future: L },
        Right { #[pin] future: R },
    }
}

impl<L: Future, R: Future<Output = L::Output>> Future for Either<L, R> {
    type Output = L::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<L::Output> {
        match self.project() {
            EitherProjection::Left { future } => future.poll(cx),
            EitherProjection::Right { future } => future.poll(cx),
        }
    }
}

/// A request that is on its way on a shared connection.
type Sent = Pin<Box<dyn Future<Output = Result<Answer, SendFailure>>>>;

/// An answer whose head arrived.
pub struct Answer {
    /// The head, and the body as it comes. hyper leaves Content-Length beside Transfer-Encoding: the caller removes it.
    pub response: Response<Incoming>,
    /// What carries another protocol from now on: the connection itself after a 101 on HTTP/1, the stream of a CONNECT that was
    /// answered with success. Whether the request asked for it is the caller's to check.
    pub upgraded: Option<Upgraded>,
    /// Holds the stream's place on a shared connection: to be dropped when the body has ended or is given up.
    pub stream: Option<StreamPlace>,
}

/// A stream's place on its connection.
pub enum StreamPlace {
    /// Among the streams of HTTP/2.
    Http2(http2::StreamGuard),
    /// Among the streams of HTTP/3.
    Http3(http3::StreamGuard),
}

/// Why there is no answer.
pub struct SendFailure {
    /// What happened, whose fault it is, and whether the request may be sent again.
    pub error: Error,
    /// The request as it was handed in, but for its version and the Host of one on a stream, where nothing of it was sent.
    pub request: Option<Box<Request<Body>>>,
}

/// A connection after a 101, or a stream after CONNECT, once hyper lets go of it: its bytes are no longer HTTP. Those that came
/// with the answer come first.
pub struct Upgraded(Switch);

enum Switch {
    Ready(Option<Switched>),
    Pending(oneshot::Receiver<Switched>),
    Opening(Pin<Box<dyn Future<Output = io::Result<Http2Tunnel>>>>),
}

/// What carries another protocol from now on; its bytes are counted.
pub type Switched = Box<dyn Breakable>;

impl Session {
    /// Whether the connection had served requests before.
    pub fn is_reused(&self) -> bool {
        match self {
            Session::Http1(session) => session.is_reused(),
            Session::Http2(session) => session.is_reused(),
            Session::Http3(session) => session.is_reused(),
        }
    }

    /// To be asked right before the request is sent. A connection that carries one request alone closes with it, and QUIC
    /// notices by itself that nobody acknowledges.
    pub fn pulse(&self) -> Pulse {
        match self {
            Session::Http2(session) => Pulse(Some(session.pulse())),
            Session::Http1(_) | Session::Http3(_) => Pulse(None),
        }
    }

    /// Whether the request must carry scheme and authority in its URI, instead of origin-form and Host.
    pub fn is_multiplexed(&self) -> bool {
        matches!(self, Session::Http2(_) | Session::Http3(_))
    }

    /// Whether interim answers of the endpoint are heard: hyper passes none on from HTTP/2.
    pub fn hears_interim(&self) -> bool {
        !matches!(self, Session::Http2(_))
    }

    /// Whether the endpoint takes extended CONNECT (RFC 8441, RFC 9220), once it has said so: with its first SETTINGS. The caller
    /// keeps the deadline. On HTTP/1.1 there is Upgrade. Cancel-safe.
    pub(super) async fn switches(&self) -> bool {
        match self {
            Session::Http1(_) => true,
            Session::Http2(session) => session.takes_connect().await,
            Session::Http3(session) => session.takes_connect().await,
        }
    }

    /// Sends the request and waits for the head of the answer; the caller keeps the deadline. Dropping the future closes
    /// the HTTP/1 connection or resets the stream.
    ///
    /// # Errors
    /// See [`SendFailure`]. An error that the request's body raised keeps its kind and side.
    pub fn send(self, request: Request<Body>) -> impl Future<Output = Result<Answer, SendFailure>> {
        match self {
            Session::Http1(session) => Either::Left { future: session.send(request) },
            // Boxed: they are several times as large, and a request on HTTP/1.1 would move the room for them about.
            Session::Http2(session) => Either::Right { future: Box::pin(session.send(request)) as Sent },
            Session::Http3(session) => Either::Right { future: Box::pin(session.send(request)) as Sent },
        }
    }
}

impl SendFailure {
    pub(super) fn new(error: Error, request: Option<Request<Body>>) -> Self {
        Self { error, request: request.map(Box::new) }
    }
}

impl Upgraded {
    pub(super) fn ready(switched: Switched) -> Self {
        Self(Switch::Ready(Some(switched)))
    }

    pub(super) fn opening(opening: impl Future<Output = io::Result<Http2Tunnel>> + 'static) -> Self {
        Self(Switch::Opening(Box::pin(opening)))
    }

    pub(super) fn pending(receiver: oneshot::Receiver<Switched>) -> Self {
        Self(Switch::Pending(receiver))
    }
}

impl Future for Upgraded {
    type Output = Result<Switched, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Switch::Ready(parts) => Poll::Ready(parts.take().ok_or_else(http1::not_switched)),
            Switch::Pending(receiver) => Pin::new(receiver).poll(cx).map_err(|_| http1::not_switched()),
            Switch::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                Ok(tunnel) => Poll::Ready(Ok(Box::new(tunnel))),
                Err(error) => Poll::Ready(Err(http1::not_switched().because(error))),
            },
        }
    }
}
