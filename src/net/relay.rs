//! Relays bytes in both directions between two streams that the proxy does not interpret any more (WebSocket after its
//! 101): with half-close, back-pressure, an idle timeout, and a buffer only while bytes are in transit.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffers::{Buffer, return_buffer, take_buffer};
use super::io::{Rewind, Socket};
use super::timer::{Instant, Timer};

/// One side of a relay: a byte stream in both directions that can end cleanly (`poll_shutdown`) or with a reset, so
/// that its peer can distinguish the two.
pub trait Breakable: AsyncRead + AsyncWrite + Unpin {
    /// Makes the coming drop reset it in both directions: a TCP RST, or a stream reset.
    fn reset_on_drop(&mut self);

    /// Like [`reset_on_drop`](Self::reset_on_drop), with an error code of the stream's protocol, if its resets have one.
    fn reset_with(&mut self, _code: u64) {
        self.reset_on_drop();
    }

    /// Ready if the peer has reset it and neither reading nor writing would show that, because nothing is read after an
    /// end. Also the place for other work of a stream, since it is polled whenever the relay is. Registers the task's
    /// waker.
    fn poll_broken(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
}

impl Breakable for Socket {
    fn reset_on_drop(&mut self) {
        self.reset_on_close();
    }
}

impl<T: Breakable> Breakable for Rewind<T> {
    fn reset_on_drop(&mut self) {
        self.inner_mut().reset_on_drop();
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.inner_mut().poll_broken(cx)
    }
}

impl<T: Breakable + ?Sized> Breakable for &mut T {
    fn reset_on_drop(&mut self) {
        (**self).reset_on_drop();
    }

    fn reset_with(&mut self, code: u64) {
        (**self).reset_with(code);
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        (**self).poll_broken(cx)
    }
}

impl<T: Breakable + ?Sized> Breakable for Box<T> {
    fn reset_on_drop(&mut self) {
        (**self).reset_on_drop();
    }

    fn reset_with(&mut self, code: u64) {
        (**self).reset_with(code);
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        (**self).poll_broken(cx)
    }
}

/// What a relay moved, and how it ended.
#[derive(Debug)]
pub struct Relayed {
    /// Bytes from downstream to upstream.
    pub up: u64,
    /// Bytes from upstream to downstream.
    pub down: u64,
    /// How it ended.
    pub end: End,
}

/// How a relay ended. After anything but `Closed` the caller must reset what is still open, because a clean end would
/// make a truncated stream look complete.
#[derive(Debug)]
pub enum End {
    /// Both sides ended their streams, and everything they sent was passed on.
    Closed,
    /// Nothing moved for the idle timeout.
    Idle,
    /// `stop` was ready.
    Stopped,
    /// The client's side failed.
    DownstreamFailed(io::Error),
    /// The endpoint's side failed.
    UpstreamFailed(io::Error),
}

/// Relays until both sides have ended, one fails, nothing moves for `idle`, or `stop` is ready.
///
/// Not cancel-safe: dropping it may lose bytes in transit.
pub async fn relay<D, U>(
    downstream: &mut D,
    upstream: &mut U,
    idle: Duration,
    stop: impl Future<Output = ()>,
) -> Relayed
where
    D: Breakable,
    U: Breakable,
{
    let (mut up, mut down) = (Flow::default(), Flow::default());
    let timer = Timer::new();
    let mut last = Instant::now();
    let mut stop = pin!(stop);
    timer.set(last + idle);
    let end = poll_fn(|cx| {
        let before = (up.progress, down.progress);
        let upward = up.poll(cx, downstream, upstream).map_err(|fault| match fault {
            Fault::Source(error) => End::DownstreamFailed(error),
            Fault::Sink(error) => End::UpstreamFailed(error),
        });
        if let Poll::Ready(Err(end)) = upward {
            return Poll::Ready(end);
        }
        let downward = down.poll(cx, upstream, downstream).map_err(|fault| match fault {
            Fault::Source(error) => End::UpstreamFailed(error),
            Fault::Sink(error) => End::DownstreamFailed(error),
        });
        if let Poll::Ready(Err(end)) = downward {
            return Poll::Ready(end);
        }
        if upward.is_ready() && downward.is_ready() {
            return Poll::Ready(End::Closed);
        }
        if let Poll::Ready(error) = downstream.poll_broken(cx) {
            return Poll::Ready(End::DownstreamFailed(error));
        }
        if let Poll::Ready(error) = upstream.poll_broken(cx) {
            return Poll::Ready(End::UpstreamFailed(error));
        }
        if stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Stopped);
        }
        if before != (up.progress, down.progress) {
            last = Instant::now();
        }
        // The timer is only moved when it fires, not for every byte that moves.
        while timer.poll_expired(cx).is_ready() {
            if Instant::now() >= last + idle {
                return Poll::Ready(End::Idle);
            }
            timer.set(last + idle);
        }
        Poll::Pending
    })
    .await;
    Relayed { up: up.moved, down: down.moved, end }
}

/// One direction.
#[derive(Default)]
struct Flow {
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
    /// Bytes that the sink took.
    moved: u64,
    /// Counts all progress, for the idle timeout.
    progress: u64,
    unflushed: bool,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Open,
    Closing,
    Closed,
}

enum Fault {
    Source(io::Error),
    Sink(io::Error),
}

impl Flow {
    /// Ready when the source has ended and the sink was told.
    fn poll<S, T>(&mut self, cx: &mut Context<'_>, source: &mut S, sink: &mut T) -> Poll<Result<(), Fault>>
    where
        S: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Open => {
                    ready!(self.poll_write(cx, sink)).map_err(Fault::Sink)?;
                    match self.poll_read(cx, source) {
                        Poll::Ready(Ok(0)) => self.state = State::Closing,
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Source(error))),
                        Poll::Pending => {
                            ready!(self.poll_flush(cx, sink)).map_err(Fault::Sink)?;
                            return Poll::Pending;
                        }
                    }
                }
                State::Closing => {
                    match ready!(Pin::new(&mut *sink).poll_shutdown(cx)) {
                        // The sink is gone, but has read everything it was sent.
                        Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                            return Poll::Ready(Err(Fault::Sink(error)));
                        }
                        _ => self.state = State::Closed,
                    }
                    self.progress += 1;
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, sink: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        let Some(buffer) = &self.buffer else { return Poll::Ready(Ok(())) };
        while self.start < self.end {
            let written = ready!(Pin::new(&mut *sink).poll_write(cx, &buffer[self.start..self.end]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += written;
            self.moved += written as u64;
            self.progress += 1;
            self.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, source: &mut (impl AsyncRead + Unpin)) -> Poll<io::Result<usize>> {
        let mut buffer = self.buffer.take().unwrap_or_else(take_buffer);
        let mut read = ReadBuf::new(&mut buffer[..]);
        let polled = Pin::new(source).poll_read(cx, &mut read);
        let length = read.filled().len();
        if matches!(polled, Poll::Ready(Ok(()))) && length > 0 {
            (self.start, self.end) = (0, length);
            self.progress += 1;
            self.buffer = Some(buffer);
        } else {
            return_buffer(buffer);
        }
        polled.map_ok(|()| length)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, sink: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(sink).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            return_buffer(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::buffers::{BUFFER_SIZE, spare_buffers};
    use crate::net::io::Socket;
    use crate::net::testing::on_worker;
    use std::future::pending;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::{TcpListener, TcpStream};

    const LONG: Duration = Duration::from_secs(3600);

    impl Breakable for DuplexStream {
        fn reset_on_drop(&mut self) {}
    }

    /// Both ends of a TCP connection.
    async fn connection() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (outer, inner) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (outer.unwrap(), Socket::Tcp(inner.unwrap().0))
    }

    #[test]
    fn half_closed_streams_carry_on_in_the_other_direction() {
        on_worker(async {
            let ((mut client, mut downstream), (mut endpoint, mut upstream)) = (connection().await, connection().await);
            let exchange = async {
                client.write_all(b"question").await.unwrap();
                client.shutdown().await.unwrap();
                let mut question = String::new();
                endpoint.read_to_string(&mut question).await.unwrap();
                endpoint.write_all(b"a long answer to ").await.unwrap();
                endpoint.write_all(question.as_bytes()).await.unwrap();
                endpoint.shutdown().await.unwrap();
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                assert_eq!(answer, "a long answer to question");
            };
            let (relayed, ()) = tokio::join!(relay(&mut downstream, &mut upstream, LONG, pending()), exchange);
            assert!(matches!(relayed.end, End::Closed), "{relayed:?}");
            assert_eq!((relayed.up, relayed.down), (8, 25));
        });
    }

    #[test]
    fn a_reset_ends_the_relay_as_a_failure_of_that_side() {
        on_worker(async {
            let ((client, mut downstream), (mut endpoint, mut upstream)) = (connection().await, connection().await);
            client.set_zero_linger().unwrap();
            drop(client);
            let relayed = relay(&mut downstream, &mut upstream, LONG, pending()).await;
            assert!(matches!(relayed.end, End::DownstreamFailed(_)), "{relayed:?}");
            upstream.reset_on_drop();
            drop(upstream);
            assert_eq!(endpoint.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

            let ((_client, mut downstream), (endpoint, mut upstream)) = (connection().await, connection().await);
            endpoint.set_zero_linger().unwrap();
            drop(endpoint);
            let relayed = relay(&mut downstream, &mut upstream, LONG, pending()).await;
            assert!(matches!(relayed.end, End::UpstreamFailed(_)), "{relayed:?}");
        });
    }

    #[test]
    fn megabytes_arrive_whole_both_ways() {
        on_worker(async {
            let ((client, mut downstream), (endpoint, mut upstream)) = (connection().await, connection().await);
            let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let side = async |stream: TcpStream| {
                let (mut read, mut write) = stream.into_split();
                let mut received = Vec::new();
                let writing = async {
                    write.write_all(&sent).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                let (_, read) = tokio::join!(writing, read.read_to_end(&mut received));
                read.unwrap();
                assert!(received == sent);
            };
            let relaying = relay(&mut downstream, &mut upstream, LONG, pending());
            let (relayed, (), ()) = tokio::join!(relaying, side(client), side(endpoint));
            assert_eq!((relayed.up, relayed.down), (3_000_000, 3_000_000));
        });
    }

    async fn fill(stream: &mut DuplexStream) -> usize {
        let mut taken = 0;
        let piece = [7; 1000];
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(30), stream.write(&piece)).await {
            taken += written.unwrap();
        }
        taken
    }

    #[test]
    fn a_side_that_does_not_read_stops_the_other() {
        on_worker(async {
            tokio::time::pause();
            let ((mut client, mut downstream), (_endpoint, mut upstream)) = (duplex(1024), duplex(1024));
            let stop = tokio::sync::Notify::new();
            let filling = async {
                let taken = fill(&mut client).await;
                stop.notify_one();
                taken
            };
            let (relayed, taken) = tokio::join!(relay(&mut downstream, &mut upstream, LONG, stop.notified()), filling);
            assert!(matches!(relayed.end, End::Stopped));
            assert!(taken <= 1024 + BUFFER_SIZE + 1024, "{taken}");
        });
    }

    #[test]
    fn only_silence_ends_an_idle_relay() {
        on_worker(async {
            tokio::time::pause();
            let ((mut client, mut downstream), (mut endpoint, mut upstream)) = (duplex(1024), duplex(1024));
            let begin = Instant::now();
            let chatting = async {
                for _ in 0..20 {
                    tokio::time::sleep(Duration::from_millis(600)).await;
                    client.write_all(b"!").await.unwrap();
                    endpoint.read_exact(&mut [0]).await.unwrap();
                }
            };
            let relaying = relay(&mut downstream, &mut upstream, Duration::from_secs(1), pending());
            let (relayed, ()) = tokio::join!(relaying, chatting);
            assert!(matches!(relayed.end, End::Idle), "{relayed:?}");
            let lasted = begin.elapsed().as_millis();
            assert!((13_000..13_100).contains(&lasted), "{lasted}");
        });
    }

    #[test]
    fn an_idle_relay_holds_no_buffer() {
        on_worker(async {
            let ((mut client, mut downstream), (mut endpoint, mut upstream)) = (duplex(1024), duplex(1024));
            tokio::task::spawn_local(async move {
                relay(&mut downstream, &mut upstream, LONG, pending()).await;
            });
            client.write_all(b"ping").await.unwrap();
            endpoint.read_exact(&mut [0; 4]).await.unwrap();
            endpoint.write_all(b"pong").await.unwrap();
            client.read_exact(&mut [0; 4]).await.unwrap();
            tokio::task::yield_now().await;
            // One buffer was enough for both directions, and it is back.
            assert_eq!(spare_buffers(), 1);
        });
    }
}
