//! Watches the directories of files and reports changes once they settle: for the configuration, to reload it, and for
//! certificates, to read them again. It only reports that something may have changed; the receiver reads and compares.
//! If the system refuses a watch, this is logged once, and the files are checked once a minute.

mod places;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

pub use places::Changed;
use places::Places;

/// What is to be watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// The files of the configuration.
    pub configuration: Vec<PathBuf>,
    /// Folders that files of the configuration are looked for in, with the pattern of their names.
    pub searched: Vec<(PathBuf, String)>,
    /// Certificates, keys, authorities.
    pub certificates: Vec<PathBuf>,
}

/// A watch over files that outlives their changes.
#[derive(Default)]
pub struct FileWatch {
    wanted: Watched,
    places: Arc<Places>,
    /// `None`: nothing is to be watched, or the system refused.
    watcher: Option<RecommendedWatcher>,
    seen: Arc<Seen>,
    pending: Changed,
    rest: Rest,
    /// When the files are read although nothing can tell of a change.
    look: Option<Instant>,
    is_told: bool,
}

/// What the watcher's thread has seen since it was last asked.
#[derive(Default)]
struct Seen {
    changed: Mutex<Changed>,
    any: Notify,
}

impl FileWatch {
    /// Watches these files from now on. Files that were not watched before count as changed: they may have been since
    /// they were read.
    pub fn watch(&mut self, wanted: Watched) {
        if wanted != self.wanted {
            self.wanted = wanted;
            self.arm();
        }
    }

    /// Waits until watched files have changed and nothing was written for a moment. Cancel-safe.
    pub async fn changed(&mut self) -> Changed {
        loop {
            let due = [self.rest.due(), self.look].into_iter().flatten().min();
            let pause = async move {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.seen.any.notified() => self.take_in(),
                () = pause => {}
            }
            let now = Instant::now();
            if self.look.is_some_and(|look| look <= now) {
                self.arm();
                return self.places.everything();
            }
            if self.rest.due().is_some_and(|due| due <= now) {
                self.rest = Rest::default();
                // Before anybody reads: what is written from then on is seen.
                self.arm();
                return std::mem::take(&mut self.pending);
            }
        }
    }

    fn take_in(&mut self) {
        let changed = std::mem::take(&mut *self.seen.changed.lock().unwrap_or_else(PoisonError::into_inner));
        if !changed.is_nothing() {
            self.pending = self.pending.and(changed);
            self.rest.note(Instant::now());
        }
    }

    /// Makes a watch over the folders as they are now: one may be another than before, or be there at last. Where they
    /// are others, a change may have come between the reading that led here and the watch, so all of them count as changed.
    fn arm(&mut self) {
        let places = self.wanted.places();
        if places != *self.places {
            self.seen.raise(places.everything());
        }
        self.places = Arc::new(places);
        let refused = self.watch_folders().err();
        self.look = refused.as_ref().map(|_| Instant::now() + LOOK);
        match refused {
            Some(error) if !std::mem::replace(&mut self.is_told, true) => {
                let help = help(&error);
                warn!(%error, help, "cannot watch files for changes; they are checked once a minute instead");
            }
            None if std::mem::take(&mut self.is_told) => info!("watching files for changes again"),
            Some(_) | None => {}
        }
    }

    /// Watches as many folders as it can.
    fn watch_folders(&mut self) -> notify::Result<()> {
        self.watcher = None;
        if self.places.is_empty() {
            return Ok(());
        }
        let (places, seen) = (Arc::clone(&self.places), Arc::clone(&self.seen));
        let watcher = self.watcher.insert(notify::recommended_watcher(move |event| seen.take(&places, event))?);
        let watch = |folder| watcher.watch(folder, RecursiveMode::NonRecursive);
        // Every one is tried: one that may not be read keeps nobody from the others.
        let refused: Vec<_> = self.places.folders().map(watch).filter_map(Result::err).collect();
        refused.into_iter().next().map_or(Ok(()), Err)
    }
}

impl Watched {
    fn places(&self) -> Places {
        let mut places = Places::default();
        self.configuration.iter().for_each(|file| places.add(file, Changed::CONFIGURATION));
        self.searched.iter().for_each(|(folder, pattern)| places.add_pattern(folder, pattern));
        self.certificates.iter().for_each(|file| places.add(file, Changed::CERTIFICATES));
        places
    }
}

impl Seen {
    /// On the watcher's thread.
    fn take(&self, places: &Places, event: notify::Result<Event>) {
        let changed = match event {
            // The queue ran over, say: anything may have happened.
            Err(_) => places.everything(),
            Ok(event) if event.need_rescan() => places.everything(),
            Ok(event) if !is_change(event.kind) => return,
            Ok(event) => {
                event.paths.iter().fold(Changed::default(), |changed, path| changed.and(places.concerned(path)))
            }
        };
        self.raise(changed);
    }

    fn raise(&self, changed: Changed) {
        if changed.is_nothing() {
            return;
        }
        let mut seen = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = seen.and(changed);
        drop(seen);
        self.any.notify_one();
    }
}

/// Reading is none, or our own reading would never end.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

fn help(error: &notify::Error) -> &'static str {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => "raise fs.inotify.max_user_watches",
        notify::ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            "raise fs.inotify.max_user_instances, or the descriptor limit"
        }
        _ => "",
    }
}

/// When a series of changes has come to rest (sans-io).
#[derive(Debug, Default)]
struct Rest {
    /// The first and the last change of the series.
    series: Option<(Instant, Instant)>,
}

impl Rest {
    fn note(&mut self, now: Instant) {
        let first = self.series.map_or(now, |(first, _)| first);
        self.series = Some((first, now));
    }

    fn due(&self) -> Option<Instant> {
        self.series.map(|(first, last)| (last + QUIET).min(first + LONGEST))
    }
}

/// How long nothing must be written: editors and deployments write several files in a row.
const QUIET: Duration = Duration::from_millis(200);
/// How long a series may last before it is acted on all the same.
const LONGEST: Duration = Duration::from_secs(2);
/// How often files are read that cannot be watched.
const LOOK: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
