//! An HTTP/1.1 connection to an endpoint. hyper drives it in a task of its own, which shares a [`Slot`] with the user
//! of the connection and returns it to the idle stack. A request on a pooled connection needs no allocation, task or
//! clone here.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use http::{Request, Response, StatusCode, Version};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::client::{Answer, SendFailure, Switched, Upgraded};
use super::connector::{Connected, Metered};
use super::failure::{self, Progress};
use super::pool::EndpointPool;
use crate::base::error::{Error, Kind, Retry};
use crate::body::Body;
use crate::body::incoming::Incoming;
use crate::body::request::Source;
use crate::net::io::Rewind;
use crate::net::timer::Timer;

/// Limit on the bytes of a response head, and of trailers. nginx allows 4 to 8 KiB by default, which real cookies and
/// policies exceed.
const MAX_HEAD: usize = 64 * 1024;
/// Maximum bytes that a connection reads or writes at once, and so the cost of a slow client. hyper starts with 8 KiB
/// and grows while reads fill the buffer. The limit on fields stays at hyper's 100; a higher one makes hyper allocate
/// for every response.
const MAX_BUFFER: usize = 256 * 1024;

/// The state shared by a connection's task and its user.
pub(super) struct Slot {
    pool: Rc<EndpointPool>,
    /// Present while the connection is idle or about to be; otherwise the user has it. Dropping it closes the
    /// connection.
    sender: RefCell<Option<SendRequest<Body>>>,
    received: Rc<Cell<u32>>,
    idle: Cell<bool>,
    idle_since: Cell<Instant>,
    expires: Instant,
    closed: Cell<bool>,
    /// Cancelled with a request in progress.
    abandoned: Cell<bool>,
    /// What the request's body is read from, until the connection rests again.
    upload: RefCell<Option<Weak<Source>>>,
    /// Wakes the task that drives the connection.
    task: OnceCell<Waker>,
    /// What remains after hyper released a connection in use: the endpoint switched protocols, if the response was a
    /// 101.
    left: RefCell<Left>,
}

enum Left {
    Nothing,
    Connection(Switched),
    AskedFor(oneshot::Sender<Switched>),
}

/// An HTTP/1.1 connection used by one request.
pub struct Http1 {
    slot: Rc<Slot>,
    sender: Option<SendRequest<Body>>,
    reused: bool,
    /// A request was sent, and its response has not begun yet.
    is_awaited: bool,
}

/// Starts HTTP/1.1 on a new connection and spawns its task.
pub(super) async fn start(connected: Connected, pool: &Rc<EndpointPool>) -> Result<Http1, Error> {
    let received = connected.io.received();
    // A connection for a single request counts as too old from the start, so it is never reused.
    let expires = if connected.alone { pool.now() } else { pool.expiry() };
    let mut builder = Builder::new();
    builder.max_header_size(MAX_HEAD).max_buf_size(MAX_BUFFER);
    let (sender, connection) = match builder.handshake(TokioIo::new(connected.io)).await {
        Ok(started) => started,
        Err(error) => return Err(failure::not_sent(error)),
    };
    let slot = Rc::new(Slot {
        sender: RefCell::new(None),
        received,
        idle: Cell::new(false),
        idle_since: Cell::new(pool.now()),
        expires,
        closed: Cell::new(false),
        abandoned: Cell::new(false),
        upload: RefCell::default(),
        task: OnceCell::new(),
        left: RefCell::new(Left::Nothing),
        pool: Rc::clone(pool),
    });
    pool.connection_opened();
    tokio::task::spawn_local(drive(connection, Rc::clone(&slot)));
    Ok(Http1 { slot, sender: Some(sender), reused: false, is_awaited: false })
}

/// Drives a connection to its end. When hyper has nothing more to do, the connection may have become idle; checking
/// here needs no wake-up.
async fn drive(mut connection: Connection<TokioIo<Metered>, Body>, slot: Rc<Slot>) {
    let mut patience: Option<Timer> = None;
    let ended = poll_fn(|cx| {
        let polled = Pin::new(&mut connection).poll(cx);
        if polled.is_pending() {
            slot.task.get_or_init(|| cx.waker().clone());
            // hyper would close only after it has written the rest of the request, which never happens if the endpoint
            // does not read. The client's body, and with it the client, would be held until then.
            if slot.abandoned.get() {
                return Poll::Ready(Ok(()));
            }
            slot.rest();
            match slot.unsent() {
                Unsent::Nothing => patience = None,
                Unsent::Unwanted => return Poll::Ready(Ok(())),
                Unsent::Buffered => {
                    let patience = patience.get_or_insert_with(|| {
                        let timer = Timer::new();
                        timer.set(Instant::now() + slot.pool.idle_timeout());
                        timer
                    });
                    if patience.poll_expired(cx).is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
        polled
    })
    .await;
    slot.closed.set(true);
    slot.pool.connection_closed();
    if slot.idle.replace(false) {
        slot.pool.forget(&slot);
    }
    let in_use = slot.sender.take().is_none();
    // Nothing else holds it, so nobody waits for the rest.
    if ended.is_err() || !in_use || Rc::strong_count(&slot) == 1 {
        return slot.leave(None);
    }
    let parts = connection.into_parts();
    slot.leave(Some(Box::new(Rewind::new(parts.io.into_inner(), parts.read_buf))));
}

/// What an endpoint has not taken of a request that it answered whole, before it was there (RFC 9112 §9.3). As long as it takes
/// nothing hyper does not come to look whether somebody still wants it.
enum Unsent {
    Nothing,
    /// The client has not sent all of it, and nobody reads it any more.
    Unwanted,
    /// It is all here and goes out if the endpoint takes it. Nobody waits for that: no longer than for an idle connection.
    Buffered,
}

impl Slot {
    fn unsent(&self) -> Unsent {
        let upload = self.upload.borrow();
        match &*upload {
            Some(upload) if self.sender.borrow().is_some() => match upload.upgrade() {
                Some(source) if source.is_cut() => Unsent::Unwanted,
                Some(source) if !source.is_abandoned() => Unsent::Nothing,
                _ => Unsent::Buffered,
            },
            _ => Unsent::Nothing,
        }
    }

    /// Onto the idle stack, if the exchange is over on both sides: hyper says so by wanting the next request.
    fn rest(self: &Rc<Self>) {
        if self.idle.get() || !self.sender.borrow().as_ref().is_some_and(SendRequest::is_ready) {
            return;
        }
        self.upload.take();
        if self.pool.keeps(self.expires) {
            self.idle.set(true);
            self.idle_since.set(self.pool.now());
            self.pool.rest(Rc::clone(self));
        } else {
            self.close();
        }
    }

    /// Takes over an idle connection that the caller removed from the stack. `None`: it has ended or is too old.
    pub(super) fn take(self: Rc<Self>) -> Option<Http1> {
        self.idle.set(false);
        let sender = self.sender.take()?;
        let usable = sender.is_ready() && self.pool.keeps(self.expires);
        usable.then(|| Http1 { slot: self, sender: Some(sender), reused: true, is_awaited: false })
    }

    /// Ends the connection at once, even if part of a request is unwritten.
    fn abandon(&self) {
        self.abandoned.set(true);
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }

    /// Whether an idle connection may stay on the stack.
    pub(super) fn stays(&self, now: Instant) -> bool {
        now < self.idle_since.get() + self.pool.idle_timeout() && now < self.expires
    }

    /// Closes an idle connection that the caller removes from the stack.
    pub(super) fn close(&self) {
        self.idle.set(false);
        self.sender.take();
    }

    /// Passes on what hyper released, or keeps it until it is requested.
    fn leave(&self, rest: Option<Switched>) {
        match (self.left.replace(Left::Nothing), rest) {
            (Left::AskedFor(asker), Some(rest)) => drop(asker.send(rest)),
            (_, Some(rest)) => drop(self.left.replace(Left::Connection(rest))),
            // The dropped sender reports that nothing comes.
            (_, None) => {}
        }
    }

    /// The connection after a 101, as soon as hyper releases it.
    fn switch(&self) -> Upgraded {
        match self.left.replace(Left::Nothing) {
            Left::Connection(rest) => Upgraded::ready(rest),
            _ => {
                let (asker, receiver) = oneshot::channel();
                if !self.closed.get() {
                    self.left.replace(Left::AskedFor(asker));
                }
                Upgraded::pending(receiver)
            }
        }
    }
}

impl Http1 {
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends one request. Dropping the future before it is ready closes the connection, whatever the state of the
    /// request.
    pub(super) fn send(mut self, mut request: Request<Body>) -> impl Future<Output = Result<Answer, SendFailure>> {
        *request.version_mut() = Version::HTTP_11;
        self.slot.received.set(0);
        if let Body::Request(body) = request.body() {
            self.slot.upload.replace(Some(body.source()));
        }
        // Handed to hyper at once: a request is large, and each future that held it would copy it.
        let sent = match self.sender.take() {
            Some(mut sender) => {
                self.is_awaited = true;
                Ok((sender.try_send_request(request), sender))
            }
            None => Err(Box::new(request)),
        };
        async move {
            match sent {
                Ok((sending, sender)) => self.answered(sending.await, sender),
                Err(request) => {
                    Err(SendFailure { error: Error::internal("a session was used twice"), request: Some(request) })
                }
            }
        }
    }

    fn answered(
        mut self,
        answered: Result<Response<hyper::body::Incoming>, TrySendError<Request<Body>>>,
        sender: SendRequest<Body>,
    ) -> Result<Answer, SendFailure> {
        self.is_awaited = false;
        match answered {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                let upgraded = Some(self.slot.switch());
                Ok(Answer { response: response.map(Incoming::Hyper), upgraded, stream: None })
            }
            Ok(response) => {
                self.sender = Some(sender);
                Ok(Answer { response: response.map(Incoming::Hyper), upgraded: None, stream: None })
            }
            Err(mut failed) => Err(match failed.take_message() {
                Some(request) => SendFailure::new(failure::not_sent(failed.into_error()), Some(request)),
                None => {
                    let progress = Progress { reused: self.reused, received: self.slot.received.get() > 0 };
                    SendFailure::new(failure::http1(failed.into_error(), progress), None)
                }
            }),
        }
    }
}

impl Drop for Http1 {
    /// Returns the connection: after a response head, while its body may still be arriving, or unused.
    fn drop(&mut self) {
        if self.is_awaited {
            return self.slot.abandon();
        }
        if let Some(sender) = self.sender.take()
            && !self.slot.closed.get()
        {
            self.slot.sender.replace(Some(sender));
            // The exchange has already ended if the response arrived completely; otherwise the task sees it later.
            self.slot.rest();
        }
    }
}

/// The error if a switched connection was never released.
pub(super) fn not_switched() -> Error {
    let reason = "the connection to the endpoint ended while it switched protocols";
    Error::upstream(Kind::HttpUpgradeFailed, Retry::Never, reason)
}

#[cfg(test)]
mod tests;
