//! The request as an endpoint gets it: by the function that makes it for traffic, with who put each field and who took one
//! away.

use http::HeaderValue;
use http::header::{COOKIE, FORWARDED, HOST, HeaderName, TE, UPGRADE};
use hyper::ext::Protocol;

use super::explanation::{At, Field, Sent};
use super::recorder::Recorder;
use crate::base::error::Error;
use crate::config::Config;
use crate::config::effective::Owner;
use crate::config::model::{HostHeader, PathRewrite};
use crate::proxy::forward::Order;
use crate::proxy::outbound::request_for;
use crate::proxy::rescue::X_REQUEST_ID;
use crate::proxy::websocket::SEC_WEBSOCKET_KEY;
use crate::proxy::witness::Step;
use crate::route::action::ForwardRule;

/// What the lines are looked for by.
pub struct Lines<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The listener's place in it.
    pub listener: usize,
    /// The route's; `None`: none takes it.
    pub route: Option<usize>,
    /// The table of the route's edits.
    pub edits: &'static str,
}

impl Lines<'_> {
    fn of_listener(&self, path: &[&str]) -> Option<At> {
        self.config.written.place(Owner::Listener(self.listener), path).map(At::from)
    }

    fn of_route(&self, path: &[&str]) -> Option<At> {
        self.config.written.place(Owner::Route(self.route?), path).map(At::from)
    }

    /// What is shown of a value that an edit put, where it is not for everybody.
    pub fn concealed(&self, name: &str) -> Option<&'static str> {
        let owner = Owner::Route(self.route?);
        ["add", "set"].iter().find_map(|key| self.config.written.concealed(owner, &[self.edits, key, name]))
    }

    /// The line of an edit: what is carried out last is what is seen.
    fn of_edit(&self, name: &HeaderName) -> (String, Option<At>) {
        let edits = self.edits;
        for key in ["add", "set"] {
            if let Some(at) = self.of_route(&[edits, key, name.as_str()]) {
                return (format!("{edits}.{key}"), Some(at));
            }
        }
        (format!("{edits}.remove"), self.of_route(&[edits, "remove"]))
    }
}

/// The request for an endpoint whose own Host is `own`.
///
/// # Errors
/// It cannot be made: traffic would get a 500.
pub fn sent(
    mut order: Box<Order>,
    rule: &ForwardRule,
    recorder: &mut Recorder,
    lines: &Lines<'_>,
    (multiplexed, own): (bool, &HeaderValue),
) -> Result<Sent, Error> {
    let fields = std::mem::take(&mut order.fields);
    let id = order.id.as_str().to_owned();
    let before = order.facts.target.clone();
    let request = request_for(&order, rule, fields, multiplexed, own, None)?;
    recorder.note(Step::Session, request.headers());
    let authority = match (multiplexed, request.headers().get(HOST)) {
        (false, Some(host)) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
        _ => request.uri().authority().map_or_else(String::new, ToString::to_string),
    };
    let at = |path: &[&str]| lines.of_route(path);
    let (authority_by, authority_at) = match &rule.host_header {
        HostHeader::Preserve if order.facts.normalized.authority().is_some() => ("client", at(&["host_header"])),
        HostHeader::Preserve => ("endpoint", None),
        HostHeader::Upstream => ("endpoint", at(&["host_header"])),
        HostHeader::Name(_) => ("host_header", at(&["host_header"])),
    };
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let rewritten = (target != before.as_str()).then_some(match rule.rewrite {
        PathRewrite::StripPrefix(_) => "strip_prefix",
        PathRewrite::Replace(_) => "replace_path",
        PathRewrite::Keep if rule.normalize_path => "normalize_path",
        PathRewrite::Keep => "origin-form (RFC 9112 §3.2.1)",
    });
    let target_at = rewritten.and_then(|key| at(&[key]));
    let headers = recorder.fields().filter(|(name, ..)| *name != HOST);
    let headers = headers.map(|(name, value, step)| field(name, value, step, lines, Some(&id), recorder)).collect();
    let removed = recorder.removed().filter(|(name, ..)| *name != HOST);
    let removed = removed.map(|(name, value, step)| taken(name, value, step, lines, recorder)).collect();
    Ok(Sent {
        method: request.method().to_string(),
        protocol: request.extensions().get::<Protocol>().map(|protocol| protocol.as_str().to_owned()),
        target,
        target_by: rewritten.map(str::to_owned),
        target_at,
        authority,
        authority_by: authority_by.to_owned(),
        authority_at,
        authority_varies: false,
        scheme: if order.upstream.upstream().tls.is_some() { "https" } else { "http" }.to_owned(),
        headers,
        removed,
    })
}

/// A field that is there, and who put it.
pub fn field(
    name: &HeaderName,
    value: &HeaderValue,
    step: Option<Step>,
    lines: &Lines<'_>,
    id: Option<&str>,
    recorder: &Recorder,
) -> Field {
    let (by, at) = match step {
        None => ("client".to_owned(), None),
        Some(step) => author(step, name, lines),
    };
    let mut text = String::from_utf8_lossy(value.as_bytes()).into_owned();
    let is_made = id.is_some_and(|id| !recorder.came_with(&X_REQUEST_ID) && text.contains(id));
    let is_trace = step == Some(Step::Stamps) && name.as_str() == "traceparent";
    if let Some(id) = id.filter(|_| is_made) {
        text = text.replace(id, "{request_id}");
    }
    if is_trace {
        // 00-TRACE-SPAN-FLAGS: the span is new always, the trace where none came.
        let mut parts: Vec<&str> = text.split('-').collect();
        if parts.len() == 4 {
            parts[1] = if recorder.came_with(name) { parts[1] } else { "{trace_id}" };
            parts[2] = "{span_id}";
        }
        text = parts.join("-");
    }
    let is_key = step == Some(Step::Session) && *name == SEC_WEBSOCKET_KEY;
    if is_key {
        text = "{websocket_key}".to_owned();
    }
    Field { name: name.to_string(), value: text, by, at, varies: is_made || is_trace || is_key }
}

fn taken(name: &HeaderName, value: &HeaderValue, step: Option<Step>, lines: &Lines<'_>, recorder: &Recorder) -> Field {
    let mut field = field(name, value, None, lines, None, recorder);
    (field.by, field.at) = match step {
        Some(Step::Expect) => ("answered here (RFC 9110 §10.1.1)".to_owned(), None),
        Some(Step::Forwarded) => ("the client is no trusted proxy".to_owned(), lines.of_listener(&["trusted_proxies"])),
        Some(Step::Edits) => lines.of_edit(name),
        Some(step @ Step::GrpcWeb) => author(step, name, lines),
        Some(Step::Session) => ("extended CONNECT has none (RFC 8441 §5.1)".to_owned(), None),
        _ => ("hop-by-hop (RFC 9110 §7.6.1)".to_owned(), None),
    };
    field
}

/// What put a field there, and the line that says so.
fn author(step: Step, name: &HeaderName, lines: &Lines<'_>) -> (String, Option<At>) {
    let listener = |path: &[&str]| (path.join("."), lines.of_listener(path));
    match step {
        Step::EarlyData => listener(&["tls", "early_data"]),
        Step::Forwarded if *name == FORWARDED => listener(&["forwarding", "forwarded"]),
        Step::Forwarded => listener(&["forwarding", "x_forwarded"]),
        Step::Via => listener(&["forwarding", "via"]),
        Step::Stamps if *name == X_REQUEST_ID => listener(&["request_id"]),
        Step::Stamps => listener(&["traceparent"]),
        Step::Edits => lines.of_edit(name),
        Step::GrpcWeb => ("grpc_web".to_owned(), lines.of_route(&["grpc_web"])),
        Step::NormalPath => ("normalize_path".to_owned(), lines.of_route(&["normalize_path"])),
        Step::Session if *name == COOKIE => ("one field for HTTP/1.1 (RFC 9113 §8.2.3)".to_owned(), None),
        Step::Session if *name == TE => ("asked for anew (RFC 9110 §10.1.4)".to_owned(), None),
        Step::Session if *name == UPGRADE || *name == SEC_WEBSOCKET_KEY => {
            ("upgrade".to_owned(), lines.of_route(&["upgrade"]))
        }
        Step::Session | Step::HopByHop | Step::Expect => ("for this connection".to_owned(), None),
        Step::Answer => ("the proxy".to_owned(), None),
    }
}
