//! `[server.access_log]`, and the keys of listeners and routes about it.

use std::path::PathBuf;

use http::HeaderName;

use super::{Condition, LogField, Place};
use crate::base::log_filter::Filter;

/// `[server.log]`: the process's own log, on stderr.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessLog {
    /// What it says; `None`: what it was started with.
    pub level: Option<Filter>,
    /// How a line looks.
    pub format: ProcessLogFormat,
}

/// `server.log.format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessLogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object.
    Json,
}

/// `[server.access_log]`. Equal to another that asks for the same, wherever it was written.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// Where lines go.
    pub output: LogOutput,
    /// How a line looks.
    pub format: LogFormat,
    /// Which exchanges are logged; `None`: every one.
    pub only: Option<Condition>,
    /// The share of these that is logged, above 0 and at most 1.
    pub sample: f64,
    /// Whether query strings are logged.
    pub query: bool,
    /// Request headers that are logged, as lines of every format but `combined` show them.
    pub request_headers: Vec<HeaderName>,
    /// The same for the answer's.
    pub response_headers: Vec<HeaderName>,
    /// Where it was written.
    pub place: Place,
}

impl PartialEq for AccessLog {
    fn eq(&self, other: &Self) -> bool {
        let Self { output, format, only, sample, query, request_headers, response_headers, place: _ } = self;
        (output, format, only) == (&other.output, &other.format, &other.only)
            && (sample, query) == (&other.sample, &other.query)
            && (request_headers, response_headers) == (&other.request_headers, &other.response_headers)
    }
}

/// `server.access_log.output`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard output.
    Stdout,
    /// Standard error, between the lines of the process's own log.
    Stderr,
    /// A syslog daemon's socket, usually `/dev/log`.
    Syslog(PathBuf),
    /// The journal's own socket, with a field for each value.
    Journald(PathBuf),
    /// A file that is appended to.
    File(PathBuf),
}

/// `server.access_log.format`.
#[derive(Clone, Debug, PartialEq)]
pub enum LogFormat {
    /// One JSON object.
    Json,
    /// `name=value` pairs.
    Logfmt,
    /// What Apache and nginx call `combined`.
    Combined,
    /// Text with fields in braces.
    Template(Vec<LinePart>),
}

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinePart {
    /// Stands as it is.
    Text(String),
    /// A value, `-` where there is none.
    Value(LogValue),
}

/// What can be shown and asked of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogValue {
    /// A field.
    Field(LogField),
    /// A header of the request.
    RequestHeader(HeaderName),
    /// A header of the answer.
    ResponseHeader(HeaderName),
}

/// Whether a header that follows a request through the system is put on it: `listener.request_id`, `listener.traceparent`.
/// A good one that came is always passed on as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stamp {
    /// Where the access log is on for the request, or a template of its route asks.
    #[default]
    Auto,
    /// On every request.
    Always,
    /// On none.
    Off,
}
