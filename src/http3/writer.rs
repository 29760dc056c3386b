//! What we send on a request stream: frames are gathered, so that a head and the data after it leave in one write.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use quinn::{SendStream, WriteError};
use smallvec::SmallVec;

use super::error::{Code, Error};
use super::frame::{Role, kind, write_header};
use super::priority::Priority;
use super::reader::EARLY_REJECTED;

/// The sending half of a request stream.
#[derive(Debug)]
pub(super) struct Writer {
    stream: SendStream,
    role: Role,
    /// What the transport has not taken yet, from `next` on.
    queue: SmallVec<[Bytes; 4]>,
    next: usize,
    /// Where in the queue the header of the DATA frame under way belongs, and how much data it has.
    data: Option<(usize, u64)>,
    /// The last piece of data, if it is small: it may be joined with the next.
    small: Bytes,
    joined: BytesMut,
    /// FIN or RESET_STREAM was sent.
    closed: bool,
}

impl Writer {
    pub(super) fn new(stream: SendStream, role: Role) -> Self {
        Self {
            stream,
            role,
            queue: SmallVec::new(),
            next: 0,
            data: None,
            small: Bytes::new(),
            joined: BytesMut::new(),
            closed: false,
        }
    }

    pub(super) fn stream(&self) -> &SendStream {
        &self.stream
    }

    /// Adds a HEADERS frame.
    pub(super) fn push_section(&mut self, block: &[u8]) {
        self.end_data();
        self.queue.push(frame(kind::HEADERS, block.len() as u64, block));
    }

    /// Adds data to the DATA frame under way, or begins one.
    pub(super) fn push_data(&mut self, data: Bytes) {
        if data.is_empty() {
            // An empty DATA frame says nothing.
            return;
        }
        let (_, length) = self.data.get_or_insert_with(|| {
            self.queue.push(Bytes::new());
            (self.queue.len() - 1, 0)
        });
        *length += data.len() as u64;
        if data.len() >= SMALL {
            self.settle();
            self.queue.push(data);
        } else if self.small.is_empty() && self.joined.is_empty() {
            self.small = data;
        } else {
            self.join(&data);
        }
    }

    /// Whether there is something that the transport has not taken.
    pub(super) fn is_blocked(&self) -> bool {
        self.next < self.queue.len()
    }

    /// Completes the DATA frame under way.
    pub(super) fn end_data(&mut self) {
        if let Some((place, length)) = self.data.take() {
            self.settle();
            self.queue[place] = frame(kind::DATA, length, &[]);
        }
    }

    /// Hands what was gathered to the transport, as far as it takes it.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        debug_assert!(self.data.is_none(), "a DATA frame without its header");
        while self.next < self.queue.len() {
            match ready!(pin!(self.stream.write_chunks(&mut self.queue[self.next..])).poll(cx)) {
                Ok(written) => self.next += written.chunks,
                Err(error) => return Poll::Ready(Err(failure(error))),
            }
        }
        self.queue.clear();
        self.next = 0;
        Poll::Ready(Ok(()))
    }

    /// Sends before or after other streams of the connection (RFC 9218 §10).
    pub(super) fn prioritize(&self, priority: Priority) {
        // The transport sends the higher first, and takes turns among equals. Fails where the stream is over.
        let _ = self.stream.set_priority(i32::from(Priority::default().urgency) - i32::from(priority.urgency));
    }

    /// Ends the stream: everything was sent.
    pub(super) fn finish(&mut self) {
        if !self.closed {
            self.closed = true;
            // Fails where the stream is over already.
            let _ = self.stream.finish();
        }
    }

    /// Cuts the stream off: what was sent is not the whole.
    pub(super) fn reset(&mut self, code: Code) {
        if !self.closed {
            self.closed = true;
            let _ = self.stream.reset(code.varint());
        }
    }

    /// Many small segments cost the transport a search for each packet; one copy of them costs less.
    fn join(&mut self, data: &[u8]) {
        if self.joined.capacity() == 0 {
            self.joined.reserve(JOINED);
        }
        let small = std::mem::take(&mut self.small);
        self.joined.extend_from_slice(&small);
        if self.joined.len() + data.len() > self.joined.capacity() {
            self.settle();
            self.joined.reserve(JOINED);
        }
        self.joined.extend_from_slice(data);
    }

    fn settle(&mut self) {
        if !self.small.is_empty() {
            self.queue.push(std::mem::take(&mut self.small));
        } else if !self.joined.is_empty() {
            self.queue.push(std::mem::take(&mut self.joined).freeze());
        }
    }
}

impl Drop for Writer {
    /// A stream that is left before its end is not to look complete, which quinn's would.
    fn drop(&mut self) {
        self.reset(match self.role {
            Role::Server => Code::INTERNAL_ERROR,
            Role::Client => Code::REQUEST_CANCELLED,
        });
    }
}

pub(super) fn failure(error: WriteError) -> Error {
    match error {
        WriteError::Stopped(code) => Error::reset(code, "the peer wants no more of the stream"),
        WriteError::ConnectionLost(error) => Error::lost(&error),
        WriteError::ZeroRttRejected => EARLY_REJECTED,
        WriteError::ClosedStream => Error::stream(Code::INTERNAL_ERROR, "a stream was written after its end"),
    }
}

thread_local! {
    /// Small pieces share allocations: it is cheap to take one, and one that waits long for its acknowledgement holds
    /// no more than a block.
    static BLOCK: RefCell<(BytesMut, Vec<u8>)> = RefCell::default();
}

fn frame(kind: u64, length: u64, payload: &[u8]) -> Bytes {
    BLOCK.with_borrow_mut(|(block, header)| {
        header.clear();
        write_header(kind, length, header);
        let needed = header.len() + payload.len();
        if block.capacity() - block.len() < needed {
            *block = BytesMut::with_capacity(needed.max(BLOCK_SIZE));
        }
        block.extend_from_slice(header);
        block.extend_from_slice(payload);
        block.split().freeze()
    })
}

const BLOCK_SIZE: usize = 4096;
/// Pieces of data below this are joined where they come one after the other, to segments of `JOINED` bytes.
const SMALL: usize = 2048;
const JOINED: usize = 16 * 1024;
