//! The parameters of QUIC connections, from the configuration: crypto and transport together, so that neither is
//! forgotten on a reload. All state that a peer can cause is bounded.

use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, QlogStream, ServerConfig, TransportConfig, ValidationTokenConfig, VarInt};

use super::congestion::{self, Leaving};
use super::crypto::QuicCrypto;
use super::keys::Keys;
use crate::config::model::{Listener, Mode, QuicTransport};

/// What the other end may open, and how long it may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Silence after which the connection is given up.
    pub idle: Duration,
    /// Bidirectional streams that it may have open.
    pub bidirectional: u32,
    /// Unidirectional ones.
    pub unidirectional: u32,
}

/// For connections from clients of a listener, which end together with `leaving`.
pub(super) fn server(
    listener: &Listener,
    crypto: Arc<QuicCrypto>,
    keys: &Keys,
    leaving: &Leaving,
    qlog: Option<QlogStream>,
) -> ServerConfig {
    let streams = listener.limits.max_concurrent_streams;
    let is_raw = matches!(listener.mode, Mode::Quic(_));
    let bounds = Bounds {
        idle: listener.timeouts.idle,
        // The rest is given by who serves them, when a client has use for it: quinn keeps places for all of them at once.
        bidirectional: if is_raw { streams } else { streams.min(HTTP3_BIDIRECTIONAL) },
        unidirectional: if is_raw { streams } else { HTTP3_UNIDIRECTIONAL },
    };
    let mut transport = transport(&listener.quic.transport, bounds, leaving, qlog);
    if !is_raw && listener.mode.outbound().is_none() {
        // Nobody would take them.
        transport.datagram_receive_buffer_size(None);
    }
    if !is_raw && listener.quic.transport.keep_alive.is_none() {
        // An idle deadline of HTTP counts from the last request, that of QUIC from the last packet. A client that waits for a
        // slow answer sends nothing: it is asked once whether it is still there. One without requests is closed above.
        transport.keep_alive_interval(Some(listener.timeouts.idle / 2));
    }
    let mut validation = ValidationTokenConfig::default();
    validation.log(keys.used_tokens()).sent(TOKENS);
    let mut config = ServerConfig::new(crypto, keys.token());
    config
        .transport_config(Arc::new(transport))
        .validation_token_config(validation)
        .max_incoming(MOST_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFERS);
    config
}

/// What both sides are told alike.
pub(super) fn transport(
    quic: &QuicTransport,
    bounds: Bounds,
    leaving: &Leaving,
    qlog: Option<QlogStream>,
) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(bounds.bidirectional.into())
        .max_concurrent_uni_streams(bounds.unidirectional.into())
        .stream_receive_window(quic.stream_window.into())
        .receive_window(quic.connection_window.into())
        // What the other end has not acknowledged is kept here: as much as it may send ahead.
        .send_window(quic.connection_window.into())
        .max_idle_timeout(idle_timeout(bounds.idle))
        .keep_alive_interval(quic.keep_alive)
        .congestion_controller_factory(congestion::factory(quic.congestion, leaving))
        .enable_segmentation_offload(quic.segmentation_offload)
        .datagram_receive_buffer_size(Some(DATAGRAMS))
        .datagram_send_buffer_size(DATAGRAMS)
        .qlog_stream(qlog);
    transport
}

/// Too long for the wire (2^62 ms) is for ever.
fn idle_timeout(idle: Duration) -> Option<IdleTimeout> {
    let milliseconds = VarInt::from_u64(u64::try_from(idle.as_millis()).ok()?).ok()?;
    Some(milliseconds.into())
}

/// Requests that an HTTP/3 client may have open from the beginning (RFC 9114 §6.1 advises against less). Together with the
/// unidirectional streams they fit into a table of quinn's that past 112 streams is twice as large.
const HTTP3_BIDIRECTIONAL: u32 = 100;
/// Unidirectional streams of an HTTP/3 client: control, QPACK's two (RFC 9114 §6.2 wants three to be possible), and room for
/// types that are reserved or not known, which end soon.
const HTTP3_UNIDIRECTIONAL: u32 = 8;
/// Address tokens that a client gets for its next connection.
const TOKENS: u32 = 1;
/// First packets of one worker that wait for the accept loop, which never waits for a client: more is a flood.
const MOST_INCOMING: usize = 1024;
/// What may come behind a first packet before it is looked at, of one client and of all of them together, in bytes.
const INCOMING_BUFFER: u64 = 128 << 10;
const INCOMING_BUFFERS: u64 = 8 << 20;
/// Bytes of datagrams (RFC 9221) of one connection that may wait, each way; the oldest goes.
const DATAGRAMS: usize = 256 << 10;
