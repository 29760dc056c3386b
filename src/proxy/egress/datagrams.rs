//! CONNECT-UDP (RFC 9298) on every HTTP: a UDP socket that is connected to the destination, and its datagrams both ways. They
//! come in DATAGRAM frames of QUIC and in capsules on the stream (RFC 9297), and go in frames where both sides have them.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use tokio::io::ReadBuf;

use super::target::Target;
use super::template::CONNECT_UDP;
use super::tunnel::reached;
use crate::base::error::{Error, Kind};
use crate::body::Body;
use crate::body::incoming::Incoming;
use crate::http3::capsule::{Capsules, write_datagram_head};
use crate::http3::{self, Code, Datagrams, Informational, Posted, varint};
use crate::net::buffers::{return_buffer, take_buffer};
use crate::net::connect;
use crate::net::relay::{Breakable, End};
use crate::net::timer::{Instant, Timer};
use crate::net::udp::Connected;
use crate::proxy::stack::Scene;
use crate::proxy::tunnel::{self, Carried, ClientEnd, Stop, failure_of};
use crate::route::egress::Egress;
use crate::telemetry::counters::Counters;

/// Opens a socket and says so; what follows is passed on.
///
/// # Errors
/// Why there is no socket.
pub async fn open(
    scene: &Scene,
    egress: &Arc<Egress>,
    target: Target,
    head: &mut Parts,
    body: Incoming,
) -> Result<Response<Body>, Error> {
    let Some(client) = ClientEnd::take(head.version, &mut head.extensions, body) else {
        return Err(Error::downstream(Kind::HttpRequestError, "connect-udp that cannot become a tunnel"));
    };
    let answer = success(&client);
    let socket = reached(scene, egress, target, async |dialer| dialer.connect_udp().await).await?;
    let counters = Arc::clone(scene.connection.link.load().counters());
    let idle = egress.outbound.timeouts.tunnel_idle;
    let datagrams = scene.informational.as_ref().and_then(Informational::datagrams);
    Ok(tunnel::open(client, scene, answer, async move |client, stop| {
        let mut relay = Relay::new(socket, datagrams, counters);
        let failure = match relay.run(client, idle, stop).await {
            Ended::As(end) => failure_of(&end),
            Ended::Unreachable(error) => Some((error.kind(), error.reason())),
            Ended::Malformed(error) => {
                // RFC 9297 §3.3, RFC 9298 §5: the stream is aborted.
                client.reset_with(error.code().value());
                Some((Kind::HttpRequestError, error.reason()))
            }
        };
        Carried { up: relay.far.up, down: relay.down, failure }
    }))
}

/// RFC 9298 §3.3 and §3.5.
fn success(client: &ClientEnd) -> Response<()> {
    let mut answer = Response::new(());
    if matches!(client, ClientEnd::Http1) {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        answer.headers_mut().insert(UPGRADE, HeaderValue::from_static(CONNECT_UDP));
    }
    answer.headers_mut().insert(CAPSULE_PROTOCOL, HeaderValue::from_static("?1"));
    answer
}

/// How it ended.
enum Ended {
    /// As other tunnels do.
    As(End),
    /// Datagrams do not reach the destination.
    Unreachable(Error),
    /// The client sent what nobody may.
    Malformed(http3::Error),
}

impl From<End> for Ended {
    fn from(end: End) -> Self {
        Self::As(end)
    }
}

/// What passes datagrams on.
struct Relay {
    far: Far,
    /// Those in frames of QUIC.
    datagrams: Option<Datagrams>,
    /// What comes on the stream.
    capsules: Capsules,
    /// What waits for the stream.
    outgoing: BytesMut,
    /// The client's direction of the stream has ended.
    has_ended: bool,
    /// Bytes to the client.
    down: u64,
    /// Datagrams to the client, but for those that it had no room for: they are no sign that it lives.
    received: u64,
}

/// The destination.
struct Far {
    socket: Rc<Connected>,
    counters: Arc<Counters>,
    /// Bytes to it.
    up: u64,
    /// Datagrams for it.
    sent: u64,
}

impl Relay {
    fn new(socket: Connected, datagrams: Option<Datagrams>, counters: Arc<Counters>) -> Self {
        Self {
            far: Far { socket: Rc::new(socket), counters, up: 0, sent: 0 },
            datagrams,
            capsules: Capsules::new(LONGEST),
            outgoing: BytesMut::new(),
            has_ended: false,
            down: 0,
            received: 0,
        }
    }

    /// Passes datagrams on until the client ends the stream, one side fails, nothing moves for `idle`, or `stop` is ready.
    async fn run(&mut self, client: &mut dyn Breakable, idle: std::time::Duration, stop: Stop) -> Ended {
        let socket = Rc::clone(&self.far.socket);
        let (mut stop, mut unreachable) = (pin!(stop), pin!(socket.unreachable()));
        let timer = Timer::new();
        let mut last = Instant::now();
        timer.set(last + idle);
        poll_fn(|cx| {
            let before = (self.far.sent, self.received);
            if let Poll::Ready(end) = self.poll(client, cx) {
                return Poll::Ready(end);
            }
            if let Poll::Ready(error) = client.poll_broken(cx) {
                return Poll::Ready(End::DownstreamFailed(error).into());
            }
            if let Poll::Ready(error) = unreachable.as_mut().poll(cx) {
                return Poll::Ready(Ended::Unreachable(connect::explain(error)));
            }
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Stopped.into());
            }
            if before != (self.far.sent, self.received) {
                last = Instant::now();
            }
            // The timer is only moved when it fires, not for every datagram.
            while timer.poll_expired(cx).is_ready() {
                if Instant::now() >= last + idle {
                    return Poll::Ready(End::Idle.into());
                }
                timer.set(last + idle);
            }
            Poll::Pending
        })
        .await
    }

    fn poll(&mut self, client: &mut dyn Breakable, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Err(ended) = self.take_datagrams(cx) {
            return Poll::Ready(ended);
        }
        if !self.has_ended
            && let Err(ended) = self.take_capsules(client, cx)
        {
            return Poll::Ready(ended);
        }
        if !self.has_ended
            && let Err(ended) = self.bring(cx)
        {
            return Poll::Ready(ended);
        }
        match self.flush(client, cx) {
            Err(end) => Poll::Ready(end.into()),
            // RFC 9298 §3.1: with the stream ends the socket.
            Ok(true) if self.has_ended => match Pin::new(client).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(End::Closed.into()),
                Poll::Ready(Err(error)) => Poll::Ready(End::DownstreamFailed(error).into()),
                Poll::Pending => Poll::Pending,
            },
            Ok(_) => Poll::Pending,
        }
    }

    /// Datagrams of the client in frames of QUIC. RFC 9297 §2.1: those behind the end of its direction are dropped.
    fn take_datagrams(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let Some(datagrams) = self.datagrams.as_ref().filter(|_| !self.has_ended) else { return Ok(()) };
        for _ in 0..BATCH {
            let Poll::Ready(payload) = datagrams.poll_receive(cx) else { return Ok(()) };
            self.far.take(&payload, true)?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Datagrams of the client in capsules.
    fn take_capsules(&mut self, client: &mut dyn Breakable, cx: &mut Context<'_>) -> Result<(), Ended> {
        let mut buffer = take_buffer();
        let mut taken = Ok(());
        for turn in 0..=TURNS {
            if turn == TURNS {
                cx.waker().wake_by_ref();
                break;
            }
            let mut read = ReadBuf::new(&mut buffer[..]);
            match Pin::new(&mut *client).poll_read(cx, &mut read) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => taken = Err(End::DownstreamFailed(error).into()),
                // RFC 9297 §3.3: not within a capsule.
                Poll::Ready(Ok(())) if read.filled().is_empty() && !self.capsules.is_between() => {
                    let reason = "a stream that ends within a capsule";
                    taken = Err(Ended::Malformed(http3::Error::stream(Code::MESSAGE_ERROR, reason)));
                }
                Poll::Ready(Ok(())) if read.filled().is_empty() => {
                    self.has_ended = true;
                    break;
                }
                Poll::Ready(Ok(())) => taken = self.take_bytes(read.filled()),
            }
            if taken.is_err() {
                break;
            }
        }
        return_buffer(buffer);
        self.capsules.let_go();
        taken
    }

    fn take_bytes(&mut self, mut bytes: &[u8]) -> Result<(), Ended> {
        while !bytes.is_empty() {
            let (length, datagram) = self.capsules.next(bytes);
            if let Some(datagram) = datagram {
                self.far.take(datagram.payload, datagram.is_whole)?;
            }
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// Datagrams of the destination.
    fn bring(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        for _ in 0..BATCH {
            let Self { far, datagrams, outgoing, .. } = &mut *self;
            let brought = far
                .socket
                .poll_receive(cx, |payload| (payload.len() as u64, pass(datagrams.as_ref(), outgoing, payload)));
            let Poll::Ready(brought) = brought else { return Ok(()) };
            let (length, is_passed) = brought.map_err(|error| Ended::Unreachable(connect::explain(error)))?;
            let counters = &self.far.counters;
            counters.bytes_upstream_in.add(length);
            if is_passed {
                self.received += 1;
                self.down += length;
                counters.datagrams_out.add(1);
            } else {
                counters.datagrams_dropped.add(1);
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Gives capsules to the stream; whether it has taken all of them.
    fn flush(&mut self, client: &mut dyn Breakable, cx: &mut Context<'_>) -> Result<bool, End> {
        while !self.outgoing.is_empty() {
            match Pin::new(&mut *client).poll_write(cx, &self.outgoing) {
                Poll::Ready(Ok(written)) => self.outgoing.advance(written),
                Poll::Ready(Err(error)) => return Err(End::DownstreamFailed(error)),
                Poll::Pending => return Ok(false),
            }
        }
        if self.outgoing.capacity() > 0 {
            // One that waits holds no memory.
            self.outgoing = BytesMut::new();
        }
        match Pin::new(client).poll_flush(cx) {
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(error)) => Err(End::DownstreamFailed(error)),
            Poll::Pending => Ok(false),
        }
    }
}

impl Far {
    /// Takes what the client sent as a datagram, which is not its payload alone (RFC 9298 §5).
    fn take(&mut self, datagram: &[u8], is_whole: bool) -> Result<(), Ended> {
        self.counters.datagrams_in.add(1);
        let Some((context, length)) = varint::read(datagram) else {
            return Err(malformed("a datagram without a context"));
        };
        if context != UDP_PAYLOAD {
            // RFC 9298 §4: of a context that nobody registered. None can be registered here.
            self.counters.datagrams_dropped.add(1);
            return Ok(());
        }
        let payload = &datagram[length..];
        if !is_whole || payload.len() > LONGEST_PAYLOAD {
            return Err(malformed("a datagram that is longer than any of UDP"));
        }
        self.sent += 1;
        match self.socket.send(payload) {
            Ok(true) => {
                self.up += payload.len() as u64;
                self.counters.bytes_upstream_out.add(payload.len() as u64);
            }
            Ok(false) => self.counters.datagrams_dropped.add(1),
            Err(error) => return Err(Ended::Unreachable(connect::explain(error))),
        }
        Ok(())
    }
}

/// Passes a datagram of the destination on to the client; `false` where there is no room, or it is too long.
fn pass(datagrams: Option<&Datagrams>, outgoing: &mut BytesMut, payload: &[u8]) -> bool {
    if let Some(datagrams) = datagrams {
        let beginning = datagrams.beginning();
        let mut datagram = Vec::with_capacity(beginning.len() + 1 + payload.len());
        datagram.extend_from_slice(beginning);
        datagram.push(UDP_PAYLOAD as u8);
        datagram.extend_from_slice(payload);
        match datagrams.send(Bytes::from(datagram)) {
            Posted::Taken => return true,
            // RFC 9298 §6.1: in a capsule it would arrive all the same, and mislead whoever looks for the longest that does
            // (RFC 8899). Nobody looks among those that IPv6 takes everywhere, and QUIC needs 1200 bytes of them.
            Posted::TooLarge if payload.len() > ALWAYS_TAKEN => return false,
            Posted::TooLarge | Posted::NotOffered => {}
        }
    }
    if outgoing.len() >= MAX_WAITING {
        return false;
    }
    let mut head = Vec::with_capacity(8);
    write_datagram_head(1 + payload.len(), &mut head);
    head.push(UDP_PAYLOAD as u8);
    outgoing.extend_from_slice(&head);
    outgoing.extend_from_slice(payload);
    true
}

fn malformed(reason: &'static str) -> Ended {
    Ended::Malformed(http3::Error::stream(Code::DATAGRAM_ERROR, reason))
}

/// RFC 9297 §3.4.
const CAPSULE_PROTOCOL: HeaderName = HeaderName::from_static("capsule-protocol");
/// The context of datagrams that carry the payload of one of UDP: one byte as a varint.
const UDP_PAYLOAD: u64 = 0;
/// RFC 9298 §5.
const LONGEST_PAYLOAD: usize = 65_527;
/// The same with the longest number of a context before it.
const LONGEST: usize = LONGEST_PAYLOAD + 8;
/// What is left for UDP of the smallest packet that a link has to take (RFC 8200 §5: 1280 bytes).
const ALWAYS_TAKEN: usize = 1232;
/// Bytes that wait for the stream before datagrams are dropped.
const MAX_WAITING: usize = 64 * 1024;
/// Datagrams that are passed on in a row.
const BATCH: usize = 32;
/// Times that the stream is read in a row.
const TURNS: usize = 8;
