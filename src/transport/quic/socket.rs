//! UDP sockets for quinn: datagrams in batches in both directions. On the sockets of listeners, packets for other
//! workers are handed over before quinn sees them.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::steering::{Mailbox, Steering};
use super::writable::{Writable, give_up_readiness};
use crate::net::bind::Group;
use crate::net::{options, sys};
use crate::telemetry::WorkerTelemetry;

/// A socket, and what its kernel can do with it. Where the kernel tells what became of earlier packets (IP_RECVERR), it does so
/// in the place of the next send, which was not made then.
#[derive(Debug)]
pub(super) struct BatchSocket {
    io: UdpSocket,
    state: UdpSocketState,
}

/// One worker's member of the sockets of an address.
pub(super) struct SteeredSocket {
    socket: BatchSocket,
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

impl BatchSocket {
    /// Takes over a bound socket.
    ///
    /// # Errors
    /// The runtime cannot watch it, or an option was refused.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { io: UdpSocket::from_std(socket)?, state })
    }

    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.state.try_send((&self.io).into(), transmit) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                // Most likely said of another packet, once. What cannot be sent the second time is lost as on any network, and
                // quinn-udp tells of it in the log: no error of a connection.
                self.state.send((&self.io).into(), transmit)
            }
            sent => sent,
        }
    }
}

impl AsyncUdpSocket for BatchSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable::new(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.send(transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            // An error that is not for want of datagrams was said of a packet of ours, and is told by what listens for it.
            if let Ok(received) =
                self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), buffers, metas))
            {
                if received < buffers.len() {
                    give_up_readiness(&self.io);
                }
                return Poll::Ready(Ok(received));
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

impl AsRef<UdpSocket> for BatchSocket {
    fn as_ref(&self) -> &UdpSocket {
        &self.io
    }
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
        let dropped = sys::dropped_datagrams(&socket).unwrap_or(0);
        let socket = BatchSocket::new(socket)?;
        if let Some(mailbox) = steering.mailbox(worker) {
            mailbox.open();
        }
        Ok(Self {
            socket,
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
        let _ = options::set_receive_offload(&self.socket.io, on);
    }

    /// Counts what the kernel has dropped since the last time, for want of room in the socket's buffer.
    pub(super) fn count_dropped(&self) {
        // A kernel before 4.12 does not tell.
        let Ok(now) = sys::dropped_datagrams(&self.socket.io) else { return };
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
        f.debug_struct("SteeredSocket")
            .field("socket", &self.socket)
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for SteeredSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable::new(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
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
            if let Poll::Ready(received) = self.socket.poll_recv(cx, buffers, metas) {
                let received = received?;
                self.sort(&mut buffers[..received], &mut metas[..received]);
                return Poll::Ready(Ok(received));
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
        self.socket.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }
}

impl AsRef<UdpSocket> for SteeredSocket {
    fn as_ref(&self) -> &UdpSocket {
        &self.socket.io
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as Plain;

    use super::*;
    use crate::net::icmp::Undelivered;
    use crate::net::testing::on_worker;

    #[test]
    fn what_is_said_of_one_packet_costs_no_other() {
        on_worker(async {
            let socket = Plain::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            let closed = Plain::bind("127.0.0.1:0").unwrap();
            let nobody = closed.local_addr().unwrap();
            drop(closed);
            let somebody = Plain::bind("127.0.0.1:0").unwrap();
            somebody.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
            let _undelivered = Undelivered::of(&socket).unwrap();
            let shared = BatchSocket::new(socket).unwrap();
            for number in 0..50u8 {
                for destination in [nobody, somebody.local_addr().unwrap()] {
                    let transmit =
                        Transmit { destination, ecn: None, contents: &[number], segment_size: None, src_ip: None };
                    shared.io.writable().await.unwrap();
                    shared.try_send(&transmit).unwrap();
                }
                let mut received = [0];
                somebody.recv(&mut received).unwrap();
                assert_eq!(received, [number]);
            }
        });
    }
}
