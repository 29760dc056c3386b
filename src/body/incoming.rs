//! A body as it arrives, from whichever protocol reads it: requests of clients and answers of endpoints. The protocol is
//! told by a tag, so that one that is read by hyper costs neither a box nor a clone.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// A body as it arrives.
pub enum Incoming {
    /// Over HTTP/1 or HTTP/2.
    Hyper(hyper::body::Incoming),
}

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// hyper's word.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self::Hyper(body)
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Self::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(Error::Hyper),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(body) => body.size_hint(),
        }
    }
}
