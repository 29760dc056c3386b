//! Makes one connection to an endpoint: the socket, TLS if configured, and the protocol chosen by ALPN. Counts the
//! bytes of the connection. Called when the pool has no connection.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use super::Upstream;
use super::endpoint::Endpoint;
use crate::base::addr::Address;
use crate::base::error::{Error, Kind, Retry};
use crate::body::phase_clock::{Phase, PhaseClock};
use crate::config::model::{SocketOptions, UpstreamProtocol};
use crate::net::io::Socket;
use crate::net::relay::Breakable;
use crate::net::socket::Sources;
use crate::net::{connect, timer};
use crate::telemetry::counters::Counters;
use crate::transport::Channel;
use crate::transport::quic::Connection;
use crate::transport::quic::client::{Early, H3, Way};

/// A new connection on which nothing was sent yet.
pub(super) struct Connected {
    pub(super) io: Metered,
    pub(super) http2: bool,
    /// It began with the PROXY header of one client, and serves only one request.
    pub(super) alone: bool,
}

/// Connects within the upstream's connect timeout, from the next of `sources`; `clock` is advanced through the phases.
/// `preface` is sent first, before TLS; `only_http1`: offer no other protocol. Cancel-safe: a dropped call closes what
/// it opened.
///
/// # Errors
/// The fault of the endpoint or the network. A retry is always safe, because nothing was sent.
pub(super) async fn connect(
    upstream: &Upstream,
    endpoint: &Endpoint,
    counters: &Arc<Counters>,
    clock: &PhaseClock,
    sources: &Sources,
    preface: Option<&[u8]>,
    only_http1: bool,
) -> Result<Connected, Error> {
    let establishing = establish(upstream, endpoint, counters, clock, sources, preface, only_http1);
    attempted(upstream, endpoint, counters, clock, establishing).await
}

/// Like [`connect`], over QUIC, with HTTP/3 or the upstream's `alpn`. `may_be_early`: allows early data, if the
/// upstream uses it and there is a session ticket.
pub(super) async fn connect_quic(
    upstream: &Upstream,
    endpoint: &Endpoint,
    counters: &Arc<Counters>,
    clock: &PhaseClock,
    sources: &Sources,
    may_be_early: bool,
) -> Result<(Connection, Option<Early>), Error> {
    let establishing = async {
        let way = way(upstream, endpoint, sources)?;
        if may_be_early && upstream.config.quic.early_data {
            return way.connect_early().await;
        }
        Ok((way.connect().await?, None))
    };
    attempted(upstream, endpoint, counters, clock, establishing).await
}

/// Makes a connection within the connect timeout, and reports the result to the endpoint and the counters.
async fn attempted<T>(
    upstream: &Upstream,
    endpoint: &Endpoint,
    counters: &Counters,
    clock: &PhaseClock,
    establishing: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    counters.upstream_connects.add(1);
    clock.enter(Phase::Connect, Instant::now());
    let connected = match timer::timeout(upstream.config.timeouts.connect, establishing).await {
        Ok(connected) => connected,
        Err(_) => {
            let reason = "the connection to the endpoint was not established in time";
            Err(Error::upstream(Kind::ConnectionTimeout, Retry::Always, reason))
        }
    };
    if let Err(error) = &connected {
        counters.upstream_connect_failures.add(1);
        endpoint.state.connect_failed(error.kind(), SystemTime::now());
        endpoint.failed(error.kind());
    }
    connected
}

async fn establish(
    upstream: &Upstream,
    endpoint: &Endpoint,
    counters: &Arc<Counters>,
    clock: &PhaseClock,
    sources: &Sources,
    preface: Option<&[u8]>,
    only_http1: bool,
) -> Result<Connected, Error> {
    let socket = match &upstream.origin {
        None => socket(endpoint, &upstream.config.socket, sources, preface).await?,
        Some(origin) => origin.dial.dial().await?,
    };
    counters.bytes_upstream_out.add(preface.map_or(0, |preface| preface.len() as u64));
    let (channel, http2) = channel(upstream, endpoint, socket, clock, only_http1).await?;
    if !only_http1 {
        endpoint.state.heard(http2);
    }
    let (received, waiting) = (Rc::default(), Rc::default());
    let io = Metered { channel, counters: Arc::clone(counters), received, waiting };
    Ok(Connected { io, http2, alone: preface.is_some() })
}

/// A connected TCP or Unix socket without TLS, on which `preface` was sent; otherwise like [`connect`].
pub(super) async fn plain(
    upstream: &Upstream,
    endpoint: &Endpoint,
    counters: &Arc<Counters>,
    clock: &PhaseClock,
    sources: &Sources,
    preface: Option<&[u8]>,
) -> Result<Socket, Error> {
    let connecting = socket(endpoint, &upstream.config.socket, sources, preface);
    attempted(upstream, endpoint, counters, clock, connecting).await
}

/// Address, name and TLS settings of an endpoint over QUIC.
///
/// # Errors
/// They are missing, which validation of the configuration rules out.
pub(super) fn way<'a>(upstream: &'a Upstream, endpoint: &'a Endpoint, sources: &'a Sources) -> Result<Way<'a>, Error> {
    let (Address::Socket(address), Some(tls), Some(name)) = (&endpoint.address, &upstream.tls, &endpoint.server_name)
    else {
        return Err(Error::internal("the endpoint has no address or no name for QUIC"));
    };
    let alpn = upstream.config.alpn.as_ref().map_or(H3, String::as_bytes);
    Ok(Way { address: *address, tls, name, alpn, options: &upstream.config.quic, sources, on_trial: false })
}

/// A QUIC connection to the port in the endpoint's Alt-Svc, at the same address.
pub(super) async fn alternative(
    upstream: &Upstream,
    endpoint: &Endpoint,
    port: u16,
    sources: &Sources,
) -> Result<Connection, Error> {
    let way = way(upstream, endpoint, sources)?;
    let address = SocketAddr::new(way.address.ip(), port);
    Way { address, alpn: H3, on_trial: true, ..way }.connect().await
}

/// A connected socket on which `preface` was sent.
pub(super) async fn socket(
    endpoint: &Endpoint,
    options: &SocketOptions,
    sources: &Sources,
    preface: Option<&[u8]>,
) -> Result<Socket, Error> {
    let mut socket = connect::connect(std::slice::from_ref(&endpoint.address), options, sources).await?;
    if let Some(preface) = preface {
        socket.write_all(preface).await.map_err(|error| {
            let reason = "the endpoint closed the connection before it was told of the client";
            Error::upstream(Kind::ConnectionTerminated, Retry::Always, reason).because(error)
        })?;
    }
    Ok(socket)
}

/// Starts TLS if configured; also returns whether HTTP/2 follows.
pub(super) async fn channel(
    upstream: &Upstream,
    endpoint: &Endpoint,
    socket: Socket,
    clock: &PhaseClock,
    only_http1: bool,
) -> Result<(Channel, bool), Error> {
    match (&upstream.tls, &endpoint.server_name) {
        (None, _) => Ok((Channel::Plain(socket), upstream.config.protocol == UpstreamProtocol::Http2)),
        (Some(tls), Some(name)) => {
            clock.enter(Phase::Tls, Instant::now());
            if only_http1 {
                return Ok((Channel::Client(tls.connect_http1(socket, name).await?), false));
            }
            let channel = Channel::Client(tls.connect(socket, name).await?);
            // Without ALPN, the configured protocol is assumed (RFC 9113 §3.3 requires `h2`).
            let http2 = match (upstream.config.protocol, channel.negotiated_alpn()) {
                (UpstreamProtocol::Http1, _) => false,
                (UpstreamProtocol::Auto, alpn) => alpn == Some(b"h2"),
                (UpstreamProtocol::Http2, None | Some(b"h2")) => true,
                (UpstreamProtocol::Http3 | UpstreamProtocol::Quic, _) => {
                    return Err(Error::internal("QUIC is not spoken over TCP"));
                }
                (UpstreamProtocol::Http2, Some(_)) => {
                    let reason = "the endpoint does not speak HTTP/2";
                    return Err(Error::upstream(Kind::TlsProtocolError, Retry::Always, reason));
                }
            };
            Ok((channel, http2))
        }
        (Some(_), None) => Err(Error::internal("the endpoint has no name that TLS could verify")),
    }
}

/// A channel that counts its bytes, and the reads that returned some.
pub(super) struct Metered {
    channel: Channel,
    counters: Arc<Counters>,
    received: Rc<Cell<u32>>,
    waiting: Rc<RefCell<Vec<Waker>>>,
}

impl Metered {
    /// Incremented by each read that returns bytes of the endpoint.
    pub(super) fn received(&self) -> Rc<Cell<u32>> {
        Rc::clone(&self.received)
    }

    /// Woken once, when the endpoint sends something.
    pub(super) fn waiting(&self) -> Rc<RefCell<Vec<Waker>>> {
        Rc::clone(&self.waiting)
    }
}

impl Breakable for Metered {
    fn reset_on_drop(&mut self) {
        self.channel.reset_on_drop();
    }
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.channel).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        if read > 0 {
            this.received.set(this.received.get().wrapping_add(1));
            // Rarely set: only while waiting for the endpoint's first SETTINGS.
            if !this.waiting.borrow().is_empty() {
                this.waiting.take().into_iter().for_each(Waker::wake);
            }
            this.counters.bytes_upstream_in.add(read as u64);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.channel).poll_write(cx, bytes))?;
        this.counters.bytes_upstream_out.add(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.channel).poll_write_vectored(cx, slices))?;
        this.counters.bytes_upstream_out.add(written as u64);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.channel.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().channel).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().channel).poll_shutdown(cx)
    }
}
