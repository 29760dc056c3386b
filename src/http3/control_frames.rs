//! The frames of a control stream: SETTINGS first and once, then what a peer in its role may say (sans-io, RFC 9114 §6.2.1,
//! §7.2, RFC 9218 §7).

use bytes::{Buf, Bytes};

use super::error::{Code, Error};
use super::frame::{Header, HeaderReader, Payload, Role, kind, write_header};
use super::priority::Priority;
use super::settings::Settings;
use super::varint;

/// What a peer says on its control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlFrame {
    /// The first one.
    Settings(Settings),
    /// From a server: requests on this stream and later ones are not processed. From a client: a push id.
    Goaway(u64),
    /// From a client: it would take pushes up to this id.
    MaxPushId(u64),
    /// From a client: how urgent the request on this stream is. That the stream can exist is for the caller to check.
    PriorityUpdate {
        /// The stream of the request.
        stream: u64,
        /// What does not parse is the default.
        priority: Priority,
    },
}

/// Reads the control stream of a peer.
#[derive(Clone, Debug)]
pub struct ControlFrames {
    role: Role,
    header: HeaderReader,
    state: State,
    has_settings: bool,
    goaway: Option<u64>,
    max_push_id: Option<u64>,
}

#[derive(Clone, Debug)]
enum State {
    Header,
    Payload(u64, Payload),
    Skip(u64),
}

impl ControlFrames {
    /// For what comes to us as `role`.
    pub fn new(role: Role) -> Self {
        let (header, state) = (HeaderReader::default(), State::Header);
        Self { role, header, state, has_settings: false, goaway: None, max_push_id: None }
    }

    /// The next frame in `chunk`, taken from its front; `None` when all of the chunk is used.
    ///
    /// # Errors
    /// Of the connection.
    pub fn next(&mut self, chunk: &mut Bytes) -> Result<Option<ControlFrame>, Error> {
        loop {
            match &mut self.state {
                State::Header => {
                    let Some(header) = self.header.read(chunk) else { return Ok(None) };
                    self.begin(header)?;
                }
                State::Skip(left) => {
                    let skipped = usize::try_from(*left).map_or(chunk.len(), |left| left.min(chunk.len()));
                    chunk.advance(skipped);
                    *left -= skipped as u64;
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.state = State::Header;
                }
                State::Payload(kind, payload) => {
                    let kind = *kind;
                    let Some(payload) = payload.read(chunk) else { return Ok(None) };
                    self.state = State::Header;
                    return self.frame(kind, &payload).map(Some);
                }
            }
        }
    }

    fn begin(&mut self, header: Header) -> Result<(), Error> {
        let Header { kind, length } = header;
        if !self.has_settings && kind != kind::SETTINGS {
            return Err(Error::connection(
                Code::MISSING_SETTINGS,
                "a control stream that does not begin with SETTINGS",
            ));
        }
        let by_client = self.role == Role::Server;
        let limit = match kind {
            kind::SETTINGS if !self.has_settings => MAX_PAYLOAD,
            kind::GOAWAY | kind::CANCEL_PUSH => 8,
            kind::MAX_PUSH_ID if by_client => 8,
            kind::PRIORITY_UPDATE | kind::PRIORITY_UPDATE_PUSH if by_client => MAX_PAYLOAD,
            kind::SETTINGS => return Err(unexpected("a second SETTINGS")),
            kind::DATA | kind::HEADERS | kind::PUSH_PROMISE => {
                return Err(unexpected("a frame of a request on the control stream"));
            }
            kind::MAX_PUSH_ID | kind::PRIORITY_UPDATE | kind::PRIORITY_UPDATE_PUSH => {
                return Err(unexpected("a frame that only clients send"));
            }
            _ if kind::is_of_http2(kind) => return Err(unexpected("a frame of HTTP/2")),
            _ => {
                self.state = State::Skip(length);
                return Ok(());
            }
        };
        self.has_settings = true;
        if length > limit {
            return Err(match limit {
                MAX_PAYLOAD => Error::connection(Code::EXCESSIVE_LOAD, "a control frame of many bytes"),
                _ => malformed(),
            });
        }
        self.state = State::Payload(kind, Payload::new(length as usize));
        Ok(())
    }

    fn frame(&mut self, kind: u64, payload: &[u8]) -> Result<ControlFrame, Error> {
        match kind {
            kind::SETTINGS => Settings::read(payload).map(ControlFrame::Settings),
            kind::GOAWAY => self.goaway(varint::read_whole(payload).ok_or_else(malformed)?),
            kind::MAX_PUSH_ID => {
                let id = varint::read_whole(payload).ok_or_else(malformed)?;
                // RFC 9114 §7.2.7
                if self.max_push_id.is_some_and(|before| id < before) {
                    return Err(wrong_id("a lower MAX_PUSH_ID"));
                }
                self.max_push_id = Some(id);
                Ok(ControlFrame::MaxPushId(id))
            }
            kind::CANCEL_PUSH => {
                varint::read_whole(payload).ok_or_else(malformed)?;
                // RFC 9114 §7.2.3: we neither promise pushes nor allow them.
                Err(wrong_id("CANCEL_PUSH of a push that nobody promised"))
            }
            kind::PRIORITY_UPDATE => {
                let (stream, length) = varint::read(payload).ok_or_else(malformed)?;
                // RFC 9218 §7.2
                if !stream.is_multiple_of(4) {
                    return Err(wrong_id("PRIORITY_UPDATE of a stream that is no request"));
                }
                let priority = Priority::parse(&payload[length..]).unwrap_or_default();
                Ok(ControlFrame::PriorityUpdate { stream, priority })
            }
            // RFC 9218 §7.2: of a push that nobody promised.
            _ => Err(wrong_id("PRIORITY_UPDATE of a push that nobody promised")),
        }
    }

    /// RFC 9114 §5.2: never a higher id than before, and from a server one that requests have.
    fn goaway(&mut self, id: u64) -> Result<ControlFrame, Error> {
        if self.role == Role::Client && !id.is_multiple_of(4) {
            return Err(wrong_id("GOAWAY with a stream that is no request"));
        }
        if self.goaway.is_some_and(|before| id > before) {
            return Err(wrong_id("GOAWAY with a higher id"));
        }
        self.goaway = Some(id);
        Ok(ControlFrame::Goaway(id))
    }
}

/// Appends a GOAWAY frame.
pub fn write_goaway(id: u64, out: &mut Vec<u8>) {
    write_header(kind::GOAWAY, varint::size(id) as u64, out);
    varint::write(id, out);
}

/// Appends a PRIORITY_UPDATE frame for the request on `stream`.
pub fn write_priority_update(stream: u64, priority: Priority, out: &mut Vec<u8>) {
    let field = priority.to_string();
    write_header(kind::PRIORITY_UPDATE, (varint::size(stream) + field.len()) as u64, out);
    varint::write(stream, out);
    out.extend_from_slice(field.as_bytes());
}

fn unexpected(reason: &'static str) -> Error {
    Error::connection(Code::FRAME_UNEXPECTED, reason)
}

fn wrong_id(reason: &'static str) -> Error {
    Error::connection(Code::ID_ERROR, reason)
}

/// RFC 9114 §7.1: a payload that is not what its frame says, no more and no less.
fn malformed() -> Error {
    Error::connection(Code::FRAME_ERROR, "a control frame of the wrong size")
}

/// Of SETTINGS and PRIORITY_UPDATE, bytes.
const MAX_PAYLOAD: u64 = 2048;

#[cfg(test)]
mod tests;
