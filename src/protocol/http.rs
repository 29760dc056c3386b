//! Serves HTTP/1 and HTTP/2 on one downstream channel with hyper: waits for the first byte, detects the protocol, and drives
//! hyper's connection under the proxy's own deadlines. An idle HTTP/1 connection is parked: hyper's connection is dropped,
//! and only the socket waits for the next request.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use tokio::io::{AsyncRead, ReadBuf};
use tower::Service;

use super::detect::{Detected, detect};
use super::farewell::{close, farewell, linger};
use super::gather::Gather;
use super::h2_frames::H2Frames;
use super::link::{Deadlines, Link, LinkIo, Track, Verdict};
use super::supervisor::Supervisor;
use super::wire::{Fed, Limits, Refusal, Wire};
use crate::base::error::Kind;
use crate::body::Body;
use crate::transport::Channel;

/// The protocols and limits of a listener's connections. Made once per listener and generation.
#[derive(Clone)]
pub struct Settings {
    /// HTTP/1.1 and HTTP/1.0.
    pub http1: bool,
    /// HTTP/2.
    pub http2: bool,
    /// Bytes of a request head.
    pub max_header_size: u32,
    /// Fields of a request head.
    pub max_headers: u32,
    /// HTTP/2 streams of a connection.
    pub max_concurrent_streams: u32,
    /// Whether HTTP/3 takes datagrams of requests (RFC 9297).
    pub datagrams: bool,
    /// The deadlines of a connection.
    pub deadlines: Deadlines,
}

/// The protocol negotiated by the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// None (cleartext): the first bytes decide.
    Nothing,
    /// HTTP/1 by ALPN, or over TLS without ALPN.
    Http1,
    /// HTTP/2 by ALPN.
    Http2,
}

/// Builds the response to a head that was refused before hyper saw it.
pub type Refuse = Rc<dyn Fn(Refusal) -> Bytes>;

/// Maximum bytes that hyper buffers for one HTTP/1 connection in each direction: large enough to move a body with few
/// system calls, small enough for the second-level cache.
const HTTP1_BUFFER: usize = 128 * 1024;
/// hyper's default limit on header fields, up to which it parses them on the stack.
const HYPER_MAX_HEADERS: usize = 100;
/// Flow-control window of one HTTP/2 stream: bytes that a client may send before the endpoint takes them.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Flow-control window of one HTTP/2 connection: larger than a stream's, so that one stalled upload does not block
/// others, and smaller than their sum, so that the memory of a connection is bounded.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes of a response buffered for one HTTP/2 stream whose client does not read.
const STREAM_SEND_BUFFER: usize = 256 * 1024;
/// SETTINGS_MAX_FRAME_SIZE: the default of RFC 9113 §4.2 would cost a call for each 16 KiB of an upload.
const MAX_FRAME: u32 = 64 * 1024;

/// RFC 9110 §15.5.9.
const HEADER_LATE: Refusal =
    Refusal { kind: Kind::RequestHeaderTimeout, reason: "the head of the request did not arrive in time" };

/// The only error that hyper can find in a head that `wire` accepted.
const NO_URI: Refusal = Refusal { kind: Kind::HttpRequestError, reason: "the request target is not a valid URI" };

/// How hyper's connection ended.
enum Ended {
    Closed,
    /// The channel, and bytes of the next request that were already read.
    Parked(Channel, Vec<u8>),
}

/// Serves one connection until it ends. Not cancel-safe: dropping it closes the connection.
pub async fn serve<S>(
    channel: Channel,
    settled: Settled,
    settings: Rc<Settings>,
    link: Rc<Link>,
    refuse: Refuse,
    service: S,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + 'static,
    S::Future: 'static,
{
    let mut channel = channel;
    let mut first = Vec::new();
    loop {
        let Some(detected) = first_bytes(&mut channel, &mut first, settled, &settings, &link).await else {
            close(&mut channel).await;
            return;
        };
        // Boxed, so that hyper's state is freed while the connection is parked.
        let ended = if detected == Detected::Http2 {
            Box::pin(serve_http2(channel, std::mem::take(&mut first), &settings, &link, service.clone())).await
        } else {
            Box::pin(serve_http1(channel, std::mem::take(&mut first), &settings, &link, &refuse, service.clone())).await
        };
        match ended {
            Ended::Closed => return,
            Ended::Parked(parked, ahead) => (channel, first) = (parked, ahead),
        }
    }
}

/// Waits for the first bytes on a connection without buffers, and detects the protocol.
async fn first_bytes(
    channel: &mut Channel,
    first: &mut Vec<u8>,
    settled: Settled,
    settings: &Settings,
    link: &Rc<Link>,
) -> Option<Detected> {
    let counters = Rc::clone(link.load());
    let parked = link.load().served() > 0;
    if parked {
        counters.counters().parked.add(1);
    }
    let detected = read_first(channel, first, settled, settings, link).await;
    if parked {
        counters.counters().parked.sub(1);
    }
    detected
}

async fn read_first(
    channel: &mut Channel,
    first: &mut Vec<u8>,
    settled: Settled,
    settings: &Settings,
    link: &Rc<Link>,
) -> Option<Detected> {
    loop {
        if !first.is_empty() {
            match tell(first, settled, settings) {
                Detected::NeedMore => {}
                detected => return Some(detected),
            }
        }
        let before = first.len();
        let open = poll_fn(|cx| {
            // On the stack, so that a waiting connection holds no buffer.
            let mut scratch = [std::mem::MaybeUninit::uninit(); 4096];
            let mut buffer = ReadBuf::uninit(&mut scratch);
            if let Poll::Ready(read) = Pin::new(&mut *channel).poll_read(cx, &mut buffer) {
                first.extend_from_slice(buffer.filled());
                return Poll::Ready(read.is_ok() && !buffer.filled().is_empty());
            }
            link.poll_verdict(false, cx).map(|_| false)
        })
        .await;
        if !open {
            return None;
        }
        link.load().counters().bytes_downstream_in.add((first.len() - before) as u64);
    }
}

/// The protocol of the first bytes, among those the listener allows.
fn tell(first: &[u8], settled: Settled, settings: &Settings) -> Detected {
    match settled {
        Settled::Http1 => Detected::Http1,
        Settled::Http2 => Detected::Http2,
        Settled::Nothing if !settings.http2 => Detected::Http1,
        Settled::Nothing if !settings.http1 => Detected::Http2,
        Settled::Nothing => detect(first),
    }
}

async fn serve_http1<S>(
    channel: Channel,
    first: Vec<u8>,
    settings: &Settings,
    link: &Rc<Link>,
    refuse: &Refuse,
    service: S,
) -> Ended
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + 'static,
    S::Future: 'static,
{
    let wire = Wire::new(Limits {
        max_head_bytes: settings.max_header_size as usize,
        max_fields: settings.max_headers as usize,
    });
    let io = LinkIo::new(channel, Rc::clone(link), wire, first);
    let counters = Arc::clone(link.load().counters());
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HTTP1_BUFFER.max(settings.max_header_size as usize * 2)).header_read_timeout(None);
    // `wire` has already counted the fields; hyper's limit must only not be lower. Setting it makes hyper allocate for each
    // request, so the default is kept where it suffices.
    if settings.max_headers as usize > HYPER_MAX_HEADERS {
        builder.max_headers(settings.max_headers as usize);
    }
    let mut connection = builder.serve_connection(
        io,
        service_fn(move |request| {
            counters.requests_http1.add(1);
            service.clone().call(request)
        }),
    );
    let mut is_unread = false;
    let verdict = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                is_unread = ended.as_ref().is_err_and(hyper::Error::is_parse);
                return Poll::Ready(ended.is_err_and(|error| error.is_user()).then_some(Verdict::Broken));
            }
            if link.due_refusal().is_some() {
                return Poll::Ready(None);
            }
            match ready!(link.poll_verdict(true, cx)) {
                Verdict::Retire => {
                    link.retire();
                    Pin::new(&mut connection).graceful_shutdown();
                }
                verdict => return Poll::Ready(Some(verdict)),
            }
        }
    })
    .await;
    let parts = connection.into_parts();
    let (channel, held) = parts.io.into_channel();
    if let Some(tunnel) = link.take_tunnel() {
        let mut ahead = Vec::from(parts.read_buf);
        ahead.extend_from_slice(&held);
        tunnel(Rc::clone(link), channel, Bytes::from(ahead)).await;
        return Ended::Closed;
    }
    if verdict == Some(Verdict::Park) {
        // Copied: a conversion would keep hyper's whole buffer alive.
        return Ended::Parked(channel, parts.read_buf.to_vec());
    }
    if is_unread {
        // hyper has sent a 400 itself; this only counts and logs the head.
        refuse(NO_URI);
    }
    end_http1(channel, verdict, link, refuse).await;
    Ended::Closed
}

/// Closes an HTTP/1 connection; `None`: hyper has ended it, or a head was refused.
async fn end_http1(mut channel: Channel, verdict: Option<Verdict>, link: &Link, refuse: &Refuse) {
    match verdict {
        Some(Verdict::HeaderLate) if link.load().open() == 0 => farewell(channel, refuse(HEADER_LATE)).await,
        // RFC 9112 §8: a truncated response must not look complete.
        Some(Verdict::Broken | Verdict::Stalled | Verdict::Cut) => channel.reset(),
        // Over TLS, close_notify tells the client that nothing was truncated.
        Some(_) => close(&mut channel).await,
        None => match link.due_refusal() {
            Some(refusal) => farewell(channel, refuse(refusal)).await,
            None if !link.is_at_boundary() => linger(channel).await,
            None => {}
        },
    }
}

impl Track for Wire {
    fn feed(&mut self, bytes: &[u8]) -> Fed {
        Wire::feed(self, bytes)
    }

    fn is_in_head(&self) -> bool {
        false
    }

    fn is_at_boundary(&self) -> bool {
        self.at_boundary()
    }
}

async fn serve_http2<S>(channel: Channel, first: Vec<u8>, settings: &Settings, link: &Rc<Link>, service: S) -> Ended
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + 'static,
    S::Future: 'static,
{
    let io = Gather::new(LinkIo::new(channel, Rc::clone(link), H2Frames::new(), first));
    let counters = Arc::clone(link.load().counters());
    let connection = http2::Builder::new(Supervisor(Rc::clone(link)))
        .max_concurrent_streams(settings.max_concurrent_streams)
        .max_header_list_size(settings.max_header_size)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_SEND_BUFFER)
        .max_frame_size(MAX_FRAME)
        // RFC 8441 §3. Whether a protocol is allowed is up to the route.
        .enable_connect_protocol()
        .serve_connection(
            io.clone(),
            service_fn(move |request| {
                counters.requests_http2.add(1);
                service.clone().call(request)
            }),
        );
    let mut connection = pin!(connection);
    poll_fn(|cx| {
        loop {
            let ended = connection.as_mut().poll(cx).is_ready();
            if matches!(io.poll_end_turn(cx), Poll::Ready(Err(_))) || ended {
                return Poll::Ready(());
            }
            match ready!(link.poll_verdict(false, cx)) {
                Verdict::Park => {}
                // After an unfinished header block nothing else on this connection can be read.
                Verdict::HeaderLate | Verdict::Stalled | Verdict::Cut | Verdict::Broken => return Poll::Ready(()),
                Verdict::IdleLate | Verdict::Retire => {
                    link.retire();
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    })
    .await;
    Ended::Closed
}
