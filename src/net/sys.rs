//! The only unsafe of the program: socket options that no crate offers. Runtime-free.
#![allow(unsafe_code, reason = "the one place for it; the house denies it everywhere else")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

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

#[cfg(test)]
mod tests {
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
}
