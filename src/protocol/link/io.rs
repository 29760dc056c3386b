//! The I/O below hyper. Received bytes pass a tracker first, so that an incomplete head is held back until it is
//! complete, and a refused one never reaches hyper. Reports progress to the link.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::super::wire::Fed;
use super::Link;
use crate::net::sys::poll_read_inspected;
use crate::transport::Channel;

/// What follows the bytes of a client.
pub trait Track {
    /// Says how many of `bytes` may go on. What is not released is shown again with more behind it.
    fn feed(&mut self, bytes: &[u8]) -> Fed;
    /// Whether a head has begun and is not complete, beyond what is held back.
    fn is_in_head(&self) -> bool;
    /// Whether no head and no body is under way.
    fn is_at_boundary(&self) -> bool;
}

/// What hyper reads and writes through.
pub struct LinkIo<T> {
    channel: Channel,
    link: Rc<Link>,
    tracker: T,
    /// Bytes that were read and not given to hyper: an incomplete head, or what a parked connection woke up with.
    held: Vec<u8>,
    /// How many of them may go to hyper.
    released: usize,
}

impl<T: Track + Unpin> LinkIo<T> {
    /// Puts `channel` behind `tracker`; `first` are bytes that were read before.
    pub fn new(channel: Channel, link: Rc<Link>, tracker: T, first: Vec<u8>) -> Self {
        link.head_since.set(None);
        let mut io = Self { channel, link, tracker, held: first, released: 0 };
        io.look_at_held();
        io
    }

    /// The channel and what was not given to hyper.
    pub fn into_channel(self) -> (Channel, Vec<u8>) {
        (self.channel, self.held)
    }

    /// Shows the tracker what is held beyond what is released already.
    fn look_at_held(&mut self) {
        while self.link.refusal.get().is_none() && self.released < self.held.len() {
            match self.tracker.feed(&self.held[self.released..]) {
                Fed::Release(0) => break,
                Fed::Release(more) => self.released += more,
                Fed::Refuse(refusal) => self.link.refusal.set(Some(refusal)),
            }
        }
        self.note_head();
    }

    fn note_head(&self) {
        self.link.at_boundary.set(self.held.is_empty() && self.tracker.is_at_boundary());
        if self.tracker.is_in_head() || self.released < self.held.len() {
            if self.link.head_since.get().is_none() {
                self.link.head_since.set(Some(Instant::now()));
            }
        } else if self.link.head_since.get().is_some() {
            self.link.head_since.set(None);
        }
    }

    fn give_released(&mut self, cursor: &mut ReadBufCursor<'_>) {
        let length = self.released.min(cursor.remaining());
        cursor.put_slice(&self.held[..length]);
        self.released -= length;
        self.held.drain(..length);
        if self.held.is_empty() {
            self.held = Vec::new();
            // The last of it may have been the end of a request: hyper need not read again to be at rest.
            self.note_head();
        }
    }

    /// Reads behind what is held, until a head is complete.
    fn poll_read_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut scratch = [std::mem::MaybeUninit::uninit(); 4096];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.channel).poll_read(cx, &mut buffer))?;
        self.link.counters().bytes_downstream_in.add(buffer.filled().len() as u64);
        self.held.extend_from_slice(buffer.filled());
        let more = !buffer.filled().is_empty();
        self.look_at_held();
        Poll::Ready(Ok(more))
    }

    /// Reads straight into hyper's buffer; what must not go there yet is held back.
    fn poll_read_direct(&mut self, cx: &mut Context<'_>, cursor: &mut ReadBufCursor<'_>) -> Poll<io::Result<bool>> {
        let Self { channel, link, tracker, held, .. } = self;
        let (read, released) = ready!(poll_read_inspected(Pin::new(channel), cx, cursor, |bytes| {
            let mut released = 0;
            while released < bytes.len() {
                match tracker.feed(&bytes[released..]) {
                    Fed::Release(0) => break,
                    Fed::Release(more) => released += more,
                    Fed::Refuse(refusal) => {
                        link.refusal.set(Some(refusal));
                        break;
                    }
                }
            }
            held.extend_from_slice(&bytes[released..]);
            released
        }))?;
        self.link.counters().bytes_downstream_in.add(read as u64);
        self.note_head();
        Poll::Ready(Ok(read == 0 || released > 0))
    }
}

impl<T: Track + Unpin> Read for LinkIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.released > 0 {
                self.give_released(&mut cursor);
                return Poll::Ready(Ok(()));
            }
            if let Some(refusal) = self.link.refusal.get() {
                // The driver looks at the refusal after each poll; hyper waits for bytes that never come. Whoever reads
                // the body that the refusal is about is told, and does not wait for the rest.
                return match self.tracker.is_at_boundary() {
                    true => Poll::Pending,
                    false => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal.reason))),
                };
            }
            if self.held.is_empty() {
                if ready!(self.poll_read_direct(cx, &mut cursor))? {
                    return Poll::Ready(Ok(()));
                }
            } else if !ready!(self.poll_read_held(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: Track + Unpin> LinkIo<T> {
    fn note_write(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.link.flushed.set(false);
        match &written {
            Poll::Ready(Ok(length)) => {
                self.link.counters().bytes_downstream_out.add(*length as u64);
                self.link.blocked_since.set(None);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.note_blocked(),
        }
        written
    }

    fn note_blocked(&self) {
        if self.link.blocked_since.get().is_none() {
            self.link.blocked_since.set(Some(Instant::now()));
        }
    }
}

impl<T: Track + Unpin> Write for LinkIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.channel).poll_write(cx, bytes);
        self.note_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.channel).poll_write_vectored(cx, slices);
        self.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.channel.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.channel).poll_flush(cx);
        match &flushed {
            Poll::Ready(_) => {
                self.link.flushed.set(true);
                self.link.blocked_since.set(None);
            }
            Poll::Pending => self.note_blocked(),
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_shutdown(cx)
    }
}
