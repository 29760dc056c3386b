//! A worker's UDP socket as quinn wants one: datagrams in batches both ways, and those of other workers' connections
//! handed over before quinn sees them.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::steering::{Mailbox, Steering};
use super::writable::{Writable, give_up_readiness};
use crate::net::bind::Group;
use crate::net::{options, sys};
use crate::telemetry::WorkerTelemetry;

/// One worker's member of the sockets of an address.
pub(super) struct SteeredSocket {
    io: UdpSocket,
    state: UdpSocketState,
    worker: usize,
    steering: Arc<Steering>,
    /// This worker is the only writer of its counters, and the only one that polls the socket.
    telemetry: Arc<WorkerTelemetry>,
    /// Whether the mailbox is looked at before the kernel: they take turns, so that neither starves the other.
    is_mailbox_first: AtomicBool,
    /// Datagrams that the kernel had dropped when it was last asked.
    dropped: AtomicU32,
    /// Dropped behind the socket: tells that it is closed.
    _open: Arc<Group>,
}

impl SteeredSocket {
    /// Takes over a bound socket, with `open` to be dropped when it is closed.
    ///
    /// # Errors
    /// The runtime cannot watch it, or an option was refused.
    pub(super) fn new(
        socket: std::net::UdpSocket,
        worker: usize,
        steering: Arc<Steering>,
        telemetry: Arc<WorkerTelemetry>,
        open: Arc<Group>,
    ) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let dropped = sys::dropped_datagrams(&socket).unwrap_or(0);
        let io = UdpSocket::from_std(socket)?;
        if let Some(mailbox) = steering.mailbox(worker) {
            mailbox.open();
        }
        Ok(Self {
            io,
            state,
            worker,
            steering,
            telemetry,
            is_mailbox_first: AtomicBool::new(false),
            dropped: AtomicU32::new(dropped),
            _open: open,
        })
    }

    /// Has the kernel put datagrams together that arrive in a row (UDP GRO), or not. A kernel without it never does.
    pub(super) fn set_receive_offload(&self, on: bool) {
        let _ = options::set_receive_offload(&self.io, on);
    }

    /// Counts what the kernel has dropped since the last time, for want of room in the socket's buffer.
    pub(super) fn count_dropped(&self) {
        // A kernel before 4.12 does not tell.
        let Ok(now) = sys::dropped_datagrams(&self.io) else { return };
        let before = self.dropped.swap(now, Ordering::Relaxed);
        self.telemetry.counters.quic_datagrams_dropped.add(u64::from(now.wrapping_sub(before)));
    }

    fn mailbox(&self) -> Option<&Mailbox> {
        self.steering.mailbox(self.worker)
    }

    fn take(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        self.mailbox().map_or(0, |mailbox| mailbox.take(buffers, metas))
    }

    fn sort(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) {
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let sorted = self.steering.sort(self.worker, buffer, meta);
            if sorted.handed_over > 0 {
                self.telemetry.counters.quic_steered.add(sorted.handed_over);
            }
            if sorted.dropped > 0 {
                self.telemetry.counters.quic_datagrams_dropped.add(sorted.dropped);
            }
        }
    }
}

impl Drop for SteeredSocket {
    fn drop(&mut self) {
        if let Some(mailbox) = self.mailbox() {
            mailbox.close();
        }
    }
}

impl fmt::Debug for SteeredSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SteeredSocket").field("io", &self.io).field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for SteeredSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable::new(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // What cannot be sent is lost as on any network: no error of a connection.
        self.io.try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let is_mailbox_first = self.is_mailbox_first.fetch_not(Ordering::Relaxed);
            if is_mailbox_first {
                let taken = self.take(buffers, metas);
                if taken > 0 {
                    return Poll::Ready(Ok(taken));
                }
            }
            if let Poll::Ready(ready) = self.io.poll_recv_ready(cx) {
                ready?;
                let received =
                    self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), buffers, metas));
                if let Ok(received) = received {
                    if received < buffers.len() {
                        give_up_readiness(&self.io);
                    }
                    self.sort(&mut buffers[..received], &mut metas[..received]);
                    return Poll::Ready(Ok(received));
                }
                // Readiness is gone, or an error of the network was told, which concerns no connection.
                continue;
            }
            let taken = self.take(buffers, metas);
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
            if self.mailbox().is_none_or(|mailbox| mailbox.wait(cx.waker())) {
                return Poll::Pending;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

impl AsRef<UdpSocket> for SteeredSocket {
    fn as_ref(&self) -> &UdpSocket {
        &self.io
    }
}
