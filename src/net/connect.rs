//! Connects to the first of several addresses that accepts. The caller enforces the deadline.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Type};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::io::Socket;
use super::socket::{self, Granted, NotOurs, Sources, is_exhausted};
use crate::base::addr::Address;
use crate::base::error::{Error, Kind, Retry};
use crate::config::model::SocketOptions;

/// Connects to the first of `addresses` that answers, one after the other, from the source whose turn it is.
///
/// Cancel-safe: dropped, it closes what it opened.
///
/// # Errors
/// Why the last one failed; always worth another endpoint, as nothing was sent.
pub async fn connect(addresses: &[Address], options: &SocketOptions, sources: &Sources) -> Result<Socket, Error> {
    let mut last = None;
    for address in addresses {
        let connected = match address {
            Address::Socket(address) => connect_tcp(*address, options, sources).await,
            Address::Unix(path) => UnixStream::connect(&**path).await.map(Socket::Unix),
        };
        match connected {
            Ok(socket) => return Ok(socket),
            Err(error) => {
                tracing::debug!(%address, %error, "cannot connect");
                last = Some(error);
            }
        }
    }
    Err(last.map_or_else(
        || Error::upstream(Kind::DestinationUnavailable, Retry::Always, "the endpoint has no address"),
        explain,
    ))
}

async fn connect_tcp(address: SocketAddr, options: &SocketOptions, sources: &Sources) -> io::Result<Socket> {
    let mut last = None;
    for source in sources.turn(address) {
        match connect_from(source, address, options).await {
            Ok(stream) => return Ok(Socket::Tcp(stream)),
            // It is not ours, or every port of it towards the endpoint is in use; the next may do.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

async fn connect_from(source: Option<IpAddr>, address: SocketAddr, options: &SocketOptions) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket::prepare_connection(&socket, options)?;
    if let Some(source) = source {
        socket::connect_from(&socket, source)?;
    }
    let stream = TcpSocket::from_std_stream(socket.into()).connect(address).await?;
    if tracing::enabled!(tracing::Level::DEBUG)
        && let Ok(granted) = Granted::of_connection(&stream, options)
    {
        tracing::debug!(%address, %granted, "connected");
    }
    Ok(stream)
}

/// What kept a connection from being made, in the words of errors.
pub fn explain(error: io::Error) -> Error {
    use io::ErrorKind as Is;
    let (kind, reason) = match error.kind() {
        Is::ConnectionRefused | Is::ConnectionReset | Is::ConnectionAborted => {
            (Kind::ConnectionRefused, "the endpoint refused the connection")
        }
        Is::NotFound => (Kind::ConnectionRefused, "the endpoint's socket file does not exist"),
        // A Unix socket whose accept queue is full.
        Is::WouldBlock => (Kind::ConnectionRefused, "the endpoint's accept queue is full"),
        Is::TimedOut => (Kind::ConnectionTimeout, "the endpoint did not answer the connection attempt"),
        Is::HostUnreachable | Is::NetworkUnreachable | Is::NetworkDown => {
            (Kind::DestinationUnavailable, "no way leads to the endpoint")
        }
        _ if error.get_ref().is_some_and(|error| error.is::<NotOurs>()) => {
            (Kind::DestinationUnavailable, "an address of `source` is none of this machine")
        }
        Is::AddrNotAvailable | Is::AddrInUse => {
            (Kind::ConnectionLimitReached, "no local port is free for a connection to the endpoint")
        }
        Is::PermissionDenied => (Kind::DestinationUnavailable, "the connection to the endpoint is not permitted"),
        _ if is_exhausted(&error) => return Error::internal("out of file descriptors or memory").because(error),
        _ => (Kind::DestinationUnavailable, "the connection to the endpoint failed"),
    };
    Error::upstream(kind, Retry::Always, reason).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Side;
    use crate::net::testing::{on_worker, plain_options};
    use std::path::Path;

    /// An address of this machine where nobody listens.
    fn closed() -> Address {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Address::Socket(listener.local_addr().unwrap())
    }

    fn kind_of(addresses: &[Address]) -> Kind {
        let error = on_worker(connect(addresses, &plain_options(), &Sources::default())).unwrap_err();
        assert_eq!((error.side(), error.retry()), (Side::Upstream, Retry::Always));
        error.kind()
    }

    #[test]
    fn tries_the_next_address_when_one_refuses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open = Address::Socket(listener.local_addr().unwrap());
        let socket =
            on_worker(async { connect(&[closed(), open], &plain_options(), &Sources::default()).await.map(drop) });
        assert!(socket.is_ok());
    }

    #[test]
    fn connects_from_each_source_in_turn_and_past_one_that_is_not_ours() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open = Address::Socket(listener.local_addr().unwrap());
        // RFC 5737: an address for documentation is nobody's.
        let sources = Sources::new(&["127.0.0.7", "192.0.2.1", "127.0.0.8"].map(|source| source.parse().unwrap()), 0);
        let from = on_worker(async {
            let mut from = Vec::new();
            for _ in 0..4 {
                let socket = connect(std::slice::from_ref(&open), &plain_options(), &sources).await.unwrap();
                from.push(socket.local_address().unwrap().ip().to_string());
            }
            from
        });
        assert_eq!(from, ["127.0.0.7", "127.0.0.8", "127.0.0.8", "127.0.0.7"]);
        let foreign = Sources::new(&["192.0.2.1".parse().unwrap()], 0);
        let error = on_worker(connect(&[open], &plain_options(), &foreign)).unwrap_err();
        assert_eq!(error.kind(), Kind::DestinationUnavailable);
        assert_eq!(error.reason(), "an address of `source` is none of this machine");
    }

    #[test]
    fn says_why_nobody_answered() {
        let folder = tempfile::tempdir().unwrap();
        let stale = folder.path().join("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        assert_eq!(kind_of(&[closed()]), Kind::ConnectionRefused);
        assert_eq!(kind_of(&[Address::from(stale.as_path())]), Kind::ConnectionRefused);
        assert_eq!(kind_of(&[Address::from(Path::new("/nowhere/app.sock"))]), Kind::ConnectionRefused);
        assert_eq!(kind_of(&[]), Kind::DestinationUnavailable);
        // A broadcast address takes no connection.
        assert_eq!(kind_of(&[Address::Socket("255.255.255.255:1".parse().unwrap())]), Kind::DestinationUnavailable);
    }

    #[test]
    fn connects_to_a_unix_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        on_worker(async {
            let socket =
                connect(&[Address::from(path.as_path())], &plain_options(), &Sources::default()).await.unwrap();
            assert!(matches!(socket, Socket::Unix(_)));
        });
    }
}
