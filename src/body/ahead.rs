//! A response that is read ahead of its client: a task reads it from the endpoint as fast as it arrives, up to a limit,
//! so that the endpoint is free before a slow client has read it. Data is passed on as soon as it is there.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::exchange::Exchange;
use super::held::Held;
use super::incoming::{self, Incoming};

/// Overhead of a chunk, in bytes.
const PIECE: u64 = 128;

/// The reading end. Dropping it before the end cancels the rest.
pub struct Ahead(Rc<Shared>);

struct Shared {
    pieces: RefCell<VecDeque<Frame<Bytes>>>,
    held: Held,
    bytes: Cell<u64>,
    limit: u64,
    /// Bytes announced and not passed on yet.
    left: Cell<Option<u64>>,
    end: RefCell<Option<Result<(), incoming::Error>>>,
    /// The rest is not needed.
    is_given_up: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    pump: RefCell<Option<Waker>>,
}

impl Ahead {
    /// Reads `incoming` ahead by at most `limit` bytes. When the endpoint has sent everything, the exchange no longer
    /// counts at the endpoint, and `held`, its place on a shared connection, is dropped.
    pub fn start(
        incoming: Incoming,
        limit: u64,
        exchange: &Rc<Exchange>,
        held: Option<Box<dyn std::any::Any>>,
    ) -> Incoming {
        let shared = Rc::new(Shared {
            pieces: RefCell::default(),
            held: Held::new(exchange),
            bytes: Cell::new(0),
            limit,
            left: Cell::new(incoming.size_hint().exact()),
            end: RefCell::new(None),
            is_given_up: Cell::new(false),
            reader: RefCell::new(None),
            pump: RefCell::new(None),
        });
        tokio::task::spawn_local(pump(Rc::clone(&shared), incoming, Rc::clone(exchange), held));
        Incoming::Ahead(Self(shared))
    }
}

async fn pump(
    shared: Rc<Shared>,
    mut incoming: Incoming,
    exchange: Rc<Exchange>,
    held: Option<Box<dyn std::any::Any>>,
) {
    let end = poll_fn(|cx| shared.poll_pump(&mut incoming, cx)).await;
    drop((incoming, held));
    if !shared.is_given_up.get() {
        exchange.hold(None);
    }
    shared.end.replace(Some(end));
    wake(&shared.reader);
}

impl Shared {
    fn poll_pump(&self, incoming: &mut Incoming, cx: &mut Context<'_>) -> Poll<Result<(), incoming::Error>> {
        loop {
            if self.is_given_up.get() {
                return Poll::Ready(Ok(()));
            }
            self.pump.replace(Some(cx.waker().clone()));
            if self.bytes.get() >= self.limit {
                return Poll::Pending;
            }
            match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    self.weigh(self.bytes.get() + cost(&frame));
                    self.pieces.borrow_mut().push_back(frame);
                    wake(&self.reader);
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    fn weigh(&self, bytes: u64) {
        self.bytes.set(bytes);
        self.held.set(bytes);
    }

    fn take(&self) -> Option<Frame<Bytes>> {
        let frame = self.pieces.borrow_mut().pop_front()?;
        self.weigh(self.bytes.get() - cost(&frame));
        if let (Some(left), Some(data)) = (self.left.get(), frame.data_ref()) {
            self.left.set(Some(left.saturating_sub(data.len() as u64)));
        }
        wake(&self.pump);
        Some(frame)
    }
}

fn cost(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, Bytes::len) as u64 + PIECE
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl HttpBody for Ahead {
    type Data = Bytes;
    type Error = incoming::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, incoming::Error>>> {
        if let Some(frame) = self.0.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match self.0.end.take() {
            Some(Ok(())) => {
                self.0.end.replace(Some(Ok(())));
                Poll::Ready(None)
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                self.0.reader.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.pieces.borrow().is_empty() && matches!(*self.0.end.borrow(), Some(Ok(())))
    }

    fn size_hint(&self) -> SizeHint {
        self.0.left.get().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl std::fmt::Debug for Ahead {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ahead").field("bytes", &self.0.bytes.get()).finish_non_exhaustive()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.is_given_up.set(true);
        self.0.pieces.borrow_mut().clear();
        self.0.weigh(0);
        wake(&self.0.pump);
    }
}
