//! Waiting for a UDP socket to become writable: each connection waits separately, because all connections of a worker
//! share the socket.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use quinn::UdpPoller;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// One connection that sends on a socket.
pub(super) struct Writable<S> {
    socket: Arc<S>,
    /// Made only where one has to wait, which is seldom.
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl<S: AsRef<UdpSocket> + Send + Sync + 'static> Writable<S> {
    pub(super) fn new(socket: Arc<S>) -> Self {
        Self { socket, waiting: None }
    }
}

impl<S: AsRef<UdpSocket> + Send + Sync + 'static> UdpPoller for Writable<S> {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nobody waits in the one place that the socket has for this, so that no waker is pushed out of it.
        if self.waiting.is_none()
            && let ready @ Poll::Ready(_) =
                (*self.socket).as_ref().poll_send_ready(&mut Context::from_waker(Waker::noop()))
        {
            return ready;
        }
        let socket = Arc::clone(&self.socket);
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { (*socket).as_ref().writable().await }));
        let writable = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(writable)
    }
}

impl<S> fmt::Debug for Writable<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}

/// A read gave less than there was room for: nothing is left, and readiness is given up without asking the kernel once more.
/// What comes from now on makes the socket ready anew, which its thread hears of when it polls next.
pub(super) fn give_up_readiness(socket: &UdpSocket) {
    let _ = socket.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
}
