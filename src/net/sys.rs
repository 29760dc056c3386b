//! The only unsafe of the program: socket options that no crate offers, reading into hyper's buffer with a look at the
//! bytes, who the process is, and what a service manager handed over.
#![allow(unsafe_code, reason = "the one place for it; the house denies it everywhere else")]

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
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
        let mut entry = std::mem::MaybeUninit::<E>::uninit();
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
    let answered = |answer: i32| if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
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
