//! Maps failures to establish a QUIC connection to `base::Error`. TLS alerts appear as error codes of the connection
//! (RFC 9001 §4.8); the details are in the cause.

use quinn::{Connection, ConnectionError, TransportErrorCode};

use crate::base::error::{Error, Kind, Retry};
use crate::transport::tls::failure as tls;

/// The handshake with an endpoint failed. Nothing of a request was sent, so another endpoint may get it.
pub(super) fn of_endpoint(error: ConnectionError) -> Error {
    let (kind, reason) = match &error {
        ConnectionError::TransportError(ours) => match alert(ours.code) {
            Some(alert) => tls::of_our_alert(alert),
            None => (Kind::ConnectionTerminated, "the endpoint broke the QUIC protocol"),
        },
        ConnectionError::ConnectionClosed(theirs) => match alert(theirs.error_code) {
            Some(alert) => (Kind::TlsAlertReceived, tls::alert_from_endpoint(alert.into())),
            None if theirs.error_code == TransportErrorCode::CONNECTION_REFUSED => {
                (Kind::ConnectionRefused, "the endpoint refused the connection")
            }
            None => (Kind::ConnectionTerminated, "the endpoint closed the connection during the QUIC handshake"),
        },
        ConnectionError::ApplicationClosed(_) | ConnectionError::Reset => {
            (Kind::ConnectionTerminated, "the endpoint closed the connection during the QUIC handshake")
        }
        ConnectionError::VersionMismatch => (Kind::TlsProtocolError, "no QUIC version in common with the endpoint"),
        ConnectionError::TimedOut => (Kind::ConnectionTimeout, "the endpoint did not answer the QUIC handshake"),
        ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => {
            return Error::internal("a QUIC connection was given up").because(error);
        }
    };
    Error::upstream(kind, Retry::Always, reason).because(error)
}

/// The error of a connection that an endpoint ended with a TLS alert after the handshake was over for us: it took none of the
/// requests. `None`: it lives, or ended otherwise.
pub fn refusal(connection: &Connection) -> Option<Error> {
    match connection.close_reason()? {
        ConnectionError::ConnectionClosed(theirs) if alert(theirs.error_code).is_some() => {
            Some(of_endpoint(ConnectionError::ConnectionClosed(theirs)))
        }
        _ => None,
    }
}

/// Whether a connection ended because nothing came of the other end any more.
pub fn fell_silent(connection: &Connection) -> bool {
    matches!(connection.close_reason(), Some(ConnectionError::TimedOut))
}

/// RFC 9001 §4.8: an alert is the low byte of such a code.
pub(super) fn alert(code: TransportErrorCode) -> Option<u8> {
    let code = u64::from(code);
    (0x100..0x200).contains(&code).then_some(code as u8)
}
