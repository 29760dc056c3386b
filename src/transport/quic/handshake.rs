//! The handshake of one accepted connection, within its deadline, and its results. With early data the connection can
//! be used before the handshake is complete; streams that arrived early are marked (`quinn::RecvStream::is_0rtt`).

use std::rc::Rc;
use std::time::Duration;

use quinn::{Connecting, Connection, ConnectionError, TransportErrorCode};

use super::crypto::Agreed;
use super::failure::alert;
use crate::base::drain::Flag;
use crate::base::error::{Error, Kind};
use crate::config::model::TlsVersion;
use crate::net::timer::{self, Instant};
use crate::transport::tls::server::{Accepted, Alpn};

/// A connection that can be used.
pub struct QuicAccepted {
    /// The connection.
    pub connection: Connection,
    /// What the handshake told.
    pub accepted: Accepted,
    /// It has streams of a client whose handshake is not over yet (0-RTT): somebody else may have recorded and sent them.
    /// Which ones says [`quinn::RecvStream::is_0rtt`].
    pub early: bool,
    /// Tells when the handshake is over.
    pub established: Established,
}

/// The end of a handshake, to be waited for; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Established(Rc<Flag>);

impl Established {
    /// Whether the handshake is over.
    pub fn is_complete(&self) -> bool {
        self.0.is_raised()
    }

    /// Ends when the handshake is over; where it failed, the connection is closed by then. Cancel-safe.
    pub async fn completed(&self) {
        self.0.raised().await;
    }
}

/// Waits for the handshake, or, with `early_data`, for the moment from which on the client's early data is taken. At
/// `limit` the connection is closed, wherever the handshake is. Cancel-safe in that the connection is closed when dropped.
///
/// # Errors
/// The client's fault, of a `tls_*` kind, `http_request_timeout` past the limit, or `client_gone`.
pub async fn handshake(mut connecting: Connecting, early_data: bool, limit: Duration) -> Result<QuicAccepted, Error> {
    let until = Instant::now() + limit;
    let begun = async {
        if early_data && agreed_early(&mut connecting).await? {
            return Ok(connecting.into_0rtt());
        }
        Ok(Err(connecting))
    };
    let connecting = match timer::timeout(limit, begun).await.map_err(|timer::Elapsed| late())?.map_err(failed)? {
        Ok((connection, over)) => return Ok(early(connection, over, until)),
        Err(connecting) => connecting,
    };
    let left = until.saturating_duration_since(Instant::now());
    let connection = timer::timeout(left, connecting).await.map_err(|timer::Elapsed| late())?.map_err(failed)?;
    let established = Established::default();
    established.0.raise();
    Ok(QuicAccepted { accepted: told(&connection), connection, early: false, established })
}

async fn agreed_early(connecting: &mut Connecting) -> Result<bool, ConnectionError> {
    let agreed = connecting.handshake_data().await?;
    Ok(agreed.downcast_ref::<Agreed>().is_some_and(|agreed| agreed.early))
}

/// A connection that is used before its handshake is over.
fn early(connection: Connection, over: quinn::ZeroRttAccepted, until: Instant) -> QuicAccepted {
    let established = Established::default();
    let (told_of, watched) = (established.clone(), connection.clone());
    tokio::task::spawn_local(async move {
        let left = until.saturating_duration_since(Instant::now());
        if timer::timeout(left, over).await.is_err() {
            super::close_saying(&watched, NO_ERROR, b"the handshake took too long");
        }
        told_of.0.raise();
    });
    QuicAccepted { accepted: told(&connection), connection, early: true, established }
}

fn told(connection: &Connection) -> Accepted {
    let agreed = connection.handshake_data().and_then(|data| data.downcast::<Agreed>().ok());
    let certificates =
        connection.peer_identity().and_then(|chain| chain.downcast::<Vec<rustls_pki_types::CertificateDer<'_>>>().ok());
    let (name, protocol) = agreed
        .as_ref()
        .map_or((None, None), |agreed| (agreed.server_name.as_deref().map(Rc::from), agreed.protocol.as_deref()));
    Accepted {
        sni: name,
        alpn: Alpn::of(protocol),
        // RFC 9001 §4.2: nothing older.
        version: TlsVersion::V1_3,
        resumed: agreed.is_some_and(|agreed| agreed.resumed),
        client_cert: certificates.is_some_and(|chain| !chain.is_empty()),
    }
}

fn late() -> Error {
    Error::downstream(Kind::RequestHeaderTimeout, "the QUIC handshake was not finished in time")
}

fn failed(error: ConnectionError) -> Error {
    let (kind, reason) = match &error {
        ConnectionError::TransportError(fault) => of_alert(fault.code),
        ConnectionError::ConnectionClosed(close) if alert(close.error_code).is_some() => {
            (Kind::TlsAlertReceived, "the client ended the handshake with a TLS alert")
        }
        ConnectionError::TimedOut => (Kind::ClientGone, "the client fell silent during the QUIC handshake"),
        ConnectionError::VersionMismatch => (Kind::TlsProtocolError, "no QUIC version in common"),
        ConnectionError::LocallyClosed => (Kind::ClientGone, "the listener closed during the QUIC handshake"),
        _ => (Kind::ClientGone, "the client left during the QUIC handshake"),
    };
    Error::downstream(kind, reason).because(error)
}

/// Why we ended a handshake.
fn of_alert(code: TransportErrorCode) -> (Kind, &'static str) {
    // RFC 8446 §6.
    match alert(code) {
        None => (Kind::TlsProtocolError, "the client broke the QUIC protocol"),
        Some(116) => (Kind::TlsCertificateError, "the client sent no certificate, and one is required"),
        Some(42..=46 | 48 | 49) => (Kind::TlsCertificateError, "the client's certificate cannot be accepted"),
        Some(120) => (Kind::TlsProtocolError, "no application protocol in common (ALPN)"),
        Some(40 | 70 | 71) => (Kind::TlsProtocolError, "nothing in common to agree on"),
        Some(_) => (Kind::TlsProtocolError, "the client broke the TLS protocol"),
    }
}

const NO_ERROR: u64 = 0;
