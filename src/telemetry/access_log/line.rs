//! Formats the line of an exchange, a session or a flow in each format, into a buffer, without allocating (sans-io).

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::HeaderName;

use super::value::{Ending, Told, Value, protocol};
use crate::base::error::Kind;
use crate::config::model::{AccessLog, LinePart, LogField, LogFormat, LogValue};
use crate::telemetry::{calendar, escape};

/// How lines of a log look.
pub(super) struct Layout {
    format: LogFormat,
    /// Fields in the order of lines, with what stands before the value in this format.
    fields: Vec<(LogField, Lead)>,
    request_headers: Vec<(HeaderName, Lead)>,
    response_headers: Vec<(HeaderName, Lead)>,
}

/// What stands before a value, copied with every line.
enum Lead {
    /// Of a known size, so that copying takes three instructions in the place of a call; what is too much is cut again.
    Short([u8; LEAD], usize),
    Long(Box<[u8]>),
}

impl Lead {
    fn new(text: &str) -> Self {
        let mut bytes = [0; LEAD];
        match bytes.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                Self::Short(bytes, text.len())
            }
            None => Self::Long(text.as_bytes().into()),
        }
    }

    fn append(&self, out: &mut Vec<u8>) {
        match self {
            Self::Short(bytes, length) => {
                let before = out.len();
                out.extend_from_slice(bytes);
                out.truncate(before + length);
            }
            Self::Long(bytes) => out.extend_from_slice(bytes),
        }
    }
}

impl Layout {
    pub(super) fn new(config: &AccessLog) -> Self {
        let is_json = matches!(config.format, LogFormat::Json);
        let lead = |name: &str| Lead::new(&if is_json { format!(",\"{name}\":") } else { format!(" {name}=") });
        let header = |prefix: &str, name: &HeaderName| {
            let lead = if is_json { format!("\"{name}\":") } else { format!(" {prefix}.{name}=") };
            (name.clone(), Lead::new(&lead))
        };
        let shown = LogField::ALL.iter().map(|facts| facts.field).filter(|field| *field != LogField::Time);
        let headers = |prefix: &str, names: &[HeaderName]| names.iter().map(|name| header(prefix, name)).collect();
        Self {
            format: config.format.clone(),
            fields: shown.map(|field| (field, lead(field.name()))).collect(),
            request_headers: headers("request_headers", &config.request_headers),
            response_headers: headers("response_headers", &config.response_headers),
        }
    }

    /// Appends the line, without an end.
    pub(super) fn line(&self, out: &mut Vec<u8>, ending: &impl Told) {
        match &self.format {
            LogFormat::Json => self.json(out, ending),
            LogFormat::Logfmt => self.logfmt(out, ending),
            LogFormat::Combined => ending.combined(out),
            LogFormat::Template(parts) => template(out, parts, ending),
        }
    }

    fn json(&self, out: &mut Vec<u8>, ending: &impl Told) {
        out.extend_from_slice(b"{\"time\":\"");
        calendar::rfc3339(out, ending.at());
        out.push(b'"');
        for (field, lead) in &self.fields {
            json_value(out, lead, ending.field(*field));
        }
        json_headers(out, b",\"request_headers\":{", &self.request_headers, |name| ending.request_header(name));
        json_headers(out, b",\"response_headers\":{", &self.response_headers, |name| ending.response_header(name));
        out.push(b'}');
    }

    fn logfmt(&self, out: &mut Vec<u8>, ending: &impl Told) {
        out.extend_from_slice(b"time=");
        calendar::rfc3339(out, ending.at());
        let pair = |out: &mut Vec<u8>, lead: &Lead, value: Value<'_>| {
            if let Value::Missing = value {
                return;
            }
            lead.append(out);
            match value {
                Value::Text(text) => escape::logfmt(out, text, TEXT_LIMIT),
                value => bare(out, value),
            }
        };
        for (field, lead) in &self.fields {
            pair(out, lead, ending.field(*field));
        }
        for (name, lead) in &self.request_headers {
            pair(out, lead, ending.request_header(name));
        }
        for (name, lead) in &self.response_headers {
            pair(out, lead, ending.response_header(name));
        }
    }
}

fn json_headers<'a>(
    out: &mut Vec<u8>,
    title: &[u8],
    names: &'a [(HeaderName, Lead)],
    value: impl Fn(&'a HeaderName) -> Value<'a>,
) {
    if names.is_empty() {
        return;
    }
    out.extend_from_slice(title);
    let mut separator: &[u8] = b"";
    for (name, lead) in names {
        let value = value(name);
        if !matches!(value, Value::Missing) {
            out.extend_from_slice(separator);
            json_value(out, lead, value);
            separator = b",";
        }
    }
    out.push(b'}');
}

fn json_value(out: &mut Vec<u8>, lead: &Lead, value: Value<'_>) {
    match value {
        Value::Missing => {}
        Value::Number(_) | Value::Millis(_) => {
            lead.append(out);
            bare(out, value);
        }
        value => {
            lead.append(out);
            out.push(b'"');
            match value {
                Value::Text(text) => escape::json(out, text, TEXT_LIMIT),
                value => bare(out, value),
            }
            out.push(b'"');
        }
    }
}

/// `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"`,
/// escaped as nginx escapes. The user is who proved to be one to a listener with `forward.users`, else `-`.
pub(super) fn combined(out: &mut Vec<u8>, ending: &Ending<'_>) {
    let (record, ended) = (ending.record, ending.ended);
    plain_or_dash(out, ending.field(LogField::ClientIp));
    out.extend_from_slice(b" - ");
    plain_or_dash(out, ending.field(LogField::User));
    out.extend_from_slice(b" [");
    calendar::web_log(out, record.at);
    out.extend_from_slice(b"] \"");
    escape::plain(out, record.method.as_str().as_bytes(), TEXT_LIMIT);
    out.push(b' ');
    escape::plain(out, record.target.path().as_bytes(), TEXT_LIMIT);
    if let Some(query) = record.target.query().filter(|_| ending.query) {
        out.push(b'?');
        escape::plain(out, query.as_bytes(), TEXT_LIMIT);
    }
    out.push(b' ');
    out.extend_from_slice(protocol(record.version).as_bytes());
    out.extend_from_slice(b"\" ");
    match (ended.status, ended.outcome) {
        // As nginx has it, since readers of this format want a number.
        (0, Some(Kind::ClientGone)) => out.extend_from_slice(b"499"),
        (0, _) => out.extend_from_slice(b"000"),
        (status, _) => number(out, status.into()),
    }
    out.push(b' ');
    number(out, ended.bytes_out);
    out.extend_from_slice(b" \"");
    plain_or_dash(out, ending.field(LogField::Referer));
    out.extend_from_slice(b"\" \"");
    plain_or_dash(out, ending.field(LogField::UserAgent));
    out.push(b'"');
}

fn template(out: &mut Vec<u8>, parts: &[LinePart], ending: &impl Told) {
    for part in parts {
        match part {
            LinePart::Text(text) => out.extend_from_slice(text.as_bytes()),
            LinePart::Value(value) => plain_or_dash(out, ending.value(value)),
        }
        if let LinePart::Value(LogValue::Field(LogField::Time)) = part {
            calendar::rfc3339(out, ending.at());
        }
    }
}

/// For the formats of web servers: no quotes, and `-` for what there is none of.
pub(super) fn plain_or_dash(out: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Missing => out.push(b'-'),
        Value::Text(b"") => out.push(b'-'),
        Value::Text(text) => escape::plain(out, text, TEXT_LIMIT),
        value => bare(out, value),
    }
}

/// What holds nothing that needs an escape.
fn bare(out: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Word(word) => out.extend_from_slice(word.as_bytes()),
        Value::Number(value) => number(out, value),
        Value::Millis(duration) => millis(out, duration),
        Value::Ip(address) => ip(out, address),
        Value::Peer(address) => peer(out, address),
        Value::TraceId(digits) => out.extend_from_slice(&digits),
        Value::ParentId(digits) => out.extend_from_slice(&digits),
        Value::Missing | Value::Time | Value::Text(_) => {}
    }
}

pub(super) fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Milliseconds with three decimals.
fn millis(out: &mut Vec<u8>, duration: Duration) {
    if duration.is_zero() {
        return out.extend_from_slice(b"0.000");
    }
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    number(out, micros / 1_000);
    let rest = micros % 1_000;
    out.extend_from_slice(&[b'.', b'0' + (rest / 100) as u8, b'0' + (rest / 10 % 10) as u8, b'0' + (rest % 10) as u8]);
}

fn ip(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            for (place, octet) in v4.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                number(out, octet.into());
            }
        }
        // Into a vector nothing fails.
        IpAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

/// Appends an address with its port.
pub(super) fn peer(out: &mut Vec<u8>, address: SocketAddr) {
    let is_v6 = address.ip().to_canonical().is_ipv6();
    out.extend_from_slice(if is_v6 { b"[" } else { b"" });
    ip(out, address.ip());
    out.extend_from_slice(if is_v6 { b"]:" } else { b":" });
    number(out, address.port().into());
}

/// Bytes of a lead that is copied as one: the longest is of `first_byte_ms`.
const LEAD: usize = 24;
/// Bytes of one value of a peer's in a line, after escaping.
pub(super) const TEXT_LIMIT: usize = 2_048;
