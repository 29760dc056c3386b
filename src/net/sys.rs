//! The only unsafe of the program: socket options that no crate offers, and reading into hyper's buffer with a look at
//! the bytes.
#![allow(unsafe_code, reason = "the one place for it; the house denies it everywhere else")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, ReadBuf};

/// Lets `socket`, which listens, take data with the SYN (RFC 7413); `queue` such requests may wait.
///
/// # Errors
/// What the kernel says.
pub fn set_fast_open(socket: impl AsFd, queue: i32) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue)
}

/// The queue that [`set_fast_open`] set, 0 where it is off.
///
/// # Errors
/// What the kernel says.
pub fn fast_open(socket: impl AsFd) -> io::Result<i32> {
    read(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN)
}

/// Lets `socket`, which connects, send its first bytes with the SYN (RFC 7413).
///
/// # Errors
/// What the kernel says.
pub fn set_fast_open_connect(socket: impl AsFd, on: bool) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, i32::from(on))
}

/// Whether [`set_fast_open_connect`] is on.
///
/// # Errors
/// What the kernel says.
pub fn fast_open_connect(socket: impl AsFd) -> io::Result<bool> {
    read(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT).map(|value| value != 0)
}

fn set(socket: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed; the pointer and the length are those of `value`, which
    // outlives the call.
    let answer =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn read(socket: impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes at most `length` bytes, the size of
    // `value`, and every bit pattern of an `i32` is valid.
    let answer =
        unsafe { libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    if answer == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Reads from `io` straight into hyper's buffer, shows the bytes to `inspect`, and lets hyper have as many of them, from
/// the front, as it says. Returns how many bytes were read and how many released; `(0, 0)` is the end of the stream, or
/// no room.
pub fn poll_read_inspected<T: AsyncRead>(
    io: Pin<&mut T>,
    cx: &mut Context<'_>,
    cursor: &mut ReadBufCursor<'_>,
    inspect: impl FnOnce(&[u8]) -> usize,
) -> Poll<io::Result<(usize, usize)>> {
    // SAFETY: the unfilled part goes to tokio's `ReadBuf` alone, which never de-initialises a byte.
    let mut buffer = ReadBuf::uninit(unsafe { cursor.as_mut() });
    ready!(io.poll_read(cx, &mut buffer))?;
    let read = buffer.filled().len();
    let released = if read == 0 { 0 } else { inspect(buffer.filled()).min(read) };
    // SAFETY: `released` is not more than `read`, and the read has initialised and filled that many bytes.
    unsafe { cursor.advance(released) };
    Poll::Ready(Ok((read, released)))
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn what_is_set_is_read_back() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(fast_open(&listener).unwrap(), 0);
        set_fast_open(&listener, 16).unwrap();
        assert_eq!(fast_open(&listener).unwrap(), 16);
    }

    #[test]
    fn an_option_the_socket_does_not_know_is_an_error() {
        let (left, _right) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(set_fast_open_connect(&left, true).is_err());
        assert!(fast_open_connect(&left).is_err());
    }

    #[test]
    fn releases_what_was_inspected_and_no_more() {
        let mut context = Context::from_waker(Waker::noop());
        let mut source: &[u8] = b"hello world";
        let mut storage = [0u8; 8];
        let mut buffer = hyper::rt::ReadBuf::new(&mut storage);
        let mut seen = Vec::new();
        let read = poll_read_inspected(Pin::new(&mut source), &mut context, &mut buffer.unfilled(), |bytes| {
            seen.extend_from_slice(bytes);
            5
        });
        assert!(matches!(read, Poll::Ready(Ok((8, 5)))));
        assert_eq!(seen, b"hello wo");
        assert_eq!(buffer.filled(), b"hello");
    }

    #[test]
    fn never_releases_more_than_was_read() {
        let mut context = Context::from_waker(Waker::noop());
        let mut source: &[u8] = b"abc";
        let mut storage = [0u8; 8];
        let mut buffer = hyper::rt::ReadBuf::new(&mut storage);
        let read = poll_read_inspected(Pin::new(&mut source), &mut context, &mut buffer.unfilled(), |_| 100);
        assert!(matches!(read, Poll::Ready(Ok((3, 3)))));
        assert_eq!(buffer.filled(), b"abc");
    }
}
