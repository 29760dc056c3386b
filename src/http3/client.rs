//! The client's role: many requests at once on one connection.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use super::body::RecvBody;
use super::config::Config;
use super::connection::{Closing, Connection};
use super::control::{Closed, Control, Order};
use super::error::{Code, Error};
use super::frame::Role;
use super::incoming;
use super::request::Exchange;

/// Sends requests on one connection. Its clones send on the same one, which is closed when the last is dropped and
/// nothing is under way.
#[derive(Clone, Debug)]
pub struct Sender {
    shared: Rc<Shared>,
}

struct Shared {
    connection: Rc<Connection>,
    /// A stream that was opened to see whether there is room for one. The transport tells nobody of it.
    spare: RefCell<Option<(quinn::SendStream, quinn::RecvStream)>>,
}

/// A request that failed before the head of its answer came.
#[derive(Debug)]
pub struct SendError<B> {
    /// Why.
    pub error: Error,
    /// The request, untouched, where nothing of it was sent or the peer said that it did not process it (RFC 9114
    /// §4.1.1, §5.2) and nothing of its body was read.
    pub request: Option<Request<B>>,
}

/// Begins the client's role on a connection. The future drives it and is to be spawned on this thread; dropped before its
/// end, it closes the connection.
pub fn start(quinn: quinn::Connection, config: Rc<Config>) -> (Sender, impl Future<Output = Closed> + 'static) {
    let connection = Connection::new(quinn, Role::Client, config, Control::new());
    let shared = Shared { connection: Rc::clone(&connection), spare: RefCell::default() };
    (Sender { shared: Rc::new(shared) }, drive(connection))
}

async fn drive(connection: Rc<Connection>) -> Closed {
    let closing = Closing(Rc::clone(&connection));
    let mut incoming = pin!(incoming::drive(&connection));
    let mut accepting = pin!(connection.quinn.accept_bi());
    let error = poll_fn(|cx| {
        if let Poll::Ready(error) = incoming.as_mut().poll(cx) {
            return Poll::Ready(error);
        }
        match accepting.as_mut().poll(cx) {
            // RFC 9114 §6.1
            Poll::Ready(Ok(_)) => {
                let reason = "a request stream from a server";
                return Poll::Ready(Error::connection(Code::STREAM_CREATION_ERROR, reason));
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Error::lost(&error)),
            Poll::Pending => {}
        }
        let control = &connection.control;
        control.watch(cx);
        if control.current_order() != Order::Serve && control.open() == 0 {
            return Poll::Ready(Error::connection(Code::NO_ERROR, "nothing is left to ask for"));
        }
        Poll::Pending
    })
    .await;
    let error = connection.cause(error);
    connection.fail(error);
    drop(closing);
    connection.settled.raise();
    error.into()
}

impl Sender {
    /// Sends a request and waits for the head of its answer; interim answers go to `on_informational`. The body is sent
    /// meanwhile and goes on after the head, for as long as the body of the answer is kept. Dropped before, the request is
    /// cancelled (H3_REQUEST_CANCELLED).
    ///
    /// # Errors
    /// [`SendError`], with the request where it may be sent again elsewhere.
    pub async fn send<B>(
        &self,
        request: Request<B>,
        on_informational: impl FnMut(Response<()>) + 'static,
    ) -> Result<Response<RecvBody>, SendError<B>>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error>>> + 'static,
    {
        let connection = &self.shared.connection;
        if self.is_going_away() {
            return Err(SendError { error: GOING_AWAY, request: Some(request) });
        }
        let open = connection.control.begin();
        let (send, recv) = match self.open_stream().await {
            Ok(streams) => streams,
            Err(error) => return Err(SendError { error: connection.cause(error), request: Some(request) }),
        };
        Exchange::new(connection, send, recv).run(request, open, on_informational).await
    }

    /// Whether the connection lives.
    pub fn is_open(&self) -> bool {
        self.shared.connection.quinn.close_reason().is_none()
    }

    /// Whether the peer said GOAWAY: new requests belong elsewhere.
    pub fn is_going_away(&self) -> bool {
        self.shared.connection.goaway.get().is_some()
    }

    /// Whether another request would begin at once: the peer's limit of streams is not reached.
    pub fn has_capacity(&self) -> bool {
        let mut spare = self.shared.spare.borrow_mut();
        if spare.is_none() {
            let opening = pin!(self.shared.connection.quinn.open_bi());
            if let Poll::Ready(Ok(streams)) = opening.poll(&mut Context::from_waker(Waker::noop())) {
                *spare = Some(streams);
            }
        }
        spare.is_some()
    }

    /// Requests that are not answered to their end.
    pub fn open(&self) -> usize {
        self.shared.connection.control.open()
    }

    /// Whether the peer takes extended CONNECT (RFC 9220); `None` until its SETTINGS came.
    pub fn peer_allows_connect_protocol(&self) -> Option<bool> {
        self.shared.connection.settings.borrow().as_ref().map(|settings| settings.enable_connect_protocol)
    }

    /// Whether the peer takes extended CONNECT, once its SETTINGS came; false where the connection ends before. Cancel-safe.
    pub async fn connect_protocol_allowed(&self) -> bool {
        if self.is_open() {
            self.shared.connection.settled.raised().await;
        }
        self.peer_allows_connect_protocol().unwrap_or(false)
    }

    async fn open_stream(&self) -> Result<(quinn::SendStream, quinn::RecvStream), Error> {
        if let Some(spare) = self.shared.spare.take() {
            return Ok(spare);
        }
        let connection = &self.shared.connection;
        let mut opening = pin!(connection.quinn.open_bi());
        let mut awaiting = Awaiting { connection, place: None };
        poll_fn(|cx| {
            if let Poll::Ready(opened) = opening.as_mut().poll(cx) {
                return Poll::Ready(opened.map_err(|error| Error::lost(&error)));
            }
            // A server that leaves allows no more, however long others stay open.
            if self.is_going_away() {
                return Poll::Ready(Err(GOING_AWAY));
            }
            connection.hear_of_goaway(&mut awaiting.place, cx);
            Poll::Pending
        })
        .await
    }
}

/// A request without a stream, among those that hear of GOAWAY.
struct Awaiting<'a> {
    connection: &'a Connection,
    place: Option<usize>,
}

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.connection.hear_no_more(self.place);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.connection.control.drain();
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("quinn", &self.connection.quinn).finish_non_exhaustive()
    }
}

const GOING_AWAY: Error = Error::stream(Code::REQUEST_REJECTED, "the connection takes no more requests");
