//! A UDP socket that packets to many endpoints leave by, as quinn wants one. Where the kernel tells what became of
//! earlier packets (IP_RECVERR), it does so in the place of the next send, which was not made then: it is made again.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::super::writable::{Writable, give_up_readiness};
use crate::net::datagram::is_told_by_icmp;

/// The socket.
#[derive(Debug)]
pub(super) struct SharedSocket {
    io: UdpSocket,
    state: UdpSocketState,
}

impl SharedSocket {
    /// Takes a bound socket over.
    ///
    /// # Errors
    /// The runtime cannot watch it, or an option was refused.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { io: UdpSocket::from_std(socket)?, state })
    }

    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.state.try_send((&self.io).into(), transmit) {
            // Said of another packet, once. What cannot be sent the second time is lost as on any network.
            Err(error) if is_told_by_icmp(&error) => self.state.send((&self.io).into(), transmit),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

impl AsyncUdpSocket for SharedSocket {
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

impl AsRef<UdpSocket> for SharedSocket {
    fn as_ref(&self) -> &UdpSocket {
        &self.io
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
            let shared = SharedSocket::new(socket).unwrap();
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
