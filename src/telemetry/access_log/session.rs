//! The logged facts about a layer 4 session or flow, and the fields of its line.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderName;

use super::line::{number, plain_or_dash};
use super::value::{Told, Value, text, text_or_missing};
use crate::base::error::Kind;
use crate::config::model::LogField;
use crate::telemetry::calendar;
use crate::telemetry::series::Ended;

/// What is known of a session (a relayed TCP connection) or a flow (a client address of UDP) when it ends. Made then,
/// and only where the access log is on for its listener: nothing is kept for it while the session lives.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// When it began: the connection was accepted, or its first datagram came.
    pub at: SystemTime,
    /// The listener's mode: `tcp`, `tls-passthrough`, `udp`, `quic`.
    pub mode: &'static str,
    /// The client's address, as a PROXY header of a trusted proxy tells it.
    pub client: Option<IpAddr>,
    /// The other end of the connection; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The upstream's name; `None`: it led nowhere.
    pub upstream: Option<Arc<str>>,
    /// The endpoint that was connected to, or tried last.
    pub endpoint: Option<Arc<str>>,
    /// Endpoints that were tried.
    pub attempts: u32,
    /// The name in the ClientHello.
    pub sni: Option<Box<str>>,
}

/// A session or flow that ended.
pub(super) struct SessionEnding<'a> {
    pub(super) record: &'a SessionRecord,
    pub(super) ended: &'a Ended,
}

impl Told for SessionEnding<'_> {
    fn at(&self) -> SystemTime {
        self.record.at
    }

    fn field(&self, field: LogField) -> Value<'_> {
        let (record, ended) = (self.record, self.ended);
        let phases = &ended.phases;
        match field {
            LogField::Time => Value::Time,
            LogField::Protocol => Value::Word(record.mode),
            LogField::Outcome => Value::Word(ended.outcome.map_or("ok", Kind::as_str)),
            LogField::Reason => text_or_missing(ended.reason),
            LogField::BytesIn => Value::Number(ended.bytes_in),
            LogField::BytesOut => Value::Number(ended.bytes_out),
            LogField::Duration => Value::Millis(phases.total),
            LogField::Connect => self.phase(phases.connect),
            LogField::Body => self.phase(phases.body),
            LogField::ClientIp => record.client.map_or(Value::Missing, Value::Ip),
            LogField::Peer => record.peer.map_or(Value::Missing, Value::Peer),
            LogField::Listener => text(&record.listener),
            LogField::Upstream => record.upstream.as_deref().map_or(Value::Missing, text),
            LogField::Endpoint => record.endpoint.as_deref().map_or(Value::Missing, text),
            LogField::Attempts => Value::Number(record.attempts.into()),
            LogField::Sni => record.sni.as_deref().map_or(Value::Missing, text),
            // What requests and answers have.
            LogField::Method
            | LogField::Path
            | LogField::Query
            | LogField::Host
            | LogField::Scheme
            | LogField::Status
            | LogField::Queue
            | LogField::Tls
            | LogField::FirstByte
            | LogField::Route
            | LogField::RequestId
            | LogField::TraceId
            | LogField::ParentId
            | LogField::TlsVersion
            | LogField::UserAgent
            | LogField::Referer
            | LogField::Destination
            | LogField::User => Value::Missing,
        }
    }

    fn request_header(&self, _: &HeaderName) -> Value<'_> {
        Value::Missing
    }

    fn response_header(&self, _: &HeaderName) -> Value<'_> {
        Value::Missing
    }

    /// The format has a place for a request and a status, which there are none of here.
    fn combined(&self, out: &mut Vec<u8>) {
        plain_or_dash(out, self.field(LogField::ClientIp));
        out.extend_from_slice(b" - - [");
        calendar::web_log(out, self.record.at);
        out.extend_from_slice(b"] \"-\" 000 ");
        number(out, self.ended.bytes_out);
        out.extend_from_slice(b" \"-\" \"-\"");
    }
}

impl SessionEnding<'_> {
    /// What led nowhere has no phases but the whole.
    fn phase(&self, phase: Duration) -> Value<'_> {
        let is_meant = self.record.upstream.is_some() || !phase.is_zero();
        if is_meant { Value::Millis(phase) } else { Value::Missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::telemetry::access_log::condition;
    use crate::telemetry::access_log::line::Layout;
    use crate::telemetry::series::Phases;

    fn session() -> (SessionRecord, Ended) {
        let record = SessionRecord {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_406_400_123),
            mode: "tls-passthrough",
            client: Some("203.0.113.9".parse().unwrap()),
            peer: Some("10.0.0.7:51234".parse().unwrap()),
            listener: "sni".into(),
            upstream: Some("pg".into()),
            endpoint: Some("10.0.0.5:5432".into()),
            attempts: 2,
            sni: Some("db.example.org".into()),
        };
        let ms = Duration::from_millis;
        let phases = Phases { connect: ms(4), body: ms(8), total: ms(12), ..Phases::default() };
        (record, Ended { status: 0, outcome: None, reason: "", phases, bytes_in: 512, bytes_out: 20_480 })
    }

    fn log(keys: &str) -> config::model::AccessLog {
        let text = format!("[server.access_log]\n{keys}\n[[listener]]\nbind = \":0\"\n[[route]]\nrespond = {{}}\n");
        config::parse("test.toml", &text).unwrap_or_else(|faults| panic!("{faults}")).server.access_log.unwrap()
    }

    fn line(keys: &str, record: &SessionRecord, ended: &Ended) -> String {
        let mut out = Vec::new();
        Layout::new(&log(keys)).line(&mut out, &SessionEnding { record, ended });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_and_logfmt_hold_what_a_session_has() {
        let (record, ended) = session();
        assert_eq!(
            line("request_headers = [\"x-a\"]", &record, &ended),
            "{\"time\":\"2026-11-23T04:00:00.123Z\",\"protocol\":\"tls-passthrough\",\"outcome\":\"ok\",\"bytes_in\":512,\
             \"bytes_out\":20480,\"duration_ms\":12.000,\"connect_ms\":4.000,\"body_ms\":8.000,\
             \"client_ip\":\"203.0.113.9\",\"peer\":\"10.0.0.7:51234\",\"listener\":\"sni\",\"upstream\":\"pg\",\
             \"endpoint\":\"10.0.0.5:5432\",\"attempts\":2,\"sni\":\"db.example.org\",\"request_headers\":{}}"
        );
        let text = line("format = \"logfmt\"", &record, &ended);
        assert!(text.starts_with("time=2026-11-23T04:00:00.123Z protocol=tls-passthrough outcome=ok bytes_in=512 "));
        assert!(text.ends_with(" attempts=2 sni=db.example.org"), "{text}");
    }

    #[test]
    fn what_led_nowhere_says_so() {
        let (mut record, mut ended) = session();
        (record.upstream, record.endpoint, record.sni, record.attempts) = (None, None, None, 0);
        (ended.outcome, ended.reason) = (Some(Kind::ClientStall), "late");
        ended.phases = Phases { total: Duration::from_millis(9), ..Phases::default() };
        let text = line("format = \"logfmt\"", &record, &ended);
        assert!(text.contains(" outcome=client_stall reason=late ") && !text.contains("body_ms"), "{text}");
    }

    #[test]
    fn formats_of_requests_have_a_dash_where_one_would_be() {
        let (record, ended) = session();
        assert_eq!(
            line("format = \"combined\"", &record, &ended),
            "203.0.113.9 - - [23/Nov/2026:04:00:00 +0000] \"-\" 000 20480 \"-\" \"-\""
        );
        let template = "format = \"{protocol} {method} {status} {request_headers.x-a} {sni} {body_ms}\"";
        assert_eq!(line(template, &record, &ended), "tls-passthrough - - - db.example.org 8.000");
    }

    #[test]
    fn conditions_look_at_sessions_too() {
        let (record, ended) = session();
        for (only, holds) in [
            ("protocol = 'tls-passthrough' and sni ~ 'example'", true),
            ("status >= 400", false),
            ("method = 'GET'", false),
            ("not method = 'GET' and bytes_out > 1KiB and connect > 3ms", true),
            ("client_ip = '203.0.113.0/24' and attempts = 2 and upstream = 'pg'", true),
            ("request_headers.x-a = ''", false),
        ] {
            let config = log(&format!("only = \"{only}\""));
            let ending = SessionEnding { record: &record, ended: &ended };
            assert_eq!(condition::holds(&config.only.unwrap().test, &ending), holds, "{only}");
        }
    }
}
