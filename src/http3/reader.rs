//! What the peer sends on a request stream, read in batches without a copy.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use quinn::{ReadError, RecvStream};

use super::error::{Code, Error};
use super::frame::{Event, RequestFrames, Role};

/// The receiving half of a request stream.
#[derive(Debug)]
pub(super) struct Reader {
    stream: RecvStream,
    role: Role,
    frames: RequestFrames,
    /// What was read and not yet used.
    chunks: [Bytes; BATCH],
    next: usize,
    filled: usize,
    /// Nothing more is to be had from the stream.
    ended: bool,
}

impl Reader {
    pub(super) fn new(stream: RecvStream, role: Role, max_section: u64) -> Self {
        let frames = RequestFrames::new(role, max_section);
        Self { stream, role, frames, chunks: Default::default(), next: 0, filled: 0, ended: false }
    }

    /// The next event; `None` where the stream ended as it may.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        loop {
            while self.next < self.filled {
                match self.frames.next(&mut self.chunks[self.next]) {
                    Ok(Some(event)) => return Poll::Ready(Some(Ok(event))),
                    Ok(None) => self.next += 1,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            }
            if self.ended {
                return Poll::Ready(self.frames.finish().err().map(Err));
            }
            if let Err(error) = ready!(self.poll_chunks(cx)) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    /// Whether the stream ended and nothing of it is left. Reads what is there, without waiting.
    pub(super) fn is_ended(&mut self, cx: &mut Context<'_>) -> bool {
        while self.next < self.filled && self.chunks[self.next].is_empty() {
            self.next += 1;
        }
        if self.next == self.filled && !self.ended {
            // A failure is told again when it is read.
            let _ = self.poll_chunks(cx);
        }
        self.next == self.filled && self.ended
    }

    /// Whether the peer broke the stream off, for whoever does not read it at the moment. What comes meanwhile is kept,
    /// one batch of it.
    pub(super) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        while self.next == self.filled && !self.ended {
            if let Err(error) = ready!(self.poll_chunks(cx)) {
                return Poll::Ready(error);
            }
        }
        Poll::Pending
    }

    /// Nothing more of it is wanted (STOP_SENDING).
    pub(super) fn stop(&mut self, code: Code) {
        if !self.ended {
            self.ended = true;
            // Fails where the stream is over already.
            let _ = self.stream.stop(code.varint());
        }
    }

    pub(super) fn is_early(&self) -> bool {
        self.stream.is_0rtt()
    }

    pub(super) fn frames(&mut self) -> &mut RequestFrames {
        &mut self.frames
    }

    fn poll_chunks(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match ready!(pin!(self.stream.read_chunks(&mut self.chunks)).poll(cx)) {
            Ok(Some(filled)) => (self.next, self.filled) = (0, filled),
            Ok(None) => self.ended = true,
            Err(ReadError::Reset(code)) => return Poll::Ready(Err(Error::reset(code, RESET))),
            Err(ReadError::ConnectionLost(error)) => return Poll::Ready(Err(Error::lost(&error))),
            Err(ReadError::ZeroRttRejected) => return Poll::Ready(Err(EARLY_REJECTED)),
            Err(ReadError::ClosedStream | ReadError::IllegalOrderedRead) => {
                let reason = "a stream was read after its end";
                return Poll::Ready(Err(Error::stream(Code::INTERNAL_ERROR, reason)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Reader {
    /// quinn's would stop it with a code that is none of HTTP/3.
    fn drop(&mut self) {
        if !self.is_ended(&mut Context::from_waker(Waker::noop())) {
            self.stop(match self.role {
                Role::Server => Code::NO_ERROR,
                Role::Client => Code::REQUEST_CANCELLED,
            });
        }
    }
}

pub(super) const EARLY_REJECTED: Error = Error::stream(Code::REQUEST_REJECTED, "the peer rejected early data");
const RESET: &str = "the peer reset the stream";
/// Chunks, each of one packet, that are taken from the transport at a time.
const BATCH: usize = 8;
