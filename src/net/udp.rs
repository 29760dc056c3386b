//! Datagrams exchanged with one address, on the runtime of the worker that owns the socket. A datagram that cannot be sent
//! at once is lost, as it may be anywhere on its way.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;

use super::datagram::{self, is_told_by_icmp};
use super::options;
use super::socket::Sources;
use crate::config::model::SocketOptions;

/// A UDP socket that is connected.
#[derive(Debug)]
pub struct Connected(UdpSocket);

thread_local! {
    /// What the longest datagram is received into, by all sockets of the thread.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; LONGEST].into());
}

impl Connected {
    /// Opens one, from an address and a port that the system chooses. Nothing is sent. Datagrams leave in one piece or not
    /// at all.
    ///
    /// # Errors
    /// Out of descriptors or ports, or no way leads there.
    pub fn open(address: SocketAddr, options: &SocketOptions) -> io::Result<Self> {
        let socket = datagram::connect(address, &Sources::default(), options)?;
        options::forbid_fragments(&socket, address.is_ipv6())?;
        UdpSocket::from_std(socket).map(Self)
    }

    /// Sends a datagram; `false` where it was lost here: there was no room, or it is too long for the way.
    ///
    /// # Errors
    /// What ICMP told: datagrams do not reach the other end.
    pub fn send(&self, payload: &[u8]) -> io::Result<bool> {
        // Not by the runtime's account of what is writable, which knows nothing of a new socket.
        match SockRef::from(&self.0).send(payload) {
            Ok(_) => Ok(true),
            Err(error) if is_told_by_icmp(&error) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Ends when ICMP told that datagrams do not reach the other end, where neither sending nor receiving has told that
    /// already. Cancel-safe.
    pub async fn unreachable(&self) -> io::Error {
        loop {
            // Of errors alone a reader is not woken.
            if let Err(error) = self.0.ready(Interest::ERROR).await {
                return error;
            }
            let told = self.0.try_io(Interest::ERROR, || {
                SockRef::from(&self.0).take_error()?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
            });
            match told {
                Ok(error) if is_told_by_icmp(&error) => return error,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return error,
                _ => {}
            }
        }
    }

    /// Has `take` look at the next datagram.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn poll_receive<T>(&self, cx: &mut Context<'_>, take: impl FnOnce(&[u8]) -> T) -> Poll<io::Result<T>> {
        SCRATCH.with_borrow_mut(|scratch| {
            for _ in 0..ERRORS {
                let mut buffer = ReadBuf::new(scratch);
                match ready!(self.0.poll_recv(cx, &mut buffer)) {
                    Ok(()) => return Poll::Ready(Ok(take(buffer.filled()))),
                    Err(error) if is_told_by_icmp(&error) => return Poll::Ready(Err(error)),
                    // Of one datagram that was sent (too long for a link on the way), and told once.
                    Err(_) => {}
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }
}

/// The longest payload there is.
const LONGEST: usize = 65_535;
/// Errors that are passed over in a row.
const ERRORS: usize = 8;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::UdpSocket as Std;

    use super::*;
    use crate::net::testing::{on_worker, plain_options};

    #[test]
    fn datagrams_pass_both_ways_and_nobody_else_is_heard() {
        on_worker(async {
            let far = Std::bind("127.0.0.1:0").unwrap();
            let stranger = Std::bind("127.0.0.1:0").unwrap();
            let near = Connected::open(far.local_addr().unwrap(), &plain_options()).unwrap();
            // Before the runtime has heard of the socket.
            assert!(near.send(b"first").unwrap());
            assert!(near.send(b"").unwrap());
            let mut buffer = [0; 100];
            let (length, from) = far.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"first");
            assert_eq!(far.recv_from(&mut buffer).unwrap().0, 0);
            stranger.send_to(b"unasked", from).unwrap();
            far.send_to(b"answer", from).unwrap();
            let answer = poll_fn(|cx| near.poll_receive(cx, <[u8]>::to_vec)).await.unwrap();
            assert_eq!(answer, b"answer");
            assert!(!near.send(&[0; 65_536]).unwrap(), "it is lost, not an error");
        });
    }

    #[test]
    fn what_icmp_tells_is_an_error() {
        on_worker(async {
            let gone = Std::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let near = Connected::open(gone, &plain_options()).unwrap();
            near.send(b"anybody?").unwrap();
            assert_eq!(near.unreachable().await.kind(), io::ErrorKind::ConnectionRefused);
        });
    }
}
