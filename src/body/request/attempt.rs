//! One attempt at sending a request's body: what was kept of an earlier one first, then what comes.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::Source;
use crate::base::error::Error;

/// One attempt at sending a request's body.
pub struct RequestBody {
    source: Rc<Source>,
    /// Kept frames that this attempt has sent.
    at: usize,
    trailers_sent: bool,
}

thread_local! {
    /// Whose bytes were last asked for on this thread. hyper hands the rest of a request's body on HTTP/2 to a task without saying
    /// whose it is, right after it has asked it in vain.
    static LOOKED_AT: RefCell<Option<Weak<Source>>> = const { RefCell::new(None) };
}

/// The body that was last asked for its bytes on this thread, if that was after the last call.
pub fn take_looked_at() -> Option<Weak<Source>> {
    LOOKED_AT.take()
}

impl RequestBody {
    pub(super) fn new(source: Rc<Source>) -> Self {
        Self { source, at: 0, trailers_sent: false }
    }

    /// What it is read from.
    pub fn source(&self) -> Weak<Source> {
        Rc::downgrade(&self.source)
    }

    pub(in crate::body) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.source.abandoned.get() {
            let error = Error::internal("the rest of the request body is no longer needed");
            return Poll::Ready(Some(Err(error)));
        }
        self.source.carried_by(cx);
        LOOKED_AT.with_borrow_mut(|looked_at| match looked_at {
            Some(last) if last.as_ptr() == Rc::as_ptr(&self.source) => {}
            _ => *looked_at = Some(Rc::downgrade(&self.source)),
        });
        if let Some(expecting) = &*self.source.expecting.borrow() {
            ready!(expecting.poll_over(cx));
        }
        let frame = self.next(cx);
        if frame.is_ready() {
            self.source.touched.set(true);
        }
        frame
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(frame) = self.replayed() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.source.kept.borrow().ended {
            return Poll::Ready(None);
        }
        let frame = self.source.poll_incoming(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            self.at += usize::from(frame.is_data());
            self.trailers_sent |= frame.is_trailers();
        }
        if let Poll::Ready(Some(Err(error))) = &frame {
            self.source.exchange.note_failure(error.kind(), error.reason());
            self.source.failure.replace(Some(error.restated()));
        }
        frame
    }

    /// What an earlier attempt has read and this one has not sent.
    fn replayed(&mut self) -> Option<Frame<Bytes>> {
        let kept = self.source.kept.borrow();
        if let Some(data) = kept.frames.get(self.at) {
            self.at += 1;
            return Some(Frame::data(data.clone()));
        }
        if !self.trailers_sent && kept.ended {
            self.trailers_sent = true;
            return kept.trailers.clone().map(Frame::trailers);
        }
        None
    }

    pub(in crate::body) fn is_end_stream(&self) -> bool {
        let kept = self.source.kept.borrow();
        let all_sent = self.at >= kept.frames.len() && (self.trailers_sent || kept.trailers.is_none());
        let is_read = self.source.ahead.borrow().is_none() && self.source.incoming.borrow().is_end_stream();
        // What is left of one that is not wanted is not its end.
        all_sent && (kept.ended || (is_read && !self.source.abandoned.get()))
    }

    pub(in crate::body) fn size_hint(&self) -> SizeHint {
        let kept = self.source.kept.borrow();
        let kept_length = kept.length_after(self.at);
        if kept.ended && kept.held.is_some() && kept.trailers.is_none() {
            return SizeHint::with_exact(kept_length);
        }
        // A length that is announced leaves no room for trailers on HTTP/1.1.
        if self.source.text.borrow().is_some() || kept.trailers.is_some() {
            return SizeHint::default();
        }
        match self.source.incoming.borrow().size_hint().exact() {
            Some(exact) => SizeHint::with_exact(exact + kept_length),
            None => SizeHint::default(),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // One that was sent whole is not what is handed on next.
        let _ = LOOKED_AT.try_with(|looked_at| {
            let mut looked_at = looked_at.borrow_mut();
            if looked_at.as_ref().is_some_and(|last| last.as_ptr() == Rc::as_ptr(&self.source)) {
                *looked_at = None;
            }
        });
        // The client need not hurry while nobody reads.
        self.source.armed.set(false);
        if self.source.settled.get() {
            self.source.kept.borrow_mut().release();
        }
    }
}
