//! Heads and trailers between fields and their types: what QPACK decodes is checked, and what is sent gets the fields that
//! a server or client owes its peer.

use std::cell::RefCell;
use std::task::{Context, Poll, ready};

use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderMap, Method, Response, request, response};
use http_body::SizeHint;

use super::connection::Connection;
use super::error::{Code, Error};
use super::frame::Role;
use super::message::{Head, RequestHead, ResponseHead, Trailers, request_fields, response_fields, trailer_fields};
use super::outgoing::Lane;
use super::priority::Priority;
use super::qpack::{self, Field, Limits, Sink};
use super::writer::Writer;

/// A head as it came.
pub(super) enum Decoded<P> {
    Head(Head<P>),
    /// Its field section is larger than allowed, or has too many fields.
    TooLarge,
}

impl Connection {
    /// Decodes and checks the head of a request. Pending while it waits for the dynamic table.
    pub(super) fn poll_request(
        &self,
        stream: u64,
        block: &[u8],
        cx: &Context<'_>,
    ) -> Poll<Result<Decoded<request::Parts>, Error>> {
        let mut head = RequestHead::default();
        Poll::Ready(match ready!(self.poll_decode(stream, block, &mut head, cx))? {
            true => head.finish(self.config.connect_protocol).map(Decoded::Head),
            false => Ok(Decoded::TooLarge),
        })
    }

    /// As [`Self::poll_request`], of an answer.
    pub(super) fn poll_response(
        &self,
        stream: u64,
        block: &[u8],
        cx: &Context<'_>,
    ) -> Poll<Result<Decoded<response::Parts>, Error>> {
        let mut head = ResponseHead::default();
        Poll::Ready(match ready!(self.poll_decode(stream, block, &mut head, cx))? {
            true => head.finish().map(Decoded::Head),
            false => Ok(Decoded::TooLarge),
        })
    }

    /// As [`Self::poll_request`], of trailers; those that are too large are an error of the stream.
    pub(super) fn poll_trailers(&self, stream: u64, block: &[u8], cx: &Context<'_>) -> Poll<Result<HeaderMap, Error>> {
        let mut trailers = Trailers::default();
        Poll::Ready(match ready!(self.poll_decode(stream, block, &mut trailers, cx))? {
            true => trailers.finish(),
            false => Err(TRAILERS_TOO_LARGE),
        })
    }

    /// Gives the fields to `sink`; `false` where there are too many.
    fn poll_decode(
        &self,
        stream: u64,
        block: &[u8],
        sink: &mut impl Sink,
        cx: &Context<'_>,
    ) -> Poll<Result<bool, Error>> {
        if self.is_blocked(stream, cx) {
            return Poll::Pending;
        }
        let limits = Limits { max_size: self.config.max_field_section_size, max_fields: self.config.max_fields };
        let mut decoder = self.decoder.borrow_mut();
        let decoded = decoder.decode(stream, block, limits, sink)?;
        self.outgoing.push(Lane::Decoder, decoder.take_instructions().as_slice());
        Poll::Ready(Ok(match decoded {
            qpack::Decoded::Done | qpack::Decoded::Refused => true,
            qpack::Decoded::TooLarge => false,
            qpack::Decoded::Blocked => {
                self.block(stream, cx.waker());
                return Poll::Pending;
            }
        }))
    }

    /// Sends the head of an answer; gives what its Content-Length says.
    pub(super) fn send_response(
        &self,
        stream: u64,
        head: &response::Parts,
        size: Option<SizeHint>,
        writer: &mut Writer,
    ) -> Result<Option<u64>, Error> {
        let mut length = itoa::Buffer::new();
        let announced = content_length(&head.headers);
        // Known without being said: it spares the client a guess, as hyper does.
        let known = size.and_then(|size| size.exact()).filter(|_| announced.is_none());
        let known_field = known.map(|known| field(CONTENT_LENGTH.as_str(), length.format(known).as_bytes()));
        // RFC 9110 §6.6.1
        let date = (!head.headers.contains_key(DATE)).then(super::date::now);
        let date_field = date.as_ref().map(|date| field(DATE.as_str(), date));
        let fields = response_fields(&head.status, &head.headers).chain(known_field).chain(date_field);
        self.send_section(stream, fields, writer)?;
        Ok(announced.or(known))
    }

    /// Sends an interim answer.
    pub(super) fn send_interim(&self, stream: u64, head: &Response<()>, writer: &mut Writer) -> Result<(), Error> {
        self.send_section(stream, response_fields(&head.status(), head.headers()), writer)
    }

    /// Sends trailers.
    pub(super) fn send_trailers(&self, stream: u64, trailers: &HeaderMap, writer: &mut Writer) -> Result<(), Error> {
        self.send_section(stream, trailer_fields(trailers), writer)
    }

    /// Sends the head of a request; gives what its Content-Length says.
    pub(super) fn send_request(
        &self,
        stream: u64,
        head: &request::Parts,
        size: &SizeHint,
        writer: &mut Writer,
    ) -> Result<Option<u64>, Error> {
        let mut length = itoa::Buffer::new();
        let announced = content_length(&head.headers).filter(|_| head.method != Method::CONNECT);
        // RFC 9110 §8.6: not said where nothing is sent and the method gives content no meaning.
        let has_meaning = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        let says = |size: &u64| head.method != Method::CONNECT && announced.is_none() && (*size > 0 || has_meaning);
        let known = size.exact().filter(says);
        let known_field = known.map(|known| field(CONTENT_LENGTH.as_str(), length.format(known).as_bytes()));
        self.send_section(stream, request_fields(head).chain(known_field), writer)?;
        Ok(announced.or(known))
    }

    fn send_section<'a>(
        &self,
        stream: u64,
        fields: impl Iterator<Item = Field<'a>>,
        writer: &mut Writer,
    ) -> Result<(), Error> {
        let allowed = self.settings.borrow().as_ref().and_then(|settings| settings.max_field_section_size);
        SCRATCH.with_borrow_mut(|(block, instructions)| {
            block.clear();
            instructions.clear();
            let allowed = allowed.unwrap_or(u64::MAX);
            let encoded = self.encoder.borrow_mut().encode(stream, fields, allowed, block, instructions);
            // Before the section, which may refer to what they say.
            self.outgoing.push(Lane::Encoder, instructions);
            // RFC 9114 §4.2.2
            encoded.map_err(|_| Error::stream(self.own_fault(), "the peer takes no head or trailers so large"))?;
            writer.push_section(block);
            Ok(())
        })
    }

    /// What we reset a stream with that we cannot go on with.
    pub(super) fn own_fault(&self) -> Code {
        match self.role {
            Role::Server => Code::INTERNAL_ERROR,
            // RFC 9114 §4.1.1
            Role::Client => Code::REQUEST_CANCELLED,
        }
    }
}

fn field<'a>(name: &'a str, value: &'a [u8]) -> Field<'a> {
    Field { name: name.as_bytes(), value, is_sensitive: false }
}

/// What a head of ours says about its content.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What the `priority` field asks for; `None` without one, and for what is the default anyway.
pub(super) fn priority(headers: &HeaderMap) -> Option<Priority> {
    let field = headers.get("priority")?;
    Priority::parse(field.as_bytes()).filter(|priority| *priority != Priority::default())
}

thread_local! {
    /// An encoded section and its instructions, until they are copied to where they are sent from.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = RefCell::default();
}

pub(super) const TRAILERS_TOO_LARGE: Error = Error::stream(Code::EXCESSIVE_LOAD, "trailers that are too large");
