//! A worker's end of the access log: formats lines into its own buffer and passes on full buffers.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::frame::Frame;
use super::line::Layout;
use super::session::SessionEnding;
use super::value::{Ending, Told};
use super::writer::Message;
use super::{AccessLog, Record, SessionRecord, condition};
use crate::config::model::Condition;
use crate::telemetry::series::Ended;

/// A worker's end of the access log.
///
/// Where a request is met (`proxy::stack`): a [`Record`] is made if the worker's snapshot has a logger and neither the
/// listener nor the route says `access_log = false`. Where its exchange ends (`body::exchange`), once and not before its
/// body did, [`Logger::log`] is called with the logger of the snapshot that the request began with. Nothing else is to
/// be done: buffers that are not full are handed on by the worker's flush task, and by `Drop`.
///
/// A worker of layer 4 calls [`Logger::log_session`] where a session or flow ends, and [`Logger::flush_due`] each time round
/// its loop.
pub struct Logger {
    log: Arc<AccessLog>,
    /// A copy of its own: regular expressions keep caches.
    only: Option<Condition>,
    sample: f64,
    query: bool,
    layout: Layout,
    frame: Frame,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u32>,
    /// When [`Logger::flush_due`] first saw what is in the buffer.
    since: Cell<Option<Instant>>,
    signal: Rc<Signal>,
}

impl Logger {
    pub(super) fn new(log: Arc<AccessLog>) -> Self {
        let config = &log.config;
        Self {
            only: config.only.clone(),
            sample: config.sample,
            query: config.query,
            layout: Layout::new(config),
            frame: Frame::new(config),
            buffer: RefCell::new(Vec::with_capacity(FULL + SPARE)),
            lines: Cell::new(0),
            since: Cell::new(None),
            signal: Rc::default(),
            log,
        }
    }

    /// Adds the line of an exchange, if the log's condition lets it through. Allocates nothing for it, never blocks, and
    /// makes no system call unless the buffer is full and the writer sleeps.
    pub fn log(&self, record: &Record, ended: &Ended) {
        self.line(&Ending { record, ended, query: self.query });
    }

    /// Adds the line of a session or flow, as [`Logger::log`] does.
    pub fn log_session(&self, record: &SessionRecord, ended: &Ended) {
        self.line(&SessionEnding { record, ended });
    }

    fn line(&self, ending: &impl Told) {
        if let Some(only) = &self.only
            && !condition::holds(&only.test, ending)
        {
            return;
        }
        if self.sample < 1.0 && fastrand::f64() >= self.sample {
            return;
        }
        let length = {
            let mut buffer = self.buffer.borrow_mut();
            self.frame.append(&mut buffer, &self.layout, ending);
            buffer.len()
        };
        let lines = self.lines.get() + 1;
        self.lines.set(lines);
        if length >= FULL {
            self.flush();
        } else if lines == 1 {
            self.signal.wake();
        }
    }

    /// Hands on what is in the buffer.
    pub fn flush(&self) {
        self.since.set(None);
        let lines = self.lines.take();
        if lines == 0 {
            return;
        }
        let mut buffer = self.buffer.borrow_mut();
        if self.log.shared.admit(buffer.len()) {
            // A copy of just this size: most buffers are handed on long before they are full.
            let message = Message::Lines { bytes: buffer.as_slice().into(), lines };
            if self.log.queue.send(message).is_err() {
                self.log.shared.lost(lines.into());
            }
        } else {
            self.log.shared.lost(lines.into());
        }
        buffer.clear();
        // One long line must not keep its memory for ever.
        buffer.shrink_to(FULL + SPARE);
    }

    /// Hands on what has waited for [`Flushes::DELAY`]; when to ask again, if anything waits. For a worker without tasks, which
    /// asks each time round its loop: `now` is what it has for a clock there, and the answer one more bound of its next wait.
    pub fn flush_due(&self, now: Instant) -> Option<Instant> {
        if self.lines.get() == 0 {
            return None;
        }
        let due = self.since.get().unwrap_or(now) + Flushes::DELAY;
        if now >= due {
            self.flush();
            return None;
        }
        self.since.set(Some(due - Flushes::DELAY));
        Some(due)
    }

    /// The log that it writes to.
    pub fn access_log(&self) -> &Arc<AccessLog> {
        &self.log
    }

    /// What the worker's flush task holds.
    pub fn flushes(self: &Rc<Self>) -> Flushes {
        Flushes { logger: Rc::downgrade(self), signal: Rc::clone(&self.signal) }
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        self.flush();
        self.signal.wake();
    }
}

/// Lets a task of the worker hand on what has waited for [`Flushes::DELAY`], and end with the logger:
/// `while flushes.lines_wait().await { sleep(Flushes::DELAY).await; flushes.flush() }`.
pub struct Flushes {
    logger: Weak<Logger>,
    signal: Rc<Signal>,
}

impl Flushes {
    /// How long a line may wait in its buffer.
    pub const DELAY: Duration = Duration::from_millis(100);

    /// Waits until there is a line; `false`: the logger is gone, and nothing is left. Cancel-safe.
    pub async fn lines_wait(&self) -> bool {
        poll_fn(|context| match self.logger.upgrade() {
            None => Poll::Ready(false),
            Some(logger) if logger.lines.get() > 0 => Poll::Ready(true),
            Some(_) => {
                self.signal.0.set(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }

    /// Hands on what is there.
    pub fn flush(&self) {
        if let Some(logger) = self.logger.upgrade() {
            logger.flush();
        }
    }
}

/// Whom to wake at the first line of a buffer.
#[derive(Default)]
struct Signal(Cell<Option<Waker>>);

impl Signal {
    fn wake(&self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}

/// Bytes at which a buffer is handed on.
pub(super) const FULL: usize = 32 << 10;
/// Room for the line that fills it.
const SPARE: usize = 4 << 10;
