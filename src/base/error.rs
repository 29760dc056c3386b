//! The error type of the data plane: what happened (the words of RFC 9209 §2.3), whose fault it is, and whether a retry
//! is safe. It does not depend on any room. Status codes are assigned only in `proxy/rescue.rs`.

use std::error::Error as StdError;
use std::fmt;

/// What went wrong. The names are the proxy error types of RFC 9209 §2.3 where one exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The name of the endpoint could not be resolved in time.
    DnsTimeout,
    /// The name of the endpoint could not be resolved.
    DnsError,
    /// No route matches the request.
    DestinationNotFound,
    /// The upstream has no endpoint that can take the request.
    DestinationUnavailable,
    /// Clients may not connect to the address of the destination.
    DestinationIpProhibited,
    /// The endpoint refused the connection.
    ConnectionRefused,
    /// The connection to the endpoint was closed or reset before the response was complete.
    ConnectionTerminated,
    /// The connection to the endpoint was not established in time.
    ConnectionTimeout,
    /// The endpoint read no bytes of the request in time.
    ConnectionWriteTimeout,
    /// No port of ours, no stream of the endpoint, or no place in the line of passwords is free.
    ConnectionLimitReached,
    /// The TLS handshake with the endpoint failed.
    TlsProtocolError,
    /// The endpoint's certificate was not accepted.
    TlsCertificateError,
    /// The endpoint answered the handshake with a TLS alert.
    TlsAlertReceived,
    /// The request is malformed or ambiguous.
    HttpRequestError,
    /// The request is refused by policy.
    HttpRequestDenied,
    /// The client sent no credentials, or wrong ones (RFC 9110 §15.5.8).
    ProxyAuthenticationRequired,
    /// The authority of the request does not belong to this connection (RFC 9110 §15.5.20).
    Misdirected,
    /// The head of the request is larger than allowed (RFC 6585 §5).
    RequestHeaderTooLarge,
    /// The body of the request is larger than allowed (RFC 9110 §15.5.14).
    RequestBodyTooLarge,
    /// The request uses something that is not implemented (RFC 9110 §15.6.2).
    RequestNotImplemented,
    /// The client did not send a request head in time.
    RequestHeaderTimeout,
    /// The client sent or read no bytes of a body in time.
    ClientStall,
    /// The client disconnected before the exchange was complete.
    ClientGone,
    /// The response ended before it was complete.
    HttpResponseIncomplete,
    /// The head of the response is larger than allowed.
    HttpResponseHeaderSectionSize,
    /// The response did not begin in time.
    HttpResponseTimeout,
    /// The endpoint stopped sending within the response body.
    HttpResponseStalled,
    /// The whole exchange took longer than allowed.
    ExchangeTimeout,
    /// The endpoint did not switch protocols as asked.
    HttpUpgradeFailed,
    /// The response is malformed.
    HttpProtocolError,
    /// An internal error of the proxy.
    ProxyInternalError,
    /// The request came back to the proxy that sent it.
    ProxyLoopDetected,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Kind; 32] = [
        Kind::DnsTimeout,
        Kind::DnsError,
        Kind::DestinationNotFound,
        Kind::DestinationUnavailable,
        Kind::DestinationIpProhibited,
        Kind::ConnectionRefused,
        Kind::ConnectionTerminated,
        Kind::ConnectionTimeout,
        Kind::ConnectionWriteTimeout,
        Kind::ConnectionLimitReached,
        Kind::TlsProtocolError,
        Kind::TlsCertificateError,
        Kind::TlsAlertReceived,
        Kind::HttpRequestError,
        Kind::HttpRequestDenied,
        Kind::ProxyAuthenticationRequired,
        Kind::Misdirected,
        Kind::RequestHeaderTooLarge,
        Kind::RequestBodyTooLarge,
        Kind::RequestNotImplemented,
        Kind::RequestHeaderTimeout,
        Kind::ClientStall,
        Kind::ClientGone,
        Kind::HttpResponseIncomplete,
        Kind::HttpResponseHeaderSectionSize,
        Kind::HttpResponseTimeout,
        Kind::HttpResponseStalled,
        Kind::ExchangeTimeout,
        Kind::HttpUpgradeFailed,
        Kind::HttpProtocolError,
        Kind::ProxyInternalError,
        Kind::ProxyLoopDetected,
    ];

    /// The outcome's word, used alike in logs, metrics and `Proxy-Status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::DnsTimeout => "dns_timeout",
            Kind::DnsError => "dns_error",
            Kind::DestinationNotFound => "destination_not_found",
            Kind::DestinationUnavailable => "destination_unavailable",
            Kind::DestinationIpProhibited => "destination_ip_prohibited",
            Kind::ConnectionRefused => "connection_refused",
            Kind::ConnectionTerminated => "connection_terminated",
            Kind::ConnectionTimeout => "connection_timeout",
            Kind::ConnectionWriteTimeout => "connection_write_timeout",
            Kind::ConnectionLimitReached => "connection_limit_reached",
            Kind::TlsProtocolError => "tls_protocol_error",
            Kind::TlsCertificateError => "tls_certificate_error",
            Kind::TlsAlertReceived => "tls_alert_received",
            Kind::HttpRequestError => "http_request_error",
            Kind::HttpRequestDenied => "http_request_denied",
            Kind::ProxyAuthenticationRequired => "proxy_authentication_required",
            Kind::Misdirected => "misdirected_request",
            Kind::RequestHeaderTooLarge => "request_header_too_large",
            Kind::RequestBodyTooLarge => "request_body_too_large",
            Kind::RequestNotImplemented => "request_not_implemented",
            Kind::RequestHeaderTimeout => "request_header_timeout",
            Kind::ClientStall => "client_stall",
            Kind::ClientGone => "client_gone",
            Kind::HttpResponseIncomplete => "http_response_incomplete",
            Kind::HttpResponseHeaderSectionSize => "http_response_header_section_size",
            Kind::HttpResponseTimeout => "http_response_timeout",
            Kind::HttpResponseStalled => "http_response_stalled",
            Kind::ExchangeTimeout => "exchange_timeout",
            Kind::HttpUpgradeFailed => "http_upgrade_failed",
            Kind::HttpProtocolError => "http_protocol_error",
            Kind::ProxyInternalError => "proxy_internal_error",
            Kind::ProxyLoopDetected => "proxy_loop_detected",
        }
    }
}

/// Whose doing the error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The endpoint's or its network's.
    Upstream,
    /// The proxy's own.
    Internal,
}

/// Whether the request may be sent a second time, as far as the connection knows; the method has its say elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Never: the endpoint may have acted on the request.
    Never,
    /// Only where the connection was reused, nothing of an answer was seen, and the method is idempotent.
    IfReused,
    /// Always: nothing of the request was processed (not connected, REFUSED_STREAM, GOAWAY below it).
    Always,
}

/// An error of the data plane, one pointer wide.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    side: Side,
    retry: Retry,
    reason: &'static str,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// The client's fault. `reason` is what `Proxy-Status` and the log say.
    pub fn downstream(kind: Kind, reason: &'static str) -> Self {
        Self::new(kind, Side::Downstream, Retry::Never, reason)
    }

    /// The endpoint's fault.
    pub fn upstream(kind: Kind, retry: Retry, reason: &'static str) -> Self {
        Self::new(kind, Side::Upstream, retry, reason)
    }

    /// The proxy's own fault.
    pub fn internal(reason: &'static str) -> Self {
        Self::new(Kind::ProxyInternalError, Side::Internal, Retry::Never, reason)
    }

    fn new(kind: Kind, side: Side, retry: Retry, reason: &'static str) -> Self {
        Self(Box::new(Inner { kind, side, retry, reason, source: None }))
    }

    /// Adds what caused it.
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same kind, side, retry and reason once more, without the cause: for whoever finds an error inside another's
    /// chain of causes and must pass its meaning on.
    pub fn restated(&self) -> Self {
        Self::new(self.0.kind, self.0.side, self.0.retry, self.0.reason)
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whose doing it is.
    pub fn side(&self) -> Side {
        self.0.side
    }

    /// Whether the request may be sent again.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// One sentence for `Proxy-Status` and the log; fixed text, never anything a peer sent.
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("side", &self.0.side)
            .field("retry", &self.0.retry)
            .field("reason", &self.0.reason)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.as_str(), self.0.reason)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_one_pointer_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn every_kind_stands_at_its_number() {
        for (number, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, number);
        }
    }
}
