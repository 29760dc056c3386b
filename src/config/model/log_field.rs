//! The fields of the access log, with their documentation.

/// A field of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LogField {
    /// When the request's head was read.
    Time,
    /// The method.
    Method,
    /// The path, without the query.
    Path,
    /// The query, without its `?`.
    Query,
    /// The effective host.
    Host,
    /// `http` or `https`.
    Scheme,
    /// The version of HTTP that the client spoke; on layer 4 the mode.
    Protocol,
    /// The status that the client got.
    Status,
    /// How the exchange ended, one word.
    Outcome,
    /// Why it failed, a sentence.
    Reason,
    /// Bytes of the request's body.
    BytesIn,
    /// Bytes of the answer's body.
    BytesOut,
    /// From the head to the end.
    Duration,
    /// Waiting for a turn.
    Queue,
    /// Connecting to the endpoint.
    Connect,
    /// The TLS handshake with it.
    Tls,
    /// From the request sent to the head of the answer.
    FirstByte,
    /// The answer's body.
    Body,
    /// The client's address.
    ClientIp,
    /// The other end of the connection.
    Peer,
    /// The listener.
    Listener,
    /// The route.
    Route,
    /// The upstream.
    Upstream,
    /// The endpoint.
    Endpoint,
    /// How often the request was sent.
    Attempts,
    /// The request's id.
    RequestId,
    /// The trace's id.
    TraceId,
    /// The id of the span that the endpoint sees.
    ParentId,
    /// The name of the TLS handshake.
    Sni,
    /// The version of TLS.
    TlsVersion,
    /// `User-Agent`.
    UserAgent,
    /// `Referer`.
    Referer,
    /// Where a client wants to go that is pointed at a proxy.
    Destination,
    /// Who it said it is.
    User,
}

/// What kind of value a field has: how it is written, and what it can be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// The time; it cannot be compared.
    Time,
    /// Text.
    Text,
    /// A whole number.
    Number,
    /// Bytes.
    Size,
    /// A duration; conditions call it by its name without `_ms`.
    Duration,
    /// An address, compared with addresses and networks.
    Address,
}

/// What the documentation says of a field.
#[derive(Debug)]
pub struct FieldFacts {
    /// The field.
    pub field: LogField,
    /// Its name in lines and templates.
    pub name: &'static str,
    /// What kind of value it has.
    pub kind: FieldKind,
    /// What it means.
    pub meaning: &'static str,
    /// A value, as JSON.
    pub example: &'static str,
}

impl LogField {
    /// Every field, in the order of its number and of lines.
    pub const ALL: [FieldFacts; 34] = {
        use FieldKind::{Address, Duration, Number, Size, Text, Time};
        use LogField as F;
        [
            facts(F::Time, "time", Time, "when the request's head was read, UTC", "\"2026-11-23T04:00:00.123Z\""),
            facts(F::Method, "method", Text, "the method", "\"GET\""),
            facts(F::Path, "path", Text, "the path as the client sent it, without the query", "\"/v1/items\""),
            facts(F::Query, "query", Text, "the query without its `?`; only with `query = true`", "\"page=2\""),
            facts(F::Host, "host", Text, "the requested host, without the port", "\"example.org\""),
            facts(F::Scheme, "scheme", Text, "`https` if the proxy terminated TLS, otherwise `http`", "\"https\""),
            facts(F::Protocol, "protocol", Text, "the client's HTTP version; on layer 4 the mode", "\"HTTP/2.0\""),
            facts(F::Status, "status", Number, "the status sent to the client; missing if none was sent", "200"),
            facts(F::Outcome, "outcome", Text, "`ok`, or the word for the error (below)", "\"ok\""),
            facts(F::Reason, "reason", Text, "a sentence about the error", "\"the endpoint refused the connection\""),
            facts(F::BytesIn, "bytes_in", Size, "bytes of the request body", "512"),
            facts(F::BytesOut, "bytes_out", Size, "bytes of the response body", "20480"),
            facts(F::Duration, "duration_ms", Duration, "from the request head to the end of the exchange", "12.345"),
            facts(F::Queue, "queue_ms", Duration, "from the request head until an endpoint was chosen", "0.041"),
            facts(
                F::Connect,
                "connect_ms",
                Duration,
                "connecting to the endpoint; 0 with a pooled connection",
                "1.204",
            ),
            facts(F::Tls, "tls_ms", Duration, "the TLS handshake with the endpoint", "3.018"),
            facts(F::FirstByte, "first_byte_ms", Duration, "from then to the response head", "7.002"),
            facts(F::Body, "body_ms", Duration, "from then to the end of the exchange", "1.080"),
            facts(
                F::ClientIp,
                "client_ip",
                Address,
                "the client's address, also behind trusted proxies",
                "\"203.0.113.9\"",
            ),
            facts(F::Peer, "peer", Text, "the peer of the connection, with its port", "\"10.0.0.7:51234\""),
            facts(F::Listener, "listener", Text, "the listener", "\"web\""),
            facts(F::Route, "route", Text, "the route; missing if none matched", "\"api\""),
            facts(F::Upstream, "upstream", Text, "the upstream of a route that forwards", "\"app\""),
            facts(F::Endpoint, "endpoint", Text, "the endpoint of the last attempt", "\"10.0.0.3:8080\""),
            facts(F::Attempts, "attempts", Number, "number of attempts; 0 if no endpoint was used", "1"),
            facts(
                F::RequestId,
                "request_id",
                Text,
                "`x-request-id`, received or generated",
                "\"0f6c2b9a41d8c7e35d1f0a9be2764c38\"",
            ),
            facts(
                F::TraceId,
                "trace_id",
                Text,
                "the trace id in `traceparent`, received or generated",
                "\"4bf92f3577b34da6a3ce929d0e0e4736\"",
            ),
            facts(
                F::ParentId,
                "parent_id",
                Text,
                "the parent id in `traceparent` as sent to the endpoint",
                "\"00f067aa0ba902b7\"",
            ),
            facts(F::Sni, "sni", Text, "the server name in the TLS handshake", "\"example.org\""),
            facts(F::TlsVersion, "tls_version", Text, "the client's TLS version", "\"1.3\""),
            facts(F::UserAgent, "user_agent", Text, "`User-Agent`", "\"curl/8.14.1\""),
            facts(
                F::Referer,
                "referer",
                Text,
                "`Referer`; its query only with `query = true`",
                "\"https://example.org/\"",
            ),
            facts(F::Destination, "destination", Text, "with mode forward: the destination", "\"example.org:443\""),
            facts(F::User, "user", Text, "with `forward.users`: the authenticated user", "\"ann\""),
        ]
    };

    /// Its row in the table.
    pub fn facts(self) -> &'static FieldFacts {
        const TABLE: &[FieldFacts] = &LogField::ALL;
        &TABLE[self as usize]
    }

    /// Its name in lines and templates.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Its name in conditions, where a duration brings its own unit.
    pub fn name_in_conditions(self) -> &'static str {
        let name = self.name();
        name.strip_suffix("_ms").unwrap_or(name)
    }
}

const fn facts(
    field: LogField,
    name: &'static str,
    kind: FieldKind,
    meaning: &'static str,
    example: &'static str,
) -> FieldFacts {
    FieldFacts { field, name, kind, meaning, example }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_stands_at_its_number_under_a_name_of_its_own() {
        let mut names = std::collections::HashSet::new();
        for (number, facts) in LogField::ALL.iter().enumerate() {
            assert_eq!(facts.field as usize, number);
            assert!(names.insert(facts.name) && !facts.meaning.is_empty() && !facts.example.is_empty());
        }
    }

    #[test]
    fn the_documentation_lists_every_field_and_every_outcome() {
        let page = include_str!("../../../docs/access-log.md");
        let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        for facts in &LogField::ALL {
            let asked = match facts.kind {
                FieldKind::Time => "–".to_owned(),
                _ => format!("`{}`", facts.field.name_in_conditions()),
            };
            let row = format!("| `{}` | {asked} | {} | `{}` |", facts.name, facts.meaning, facts.example);
            assert!(listed.contains(&&*row), "docs/access-log.md needs\n{row}");
        }
        let words: Vec<_> = crate::base::error::Kind::ALL.iter().map(|kind| kind.as_str()).chain(["ok"]).collect();
        for word in &words {
            assert!(listed.iter().any(|row| row.starts_with(&format!("| `{word}` |"))), "docs/access-log.md: {word}");
        }
        let (_, outcomes) = page.split_once("### Outcomes").expect("a chapter");
        let (outcomes, _) = outcomes.split_once("\n## ").expect("an end");
        assert_eq!(outcomes.lines().filter(|line| line.starts_with("| `")).count(), words.len(), "stale outcomes");
    }
}
