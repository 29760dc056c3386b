//! A tunnel on an HTTP/3 stream: received bytes are a body, and written bytes become a body that `http3` sends.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::incoming::Incoming;
use crate::base::error::{Error, Kind};
use crate::http3::{BrokenOff, Code};
use crate::net::relay::Breakable;

/// A tunnel on a stream of HTTP/3. Dropped before it was shut down, it is reset.
pub struct Http3Tunnel {
    incoming: Option<Incoming>,
    /// Read and not yet asked for.
    ahead: Bytes,
    pipe: Rc<Pipe>,
    /// What lives as long as the tunnel.
    _held: Option<Box<dyn Any>>,
}

/// What is written into a tunnel, as the body that `http3` sends.
pub struct TunnelBody(Rc<Pipe>);

/// Our direction of a tunnel of which nothing is known yet to come.
pub struct Outgoing(Rc<Pipe>);

/// Between both.
#[derive(Default)]
struct Pipe {
    queue: RefCell<VecDeque<Bytes>>,
    queued: Cell<usize>,
    state: Cell<State>,
    /// What it is broken off with; `None`: as TCP would be.
    code: Cell<Option<Code>>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Nothing more is written.
    Ended,
    /// That was taken, too.
    Sent,
    /// Broken off by who writes.
    Broken,
    /// Nobody takes any more: the other side stopped the stream, or its connection is gone.
    Gone,
}

/// Bytes that wait for the stream's window. What the stream itself holds comes on top.
const MAX_QUEUED: usize = 64 * 1024;

impl Http3Tunnel {
    /// The tunnel of what is sent and what comes. `held` lives as long as it.
    pub fn new(outgoing: Outgoing, incoming: Incoming, held: Option<Box<dyn Any>>) -> Self {
        Self { incoming: Some(incoming), ahead: Bytes::new(), pipe: outgoing.0, _held: held }
    }
}

impl Pipe {
    fn enter(&self, state: State) {
        self.state.set(state);
        for waker in [&self.reader, &self.writer] {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }

    fn is_lost(&self) -> bool {
        matches!(self.state.get(), State::Broken | State::Gone)
    }

    fn keep(place: &RefCell<Option<Waker>>, cx: &Context<'_>) {
        place.borrow_mut().get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
    }
}

impl TunnelBody {
    /// The body of what is sent, and the end that it is written into.
    pub fn begin() -> (Outgoing, Self) {
        let pipe = Rc::<Pipe>::default();
        (Outgoing(Rc::clone(&pipe)), Self(pipe))
    }

    pub(in super::super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let pipe = &self.0;
        if pipe.state.get() == State::Broken {
            // RFC 9220 §3: what a reset is to TCP.
            let broken_off = BrokenOff(pipe.code.get().unwrap_or(Code::REQUEST_CANCELLED));
            let error = Error::downstream(Kind::ClientGone, "the tunnel was aborted").because(broken_off);
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(bytes) = pipe.queue.borrow_mut().pop_front() {
            pipe.queued.set(pipe.queued.get() - bytes.len());
            if let Some(writer) = pipe.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if pipe.state.get() == State::Open {
            Pipe::keep(&pipe.reader, cx);
            return Poll::Pending;
        }
        pipe.enter(State::Sent);
        Poll::Ready(None)
    }
}

impl Drop for TunnelBody {
    fn drop(&mut self) {
        if self.0.state.get() != State::Sent {
            self.0.enter(State::Gone);
        }
    }
}

impl Drop for Http3Tunnel {
    fn drop(&mut self) {
        if matches!(self.pipe.state.get(), State::Open) {
            self.pipe.enter(State::Broken);
        }
    }
}

impl Breakable for Http3Tunnel {
    fn reset_on_drop(&mut self) {
        if matches!(self.pipe.state.get(), State::Open | State::Ended) {
            self.pipe.enter(State::Broken);
        }
        // Dropped before its end, it asks the other side to stop.
        self.incoming = None;
    }

    fn reset_with(&mut self, code: u64) {
        self.pipe.code.set(Some(Code::new(code)));
        self.reset_on_drop();
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.pipe.is_lost() {
            return Poll::Ready(io::ErrorKind::ConnectionReset.into());
        }
        Pipe::keep(&self.pipe.writer, cx);
        Poll::Pending
    }
}

impl AsyncRead for Http3Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.ahead.is_empty() {
            let Some(incoming) = &mut this.incoming else { return Poll::Ready(Ok(())) };
            match ready!(Pin::new(incoming).poll_frame(cx)) {
                Some(Ok(frame)) => this.ahead = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error))),
                None => this.incoming = None,
            }
        }
        let length = this.ahead.len().min(buffer.remaining());
        buffer.put_slice(&this.ahead[..length]);
        this.ahead.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http3Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let pipe = &self.pipe;
        if pipe.state.get() != State::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = MAX_QUEUED.saturating_sub(pipe.queued.get());
        if room == 0 {
            Pipe::keep(&pipe.writer, cx);
            return Poll::Pending;
        }
        let taken = &bytes[..bytes.len().min(room)];
        pipe.queue.borrow_mut().push_back(Bytes::copy_from_slice(taken));
        pipe.queued.set(pipe.queued.get() + taken.len());
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The stream takes what there is as its window opens.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let pipe = &self.pipe;
        match pipe.state.get() {
            State::Open => pipe.enter(State::Ended),
            State::Ended => {}
            State::Sent => return Poll::Ready(Ok(())),
            State::Broken | State::Gone => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
        Pipe::keep(&pipe.writer, cx);
        Poll::Pending
    }
}
