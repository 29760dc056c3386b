//! The body type of the data plane, and the exchange that monitors it: bytes are counted, and limits and stall timeouts
//! enforced, where the bytes pass, so they apply to every protocol alike. Only what a retry may need or a route buffers
//! is stored, and that is bounded.

pub mod ahead;
pub(crate) mod base64;
pub mod exchange;
mod expecting;
pub mod grpc;
mod held;
pub mod incoming;
pub mod interim;
mod kept;
pub mod ledger;
pub mod load;
pub mod phase_clock;
pub mod request;
pub mod response;
pub mod tunnel;

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::base::error::Error;
use request::RequestBody;
use response::ResponseBody;
use tunnel::{PumpPlace, TunnelBody};

/// A body.
pub enum Body {
    /// No bytes at all.
    Empty,
    /// These bytes, once.
    Full(Bytes),
    /// What a client sends.
    Request(RequestBody),
    /// What an endpoint answers.
    Response(ResponseBody),
    /// An answer of our own, with the exchange it ends.
    Own(Bytes, std::rc::Rc<exchange::Exchange>),
    /// One direction of a tunnel over HTTP/3.
    Tunnel(TunnelBody),
    /// None: that of a CONNECT over HTTP/2, which leads hyper to where the pump of its tunnel belongs.
    Connect(std::rc::Rc<PumpPlace>),
}

impl Body {
    /// No bytes at all.
    pub fn empty() -> Self {
        Self::Empty
    }

    /// These bytes.
    pub fn full(bytes: Bytes) -> Self {
        Self::Full(bytes)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut *self {
            Self::Empty | Self::Connect(_) => Poll::Ready(None),
            Self::Full(bytes) | Self::Own(bytes, _) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Own(bytes, exchange) => {
                exchange.note_sent(bytes.len() as u64);
                exchange.finish();
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))))
            }
            Self::Request(body) => body.poll_frame(cx),
            Self::Response(body) => body.poll_frame(cx),
            Self::Tunnel(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Connect(place) => {
                place.announce();
                true
            }
            Self::Full(bytes) | Self::Own(bytes, _) => bytes.is_empty(),
            Self::Request(body) => body.is_end_stream(),
            Self::Response(body) => body.is_end_stream(),
            // Its end may be told later than its last byte, and is not known before.
            Self::Tunnel(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Connect(_) => SizeHint::with_exact(0),
            Self::Full(bytes) | Self::Own(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
            Self::Request(body) => body.size_hint(),
            Self::Response(body) => body.size_hint(),
            Self::Tunnel(_) => SizeHint::default(),
        }
    }
}
