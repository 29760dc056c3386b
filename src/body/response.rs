//! The response body on its way to the client. Its end, silence and failure are reported to the exchange.

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

/// The body of an endpoint's response.
pub struct ResponseBody {
    incoming: Incoming,
    exchange: Rc<Exchange>,
    /// The request body, whose rest is not needed once the response is complete.
    upload: Option<Rc<Source>>,
    /// Removes trailer fields that must not be forwarded; `None`: the client gets no trailers.
    trailers: Option<fn(&mut HeaderMap)>,
    /// How to end a gRPC call; `None`: not gRPC.
    grpc: Option<Box<Ending>>,
    /// It has ended, whatever the endpoint still sends.
    over: bool,
    /// Dropped with the body: the count of streams on a shared connection.
    _held: Option<Box<dyn std::any::Any>>,
}

impl ResponseBody {
    /// Monitors `incoming` for `exchange`; `grpc`: how to end it, if it answers a gRPC call.
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

    /// A gRPC call that fails still ends with a status; any other body breaks off.
    fn fail(&mut self, error: Error) -> Result<Frame<Bytes>, Error> {
        self.exchange.note_failure(error.kind(), error.reason());
        let Some(ending) = &self.grpc else { return Err(error) };
        let frame = ending.of_fault(&error);
        self.close(&frame);
        Ok(frame)
    }

    /// The endpoint has sent everything.
    fn end(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.grpc.as_mut().and_then(|ending| ending.without_trailers());
        match &frame {
            Some(frame) => self.close(frame),
            None => self.exchange.finish(),
        }
        frame
    }

    /// Nothing follows this frame.
    fn close(&mut self, frame: &Frame<Bytes>) {
        self.over = true;
        self.exchange.note_sent(frame.data_ref().map_or(0, Bytes::len) as u64);
        self.exchange.finish();
    }

    fn hand_on(&mut self, frame: Frame<Bytes>) -> Option<Result<Frame<Bytes>, Error>> {
        // Checked here too, because the timer is not polled while the endpoint always has data.
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

    /// The same, for gRPC-Web, where the status is part of the body.
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
        // A reader of a body with a length may not poll again after that many bytes, although the end has not been
        // read.
        if self.incoming.size_hint().exact() == Some(0) && !self.has_end_to_tell() {
            self.exchange.finish();
        }
        // RFC 9112 §9.3: the rest of the request is not sent to an endpoint that has already answered.
        if let Some(upload) = self.upload.take() {
            upload.abandon();
        }
    }
}
