//! The access log: one line for each exchange, session and flow, written off their path. A worker's [`Logger`] formats
//! into its own buffer; full buffers go through a bounded queue to the writer thread. Lines that do not fit are dropped
//! and counted.

mod condition;
mod frame;
mod line;
mod logger;
mod record;
mod session;
mod sink;
mod value;
mod writer;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};

use http::HeaderName;

use crate::config::model::{self, LinePart, LogFormat, LogOutput, LogValue, Test};

pub use logger::{Flushes, Logger};
pub use record::{Headers, Record};
pub use session::SessionRecord;
pub use writer::{Losses, Writer};

use sink::Sink;
use writer::{Message, Shared};

/// An access log that is open. Made by the control thread, replaced or reopened at a reload; workers hold it through
/// their snapshots, and its thread writes what is left and leaves when the last of them lets go.
pub struct AccessLog {
    config: model::AccessLog,
    request_headers: Vec<HeaderName>,
    response_headers: Vec<HeaderName>,
    queue: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

/// A file that was opened anew and is not written to yet.
#[derive(Debug)]
pub struct Reopened(File);

impl AccessLog {
    /// Opens it and starts its thread, which is to be waited for when the process leaves. What it loses counts in `losses`.
    ///
    /// # Errors
    /// The file cannot be opened, the socket is not there, or the system has no thread.
    pub fn open(config: &model::AccessLog, losses: &Arc<Losses>) -> io::Result<(Arc<Self>, Writer)> {
        let sink = Sink::open(&config.output)?;
        let (queue, lines) = mpsc::channel();
        let shared = Arc::new(Shared::new(losses));
        let writer = Writer::start(sink, lines, Arc::clone(&shared))?;
        let (mut request_headers, mut response_headers) = Default::default();
        for value in values(config) {
            let (name, names): (_, &mut Vec<HeaderName>) = match value {
                LogValue::RequestHeader(name) => (name, &mut request_headers),
                LogValue::ResponseHeader(name) => (name, &mut response_headers),
                LogValue::Field(_) => continue,
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok((Arc::new(Self { config: config.clone(), request_headers, response_headers, queue, shared }), writer))
    }

    /// Whether a configuration can be opened, as far as that can be told without making a file: for `tidegate check`.
    ///
    /// # Errors
    /// The folder of the file is not there, or the file is a folder.
    pub fn inspect(config: &model::AccessLog) -> io::Result<()> {
        let LogOutput::File(path) = &config.output else { return Ok(()) };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !std::fs::metadata(folder)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if path.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(()) }
    }

    /// A worker's end of it.
    pub fn logger(self: &Arc<Self>) -> Logger {
        Logger::new(Arc::clone(self))
    }

    /// Whether it is what this configuration asks for.
    pub fn is_as(&self, config: &model::AccessLog) -> bool {
        self.config == *config
    }

    /// Opens its file anew, which may have been renamed meanwhile; `None` where it is no file.
    ///
    /// # Errors
    /// The file cannot be opened; the one in use stays.
    pub fn reopen(&self) -> io::Result<Option<Reopened>> {
        match &self.config.output {
            LogOutput::File(path) => sink::append_to(path).map(Reopened).map(Some),
            _ => Ok(None),
        }
    }

    /// Has lines from now on written to a file that was opened anew; no line is lost or torn.
    pub fn replace(&self, reopened: Reopened) {
        self.shared.replace(reopened.0);
        // Whoever waits for lines closes the old file at once, so that its space is given back.
        let _ = self.queue.send(Message::Look);
    }

    /// Has its thread leave once everything is written that was logged before, whoever still holds the log.
    pub fn close(&self) {
        let _ = self.queue.send(Message::Close);
    }

    /// Where it goes, for people.
    pub fn output(&self) -> String {
        match &self.config.output {
            LogOutput::Stdout => "stdout".into(),
            LogOutput::Stderr => "stderr".into(),
            LogOutput::Syslog(path) => format!("syslog:{}", path.display()),
            LogOutput::Journald(path) => format!("journald:{}", path.display()),
            LogOutput::File(path) => path.display().to_string(),
        }
    }

    /// The request headers that records are to hold.
    pub fn request_headers(&self) -> &[HeaderName] {
        &self.request_headers
    }

    /// The headers of the answer that records are to hold.
    pub fn response_headers(&self) -> &[HeaderName] {
        &self.response_headers
    }
}

/// Every value that a log looks at by a name of its own.
fn values(config: &model::AccessLog) -> Vec<LogValue> {
    let mut values: Vec<_> = config.request_headers.iter().cloned().map(LogValue::RequestHeader).collect();
    values.extend(config.response_headers.iter().cloned().map(LogValue::ResponseHeader));
    if let LogFormat::Template(parts) = &config.format {
        values.extend(parts.iter().filter_map(|part| match part {
            LinePart::Value(value) => Some(value.clone()),
            LinePart::Text(_) => None,
        }));
    }
    if let Some(only) = &config.only {
        asked(&only.test, &mut values);
    }
    values
}

fn asked(test: &Test, values: &mut Vec<LogValue>) {
    match test {
        Test::All(tests) | Test::Any(tests) => tests.iter().for_each(|test| asked(test, values)),
        Test::Not(test) => asked(test, values),
        Test::Number(value, ..)
        | Test::Duration(value, ..)
        | Test::Text(value, _)
        | Test::Matches(value, _)
        | Test::Within(value, _) => values.push(value.clone()),
    }
}
