//! The commands of the admin listener: reload, drain, log level. Reads their bodies, limited in size and time, and
//! passes them to the control loop.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::answer::{self, Answer};
use crate::base::log_filter::Filter;
use crate::config::{Fault, Faults};
use crate::control::endpoint_drain::Unknown;
use crate::control::reload::{Refused, Report};
use crate::control::requests::{self, EndpointDrain, Trigger};
use crate::telemetry::log;

/// Bytes of a body.
const MAX_BODY: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY: Duration = Duration::from_secs(5);

/// The way to the control loop.
pub type Orders = mpsc::UnboundedSender<requests::Request>;

/// What a reload did.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reloaded {
    /// The generation now in force.
    pub generation: u64,
    /// Its listeners.
    pub listeners: usize,
    /// Its routes.
    pub routes: usize,
    /// Its upstreams.
    pub upstreams: usize,
    /// What changed, a line each.
    pub changes: Vec<String>,
}

/// Why a reload was refused.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReloadRefused {
    /// In a word.
    pub error: String,
    /// As `tidegate check` prints it.
    pub detail: String,
    /// One by one; empty where the configuration is not to blame.
    #[serde(default)]
    pub faults: Vec<FaultEntry>,
}

/// One fault of a configuration.
#[derive(Debug, Serialize, Deserialize)]
pub struct FaultEntry {
    /// What is wrong.
    pub message: String,
    /// Where; `None` for what has no place.
    pub file: Option<String>,
    /// Counted from 1.
    pub line: Option<u32>,
    /// Counted from 1, in characters.
    pub column: Option<u32>,
    /// What to do about it.
    pub help: Option<String>,
}

/// What to drain; all absent: the process.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainOrder {
    /// The name of an upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// One of its endpoints, by its address or the name it was resolved from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Whether the endpoint is to be picked again.
    #[serde(default)]
    pub resume: bool,
}

/// What became of endpoints.
#[derive(Debug, Serialize, Deserialize)]
pub struct EndpointsDrained {
    /// Of this upstream.
    pub upstream: String,
    /// As `/status` calls them.
    pub endpoints: Vec<String>,
    /// `drained` or `ready`.
    pub state: String,
}

/// A process on its way out.
#[derive(Debug, Serialize)]
struct Draining {
    state: &'static str,
}

/// The level of the process's log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogLevel {
    level: String,
}

/// `POST /reload`.
pub async fn reload(orders: &Orders) -> Answer {
    let (told, answered) = oneshot::channel();
    let answer = requests::Answer::to(move |result| drop(told.send(result)));
    if orders.send(requests::Request::ReloadFile(Trigger::Admin, answer)).is_err() {
        return leaving();
    }
    match answered.await.unwrap_or(Err(Refused::Leaving)) {
        Ok(report) => answer::json(StatusCode::OK, &Reloaded::of(report)),
        Err(refused) => refused_answer(&refused),
    }
}

fn refused_answer(refused: &Refused) -> Answer {
    let (status, error, faults) = match refused {
        Refused::Leaving => return leaving(),
        Refused::Faults(faults) => (StatusCode::UNPROCESSABLE_ENTITY, "configuration_faults", entries(faults)),
        Refused::Bind(_) => (StatusCode::UNPROCESSABLE_ENTITY, "cannot_listen", Vec::new()),
        Refused::NoFile => (StatusCode::CONFLICT, "no_file", Vec::new()),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "system_refused", Vec::new()),
    };
    answer::json(status, &ReloadRefused { error: error.to_owned(), detail: refused.to_string(), faults })
}

/// `POST /drain`.
pub async fn drain(orders: &Orders, request: Request<Incoming>) -> Answer {
    let order: DrainOrder = match read(request).await {
        Ok(Some(order)) => order,
        Ok(None) => DrainOrder::default(),
        Err(refused) => return refused,
    };
    match order {
        DrainOrder { upstream: Some(upstream), endpoint: Some(endpoint), resume } => {
            drain_endpoint(orders, upstream, endpoint, !resume).await
        }
        DrainOrder { upstream: None, endpoint: None, resume: false } => {
            if orders.send(requests::Request::Drain(Trigger::Admin)).is_err() {
                return leaving();
            }
            answer::json(StatusCode::ACCEPTED, &Draining { state: "draining" })
        }
        DrainOrder { upstream: None, endpoint: None, resume: true } => {
            let detail = "a drain of the whole process cannot be taken back; name `upstream` and `endpoint`";
            answer::error(StatusCode::BAD_REQUEST, "bad_request", detail)
        }
        _ => answer::error(StatusCode::BAD_REQUEST, "bad_request", "`upstream` and `endpoint` stand together"),
    }
}

async fn drain_endpoint(orders: &Orders, upstream: String, endpoint: String, drained: bool) -> Answer {
    let (told, answered) = oneshot::channel();
    let order = EndpointDrain { upstream: upstream.clone(), endpoint, drained };
    if orders.send(requests::Request::DrainEndpoint(order, told)).is_err() {
        return leaving();
    }
    match answered.await {
        Ok(Ok(labels)) => {
            let endpoints = labels.iter().map(ToString::to_string).collect();
            let state = if drained { "drained" } else { "ready" }.to_owned();
            answer::json(StatusCode::OK, &EndpointsDrained { upstream, endpoints, state })
        }
        Ok(Err(unknown)) => {
            let error = if unknown == Unknown::Upstream { "unknown_upstream" } else { "unknown_endpoint" };
            answer::error(StatusCode::NOT_FOUND, error, &format!("{unknown}; `/status` lists them"))
        }
        Err(_) => leaving(),
    }
}

/// `GET /log-level`.
pub fn log_level() -> Answer {
    match log::level() {
        Some(filter) => answer::json(StatusCode::OK, &LogLevel { level: filter.to_string() }),
        None => no_log(),
    }
}

/// `PUT /log-level`.
pub async fn set_log_level(request: Request<Incoming>) -> Answer {
    let wanted: LogLevel = match read(request).await {
        Ok(Some(wanted)) => wanted,
        Ok(None) => return answer::error(StatusCode::BAD_REQUEST, "bad_request", "send `{\"level\": \"debug\"}`"),
        Err(refused) => return refused,
    };
    match wanted.level.parse::<Filter>() {
        Ok(filter) => {
            let level = filter.to_string();
            if !log::set_level(filter) {
                return no_log();
            }
            tracing::warn!(level, "the log level was changed through the admin listener");
            answer::json(StatusCode::OK, &LogLevel { level })
        }
        Err(error) => answer::error(StatusCode::UNPROCESSABLE_ENTITY, "bad_level", &error.to_string()),
    }
}

fn no_log() -> Answer {
    let detail = "this proxy is part of a program that keeps its own log";
    answer::error(StatusCode::CONFLICT, "no_log", detail)
}

fn leaving() -> Answer {
    answer::error(StatusCode::CONFLICT, "draining", "the process is on its way out")
}

/// A JSON body; `None` where there is none.
pub(super) async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<Option<T>, Answer> {
    let (parts, body) = request.into_parts();
    let collected = match timeout(BODY, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(answer::error(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "a body has at most 64 KiB"));
        }
        Ok(Err(_)) => return Err(answer::error(StatusCode::BAD_REQUEST, "bad_request", "the body broke off")),
        Err(_) => {
            return Err(answer::error(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body took longer than 5 s"));
        }
    };
    if collected.is_empty() {
        return Ok(None);
    }
    if !is_json(&parts.headers) {
        let detail = "a body is JSON: `content-type: application/json`";
        return Err(answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail));
    }
    // By way of an object: from a list serde would take the fields in their order, and `[]` would be a whole order.
    let object = serde_json::from_slice(&collected);
    object
        .and_then(|object: serde_json::Map<String, serde_json::Value>| {
            T::deserialize(serde_json::Value::Object(object))
        })
        .map(Some)
        .map_err(|error| answer::error(StatusCode::BAD_REQUEST, "bad_request", &error.to_string()))
}

/// No type at all is taken for JSON, as scripts leave it out.
fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_none_or(|value| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("application/json")
    })
}

impl Reloaded {
    fn of(report: Report) -> Self {
        Self {
            generation: report.generation.0,
            listeners: report.listeners,
            routes: report.routes,
            upstreams: report.upstreams,
            changes: report.changes,
        }
    }
}

fn entries(faults: &Faults) -> Vec<FaultEntry> {
    let entry = |fault: &Fault| {
        let place = fault.excerpt.as_ref().map(|excerpt| &excerpt.place);
        FaultEntry {
            message: fault.message.clone(),
            file: place.map(|place| place.file.to_string()),
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            help: fault.help.clone(),
        }
    };
    faults.iter().map(entry).collect()
}
