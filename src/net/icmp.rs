//! Receives ICMP errors for a UDP socket that sends to many destinations. Without requesting them (IP_RECVERR), a
//! closed port would only be noticed by a timeout.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};

use socket2::SockAddr;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::sys;

/// What comes back of the datagrams of one socket.
pub struct Undelivered(AsyncFd<UdpSocket>);

impl Undelivered {
    /// Has the kernel keep them from now on. The socket itself is used as before.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(socket: &UdpSocket) -> io::Result<Self> {
        if socket.local_addr()?.is_ipv6() {
            sys::set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        } else {
            sys::set(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
        }
        // Its successor is unsafe, for types that may close their descriptor early; this one owns it.
        #[expect(deprecated, reason = "sound here, as the socket lives as long as its registration")]
        let registered = AsyncFd::with_interest(socket.try_clone()?, Interest::ERROR)?;
        Ok(Self(registered))
    }

    /// The next: where it was sent to, and why it did not arrive. Cancel-safe.
    ///
    /// # Errors
    /// The kernel's: nothing more comes.
    pub async fn next(&self) -> io::Result<(SocketAddr, io::Error)> {
        loop {
            let mut ready = self.0.ready(Interest::ERROR).await?;
            match take(self.0.get_ref()) {
                Ok(Some(undelivered)) => return Ok(undelivered),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The oldest; `None`: it is of a form that is not known.
fn take(socket: &UdpSocket) -> io::Result<Option<(SocketAddr, io::Error)>> {
    // An address of IPv4 fits in as well.
    let mut to = SockAddr::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    let mut control = [0; CONTROL];
    let length = sys::take_error(socket, &mut to, &mut control)?;
    let code = error_code(&control[..length.min(CONTROL)]);
    Ok(to.as_socket().zip(code.map(io::Error::from_raw_os_error)))
}

/// The errno inside control messages (cmsg(3), ip(7)).
fn error_code(mut control: &[u8]) -> Option<i32> {
    let word = size_of::<usize>();
    let header = word + 8;
    while control.len() > header {
        let length = usize::from_ne_bytes(control[..word].try_into().ok()?);
        let number =
            |at: usize| control.get(at..at + 4).map(|bytes| i32::from_ne_bytes(bytes.try_into().unwrap_or_default()));
        let kind = (number(word)?, number(word + 4)?);
        if matches!(kind, (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)) {
            return number(header);
        }
        control = control.get(length.max(header).next_multiple_of(word)..)?;
    }
    None
}

/// Room for what a socket may have asked for beside it: addresses, ECN, times.
const CONTROL: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::on_worker;

    #[test]
    fn a_closed_port_is_told_of_and_an_open_one_is_not() {
        on_worker(async {
            for any in ["127.0.0.1:0", "[::1]:0"] {
                let (Ok(closed), Ok(socket)) = (UdpSocket::bind(any), UdpSocket::bind(any)) else { continue };
                let open = UdpSocket::bind(any).unwrap();
                let nobody = closed.local_addr().unwrap();
                drop(closed);
                socket.set_nonblocking(true).unwrap();
                let undelivered = Undelivered::of(&socket).unwrap();
                socket.send_to(b"to somebody", open.local_addr().unwrap()).unwrap();
                socket.send_to(b"to nobody", nobody).unwrap();
                let (to, error) = undelivered.next().await.unwrap();
                assert_eq!((to, error.kind()), (nobody, io::ErrorKind::ConnectionRefused));
                assert_eq!(take(&socket).unwrap_err().kind(), io::ErrorKind::WouldBlock, "there was one");
            }
        });
    }

    #[test]
    fn whatever_the_control_messages_hold_is_read_to_an_end() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..10_000 {
            let mut bytes = vec![0; random.usize(..100)];
            random.fill(&mut bytes);
            if bytes.len() > 8 && random.bool() {
                bytes[..8].copy_from_slice(&random.u64(..40).to_ne_bytes());
            }
            error_code(&bytes);
        }
    }
}
