//! A client that waits for 100 (Continue) before it sends its body (RFC 9110 §10.1.1): it gets the endpoint's, or the
//! proxy's if the endpoint sends nothing. Until then the body is not read, so that it is not sent early.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Response, StatusCode};
use tokio::time::Instant;

use crate::http3::Informational;
use crate::net::timer::Timer;

/// How long an endpoint may take to say whether it wants the body. Many never do, and clients wait no longer either.
const PATIENCE: Duration = Duration::from_secs(1);

/// One that waits.
pub(super) struct Expecting {
    /// Who has to be told by us; on HTTP/1.1 hyper tells it as soon as the body is read.
    client: Option<Informational>,
    timer: Timer,
    is_armed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    is_over: Cell<bool>,
}

impl Expecting {
    pub(super) fn new(client: Option<Informational>) -> Self {
        let waker = RefCell::new(None);
        Self { client, timer: Timer::new(), is_armed: Cell::new(false), waker, is_over: Cell::new(false) }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// The client is to send its body.
    pub(super) fn go_on(&self) {
        if self.is_over.replace(true) {
            return;
        }
        if let Some(client) = &self.client {
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::CONTINUE;
            client.send(head);
        }
        self.wake();
    }

    /// Has whoever waits look again.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ready when the body may be read: the endpoint wants it, or has said nothing for too long since it was first asked for.
    pub(super) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_over() {
            return Poll::Ready(());
        }
        if !self.is_armed.replace(true) {
            self.timer.set(Instant::now() + PATIENCE);
        }
        self.waker.replace(Some(cx.waker().clone()));
        if self.timer.poll_expired(cx).is_pending() {
            return Poll::Pending;
        }
        self.go_on();
        Poll::Ready(())
    }
}
