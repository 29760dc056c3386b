//! `[server.log]` and `[server.access_log]`.

use std::path::PathBuf;

use http::HeaderName;

use super::Check;
use crate::config::condition;
use crate::config::model::{
    AccessLog, Condition, LinePart, LogField, LogFormat, LogOutput, LogValue, ProcessLog, ProcessLogFormat, Test,
};
use crate::config::section::{Section, Written};
use crate::config::suggest;

impl Check<'_> {
    pub(super) fn process_log(&mut self, section: Option<&Section>) -> ProcessLog {
        let mut log = ProcessLog::default();
        let Some(section) = section else { return log };
        if let Some(written) = section.text("level") {
            match written.value.parse() {
                Ok(level) => log.level = Some(level),
                Err(error) => self.fault(written.spot, format!("bad level `{}`", written.value), error.to_string()),
            }
        }
        if section.word("format") == Some("json") {
            log.format = ProcessLogFormat::Json;
        }
        log
    }

    pub(super) fn access_log(&mut self, section: &Section) -> AccessLog {
        let mut log = AccessLog {
            output: self.output(section),
            format: LogFormat::Json,
            only: section.text("only").and_then(|written| self.condition(written)),
            sample: section.share("sample").unwrap_or(1.0),
            query: section.flag("query").unwrap_or(false),
            request_headers: self.logged_headers(section, "request_headers"),
            response_headers: self.logged_headers(section, "response_headers"),
            place: self.place(section.spot),
        };
        log.format = match section.text("format") {
            Some(written) => LogFormat::Template(self.line(written, log.query)),
            None => match section.word("format") {
                Some("logfmt") => LogFormat::Logfmt,
                Some("combined") => LogFormat::Combined,
                _ => LogFormat::Json,
            },
        };
        if let (LogFormat::Combined, Some(name)) =
            (&log.format, log.request_headers.first().or(log.response_headers.first()))
            && let Some(entry) = section.entry("request_headers").or_else(|| section.entry("response_headers"))
        {
            let help = "write a template of fields instead, with `{request_headers.NAME}` in it";
            self.fault_with_help(entry.name, format!("`combined` has no place for `{name}`"), "never shown", help);
        }
        if let (Some(only), false) = (&log.only, log.query)
            && let Some(written) = section.text("only")
            && asks(&only.test, &LogValue::Field(LogField::Query))
        {
            let message = "`query` is always empty here";
            self.fault_with_help(written.spot, message, "query strings are not logged", "write `query = true`");
        }
        log
    }

    fn output(&mut self, section: &Section) -> LogOutput {
        let syslog = || LogOutput::Syslog(PathBuf::from(SYSLOG));
        let journald = || LogOutput::Journald(PathBuf::from(JOURNALD));
        let Some(written) = section.text("output") else {
            return match section.word("output") {
                Some("stderr") => LogOutput::Stderr,
                Some("syslog") => syslog(),
                Some("journald") => journald(),
                _ => LogOutput::Stdout,
            };
        };
        match written.value.split_once(':') {
            Some(("syslog", path)) => LogOutput::Syslog(path.into()),
            Some(("journald", path)) => LogOutput::Journald(path.into()),
            _ => LogOutput::File(self.path(written)),
        }
    }

    fn logged_headers(&mut self, section: &Section, key: &str) -> Vec<HeaderName> {
        let mut names = Vec::new();
        for written in section.texts(key) {
            let Some(name) = self.header_name(written.value, written.spot) else { continue };
            match condition::unless_secret(name) {
                Ok(name) if names.contains(&name) => {
                    self.fault(written.spot, format!("header `{name}` is given twice"), "the second one");
                }
                Ok(name) => names.push(name),
                Err((message, help)) => {
                    self.fault_with_help(written.spot, message, "refused", help.unwrap_or_default());
                }
            }
        }
        if names.len() > HEADERS_MAX
            && let Some(entry) = section.entry(key)
        {
            self.fault(entry.name, format!("too many headers in `{key}`"), format!("at most {HEADERS_MAX}"));
        }
        names
    }

    /// A text with holes for values.
    fn line(&mut self, written: Written<'_>, query: bool) -> Vec<LinePart> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut at = 0;
        if let Some(at) = written.value.find(char::is_control) {
            self.fault(
                written.part(at..at + 1),
                "a control character in the template",
                "a request is logged as one line",
            );
        }
        while let Some(open) = written.value[at..].find('{').map(|open| at + open) {
            text.push_str(&written.value[at..open]);
            if written.value[open + 1..].starts_with('{') {
                text.push('{');
                at = open + 2;
                continue;
            }
            let Some(close) = written.value[open..].find('}').map(|close| open + close) else {
                let help = "write `{{` for a brace";
                self.fault_with_help(written.part(open..written.value.len()), "`{` is never closed", "here", help);
                return parts;
            };
            match condition::value(&written.value[open + 1..close], false) {
                Ok(value) => {
                    if value == LogValue::Field(LogField::Query) && !query {
                        let spot = written.part(open..close + 1);
                        let message = "`{query}` is always empty here";
                        self.fault_with_help(spot, message, "query strings are not logged", "write `query = true`");
                    }
                    if !text.is_empty() {
                        parts.push(LinePart::Text(std::mem::take(&mut text)));
                    }
                    parts.push(LinePart::Value(value));
                }
                Err((message, help)) => {
                    let spot = written.part(open..close + 1);
                    self.fault_with_help(spot, message, "here", help.unwrap_or_default());
                }
            }
            at = close + 1;
        }
        text.push_str(&written.value[at..]);
        if !text.is_empty() {
            parts.push(LinePart::Text(text));
        }
        if at == 0 {
            let help = suggest::did_you_mean(written.value, ["json", "logfmt", "combined"])
                .unwrap_or_else(|| "fields are written in braces: \"{method} {path} {status}\"".into());
            self.fault_with_help(written.spot, "a line without a field", "always the same", help);
        }
        parts
    }

    fn condition(&mut self, written: Written<'_>) -> Option<Condition> {
        match condition::parse(written.value) {
            Ok(condition) => Some(condition),
            Err(fault) => {
                let spot = written.part(fault.range);
                match fault.help {
                    Some(help) => self.fault_with_help(spot, fault.message, fault.label, help),
                    None => self.fault(spot, fault.message, fault.label),
                }
                None
            }
        }
    }
}

/// Whether a condition looks at a value.
fn asks(test: &Test, wanted: &LogValue) -> bool {
    match test {
        Test::All(tests) | Test::Any(tests) => tests.iter().any(|test| asks(test, wanted)),
        Test::Not(test) => asks(test, wanted),
        Test::Number(value, ..)
        | Test::Duration(value, ..)
        | Test::Text(value, _)
        | Test::Matches(value, _)
        | Test::Within(value, _) => value == wanted,
    }
}

/// Every one may hold a kibibyte, and a line is to fit into a datagram.
const HEADERS_MAX: usize = 16;
/// Where syslog daemons and journald listen for RFC 3164 messages.
const SYSLOG: &str = "/dev/log";
/// Where journald listens for entries with fields.
const JOURNALD: &str = "/run/systemd/journal/socket";
