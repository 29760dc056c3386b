//! A request that becomes a tunnel: after the success head, raw bytes are relayed between the client's end, over any
//! version of HTTP, and the other end. Used for Upgrade, extended CONNECT and CONNECT.

use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Extensions, Response, Version};
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stack::Scene;
use crate::base::error::Kind;
use crate::body::Body;
use crate::body::exchange::Exchange;
use crate::body::incoming::Incoming;
use crate::body::tunnel::{Http2Tunnel, Http3Tunnel, PumpPlace, TunnelBody};
use crate::net::io::Rewind;
use crate::net::relay::{Breakable, End, relay};
use crate::protocol::link::Link;
use crate::telemetry::counters::Counters;
use crate::transport::Channel;

/// The client's end of a future tunnel.
///
/// Take it from a request before it is answered, and drop it to refuse: any other response can then be sent as usual.
pub enum ClientEnd {
    /// The whole connection, after the head of a 101 or of a 2xx to CONNECT.
    Http1,
    /// The stream of a CONNECT.
    Http2(OnUpgrade),
    /// The stream of a CONNECT; the request body is what the client sends.
    Http3(Incoming),
}

impl ClientEnd {
    /// The client's end of a request with this version, extensions and body. On HTTP/2 and HTTP/3 only CONNECT has one;
    /// otherwise `None`.
    pub fn take(version: Version, extensions: &mut Extensions, body: Incoming) -> Option<Self> {
        match body {
            Incoming::Http3(_) => Some(Self::Http3(body)),
            Incoming::Hyper(_) if version < Version::HTTP_2 => Some(Self::Http1),
            Incoming::Hyper(_) | Incoming::Http2(_) => extensions.remove().map(Self::Http2),
            // Only responses are read ahead.
            Incoming::Ahead(_) => None,
        }
    }
}

/// Answers a request with `head`, and from then on relays between its client and `endpoint`. The returned response must
/// be returned by the service: no bytes pass before its head was given to the client's protocol.
///
/// ```text
/// let client = ClientEnd::take(head.version, &mut head.extensions, body);   // before anything is decided
/// let socket = connect(...).await?;                                        // an error is answered as any other
/// return Ok(join(client, &scene, Response::new(()), socket, idle));        // 200, no fields needed
/// ```
///
/// - `head`: 101 towards HTTP/1.1 for an Upgrade, a 2xx (200) otherwise. No Content-Length, no Transfer-Encoding, no body.
/// - `endpoint`: connected, and nothing read from it that is not to reach the client (bytes that were: [`Rewind`]). `Socket`,
///   `Channel`, `Rewind` of them and boxes are [`Breakable`]. Its bytes are not counted as the upstream's here.
/// - `idle`: silence in both directions after which both ends are reset.
/// - Both directions end apart: FIN, END_STREAM and close_notify are passed on as each other, and the tunnel ends when both
///   have. A side that breaks (RST, RST_STREAM, RESET_STREAM, its connection gone) has the other reset: never a clean end.
/// - Back-pressure: one buffer for each direction, nothing is read while it waits.
/// - Drain: the connection is asked to go and waits for its tunnels as for requests, `drain_timeout` at the most; then both
///   ends are reset. On HTTP/1.1 `max_age` counts as well, as it does for connections.
/// - The exchange stays open as long: so do its place among the streams of the connection and what it `hold`s. It ends with
///   the bytes of both directions, and `ok` or why not; that is when the access log has its line. Do not touch it afterwards.
/// - Dropped instead of returned, the answer takes both ends with it (reset).
pub fn join(
    client: ClientEnd,
    scene: &Scene,
    head: Response<()>,
    mut endpoint: impl Breakable + 'static,
    idle: Duration,
) -> Response<Body> {
    open(client, scene, head, async move |mut client, stop| {
        let relayed = relay(&mut client, &mut endpoint, idle, stop).await;
        if !matches!(relayed.end, End::Closed) {
            // A clean end would pass a truncated stream on as a whole one.
            endpoint.reset_on_drop();
        }
        Carried { up: relayed.up, down: relayed.down, failure: failure_of(&relayed.end) }
    })
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    /// Bytes from the client.
    pub up: u64,
    /// Bytes to the client.
    pub down: u64,
    /// Why it failed; the client's end is then reset.
    pub failure: Option<(Kind, &'static str)>,
}

/// Ends when a tunnel must be aborted, because its connection did not end in time after the graceful close.
pub type Stop = Pin<Box<dyn Future<Output = ()>>>;

/// Like [`join`], if there is no byte stream at the other end: `carry` gets the client's end and returns how the tunnel
/// ended. If it failed, the end is reset; otherwise `carry` has shut it down and read it to its end.
pub fn open<C>(client: ClientEnd, scene: &Scene, head: Response<()>, carry: C) -> Response<Body>
where
    C: AsyncFnOnce(&mut dyn Breakable, Stop) -> Carried + 'static,
{
    let (link, exchange) = (Rc::clone(&scene.connection.link), Rc::clone(&scene.exchange));
    exchange.note_tunnel();
    let tunnel = Tunnel { open: Open::new(&link), exchange };
    let mut body = Body::Empty;
    match client {
        ClientEnd::Http1 => scene.connection.link.switch_to(Box::new(move |link, channel, ahead| {
            Box::pin(async move {
                let counters = Arc::clone(link.load().counters());
                counters.bytes_downstream_in.add(ahead.len() as u64);
                let end = Rewind::new(Counted { channel, counters }, ahead);
                let stop: Stop = Box::pin(async move { link.cut().await });
                tunnel.carried(end, stop, carry).await;
            })
        })),
        ClientEnd::Http2(upgrade) => {
            let place = Rc::new(PumpPlace::default());
            link.expect_pump(Rc::clone(&place));
            tokio::task::spawn_local(async move {
                match Http2Tunnel::open(upgrade, &place, None).await {
                    Ok(end) => tunnel.on_stream(&link, end, carry).await,
                    Err(_) => tunnel.exchange.note_failure(Kind::ClientGone, GONE),
                }
            });
        }
        ClientEnd::Http3(incoming) => {
            let (outgoing, sent) = TunnelBody::begin();
            let end = Http3Tunnel::new(outgoing, incoming, None);
            body = Body::Tunnel(sent);
            tokio::task::spawn_local(async move { tunnel.on_stream(&link, end, carry).await });
        }
    }
    head.map(|()| body)
}

/// One tunnel while it is open.
struct Tunnel {
    exchange: Rc<Exchange>,
    open: Open,
}

impl Tunnel {
    /// On a stream of a connection, whose own driver closes it when its time is up.
    async fn on_stream<C>(self, link: &Link, end: impl Breakable, carry: C)
    where
        C: AsyncFnOnce(&mut dyn Breakable, Stop) -> Carried,
    {
        let carry = async move |end: &mut dyn Breakable, stop| {
            let mut carried = carry(end, stop).await;
            if carried.failure.is_some() && link.was_cut() {
                carried.failure = failure_of(&End::Stopped);
            }
            carried
        };
        self.carried(end, Box::pin(pending()), carry).await;
    }

    async fn carried<C>(self, mut end: impl Breakable, stop: Stop, carry: C)
    where
        C: AsyncFnOnce(&mut dyn Breakable, Stop) -> Carried,
    {
        let Carried { up, down, failure } = carry(&mut end, stop).await;
        let Self { exchange, open } = self;
        // Closed first, so that whoever observes its end does not find it open.
        drop(open);
        exchange.note_received(up);
        exchange.note_sent(down);
        match failure {
            None => exchange.finish(),
            Some((kind, reason)) => {
                exchange.note_failure(kind, reason);
                end.reset_on_drop();
            }
        }
    }
}

/// Why a relay that ended like this failed; `None`: it did not fail.
pub(super) fn failure_of(end: &End) -> Option<(Kind, &'static str)> {
    Some(match end {
        End::Closed => return None,
        End::DownstreamFailed(_) => (Kind::ClientGone, GONE),
        End::Stopped => (Kind::ClientGone, "the tunnel did not end before the drain did"),
        End::Idle => (Kind::HttpResponseStalled, "nothing moved in the tunnel"),
        End::UpstreamFailed(_) => (Kind::ConnectionTerminated, "the endpoint broke off the tunnel"),
    })
}

const GONE: &str = "the client disconnected from the tunnel";

/// Counts a tunnel as open while it lives.
struct Open(Arc<Counters>);

impl Open {
    fn new(link: &Link) -> Self {
        let counters = Arc::clone(link.load().counters());
        counters.tunnels.add(1);
        counters.tunnels_open.add(1);
        Self(counters)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.tunnels_open.sub(1);
    }
}

/// The client's connection, whose bytes `protocol::link` no longer counts.
struct Counted {
    channel: Channel,
    counters: Arc<Counters>,
}

impl Breakable for Counted {
    fn reset_on_drop(&mut self) {
        self.channel.reset_on_drop();
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.channel).poll_read(cx, buffer))?;
        self.counters.bytes_downstream_in.add((buffer.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.channel).poll_write(cx, bytes))?;
        self.counters.bytes_downstream_out.add(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_shutdown(cx)
    }
}
