//! Channels: a connected socket, with or without TLS, as one type for the rooms above.
pub mod quic;
pub mod quic_initial;
pub mod tls;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::io::Socket;
use crate::net::relay::Breakable;

/// A byte stream to a client or to an endpoint.
#[derive(Debug)]
pub enum Channel {
    /// Cleartext.
    Plain(Socket),
    /// TLS that is terminated here.
    Server(Box<tokio_rustls::server::TlsStream<Socket>>),
    /// TLS that begins here.
    Client(Box<tokio_rustls::client::TlsStream<Socket>>),
}

impl Channel {
    /// The protocol that was agreed on (RFC 7301); `None` on cleartext or where none was.
    pub fn negotiated_alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Server(stream) => stream.get_ref().1.alpn_protocol(),
            Self::Client(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// Whether TLS protects it.
    pub fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// The socket below.
    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Server(stream) => stream.get_ref().0,
            Self::Client(stream) => stream.get_ref().0,
        }
    }

    /// Closes with a reset (RST) and without a TLS close: what the other end has is not the whole.
    pub fn reset(self) {
        self.socket().reset_on_close();
    }
}

/// Bytes that are copied in one piece at the most where many pass: glibc makes a larger copy by `rep movsb`, which takes some
/// processors several times as long (sourceware.org/bugzilla, 30994).
pub const PIECE: usize = 2048;
/// Pieces of one write: what rustls takes at once, 64 KiB, with a head before it.
const PIECES: usize = 33;

/// TLS copies what it encrypts, piece by piece as it gets it.
fn in_pieces<T>(slices: &[IoSlice<'_>], write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
    if slices.iter().all(|slice| slice.len() <= PIECE) {
        return write(slices);
    }
    let pieces = slices.iter().flat_map(|slice| slice.chunks(PIECE)).map(IoSlice::new);
    write(&pieces.take(PIECES).collect::<SmallVec<[IoSlice<'_>; PIECES]>>())
}

impl Breakable for Channel {
    fn reset_on_drop(&mut self) {
        self.socket().reset_on_close();
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl AsyncRead for Channel {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Server(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Client(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Channel {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            channel if bytes.len() > PIECE => Pin::new(channel).poll_write_vectored(cx, &[IoSlice::new(bytes)]),
            Self::Server(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Client(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Server(stream) => in_pieces(slices, |pieces| Pin::new(stream).poll_write_vectored(cx, pieces)),
            Self::Client(stream) => in_pieces(slices, |pieces| Pin::new(stream).poll_write_vectored(cx, pieces)),
        }
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Server(stream) => stream.is_write_vectored(),
            Self::Client(stream) => stream.is_write_vectored(),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Server(stream) => Pin::new(stream).poll_flush(cx),
            Self::Client(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Server(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Client(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(slices: &[&[u8]]) -> (Vec<usize>, Vec<u8>) {
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        in_pieces(&slices, |pieces| {
            (pieces.iter().map(|piece| piece.len()).collect(), pieces.iter().flat_map(|piece| piece.to_vec()).collect())
        })
    }

    #[test]
    fn what_is_large_is_written_in_pieces_and_in_order() {
        let body: Vec<u8> = (0..3 * PIECE + 1).map(|at| at as u8).collect();
        let (pieces, bytes) = lengths(&[b"head", &body]);
        assert_eq!(pieces, [4, PIECE, PIECE, PIECE, 1]);
        assert_eq!(bytes, [&b"head"[..], &body].concat());
    }

    #[test]
    fn what_is_small_is_written_as_it_is() {
        assert_eq!(lengths(&[b"head", b"", &[7; PIECE]]).0, [4, 0, PIECE]);
        assert!(lengths(&[]).0.is_empty());
    }

    #[test]
    fn no_more_is_cut_than_is_taken_at_once() {
        let (pieces, _) = lengths(&[&[7; 100 * PIECE]]);
        assert_eq!(pieces, [PIECE; PIECES]);
    }
}
