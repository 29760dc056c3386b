//! Pipes for splice. A session takes one when it has much to move, and returns it when it waits with an empty pipe, so
//! that a few pipes serve any number of sessions.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// A pipe, nonblocking and empty when it is taken.
#[derive(Debug)]
pub struct Pipe {
    reading: OwnedFd,
    writing: OwnedFd,
}

/// The pipes of one worker.
#[derive(Debug, Default)]
pub struct Pipes {
    idle: Vec<Pipe>,
    open: usize,
}

/// Pipes of one worker. Whoever gets none copies.
const MAX_OPEN: usize = 256;
/// Descriptors that the pipes of one worker take at most.
pub const MAX_DESCRIPTORS: usize = 2 * MAX_OPEN;
/// Pipes kept for the next that needs one.
const MAX_IDLE: usize = 32;
/// What a pipe holds, in bytes of full pages; without the right to so much it stays at the system's 64 KiB. Pages are only
/// referred to, so that a larger one takes no more memory than the sockets.
const CAPACITY: usize = 1 << 20;

impl Pipe {
    fn open() -> io::Result<Self> {
        let (reading, writing) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused where the pages of a user are used up (pipe-user-pages-soft): a smaller one does it too.
        let _ = fcntl_setpipe_size(&writing, CAPACITY);
        Ok(Self { reading, writing })
    }

    /// The end that gives bytes.
    pub fn reading(&self) -> BorrowedFd<'_> {
        self.reading.as_fd()
    }

    /// The end that takes bytes.
    pub fn writing(&self) -> BorrowedFd<'_> {
        self.writing.as_fd()
    }
}

impl Pipes {
    /// An empty pipe; `None`: there are enough, or the system has no descriptor for one.
    pub fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            return Some(pipe);
        }
        if self.open == MAX_OPEN {
            return None;
        }
        let pipe = Pipe::open().ok()?;
        self.open += 1;
        Some(pipe)
    }

    /// Takes back a pipe. One with bytes in it is closed: they were another's.
    pub fn give(&mut self, pipe: Pipe, is_empty: bool) {
        if is_empty && self.idle.len() < MAX_IDLE {
            self.idle.push(pipe);
        } else {
            self.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pipe_is_used_again_and_a_full_one_never() {
        let mut pipes = Pipes::default();
        let pipe = pipes.take().unwrap();
        pipes.give(pipe, true);
        assert_eq!((pipes.idle.len(), pipes.open), (1, 1));
        let pipe = pipes.take().unwrap();
        rustix::io::write(pipe.writing(), b"a secret").unwrap();
        pipes.give(pipe, false);
        assert_eq!((pipes.idle.len(), pipes.open), (0, 0));
    }

    #[test]
    fn there_is_an_end_to_pipes() {
        let mut pipes = Pipes { idle: Vec::new(), open: MAX_OPEN };
        assert!(pipes.take().is_none());
    }
}
