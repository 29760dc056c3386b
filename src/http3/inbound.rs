//! The content of a request stream while two read it: whoever wants the body, and the task that sends the other way and
//! is told how it ended.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;

use super::connection::Connection;
use super::control::Open;
use super::error::{Code, Error, Scope, Side};
use super::frame::{Event, Role};
use super::heads::TRAILERS_TOO_LARGE;
use super::reader::Reader;

/// What comes on a request stream after its head.
pub(super) struct Inbound {
    pub(super) connection: Rc<Connection>,
    pub(super) stream: u64,
    reader: RefCell<Reader>,
    /// What Content-Length leaves to come (RFC 9114 §4.1.2).
    left: Cell<Option<u64>>,
    state: Cell<State>,
    /// Trailers that wait for the dynamic table.
    trailers: RefCell<Option<Bytes>>,
    /// Nothing but the stream's end is to come.
    trailed: Cell<bool>,
    /// Somebody waits for the body: the transport wakes him.
    awaited: Cell<bool>,
    /// Content of ours is sent while the answer is read.
    uploads: Cell<bool>,
    /// Nobody reads any more, whether it has ended or not.
    released: Cell<bool>,
    /// The task that sends the other way.
    sender: RefCell<Option<Waker>>,
    /// Interim answers that are to be sent.
    interim: RefCell<Vec<Response<()>>>,
    /// What counts a client's request as under way.
    open: RefCell<Option<Open>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    /// Nobody wants the rest.
    Abandoned,
    Failed(Error),
}

impl Inbound {
    /// `left` is what Content-Length says.
    pub(super) fn new(
        connection: Rc<Connection>,
        stream: u64,
        reader: Reader,
        left: Option<u64>,
        open: Option<Open>,
    ) -> Rc<Self> {
        Rc::new(Self {
            connection,
            stream,
            reader: RefCell::new(reader),
            left: Cell::new(left),
            state: Cell::new(State::Open),
            trailers: RefCell::default(),
            trailed: Cell::new(false),
            awaited: Cell::new(false),
            uploads: Cell::new(false),
            released: Cell::new(false),
            sender: RefCell::default(),
            interim: RefCell::default(),
            open: RefCell::new(open),
        })
    }

    pub(super) fn left(&self) -> Option<u64> {
        self.left.get()
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state.get() == State::Ended
    }

    /// Whether nothing is to come: it ends without content.
    ///
    /// # Errors
    /// Of the stream, where Content-Length announced some.
    pub(super) fn is_empty(&self) -> Result<bool, Error> {
        if !self.reader.borrow_mut().is_ended(&mut Context::from_waker(Waker::noop())) {
            return Ok(false);
        }
        self.finish()?;
        Ok(true)
    }

    pub(super) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let State::Failed(error) = self.state.get() {
            return Poll::Ready(Some(Err(error)));
        }
        let Poll::Ready(read) = self.poll_read(cx) else {
            self.awaited.set(true);
            return Poll::Pending;
        };
        self.awaited.set(false);
        match read {
            Ok(Some(frame)) => {
                self.watch();
                Poll::Ready(Some(Ok(frame)))
            }
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(self.fail(error)))),
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Error>> {
        let mut reader = self.reader.borrow_mut();
        if !self.trailed.get()
            && let Some(block) = &*self.trailers.borrow()
        {
            return self.poll_trailers(&mut reader, block, cx);
        }
        let event = match ready!(reader.poll_event(cx)) {
            Some(event) => event?,
            None => return Poll::Ready(self.finish().map(|()| None)),
        };
        Poll::Ready(match event {
            Event::Data(data) => {
                self.connection.control.note_moved(data.len() as u64);
                if let Some(left) = self.left.get() {
                    let Some(left) = left.checked_sub(data.len() as u64) else {
                        return Poll::Ready(Err(malformed("more content than Content-Length says")));
                    };
                    self.left.set(Some(left));
                    // So that the reader knows the end with the last of the data.
                    if left == 0 && reader.is_ended(cx) {
                        self.finish()?;
                    }
                }
                Ok(Some(Frame::data(data)))
            }
            Event::Trailers(block) => {
                let decoded = self.poll_trailers(&mut reader, &block, cx);
                if decoded.is_pending() {
                    self.trailers.replace(Some(block));
                }
                return decoded;
            }
            Event::TrailersTooLong => Err(TRAILERS_TOO_LARGE),
            // Another head is for those who read heads.
            Event::Head(_) | Event::HeadTooLong => Err(malformed("a second head")),
        })
    }

    fn poll_trailers(
        &self,
        reader: &mut Reader,
        block: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, Error>> {
        let trailers: HeaderMap = ready!(self.connection.poll_trailers(self.stream, block, cx))?;
        self.trailed.set(true);
        self.judge_length()?;
        // Many read no further than this. RFC 9114 §4.1: no frame that is known may follow.
        match reader.poll_event(cx) {
            Poll::Ready(None) => self.finish()?,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        Poll::Ready(Ok(Some(Frame::trailers(trailers))))
    }

    /// Everything came.
    fn finish(&self) -> Result<(), Error> {
        self.judge_length()?;
        self.end(State::Ended);
        Ok(())
    }

    fn judge_length(&self) -> Result<(), Error> {
        match self.left.get() {
            Some(1..) => Err(malformed("less content than Content-Length says")),
            _ => Ok(()),
        }
    }

    /// Ends the stream, or the connection, for `error`.
    pub(super) fn fail(&self, error: Error) -> Error {
        let error = self.connection.cause(error);
        if error.scope() == Scope::Connection && error.side() == Side::Local {
            self.connection.fail(error);
        }
        self.reader.borrow_mut().stop(error.answering());
        self.connection.cancel(self.stream);
        self.end(State::Failed(error));
        error
    }

    /// Content of ours is sent meanwhile, and is to end when nobody reads any more.
    pub(super) fn accompany(&self) {
        self.uploads.set(true);
    }

    /// Whether content of ours is sent meanwhile.
    pub(super) fn is_accompanied(&self) -> bool {
        self.uploads.get()
    }

    /// Nobody reads any more.
    pub(super) fn release(&self, cx: &mut Context<'_>) {
        self.released.set(true);
        self.abandon(cx);
        if self.uploads.get()
            && let Some(sender) = self.sender.take()
        {
            sender.wake();
        }
    }

    pub(super) fn is_released(&self) -> bool {
        self.released.get()
    }

    /// The body is not wanted any more.
    fn abandon(&self, cx: &mut Context<'_>) {
        if self.state.get() != State::Open {
            return;
        }
        let mut reader = self.reader.borrow_mut();
        if !reader.is_ended(cx) {
            reader.stop(match self.connection.role {
                Role::Server => Code::NO_ERROR,
                Role::Client => Code::REQUEST_CANCELLED,
            });
            self.connection.cancel(self.stream);
        }
        drop(reader);
        self.end(State::Abandoned);
    }

    fn end(&self, state: State) {
        self.state.set(state);
        self.open.take();
        if !matches!(state, State::Ended)
            && let Some(sender) = self.sender.take()
        {
            sender.wake();
        }
    }

    /// For the task that sends: whether the peer broke the stream off. Keeps its waker otherwise.
    pub(super) fn poll_failed(&self, cx: &mut Context<'_>) -> Poll<Error> {
        match self.state.get() {
            State::Failed(error) => return Poll::Ready(error),
            State::Ended if !self.uploads.get() => return Poll::Pending,
            State::Ended | State::Open | State::Abandoned => {}
        }
        let mut sender = self.sender.borrow_mut();
        match &*sender {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => *sender = Some(cx.waker().clone()),
        }
        drop(sender);
        if self.state.get() == State::Open && !self.awaited.get() {
            let reset = self.reader.borrow_mut().poll_broken(cx);
            return reset.map(|error| self.fail(error));
        }
        Poll::Pending
    }

    /// Nobody reads for a while: the task that sends is to hear of a reset.
    fn watch(&self) {
        if self.state.get() == State::Open
            && let Some(sender) = &*self.sender.borrow()
        {
            // A reset is told when the task asks.
            let _ = self.reader.borrow_mut().poll_broken(&mut Context::from_waker(sender));
        }
    }

    /// Adds an interim answer; past [`MAX_INTERIM`] that wait for the client there is no place for another.
    pub(super) fn push_interim(&self, head: Response<()>) {
        let mut interim = self.interim.borrow_mut();
        if interim.len() == MAX_INTERIM {
            return tracing::debug!(stream = self.stream, "an interim response was dropped: too many are queued");
        }
        interim.push(head);
        drop(interim);
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }

    pub(super) fn take_interim(&self) -> Vec<Response<()>> {
        self.interim.take()
    }
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").field("stream", &self.stream).field("state", &self.state).finish_non_exhaustive()
    }
}

/// Interim answers that wait until the client has taken those before: an endpoint may send any number of them.
const MAX_INTERIM: usize = 32;

/// RFC 9114 §4.1.2
fn malformed(reason: &'static str) -> Error {
    Error::stream(Code::MESSAGE_ERROR, reason)
}
