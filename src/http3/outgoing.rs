//! The three unidirectional streams that we open: control, QPACK encoder, QPACK decoder (RFC 9114 §6.2, RFC 9204 §4.2).
//! They stay open as long as the connection.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use quinn::{SendStream, WriteError};

use super::error::{Code, Error};
use super::uni_stream;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Control,
    Encoder,
    Decoder,
}

/// What waits to be sent on each, and the streams once they are open.
#[derive(Debug)]
pub(super) struct Outgoing {
    lanes: RefCell<[State; 3]>,
    driver: RefCell<Option<Waker>>,
}

#[derive(Debug)]
struct State {
    stream: Option<SendStream>,
    waiting: Vec<u8>,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        // One byte each: the varint of a small number.
        let lanes = [uni_stream::CONTROL, uni_stream::ENCODER, uni_stream::DECODER]
            .map(|kind| State { stream: None, waiting: vec![kind as u8] });
        Self { lanes: RefCell::new(lanes), driver: RefCell::default() }
    }

    /// Sends `bytes` after what waits already, at once where the transport takes them.
    pub(super) fn push(&self, lane: Lane, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let state = &mut self.lanes.borrow_mut()[lane as usize];
        state.waiting.extend_from_slice(bytes);
        let flushed = state.poll_flush(&mut Context::from_waker(Waker::noop()));
        // The driver waits for room, and hears of failures.
        if !matches!(flushed, Poll::Ready(Ok(())))
            && let Some(driver) = self.driver.take()
        {
            driver.wake();
        }
    }

    /// Bytes that wait because the peer does not take them.
    pub(super) fn waiting(&self) -> usize {
        self.lanes.borrow().iter().map(|state| state.waiting.len()).sum()
    }

    /// Whether a stream is still to be opened.
    pub(super) fn lacks_stream(&self) -> bool {
        self.lanes.borrow().iter().any(|state| state.stream.is_none())
    }

    /// A stream is open: the next one's.
    pub(super) fn opened(&self, stream: SendStream) {
        if let Some(state) = self.lanes.borrow_mut().iter_mut().find(|state| state.stream.is_none()) {
            // Nothing on a request stream is to wait for what these carry, and all of it is small.
            let _ = stream.set_priority(PRIORITY);
            state.stream = Some(stream);
        }
    }

    /// Sends what waits; the task is woken when more does.
    ///
    /// # Errors
    /// Of the connection: the peer stopped one of the streams.
    pub(super) fn send(&self, cx: &mut Context<'_>) -> Result<(), Error> {
        for state in self.lanes.borrow_mut().iter_mut() {
            if let Poll::Ready(result) = state.poll_flush(cx) {
                result?;
            }
        }
        *self.driver.borrow_mut() = Some(cx.waker().clone());
        Ok(())
    }
}

impl State {
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        let mut written = 0;
        while written < self.waiting.len() {
            let polled = pin!(stream.write(&self.waiting[written..])).poll(cx);
            match polled {
                Poll::Ready(Ok(count)) => written += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(failure(error))),
                Poll::Pending => {
                    self.waiting.drain(..written);
                    return Poll::Pending;
                }
            }
        }
        self.waiting.clear();
        Poll::Ready(Ok(()))
    }
}

fn failure(error: WriteError) -> Error {
    match error {
        WriteError::ConnectionLost(error) => Error::lost(&error),
        // RFC 9114 §6.2.1, RFC 9204 §4.2: nobody may ask for these to be closed.
        _ => Error::connection(Code::CLOSED_CRITICAL_STREAM, "the peer stopped our control or QPACK stream"),
    }
}

/// Above all requests.
const PRIORITY: i32 = 64;
