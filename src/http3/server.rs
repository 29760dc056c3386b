//! The server's role: each request stream is read to the end of its head, given to the service, and answered.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};

use super::answer::answer;
use super::body::RecvBody;
use super::config::{Config, FIRST_REQUESTS};
use super::connection::{Closing, Connection};
use super::control::{Closed, Control};
use super::datagrams::{self, Datagrams};
use super::departure::Departure;
use super::error::{Code, Error};
use super::frame::Role;
use super::inbound::Inbound;
use super::incoming;

/// What answers the requests of a connection.
pub trait Service: 'static {
    /// The body of its answers. An error in it resets the stream (H3_INTERNAL_ERROR, or what `BrokenOff` says): it never ends
    /// as if complete.
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error>>> + 'static;

    /// Called when a head is complete and valid. The future is dropped when the client is gone; the watch is asked
    /// while the stream waits for its client to take more. An answer of 2xx to CONNECT turns the stream into a tunnel
    /// of which both bodies are the two directions.
    fn call(
        &self,
        request: Request<RecvBody>,
        informational: Informational,
    ) -> (impl Future<Output = Response<Self::Body>> + 'static, impl Watch + 'static);

    /// A head that is refused and deserves an answer, which is sent before the stream is closed.
    fn refuse(&self, refusal: Refusal) -> Response<Bytes>;
}

/// What judges whether a client takes its answer in time.
pub trait Watch {
    /// Ready when the stream is to be reset (H3_REQUEST_CANCELLED). Keeps the task's waker otherwise.
    fn poll_overdue(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Nobody is late.
impl Watch for () {
    fn poll_overdue(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its field section is larger than allowed, or has too many fields: 431.
    TooLarge,
    /// It did not come in time: 408.
    Late,
}

/// In the extensions of a request that came in early data (0-RTT): it may be a replay (RFC 8470).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Early;

/// What there is for a request besides its answer: interim ones (RFC 9110 §15.2) before the final one, and datagrams.
#[derive(Clone, Debug)]
pub struct Informational {
    inbound: Rc<Inbound>,
}

impl Informational {
    pub(super) fn new(inbound: Rc<Inbound>) -> Self {
        Self { inbound }
    }

    /// Sends a 1xx to the client, in the order of the calls. What is not one, and what comes after the final answer, is
    /// not sent.
    pub fn send(&self, head: Response<()>) {
        // RFC 9114 §4.5: there is nothing to switch to.
        if head.status().is_informational() && head.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            self.inbound.push_interim(head);
        }
    }

    /// The datagrams of the request (RFC 9297), for its one protocol that has any; `None` where the connection takes none.
    pub fn datagrams(&self) -> Option<Datagrams> {
        Datagrams::open(&self.inbound.connection, self.inbound.stream)
    }
}

/// Serves the requests of a connection until it ends.
///
/// Dropped before its end, it closes the connection and cuts what is under way.
pub async fn serve<S: Service>(
    quinn: quinn::Connection,
    config: Rc<Config>,
    control: Rc<Control>,
    service: S,
) -> Closed {
    let connection = Connection::new(quinn, Role::Server, config, control);
    let streams = Rc::clone(&connection);
    // A task of its own: a new request does not have it look at the peer's other streams.
    tokio::task::spawn_local(async move {
        incoming::drive(&streams).await;
    });
    if connection.datagrams.is_some() {
        let datagrams = Rc::clone(&connection);
        tokio::task::spawn_local(async move { datagrams::drive(&datagrams).await });
    }
    let closing = Closing(Rc::clone(&connection));
    let error = connection.cause(accept(&connection, &Rc::new(service)).await);
    drop(closing);
    error.into()
}

/// Spawns each request, and carries out what the connection's owner asks for.
async fn accept<S: Service>(connection: &Rc<Connection>, service: &Rc<S>) -> Error {
    let mut accepting = pin!(connection.quinn.accept_bi());
    let mut departure = Departure::new();
    let mut is_narrow = connection.config.max_requests > FIRST_REQUESTS;
    poll_fn(|cx| {
        for _ in 0..BATCH {
            match accepting.as_mut().poll(cx) {
                Poll::Ready(Ok((send, recv))) => {
                    accepting.set(connection.quinn.accept_bi());
                    if is_narrow && connection.control.open() >= FIRST_REQUESTS as usize / 2 {
                        is_narrow = false;
                        connection.quinn.set_max_concurrent_bi_streams(connection.config.max_requests.into());
                    }
                    if departure.accepts(recv.id().index() * 4) {
                        connection.note_request();
                        // Boxed: the runtime moves a task's future six times, and this one has four kilobytes.
                        let answer = Box::pin(answer(Rc::clone(connection), Rc::clone(service), send, recv));
                        tokio::task::spawn_local(answer);
                    } else {
                        reject(connection, send, recv);
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Error::lost(&error)),
                Poll::Pending => return departure.poll(connection, cx),
            }
        }
        // Requests that were accepted get their turn before more are.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// RFC 9114 §5.2: it came after the streams that GOAWAY promised to process.
fn reject(connection: &Connection, mut send: quinn::SendStream, mut recv: quinn::RecvStream) {
    connection.note_reset();
    // Both fail where the stream is over already.
    let _ = send.reset(Code::REQUEST_REJECTED.varint());
    let _ = recv.stop(Code::REQUEST_REJECTED.varint());
}

/// Streams that are accepted in a row.
const BATCH: usize = 32;
