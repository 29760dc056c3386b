//! Datagrams in batches: memory to receive many at once, as combined by the kernel (recvmmsg, GRO), the results of
//! sending, and sockets connected to one endpoint. Independent of a runtime.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use quinn_udp::{RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use super::options;
use super::socket::{self, Sources};
use super::sys::{self, Outgoing};
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

impl<'a> Outgoing<'a> {
    /// How many datagrams it is. An empty one is one.
    pub fn count(&self) -> u64 {
        self.bytes.len().div_ceil(self.size()).max(1) as u64
    }

    /// Each datagram.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (bytes, size) = (self.bytes, self.size());
        (0..self.count() as usize).map(move |nth| &bytes[nth * size..((nth + 1) * size).min(bytes.len())])
    }

    fn size(&self) -> usize {
        self.segment.map_or(self.bytes.len(), usize::from).max(1)
    }
}

impl<'a> Message<'a> {
    /// The same, to be sent on through a connected socket.
    pub fn outgoing(&self) -> Outgoing<'a> {
        let segment = (self.bytes.len() > self.segment).then_some(self.segment as u16);
        Outgoing { to: None, from: None, segment, bytes: self.bytes }
    }
}

/// What became of a batch of messages.
#[derive(Debug, Default)]
pub struct Delivery {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams that it did not take: no room, too long for the way, forbidden.
    pub dropped: u64,
    /// What a connected socket was told by ICMP, which ends a batch.
    pub error: Option<io::Error>,
    /// Messages before that; the others were not tried.
    pub tried: usize,
}

/// Sends what the kernel takes at once, and drops the rest.
pub fn deliver(socket: impl AsFd, batch: &[Outgoing<'_>]) -> Delivery {
    let mut delivery = Delivery::default();
    while let Some(message) = batch.get(delivery.tried) {
        match sys::send_batch(&socket, &batch[delivery.tried..]) {
            // Of what is not empty it takes one at least.
            Ok(sent) => {
                for message in &batch[delivery.tried..delivery.tried + sent] {
                    delivery.took(message);
                }
                delivery.tried += sent.max(1);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // The others would not fit either.
                delivery.dropped += batch[delivery.tried..].iter().map(Outgoing::count).sum::<u64>();
                delivery.tried = batch.len();
            }
            Err(error) if message.to.is_none() && is_told_by_icmp(&error) => {
                delivery.error = Some(error);
                return delivery;
            }
            Err(_) => {
                if message.segment.is_some() {
                    // The way is too narrow for a segment, or the card cannot cut.
                    delivery.one_by_one(&socket, message);
                } else {
                    delivery.dropped += 1;
                }
                delivery.tried += 1;
            }
        }
    }
    delivery
}

/// Whether an error of a connected socket says that datagrams do not reach its other end.
pub fn is_told_by_icmp(error: &io::Error) -> bool {
    use io::ErrorKind as Is;
    matches!(
        error.kind(),
        Is::ConnectionRefused | Is::ConnectionReset | Is::HostUnreachable | Is::NetworkUnreachable | Is::NetworkDown
    ) || matches!(error.raw_os_error(), Some(libc::EHOSTDOWN | libc::ENOPROTOOPT | libc::EPROTO | libc::ENONET))
}

impl Delivery {
    fn took(&mut self, message: &Outgoing<'_>) {
        self.datagrams += message.count();
        self.bytes += message.bytes.len() as u64;
    }

    fn one_by_one(&mut self, socket: &impl AsFd, message: &Outgoing<'_>) {
        for bytes in message.datagrams() {
            let one = Outgoing { segment: None, bytes, ..*message };
            match sys::send_batch(socket, &[one]) {
                Ok(_) => self.took(&one),
                Err(_) => self.dropped += 1,
            }
        }
    }
}

/// Prepares a socket that takes datagrams from clients: messages are put together, and where it is bound to every address
/// each tells which one it came to.
///
/// # Errors
/// What the kernel says.
pub fn prepare_listening(socket: impl AsFd, local: SocketAddr) -> io::Result<()> {
    // A kernel without it gives datagrams one by one.
    let _ = options::set_receive_offload(&socket, true);
    if local.ip().is_unspecified() { options::set_packet_info(socket, local.is_ipv6()) } else { Ok(()) }
}

/// A nonblocking socket that exchanges datagrams with `endpoint` alone, so that what ICMP tells of it becomes an error of
/// the socket, from the source whose turn it is.
///
/// # Errors
/// Out of descriptors, no way there; `AddrNotAvailable`: no source has a free port, or none is an address of ours.
pub fn connect(endpoint: SocketAddr, sources: &Sources, options: &SocketOptions) -> io::Result<UdpSocket> {
    let mut failure = None;
    for source in sources.turn(endpoint) {
        match connect_from(source, endpoint, options) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => failure = Some(error),
            // As a UDP socket says that it finds no free port.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                failure = Some(io::ErrorKind::AddrNotAvailable.into());
            }
            connected => return connected,
        }
    }
    Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

fn connect_from(source: Option<IpAddr>, endpoint: SocketAddr, options: &SocketOptions) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(endpoint), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket::prepare_datagrams(&socket, options)?;
    if let Some(source) = source {
        socket::connect_from(&socket, source)?;
    }
    socket.connect(&endpoint.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::net::sys::send_batch;
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
                let sent = message.outgoing();
                assert_eq!(sent.count(), sent.datagrams().count() as u64);
                lengths.extend(sent.datagrams().map(<[u8]>::len));
                for (nth, datagram) in sent.datagrams().enumerate().filter(|_| sent.segment.is_some()) {
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
    fn what_the_kernel_does_not_take_is_dropped_and_the_rest_is_not() {
        let (sender, receiver) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let to = |bytes: &'static [u8], segment| Outgoing {
            to: Some(receiver.local_addr().unwrap()),
            segment,
            ..Outgoing { bytes, ..Outgoing::NOTHING }
        };
        let long: &'static [u8] = Box::leak(vec![7; 65_530].into_boxed_slice());
        // The first is too long for the kernel to cut at once, and is cut here.
        let batch = [to(long, Some(60_000)), to(long, None), to(b"last", None)];
        let delivery = deliver(&sender, &batch);
        assert_eq!((delivery.datagrams, delivery.dropped, delivery.tried), (3, 1, 3));
        assert_eq!(delivery.bytes, 65_534);
        let mut bytes = vec![0; 65_536];
        let lengths: Vec<_> = (0..3).map(|_| receiver.recv(&mut bytes).unwrap()).collect();
        assert_eq!(lengths, [60_000, 5530, 4]);
    }

    #[test]
    fn a_batch_ends_at_what_icmp_told() {
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = connect(gone, &Sources::new(&[], 0), &plain_options()).unwrap();
        let batch = [Outgoing { bytes: b"x", ..Outgoing::NOTHING }; 3];
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            let delivery = deliver(&socket, &batch);
            assert_eq!(delivery.dropped, 0);
            if let Some(error) = delivery.error {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
                assert_eq!(delivery.datagrams, delivery.tried as u64);
                return;
            }
        }
        panic!("nobody was told");
    }

    #[test]
    fn an_endpoint_that_is_not_there_is_an_error_of_the_socket() {
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = connect(gone, &Sources::new(&[], 0), &plain_options()).unwrap();
        socket.send(b"anybody?").unwrap();
        let error = receive(&mut Inbox::new().unwrap(), &socket, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn flows_leave_from_the_sources_in_turn_and_pass_over_what_is_not_ours() {
        let endpoint = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let sources = ["127.0.0.7", "192.0.2.1", "127.0.0.8"].map(|source| source.parse().unwrap());
        let sources = Sources::new(&sources, 0);
        let from = || connect(endpoint, &sources, &plain_options()).unwrap().local_addr().unwrap().ip().to_string();
        assert_eq!([from(), from(), from(), from()], ["127.0.0.7", "127.0.0.8", "127.0.0.8", "127.0.0.7"]);
        let foreign = Sources::new(&["192.0.2.1".parse().unwrap()], 0);
        let error = connect(endpoint, &foreign, &plain_options()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
