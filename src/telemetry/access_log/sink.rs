//! Destinations of lines: an open file (including stdout and stderr), or a daemon's socket.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use super::frame;
use crate::config::model::LogOutput;

/// What takes lines.
pub(super) enum Sink {
    Stream(Stream),
    Daemon(Daemon),
}

/// How far the bytes of one buffer were written.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Bytes of the buffer that are done with.
    pub(super) done: usize,
    /// Lines that no try will ever get through.
    pub(super) hopeless: u64,
}

impl Sink {
    pub(super) fn open(output: &LogOutput) -> io::Result<Self> {
        Ok(match output {
            LogOutput::Stdout => Self::Stream(Stream::duplicate(io::stdout())?),
            LogOutput::Stderr => Self::Stream(Stream::duplicate(io::stderr())?),
            LogOutput::File(path) => Self::Stream(Stream::new(append_to(path)?)?),
            LogOutput::Syslog(path) | LogOutput::Journald(path) => Self::Daemon(Daemon::connect(path)?),
        })
    }

    /// Writes what is left of a buffer, or a part of it, for at most about [`PATIENCE`].
    ///
    /// # Errors
    /// What the system says; `WouldBlock` where whoever reads is slow. What is not done can be tried again.
    pub(super) fn write(&mut self, bytes: &[u8], progress: &mut Progress) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write(bytes, progress),
            Self::Daemon(daemon) => daemon.send(bytes, progress),
        }
    }

    /// How many lines stand in these bytes.
    pub(super) fn lines_in(&self, bytes: &[u8]) -> u64 {
        match self {
            Self::Stream(_) => bytes.iter().filter(|byte| **byte == b'\n').count() as u64,
            Self::Daemon(_) => frame::datagrams(bytes).count() as u64,
        }
    }

    /// Goes on with another file, at the beginning of a line. Sockets have none.
    pub(super) fn replace(&mut self, file: File, bytes: &[u8], progress: &mut Progress) {
        if let (Self::Stream(stream), Ok(fresh)) = (self, Stream::new(file)) {
            *stream = fresh;
            // The rest of a torn line would be a line of its own.
            let written = &bytes[..progress.done];
            progress.done = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        }
    }
}

/// A file, a pipe or a terminal.
pub(super) struct Stream {
    file: File,
    /// A reader may be slow: what is written at once must fit where there is room at all.
    is_piecewise: bool,
}

impl Stream {
    fn new(file: File) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        let is_piecewise = kind.is_fifo() || kind.is_socket() || kind.is_char_device();
        Ok(Self { file, is_piecewise })
    }

    fn duplicate(stream: impl AsFd) -> io::Result<Self> {
        let descriptor: OwnedFd = stream.as_fd().try_clone_to_owned()?;
        Self::new(descriptor.into())
    }

    fn write(&mut self, bytes: &[u8], progress: &mut Progress) -> io::Result<()> {
        while progress.done < bytes.len() {
            let mut rest = &bytes[progress.done..];
            if self.is_piecewise {
                self.await_room()?;
                rest = piece(rest);
            }
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => progress.done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A reader that stops must not keep the thread from seeing that it is to leave.
    fn await_room(&self) -> io::Result<()> {
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut polled = [PollFd::new(&self.file, PollFlags::OUT)];
        match poll(&mut polled, Some(&patience)) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            // An error shows in the write itself.
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What is written at once: whole lines, where they fit, so that nobody else's stand inside of them.
fn piece(bytes: &[u8]) -> &[u8] {
    let piece = &bytes[..bytes.len().min(PIECE)];
    piece.iter().rposition(|byte| *byte == b'\n').map_or(piece, |end| &piece[..=end])
}

/// A daemon that takes a datagram for each line.
pub(super) struct Daemon {
    path: PathBuf,
    /// `None`: it went away and is looked for again.
    socket: Option<UnixDatagram>,
}

impl Daemon {
    fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { path: path.to_owned(), socket: Some(socket) })
    }

    fn send(&mut self, bytes: &[u8], progress: &mut Progress) -> io::Result<()> {
        for datagram in frame::datagrams(&bytes[progress.done..]) {
            if self.socket.is_none() {
                *self = Self::connect(&self.path)?;
            }
            let Some(socket) = &self.socket else { return Ok(()) };
            match socket.send(datagram) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                    progress.hopeless += 1;
                }
                Err(error) => {
                    // A daemon that was started anew has another socket under the same name.
                    if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                        self.socket = None;
                    }
                    return Err(error);
                }
            }
            progress.done += frame::framed_length(datagram);
        }
        Ok(())
    }
}

/// Opens a file to append to, and makes it where there is none.
///
/// # Errors
/// What the system says: the folder is not there, the permission is.
pub(super) fn append_to(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK opening a named pipe would wait for a reader; to files it means nothing.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    OpenOptions::new().append(true).create(true).mode(MODE).custom_flags(flags).open(path)
}

/// How long one write waits for whoever reads.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// What a pipe with room takes at once (PIPE_BUF).
const PIECE: usize = 4_096;
/// The operator's group may read.
const MODE: u32 = 0o640;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_with_a_line() {
        let (long, mut lines) = ([b'a'; PIECE + 1], vec![b'b'; PIECE + 9]);
        assert_eq!(piece(&long).len(), PIECE);
        lines[7] = b'\n';
        lines[70] = b'\n';
        assert_eq!(piece(&lines).len(), 71);
        assert_eq!(piece(b"a\n"), b"a\n");
        assert_eq!(piece(b"a"), b"a");
    }
}
