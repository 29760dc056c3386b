//! Listening sockets, independent of a runtime. The accepting thread turns a [`BoundSocket`] into a [`Listener`] or a
//! std socket; the control thread keeps a clone, so that reloads do not close a socket that is still configured.

mod datagram;

use std::fs::{File, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use super::accept::Listener;
use super::socket::{self, Granted};
use crate::base::addr::Address;
use crate::config::model::{Bind, EndpointAddress, Place, SocketOptions};

pub use datagram::{bind_datagram, ensure_datagram_free};

/// A socket that listens or takes datagrams, nonblocking.
#[derive(Debug)]
pub struct BoundSocket {
    inner: Inner,
    local: Address,
}

/// Held by everybody who reads one of the sockets of an address: when the last one closes, so do these. Empty where each
/// may close on its own; where the kernel finds a socket by its place in the group, all of them, so that none moves up.
#[derive(Debug, Default)]
pub struct Group(pub Vec<BoundSocket>);

#[derive(Debug)]
enum Inner {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
    Udp(UdpSocket),
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// As the configuration writes it.
    pub address: String,
    /// Where it is written, as far as whoever asked knows.
    pub place: Option<Place>,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl BindError {
    /// What can be done about it, where that is known.
    pub fn help(&self) -> Option<&'static str> {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => Some("another process listens there"),
            io::ErrorKind::PermissionDenied => Some(
                "ports below 1024 need the capability CAP_NET_BIND_SERVICE; where `server.user` took it away, restart to \
                 bind another",
            ),
            io::ErrorKind::AddrNotAvailable => Some("no interface of this machine has the address"),
            _ => None,
        }
    }
}

/// Opens `members` sockets that share one address: connections are spread over them by the kernel (SO_REUSEPORT). With
/// port 0 the first picks the port and the others join. A Unix socket is one socket with `members` descriptors.
///
/// # Errors
/// The address is taken, not ours, or not permitted, or an option was refused.
pub fn bind(bind: &Bind, options: &SocketOptions, members: usize) -> Result<Vec<BoundSocket>, BindError> {
    let sockets = match bind {
        Bind::AnyAddress(port) => bind_any(*port, options, members),
        Bind::Address(address) => bind_tcp(*address, true, options, members),
        Bind::Unix(path) => bind_unix(path, options, members),
    };
    sockets.map_err(|source| BindError { address: name(bind), source, place: None })
}

/// Opens one socket that shares its address with nobody. The file of a Unix socket lets in nobody but its owner, from the
/// first moment on.
///
/// # Errors
/// The address is taken, not ours, or not permitted.
pub fn bind_private(bind: &Bind) -> Result<BoundSocket, BindError> {
    let tcp = |address: SocketAddr, only_v6| {
        let socket = new_socket(address, only_v6)?;
        socket.bind(&address.into())?;
        socket.listen(PRIVATE_BACKLOG)?;
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(BoundSocket { inner: Inner::Tcp(socket.into()), local: Address::Socket(address) })
    };
    let bound = match bind {
        Bind::AnyAddress(port) => match tcp((Ipv6Addr::UNSPECIFIED, *port).into(), false) {
            Err(error) if is_without_ipv6(&error) => tcp((Ipv4Addr::UNSPECIFIED, *port).into(), true),
            bound => bound,
        },
        Bind::Address(address) => tcp(*address, true),
        Bind::Unix(path) => bind_unix_private(path),
    };
    bound.map_err(|source| BindError { address: name(bind), source, place: None })
}

/// Whether a connection to `address` would arrive at `bind` on this machine, whichever of its addresses that names.
pub fn is_reached_at(bind: &Bind, address: SocketAddr) -> bool {
    let every_address = match bind {
        Bind::AnyAddress(port) => *port == address.port(),
        Bind::Address(own) => own.ip().is_unspecified() && own.port() == address.port(),
        Bind::Unix(_) => false,
    };
    bind.is_reached_at(&EndpointAddress::Socket(address)) || every_address && is_of_this_machine(address.ip())
}

/// Whether a socket can be bound to `ip` here: the kernel lets it have no address but ours; nothing is sent.
pub fn is_of_this_machine(ip: IpAddr) -> bool {
    UdpSocket::bind((ip.to_canonical(), 0)).is_ok()
}

/// Whether nobody listens on `bind`. A member of a SO_REUSEPORT group joins whoever else has that option set under the
/// same user, another instance of this program included, so a start asks first.
///
/// # Errors
/// The address is taken, not ours, or not permitted.
pub fn ensure_free(bind: &Bind) -> Result<(), BindError> {
    let probe = |address: SocketAddr, only_v6| new_socket(address, only_v6)?.bind(&address.into());
    let free = match bind {
        Bind::AnyAddress(0) | Bind::Unix(_) => Ok(()),
        Bind::AnyAddress(port) => match probe((Ipv6Addr::UNSPECIFIED, *port).into(), false) {
            Err(error) if is_without_ipv6(&error) => probe((Ipv4Addr::UNSPECIFIED, *port).into(), true),
            free => free,
        },
        Bind::Address(address) if address.port() == 0 => Ok(()),
        Bind::Address(address) => probe(*address, true),
    };
    free.map_err(|source| BindError { address: name(bind), source, place: None })
}

/// The address as the configuration writes it.
pub fn name(bind: &Bind) -> String {
    match bind {
        Bind::AnyAddress(port) => format!(":{port}"),
        Bind::Address(address) => address.to_string(),
        Bind::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn bind_any(port: u16, options: &SocketOptions, members: usize) -> io::Result<Vec<BoundSocket>> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match bind_tcp(both, false, options, members) {
        Err(error) if is_without_ipv6(&error) => {
            bind_tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), true, options, members)
        }
        sockets => sockets,
    }
}

/// The kernel was built or started without IPv6, or has it off on every interface.
fn is_without_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

pub(super) fn bind_tcp(
    mut address: SocketAddr,
    only_v6: bool,
    options: &SocketOptions,
    members: usize,
) -> io::Result<Vec<BoundSocket>> {
    let mut sockets = Vec::with_capacity(members);
    for _ in 0..members {
        let socket = new_socket(address, only_v6)?;
        socket.set_reuse_port(true)?;
        socket::prepare_listener(&socket, options)?;
        socket.bind(&address.into())?;
        // Port 0 was picked by the first; the others have to join it.
        address = socket.local_addr()?.as_socket().unwrap_or(address);
        sockets.push(socket);
    }
    // Only when all of them are bound: a failure half-way must not have taken a client's connection.
    let listen = |socket: Socket| {
        socket.listen(socket::backlog(options))?;
        Ok(BoundSocket { inner: Inner::Tcp(socket.into()), local: Address::Socket(address) })
    };
    sockets.into_iter().map(listen).collect()
}

fn new_socket(address: SocketAddr, only_v6: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]:80` means IPv6; `:80` means both.
        socket.set_only_v6(only_v6)?;
    }
    // Connections of the last process in TIME_WAIT shall not keep the address.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn bind_unix(path: &Path, options: &SocketOptions, members: usize) -> io::Result<Vec<BoundSocket>> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    socket.listen(socket::backlog(options))?;
    let first = BoundSocket { inner: Inner::Unix(socket.into()), local: Address::from(path) };
    let mut sockets = Vec::with_capacity(members);
    for _ in 1..members {
        sockets.push(first.try_clone()?);
    }
    sockets.push(first);
    Ok(sockets)
}

fn bind_unix_private(path: &Path) -> io::Result<BoundSocket> {
    remove_stale(path)?;
    let socket = File::from(OwnedFd::from(Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?));
    // On Linux bind(2) makes the file with the mode that the socket has by then, less the umask: there is no moment at
    // which others could connect, as there would be with a chmod(2) of the file.
    socket.set_permissions(Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    socket.listen(PRIVATE_BACKLOG)?;
    Ok(BoundSocket { inner: Inner::Unix(socket.into()), local: Address::from(path) })
}

/// Removes the file that a process left behind, and only that: not one that somebody listens on, nor one that is no
/// socket.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is not a socket"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        // Somebody listens, or nobody can tell.
        Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Clients that may wait for a listener of operators.
const PRIVATE_BACKLOG: i32 = 128;

impl BoundSocket {
    /// A socket that somebody else had opened; it listens and is nonblocking.
    pub(super) fn inherited(socket: Socket, local: Address) -> Self {
        let inner = match &local {
            Address::Socket(_) => Inner::Tcp(socket.into()),
            Address::Unix(_) => Inner::Unix(socket.into()),
        };
        Self { inner, local }
    }

    /// Where it listens, with the port the kernel picked.
    pub fn local_address(&self) -> &Address {
        &self.local
    }

    /// A second descriptor of the same socket.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        let inner = match &self.inner {
            Inner::Tcp(listener) => Inner::Tcp(listener.try_clone()?),
            Inner::Unix(listener) => Inner::Unix(listener.try_clone()?),
            Inner::Udp(socket) => Inner::Udp(socket.try_clone()?),
        };
        Ok(Self { inner, local: self.local.clone() })
    }

    /// Registers it with the runtime of this thread.
    ///
    /// # Errors
    /// When the runtime cannot take it, or it takes datagrams.
    pub fn into_listener(self) -> io::Result<Listener> {
        match self.inner {
            Inner::Tcp(listener) => tokio::net::TcpListener::from_std(listener).map(Listener::Tcp),
            Inner::Unix(listener) => tokio::net::UnixListener::from_std(listener).map(Listener::Unix),
            Inner::Udp(_) => Err(unfit()),
        }
    }

    /// As what an event loop of its own accepts from, nonblocking.
    ///
    /// # Errors
    /// It is no TCP socket.
    pub fn into_tcp(self) -> io::Result<std::net::TcpListener> {
        if let Inner::Tcp(listener) = self.inner { Ok(listener) } else { Err(unfit()) }
    }

    /// As what an event loop of its own accepts from, nonblocking.
    ///
    /// # Errors
    /// It is no Unix socket.
    pub fn into_unix(self) -> io::Result<UnixListener> {
        if let Inner::Unix(listener) = self.inner { Ok(listener) } else { Err(unfit()) }
    }

    /// As what an event loop of its own takes datagrams from, nonblocking.
    ///
    /// # Errors
    /// It takes no datagrams.
    pub fn into_udp(self) -> io::Result<UdpSocket> {
        if let Inner::Udp(socket) = self.inner { Ok(socket) } else { Err(unfit()) }
    }

    /// Changes the options of a socket that listens already; connections accepted from now on inherit them. A buffer
    /// size that is no longer written stays what it was. A Unix socket has only the backlog, one for datagrams only
    /// the buffers.
    ///
    /// # Errors
    /// What the kernel refused; what came before it in the list is changed.
    pub fn change_options(&self, options: &SocketOptions) -> io::Result<()> {
        match &self.inner {
            Inner::Tcp(listener) => socket::change_listener(listener, options)?,
            Inner::Unix(_) => {}
            Inner::Udp(socket) => return socket::prepare_datagrams(socket, options),
        }
        // A second listen(2) changes nothing but the backlog.
        socket2::SockRef::from(self).listen(socket::backlog(options))
    }

    /// What the kernel granted of `asked`; `None` for a Unix socket, which has none of the options.
    pub fn granted(&self, asked: &SocketOptions) -> Option<Granted> {
        match &self.inner {
            Inner::Tcp(listener) => Granted::of_listener(listener, asked).ok(),
            Inner::Unix(_) => None,
            Inner::Udp(socket) => Granted::of_datagrams(socket, asked).ok(),
        }
    }
}

impl AsFd for BoundSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.inner {
            Inner::Tcp(listener) => listener.as_fd(),
            Inner::Unix(listener) => listener.as_fd(),
            Inner::Udp(socket) => socket.as_fd(),
        }
    }
}

fn unfit() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "a socket of another kind")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::accept::Accept;
    use crate::net::testing::{on_worker, plain_options};
    use std::net::TcpStream;

    fn loopback() -> Bind {
        Bind::Address("127.0.0.1:0".parse().unwrap())
    }

    fn port(socket: &BoundSocket) -> u16 {
        match socket.local_address() {
            Address::Socket(address) => address.port(),
            Address::Unix(_) => panic!("not TCP"),
        }
    }

    #[test]
    fn every_member_of_a_group_gets_connections() {
        on_worker(async {
            let members = bind(&loopback(), &plain_options(), 3).unwrap();
            let address = ("127.0.0.1", port(&members[0]));
            assert!(members.iter().all(|member| member.local_address() == members[0].local_address()));
            let mut listeners: Vec<_> = members.into_iter().map(|member| member.into_listener().unwrap()).collect();
            let mut accepted = [0; 3];
            for _ in 0..500 {
                let _client = TcpStream::connect(address).unwrap();
                for (count, listener) in accepted.iter_mut().zip(&mut listeners) {
                    *count += u32::from(listener.accept_now().is_ok());
                }
                if accepted.iter().all(|count| *count > 0) {
                    return;
                }
            }
            panic!("a member got nothing: {accepted:?}");
        });
    }

    #[test]
    fn a_port_without_address_takes_both_families() {
        on_worker(async {
            let bound = bind(&Bind::AnyAddress(0), &plain_options(), 1).unwrap().remove(0);
            let port = port(&bound);
            let mut listener = bound.into_listener().unwrap();
            let _v4 = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (_, remote) = listener.accept_now().unwrap();
            // Not `::ffff:127.0.0.1`.
            assert!(remote.unwrap().is_ipv4());
            if let Ok(_v6) = TcpStream::connect(("::1", port)) {
                assert!(listener.accept_now().unwrap().1.unwrap().is_ipv6());
            }
        });
    }

    #[test]
    fn an_ipv6_address_leaves_ipv4_to_another_listener() {
        let Ok(v6) = bind(&Bind::Address("[::]:0".parse().unwrap()), &plain_options(), 1) else { return };
        let v4 = Bind::Address(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port(&v6[0]))));
        assert!(ensure_free(&v4).is_ok());
    }

    #[test]
    fn an_address_somebody_listens_on_is_not_free() {
        let members = bind(&loopback(), &plain_options(), 2).unwrap();
        let taken = Bind::Address(SocketAddr::from((Ipv4Addr::LOCALHOST, port(&members[0]))));
        let error = ensure_free(&taken).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.help().is_some());
        assert!(error.to_string().starts_with("cannot listen on 127.0.0.1:"), "{error}");
        assert!(ensure_free(&Bind::AnyAddress(port(&members[0]))).is_err());
        drop(members);
        assert!(ensure_free(&taken).is_ok());
    }

    #[test]
    fn every_address_of_this_machine_leads_to_a_wildcard() {
        let every = Bind::AnyAddress(9);
        let reached = |bind: &Bind, address: &str| is_reached_at(bind, address.parse().unwrap());
        assert!(reached(&every, "127.0.0.1:9") && reached(&every, "127.1.2.3:9") && reached(&every, "0.0.0.0:9"));
        assert!(!reached(&every, "127.0.0.1:10") && !reached(&every, "192.0.2.1:9"));
        let one = Bind::Address("127.0.0.1:9".parse().unwrap());
        assert!(reached(&one, "127.0.0.1:9") && !reached(&one, "127.0.0.2:9"));
        // The address that packets to another machine leave from is one of ours.
        let routed = UdpSocket::bind("0.0.0.0:0").unwrap();
        if routed.connect("192.0.2.1:9").is_ok() {
            assert!(is_reached_at(&every, SocketAddr::new(routed.local_addr().unwrap().ip(), 9)));
        }
    }

    #[test]
    fn an_address_of_another_machine_is_a_fault() {
        let error = bind(&Bind::Address("192.0.2.1:80".parse().unwrap()), &plain_options(), 1).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn a_socket_stays_open_while_a_clone_lives() {
        let bound = bind(&loopback(), &plain_options(), 1).unwrap().remove(0);
        let kept = bound.try_clone().unwrap();
        let port = port(&bound);
        drop(bound);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
        drop(kept);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    #[test]
    fn a_stale_socket_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        drop(UnixListener::bind(&path).unwrap());
        on_worker(async {
            let members = bind(&Bind::Unix(path.clone()), &plain_options(), 2).unwrap();
            assert_eq!(members.len(), 2);
            let _client = UnixStream::connect(&path).unwrap();
            for member in members {
                if member.into_listener().unwrap().accept_now().is_ok() {
                    return;
                }
            }
            panic!("no descriptor accepts");
        });
    }

    #[test]
    fn a_socket_file_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.sock");
        let _other = UnixListener::bind(&path).unwrap();
        let error = bind(&Bind::Unix(path.clone()), &plain_options(), 1).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious.txt");
        std::fs::write(&path, "precious").unwrap();
        let error = bind(&Bind::Unix(path.clone()), &plain_options(), 1).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
