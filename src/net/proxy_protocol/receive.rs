//! Reads the header at the start of a connection. It is inspected in the kernel's buffer (MSG_PEEK) first, so that no
//! byte after it is consumed.

use std::io;
use std::net::SocketAddr;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;

use super::{MAX_HEADER, Reading, read};
use crate::net::io::Socket;

/// What stands at the beginning of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A header; it was read off the socket.
    Header(Told),
    /// Something else, which was left where it is.
    Absent,
    /// A header that must not be believed; why.
    Broken(&'static str),
    /// The connection ended before it was known, after so many bytes.
    Ended(usize),
}

/// What a header told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The client; `None`: nothing is told of one.
    pub client: Option<SocketAddr>,
    /// The address that the client connected to.
    pub local: Option<SocketAddr>,
    /// What else was said, as it was sent.
    pub tlvs: Box<[u8]>,
}

/// Waits until it is known what `socket` begins with. The deadline is the caller's. Cancel-safe: nothing is read before a
/// header is there as a whole.
///
/// # Errors
/// What the kernel says: the connection was reset.
pub async fn receive(socket: &Socket) -> io::Result<Received> {
    loop {
        let ready = socket.ready(Interest::READABLE).await?;
        match socket.try_io(Interest::READABLE, || look(socket, ready.is_read_closed())) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => return received,
        }
    }
}

/// `ended`: nothing comes after what is there. `WouldBlock` has the runtime wait for more.
fn look(socket: &Socket, ended: bool) -> io::Result<Received> {
    let mut bytes = [0; MAX_HEADER];
    let (_, length) = recv(socket, &mut bytes[..], RecvFlags::PEEK)?;
    let (told, length) = match read(&bytes[..length]) {
        Reading::Incomplete if ended || length == 0 => return Ok(Received::Ended(length)),
        Reading::Incomplete => return Err(io::ErrorKind::WouldBlock.into()),
        Reading::Absent => return Ok(Received::Absent),
        Reading::Broken(reason) => return Ok(Received::Broken(reason)),
        Reading::Header(header) => {
            (Told { client: header.client, local: header.local, tlvs: header.tlvs.into() }, header.length)
        }
    };
    let mut taken = 0;
    while taken < length {
        // It is all there, as it was seen.
        let (_, read) = recv(socket, &mut bytes[taken..length], RecvFlags::empty())?;
        taken += read;
    }
    Ok(Received::Header(told))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;
    use std::thread::sleep;
    use std::time::Duration;

    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::net::io::RawSocket;
    use crate::net::testing::on_worker;

    const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n";

    fn tcp() -> (TcpStream, RawSocket) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        (client, RawSocket::Tcp(socket))
    }

    fn told() -> Received {
        let client = Some("192.0.2.7:40000".parse().unwrap());
        Received::Header(Told { client, local: Some("198.51.100.1:443".parse().unwrap()), tlvs: [].into() })
    }

    /// What is received, and what is left for who reads on.
    fn receive_from(raw: RawSocket) -> (Received, Vec<u8>) {
        on_worker(async move {
            let mut socket = raw.into_socket().unwrap();
            let received = receive(&socket).await.unwrap();
            let mut rest = Vec::new();
            socket.read_to_end(&mut rest).await.unwrap();
            (received, rest)
        })
    }

    #[test]
    fn what_comes_in_the_segment_of_the_header_is_left_for_who_reads_on() {
        let (mut client, socket) = tcp();
        client.write_all(&[LINE, b"GET /"].concat()).unwrap();
        drop(client);
        assert_eq!(receive_from(socket), (told(), b"GET /".to_vec()));
    }

    #[test]
    fn a_header_that_comes_byte_by_byte_is_waited_for() {
        let (mut client, socket) = tcp();
        let sending = std::thread::spawn(move || {
            for byte in [LINE, b"rest"].concat() {
                client.write_all(&[byte]).unwrap();
                sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(receive_from(socket), (told(), b"rest".to_vec()));
        sending.join().unwrap();
    }

    #[test]
    fn other_bytes_are_left_alone() {
        for bytes in [&b"PROPFIND / HTTP/1.1"[..], b"P@", b"\x16\x03\x01", b"\r\n\r\nGET"] {
            let (mut client, socket) = tcp();
            client.write_all(bytes).unwrap();
            drop(client);
            assert_eq!(receive_from(socket), (Received::Absent, bytes.to_vec()));
        }
    }

    #[test]
    fn an_end_inside_of_a_header_is_seen() {
        for bytes in [&b""[..], b"PROX", &LINE[..LINE.len() - 1]] {
            let (mut client, socket) = tcp();
            client.write_all(bytes).unwrap();
            drop(client);
            assert_eq!(receive_from(socket), (Received::Ended(bytes.len()), bytes.to_vec()));
        }
    }

    #[test]
    fn unix_sockets_have_headers_too() {
        let (mut client, socket) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        for piece in LINE.chunks(7).chain([&b"rest"[..]]) {
            client.write_all(piece).unwrap();
        }
        drop(client);
        assert_eq!(receive_from(RawSocket::Unix(socket)), (told(), b"rest".to_vec()));
    }

    #[test]
    fn a_broken_header_says_why() {
        let (mut client, socket) = tcp();
        client.write_all(b"PROXY TCP4 nobody\r\n").unwrap();
        drop(client);
        assert_eq!(receive_from(socket).0, Received::Broken("a malformed version 1 header"));
    }
}
