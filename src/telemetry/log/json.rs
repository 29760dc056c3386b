//! Formats an event of the process's own log as one JSON object: time, level, target, message, then its fields by name.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use tracing::Event;
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::format::Writer;

use crate::telemetry::calendar;
use crate::telemetry::escape;

/// Writes the line of an event.
pub(super) fn line(mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
    let mut line = Line { bytes: Vec::with_capacity(256), text: String::new() };
    line.bytes.extend_from_slice(b"{\"time\":\"");
    calendar::rfc3339(&mut line.bytes, SystemTime::now());
    line.bytes.extend_from_slice(b"\",\"level\":\"");
    line.bytes.extend_from_slice(event.metadata().level().as_str().to_ascii_lowercase().as_bytes());
    line.bytes.push(b'"');
    line.text("target", event.metadata().target());
    event.record(&mut line);
    line.bytes.extend_from_slice(b"}\n");
    // Everything beyond ASCII is escaped.
    out.write_str(std::str::from_utf8(&line.bytes).unwrap_or_default())
}

struct Line {
    bytes: Vec<u8>,
    /// What a value looks like before it is escaped.
    text: String,
}

impl Line {
    fn name(&mut self, name: &str) {
        self.bytes.extend_from_slice(b",\"");
        escape::json(&mut self.bytes, name.as_bytes(), usize::MAX);
        self.bytes.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.bytes.push(b'"');
        escape::json(&mut self.bytes, value.as_bytes(), usize::MAX);
        self.bytes.push(b'"');
    }

    fn plain(&mut self, name: &str, value: &str) {
        self.name(name);
        self.bytes.extend_from_slice(value.as_bytes());
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let _ = write!(text, "{value:?}");
        self.text(field.name(), &text);
        self.text = text;
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field.name(), itoa::Buffer::new().format(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field.name(), itoa::Buffer::new().format(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field.name(), if value { "true" } else { "false" });
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for what is no number.
        if value.is_finite() { self.plain(field.name(), &value.to_string()) } else { self.plain(field.name(), "null") }
    }
}
