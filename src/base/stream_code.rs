//! Tidegate's own application error codes for raw QUIC streams: used in RESET_STREAM, STOP_SENDING and CONNECTION_CLOSE
//! if no peer supplied a code. `docs/quic-streams.md` documents them.

use super::error::Kind;

/// The codes begin here: `tide` and a zero byte, far from the small numbers that protocols give their own.
const FIRST: u64 = 0x74_6964_6500;

impl From<StreamCode> for u64 {
    fn from(code: StreamCode) -> Self {
        code.number()
    }
}

/// Why Tidegate broke a stream or a connection off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StreamCode {
    /// No new streams are taken here: nothing of this one was processed, another connection may.
    Closing,
    /// The TCP connection on the other side was reset.
    Reset,
    /// No endpoint took the connection.
    Refused,
    /// No endpoint answered in time.
    Timeout,
    /// The upstream has no endpoint that takes connections now.
    Unavailable,
    /// A limit is reached; nothing of this stream was processed.
    Limit,
    /// The connection that carried the other side was lost.
    Lost,
    /// Nothing moved for too long.
    Silent,
    /// It was too old, or the time to drain was over.
    TooOld,
    /// The endpoint takes nothing of this kind: unidirectional streams end at QUIC endpoints alone.
    Unsupported,
    /// A fault of Tidegate's own.
    Internal,
}

impl StreamCode {
    const ALL: [Self; 11] = [
        Self::Closing,
        Self::Reset,
        Self::Refused,
        Self::Timeout,
        Self::Unavailable,
        Self::Limit,
        Self::Lost,
        Self::Silent,
        Self::TooOld,
        Self::Unsupported,
        Self::Internal,
    ];

    /// The number on the wire: five bytes of a variable-length integer's eight (RFC 9000 §16).
    pub const fn number(self) -> u64 {
        FIRST + self as u64
    }

    /// The code of a number; `None`: it is another protocol's.
    pub fn of(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number.checked_sub(FIRST)?).ok()?).copied()
    }

    /// What a client is told where its stream led to nothing.
    pub fn for_kind(kind: Kind) -> Self {
        match kind {
            Kind::ConnectionRefused | Kind::TlsProtocolError | Kind::TlsCertificateError | Kind::TlsAlertReceived => {
                Self::Refused
            }
            Kind::ConnectionTimeout | Kind::DnsTimeout => Self::Timeout,
            Kind::DestinationUnavailable | Kind::DnsError => Self::Unavailable,
            Kind::ConnectionLimitReached => Self::Limit,
            Kind::ConnectionTerminated => Self::Lost,
            _ => Self::Internal,
        }
    }

    /// What it means to whoever receives it from an endpoint that is a Tidegate as well.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Closing | Self::Unavailable => Kind::DestinationUnavailable,
            Self::Reset | Self::Lost | Self::Unsupported => Kind::ConnectionTerminated,
            Self::Refused => Kind::ConnectionRefused,
            Self::Timeout => Kind::ConnectionTimeout,
            Self::Limit => Kind::ConnectionLimitReached,
            Self::Silent => Kind::HttpResponseStalled,
            Self::TooOld => Kind::ExchangeTimeout,
            Self::Internal => Kind::ProxyInternalError,
        }
    }

    /// Whether nothing of the stream was processed, so that it may be opened again elsewhere.
    pub const fn is_unprocessed(self) -> bool {
        matches!(self, Self::Closing | Self::Limit | Self::Unavailable | Self::Refused | Self::Timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_codes_and_no_others_do() {
        for code in StreamCode::ALL {
            assert_eq!(StreamCode::of(code.number()), Some(code));
        }
        assert_eq!(StreamCode::Closing.number(), 0x74_6964_6500);
        for other in [0, 1, 0x10c, FIRST - 1, FIRST + 11, u64::MAX] {
            assert_eq!(StreamCode::of(other), None, "{other:#x}");
        }
    }

    #[test]
    fn what_went_wrong_keeps_its_word_through_a_tunnel() {
        for kind in [Kind::ConnectionRefused, Kind::ConnectionTimeout, Kind::DestinationUnavailable] {
            assert_eq!(StreamCode::for_kind(kind).kind(), kind);
        }
    }
}
