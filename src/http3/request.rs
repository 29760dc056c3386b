//! One request of ours: its head and body on the way out, and the heads that come back.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, request, response};
use http_body::Body;

use super::body::RecvBody;
use super::client::SendError;
use super::connection::Connection;
use super::control::Open;
use super::error::{Code, Error, Scope, Side};
use super::frame::{Event, Role};
use super::heads::{self, Decoded};
use super::inbound::Inbound;
use super::message::Head;
use super::pump::{Nothing, Pump};
use super::reader::Reader;
use super::writer::Writer;

/// A request until the head of its answer came.
pub(super) struct Exchange {
    connection: Rc<Connection>,
    stream: u64,
    writer: Option<Writer>,
    reader: Option<Reader>,
    /// The head that waits for the dynamic table.
    block: Option<Bytes>,
    /// Its place among those that hear of GOAWAY.
    awaiting: Option<usize>,
    /// How far its content has come; `None` when everything was sent.
    pump: Option<Pump>,
}

/// The request on its way.
#[allow(clippy::large_enum_variant, reason = "most are the large one, and it is not moved")]
enum Outbound<B> {
    /// Without content: it can be given back.
    Bare(request::Parts, B),
    Content(Pin<Box<B>>),
}

impl Exchange {
    pub(super) fn new(connection: &Rc<Connection>, send: quinn::SendStream, recv: quinn::RecvStream) -> Self {
        let stream = send.id().index() * 4;
        let reader = Reader::new(recv, Role::Client, connection.config.max_field_section_size);
        Self {
            connection: Rc::clone(connection),
            stream,
            writer: Some(Writer::new(send, Role::Client)),
            reader: Some(reader),
            block: None,
            awaiting: None,
            pump: None,
        }
    }

    pub(super) async fn run<B>(
        mut self,
        request: Request<B>,
        open: Open,
        mut on_informational: impl FnMut(Response<()>),
    ) -> Result<Response<RecvBody>, SendError<B>>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error>>> + 'static,
    {
        if self.is_refused() {
            return Err(SendError { error: REFUSED, request: Some(request) });
        }
        let (head, body) = request.into_parts();
        if let Err(error) = self.send_head(&head, &body) {
            return Err(SendError { error, request: Some(Request::from_parts(head, body)) });
        }
        let method = head.method.clone();
        let mut outbound = match body.is_end_stream() {
            true => Outbound::Bare(head, body),
            false => Outbound::Content(Box::pin(body)),
        };
        let result = poll_fn(|cx| self.poll(&mut outbound, &mut on_informational, cx)).await;
        let error = match result.and_then(|head| self.take_answer(head, &method, open)) {
            Ok((answer, inbound)) => {
                self.go_on(outbound, inbound);
                return Ok(answer);
            }
            Err(error) => self.fail(error),
        };
        // RFC 9114 §4.1.1: nothing was done for it.
        let request = match outbound {
            Outbound::Bare(head, body) if error.code() == Code::REQUEST_REJECTED => {
                Some(Request::from_parts(head, body))
            }
            _ => None,
        };
        Err(SendError { error, request })
    }

    /// RFC 9114 §5.2: the peer said that it will not process it.
    fn is_refused(&self) -> bool {
        self.connection.goaway.get().is_some_and(|first| self.stream >= first)
    }

    fn send_head<B: Body>(&mut self, head: &request::Parts, body: &B) -> Result<(), Error> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        if let Some(priority) = heads::priority(&head.headers) {
            writer.prioritize(priority);
        }
        let left = self.connection.send_request(self.stream, head, &body.size_hint(), writer)?;
        self.pump = Some(if body.is_end_stream() { Pump::ended() } else { Pump::new(left) });
        Ok(())
    }

    /// Sends what can be sent and reads to the end of the head.
    fn poll<B>(
        &mut self,
        outbound: &mut Outbound<B>,
        on_informational: &mut impl FnMut(Response<()>),
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head<response::Parts>, Error>>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error>>>,
    {
        if let Poll::Ready(Err(error)) = self.poll_upload(outbound, cx) {
            return Poll::Ready(Err(error));
        }
        while let Poll::Ready(head) = self.poll_head(cx) {
            let head = head?;
            if !head.parts.status.is_informational() {
                return Poll::Ready(Ok(head));
            }
            if !self.connection.useless.take(1) {
                let reason = "too many interim answers";
                return Poll::Ready(Err(Error::connection(Code::EXCESSIVE_LOAD, reason)));
            }
            if let Some(reader) = &mut self.reader {
                reader.frames().interim();
            }
            on_informational(Response::from_parts(head.parts, ()));
        }
        if self.is_refused() {
            return Poll::Ready(Err(REFUSED));
        }
        self.connection.hear_of_goaway(&mut self.awaiting, cx);
        Poll::Pending
    }

    fn poll_upload<B>(&mut self, outbound: &mut Outbound<B>, cx: &mut Context<'_>) -> Poll<Result<(), Error>>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error>>>,
    {
        let (Some(pump), Some(writer)) = (&mut self.pump, &mut self.writer) else { return Poll::Ready(Ok(())) };
        let place = (&*self.connection, self.stream);
        let sent = ready!(match outbound {
            Outbound::Bare(..) => pump.poll(Pin::new(&mut Nothing), writer, place, cx),
            Outbound::Content(body) => pump.poll(body.as_mut(), writer, place, cx),
        });
        self.pump = None;
        Poll::Ready(match sent {
            // RFC 9114 §4.1: the server needs no more of it for its answer, or says there why it gives none.
            Err(error) if error.scope() == Scope::Stream && error.side() == Side::Remote => Ok(()),
            sent => sent,
        })
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head<response::Parts>, Error>> {
        let Some(reader) = &mut self.reader else { return Poll::Pending };
        if self.block.is_none() {
            match ready!(reader.poll_event(cx)) {
                Some(Ok(Event::Head(head))) => self.block = Some(head),
                Some(Ok(Event::HeadTooLong)) => return Poll::Ready(Err(TOO_LARGE)),
                Some(Ok(_)) => {
                    let reason = "content before a head";
                    return Poll::Ready(Err(Error::connection(Code::FRAME_UNEXPECTED, reason)));
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Err(Error::stream(Code::MESSAGE_ERROR, "a stream without an answer"))),
            }
        }
        let Some(block) = &self.block else { return Poll::Pending };
        let decoded = ready!(self.connection.poll_response(self.stream, block, cx))?;
        self.block = None;
        Poll::Ready(match decoded {
            Decoded::Head(head) => Ok(head),
            Decoded::TooLarge => Err(TOO_LARGE),
        })
    }

    /// The head is here: what follows it belongs to whoever asked.
    fn take_answer(
        &mut self,
        head: Head<response::Parts>,
        method: &Method,
        open: Open,
    ) -> Result<(Response<RecvBody>, Rc<Inbound>), Error> {
        let Head { parts: head, content_length } = head;
        let bodiless =
            method == Method::HEAD || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let is_tunnel = method == Method::CONNECT && head.status.is_success();
        let left = match () {
            // RFC 9110 §6.4.1
            () if bodiless => Some(0),
            // RFC 9110 §9.3.6
            () if is_tunnel => None,
            () => content_length,
        };
        let Some(mut reader) = self.reader.take() else {
            return Err(Error::stream(Code::INTERNAL_ERROR, "an answer was taken twice"));
        };
        if is_tunnel {
            reader.frames().tunnel();
        }
        let inbound = Inbound::new(Rc::clone(&self.connection), self.stream, reader, left, Some(open));
        let uploads = self.pump.is_some();
        // The directions of a tunnel end each for itself.
        if uploads && !is_tunnel {
            inbound.accompany();
        }
        let body = match inbound.is_empty() {
            Ok(true) if !uploads => RecvBody::empty(),
            Ok(_) => RecvBody::new(Rc::clone(&inbound)),
            Err(error) => return Err(inbound.fail(error)),
        };
        Ok((Response::from_parts(head, body), inbound))
    }

    /// What is left of the content is sent by a task of its own.
    fn go_on<B>(mut self, outbound: Outbound<B>, inbound: Rc<Inbound>)
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error>>> + 'static,
    {
        if let (Some(pump), Some(writer), Outbound::Content(body)) = (self.pump.take(), self.writer.take(), outbound) {
            tokio::task::spawn_local(upload(body, pump, writer, inbound));
        }
    }

    fn fail(&mut self, error: Error) -> Error {
        let error = self.connection.cause(error);
        if error.scope() == Scope::Connection && error.side() == Side::Local {
            self.connection.fail(error);
        }
        if let Some(writer) = &mut self.writer {
            writer.reset(error.answering());
        }
        if let Some(reader) = &mut self.reader {
            reader.stop(error.answering());
        }
        error
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.hear_no_more(self.awaiting.take());
        if self.reader.is_some() {
            self.connection.cancel(self.stream);
        }
    }
}

/// Sends the rest of a body while the answer is read.
async fn upload<B>(mut body: Pin<Box<B>>, mut pump: Pump, mut writer: Writer, inbound: Rc<Inbound>)
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error>>>,
{
    let _open = inbound.connection.control.share();
    let place = (&*inbound.connection, inbound.stream);
    let result = poll_fn(|cx| {
        let polled = pump.poll(body.as_mut(), &mut writer, place, cx);
        if polled.is_ready() {
            return polled;
        }
        if inbound.is_released() {
            return Poll::Ready(Err(Error::stream(Code::REQUEST_CANCELLED, "nobody wants the answer any more")));
        }
        inbound.poll_failed(cx).map(Err)
    })
    .await;
    if let Err(error) = result {
        writer.reset(error.answering());
        // The server took what it wanted of it: its answer stands. Otherwise the answer is to a request that is not whole.
        if error.side() == Side::Local && !inbound.is_ended() {
            inbound.fail(error);
        }
    }
}

const REFUSED: Error = Error::stream(Code::REQUEST_REJECTED, "the peer went before it came to this request");
const TOO_LARGE: Error = Error::stream(Code::EXCESSIVE_LOAD, "the head of an answer that is too large");
