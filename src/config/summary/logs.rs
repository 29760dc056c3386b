//! The summary of the logs.

use std::fmt::Write as _;

use super::list;
use crate::config::model::{Listener, LogFormat, LogOutput, ProcessLogFormat, Server, Stamp};

/// A line for each log that differs from what is usual.
pub(super) fn write(out: &mut String, server: &Server) {
    if let Some(level) = &server.log.level {
        let _ = writeln!(out, "log level {level}");
    }
    if server.log.format == ProcessLogFormat::Json {
        let _ = writeln!(out, "log as JSON");
    }
    let Some(log) = &server.access_log else { return };
    let output = match &log.output {
        LogOutput::Stdout => "standard output".to_owned(),
        LogOutput::Stderr => "standard error".to_owned(),
        LogOutput::Syslog(path) => format!("syslog at {}", path.display()),
        LogOutput::Journald(path) => format!("journald at {}", path.display()),
        LogOutput::File(path) => path.display().to_string(),
    };
    let format = match &log.format {
        LogFormat::Json => "JSON",
        LogFormat::Logfmt => "logfmt",
        LogFormat::Combined => "combined",
        LogFormat::Template(_) => "a template",
    };
    let _ = write!(out, "access log to {output} as {format}");
    if let Some(only) = &log.only {
        let _ = write!(out, ", only {}", only.source);
    }
    if log.sample < 1.0 {
        let _ = write!(out, ", a share of {}", log.sample);
    }
    if log.query {
        out.push_str(", with query strings");
    }
    for (headers, side) in [(&log.request_headers, "request"), (&log.response_headers, "response")] {
        if !headers.is_empty() {
            let _ = write!(out, ", {side} headers {}", list(headers));
        }
    }
    out.push('\n');
}

/// What a listener puts on requests and what it does not log, where it is not what is usual.
pub(super) fn of_listener(listener: &Listener) -> Vec<String> {
    let mut facts = Vec::new();
    if !listener.access_log {
        facts.push("no access log".to_owned());
    }
    for (stamp, name) in [(listener.request_id, "x-request-id"), (listener.traceparent, "traceparent")] {
        match stamp {
            Stamp::Auto => {}
            Stamp::Always => facts.push(format!("{name} on every request")),
            Stamp::Off => facts.push(format!("no {name} of its own")),
        }
    }
    facts
}
