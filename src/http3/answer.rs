//! One request of a client: its head, what the service makes of it, and the answer, in one task.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, request};
use http_body::{Body, SizeHint};
use hyper::ext::Protocol;
use quinn::{StoppedError, VarInt};
use tokio::time::Instant;

use super::body::RecvBody;
use super::connection::Connection;
use super::error::{Code, Error, Scope, Side};
use super::frame::{Event, Role};
use super::heads::{self, Decoded};
use super::inbound::Inbound;
use super::message;
use super::pump::{Nothing, Pump};
use super::reader::{EARLY_REJECTED, Reader};
use super::server::{Early, Informational, Refusal, Service, Watch};
use super::writer::Writer;
use crate::net::timer::{self, Timer};

/// Serves one request stream.
pub(super) async fn answer<S: Service>(
    connection: Rc<Connection>,
    service: Rc<S>,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
) {
    let _open = connection.control.begin();
    let stream = send.id().index() * 4;
    let mut writer = Writer::new(send, Role::Server);
    let mut exchange = Exchange { connection: &connection, stream, may_have_datagrams: false, writer: &mut writer };
    let mut reader = Reader::new(recv, Role::Server, connection.config.max_field_section_size);
    let result = match exchange.read_head(&mut reader).await {
        Ok(Head::Request(head)) => exchange.serve(head, reader, &*service).await,
        Ok(Head::Refused(refusal)) => {
            connection.cancel(stream);
            let result = exchange.refuse(service.refuse(refusal)).await;
            reader.stop(Code::NO_ERROR);
            result
        }
        Err(error) => {
            let error = connection.cause(error);
            connection.cancel(stream);
            reader.stop(error.answering());
            Err(error)
        }
    };
    connection.forget(stream);
    let Err(error) = result else {
        connection.resets.give(1);
        if connection.control.is_leaving() {
            // Closing discards what is not acknowledged: on a bad link that may be long after it was handed over.
            let _ = writer.stream().stopped().await;
        }
        return;
    };
    let error = connection.cause(error);
    writer.reset(error.answering());
    match (error.scope(), error.side()) {
        (Scope::Connection, Side::Local) => connection.fail(error),
        (Scope::Connection, Side::Remote) => {}
        // A fault of ours.
        (Scope::Stream, Side::Local) if error.code() == Code::INTERNAL_ERROR => {}
        (Scope::Stream, _) => connection.note_reset(),
    }
}

#[allow(clippy::large_enum_variant, reason = "most are the large one, and none is kept")]
enum Head {
    Request(message::Head<request::Parts>),
    Refused(Refusal),
}

struct Exchange<'a> {
    connection: &'a Rc<Connection>,
    stream: u64,
    /// RFC 9297 §2: of all requests those alone that switch to another protocol.
    may_have_datagrams: bool,
    writer: &'a mut Writer,
}

impl Exchange<'_> {
    /// Reads to the end of the head, as long as the client may take for it.
    async fn read_head(&mut self, reader: &mut Reader) -> Result<Head, Error> {
        let mut block: Option<Bytes> = None;
        let mut timer = None;
        poll_fn(|cx| {
            if let Poll::Ready(head) = self.poll_head(reader, &mut block, cx) {
                return Poll::Ready(head);
            }
            // Most heads are here with the stream.
            let timer = timer.get_or_insert_with(|| {
                let timer = Timer::new();
                timer.set(Instant::now() + self.connection.config.header_timeout);
                timer
            });
            timer.poll_expired(cx).map(|()| Ok(Head::Refused(Refusal::Late)))
        })
        .await
    }

    fn poll_head(
        &self,
        reader: &mut Reader,
        block: &mut Option<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Error>> {
        if block.is_none() {
            match ready!(reader.poll_event(cx)) {
                Some(Ok(Event::Head(head))) => *block = Some(head),
                Some(Ok(Event::HeadTooLong)) => return Poll::Ready(Ok(Head::Refused(Refusal::TooLarge))),
                Some(Ok(_)) => {
                    let reason = "content before a head";
                    return Poll::Ready(Err(Error::connection(Code::FRAME_UNEXPECTED, reason)));
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => {
                    let reason = "a stream without a request";
                    return Poll::Ready(Err(Error::stream(Code::REQUEST_INCOMPLETE, reason)));
                }
            }
        }
        let Some(block) = block else { return Poll::Pending };
        Poll::Ready(match ready!(self.connection.poll_request(self.stream, block, cx))? {
            Decoded::Head(mut head) => {
                if head.parts.method == Method::CONNECT {
                    reader.frames().tunnel();
                    head.content_length = None;
                }
                if reader.is_early() {
                    head.parts.extensions.insert(Early);
                }
                Ok(Head::Request(head))
            }
            Decoded::TooLarge => Ok(Head::Refused(Refusal::TooLarge)),
        })
    }

    /// Has the service answer, and sends what it says.
    async fn serve<S: Service>(
        &mut self,
        head: message::Head<request::Parts>,
        reader: Reader,
        service: &S,
    ) -> Result<(), Error> {
        let message::Head { parts: head, content_length } = head;
        let is_connect = head.method == Method::CONNECT;
        self.may_have_datagrams = is_connect && head.extensions.get::<Protocol>().is_some();
        let is_head = head.method == Method::HEAD;
        if let Some(priority) = heads::priority(&head.headers) {
            self.writer.prioritize(priority);
        }
        let inbound = Inbound::new(Rc::clone(self.connection), self.stream, reader, content_length, None);
        let body = match inbound.is_empty() {
            Ok(true) => RecvBody::empty(),
            Ok(false) => RecvBody::new(Rc::clone(&inbound)),
            Err(error) => return Err(inbound.fail(error)),
        };
        let informational = Informational::new(Rc::clone(&inbound));
        let (response, watch) = service.call(Request::from_parts(head, body), informational);
        let result = async {
            let (head, body) = self.respond(&inbound, response, &watch).await?.into_parts();
            let bodiless = is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            // RFC 9110 §9.3.6: what a CONNECT is answered with has no length.
            let is_tunnel = is_connect && head.status.is_success();
            let announces = !bodiless && !is_tunnel;
            let left =
                self.connection.send_response(self.stream, &head, announces.then(|| body.size_hint()), self.writer)?;
            if bodiless {
                drop(body);
                return self.send(&inbound, pin!(Nothing), Pump::ended(), &watch).await;
            }
            self.send(&inbound, pin!(body), Pump::new(left.filter(|_| announces)), &watch).await
        };
        let result = result.await;
        match result {
            Ok(()) => Ok(()),
            Err(error) => Err(inbound.fail(error)),
        }
    }

    /// Waits for the head of the answer, and sends interim ones meanwhile. Ends when the client is gone.
    async fn respond<R>(
        &mut self,
        inbound: &Inbound,
        response: impl Future<Output = R>,
        watch: &impl Watch,
    ) -> Result<R, Error> {
        let mut response = pin!(response);
        let mut client = Client::default();
        poll_fn(|cx| {
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                self.send_interim(inbound);
                return Poll::Ready(Ok(response));
            }
            // Not before those ahead of them were taken: what waits is bounded where it comes in.
            while self.writer.poll_flush(cx)?.is_ready() && self.send_interim(inbound) {}
            self.poll_gone(inbound, &mut client, watch, cx).map(Err)
        })
        .await
    }

    /// Writes the interim answers that wait; whether there were any.
    fn send_interim(&mut self, inbound: &Inbound) -> bool {
        let heads = inbound.take_interim();
        for head in &heads {
            // One that is larger than the client takes: the final one is what it asked for.
            if let Err(error) = self.connection.send_interim(self.stream, head, self.writer) {
                tracing::debug!(stream = self.stream, reason = error.reason(), "an interim response was not sent");
            }
        }
        !heads.is_empty()
    }

    /// Sends what the writer holds and the body after it.
    async fn send<B>(
        &mut self,
        inbound: &Inbound,
        mut body: Pin<&mut B>,
        mut pump: Pump,
        watch: &impl Watch,
    ) -> Result<(), Error>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error>>>,
    {
        let mut client = Client::default();
        poll_fn(|cx| {
            let polled = pump.poll(body.as_mut(), self.writer, (self.connection, self.stream), cx);
            if polled.is_ready() {
                return polled;
            }
            self.poll_gone(inbound, &mut client, watch, cx).map(Err)
        })
        .await
    }

    /// Whether the client is gone or takes too long.
    fn poll_gone(
        &self,
        inbound: &Inbound,
        client: &mut Client,
        watch: &impl Watch,
        cx: &mut Context<'_>,
    ) -> Poll<Error> {
        if let Poll::Ready(error) = inbound.poll_failed(cx) {
            return Poll::Ready(error);
        }
        // While nothing waits for the client it is the body that is waited for.
        if self.writer.is_blocked() && watch.poll_overdue(cx).is_ready() {
            return Poll::Ready(LATE);
        }
        if !self.may_have_datagrams
            && let Some(table) = self.connection.open_datagrams()
            && table.poll_stray(self.stream, cx).is_ready()
        {
            return Poll::Ready(Error::stream(Code::DATAGRAM_ERROR, "a datagram for a request that has none"));
        }
        client.poll(self.writer, cx)
    }

    /// Sends an answer that the service has no part in. The client may take as long for it as for a head.
    async fn refuse(&mut self, response: Response<Bytes>) -> Result<(), Error> {
        let (head, body) = response.into_parts();
        self.connection.send_response(
            self.stream,
            &head,
            Some(SizeHint::with_exact(body.len() as u64)),
            self.writer,
        )?;
        self.writer.push_data(body);
        self.writer.end_data();
        let limit = self.connection.config.header_timeout;
        let Ok(taken) = timer::timeout(limit, poll_fn(|cx| self.writer.poll_flush(cx))).await else { return Err(LATE) };
        taken?;
        self.writer.finish();
        Ok(())
    }
}

/// Whether the client wants no answer any more (STOP_SENDING). Most answers come at once: to ask the transport for each of
/// them costs more than to be told a moment later.
#[derive(Default)]
struct Client {
    timer: Option<Timer>,
    stopped: Option<Pin<Box<dyn Future<Output = Error>>>>,
}

impl Client {
    fn poll(&mut self, writer: &Writer, cx: &mut Context<'_>) -> Poll<Error> {
        if self.stopped.is_none() {
            let timer = self.timer.get_or_insert_with(|| {
                let timer = Timer::new();
                timer.set(Instant::now() + AT_ONCE);
                timer
            });
            ready!(timer.poll_expired(cx));
        }
        let stopped = self.stopped.get_or_insert_with(|| Box::pin(stopped(writer.stream().stopped())));
        stopped.as_mut().poll(cx)
    }
}

async fn stopped(asked: impl Future<Output = Result<Option<VarInt>, StoppedError>>) -> Error {
    match asked.await {
        Ok(Some(code)) => Error::reset(code, "the client wants no answer"),
        Ok(None) => Error::stream(Code::INTERNAL_ERROR, "a stream ended before its answer"),
        Err(StoppedError::ConnectionLost(error)) => Error::lost(&error),
        Err(StoppedError::ZeroRttRejected) => EARLY_REJECTED,
    }
}

const LATE: Error = Error::stream(Code::REQUEST_CANCELLED, "the client took no more of the answer in time");
/// One tick of the timer wheel, about.
const AT_ONCE: Duration = Duration::from_millis(10);
