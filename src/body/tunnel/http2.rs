//! A tunnel on an HTTP/2 stream of hyper. It adds two things that hyper lacks: a stream reset by its peer (CANCEL,
//! NO_ERROR) is not reported as a clean end, and a failed tunnel resets its stream.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::relay::Breakable;

/// What moves the bytes of a tunnel from hyper's end of it to the stream. hyper would have it spawned; who carries the tunnel
/// polls it instead, since it alone knows of resets, and since a stream whose pump is dropped is reset.
type Pump = Pin<Box<dyn Future<Output = ()>>>;

/// Where hyper's executor leaves the pump of one tunnel.
#[derive(Default)]
pub struct PumpPlace(RefCell<Option<Pump>>);

thread_local! {
    /// The place of the CONNECT that hyper has just taken up.
    static TAKEN_UP: Cell<Option<Rc<PumpPlace>>> = const { Cell::new(None) };
}

impl PumpPlace {
    /// What hyper spawns next for its connection is what waits for the answer to the CONNECT of this place. Said by the body of
    /// that request, which hyper looks at when it takes the request up.
    pub(in super::super) fn announce(self: &Rc<Self>) {
        TAKEN_UP.set(Some(Rc::clone(self)));
    }

    /// The place that was announced, once.
    pub fn take_announced() -> Option<Rc<Self>> {
        TAKEN_UP.take()
    }

    /// Announces again what belongs to the connection that is polled next.
    pub fn announce_again(place: Option<Rc<Self>>) {
        TAKEN_UP.set(place);
    }

    /// Leaves it there.
    pub fn put(&self, pump: impl Future<Output = ()> + 'static) {
        self.0.replace(Some(Box::pin(pump)));
    }
}

/// A tunnel on a stream of HTTP/2. Dropped before it was shut down, it is reset.
pub struct Http2Tunnel {
    /// Before `io`, so that it is dropped first: hyper's end of a tunnel that is dropped ends it cleanly. `None` when this
    /// direction is over.
    pump: Option<Pump>,
    io: TokioIo<Upgraded>,
    /// Our direction was told to end.
    ending: bool,
    /// It has ended.
    ended: bool,
    /// The other side reset the stream, or its connection is gone.
    broken: bool,
    /// What lives as long as the tunnel.
    _held: Option<Box<dyn Any>>,
}

impl Http2Tunnel {
    /// The tunnel that hyper made of a CONNECT with its answer. Cancel-safe.
    ///
    /// # Errors
    /// There is none: the answer could not be sent, or the stream was gone.
    pub async fn open(upgrade: OnUpgrade, place: &PumpPlace, held: Option<Box<dyn Any>>) -> io::Result<Self> {
        let io = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
        let pump = place.0.take();
        let broken = pump.is_none();
        Ok(Self { pump, io, ending: false, ended: false, broken, _held: held })
    }
}

impl Breakable for Http2Tunnel {
    fn reset_on_drop(&mut self) {
        // With it goes the sending half of the stream, unfinished.
        self.pump = None;
        self.broken = true;
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Some(pump) = &mut self.pump
            && pump.as_mut().poll(cx).is_ready()
        {
            self.pump = None;
            // Unasked, it ends for nothing but a reset.
            self.broken |= !self.ending;
        }
        if self.broken { Poll::Ready(io::ErrorKind::ConnectionReset.into()) } else { Poll::Pending }
    }
}

impl AsyncRead for Http2Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        // RFC 8441 §5: END_STREAM is an end, RST_STREAM is none. hyper tells both alike, the pump does not.
        if buffer.filled().len() == before
            && let Poll::Ready(error) = self.poll_broken(cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_broken(cx) {
            return Poll::Ready(Err(error));
        }
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        // At once, so that they leave with the next write of the connection.
        match self.poll_broken(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Ready(Ok(written)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_broken(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            // What the pump holds it sends as the window opens.
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_broken(cx) {
            return Poll::Ready(Err(error));
        }
        self.ending = true;
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let mut closed = Pin::new(&mut self.io).poll_shutdown(cx);
        if closed.is_pending() {
            // It sees now that nothing more comes.
            let _ = self.poll_broken(cx);
            closed = Pin::new(&mut self.io).poll_shutdown(cx);
        }
        ready!(closed)?;
        self.ended = true;
        Poll::Ready(Ok(()))
    }
}
