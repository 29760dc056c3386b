//! The unidirectional streams that a peer opens: what each is for, and that there is one of each (sans-io, RFC 9114 §6.2,
//! RFC 9204 §4.2).

use bytes::{Buf, Bytes};

use super::error::{Code, Error};
use super::frame::Role;
use super::varint;

/// The type byte of the control stream.
pub const CONTROL: u64 = 0x0;
/// The type byte of a push stream.
pub const PUSH: u64 = 0x1;
/// The type byte of the QPACK encoder stream.
pub const ENCODER: u64 = 0x2;
/// The type byte of the QPACK decoder stream.
pub const DECODER: u64 = 0x3;

/// What a peer's stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Read it with `ControlFrames`.
    Control,
    /// Instructions for our decoder.
    Encoder,
    /// Instructions for our encoder.
    Decoder,
    /// RFC 9114 §6.2.3: of a type that we do not know. To be stopped with H3_STREAM_CREATION_ERROR, or read and dropped.
    Unknown,
}

/// Reads the type that a stream begins with.
#[derive(Clone, Debug, Default)]
pub struct TypeReader {
    bytes: [u8; 8],
    filled: u8,
}

impl TypeReader {
    /// Takes the type from the front of `chunk`; `None` where its rest is still to come.
    pub fn read(&mut self, chunk: &mut Bytes) -> Option<u64> {
        while chunk.has_remaining() {
            self.bytes[usize::from(self.filled)] = chunk.get_u8();
            self.filled += 1;
            if let Some((value, _)) = varint::read(&self.bytes[..usize::from(self.filled)]) {
                self.filled = 0;
                return Some(value);
            }
        }
        None
    }
}

/// Which streams the peer has opened.
#[derive(Clone, Debug, Default)]
pub struct PeerStreams {
    control: bool,
    encoder: bool,
    decoder: bool,
}

impl PeerStreams {
    /// A stream of type `kind` was opened towards us as `role`.
    ///
    /// # Errors
    /// Of the connection: the second of its kind, or a push that cannot be.
    pub fn open(&mut self, kind: u64, role: Role) -> Result<Purpose, Error> {
        let (seen, purpose) = match kind {
            CONTROL => (&mut self.control, Purpose::Control),
            ENCODER => (&mut self.encoder, Purpose::Encoder),
            DECODER => (&mut self.decoder, Purpose::Decoder),
            // RFC 9114 §6.2.2
            PUSH if role == Role::Server => {
                return Err(Error::connection(Code::STREAM_CREATION_ERROR, "a push stream from a client"));
            }
            // RFC 9114 §4.6: we allow no push id at all.
            PUSH => return Err(Error::connection(Code::ID_ERROR, "a push that was not allowed")),
            _ => return Ok(Purpose::Unknown),
        };
        if std::mem::replace(seen, true) {
            return Err(Error::connection(Code::STREAM_CREATION_ERROR, "a second stream of a kind there is one of"));
        }
        Ok(purpose)
    }
}

/// What it means when a stream of this purpose ends or is reset (RFC 9114 §6.2.1, RFC 9204 §4.2).
///
/// # Errors
/// Of the connection, for those that must stay open.
pub fn closed(purpose: Purpose) -> Result<(), Error> {
    match purpose {
        Purpose::Unknown => Ok(()),
        Purpose::Control => Err(Error::connection(Code::CLOSED_CRITICAL_STREAM, "the control stream was closed")),
        Purpose::Encoder | Purpose::Decoder => {
            Err(Error::connection(Code::CLOSED_CRITICAL_STREAM, "a QPACK stream was closed"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_of_each() {
        let mut streams = PeerStreams::default();
        for (kind, purpose) in [(CONTROL, Purpose::Control), (ENCODER, Purpose::Encoder), (DECODER, Purpose::Decoder)] {
            assert_eq!(streams.open(kind, Role::Server), Ok(purpose));
            assert_eq!(streams.open(kind, Role::Server).unwrap_err().code(), Code::STREAM_CREATION_ERROR);
            assert_eq!(closed(purpose).unwrap_err().code(), Code::CLOSED_CRITICAL_STREAM);
        }
        for _ in 0..3 {
            assert_eq!(streams.open(0x21, Role::Server), Ok(Purpose::Unknown));
        }
        assert_eq!(closed(Purpose::Unknown), Ok(()));
        assert_eq!(streams.open(PUSH, Role::Server).unwrap_err().code(), Code::STREAM_CREATION_ERROR);
        assert_eq!(streams.open(PUSH, Role::Client).unwrap_err().code(), Code::ID_ERROR);
    }

    #[test]
    fn a_type_may_come_in_pieces() {
        let mut reader = TypeReader::default();
        assert_eq!(reader.read(&mut Bytes::from_static(&[0x40])), None);
        let mut rest = Bytes::from_static(&[0x02, 0x3f]);
        assert_eq!(reader.read(&mut rest), Some(ENCODER));
        assert_eq!(rest, &[0x3f][..]);
    }
}
