//! What an endpoint answers, on its way to the client. Its end, its silence and its failure are told to the exchange.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::exchange::Exchange;
use super::grpc::Ending;
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
    /// How a gRPC call ends; `None`: it is none.
    grpc: Option<Box<Ending>>,
    /// It has ended, whatever the endpoint may still send.
    over: bool,
    /// What lives as long as the body: the count of an HTTP/2 session's streams.
    _held: Option<Box<dyn std::any::Any>>,
}

impl ResponseBody {
    /// Watches `incoming` for `exchange`; `grpc`: how it ends if it answers a call.
    pub fn new(
        incoming: Incoming,
        exchange: Rc<Exchange>,
        upload: Option<Rc<Source>>,
        trailers: Option<fn(&mut HeaderMap)>,
        grpc: Option<Box<Ending>>,
        held: Option<Box<dyn std::any::Any>>,
    ) -> Self {
        let body = Self { incoming, exchange, upload, trailers, grpc, over: false, _held: held };
        if body.is_end_stream() {
            body.exchange.finish();
        }
        body
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(self.hand_on(frame)),
            Poll::Ready(Some(Err(error))) => {
                let reason = "the endpoint's answer ended before it was complete";
                let error = Error::upstream(Kind::HttpResponseIncomplete, Retry::Never, reason).because(error);
                Poll::Ready(Some(self.fail(error)))
            }
            Poll::Ready(None) => Poll::Ready(self.end().map(Ok)),
            Poll::Pending => self.exchange.poll_origin_overdue(cx).map(|error| Some(self.fail(error))),
        }
    }

    /// A call that fails ends with a status all the same; anything else breaks off.
    fn fail(&mut self, error: Error) -> Result<Frame<Bytes>, Error> {
        self.exchange.note_failure(error.kind(), error.reason());
        let Some(ending) = &self.grpc else { return Err(error) };
        let frame = ending.of_fault(&error);
        self.close(&frame);
        Ok(frame)
    }

    /// The endpoint has said everything.
    fn end(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.grpc.as_mut().and_then(|ending| ending.without_trailers());
        match &frame {
            Some(frame) => self.close(frame),
            None => self.exchange.finish(),
        }
        frame
    }

    /// Nothing comes after this frame.
    fn close(&mut self, frame: &Frame<Bytes>) {
        self.over = true;
        self.exchange.note_sent(frame.data_ref().map_or(0, Bytes::len) as u64);
        self.exchange.finish();
    }

    fn hand_on(&mut self, frame: Frame<Bytes>) -> Option<Result<Frame<Bytes>, Error>> {
        // An origin that always has more never lets its own deadline be looked at.
        if let Some(error) = self.exchange.past_total() {
            return Some(self.fail(error));
        }
        if self.has_end_to_tell() {
            return self.hand_on_for_web(frame).map(Ok);
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

    /// The same where the end stands in the body.
    fn hand_on_for_web(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let ending = self.grpc.as_ref()?;
        match frame.into_data() {
            Ok(data) => {
                let data = ending.data(data);
                self.exchange.note_sent(data.len() as u64);
                self.exchange.note_handed_on();
                Some(Frame::data(data))
            }
            Err(frame) => {
                let mut fields = frame.into_trailers().unwrap_or_default();
                self.trailers.inspect(|filter| filter(&mut fields));
                let frame = ending.end(fields);
                self.close(&frame);
                Some(frame)
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.over || (self.incoming.is_end_stream() && !self.has_end_to_tell())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        if self.has_end_to_tell() { SizeHint::default() } else { self.incoming.size_hint() }
    }

    /// Whether the body is longer than what the endpoint sends.
    fn has_end_to_tell(&self) -> bool {
        !self.over && self.grpc.as_ref().is_some_and(|ending| ending.is_in_body())
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // Whoever writes a length asks for no more once it has that many bytes, and the end may be on its way still.
        if self.incoming.size_hint().exact() == Some(0) && !self.has_end_to_tell() {
            self.exchange.finish();
        }
        // RFC 9112 §9.3: an endpoint that answers early is not sent the rest.
        if let Some(upload) = self.upload.take() {
            upload.abandon();
        }
    }
}
