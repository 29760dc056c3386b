//! A received body, from any protocol: of a client's request or an endpoint's response. A tag names the protocol, so
//! that a body read by hyper needs neither a box nor a clone.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::ahead::Ahead;
use crate::http3::{self, Code, RecvBody, Side};

/// A received body.
#[derive(Debug)]
pub enum Incoming {
    /// Over HTTP/1.
    Hyper(hyper::body::Incoming),
    /// Over HTTP/2.
    Http2(hyper::body::Incoming),
    /// Over HTTP/3.
    Http3(RecvBody),
    /// Over any of them, read ahead by a task.
    Ahead(Ahead),
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// hyper's error.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// The error of HTTP/3.
    #[error(transparent)]
    Http3(#[from] http3::Error),
    /// RST_STREAM with NO_ERROR and without END_STREAM. hyper reports it as the end, but it is one only if the message
    /// was complete (RFC 9113 §8.1).
    #[error("the stream was reset before its end")]
    Reset,
}

impl Error {
    /// Whether the received bytes are invalid, and not just missing.
    pub fn is_malformed(&self) -> bool {
        match self {
            Self::Hyper(error) => is_malformed(error),
            Self::Http3(error) => error.side() == Side::Local && error.code() == Code::MESSAGE_ERROR,
            Self::Reset => false,
        }
    }
}

/// hyper reports invalid framing as an I/O error of this kind among its sources (RFC 9112 §7.1).
fn is_malformed(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(this) = cause {
        let kind = this.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)) {
            return true;
        }
        cause = this.source();
    }
    false
}

impl Incoming {
    /// An empty body.
    pub fn none() -> Self {
        Self::Http3(RecvBody::empty())
    }

    /// Sets the version of the message, which hyper's body does not know.
    pub fn of(self, version: Version) -> Self {
        match self {
            Self::Hyper(body) if version == Version::HTTP_2 => Self::Http2(body),
            body => body,
        }
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self::Hyper(body)
    }
}

impl From<RecvBody> for Incoming {
    fn from(body: RecvBody) -> Self {
        Self::Http3(body)
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Self::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(Error::Hyper),
            Self::Http2(body) => Poll::Ready(match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None if !body.is_end_stream() => Some(Err(Error::Reset)),
                frame => frame.map(|frame| frame.map_err(Error::Hyper)),
            }),
            Self::Http3(body) => Pin::new(body).poll_frame(cx).map_err(Error::Http3),
            Self::Ahead(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(body) | Self::Http2(body) => body.is_end_stream(),
            Self::Http3(body) => body.is_end_stream(),
            Self::Ahead(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(body) | Self::Http2(body) => body.size_hint(),
            Self::Http3(body) => body.size_hint(),
            Self::Ahead(body) => body.size_hint(),
        }
    }
}
