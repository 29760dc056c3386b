//! The only unsafe code of the program: socket options that no crate offers, sending datagrams in batches, reading into
//! hyper's buffer while inspecting the bytes, user ids, inherited descriptors, and memory shared with the kernel.
#![allow(unsafe_code, reason = "the one place for it; the house denies it everywhere else")]

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use socket2::{MsgHdrMut, SockAddr, SockRef};
use tokio::io::{AsyncRead, ReadBuf};

/// How many datagrams the kernel has dropped so far that were for `socket`, for want of room or since they were broken
/// (SO_MEMINFO); it wraps around.
///
/// # Errors
/// What the kernel says; one before 4.12 does not know it.
pub fn dropped_datagrams(socket: impl AsFd) -> io::Result<u32> {
    // sock_diag(7): nine numbers, of which the last one tells the drops.
    let mut numbers = [0_u32; 9];
    let mut length = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes at most `length` bytes, the size of
    // `numbers`, and every bit pattern of a `u32` is valid.
    answered(unsafe {
        let to = (&raw mut numbers).cast();
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, to, &raw mut length)
    })?;
    Ok(numbers[8])
}

/// Has the kernel ask `program` which member of the SO_REUSEPORT group that `socket` belongs to gets a datagram or a
/// connection (SO_ATTACH_REUSEPORT_CBPF, classic BPF).
///
/// # Errors
/// What the kernel says: the program is no valid one, or there is no group.
pub fn attach_reuseport_program(socket: impl AsFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // The kernel only reads the instructions.
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let size = size_of_val(&program) as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed; the pointer and the size are those of `program`, which names as
    // many instructions as there are behind its pointer; all of it outlives the call, and the kernel copies it.
    answered(unsafe {
        let from = (&raw const program).cast();
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, from, size)
    })
}

pub(super) fn set(socket: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed; the pointer and the length are those of `value`, which
    // outlives the call.
    answered(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), length) })
}

pub(super) fn read(socket: impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    let to = (&raw mut value).cast();
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes at most `length` bytes, the size of
    // `value`, and every bit pattern of an `i32` is valid.
    answered(unsafe { libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, to, &raw mut length) })?;
    Ok(value)
}

/// What a call that gives 0 or sets errno says.
fn answered(answer: libc::c_int) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What [`send_batch`] sends: one datagram, or several of one size to one address.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// To whom; `None` on a connected socket.
    pub to: Option<SocketAddr>,
    /// The address of ours that it leaves from; `None`: the socket's, or what the kernel chooses.
    pub from: Option<IpAddr>,
    /// The size of each datagram in `bytes`, of which the last may be shorter (UDP_SEGMENT); `None`: there is one.
    pub segment: Option<u16>,
    /// At most 65,535.
    pub bytes: &'a [u8],
}

impl Outgoing<'_> {
    /// No bytes to nobody.
    pub const NOTHING: Self = Self { to: None, from: None, segment: None, bytes: &[] };
}

/// The most that one call of [`send_batch`] sends.
pub const SEND_BATCH: usize = 32;

/// Room for a `u16` and an `in6_pktinfo`, the larger of the two kinds, as control messages; aligned as those must be.
#[repr(C, align(8))]
struct Control([u8; CONTROL_SPACE]);

// SAFETY: both only compute with the size that they are given.
const CONTROL_SPACE: usize =
    unsafe { libc::CMSG_SPACE(size_of::<u16>() as u32) + libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32) }
        as usize;

/// Sends up to [`SEND_BATCH`] messages with one system call (sendmmsg), in their order, and says how many the kernel took;
/// none only of an empty batch. Never waits.
///
/// # Errors
/// What the kernel says of the first message, where it took none.
pub fn send_batch(socket: impl AsFd, batch: &[Outgoing<'_>]) -> io::Result<usize> {
    let count = batch.len().min(SEND_BATCH);
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; SEND_BATCH];
    let mut parts = [const { MaybeUninit::<libc::iovec>::uninit() }; SEND_BATCH];
    let mut names = [const { MaybeUninit::<libc::sockaddr_in6>::uninit() }; SEND_BATCH];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; SEND_BATCH];
    for (place, message) in batch[..count].iter().enumerate() {
        let part = parts[place].write(libc::iovec {
            // The kernel only reads what is sent.
            iov_base: message.bytes.as_ptr().cast_mut().cast(),
            iov_len: message.bytes.len(),
        });
        // SAFETY: zeros are a valid `mmsghdr`: null pointers and lengths of nothing.
        let header = headers[place].write(unsafe { std::mem::zeroed() });
        header.msg_hdr.msg_iov = part;
        header.msg_hdr.msg_iovlen = 1;
        if let Some(to) = message.to {
            header.msg_hdr.msg_namelen = write_name(&mut names[place], to);
            header.msg_hdr.msg_name = names[place].as_mut_ptr().cast();
        }
        if message.from.is_some() || message.segment.is_some() {
            header.msg_hdr.msg_control = controls[place].write(Control([0; CONTROL_SPACE])).0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_SPACE as _;
            // SAFETY: the header has a zeroed control buffer with room for both messages.
            header.msg_hdr.msg_controllen = unsafe { write_control(&header.msg_hdr, message) } as _;
        }
    }
    loop {
        // SAFETY: the first `count` headers are initialised above; what they point to (parts, names, controls and the bytes of
        // the batch) lives and is not touched until the call is over, and each length is that of what is pointed to.
        let sent = unsafe {
            let (descriptor, from) = (socket.as_fd().as_raw_fd(), headers.as_mut_ptr().cast());
            libc::sendmmsg(descriptor, from, count as u32, libc::MSG_DONTWAIT as _)
        };
        if let Ok(sent) = usize::try_from(sent) {
            return Ok(sent);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Writes an address as the kernel reads it; returns its length.
fn write_name(name: &mut MaybeUninit<libc::sockaddr_in6>, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: a `sockaddr_in` is smaller than a `sockaddr_in6` and asks for no more alignment.
            unsafe { name.as_mut_ptr().cast::<libc::sockaddr_in>().write(v4) };
            size_of::<libc::sockaddr_in>() as _
        }
        SocketAddr::V6(address) => {
            name.write(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as _,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            });
            size_of::<libc::sockaddr_in6>() as _
        }
    }
}

/// Writes where `message` leaves from and how it is cut; returns the length of both together.
///
/// # Safety
/// `header` has a zeroed control buffer of [`CONTROL_SPACE`], aligned as a `cmsghdr`.
unsafe fn write_control(header: &libc::msghdr, message: &Outgoing<'_>) -> usize {
    let mut used = 0;
    // SAFETY: the buffer holds a first header, by the promise above.
    let mut place = unsafe { libc::CMSG_FIRSTHDR(header) };
    let mut push = |level: i32, kind: i32, length: u32, write: &dyn Fn(*mut u8)| {
        // SAFETY: the buffer has room for the two that are pushed at most, so `place` is a header inside it with `length` bytes
        // behind; `write` writes that many; the buffer is zeroed, as CMSG_NXTHDR wants what comes next.
        unsafe {
            (*place).cmsg_level = level;
            (*place).cmsg_type = kind;
            (*place).cmsg_len = libc::CMSG_LEN(length) as _;
            write(libc::CMSG_DATA(place));
            place = libc::CMSG_NXTHDR(header, place);
            used += libc::CMSG_SPACE(length) as usize;
        }
    };
    if let Some(size) = message.segment {
        // SAFETY: the data of a message of that length; it may stand at any address.
        push(libc::SOL_UDP, libc::UDP_SEGMENT, size_of::<u16>() as u32, &|data| unsafe {
            data.cast::<u16>().write_unaligned(size);
        });
    }
    match message.from {
        Some(IpAddr::V4(ip)) => {
            let ours = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: ours, ipi_addr: libc::in_addr { s_addr: 0 } };
            // SAFETY: as above.
            push(libc::IPPROTO_IP, libc::IP_PKTINFO, size_of_val(&info) as u32, &|data| unsafe {
                data.cast::<libc::in_pktinfo>().write_unaligned(info);
            });
        }
        Some(IpAddr::V6(ip)) => {
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
            // SAFETY: as above.
            push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of_val(&info) as u32, &|data| unsafe {
                data.cast::<libc::in6_pktinfo>().write_unaligned(info);
            });
        }
        None => {}
    }
    used
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

/// A user of this system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: CString,
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
}

/// The user of this name, asked of the system's name services; `None`: there is none.
///
/// # Errors
/// The name services do not answer.
pub fn user_of_name(name: &CStr) -> io::Result<Option<User>> {
    // SAFETY: name, entry, buffer and result live through the call, and the length is that of the buffer.
    user(|entry, buffer, result| unsafe {
        libc::getpwnam_r(name.as_ptr(), entry, buffer.as_mut_ptr(), buffer.len(), result)
    })
}

/// The user of this number; `None`: it has no name.
///
/// # Errors
/// The name services do not answer.
pub fn user_of_number(uid: u32) -> io::Result<Option<User>> {
    // SAFETY: entry, buffer and result live through the call, and the length is that of the buffer.
    user(|entry, buffer, result| unsafe { libc::getpwuid_r(uid, entry, buffer.as_mut_ptr(), buffer.len(), result) })
}

/// The number of the group of this name; `None`: there is none.
///
/// # Errors
/// The name services do not answer.
pub fn group_of_name(name: &CStr) -> io::Result<Option<u32>> {
    found(
        |entry: *mut libc::group, buffer, result| {
            // SAFETY: name, entry, buffer and result live through the call, and the length is that of the buffer.
            unsafe { libc::getgrnam_r(name.as_ptr(), entry, buffer.as_mut_ptr(), buffer.len(), result) }
        },
        |entry| entry.gr_gid,
    )
}

fn user(
    ask: impl FnMut(*mut libc::passwd, &mut [libc::c_char], *mut *mut libc::passwd) -> i32,
) -> io::Result<Option<User>> {
    found(ask, |entry| {
        // SAFETY: the call has filled the entry, whose name points into the buffer, which `found` still holds.
        let name = unsafe { CStr::from_ptr(entry.pw_name) }.to_owned();
        User { name, uid: entry.pw_uid, gid: entry.pw_gid }
    })
}

/// Asks with a larger buffer until the answer fits.
fn found<E, T>(
    mut ask: impl FnMut(*mut E, &mut [libc::c_char], *mut *mut E) -> i32,
    read: impl FnOnce(&E) -> T,
) -> io::Result<Option<T>> {
    let mut buffer = vec![0; 1024];
    loop {
        let mut entry = MaybeUninit::<E>::uninit();
        let mut result = std::ptr::null_mut();
        match ask(entry.as_mut_ptr(), &mut buffer, &raw mut result) {
            0 if result.is_null() => return Ok(None),
            // SAFETY: a result that is not null points to the entry, which the call has filled.
            0 => return Ok(Some(read(unsafe { entry.assume_init_ref() }))),
            libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            // What the manual page lists for a name that is not there.
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            libc::EINTR => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Makes every thread of the process `uid` and `gid`, with the groups of the user of that name, or with no further group.
/// Real, effective and saved numbers change, so that there is no way back; the kernel takes every capability away with them.
///
/// # Errors
/// What the kernel refused. The process may then be half-way and must not go on.
pub fn become_user(uid: u32, gid: u32, name: Option<&CStr>) -> io::Result<()> {
    // The groups first: who is no longer root may not change them.
    match name {
        // SAFETY: the name is a string that lives through the call. Like the calls below, the C library's wrapper does it on
        // every thread of the process (nptl(7), "set*id"), which the bare system call would not.
        Some(name) => answered(unsafe { libc::initgroups(name.as_ptr(), gid) })?,
        // SAFETY: no group is read from the pointer, since the length is 0.
        None => answered(unsafe { libc::setgroups(0, std::ptr::null()) })?,
    }
    // SAFETY: numbers go in, nothing is read or written.
    answered(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: as above.
    answered(unsafe { libc::setresuid(uid, uid, uid) })
}

/// What a service manager left for the process in its environment.
#[derive(Debug)]
pub struct Inheritance {
    /// Descriptors with their names.
    pub descriptors: Vec<(OwnedFd, String)>,
    /// The values of the variables that were asked for, in their order.
    pub values: Vec<Option<OsString>>,
}

/// Descriptors that a service manager handed over (sd_listen_fds(3)), with their names, close-on-exec, and taken out of the
/// environment with the other `variables`, whose values are given.
///
/// # Errors
/// The process has a second thread already, which may be reading the environment, or what the environment says cannot
/// be. Nothing is taken then.
pub fn take_inheritance(variables: &[&str]) -> io::Result<Inheritance> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("asked for what was inherited when threads run already"));
    }
    let values = variables.iter().map(std::env::var_os).collect();
    // SAFETY: this is the only thread, as counted above, and starts no other in here.
    let listed = unsafe { sd_notify::listen_fds_with_names_and_unset_env() };
    for variable in variables {
        // SAFETY: as above.
        unsafe { std::env::remove_var(variable) };
    }
    let descriptors = listed?
        // SAFETY: the environment gives these descriptors to this very process (LISTEN_PID) before it has opened any, each was
        // just seen to be open, and nobody gets them twice, since the environment no longer says so.
        .map(|(descriptor, name)| (unsafe { OwnedFd::from_raw_fd(descriptor) }, name))
        .collect();
    Ok(Inheritance { descriptors, values })
}

/// Takes the oldest message off the error queue of a socket (ip(7)): fills in where to the datagram was sent and what control
/// messages say of it, and gives the number of their bytes.
pub(super) fn take_error(socket: impl AsFd, to: &mut SockAddr, control: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the layout is the same, and the kernel writes nothing but bytes that have a value.
    let control = unsafe { &mut *(&raw mut *control as *mut [MaybeUninit<u8>]) };
    let mut header = MsgHdrMut::new().with_addr(to).with_control(control);
    SockRef::from(&socket).recvmsg(&mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)?;
    Ok(header.control_len())
}

/// Gives memory that this thread has freed, and that nothing has used for a moment since, back to the kernel. The
/// allocator does it by itself only while more is freed beside it: after a burst, an idle process would keep what clients
/// once made it take.
pub fn give_back_memory() {
    // The allocator's own crate has no such call; naming it here has it linked where nothing else does.
    use mimalloc as _;
    unsafe extern "C" {
        fn mi_collect(force: bool);
    }
    // SAFETY: it takes no pointer, and may be called at any time from any thread, also one that has allocated nothing.
    unsafe { mi_collect(false) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::task::Waker;

    use super::*;
    use crate::net::options::{
        fast_open, fast_open_connect, set_fast_open, set_fast_open_connect, set_packet_info, set_receive_offload,
    };

    #[test]
    fn what_is_set_is_read_back() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(fast_open(&listener).unwrap(), 0);
        set_fast_open(&listener, 16).unwrap();
        assert_eq!(fast_open(&listener).unwrap(), 16);
    }

    fn udp(address: &str) -> Option<UdpSocket> {
        let socket = UdpSocket::bind((address, 0)).ok()?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        Some(socket)
    }

    fn to(socket: &UdpSocket, bytes: &'static [u8]) -> Outgoing<'static> {
        Outgoing { to: Some(socket.local_addr().unwrap()), from: None, segment: None, bytes }
    }

    #[test]
    fn a_batch_reaches_everybody_it_is_for_from_the_address_it_names() {
        for (any, one, other) in [("0.0.0.0", "127.0.0.1", "127.0.0.2"), ("::", "::1", "::1")] {
            let (Some(sender), Some(first), Some(second)) = (udp(any), udp(one), udp(one)) else { continue };
            let from = Some(other.parse().unwrap());
            let batch = [
                to(&first, b"plain"),
                Outgoing { from, ..to(&second, b"from another address") },
                Outgoing { from, segment: Some(4), ..to(&first, b"aaaabbbbcc") },
                to(&second, b""),
            ];
            assert_eq!(send_batch(&sender, &batch).unwrap(), 4);
            let mut bytes = [0; 64];
            let mut next = |socket: &UdpSocket| {
                let (length, from) = socket.recv_from(&mut bytes).unwrap();
                (String::from_utf8(bytes[..length].to_vec()).unwrap(), from.ip().to_string())
            };
            assert_eq!(next(&first), ("plain".into(), one.into()));
            for part in ["aaaa", "bbbb", "cc"] {
                assert_eq!(next(&first), (part.into(), other.into()));
            }
            assert_eq!(next(&second), ("from another address".into(), other.into()));
            assert_eq!(next(&second).0, "");
        }
    }

    #[test]
    fn a_socket_for_both_families_answers_ipv4_from_the_address_it_names() {
        let (Some(sender), Some(first)) = (udp("::"), udp("127.0.0.1")) else { return };
        let SocketAddr::V4(v4) = first.local_addr().unwrap() else { panic!("not IPv4") };
        let mapped = SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()));
        let from = Some(std::net::Ipv4Addr::new(127, 0, 0, 3).to_ipv6_mapped().into());
        let batch = [Outgoing { to: Some(mapped), from, segment: None, bytes: b"mapped" }];
        assert_eq!(send_batch(&sender, &batch).unwrap(), 1);
        let mut bytes = [0; 64];
        let (length, from) = first.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..length], from.ip().to_string().as_str()), (&b"mapped"[..], "127.0.0.3"));
    }

    #[test]
    fn a_batch_ends_before_the_message_that_the_kernel_refuses() {
        let (sender, first) = (udp("127.0.0.1").unwrap(), udp("127.0.0.1").unwrap());
        let too_long: &'static [u8] = Box::leak(vec![0; 70_000].into_boxed_slice());
        let batch = [to(&first, b"one"), to(&first, too_long), to(&first, b"three")];
        assert_eq!(send_batch(&sender, &batch).unwrap(), 1);
        let error = send_batch(&sender, &batch[1..]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(send_batch(&sender, &[]).unwrap(), 0);
        let many = [to(&first, b"x"); SEND_BATCH + 5];
        assert_eq!(send_batch(&sender, &many).unwrap(), SEND_BATCH);
    }

    #[test]
    fn offload_and_packet_info_are_set_on_both_families() {
        for socket in [udp("127.0.0.1"), udp("::1")].into_iter().flatten() {
            set_receive_offload(&socket, true).unwrap();
            set_packet_info(&socket, socket.local_addr().unwrap().is_ipv6()).unwrap();
            assert_eq!(read(&socket, libc::SOL_UDP, libc::UDP_GRO).unwrap(), 1);
        }
        assert!(set_receive_offload(std::net::TcpListener::bind("127.0.0.1:0").unwrap(), true).is_err());
    }

    #[test]
    fn datagrams_without_room_are_told_as_dropped() {
        let socket = udp("127.0.0.1").unwrap();
        assert_eq!(dropped_datagrams(&socket).unwrap(), 0);
        let client = udp("127.0.0.1").unwrap();
        let sent = (0..2000).filter(|_| send_batch(&client, &[to(&socket, &[7; 1400])]).is_ok()).count();
        socket.set_nonblocking(true).unwrap();
        let received = std::iter::from_fn(|| socket.recv(&mut [0; 2000]).ok()).count();
        assert!(received < sent, "the buffer holds all of it");
        assert_eq!(dropped_datagrams(&socket).unwrap() as usize, sent - received);
        assert!(dropped_datagrams(std::fs::File::open("/").unwrap()).is_err());
    }

    #[test]
    fn the_kernel_takes_valid_programs_for_a_group_and_no_others() {
        let group = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        group.set_reuse_port(true).unwrap();
        // Always the first.
        let first = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
        assert!(attach_reuseport_program(&group, &[first]).is_ok());
        assert!(attach_reuseport_program(&group, &[]).is_err());
        assert!(attach_reuseport_program(&group, &vec![first; 70_000]).is_err());
        let endless = libc::sock_filter { code: (libc::BPF_LD | libc::BPF_IMM) as u16, jt: 0, jf: 0, k: 0 };
        assert!(attach_reuseport_program(&group, &[endless]).is_err(), "it does not return");
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
    fn memory_that_was_freed_is_given_back() {
        use std::alloc::{GlobalAlloc, Layout};
        use std::time::{Duration, Instant};

        /// As much as a read from an endpoint takes, and enough of them to be seen beside what other tests do.
        const LAYOUT: Layout = Layout::new::<[u8; 256 << 10]>();
        const PIECES: usize = 1024;
        let held = || {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let take = |_| {
            // SAFETY: the layout is not empty.
            let piece = unsafe { mimalloc::MiMalloc.alloc(LAYOUT) };
            assert!(!piece.is_null());
            // SAFETY: it has this many bytes, which nobody else knows of.
            unsafe { piece.write_bytes(1, LAYOUT.size()) };
            piece
        };
        let pieces: Vec<_> = (0..PIECES).map(take).collect();
        let most = held();
        for piece in pieces {
            // SAFETY: it came from there with this layout, and is not used again.
            unsafe { mimalloc::MiMalloc.dealloc(piece, LAYOUT) };
        }
        let begun = Instant::now();
        while held() > most - PIECES / 2 * LAYOUT.size() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{} of {most} bytes are still held", held());
            give_back_memory();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        let root = user_of_name(c"root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(user_of_number(0).unwrap(), Some(root));
        assert_eq!(group_of_name(c"root").unwrap(), Some(0));
        assert_eq!(user_of_name(c"nobody of this name").unwrap(), None);
        assert_eq!(group_of_name(c"nobody of this name").unwrap(), None);
        assert_eq!(user_of_number(0x7fff_fff0).unwrap(), None);
    }

    #[test]
    fn who_is_not_root_becomes_nobody_else() {
        // Root would really become somebody else, with the tests that run beside; a test of the whole process does that.
        if rustix::process::geteuid().is_root() {
            eprintln!("skipped: root may become anybody");
            return;
        }
        assert!(become_user(0, 0, None).is_err());
    }

    #[test]
    fn the_environment_is_left_alone_while_other_threads_run() {
        // The test runs on a thread beside the main one.
        assert!(take_inheritance(&["PATH"]).is_err());
        assert!(std::env::var_os("PATH").is_some());
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
