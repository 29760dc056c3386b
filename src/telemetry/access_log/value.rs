//! The value of each field, independent of the format.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_LOCATION, LOCATION, REFERER};
use http::{HeaderName, HeaderValue, Version};

use super::{Headers, Record};
use crate::base::error::Kind;
use crate::config::model::{LogField, LogValue};
use crate::telemetry::series::Ended;

/// One value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// Not known, or there is none.
    Missing,
    /// The time of the record.
    Time,
    /// Printable ASCII without quotes and backslashes.
    Word(&'a str),
    /// Anything a peer may have sent.
    Text(&'a [u8]),
    Number(u64),
    Millis(Duration),
    Ip(IpAddr),
    Peer(SocketAddr),
    TraceId([u8; 32]),
    ParentId([u8; 16]),
}

/// What a line tells of: an exchange, a session or a flow that ended.
pub(super) trait Told {
    /// When it began.
    fn at(&self) -> SystemTime;
    /// What stands in a field.
    fn field(&self, field: LogField) -> Value<'_>;
    /// One of the headers that are logged by name.
    fn request_header(&self, name: &HeaderName) -> Value<'_>;
    /// The same of the answer's.
    fn response_header(&self, name: &HeaderName) -> Value<'_>;
    /// The line in the format of web servers.
    fn combined(&self, out: &mut Vec<u8>);

    /// What stands for a value of a template or a condition.
    fn value(&self, value: &LogValue) -> Value<'_> {
        match value {
            LogValue::Field(field) => self.field(*field),
            LogValue::RequestHeader(name) => self.request_header(name),
            LogValue::ResponseHeader(name) => self.response_header(name),
        }
    }
}

/// An exchange that ended.
#[derive(Clone, Copy)]
pub(super) struct Ending<'a> {
    pub(super) record: &'a Record,
    pub(super) ended: &'a Ended,
    /// Whether query strings are shown.
    pub(super) query: bool,
}

impl Told for Ending<'_> {
    fn at(&self) -> SystemTime {
        self.record.at
    }

    fn request_header(&self, name: &HeaderName) -> Value<'_> {
        self.header(&self.record.request_headers, name)
    }

    fn response_header(&self, name: &HeaderName) -> Value<'_> {
        self.header(&self.record.response_headers, name)
    }

    fn combined(&self, out: &mut Vec<u8>) {
        super::line::combined(out, self);
    }

    fn field(&self, field: LogField) -> Value<'_> {
        let (record, ended) = (self.record, self.ended);
        let phases = &ended.phases;
        match field {
            LogField::Time => Value::Time,
            LogField::Method => text(record.method.as_str()),
            LogField::Path => text(record.target.path()),
            LogField::Query => match record.target.query() {
                Some(query) if self.query => text(query),
                _ => Value::Missing,
            },
            LogField::Host => text_or_missing(&record.host),
            LogField::Scheme => Value::Word(record.scheme),
            LogField::Protocol => Value::Word(protocol(record.version)),
            LogField::Status if ended.status == 0 => Value::Missing,
            LogField::Status => Value::Number(ended.status.into()),
            LogField::Outcome => Value::Word(ended.outcome.map_or("ok", Kind::as_str)),
            LogField::Reason => text_or_missing(ended.reason),
            LogField::BytesIn => Value::Number(ended.bytes_in),
            LogField::BytesOut => Value::Number(ended.bytes_out),
            LogField::Duration => Value::Millis(phases.total),
            LogField::Queue => self.phase(phases.queue),
            LogField::Connect => self.phase(phases.connect),
            LogField::Tls => self.phase(phases.tls),
            LogField::FirstByte => self.phase(phases.first_byte),
            LogField::Body => self.phase(phases.body),
            LogField::ClientIp => record.client.map_or(Value::Missing, Value::Ip),
            LogField::Peer => record.peer.map_or(Value::Missing, Value::Peer),
            LogField::Listener => text(&record.listener),
            LogField::Route => record.route.as_deref().map_or(Value::Missing, text),
            LogField::Upstream => record.upstream.as_deref().map_or(Value::Missing, text),
            LogField::Endpoint => record.endpoint.as_deref().map_or(Value::Missing, text),
            LogField::Attempts => Value::Number(record.attempts.into()),
            LogField::RequestId => text_or_missing(&record.request_id),
            LogField::TraceId => record.trace.map_or(Value::Missing, |trace| Value::TraceId(trace.trace_digits())),
            LogField::ParentId => record.trace.map_or(Value::Missing, |trace| Value::ParentId(trace.parent_digits())),
            LogField::Sni => record.sni.as_deref().map_or(Value::Missing, text),
            LogField::TlsVersion => record.tls_version.map_or(Value::Missing, Value::Word),
            LogField::UserAgent => header(record.user_agent.as_ref()),
            LogField::Destination => record.destination.as_deref().map_or(Value::Missing, text),
            LogField::User => record.user.as_deref().map_or(Value::Missing, text),
            LogField::Referer => self.without_query(header(record.referer.as_ref())),
        }
    }
}

impl<'a> Ending<'a> {
    /// One of the headers that are logged by name. Locations show no more of their queries than anywhere else.
    fn header(&self, headers: &'a Headers, name: &HeaderName) -> Value<'a> {
        let value = header(headers.value(name));
        if [REFERER, LOCATION, CONTENT_LOCATION].contains(name) { self.without_query(value) } else { value }
    }

    fn without_query(&self, value: Value<'a>) -> Value<'a> {
        match value {
            Value::Text(text) if !self.query => {
                Value::Text(text.split(|byte| b"?#".contains(byte)).next().unwrap_or_default())
            }
            value => value,
        }
    }

    /// An answer of our own has no phases but the whole.
    fn phase(&self, phase: Duration) -> Value<'a> {
        let is_meant = self.record.upstream.is_some() || !phase.is_zero();
        if is_meant { Value::Millis(phase) } else { Value::Missing }
    }
}

/// As nginx writes it, with a minor version for HTTP/2 and HTTP/3 too.
pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/3.0",
    }
}

pub(super) fn text(text: &str) -> Value<'_> {
    Value::Text(text.as_bytes())
}

pub(super) fn text_or_missing(value: &str) -> Value<'_> {
    if value.is_empty() { Value::Missing } else { text(value) }
}

fn header(value: Option<&HeaderValue>) -> Value<'_> {
    value.map_or(Value::Missing, |value| Value::Text(value.as_bytes()))
}
