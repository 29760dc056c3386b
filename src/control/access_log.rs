//! The access log from one generation to the next: it stays while its configuration does, with its file opened anew; another
//! takes its place beside it, and writes while the one before writes what it still has.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::config::{Faults, Place, model};
use crate::telemetry::access_log::{AccessLog, Losses, Reopened, Writer};

/// The access log in force, and the threads of those before it.
pub struct AccessLogs {
    current: Option<Arc<AccessLog>>,
    writers: Vec<(Weak<AccessLog>, Writer)>,
    losses: Arc<Losses>,
}

/// What a generation that is about to be in force writes to. Dropped, it leaves everything as it was.
pub enum NextLog {
    /// Nothing.
    Off,
    /// The log in force, with its file opened anew.
    Kept(Arc<AccessLog>, Option<Reopened>),
    /// Another one.
    Fresh(Arc<AccessLog>, Writer),
}

impl NextLog {
    /// For the snapshot.
    pub fn log(&self) -> Option<Arc<AccessLog>> {
        match self {
            Self::Off => None,
            Self::Kept(log, _) | Self::Fresh(log, _) => Some(Arc::clone(log)),
        }
    }
}

impl AccessLogs {
    /// None yet; what they lose counts in `losses`.
    pub fn new(losses: Arc<Losses>) -> Self {
        Self { current: None, writers: Vec::new(), losses }
    }

    /// Opens what a configuration asks for.
    ///
    /// # Errors
    /// The file or the socket cannot be opened: one fault, at its place.
    pub fn prepare(&self, config: Option<&model::AccessLog>) -> Result<NextLog, Faults> {
        let Some(config) = config else { return Ok(NextLog::Off) };
        let opened = match &self.current {
            Some(current) if current.is_as(config) => {
                current.reopen().map(|file| NextLog::Kept(Arc::clone(current), file))
            }
            _ => AccessLog::open(config, &self.losses).map(|(log, writer)| NextLog::Fresh(log, writer)),
        };
        opened.map_err(|error| fault(config, &error))
    }

    /// Puts it in force.
    pub fn commit(&mut self, prepared: NextLog) {
        self.writers.retain(|(_, writer)| !writer.has_ended());
        match prepared {
            NextLog::Kept(log, reopened) => {
                if let Some(reopened) = reopened {
                    log.replace(reopened);
                }
            }
            NextLog::Fresh(log, writer) => {
                self.writers.push((Arc::downgrade(&log), writer));
                self.current = Some(log);
            }
            NextLog::Off => self.current = None,
        }
    }

    /// Opens the file anew where a reload came to nothing: whoever renamed it waits for it to be let go, whatever the
    /// configuration is worth.
    pub fn reopen(&self) {
        let Some(log) = &self.current else { return };
        match log.reopen() {
            Ok(Some(file)) => log.replace(file),
            Ok(None) => {}
            Err(error) => {
                warn!(file = log.output(), %error, "cannot reopen the access log; writing to the old file continues")
            }
        }
    }

    /// Waits until everything is written, at most for a few seconds: the last thing before the process ends, when no worker
    /// is left that could log.
    pub fn finish(&mut self) {
        self.current = None;
        self.writers.iter().filter_map(|(log, _)| log.upgrade()).for_each(|log| log.close());
        let until = Instant::now() + PATIENCE;
        for (_, writer) in self.writers.drain(..) {
            writer.finish(until.saturating_duration_since(Instant::now()));
        }
    }
}

/// What cannot be opened, at its place in the configuration.
pub fn fault(config: &model::AccessLog, error: &io::Error) -> Faults {
    let mut faults = Faults::new();
    tell(&mut faults, config, error);
    faults
}

/// The same among others.
pub fn tell(faults: &mut Faults, config: &model::AccessLog, error: &io::Error) {
    let place: &Place = &config.place;
    let (what, help) = match &config.output {
        model::LogOutput::File(path) => {
            let help = match error.kind() {
                io::ErrorKind::NotFound => Some("make its folder first".to_owned()),
                io::ErrorKind::PermissionDenied => Some("the user that serves must be able to write there".to_owned()),
                _ => None,
            };
            (format!("{}", path.display()), help)
        }
        model::LogOutput::Syslog(path) => {
            (format!("{}", path.display()), Some("is a syslog daemon running?".to_owned()))
        }
        model::LogOutput::Journald(path) => (format!("{}", path.display()), Some("is journald running?".to_owned())),
        model::LogOutput::Stdout => ("standard output".to_owned(), None),
        model::LogOutput::Stderr => ("standard error".to_owned(), None),
    };
    faults.push_at(place, format!("cannot open the access log {what}: {error}"), "", help);
}

/// How long a process that leaves waits for the log to be written.
const PATIENCE: Duration = Duration::from_secs(2);
