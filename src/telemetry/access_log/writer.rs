//! The writer thread. Only it waits for disks, readers and daemons. Failed writes are tried again while the queue
//! fills, and lines are lost only when that is full.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::sink::{Progress, Sink};

/// What workers and the control thread send.
pub(super) enum Message {
    Lines {
        bytes: Box<[u8]>,
        lines: u32,
    },
    /// There is another file.
    Look,
    /// Nobody logs any more.
    Close,
}

/// What access logs of one process lost. Counts that never go back, over every log that there was; any thread adds, but
/// only where something was lost.
#[derive(Debug, Default)]
pub struct Losses {
    dropped: AtomicU64,
    write_errors: AtomicU64,
}

impl Losses {
    /// Lines that were lost: they found no room in the queue, or could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Writes that failed; what they were to write was tried again.
    pub fn write_errors(&self) -> u64 {
        self.write_errors.load(Ordering::Relaxed)
    }
}

/// What both ends of the queue see.
pub(super) struct Shared {
    /// Bytes in the queue.
    queued: AtomicUsize,
    /// Of this log.
    pub(super) dropped: AtomicU64,
    losses: Arc<Losses>,
    /// Nobody waits any longer: what cannot be written at once is lost.
    closing: AtomicBool,
    replacement: Mutex<Option<File>>,
    /// With `replacement`: that there is one, or that it is time to close.
    changed: Condvar,
}

impl Shared {
    pub(super) fn new(losses: &Arc<Losses>) -> Self {
        Self {
            queued: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            losses: Arc::clone(losses),
            closing: AtomicBool::new(false),
            replacement: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Whether a buffer of so many bytes may go into the queue; then it is counted there.
    pub(super) fn admit(&self, bytes: usize) -> bool {
        let before = self.queued.fetch_add(bytes, Ordering::Relaxed);
        let fits = before + bytes <= QUEUE;
        if !fits {
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    #[cfg(test)]
    pub(super) fn losses(&self) -> &Losses {
        &self.losses
    }

    pub(super) fn lost(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
        self.losses.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    pub(super) fn replace(&self, file: File) {
        *self.replacement() = Some(file);
        self.changed.notify_all();
    }

    fn replacement(&self) -> MutexGuard<'_, Option<File>> {
        self.replacement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

/// The thread of an access log, for whoever waits until it has written everything.
pub struct Writer {
    shared: Arc<Shared>,
    /// Its other end goes with the thread.
    ended: Receiver<()>,
}

impl Writer {
    pub(super) fn start(sink: Sink, lines: Receiver<Message>, shared: Arc<Shared>) -> io::Result<Self> {
        let (alive, ended) = mpsc::channel();
        let thread = Thread { sink, shared: Arc::clone(&shared), told: Told::default(), _alive: alive };
        std::thread::Builder::new().name("access-log".into()).spawn(move || thread.run(&lines))?;
        Ok(Self { shared, ended })
    }

    /// Whether it has nothing left to do: everybody who could log is gone, and everything is written.
    pub fn has_ended(&self) -> bool {
        matches!(self.ended.try_recv(), Err(mpsc::TryRecvError::Disconnected))
    }

    /// Waits until it has written what there is, after every logger is gone; at most for `patience`, then it drops
    /// what is left and counts it.
    pub fn finish(self, patience: Duration) {
        if let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(patience) {
            self.shared.closing.store(true, Ordering::Relaxed);
            self.shared.changed.notify_all();
            if let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(LAST_WORDS) {
                warn!("the access log could not be written completely");
            }
        }
    }
}

struct Thread {
    sink: Sink,
    shared: Arc<Shared>,
    told: Told,
    _alive: Sender<()>,
}

/// What was said about trouble, so that it is said once.
#[derive(Default)]
struct Told {
    dropped: u64,
    at: Option<Instant>,
    is_failing: bool,
}

impl Thread {
    fn run(mut self, lines: &Receiver<Message>) {
        loop {
            self.tell_of_drops();
            let message =
                if self.owes_a_word() { lines.recv_timeout(AT_MOST_EVERY) } else { lines.recv().map_err(Into::into) };
            match message {
                Ok(Message::Lines { bytes, lines }) => {
                    self.write(&bytes, lines);
                    self.shared.queued.fetch_sub(bytes.len(), Ordering::Relaxed);
                }
                Ok(Message::Look) => self.look_for_another_file(&[], &mut Progress::default()),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.told.at = None;
        self.tell_of_drops();
    }

    /// Tries until the buffer is written, or nobody waits any longer.
    fn write(&mut self, bytes: &[u8], lines: u32) {
        let mut progress = Progress::default();
        loop {
            self.look_for_another_file(bytes, &mut progress);
            let result = self.sink.write(bytes, &mut progress);
            self.shared.lost(std::mem::take(&mut progress.hopeless));
            match result {
                Ok(()) => {
                    if std::mem::take(&mut self.told.is_failing) {
                        info!("the access log can be written again");
                    }
                    return;
                }
                Err(error) => {
                    self.shared.losses.write_errors.fetch_add(1, Ordering::Relaxed);
                    // Nobody will ever read from a pipe whose other end is closed.
                    if self.shared.is_closing() || error.kind() == io::ErrorKind::BrokenPipe {
                        let written = self.sink.lines_in(&bytes[..progress.done]);
                        self.shared.lost(u64::from(lines).saturating_sub(written));
                        self.tell_of_failure(&error);
                        return;
                    }
                    self.tell_of_failure(&error);
                    self.tell_of_drops();
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.pause();
                    }
                }
            }
        }
    }

    fn look_for_another_file(&mut self, bytes: &[u8], progress: &mut Progress) {
        let replacement = self.shared.replacement().take();
        if let Some(file) = replacement {
            self.sink.replace(file, bytes, progress);
        }
    }

    /// Waits before the next try, unless there is news.
    fn pause(&self) {
        let replacement = self.shared.replacement();
        if replacement.is_none() && !self.shared.is_closing() {
            drop(self.shared.changed.wait_timeout(replacement, RETRY));
        }
    }

    fn tell_of_failure(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.told.is_failing, true) {
            warn!(%error, "the access log cannot be written; lines are queued until the queue is full");
        }
    }

    fn owes_a_word(&self) -> bool {
        self.shared.dropped.load(Ordering::Relaxed) > self.told.dropped
    }

    fn tell_of_drops(&mut self) {
        if !self.owes_a_word() || self.told.at.is_some_and(|at| at.elapsed() < AT_MOST_EVERY) {
            return;
        }
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        warn!(lines = dropped - self.told.dropped, in_all = dropped, "access log lines were dropped");
        self.told.dropped = dropped;
        self.told.at = Some(Instant::now());
    }
}

/// Bytes that may wait to be written: a second of a busy machine's lines.
pub(super) const QUEUE: usize = 16 << 20;
/// Between two tries after an error.
const RETRY: Duration = Duration::from_secs(1);
/// Between two warnings about dropped lines.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);
/// How long a thread that was told to leave may take.
const LAST_WORDS: Duration = Duration::from_millis(1_500);
