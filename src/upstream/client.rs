//! One request on one session. The session determines the HTTP version. The result is the response head with a
//! streaming body, or the error and whether a retry is safe.

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

/// The right to send one request to an endpoint. Dropped unused, it returns to the pool.
pub enum Session {
    /// An HTTP/1.1 connection.
    Http1(Http1),
    /// A stream of a shared HTTP/2 connection.
    Http2(Http2),
    /// A stream of a shared HTTP/3 connection.
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
    /// One of two futures with the same output.
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

/// A request in progress on a shared connection.
type Sent = Pin<Box<dyn Future<Output = Result<Answer, SendFailure>>>>;

/// A response whose head has arrived.
pub struct Answer {
    /// The head, and a streaming body. hyper keeps Content-Length next to Transfer-Encoding; the caller must remove it.
    pub response: Response<Incoming>,
    /// Carries the other protocol after a switch: the connection after a 101 on HTTP/1, or the stream of a successful
    /// CONNECT. The caller must check that the request asked for it.
    pub upgraded: Option<Upgraded>,
    /// The stream's place on a shared connection: drop it when the body has ended or is cancelled.
    pub stream: Option<StreamPlace>,
}

/// The place of a stream on its connection.
pub enum StreamPlace {
    /// On an HTTP/2 connection.
    Http2(http2::StreamGuard),
    /// On an HTTP/3 connection.
    Http3(http3::StreamGuard),
}

/// Why there is no response.
pub struct SendFailure {
    /// What happened, whose fault it is, and whether a retry is safe.
    pub error: Error,
    /// The request, if nothing of it was sent: unchanged, except for its version and, on a stream, its Host.
    pub request: Option<Box<Request<Body>>>,
}

/// A connection after a 101, or a stream after CONNECT, as soon as hyper releases it. Bytes that arrived together with
/// the response come first.
pub struct Upgraded(Switch);

enum Switch {
    Ready(Option<Switched>),
    Pending(oneshot::Receiver<Switched>),
    Opening(Pin<Box<dyn Future<Output = io::Result<Http2Tunnel>>>>),
}

/// The connection or stream of another protocol; its bytes are counted.
pub type Switched = Box<dyn Breakable>;

impl Session {
    /// Whether the connection has served requests before.
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

    /// Whether interim responses are reported; hyper does not report those of HTTP/2.
    pub fn hears_interim(&self) -> bool {
        !matches!(self, Session::Http2(_))
    }

    /// Whether the session can switch protocols: always on HTTP/1.1, by Upgrade; otherwise if the endpoint's first
    /// SETTINGS, which it waits for, allow extended CONNECT (RFC 8441, RFC 9220). The caller enforces a deadline.
    /// Cancel-safe.
    pub(super) async fn switches(&self) -> bool {
        match self {
            Session::Http1(_) => true,
            Session::Http2(session) => session.takes_connect().await,
            Session::Http3(session) => session.takes_connect().await,
        }
    }

    /// Sends the request and waits for the response head; the caller enforces the deadline. Dropping the future closes
    /// the HTTP/1 connection or resets the stream.
    ///
    /// # Errors
    /// See [`SendFailure`]. An error of the request body keeps its kind and side.
    pub fn send(self, request: Request<Body>) -> impl Future<Output = Result<Answer, SendFailure>> {
        match self {
            Session::Http1(session) => Either::Left { future: session.send(request) },
            // Boxed: they are several times as large, and would enlarge the future of a request on HTTP/1.1.
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
