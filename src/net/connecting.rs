//! Non-blocking connects for an event loop. Independent of a runtime.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use socket2::{Domain, Protocol, Socket, Type};

use super::socket::{self, Sources};
use crate::base::addr::Address;
use crate::config::model::SocketOptions;

/// Begins a connection, nonblocking, from the source whose turn it is. [`progress`] tells when it stands. Of the options
/// keep-alive is left out: four system calls that most connections end before they need, for [`socket::keep_alive`].
///
/// # Errors
/// It cannot be begun, or failed at once.
pub fn begin(address: &Address, options: &SocketOptions, sources: &Sources) -> io::Result<OwnedFd> {
    let Address::Socket(remote) = address else {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        return begun(socket, address);
    };
    let mut last = None;
    for source in sources.turn(*remote) {
        match begin_from(source, *remote, address, options) {
            // It is not ours, or every port of it towards the endpoint is in use; the next may do.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => last = Some(error),
            begun => return begun,
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

fn begin_from(
    source: Option<IpAddr>,
    remote: SocketAddr,
    address: &Address,
    options: &SocketOptions,
) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket::prepare_brief_connection(&socket, options)?;
    if let Some(source) = source {
        socket::connect_from(&socket, source)?;
    }
    begun(socket, address)
}

fn begun(socket: Socket, address: &Address) -> io::Result<OwnedFd> {
    match connect_once(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// Whether the connection that was begun to `address` stands; `false`: not yet. Harmless to ask too early or too often.
///
/// # Errors
/// It came to nothing.
pub fn progress(socket: &impl AsFd, address: &Address) -> io::Result<bool> {
    // A second connect(2) is the one question that tells "not yet" from "well": SO_ERROR is 0 for both.
    match connect_once(socket, address) {
        Ok(()) | Err(Errno::ISCONN) => Ok(true),
        Err(Errno::ALREADY | Errno::INPROGRESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn connect_once(socket: &impl AsFd, address: &Address) -> rustix::io::Result<()> {
    match address {
        Address::Socket(address) => rustix::net::connect(socket, address),
        Address::Unix(path) => rustix::net::connect(socket, &SocketAddrUnix::new(&**path)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::plain_options;
    use std::net::TcpListener;

    fn wait(socket: &OwnedFd, address: &Address) -> io::Result<()> {
        loop {
            if progress(socket, address)? {
                return Ok(());
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_connection_that_stands_is_told_and_can_be_asked_about_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Socket(listener.local_addr().unwrap());
        let socket = begin(&address, &plain_options(), &Sources::default()).unwrap();
        wait(&socket, &address).unwrap();
        assert!(progress(&socket, &address).unwrap());
        listener.accept().unwrap();
    }

    #[test]
    fn a_refused_connection_says_so() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let address = Address::Socket(address);
        let refused = begin(&address, &plain_options(), &Sources::default()).and_then(|socket| wait(&socket, &address));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_connection_comes_from_the_source_whose_turn_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Socket(listener.local_addr().unwrap());
        // RFC 5737: an address for documentation is nobody's.
        let sources = Sources::new(&["127.0.0.7", "192.0.2.1"].map(|source| source.parse().unwrap()), 0);
        for _ in 0..2 {
            let _socket = begin(&address, &plain_options(), &sources).unwrap();
            assert_eq!(listener.accept().unwrap().1.ip().to_string(), "127.0.0.7");
        }
        let foreign = Sources::new(&["192.0.2.1".parse().unwrap()], 0);
        assert!(begin(&address, &plain_options(), &foreign).is_err());
    }

    #[test]
    fn connects_to_a_unix_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        assert!(begin(&Address::from(path.as_path()), &plain_options(), &Sources::default()).is_err());
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let address = Address::from(path.as_path());
        wait(&begin(&address, &plain_options(), &Sources::default()).unwrap(), &address).unwrap();
    }
}
