//! Numeric socket options that no crate offers.

use std::io;
use std::os::fd::AsFd;

use super::sys::{read, set};

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

/// Lets `socket`, which takes datagrams, have those that arrived together as one (UDP_GRO), or not.
///
/// # Errors
/// What the kernel says; one before 5.0 does not know it.
pub fn set_receive_offload(socket: impl AsFd, on: bool) -> io::Result<()> {
    set(socket, libc::SOL_UDP, libc::UDP_GRO, i32::from(on))
}

/// Has datagrams of a connected socket leave in one piece or not at all, as long as the path is known to take.
///
/// # Errors
/// What the kernel says.
pub fn forbid_fragments(socket: impl AsFd, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    }
}

/// Has every datagram say which address of this machine it was sent to (IP_PKTINFO, RFC 3542 §6.1).
///
/// # Errors
/// What the kernel says.
pub fn set_packet_info(socket: impl AsFd, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }
}
