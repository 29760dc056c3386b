//! The accept loop of one listening socket on one worker: a permit first, then a connection, in batches, without ever
//! waiting for a client. Who calls it decides what becomes of a connection (spawn, or hand over to another worker).

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::SocketFlags;
use tokio::net::{TcpListener, UnixListener};

use super::io::{RawSocket, Socket};
use super::timer::{self, Instant};
use crate::base::addr::canonical;

/// A connection and the client's address, which a Unix socket does not tell.
pub type Accepted = (Socket, Option<SocketAddr>);

/// Where connections come from; a seam for tests.
pub trait Accept {
    /// The next connection, or the waker is kept.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>>;

    /// Asks the kernel itself, past what the runtime believes; `WouldBlock` when nothing waits.
    ///
    /// # Errors
    /// What the kernel says.
    fn accept_now(&mut self) -> io::Result<Accepted>;
}

/// A listening socket, registered with the runtime of the worker that owns it.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(UnixListener),
}

impl Accept for Listener {
    // One accept4(SOCK_NONBLOCK | SOCK_CLOEXEC) that brings the address along; every option is inherited.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Tcp(listener) => {
                listener.poll_accept(cx).map_ok(|(stream, remote)| (Socket::Tcp(stream), Some(canonical(remote))))
            }
            Self::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| (Socket::Unix(stream), None)),
        }
    }

    fn accept_now(&mut self) -> io::Result<Accepted> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match self {
            Self::Tcp(listener) => {
                let (stream, remote) = rustix::net::acceptfrom_with(&*listener, flags)?;
                let remote = remote.and_then(|remote| SocketAddr::try_from(remote).ok());
                Ok((RawSocket::Tcp(stream.into()).into_socket()?, remote.map(canonical)))
            }
            Self::Unix(listener) => {
                let stream = rustix::net::accept_with(&*listener, flags)?;
                Ok((RawSocket::Unix(stream.into()).into_socket()?, None))
            }
        }
    }
}

/// Accepts until `stop` is ready, and then until nobody waits any more: what the kernel has already acknowledged would
/// be reset by a close. `admit` gives the permit that each connection takes along; while it waits, clients wait in the
/// kernel's queue. `take` must not block.
///
/// Dropping the future ends it at once; a connection is never held across an await, so none is lost in here.
pub async fn accept_loop<P>(
    mut listener: impl Accept,
    mut admit: impl AsyncFnMut() -> P,
    stop: impl Future<Output = ()>,
    mut take: impl FnMut(Socket, Option<SocketAddr>, P),
) {
    let mut stop = pin!(stop);
    let mut pause = Pause::default();
    let mut batch = 0;
    loop {
        let permit = match first(admit(), stop.as_mut()).await {
            First::Done(permit) => permit,
            First::Stopped => break,
        };
        // The permit is held only while the kernel is asked: a loop that waited with one in hand would keep it from
        // the clients of another worker.
        match poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await {
            Poll::Ready(Ok((socket, remote))) => {
                pause.clear();
                take(socket, remote, permit);
            }
            Poll::Ready(Err(error)) if is_of_one_connection(&error) => {}
            Poll::Ready(Err(error)) => {
                drop(permit);
                if let First::Stopped = first(pause.wait(&error), stop.as_mut()).await {
                    break;
                }
            }
            Poll::Pending => {
                drop(permit);
                if let First::Stopped = first(woken(), stop.as_mut()).await {
                    break;
                }
            }
        }
        batch += 1;
        if batch == BATCH {
            batch = 0;
            // A flood of connections must not starve those that are open, nor the stop signal.
            tokio::task::yield_now().await;
            if let First::Done(()) = first_now(stop.as_mut()).await {
                break;
            }
        }
    }
    accept_rest(&mut listener, &mut admit, &mut take).await;
}

async fn accept_rest<P>(
    listener: &mut impl Accept,
    admit: &mut impl AsyncFnMut() -> P,
    take: &mut impl FnMut(Socket, Option<SocketAddr>, P),
) {
    loop {
        let permit = admit().await;
        match listener.accept_now() {
            Ok((socket, remote)) => take(socket, remote, permit),
            Err(error) if is_of_one_connection(&error) => {}
            Err(_) => return,
        }
    }
}

/// Accepted in a row before others have their turn.
const BATCH: u32 = 64;

enum First<T> {
    Done(T),
    Stopped,
}

/// `future`, unless it has to wait and `stop` is ready.
async fn first<F: Future>(future: F, mut stop: std::pin::Pin<&mut impl Future<Output = ()>>) -> First<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(First::Done(output)),
        Poll::Pending => stop.as_mut().poll(cx).map(|()| First::Stopped),
    })
    .await
}

async fn first_now(mut future: std::pin::Pin<&mut impl Future<Output = ()>>) -> First<()> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(First::Done(())),
        Poll::Pending => Poll::Ready(First::Stopped),
    })
    .await
}

/// Ends when the task is woken by whatever kept its waker before.
async fn woken() {
    let mut waited = false;
    poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// An error of the connection that was to be accepted, not of the listener: accept(2), "Error handling".
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | PermissionDenied | TimedOut)
        || matches!(
            error.raw_os_error(),
            Some(
                libc::EPROTO
                    | libc::ENOPROTOOPT
                    | libc::ENETDOWN
                    | libc::ENETUNREACH
                    | libc::EHOSTDOWN
                    | libc::EHOSTUNREACH
                    | libc::ENONET
            )
        )
}

/// Waiting after an error of the listener itself: out of descriptors or of memory.
#[derive(Default)]
struct Pause {
    next: Duration,
    logged: Option<Instant>,
}

impl Pause {
    const SHORTEST: Duration = Duration::from_millis(20);
    const LONGEST: Duration = Duration::from_millis(500);

    fn clear(&mut self) {
        self.next = Duration::ZERO;
    }

    async fn wait(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.logged.is_none_or(|at| now - at >= Duration::from_secs(1)) {
            self.logged = Some(now);
            tracing::error!(%error, "cannot accept connections; clients wait");
        }
        self.next = (self.next * 2).clamp(Self::SHORTEST, Self::LONGEST);
        timer::sleep(self.next).await;
    }
}
