//! Maps TLS handshake failures to `base::Error`, with the side at fault: the client on a listener, the endpoint on an
//! upstream.

use std::io;

use rustls::{AlertDescription, CertificateError, Error as TlsError, InvalidMessage, PeerIncompatible};

use crate::base::error::{Error, Kind, Retry};

/// The kind of a TLS error that came up while reading or writing, after the handshake: with TLS 1.3 an endpoint says
/// only then that it does not like our certificate (RFC 8446 §4.4.4). `None` where it is no TLS error.
pub fn kind_of(error: &io::Error) -> Option<Kind> {
    tls_error(error).map(|error| explain(error).0)
}

/// The handshake with a client failed.
pub(super) fn of_client(error: io::Error) -> Error {
    let (kind, reason) = match tls_error(&error) {
        Some(TlsError::NoCertificatesPresented) => {
            (Kind::TlsCertificateError, "the client sent no certificate, and one is required")
        }
        Some(TlsError::InvalidCertificate(fault)) => (Kind::TlsCertificateError, of_client_certificate(fault)),
        Some(TlsError::AlertReceived(alert)) => (Kind::TlsAlertReceived, alert_from_client(*alert)),
        Some(other) => match explain(other) {
            (kind, NOT_TLS) => (kind, "the client does not speak TLS"),
            (kind, _) if is_incompatible(other) => (kind, incompatible(other)),
            (kind, _) => (kind, "the client broke the TLS protocol"),
        },
        None => (Kind::ClientGone, "the client left during the TLS handshake"),
    };
    Error::downstream(kind, reason).because(error)
}

/// The handshake with an endpoint failed. Nothing of a request was sent, so another endpoint may get it.
pub(super) fn of_endpoint(error: io::Error) -> Error {
    let (kind, reason) = match tls_error(&error) {
        Some(other) => match explain(other) {
            (kind, NOT_TLS) => (kind, "the endpoint does not speak TLS"),
            explained => explained,
        },
        None if error.kind() == io::ErrorKind::TimedOut => {
            (Kind::ConnectionTimeout, "the connection to the endpoint timed out during the TLS handshake")
        }
        None => (Kind::ConnectionTerminated, "the endpoint closed the connection during the TLS handshake"),
    };
    Error::upstream(kind, Retry::Always, reason).because(error)
}

/// The handshake with an endpoint failed with this alert of ours: where TLS speaks through QUIC, the error itself is lost.
pub(in crate::transport) fn of_our_alert(alert: u8) -> (Kind, &'static str) {
    use AlertDescription as Alert;
    match Alert::from(alert) {
        Alert::CertificateExpired => (Kind::TlsCertificateError, "the endpoint's certificate has expired"),
        Alert::UnknownCA => (Kind::TlsCertificateError, "the endpoint's certificate comes from an unknown authority"),
        Alert::CertificateRevoked => (Kind::TlsCertificateError, "the endpoint's certificate was revoked"),
        Alert::UnsupportedCertificate => {
            (Kind::TlsCertificateError, "the endpoint's certificate is for another purpose")
        }
        Alert::DecryptError => {
            (Kind::TlsCertificateError, "a signature of the endpoint, or of its authority, is wrong")
        }
        // Another name than was asked for, most of the time.
        Alert::BadCertificate | Alert::CertificateUnknown => {
            (Kind::TlsCertificateError, "the endpoint's certificate cannot be accepted")
        }
        Alert::NoApplicationProtocol => (Kind::TlsProtocolError, "no application protocol in common (ALPN)"),
        _ => (Kind::TlsProtocolError, "the TLS handshake failed"),
    }
}

const NOT_TLS: &str = "no TLS";

fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

fn explain(error: &TlsError) -> (Kind, &'static str) {
    match error {
        TlsError::InvalidCertificate(fault) => (Kind::TlsCertificateError, of_endpoint_certificate(fault)),
        TlsError::NoCertificatesPresented => (Kind::TlsCertificateError, "the endpoint sent no certificate"),
        TlsError::AlertReceived(alert) => (Kind::TlsAlertReceived, alert_from_endpoint(*alert)),
        // The first byte of a record tells what it is, and nothing but TLS begins like one (RFC 8446 §5.1).
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => (Kind::TlsProtocolError, NOT_TLS),
        _ if is_incompatible(error) => (Kind::TlsProtocolError, incompatible(error)),
        TlsError::PeerMisbehaved(_) | TlsError::InvalidMessage(_) => {
            (Kind::TlsProtocolError, "the endpoint broke the TLS protocol")
        }
        _ => (Kind::TlsProtocolError, "the TLS handshake failed"),
    }
}

fn is_incompatible(error: &TlsError) -> bool {
    matches!(error, TlsError::PeerIncompatible(_) | TlsError::NoApplicationProtocol)
}

fn incompatible(error: &TlsError) -> &'static str {
    use PeerIncompatible as No;
    match error {
        TlsError::NoApplicationProtocol => "no application protocol in common (ALPN)",
        TlsError::PeerIncompatible(reason) => match reason {
            No::NoCipherSuitesInCommon => "no cipher suite in common",
            No::NoKxGroupsInCommon => "no key exchange group in common",
            No::ServerTlsVersionIsDisabledByOurConfig
            | No::SupportedVersionsExtensionRequired
            | No::ServerDoesNotSupportTls12Or13
            | No::Tls12NotOffered
            | No::Tls12NotOfferedOrEnabled => "no TLS version in common",
            No::NoSignatureSchemesInCommon | No::NoCertificateRequestSignatureSchemesInCommon => {
                "no signature scheme in common"
            }
            _ => "nothing in common to agree on",
        },
        _ => "nothing in common to agree on",
    }
}

fn of_endpoint_certificate(fault: &CertificateError) -> &'static str {
    use CertificateError as Bad;
    match fault {
        Bad::Expired | Bad::ExpiredContext { .. } => "the endpoint's certificate has expired",
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => "the endpoint's certificate is not valid yet",
        Bad::UnknownIssuer => "the endpoint's certificate comes from an unknown authority",
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => "the endpoint's certificate is for another name",
        Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => "the endpoint's certificate is for another purpose",
        Bad::Revoked => "the endpoint's certificate was revoked",
        Bad::BadSignature => "a signature of the endpoint, or of its authority, is wrong",
        _ => "the endpoint's certificate cannot be accepted",
    }
}

fn of_client_certificate(fault: &CertificateError) -> &'static str {
    use CertificateError as Bad;
    match fault {
        Bad::Expired | Bad::ExpiredContext { .. } => "the client's certificate has expired",
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => "the client's certificate is not valid yet",
        Bad::UnknownIssuer => "the client's certificate comes from an unknown authority",
        Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => "the client's certificate is for another purpose",
        Bad::Revoked => "the client's certificate was revoked",
        Bad::BadSignature => "a signature of the client, or of its authority, is wrong",
        _ => "the client's certificate cannot be accepted",
    }
}

/// What an alert of an endpoint says.
pub(in crate::transport) fn alert_from_endpoint(alert: AlertDescription) -> &'static str {
    use AlertDescription as Alert;
    match alert {
        Alert::UnrecognisedName => "the endpoint does not know the name (TLS alert)",
        Alert::CertificateRequired => "the endpoint wants a client certificate (TLS alert)",
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => "the endpoint refused our certificate (TLS alert)",
        Alert::ProtocolVersion => "no TLS version in common with the endpoint (TLS alert)",
        Alert::HandshakeFailure | Alert::InsufficientSecurity => "the endpoint found nothing in common (TLS alert)",
        Alert::NoApplicationProtocol => "no application protocol in common with the endpoint (TLS alert)",
        _ => "the endpoint ended the handshake with a TLS alert",
    }
}

fn alert_from_client(alert: AlertDescription) -> &'static str {
    use AlertDescription as Alert;
    match alert {
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA => "the client refused our certificate (TLS alert)",
        _ => "the client ended the handshake with a TLS alert",
    }
}
