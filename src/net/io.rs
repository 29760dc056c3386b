//! Connected sockets as one type, and a stream that first replays bytes that were already read.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};

use crate::base::addr::canonical;

/// A connected stream socket, registered with the runtime of the worker that owns it.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix stream socket.
    Unix(UnixStream),
}

impl Socket {
    /// Our own address; one system call. `None` for a Unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok().map(canonical),
            Self::Unix(_) => None,
        }
    }

    /// Reads what is there; `WouldBlock` when there is nothing.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
        }
    }

    /// Writes what the kernel takes; `WouldBlock` when it takes nothing.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Waits until there may be something to read, or the end. Cancel-safe.
    ///
    /// # Errors
    /// When the runtime is gone.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    /// Like [`Socket::readable`] for a task of its own making; keeps the waker of the last call only.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Waits for one of `interest`. Cancel-safe.
    ///
    /// # Errors
    /// When the runtime is gone.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await,
            Self::Unix(stream) => stream.ready(interest).await,
        }
    }

    /// Makes the coming close a reset (RST), so that the other end cannot take what it has for the whole. A Unix
    /// socket knows no reset: its other end sees an end of stream.
    pub fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            // Fails only on a socket that is already dead, which is what is wanted.
            let _ = stream.set_zero_linger();
        }
    }

    /// Closes with a reset.
    pub fn reset(self) {
        self.reset_on_close();
    }

    /// Asks the kernel through `ask`; where that says `WouldBlock`, the next wait is for what comes after.
    ///
    /// # Errors
    /// What `ask` says, and `WouldBlock` where nothing was known to be there.
    pub fn try_io<R>(&self, interest: Interest, ask: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, ask),
            Self::Unix(stream) => stream.try_io(interest, ask),
        }
    }

    /// Takes the socket out of this worker's runtime, so that another worker can have it.
    ///
    /// # Errors
    /// When the runtime does not let go of it.
    pub fn into_raw(self) -> io::Result<RawSocket> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(RawSocket::Tcp),
            Self::Unix(stream) => stream.into_std().map(RawSocket::Unix),
        }
    }
}

/// A connected, nonblocking socket that belongs to no runtime: what one worker sends to another.
#[derive(Debug)]
pub enum RawSocket {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// A Unix stream socket.
    Unix(std::os::unix::net::UnixStream),
}

impl RawSocket {
    /// Registers it with the runtime of this thread.
    ///
    /// # Errors
    /// When the runtime cannot take it (out of memory for the registration).
    pub fn into_socket(self) -> io::Result<Socket> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(Socket::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream).map(Socket::Unix),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

/// Slices of so many bytes together are copied and written as one.
const SMALL_WRITE: usize = 2048;

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One send(2) of a small copy costs the kernel less than a writev(2) of two slices, which head and body are.
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if let [slice] = slices {
            return self.poll_write(cx, slice);
        }
        if total <= SMALL_WRITE {
            let mut small = [0; SMALL_WRITE];
            let mut filled = 0;
            for slice in slices {
                small[filled..filled + slice.len()].copy_from_slice(slice);
                filled += slice.len();
            }
            return self.poll_write(cx, &small[..filled]);
        }
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel has every byte that was written.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A stream whose first bytes were read already: they are given out before anything else.
#[derive(Debug)]
pub struct Rewind<T> {
    prefix: Bytes,
    inner: T,
}

impl<T> Rewind<T> {
    /// `prefix`, then what `inner` reads.
    pub fn new(inner: T, prefix: Bytes) -> Self {
        Self { prefix, inner }
    }

    /// What is left of the prefix.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The stream below.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// The stream below; reading from it past the prefix loses the order of bytes.
    pub fn inner_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// The stream below and what is left of the prefix.
    pub fn into_parts(self) -> (T, Bytes) {
        (self.inner, self.prefix)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewind<T> {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix[..length]);
        self.prefix.advance(length);
        if self.prefix.is_empty() {
            // The empty view may still hold a large buffer alive.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewind<T> {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::on_worker;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn pair() -> (Socket, std::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Socket::Tcp(listener.accept().await.unwrap().0), client)
    }

    #[test]
    fn a_reset_reaches_the_other_end_as_a_reset() {
        on_worker(async {
            let (socket, mut client) = pair().await;
            socket.reset();
            let error = std::io::Read::read(&mut client, &mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        });
    }

    #[test]
    fn a_plain_close_reaches_the_other_end_as_the_end() {
        on_worker(async {
            let (socket, mut client) = pair().await;
            drop(socket);
            assert_eq!(std::io::Read::read(&mut client, &mut [0; 8]).unwrap(), 0);
        });
    }

    #[test]
    fn a_socket_moves_to_the_runtime_of_another_thread() {
        let (raw, mut client) = on_worker(async {
            let (socket, client) = pair().await;
            (socket.into_raw().unwrap(), client)
        });
        let other = std::thread::spawn(move || {
            on_worker(async move {
                let mut socket = raw.into_socket().unwrap();
                let mut bytes = [0; 4];
                socket.read_exact(&mut bytes).await.unwrap();
                socket.write_all(&bytes).await.unwrap();
            });
        });
        std::io::Write::write_all(&mut client, b"ping").unwrap();
        let mut bytes = [0; 4];
        std::io::Read::read_exact(&mut client, &mut bytes).unwrap();
        assert_eq!(&bytes, b"ping");
        other.join().unwrap();
    }

    #[test]
    fn try_read_does_not_wait() {
        on_worker(async {
            let (socket, mut client) = pair().await;
            assert_eq!(socket.try_read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            std::io::Write::write_all(&mut client, b"x").unwrap();
            socket.readable().await.unwrap();
            assert_eq!(socket.try_read(&mut [0; 8]).unwrap(), 1);
        });
    }

    #[test]
    fn a_rewound_stream_gives_the_prefix_first_and_in_pieces() {
        on_worker(async {
            let mut stream = Rewind::new(&b"world"[..], Bytes::from_static(b"hello "));
            let mut piece = [0; 4];
            stream.read_exact(&mut piece).await.unwrap();
            assert_eq!((&piece, stream.prefix()), (b"hell", &b"o "[..]));
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "o world");
        });
    }
}
