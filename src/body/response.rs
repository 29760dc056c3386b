//! What an endpoint answers, on its way to the client. Its end, its silence and its failure are told to the exchange.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::exchange::Exchange;
use super::incoming::Incoming;
use super::request::Source;
use crate::base::error::{Error, Kind, Retry};

/// What an endpoint answers.
pub struct ResponseBody {
    incoming: Incoming,
    exchange: Rc<Exchange>,
    /// What the client may still be sending; nobody wants it once the answer is complete.
    upload: Option<Rc<Source>>,
    /// Takes away trailer fields that must not pass; `None`: the client gets no trailers at all.
    trailers: Option<fn(&mut HeaderMap)>,
    /// What lives as long as the body: the count of an HTTP/2 session's streams.
    _held: Option<Box<dyn std::any::Any>>,
}

impl ResponseBody {
    /// Watches `incoming` for `exchange`.
    pub fn new(
        incoming: Incoming,
        exchange: Rc<Exchange>,
        upload: Option<Rc<Source>>,
        trailers: Option<fn(&mut HeaderMap)>,
        held: Option<Box<dyn std::any::Any>>,
    ) -> Self {
        if incoming.is_end_stream() {
            exchange.finish();
        }
        Self { incoming, exchange, upload, trailers, _held: held }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(self.hand_on(frame)),
            Poll::Ready(Some(Err(error))) => {
                let reason = "the endpoint's answer ended before it was complete";
                let error = Error::upstream(Kind::HttpResponseIncomplete, Retry::Never, reason).because(error);
                self.exchange.note_failure(error.kind(), error.reason());
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                self.exchange.finish();
                Poll::Ready(None)
            }
            Poll::Pending => self.exchange.poll_origin_overdue(cx).map(|error| {
                self.exchange.note_failure(error.kind(), error.reason());
                Some(Err(error))
            }),
        }
    }

    fn hand_on(&mut self, frame: Frame<Bytes>) -> Option<Result<Frame<Bytes>, Error>> {
        // An origin that always has more never lets its own deadline be looked at.
        if let Some(error) = self.exchange.past_total() {
            self.exchange.note_failure(error.kind(), error.reason());
            return Some(Err(error));
        }
        self.exchange.note_sent(frame.data_ref().map_or(0, Bytes::len) as u64);
        if self.incoming.is_end_stream() {
            self.exchange.finish();
        } else {
            self.exchange.note_handed_on();
        }
        match frame.into_data() {
            Ok(data) => Some(Ok(Frame::data(data))),
            Err(frame) => {
                self.exchange.finish();
                let mut fields = frame.into_trailers().ok()?;
                (self.trailers?)(&mut fields);
                Some(Ok(Frame::trailers(fields)))
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // Whoever writes a length asks for no more once it has that many bytes, and the end may be on its way still.
        if self.incoming.size_hint().exact() == Some(0) {
            self.exchange.finish();
        }
        // RFC 9112 §9.3: an endpoint that answers early is not sent the rest.
        if let Some(upload) = self.upload.take() {
            upload.abandon();
        }
    }
}
