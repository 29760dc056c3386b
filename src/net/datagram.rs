//! Datagrams in batches: memory that many are received into at once, as the kernel put them together (recvmmsg, GRO), and
//! sockets connected to one endpoint. Sending is [`sys::send_batch`]. Runtime-free.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use quinn_udp::{RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use super::{socket, sys};
use crate::config::model::SocketOptions;

/// Messages that an [`Inbox`] has room for.
pub const ROOM: usize = 32;

/// The longest message: a datagram of the largest size, or as many as the kernel puts together.
const LONGEST: usize = 65_535;
/// From one message to the next. A power of two would put the beginnings of all of them into the same few lines of the
/// processor's cache.
const STRIDE: usize = 65_536 + 4096 + 64;

/// Memory for [`ROOM`] messages; where datagrams are small most of it is never touched.
pub struct Inbox {
    state: UdpSocketState,
    memory: Box<[u8]>,
    metas: [RecvMeta; ROOM],
}

/// One message: a datagram, or several of one size that one sender sent in a row.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The sender, as the socket tells it.
    pub from: SocketAddr,
    /// The address of ours that it was sent to, where the socket was told to tell.
    pub to: Option<IpAddr>,
    /// The bytes of all of them.
    pub bytes: &'a [u8],
    /// The size of each but the last, which may be shorter; never zero.
    pub segment: usize,
}

impl Inbox {
    /// Room for messages.
    ///
    /// # Errors
    /// The system gives no socket at all.
    pub fn new() -> io::Result<Self> {
        // The state holds what the kernel can do and works for every socket; making one opens two more, too many for a flow.
        let probe = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("::1", 0)))?;
        let state = UdpSocketState::new((&probe).into())?;
        Ok(Self { state, memory: vec![0; ROOM * STRIDE].into(), metas: [RecvMeta::default(); ROOM] })
    }

    /// Receives up to `most` messages behind the first `kept` ones, whose memory is left alone. Fewer than that: there are
    /// no more now.
    ///
    /// # Errors
    /// What the kernel says: that there is nothing, or what ICMP told of a connected socket.
    pub fn receive(&mut self, socket: impl AsFd, kept: usize, most: usize) -> io::Result<usize> {
        let most = most.min(ROOM.saturating_sub(kept));
        let mut chunks = self.memory[kept * STRIDE..].chunks_exact_mut(STRIDE);
        let mut parts: [IoSliceMut<'_>; ROOM] = std::array::from_fn(|_| match chunks.next() {
            Some(chunk) => IoSliceMut::new(&mut chunk[..LONGEST]),
            None => IoSliceMut::new(&mut []),
        });
        self.state.recv((&socket).into(), &mut parts[..most], &mut self.metas[kept..])
    }

    /// What was received at a place.
    pub fn message(&self, place: usize) -> Message<'_> {
        let meta = &self.metas[place];
        let begin = place * STRIDE;
        Message {
            from: meta.addr,
            to: meta.dst_ip,
            bytes: &self.memory[begin..begin + meta.len],
            segment: meta.stride.max(1),
        }
    }
}

impl<'a> Message<'a> {
    /// How many datagrams it is. An empty one is one.
    pub fn count(&self) -> usize {
        self.bytes.len().div_ceil(self.segment).max(1)
    }

    /// Each datagram.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (bytes, segment) = (self.bytes, self.segment);
        (0..self.count()).map(move |nth| &bytes[nth * segment..((nth + 1) * segment).min(bytes.len())])
    }

    /// The size to cut it by when it is sent on; `None`: it is one datagram.
    pub fn cut(&self) -> Option<u16> {
        (self.bytes.len() > self.segment).then_some(self.segment as u16)
    }
}

/// Prepares a socket that takes datagrams from clients: messages are put together, and where it is bound to every address
/// each tells which one it came to.
///
/// # Errors
/// What the kernel says.
pub fn prepare_listening(socket: impl AsFd, local: SocketAddr) -> io::Result<()> {
    // A kernel without it gives datagrams one by one.
    let _ = sys::set_receive_offload(&socket);
    if local.ip().is_unspecified() { sys::set_packet_info(socket, local.is_ipv6()) } else { Ok(()) }
}

/// A nonblocking socket that exchanges datagrams with `endpoint` alone, so that what ICMP tells of it becomes an error of
/// the socket, from the address `source`, where one is given.
///
/// # Errors
/// Out of descriptors or ports, no way there, or `source` is none of our addresses.
pub fn connect(endpoint: SocketAddr, source: Option<IpAddr>, options: &SocketOptions) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(endpoint), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket::prepare_datagrams(&socket, options)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect(&endpoint.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::net::sys::{Outgoing, send_batch};
    use crate::net::testing::plain_options;

    fn receive(inbox: &mut Inbox, socket: &UdpSocket, kept: usize) -> io::Result<usize> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match inbox.receive(socket, kept, ROOM) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                    std::thread::yield_now();
                }
                received => return received,
            }
        }
    }

    fn listening(address: &str) -> UdpSocket {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        prepare_listening(&socket, socket.local_addr().unwrap()).unwrap();
        socket
    }

    #[test]
    fn datagrams_come_out_as_they_were_sent_however_the_kernel_puts_them_together() {
        let socket = listening("127.0.0.1:0");
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = Some(socket.local_addr().unwrap());
        let bytes: Vec<u8> = (0..5050).map(|n| (n / 1000) as u8).collect();
        let batch = [
            Outgoing { to, from: None, segment: Some(1000), bytes: &bytes },
            Outgoing { to, from: None, segment: None, bytes: &bytes },
            Outgoing { to, from: None, segment: None, bytes: b"" },
        ];
        assert_eq!(send_batch(&client, &batch).unwrap(), 3);
        let mut inbox = Inbox::new().unwrap();
        let mut lengths = Vec::new();
        let mut place = 0;
        while lengths.len() < 8 {
            let count = receive(&mut inbox, &socket, place).unwrap();
            for message in (place..place + count).map(|place| inbox.message(place)) {
                assert_eq!(message.from, client.local_addr().unwrap());
                assert_eq!(message.count(), message.datagrams().count());
                lengths.extend(message.datagrams().map(<[u8]>::len));
                for (nth, datagram) in message.datagrams().enumerate().filter(|_| message.cut().is_some()) {
                    assert!(datagram.iter().all(|byte| usize::from(*byte) == nth));
                }
            }
            place += count;
        }
        assert_eq!(lengths, [1000, 1000, 1000, 1000, 1000, 50, 5050, 0]);
    }

    #[test]
    fn what_is_kept_is_left_alone() {
        let socket = listening("127.0.0.1:0");
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(socket.local_addr().unwrap()).unwrap();
        let mut inbox = Inbox::new().unwrap();
        for n in 0..ROOM as u8 {
            client.send(&[n; 9]).unwrap();
            assert_eq!(receive(&mut inbox, &socket, usize::from(n)).unwrap(), 1);
        }
        assert!((0..ROOM).all(|n| inbox.message(n).bytes == [n as u8; 9]));
    }

    #[test]
    fn a_socket_for_every_address_tells_which_one_a_datagram_came_to() {
        let socket = listening("0.0.0.0:0");
        let port = socket.local_addr().unwrap().port();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut inbox = Inbox::new().unwrap();
        for address in ["127.0.0.1", "127.0.0.9"] {
            client.send_to(b"x", (address, port)).unwrap();
            receive(&mut inbox, &socket, 0).unwrap();
            assert_eq!(inbox.message(0).to, Some(address.parse().unwrap()));
        }
    }

    #[test]
    fn an_endpoint_that_is_not_there_is_an_error_of_the_socket() {
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let source = Some("127.0.0.7".parse().unwrap());
        let socket = connect(gone, source, &plain_options()).unwrap();
        assert_eq!(socket.local_addr().unwrap().ip(), source.unwrap());
        socket.send(b"anybody?").unwrap();
        let error = receive(&mut Inbox::new().unwrap(), &socket, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
