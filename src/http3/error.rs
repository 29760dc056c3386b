//! Error codes and errors of HTTP/3 (RFC 9114 §8) and QPACK (RFC 9204 §6): what ended, by whom, and why.

use std::fmt;

use quinn::{ConnectionError, VarInt};

/// An error code of HTTP/3 or QPACK.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(u64);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// The word of the registry; `None` for a code that is not in it.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// No fault: the stream or connection is not needed any more.
    NO_ERROR = 0x100, "H3_NO_ERROR";
    /// A violation that no other code fits.
    GENERAL_PROTOCOL_ERROR = 0x101, "H3_GENERAL_PROTOCOL_ERROR";
    /// A fault of the one that says it.
    INTERNAL_ERROR = 0x102, "H3_INTERNAL_ERROR";
    /// A stream that the peer will not take.
    STREAM_CREATION_ERROR = 0x103, "H3_STREAM_CREATION_ERROR";
    /// A control or QPACK stream was closed.
    CLOSED_CRITICAL_STREAM = 0x104, "H3_CLOSED_CRITICAL_STREAM";
    /// A frame where it must not be.
    FRAME_UNEXPECTED = 0x105, "H3_FRAME_UNEXPECTED";
    /// A frame of the wrong size or layout.
    FRAME_ERROR = 0x106, "H3_FRAME_ERROR";
    /// More of something than is sensible.
    EXCESSIVE_LOAD = 0x107, "H3_EXCESSIVE_LOAD";
    /// A stream or push id where it must not be.
    ID_ERROR = 0x108, "H3_ID_ERROR";
    /// A fault in SETTINGS.
    SETTINGS_ERROR = 0x109, "H3_SETTINGS_ERROR";
    /// The control stream does not begin with SETTINGS.
    MISSING_SETTINGS = 0x10a, "H3_MISSING_SETTINGS";
    /// The server did nothing for the request: it may be sent again.
    REQUEST_REJECTED = 0x10b, "H3_REQUEST_REJECTED";
    /// The request or its answer is not wanted any more.
    REQUEST_CANCELLED = 0x10c, "H3_REQUEST_CANCELLED";
    /// The client's stream ended before its request.
    REQUEST_INCOMPLETE = 0x10d, "H3_REQUEST_INCOMPLETE";
    /// A malformed message.
    MESSAGE_ERROR = 0x10e, "H3_MESSAGE_ERROR";
    /// The connection behind a CONNECT broke.
    CONNECT_ERROR = 0x10f, "H3_CONNECT_ERROR";
    /// To be asked again over HTTP/1.1.
    VERSION_FALLBACK = 0x110, "H3_VERSION_FALLBACK";
    /// A datagram or capsule that cannot be read (RFC 9297 §5.2).
    DATAGRAM_ERROR = 0x33, "H3_DATAGRAM_ERROR";
    /// A field section that cannot be decoded.
    QPACK_DECOMPRESSION_FAILED = 0x200, "QPACK_DECOMPRESSION_FAILED";
    /// A fault on the encoder stream.
    QPACK_ENCODER_STREAM_ERROR = 0x201, "QPACK_ENCODER_STREAM_ERROR";
    /// A fault on the decoder stream.
    QPACK_DECODER_STREAM_ERROR = 0x202, "QPACK_DECODER_STREAM_ERROR";
}

impl Code {
    /// The code with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number as it is sent.
    pub fn value(self) -> u64 {
        self.0
    }

    pub(super) fn varint(self) -> VarInt {
        VarInt::from_u64(self.0).unwrap_or(VarInt::MAX)
    }
}

impl From<VarInt> for Code {
    fn from(code: VarInt) -> Self {
        Self(code.into_inner())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How much an error ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One request.
    Stream,
    /// The connection and all that is on it.
    Connection,
}

/// Who said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We did, mostly because of what the peer sent.
    Local,
    /// The peer, or the network below.
    Remote,
}

/// Why a request or a connection ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    code: Code,
    scope: Scope,
    side: Side,
    reason: &'static str,
    /// The peer fell silent.
    timed_out: bool,
}

impl Error {
    /// Ends one request, by our word.
    pub const fn stream(code: Code, reason: &'static str) -> Self {
        Self { code, scope: Scope::Stream, side: Side::Local, reason, timed_out: false }
    }

    /// Ends the connection, by our word.
    pub(super) const fn connection(code: Code, reason: &'static str) -> Self {
        Self { code, scope: Scope::Connection, side: Side::Local, reason, timed_out: false }
    }

    /// The peer reset a request, or asked to stop sending it.
    pub(super) fn reset(code: VarInt, reason: &'static str) -> Self {
        Self { code: code.into(), scope: Scope::Stream, side: Side::Remote, reason, timed_out: false }
    }

    /// The connection is gone.
    pub(super) fn lost(error: &ConnectionError) -> Self {
        let (code, side, reason) = match error {
            ConnectionError::ApplicationClosed(close) => {
                (close.error_code.into(), Side::Remote, "the peer closed the connection")
            }
            ConnectionError::LocallyClosed => (Code::NO_ERROR, Side::Local, "the connection was closed"),
            ConnectionError::TimedOut => (Code::NO_ERROR, Side::Remote, "the peer fell silent"),
            ConnectionError::Reset => (Code::NO_ERROR, Side::Remote, "the peer forgot the connection"),
            ConnectionError::ConnectionClosed(_) => {
                (Code::NO_ERROR, Side::Remote, "the peer's transport closed the connection")
            }
            _ => (Code::NO_ERROR, Side::Local, "the transport failed"),
        };
        let timed_out = matches!(error, ConnectionError::TimedOut);
        Self { code, scope: Scope::Connection, side, reason, timed_out }
    }

    /// What to reset the stream with: our own word, or that the peer's was heard.
    pub(super) fn answering(&self) -> Code {
        match self.side {
            Side::Local => self.code,
            Side::Remote => Code::REQUEST_CANCELLED,
        }
    }

    /// The code that was sent or came; H3_NO_ERROR where the network or the transport failed.
    pub fn code(&self) -> Code {
        self.code
    }

    /// How much it ends.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Who said it.
    pub fn side(&self) -> Side {
        self.side
    }

    /// What is wrong, in words.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// Whether the peer fell silent.
    pub fn is_timeout(&self) -> bool {
        self.timed_out
    }
}

/// As the error of a body that is being sent, or a cause of it: the stream is to be reset with this code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenOff(pub Code);

impl BrokenOff {
    /// What the error of a body says.
    pub(super) fn find(error: &(dyn std::error::Error + 'static)) -> Option<Code> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(Self(code)) = error.downcast_ref() {
                return Some(*code);
            }
            cause = error.source();
        }
        None
    }
}

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken off ({})", self.0)
    }
}

impl std::error::Error for BrokenOff {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.code)
    }
}

impl std::error::Error for Error {}
