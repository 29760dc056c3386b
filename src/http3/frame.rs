//! Frames of HTTP/3 as they come in chunks cut anywhere, and which of them a request stream may carry in which order
//! (sans-io, RFC 9114 §4.1, §7). What is on the control stream: `control_frames`.

use bytes::{Buf, Bytes, BytesMut};

use super::error::{Code, Error};
use super::varint;

/// Which side of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We answer requests.
    Server,
    /// We send them.
    Client,
}

/// The types of frames (RFC 9114 §11.2.1, RFC 9218 §7.2).
#[allow(missing_docs, reason = "the names are the RFCs'")]
pub mod kind {
    pub const DATA: u64 = 0x0;
    pub const HEADERS: u64 = 0x1;
    pub const CANCEL_PUSH: u64 = 0x3;
    pub const SETTINGS: u64 = 0x4;
    pub const PUSH_PROMISE: u64 = 0x5;
    pub const GOAWAY: u64 = 0x7;
    pub const MAX_PUSH_ID: u64 = 0xd;
    pub const PRIORITY_UPDATE: u64 = 0xf0700;
    pub const PRIORITY_UPDATE_PUSH: u64 = 0xf0701;

    /// Whether HTTP/2 gives the number a meaning that HTTP/3 has no use for (RFC 9114 §7.2.8).
    pub const fn is_of_http2(kind: u64) -> bool {
        matches!(kind, 0x2 | 0x6 | 0x8 | 0x9)
    }
}

/// What stands before a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// One of [`kind`], or a number that is passed over.
    pub kind: u64,
    /// Bytes of the payload.
    pub length: u64,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (kind, first) = varint::read(bytes)?;
        let (length, second) = varint::read(&bytes[first..])?;
        Some((Self { kind, length }, first + second))
    }
}

/// Appends the header of a frame with `length` bytes of payload.
pub fn write_header(kind: u64, length: u64, out: &mut Vec<u8>) {
    varint::write(kind, out);
    varint::write(length, out);
}

/// Appends a frame of a type that nobody knows, so that nobody learns to choke on one (RFC 9114 §7.2.8). `random` chooses
/// the type.
pub fn write_grease(random: u32, out: &mut Vec<u8>) {
    write_header(u64::from(random) * 0x1f + 0x21, 0, out);
}

/// Reads the header of one frame after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct HeaderReader {
    bytes: [u8; MAX_HEADER],
    filled: u8,
}

impl HeaderReader {
    /// Takes a header from the start of `chunk`; `None` where its rest is still to come, and then the chunk is empty.
    #[inline]
    pub(super) fn read(&mut self, chunk: &mut Bytes) -> Option<Header> {
        if self.filled == 0
            && let Some((header, length)) = Header::parse(chunk)
        {
            chunk.advance(length);
            return Some(header);
        }
        while chunk.has_remaining() {
            self.bytes[usize::from(self.filled)] = chunk.get_u8();
            self.filled += 1;
            if let Some((header, _)) = Header::parse(&self.bytes[..usize::from(self.filled)]) {
                self.filled = 0;
                return Some(header);
            }
        }
        None
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }
}

/// A payload that is wanted whole: a slice of the chunk where it came in one.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    left: usize,
    gathered: BytesMut,
}

impl Payload {
    pub(super) fn new(length: usize) -> Self {
        Self { left: length, gathered: BytesMut::new() }
    }

    pub(super) fn read(&mut self, chunk: &mut Bytes) -> Option<Bytes> {
        let taken = chunk.split_to(self.left.min(chunk.len()));
        self.left -= taken.len();
        if self.left == 0 && self.gathered.is_empty() {
            return Some(taken);
        }
        // Grows with what came, not with what was announced.
        self.gathered.extend_from_slice(&taken);
        (self.left == 0).then(|| self.gathered.split().freeze())
    }
}

/// What a request stream carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The encoded field section of a head, or on a client of an interim response: see [`RequestFrames::interim`].
    Head(Bytes),
    /// A piece of the content; never empty.
    Data(Bytes),
    /// The encoded field section after the content.
    Trailers(Bytes),
    /// A head whose encoded form alone shows that it is too large; it is passed over.
    HeadTooLong,
    /// As [`HeadTooLong`](Self::HeadTooLong), of trailers.
    TrailersTooLong,
}

/// Reads what the peer sends on a request stream.
#[derive(Clone, Debug)]
pub struct RequestFrames {
    role: Role,
    phase: Phase,
    header: HeaderReader,
    state: State,
    max_block: u64,
    futile: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Head,
    Content,
    Tunnel,
    AfterTrailers,
}

#[derive(Clone, Debug)]
enum State {
    Header,
    Block(Payload),
    Data(u64),
    Skip(u64),
}

impl RequestFrames {
    /// For what comes to us as `role`. A field section of which more than `max_section` bytes would be left when decoded
    /// need not be read.
    pub fn new(role: Role, max_section: u64) -> Self {
        // A byte that is Huffman-coded takes up to 30 bits, and a reference to the dynamic table less than the 32 bytes
        // that its field counts at least.
        let max_block = max_section.saturating_mul(4).min(usize::MAX as u64);
        Self { role, phase: Phase::Head, header: HeaderReader::default(), state: State::Header, max_block, futile: 0 }
    }

    /// The next event in `chunk`, taken from its front; `None` when all of the chunk is used.
    ///
    /// # Errors
    /// Of the connection: a frame that may not be here.
    pub fn next(&mut self, chunk: &mut Bytes) -> Result<Option<Event>, Error> {
        loop {
            match &mut self.state {
                State::Header => match self.header.read(chunk) {
                    Some(header) => {
                        if let Some(event) = self.begin(header)? {
                            return Ok(Some(event));
                        }
                    }
                    None => return Ok(None),
                },
                State::Data(left) | State::Skip(left) if *left == 0 => self.state = State::Header,
                _ if chunk.is_empty() => return Ok(None),
                State::Data(left) => {
                    let data = chunk.split_to(at_most(*left, chunk.len()));
                    *left -= data.len() as u64;
                    self.futile = 0;
                    return Ok(Some(Event::Data(data)));
                }
                State::Skip(left) => {
                    let skipped = at_most(*left, chunk.len());
                    chunk.advance(skipped);
                    *left -= skipped as u64;
                }
                State::Block(payload) => {
                    let Some(block) = payload.read(chunk) else { return Ok(None) };
                    self.state = State::Header;
                    return Ok(Some(self.section(Event::Head, Event::Trailers)(block)));
                }
            }
        }
    }

    /// The head that came last was an interim response: another head follows.
    pub fn interim(&mut self) {
        self.phase = Phase::Head;
    }

    /// The request was a CONNECT: from here on there is nothing but DATA (RFC 9114 §4.4).
    pub fn tunnel(&mut self) {
        self.phase = Phase::Tunnel;
    }

    /// The stream ended here.
    ///
    /// # Errors
    /// Within a frame it may not (of the connection, RFC 9114 §7.1), nor before a head (of the stream, §4.1).
    pub fn finish(&self) -> Result<(), Error> {
        let between_frames = match self.state {
            State::Header => self.header.is_empty(),
            State::Data(left) | State::Skip(left) => left == 0,
            State::Block(_) => false,
        };
        if !between_frames {
            return Err(Error::connection(Code::FRAME_ERROR, "a stream ended within a frame"));
        }
        match (self.phase, self.role) {
            (Phase::Head, Role::Server) => Err(Error::stream(Code::REQUEST_INCOMPLETE, "a stream without a request")),
            (Phase::Head, Role::Client) => Err(Error::stream(Code::MESSAGE_ERROR, "a stream without a response")),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, header: Header) -> Result<Option<Event>, Error> {
        match (header.kind, self.phase) {
            (kind::HEADERS, Phase::Head | Phase::Content) => {
                self.futile = 0;
                if header.length > self.max_block {
                    self.state = State::Skip(header.length);
                    return Ok(Some(self.section(|_| Event::HeadTooLong, |_| Event::TrailersTooLong)(Bytes::new())));
                }
                if header.length == 0 {
                    // Not even the prefix that each section has: the decoder says so.
                    return Ok(Some(self.section(Event::Head, Event::Trailers)(Bytes::new())));
                }
                self.state = State::Block(Payload::new(header.length as usize));
                return Ok(None);
            }
            (kind::DATA, Phase::Content | Phase::Tunnel) => self.state = State::Data(header.length),
            (kind::PUSH_PROMISE, _) if self.role == Role::Client => {
                // RFC 9114 §7.2.5: we allow no push id at all.
                return Err(Error::connection(Code::ID_ERROR, "a push that was not allowed"));
            }
            (known, _) if is_known(known) => return Err(unexpected(known, self.phase)),
            // RFC 9114 §9: what is not known is passed over.
            _ => self.state = State::Skip(header.length),
        }
        self.futile += 1;
        if self.futile > MAX_FUTILE {
            return Err(Error::connection(Code::EXCESSIVE_LOAD, "frames without content, one after the other"));
        }
        Ok(None)
    }

    /// The field section that comes now belongs to a head or to trailers.
    fn section(&mut self, head: fn(Bytes) -> Event, trailers: fn(Bytes) -> Event) -> fn(Bytes) -> Event {
        if self.phase == Phase::Head {
            self.phase = Phase::Content;
            head
        } else {
            self.phase = Phase::AfterTrailers;
            trailers
        }
    }
}

/// RFC 9114 §7.2.8 for the numbers that HTTP/2 used; the others have their place elsewhere, or another order.
fn is_known(frame: u64) -> bool {
    kind::is_of_http2(frame)
        || matches!(
            frame,
            kind::DATA
                | kind::HEADERS
                | kind::CANCEL_PUSH
                | kind::SETTINGS
                | kind::PUSH_PROMISE
                | kind::GOAWAY
                | kind::MAX_PUSH_ID
                | kind::PRIORITY_UPDATE
                | kind::PRIORITY_UPDATE_PUSH
        )
}

fn unexpected(frame: u64, phase: Phase) -> Error {
    let reason = match (frame, phase) {
        (kind::DATA, Phase::Head) => "DATA before a head",
        (kind::DATA | kind::HEADERS, Phase::AfterTrailers) => "a frame after the trailers",
        (kind::HEADERS, Phase::Tunnel) => "HEADERS in a tunnel",
        _ if kind::is_of_http2(frame) => "a frame of HTTP/2",
        _ => "a frame that no request stream carries",
    };
    Error::connection(Code::FRAME_UNEXPECTED, reason)
}

fn at_most(left: u64, here: usize) -> usize {
    usize::try_from(left).map_or(here, |left| left.min(here))
}

/// Two integers of eight bytes.
const MAX_HEADER: usize = 16;
/// Frames in a row that carry nothing we use. Each costs its sender two bytes, and us a look.
const MAX_FUTILE: u32 = 1024;

#[cfg(test)]
mod tests;
