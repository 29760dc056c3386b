//! Listening sockets inherited from the parent process (systemd's socket activation): their addresses, and how the
//! workers share them. The last descriptor of one is never closed while the process lives, so that clients in its
//! backlog are not reset.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Socket, Type};

use super::bind::{self, BoundSocket};
use crate::base::addr::Address;
use crate::config::model::{Bind, SocketOptions};

/// A stream socket that listens and that others had opened, nonblocking.
#[derive(Debug)]
pub struct InheritedSocket {
    socket: Socket,
    name: String,
    local: Address,
    /// Whether IPv4 stays out; `None`: no IPv6 socket.
    only_v6: Option<bool>,
}

impl InheritedSocket {
    /// Looks at a descriptor; `name` is what its giver calls it.
    ///
    /// # Errors
    /// It is no stream socket that listens on TCP or on a path, or is out of order.
    pub fn new(descriptor: OwnedFd, name: String) -> io::Result<Self> {
        let socket = Socket::from(descriptor);
        let unfit = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
            return Err(unfit("not a stream socket that listens"));
        }
        let address = socket.local_addr()?;
        let local = match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => Address::Socket(address),
            (None, Some(path)) => Address::from(path),
            (None, None) => return Err(unfit("neither TCP nor a Unix socket with a path")),
        };
        socket.set_nonblocking(true)?;
        let only_v6 = if socket.domain()? == Domain::IPV6 { Some(socket.only_v6()?) } else { None };
        Ok(Self { socket, name, local, only_v6 })
    }

    /// What its giver calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn local_address(&self) -> &Address {
        &self.local
    }

    /// Whether it is bound to what `bind` says. A port alone means both address families.
    pub fn is_at(&self, bind: &Bind) -> bool {
        match (bind, &self.local) {
            (Bind::Unix(wanted), Address::Unix(path)) => wanted.as_path() == &**path,
            (Bind::Address(wanted), Address::Socket(local)) => {
                wanted.port() != 0 && (wanted.ip(), wanted.port()) == (local.ip(), local.port())
            }
            (Bind::AnyAddress(wanted), Address::Socket(local)) => {
                *wanted != 0 && *wanted == local.port() && self.only_v6 == Some(false) && local.ip().is_unspecified()
            }
            _ => false,
        }
    }

    /// `members` sockets for the workers: descriptors of this one, or, where its giver lets others join it
    /// (SO_REUSEPORT) and the kernel agrees, one of its own for each, over which connections are spread better.
    ///
    /// # Errors
    /// Out of descriptors, or an option was refused.
    pub fn members(&self, options: &SocketOptions, members: usize) -> io::Result<Vec<BoundSocket>> {
        let first = BoundSocket::inherited(self.socket.try_clone()?, self.local.clone());
        first.change_options(options)?;
        if let Address::Socket(address) = self.local
            && members > 1
            && self.socket.reuse_port()?
            // Refused where the giver is another user.
            && let Ok(mut joined) = self.join(address, options, members - 1)
        {
            joined.insert(0, first);
            return Ok(joined);
        }
        let mut sockets = vec![first];
        while sockets.len() < members {
            sockets.push(sockets[0].try_clone()?);
        }
        Ok(sockets)
    }

    fn join(&self, address: SocketAddr, options: &SocketOptions, members: usize) -> io::Result<Vec<BoundSocket>> {
        bind::bind_tcp(address, self.only_v6.unwrap_or(true), options, members)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::net::accept::Accept;
    use crate::net::testing::{on_worker, plain_options};

    fn inherited(socket: impl Into<OwnedFd>) -> InheritedSocket {
        InheritedSocket::new(socket.into(), "web".into()).unwrap()
    }

    fn at(address: &str) -> Bind {
        Bind::Address(address.parse().unwrap())
    }

    #[test]
    fn stands_for_the_address_it_is_bound_to() {
        let socket = inherited(TcpListener::bind("127.0.0.1:0").unwrap());
        let Address::Socket(local) = *socket.local_address() else { panic!("not TCP") };
        assert!(socket.is_at(&Bind::Address(local)));
        for other in [at("127.0.0.1:1"), at("127.0.0.1:0"), at(&format!("127.0.0.2:{}", local.port()))] {
            assert!(!socket.is_at(&other), "{other:?}");
        }
        assert!(!socket.is_at(&Bind::AnyAddress(local.port())));
    }

    #[test]
    fn a_port_alone_takes_only_what_serves_both_families() {
        let Ok(both) = TcpListener::bind("[::]:0") else { return };
        let port = both.local_addr().unwrap().port();
        assert!(inherited(both).is_at(&Bind::AnyAddress(port)));
        let v4 = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = v4.local_addr().unwrap().port();
        let v4 = inherited(v4);
        assert!(!v4.is_at(&Bind::AnyAddress(port)) && v4.is_at(&at(&format!("0.0.0.0:{port}"))));
    }

    #[test]
    fn stands_for_the_path_it_is_bound_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let socket = inherited(UnixListener::bind(&path).unwrap());
        assert!(socket.is_at(&Bind::Unix(path)));
        assert!(!socket.is_at(&Bind::Unix(folder.path().join("y.sock"))));
    }

    #[test]
    fn what_does_not_listen_on_a_stream_is_refused() {
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(InheritedSocket::new(datagrams.into(), "udp".into()).is_err());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(InheritedSocket::new(connected.into(), "tcp".into()).is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(InheritedSocket::new(file.into(), "file".into()).is_err());
    }

    #[test]
    fn one_socket_is_shared_by_every_member() {
        on_worker(async {
            let socket = inherited(TcpListener::bind("127.0.0.1:0").unwrap());
            let members = socket.members(&plain_options(), 3).unwrap();
            let address = members[0].local_address().to_string();
            for member in members {
                let _client = TcpStream::connect(&address).unwrap();
                // Whichever descriptor is asked has the one queue.
                assert!(member.into_listener().unwrap().accept_now().is_ok());
            }
        });
    }

    #[test]
    fn members_of_their_own_join_where_that_is_allowed() {
        let first = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        first.set_reuse_port(true).unwrap();
        first.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        first.listen(8).unwrap();
        let members = inherited(OwnedFd::from(first)).members(&plain_options(), 3).unwrap();
        assert_eq!(members.len(), 3);
        assert!(members.iter().all(|member| member.local_address() == members[0].local_address()));
        on_worker(async {
            let address = members[0].local_address().to_string();
            let mut listeners: Vec<_> = members.into_iter().map(|member| member.into_listener().unwrap()).collect();
            let mut accepted = [false; 3];
            for _ in 0..500 {
                let _client = TcpStream::connect(&address).unwrap();
                for (seen, listener) in accepted.iter_mut().zip(&mut listeners) {
                    *seen |= listener.accept_now().is_ok();
                }
                if accepted.iter().all(|seen| *seen) {
                    return;
                }
            }
            panic!("a member got nothing: {accepted:?}");
        });
    }

    #[test]
    fn the_queue_outlives_the_members() {
        let socket = inherited(TcpListener::bind("127.0.0.1:0").unwrap());
        let members = socket.members(&plain_options(), 2).unwrap();
        let waiting = TcpStream::connect(members[0].local_address().to_string()).unwrap();
        drop(members);
        on_worker(async {
            let again = socket.members(&plain_options(), 1).unwrap().remove(0);
            let (_, remote) = again.into_listener().unwrap().accept_now().unwrap();
            assert_eq!(remote.unwrap(), waiting.local_addr().unwrap());
        });
    }
}
