//! `[listener.quic]`, `[upstream.*.quic]` and `listener.alt_svc`: QUIC settings.

use std::path::PathBuf;
use std::time::Duration;

use super::super::defaults;

/// `[listener.quic]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quic {
    /// What the connection itself is like.
    pub transport: QuicTransport,
    /// When a client has to prove its address before its handshake begins.
    pub retry: RetryPolicy,
}

/// `[upstream.*.quic]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamQuic {
    /// What the connection itself is like.
    pub transport: QuicTransport,
    /// Whether safe requests go in the first flight of a resumed connection (0-RTT). Default: false.
    pub early_data: bool,
}

/// What both sides of a QUIC connection are told alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QuicTransport {
    /// Who says how much may be on its way.
    pub congestion: Congestion,
    /// Silence after which a sign of life is sent; `None`: never.
    pub keep_alive: Option<Duration>,
    /// Bytes that the other end may send ahead on one stream.
    pub stream_window: u32,
    /// Bytes that it may send ahead on all streams together.
    pub connection_window: u32,
    /// Whether datagrams are handed to the kernel many at once (UDP GSO).
    pub segmentation_offload: bool,
    /// A folder for qlog files, one for each connection; `None`: none.
    pub qlog: Option<PathBuf>,
}

/// `quic.congestion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Congestion {
    /// CUBIC, RFC 9438.
    #[default]
    Cubic,
    /// BBR.
    Bbr,
    /// New Reno, RFC 9002 §7.
    NewReno,
}

/// `listener.quic.retry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetryPolicy {
    /// While many handshakes are under way.
    #[default]
    Auto,
    /// Always, at the price of a round trip.
    Always,
    /// Never.
    Off,
}

/// `listener.alt_svc`: what answers on HTTP/1 and HTTP/2 say of HTTP/3 (RFC 7838).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AltSvc {
    /// The port it is served on.
    #[default]
    Auto,
    /// Nothing.
    Off,
    /// Another port, that clients reach it at.
    Port(u16),
}

impl Default for UpstreamQuic {
    fn default() -> Self {
        let transport = QuicTransport {
            connection_window: defaults::UPSTREAM_QUIC_CONNECTION_WINDOW,
            keep_alive: Some(defaults::UPSTREAM_QUIC_KEEP_ALIVE),
            ..QuicTransport::default()
        };
        Self { transport, early_data: false }
    }
}

impl Default for QuicTransport {
    fn default() -> Self {
        Self {
            congestion: Congestion::default(),
            keep_alive: None,
            stream_window: defaults::QUIC_STREAM_WINDOW,
            connection_window: defaults::QUIC_CONNECTION_WINDOW,
            segmentation_offload: true,
            qlog: None,
        }
    }
}

impl Congestion {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
            Self::NewReno => "newreno",
        }
    }
}

impl RetryPolicy {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Off => "off",
        }
    }
}
