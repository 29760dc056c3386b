//! A body on its way out: what is ready of it is gathered into one frame and one write.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::connection::Connection;
use super::error::{BrokenOff, Error};
use super::writer::Writer;

/// How far a body has come.
#[derive(Debug)]
pub(super) struct Pump {
    /// What Content-Length leaves to send.
    left: Option<u64>,
    /// Something is gathered that the transport has not taken.
    flushing: bool,
    /// Bytes of the body that were gathered since the transport last took everything.
    held: u64,
    ended: bool,
}

impl Pump {
    /// A body for which `left` was announced, behind a head that waits in the writer.
    pub(super) fn new(left: Option<u64>) -> Self {
        Self { left, flushing: false, held: 0, ended: false }
    }

    /// There is no body.
    pub(super) fn ended() -> Self {
        Self { left: None, flushing: true, held: 0, ended: true }
    }

    /// Sends the body and ends the stream.
    ///
    /// # Errors
    /// Of the stream when the body fails or is not what was announced: the stream is to be reset.
    pub(super) fn poll<B>(
        &mut self,
        mut body: Pin<&mut B>,
        writer: &mut Writer,
        (connection, stream): (&Connection, u64),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error>>>,
    {
        loop {
            let mut blocked = false;
            if self.flushing {
                if let Some(priority) = connection.priority(stream) {
                    writer.prioritize(priority);
                }
                if writer.poll_flush(cx)?.is_ready() {
                    self.flushing = false;
                    self.held = 0;
                    if self.ended {
                        writer.finish();
                        return Poll::Ready(Ok(()));
                    }
                } else if self.ended || self.held >= ENOUGH {
                    return Poll::Pending;
                } else {
                    // A body that was last asked in vain would be taken for what is waited for, and that it breaks off
                    // would go unseen: it is asked on until enough is held.
                    blocked = true;
                }
            }
            let mut waits = false;
            while !self.ended && self.held < ENOUGH {
                if body.is_end_stream() {
                    self.ended = true;
                    break;
                }
                match body.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => self.take(frame, writer, (connection, stream))?,
                    Poll::Ready(Some(Err(error))) => {
                        if let Some(code) = BrokenOff::find(&*error.into()) {
                            writer.reset(code);
                        }
                        return Poll::Ready(Err(Error::stream(connection.own_fault(), "the body broke off")));
                    }
                    Poll::Ready(None) => self.ended = true,
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            if self.ended && self.left.is_some_and(|left| left > 0) {
                let reason = "the body ended before what Content-Length says";
                return Poll::Ready(Err(Error::stream(connection.own_fault(), reason)));
            }
            writer.end_data();
            self.flushing = writer.is_blocked() || self.ended;
            if waits && (blocked || !self.flushing) {
                return Poll::Pending;
            }
        }
    }

    fn take(
        &mut self,
        frame: Frame<Bytes>,
        writer: &mut Writer,
        (connection, stream): (&Connection, u64),
    ) -> Result<(), Error> {
        match frame.into_data() {
            Ok(data) => {
                if let Some(left) = &mut self.left {
                    *left = left.checked_sub(data.len() as u64).ok_or_else(|| {
                        Error::stream(connection.own_fault(), "the body is longer than Content-Length says")
                    })?;
                }
                self.held += data.len() as u64;
                connection.control.note_moved(data.len() as u64);
                writer.push_data(data);
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    connection.send_trailers(stream, &trailers, writer)?;
                    self.ended = true;
                }
            }
        }
        Ok(())
    }
}

/// Bytes that are gathered before they are sent.
const ENOUGH: u64 = 64 * 1024;

/// The body of a message that has none.
pub(super) struct Nothing;

impl Body for Nothing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}
