//! What HTTP/2 writes in one turn of its connection, gathered: h2 writes and flushes the body of each answer by itself, and
//! each would be a TLS record and a system call of its own.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

use crate::transport::PIECE;

/// Bytes that are gathered at the most, and then written in the middle of a turn: what rustls takes at once.
const ROOM: usize = 64 * 1024;

/// Writes go to memory until the turn is over; reads pass. Clones are the same connection: hyper has one, and the driver one to
/// say when the turn is over.
pub struct Gather<T>(Rc<RefCell<Gathered<T>>>);

struct Gathered<T> {
    io: T,
    /// What was written, and is still to go on from `gone` on. Holds no memory between turns.
    waiting: Vec<u8>,
    gone: usize,
}

impl<T> Clone for Gather<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: Write + Unpin> Gather<T> {
    /// Gathers what is written to `io`.
    pub fn new(io: T) -> Self {
        Self(Rc::new(RefCell::new(Gathered { io, waiting: Vec::new(), gone: 0 })))
    }

    /// Ends the turn: what was gathered goes on, as far as it is taken.
    ///
    /// # Errors
    /// Those of the I/O below: the connection is of no use any more.
    pub fn poll_end_turn(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.borrow_mut();
        ready!(gathered.poll_go_on(cx))?;
        gathered.waiting = Vec::new();
        Pin::new(&mut gathered.io).poll_flush(cx)
    }
}

impl<T: Write + Unpin> Gathered<T> {
    fn poll_go_on(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gone < self.waiting.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting[self.gone..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.gone += written,
            }
        }
        self.waiting.clear();
        self.gone = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_gather(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.waiting.len() == ROOM {
            ready!(self.poll_go_on(cx))?;
        }
        if self.waiting.capacity() == 0 {
            self.waiting.reserve_exact(ROOM);
        }
        let before = self.waiting.len();
        for slice in slices {
            let fits = slice.len().min(ROOM - self.waiting.len());
            slice[..fits].chunks(PIECE).for_each(|piece| self.waiting.extend_from_slice(piece));
        }
        Poll::Ready(Ok(self.waiting.len() - before))
    }
}

impl<T: Read + Unpin> Read for Gather<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, cursor)
    }
}

impl<T: Write + Unpin> Write for Gather<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_gather(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_gather(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing yet: h2 flushes in the middle of a turn. A client that takes nothing is noticed by what has no room.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.borrow_mut();
        ready!(gathered.poll_go_on(cx))?;
        Pin::new(&mut gathered.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// Takes `room` bytes, and counts the writes, flushes and shutdowns that reach it.
    #[derive(Default)]
    struct Below {
        room: usize,
        taken: Vec<u8>,
        writes: usize,
        flushes: usize,
        is_shut: bool,
    }

    impl Write for Below {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            if self.room == 0 {
                return Poll::Pending;
            }
            let length = bytes.len().min(self.room);
            self.room -= length;
            self.writes += 1;
            self.taken.extend_from_slice(&bytes[..length]);
            Poll::Ready(Ok(length))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_shut = true;
            Poll::Ready(Ok(()))
        }
    }

    fn gather(room: usize) -> Gather<Below> {
        Gather::new(Below { room, ..Below::default() })
    }

    /// Writes like h2 does: with a flush behind it.
    fn write(gather: &Gather<Below>, slices: &[&[u8]]) -> Poll<usize> {
        let mut context = Context::from_waker(Waker::noop());
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let written = Pin::new(&mut gather.clone()).poll_write_vectored(&mut context, &slices);
        assert!(Pin::new(&mut gather.clone()).poll_flush(&mut context).is_ready());
        written.map(Result::unwrap)
    }

    fn end_turn(gather: &Gather<Below>) -> Poll<()> {
        gather.poll_end_turn(&mut Context::from_waker(Waker::noop())).map(Result::unwrap)
    }

    #[test]
    fn a_turn_is_one_write_and_one_flush() {
        let gather = gather(usize::MAX);
        assert_eq!(write(&gather, &[b"head", b"body"]), Poll::Ready(8));
        assert_eq!(write(&gather, &[b"more"]), Poll::Ready(4));
        assert_eq!((gather.0.borrow().io.writes, gather.0.borrow().io.flushes), (0, 0));
        assert_eq!(end_turn(&gather), Poll::Ready(()));
        let gathered = gather.0.borrow();
        assert_eq!((&gathered.io.taken[..], gathered.io.writes, gathered.io.flushes), (&b"headbodymore"[..], 1, 1));
        assert_eq!(gathered.waiting.capacity(), 0, "nothing is held between turns");
    }

    #[test]
    fn more_than_there_is_room_for_goes_on_in_between() {
        let gather = gather(usize::MAX);
        assert_eq!(write(&gather, &[b"head", &[7; ROOM]]), Poll::Ready(ROOM));
        assert_eq!(write(&gather, &[&[7; 4]]), Poll::Ready(4));
        assert_eq!(gather.0.borrow().io.taken.len(), ROOM);
        assert_eq!(end_turn(&gather), Poll::Ready(()));
        assert_eq!(gather.0.borrow().io.taken.len(), ROOM + 4);
    }

    #[test]
    fn who_takes_nothing_is_given_no_more_than_there_is_room_for() {
        let gather = gather(0);
        assert_eq!(write(&gather, &[&[1; ROOM]]), Poll::Ready(ROOM));
        assert_eq!(write(&gather, &[&[2; 1]]), Poll::Pending);
        assert_eq!(end_turn(&gather), Poll::Pending);
        gather.0.borrow_mut().io.room = ROOM - 1;
        assert_eq!(write(&gather, &[&[2; 1]]), Poll::Pending, "what went first is not whole yet");
        gather.0.borrow_mut().io.room = 2;
        assert_eq!(write(&gather, &[&[2; 1]]), Poll::Ready(1));
        assert_eq!(end_turn(&gather), Poll::Ready(()));
        let taken = &gather.0.borrow().io.taken;
        assert_eq!((taken.len(), &taken[ROOM - 1..]), (ROOM + 1, &[1, 2][..]));
    }

    #[test]
    fn what_was_gathered_goes_before_the_end() {
        let gather = gather(2);
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(write(&gather, &[b"bye"]), Poll::Ready(3));
        assert!(Pin::new(&mut gather.clone()).poll_shutdown(&mut context).is_pending());
        assert!(!gather.0.borrow().io.is_shut);
        gather.0.borrow_mut().io.room = 1;
        assert!(Pin::new(&mut gather.clone()).poll_shutdown(&mut context).is_ready());
        assert_eq!((&gather.0.borrow().io.taken[..], gather.0.borrow().io.is_shut), (&b"bye"[..], true));
    }
}
