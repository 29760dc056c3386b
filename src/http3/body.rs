//! A body as it arrives on a request stream, to whoever reads it: data, then trailers (RFC 9114 §4.1).

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::error::Error;
use super::inbound::Inbound;

/// The body of a request or of an answer, as it arrives. It ends in an error unless everything that was announced came.
/// Dropped before its end, it asks the peer to stop sending: H3_NO_ERROR by a server (RFC 9114 §4.1), H3_REQUEST_CANCELLED
/// by a client. A client ends its own content with it, too.
#[derive(Debug)]
pub struct RecvBody {
    /// `None` where nothing is to come, and nothing goes the other way.
    inbound: Option<Rc<Inbound>>,
    /// Nothing is to come.
    is_over: bool,
}

impl RecvBody {
    pub(super) fn new(inbound: Rc<Inbound>) -> Self {
        let is_over = inbound.is_ended();
        Self { inbound: Some(inbound), is_over }
    }

    /// Nothing is to come.
    pub fn empty() -> Self {
        Self { inbound: None, is_over: true }
    }
}

impl Body for RecvBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let Some(inbound) = this.inbound.as_ref().filter(|_| !this.is_over) else { return Poll::Ready(None) };
        let frame = ready!(inbound.poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) || inbound.is_ended() {
            this.is_over = true;
            if !inbound.is_accompanied() {
                this.inbound = None;
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        match self.inbound.as_ref().filter(|_| !self.is_over) {
            None => SizeHint::with_exact(0),
            Some(inbound) => inbound.left().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Drop for RecvBody {
    fn drop(&mut self) {
        if let Some(inbound) = self.inbound.take() {
            inbound.release(&mut Context::from_waker(Waker::noop()));
        }
    }
}
