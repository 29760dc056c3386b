//! The configured socket options, set with socket2 on listeners and on connections to endpoints, and the values granted
//! by the kernel. Independent of a runtime. Accepted connections inherit all of them from their listener (Linux copies
//! the socket), so accepting needs no further system call; a test verifies that.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};

use super::{options, sys};
use crate::config::defaults;
use crate::config::model::{Keepalive, SocketOptions};

/// Sets the options on a socket that is to listen; before `listen`, so that the buffer sizes are known when a window
/// scale is agreed.
///
/// # Errors
/// What the kernel refused.
pub fn prepare_listener(socket: &impl AsFd, options: &SocketOptions) -> io::Result<()> {
    prepare(socket, options)?;
    if options.fast_open {
        options::set_fast_open(socket, backlog(options))?;
    }
    Ok(())
}

/// Sets the options on a socket that listens already, and takes back those that are no longer asked for.
///
/// # Errors
/// What the kernel refused.
pub fn change_listener(socket: &impl AsFd, options: &SocketOptions) -> io::Result<()> {
    let reference = SockRef::from(socket);
    reference.set_tcp_nodelay(options.nodelay)?;
    reference.set_keepalive(options.keepalive.is_some())?;
    // Zero is the system's own.
    reference.set_tcp_user_timeout(options.user_timeout)?;
    if !options.fast_open {
        options::set_fast_open(socket, 0)?;
    }
    prepare_listener(socket, options)
}

/// Sets the sizes of the buffers on a socket for datagrams, at any time; the other options are TCP's.
///
/// # Errors
/// What the kernel refused.
pub fn prepare_datagrams(socket: &impl AsFd, options: &SocketOptions) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if let Some(bytes) = options.recv_buffer {
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    if let Some(bytes) = options.send_buffer {
        socket.set_send_buffer_size(bytes as usize)?;
    }
    Ok(())
}

/// Sets the options on a socket that is to connect; before `connect`, for the same reason.
///
/// # Errors
/// What the kernel refused.
pub fn prepare_connection(socket: &impl AsFd, options: &SocketOptions) -> io::Result<()> {
    keep_alive(socket, options)?;
    prepare_brief_connection(socket, options)
}

/// Has `socket`, which is to connect, do so from `source`. The port is left to `connect`, which finds one that is free
/// towards the endpoint (IP_BIND_ADDRESS_NO_PORT): chosen here, it would be taken for every endpoint.
///
/// # Errors
/// `AddrNotAvailable`, around [`NotOurs`]: `source` is no address of this machine. The same word from `connect` later says
/// that every port of `source` towards the endpoint is in use. Another source may do either way.
pub fn connect_from(socket: &impl AsFd, source: IpAddr) -> io::Result<()> {
    // An IPv6 socket takes this option of IPv4 as well.
    sys::set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    bind_source(socket, SocketAddr::new(source, 0))
}

/// No interface of this machine has the address that a connection was to come from.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not an address of this machine")]
pub struct NotOurs(pub IpAddr);

/// A socket for datagrams to endpoints, which nobody else sends to: bound to `source`, or to no address in particular where that
/// is unspecified, and to a free port. Asks for several MiB of room, what a fast path brings while a worker is
/// busy for some milliseconds; the kernel gives what it is allowed to.
///
/// # Errors
/// As [`connect_from`], or the kernel's.
pub fn datagrams_from(source: IpAddr) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(source, 0);
    let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(defaults::QUIC_SOCKET_BUFFER as usize)?;
    socket.set_send_buffer_size(defaults::QUIC_SOCKET_BUFFER as usize)?;
    if source.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    bind_source(&socket, address)?;
    Ok(socket.into())
}

fn bind_source(socket: &impl AsFd, source: SocketAddr) -> io::Result<()> {
    SockRef::from(socket).bind(&source.into()).map_err(|error| match error.kind() {
        io::ErrorKind::AddrNotAvailable => io::Error::new(error.kind(), NotOurs(source.ip())),
        _ => error,
    })
}

/// `upstream.source` as one worker goes through it.
#[derive(Debug, Default)]
pub struct Sources {
    v4: Box<[IpAddr]>,
    v6: Box<[IpAddr]>,
    next: Cell<usize>,
}

impl Sources {
    /// The addresses for worker number `worker`; each begins with another one.
    pub fn new(addresses: &[IpAddr], worker: usize) -> Self {
        let (v4, v6): (Vec<_>, Vec<_>) =
            addresses.iter().map(IpAddr::to_canonical).partition(|address| address.is_ipv4());
        Self { v4: v4.into(), v6: v6.into(), next: Cell::new(worker) }
    }

    /// Where to connect to `endpoint` from, in the order to be tried: every address of its family once, beginning with
    /// the one whose turn it is. Where there is none, a single `None`: the choice is the system's.
    pub fn turn(&self, endpoint: SocketAddr) -> impl Iterator<Item = Option<IpAddr>> {
        let addresses = if endpoint.is_ipv4() { &self.v4 } else { &self.v6 };
        let begin = self.next.get();
        if !addresses.is_empty() {
            self.next.set(begin.wrapping_add(1));
        }
        let count = addresses.len().max(1);
        (0..count).map(move |step| addresses.get(begin.wrapping_add(step) % count).copied())
    }
}

/// As [`prepare_connection`], without the keep-alive, which is for later: [`keep_alive`].
///
/// # Errors
/// What the kernel refused.
pub fn prepare_brief_connection(socket: &impl AsFd, options: &SocketOptions) -> io::Result<()> {
    prepare_buffers(socket, options)?;
    if options.fast_open {
        options::set_fast_open_connect(socket, true)?;
    }
    Ok(())
}

/// Has the kernel ask a silent peer whether it is still there.
///
/// # Errors
/// What the kernel refused.
pub fn keep_alive(socket: &impl AsFd, options: &SocketOptions) -> io::Result<()> {
    let Some(Keepalive { idle, interval, count }) = options.keepalive else { return Ok(()) };
    let times = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count);
    SockRef::from(socket).set_tcp_keepalive(&times)
}

/// The backlog as `listen` takes it.
pub fn backlog(options: &SocketOptions) -> i32 {
    i32::try_from(options.backlog).unwrap_or(i32::MAX)
}

fn prepare(socket: &impl AsFd, options: &SocketOptions) -> io::Result<()> {
    keep_alive(socket, options)?;
    prepare_buffers(socket, options)
}

fn prepare_buffers(socket: &impl AsFd, options: &SocketOptions) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if options.user_timeout.is_some() {
        socket.set_tcp_user_timeout(options.user_timeout)?;
    }
    prepare_datagrams(&*socket, options)
}

/// Out of descriptors or of memory: no fault of the address, and over when something else is closed.
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// What the kernel granted, for the log: it doubles buffer sizes for its own bookkeeping, caps them at
/// `net.core.{r,w}mem_max`, and caps the backlog at `net.core.somaxconn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// SO_KEEPALIVE with its times.
    pub keepalive: Option<Keepalive>,
    /// SO_RCVBUF in bytes.
    pub recv_buffer: usize,
    /// SO_SNDBUF in bytes.
    pub send_buffer: usize,
    /// TCP_USER_TIMEOUT; `None`: the system's.
    pub user_timeout: Option<Duration>,
    /// TCP_FASTOPEN or TCP_FASTOPEN_CONNECT.
    pub fast_open: bool,
    /// The listen backlog; `None` for a connection.
    pub backlog: Option<u32>,
    /// Whether only the buffers mean something.
    datagrams: bool,
    asked: SocketOptions,
}

impl Granted {
    /// Reads back what a listening TCP socket has.
    ///
    /// # Errors
    /// What the kernel refused to tell.
    pub fn of_listener(socket: &impl AsFd, asked: &SocketOptions) -> io::Result<Self> {
        let mut granted = Self::of_connection(socket, asked)?;
        granted.fast_open = options::fast_open(socket)? > 0;
        granted.backlog = Some(asked.backlog.min(somaxconn().unwrap_or(asked.backlog)));
        Ok(granted)
    }

    /// Reads back what a TCP connection has.
    ///
    /// # Errors
    /// What the kernel refused to tell.
    pub fn of_connection(socket: &impl AsFd, asked: &SocketOptions) -> io::Result<Self> {
        let reference = SockRef::from(socket);
        let keepalive = if reference.keepalive()? {
            Some(Keepalive {
                idle: reference.tcp_keepalive_time()?,
                interval: reference.tcp_keepalive_interval()?,
                count: reference.tcp_keepalive_retries()?,
            })
        } else {
            None
        };
        Ok(Self {
            nodelay: reference.tcp_nodelay()?,
            keepalive,
            recv_buffer: reference.recv_buffer_size()?,
            send_buffer: reference.send_buffer_size()?,
            user_timeout: reference.tcp_user_timeout()?,
            fast_open: options::fast_open_connect(socket)?,
            backlog: None,
            datagrams: false,
            asked: asked.clone(),
        })
    }

    /// Reads back what a socket for datagrams has.
    ///
    /// # Errors
    /// What the kernel refused to tell.
    pub fn of_datagrams(socket: &impl AsFd, asked: &SocketOptions) -> io::Result<Self> {
        let reference = SockRef::from(socket);
        Ok(Self {
            nodelay: false,
            keepalive: None,
            recv_buffer: reference.recv_buffer_size()?,
            send_buffer: reference.send_buffer_size()?,
            user_timeout: None,
            fast_open: false,
            backlog: None,
            datagrams: true,
            asked: asked.clone(),
        })
    }
}

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.datagrams {
            buffer(f, "recv buffer", self.recv_buffer, self.asked.recv_buffer)?;
            f.write_str(", ")?;
            return buffer(f, "send buffer", self.send_buffer, self.asked.send_buffer);
        }
        write!(f, "nodelay {}", on(self.nodelay))?;
        match &self.keepalive {
            Some(Keepalive { idle, interval, count }) => write!(f, ", keepalive {idle:?}/{interval:?}/{count}")?,
            None => f.write_str(", keepalive off")?,
        }
        if let Some(backlog) = self.backlog {
            write!(f, ", backlog {backlog}")?;
            if backlog < self.asked.backlog {
                write!(f, " (asked {}, net.core.somaxconn)", self.asked.backlog)?;
            }
        }
        f.write_str(", ")?;
        buffer(f, "recv buffer", self.recv_buffer, self.asked.recv_buffer)?;
        f.write_str(", ")?;
        buffer(f, "send buffer", self.send_buffer, self.asked.send_buffer)?;
        write!(f, ", fast open {}", on(self.fast_open))?;
        match self.user_timeout {
            Some(timeout) => write!(f, ", user timeout {timeout:?}"),
            None => Ok(()),
        }
    }
}

fn on(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

fn buffer(f: &mut fmt::Formatter<'_>, name: &str, granted: usize, asked: Option<u32>) -> fmt::Result {
    write!(f, "{name} {granted}")?;
    match asked {
        // The kernel doubles what it is asked for; less than that is a cap the operator wants to hear of.
        Some(asked) if granted < 2 * asked as usize => write!(f, " (asked {asked}, capped by the kernel)"),
        Some(asked) => write!(f, " (asked {asked})"),
        None => Ok(()),
    }
}

fn somaxconn() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::Address;
    use crate::config::model::Bind;
    use crate::net::accept::Accept;
    use crate::net::bind::bind;
    use crate::net::connect::connect;
    use crate::net::testing::{on_worker, plain_options};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn every_option() -> SocketOptions {
        SocketOptions {
            nodelay: true,
            keepalive: Some(Keepalive { idle: Duration::from_secs(61), interval: Duration::from_secs(16), count: 5 }),
            backlog: 77,
            recv_buffer: Some(70_000),
            send_buffer: Some(90_000),
            fast_open: true,
            user_timeout: Some(Duration::from_millis(31_000)),
        }
    }

    fn assert_granted(granted: &Granted, options: &SocketOptions) {
        assert_eq!(granted.nodelay, options.nodelay);
        assert_eq!(granted.keepalive, options.keepalive);
        assert_eq!(granted.recv_buffer, 140_000);
        assert_eq!(granted.send_buffer, 180_000);
        assert_eq!(granted.user_timeout, options.user_timeout);
    }

    #[test]
    fn an_accepted_connection_inherits_every_option_from_its_listener() {
        on_worker(async {
            let options = every_option();
            let bound = bind(&Bind::Address("127.0.0.1:0".parse().unwrap()), &options, 1).unwrap().remove(0);
            let granted = bound.granted(&options).unwrap();
            assert_granted(&granted, &options);
            assert!(granted.fast_open);
            assert_eq!(granted.backlog, Some(77));

            let Address::Socket(address) = *bound.local_address() else { panic!("not TCP") };
            let _client = std::net::TcpStream::connect(address).unwrap();
            let mut listener = bound.into_listener().unwrap();
            let (accepted, _) = listener.accept_now().unwrap();
            assert_granted(&Granted::of_connection(&accepted, &options).unwrap(), &options);
        });
    }

    #[test]
    fn connections_accepted_after_a_change_inherit_the_new_options() {
        on_worker(async {
            let (old, new) = (every_option(), SocketOptions { backlog: 10, ..plain_options() });
            let bound = bind(&Bind::Address("127.0.0.1:0".parse().unwrap()), &old, 1).unwrap().remove(0);
            bound.change_options(&new).unwrap();
            assert!(!bound.granted(&new).unwrap().fast_open);
            let _client = std::net::TcpStream::connect(bound.local_address().to_string()).unwrap();
            let (accepted, _) = bound.into_listener().unwrap().accept_now().unwrap();
            let granted = Granted::of_connection(&accepted, &new).unwrap();
            assert!(!granted.nodelay && granted.keepalive.is_none() && granted.user_timeout.is_none());
        });
    }

    #[test]
    fn without_options_a_connection_keeps_the_defaults_of_the_system() {
        on_worker(async {
            let options = plain_options();
            let bound = bind(&Bind::Address("127.0.0.1:0".parse().unwrap()), &options, 1).unwrap().remove(0);
            let address = bound.local_address().clone();
            let socket = connect(&[address], &options, &Sources::default()).await.unwrap();
            let granted = Granted::of_connection(&socket, &options).unwrap();
            assert!(!granted.nodelay && granted.keepalive.is_none() && !granted.fast_open);
            assert_eq!(granted.user_timeout, None);
        });
    }

    #[test]
    fn a_connection_to_an_endpoint_gets_every_option_and_carries_bytes() {
        on_worker(async {
            let options = every_option();
            let bound = bind(&Bind::Address("127.0.0.1:0".parse().unwrap()), &options, 1).unwrap().remove(0);
            let address = bound.local_address().clone();
            let mut listener = bound.into_listener().unwrap();
            let mut socket = connect(&[address], &options, &Sources::default()).await.unwrap();
            let granted = Granted::of_connection(&socket, &options).unwrap();
            assert_granted(&granted, &options);
            assert!(granted.fast_open);
            // With TCP_FASTOPEN_CONNECT the SYN may leave only with the first bytes.
            socket.write_all(b"hello").await.unwrap();
            let (mut accepted, _) = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            let mut bytes = [0; 5];
            accepted.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, b"hello");
        });
    }

    #[test]
    fn sources_take_turns_within_the_family_of_the_endpoint() {
        let addresses: Vec<IpAddr> =
            ["127.0.0.1", "::1", "::ffff:127.0.0.2", "127.0.0.3"].map(|address| address.parse().unwrap()).into();
        let turn = |sources: &Sources, endpoint: &str| -> Vec<String> {
            let told = |source: Option<IpAddr>| source.map_or("any".to_owned(), |source| source.to_string());
            sources.turn(endpoint.parse().unwrap()).map(told).collect()
        };
        let sources = Sources::new(&addresses, 1);
        assert_eq!(turn(&sources, "10.0.0.1:80"), ["127.0.0.2", "127.0.0.3", "127.0.0.1"]);
        assert_eq!(turn(&sources, "10.0.0.1:80"), ["127.0.0.3", "127.0.0.1", "127.0.0.2"]);
        assert_eq!(turn(&sources, "[2001:db8::1]:80"), ["::1"]);
        assert_eq!(turn(&Sources::new(&addresses[..1], 0), "[::1]:80"), ["any"]);
        assert_eq!(turn(&Sources::default(), "10.0.0.1:80"), ["any"]);
    }

    #[test]
    fn a_source_is_bound_and_its_port_is_left_open() {
        use socket2::{Domain, Socket, Type};
        for (domain, source) in [(Domain::IPV4, "127.0.0.9"), (Domain::IPV6, "::1")] {
            for kind in [Type::STREAM, Type::DGRAM] {
                let Ok(socket) = Socket::new(domain, kind, None) else { continue };
                connect_from(&socket, source.parse().unwrap()).unwrap();
                let bound = socket.local_addr().unwrap().as_socket().unwrap();
                assert_eq!((bound.ip().to_string().as_str(), bound.port()), (source, 0));
            }
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // RFC 5737: an address for documentation is nobody's.
        let error = connect_from(&socket, "192.0.2.1".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn tells_what_the_kernel_made_of_the_request() {
        let mut asked = every_option();
        asked.backlog = 1_000_000;
        asked.recv_buffer = Some(1_000_000_000);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        prepare_listener(&listener, &asked).unwrap();
        let told = Granted::of_listener(&listener, &asked).unwrap().to_string();
        assert!(told.contains("nodelay on, keepalive 61s/16s/5, backlog "), "{told}");
        assert!(told.contains("(asked 1000000, net.core.somaxconn)"), "{told}");
        assert!(told.contains("(asked 1000000000, capped by the kernel)"), "{told}");
        assert!(told.contains("send buffer 180000 (asked 90000), fast open on, user timeout 31s"), "{told}");
    }
}
