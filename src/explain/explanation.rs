//! What would become of a request, as JSON has it and text is made of. The shape is documented in `docs/explain.md` and grows
//! by new fields only; `format` counts what would break a reader.

use serde::{Deserialize, Serialize};

use crate::config::Place;

/// The shape below.
pub const FORMAT: u32 = 1;

/// What would become of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// [`FORMAT`].
    pub format: u32,
    /// Of a running process: the generation in force. Else the configuration alone was asked.
    pub generation: Option<u64>,
    /// Whether it would be served: forwarded, relayed, redirected, or answered as a route says.
    pub served: bool,
    /// What would become of it, in a word: `forward`, `redirect`, `respond`, `relay`, `refuse`.
    pub action: String,
    /// What was asked.
    pub request: Request,
    /// Where it comes in.
    pub listener: Option<Chosen>,
    /// Listeners that it does not come to, and why.
    pub other_listeners: Vec<Chosen>,
    /// The certificate that the client would see.
    pub certificate: Option<Certificate>,
    /// What routes are asked with.
    pub matched: Option<Matched>,
    /// The route that takes it.
    pub route: Option<Chosen>,
    /// Every other route, in the order of the file.
    pub other_routes: Vec<Loser>,
    /// Whether this client may use the route.
    pub access: Option<Verdict>,
    /// Whether it may switch to the protocol that it names; `None`: it names none.
    pub upgrade: Option<Verdict>,
    /// Why it goes no further.
    pub refusal: Option<Refusal>,
    /// An answer of the proxy's own.
    pub answer: Option<Answer>,
    /// Where it may go, with what each would get.
    pub upstreams: Vec<Upstream>,
    /// Retries, limits and deadlines in force.
    pub settings: Vec<Setting>,
    /// What else is to be known.
    pub notes: Vec<String>,
}

/// What was asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The method; empty for what is no request.
    pub method: String,
    /// The address.
    pub url: String,
    /// What it is spoken in: `HTTP/1.1`, `HTTP/2`, `HTTP/3`, or `TCP`, `TLS`, `UDP`, `QUIC`.
    pub protocol: String,
    /// The client's address.
    pub client: String,
    /// The name of its handshake.
    pub sni: Option<String>,
    /// Its fields.
    pub headers: Vec<(String, String)>,
    /// What of it was not said and taken for granted: `client`, `protocol`, `listener`.
    pub assumed: Vec<String>,
}

/// Where something is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// The file.
    pub file: String,
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
}

/// One of several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// Its name.
    pub name: String,
    /// What it is, in words.
    pub what: String,
    /// Why it was chosen, or was not.
    pub why: String,
    /// Where it is written.
    pub at: Option<At>,
}

/// A certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its file.
    pub file: String,
    /// The names it is for.
    pub names: Vec<String>,
    /// Why this one.
    pub why: String,
    /// Whether it is for the host that is asked for: a client would refuse it otherwise.
    pub covers_host: bool,
    /// Where it is written.
    pub at: Option<At>,
}

/// What routes are asked with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Matched {
    /// The effective host.
    pub host: String,
    /// The path in its normal form.
    pub path: String,
    /// Whether that is another than the path as it came, which is what goes on.
    pub path_was_normalised: bool,
    /// Who asks, behind trusted proxies as well.
    pub client: Option<String>,
}

/// A route that did not take the request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loser {
    /// Its name.
    pub name: String,
    /// Why: `listener`, `host`, `path`, `method`, `header`, `query`; or, where it matches as well, what the taken one is more
    /// specific by: `less-specific-host`, `less-specific-path`, `fewer-predicates`, `later-in-file`.
    pub because: String,
    /// The same as a sentence.
    pub why: String,
    /// Where that is written.
    pub at: Option<At>,
}

/// Yes or no.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Yes.
    pub allowed: bool,
    /// Why.
    pub why: String,
    /// Where that is written.
    pub at: Option<At>,
}

/// Why a request goes no further.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// The word in log, metrics and `Proxy-Status`.
    pub outcome: String,
    /// What the client gets; `None`: its connection is closed.
    pub status: Option<u16>,
    /// Why.
    pub reason: String,
    /// The line that decided it; `None`: no line did.
    pub at: Option<At>,
    /// What decided it where no line did; empty: a default, or what `reason` says.
    #[serde(default)]
    pub otherwise: String,
}

/// An answer of the proxy's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub headers: Vec<Field>,
    /// Its body, as far as it is text.
    pub body: String,
    /// Where the action is written.
    pub at: Option<At>,
}

/// A field of a head, and who put it there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// Its name, lowercase.
    pub name: String,
    /// Its value.
    pub value: String,
    /// `client`, or what put it there.
    pub by: String,
    /// The line that says so; `None`: it is the client's, or nothing is written.
    pub at: Option<At>,
    /// Whether the value is another for each request.
    pub varies: bool,
}

/// An upstream that the request may go to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Its share of the requests, in percent.
    pub share: f64,
    /// What is spoken to it: `http1`, `http2`, `http3`, `quic`, `tcp`, `udp`, or `http1 or http2` where its ALPN chooses.
    pub protocol: String,
    /// Whether over TLS.
    pub tls: bool,
    /// Where it is written.
    pub at: Option<At>,
    /// How an endpoint is picked.
    pub balance: String,
    /// The line that says so.
    pub balance_at: Option<At>,
    /// What hash policies hash of this very request; `None`: the policy does not ask.
    pub hashed: Option<String>,
    /// Where that leads, of the endpoints that may be picked; `None`: the policy does not hash, or a name is not resolved.
    pub picked: Option<String>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// What it would get; `None`: no request is read here.
    pub sent: Option<Sent>,
}

/// An endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// As it is told to people.
    pub address: String,
    /// Its weight.
    pub weight: u32,
    /// Where it is written.
    pub at: Option<At>,
    /// Whether it may be picked now.
    pub can_be_picked: bool,
    /// `ready`, `drained`, `unhealthy`, `ejected`; `unresolved` for a name without addresses. Without `--live`, `configured`.
    pub state: String,
    /// Requests in progress, where the policy counts them.
    pub in_flight: Option<u32>,
}

/// The request as an endpoint gets it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// The method.
    pub method: String,
    /// `:protocol` of an extended CONNECT.
    pub protocol: Option<String>,
    /// The path with its query.
    pub target: String,
    /// What rewrote it; `None`: it goes on as it came.
    pub target_by: Option<String>,
    /// The line that says so.
    pub target_at: Option<At>,
    /// Host, or `:authority`.
    pub authority: String,
    /// Where it came from: `client`, `endpoint`, `host_header`.
    pub authority_by: String,
    /// The line that says so.
    pub authority_at: Option<At>,
    /// Whether it is another with each endpoint: this one is the first's.
    #[serde(default)]
    pub authority_varies: bool,
    /// `http` or `https`.
    pub scheme: String,
    /// Its fields, without Host.
    pub headers: Vec<Field>,
    /// Fields that the client sent and the endpoint does not get, with what took them away.
    pub removed: Vec<Field>,
}

/// A retry, limit or deadline in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// `deadline`, `limit` or `retry`.
    pub kind: String,
    /// The key, as in `upstream.api.timeouts.connect`.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What it bounds.
    pub what: String,
    /// How what exceeds it ends, in the word of the log; `None`: with no word of its own.
    pub outcome: Option<String>,
    /// Where it is written; `None`: its default.
    pub at: Option<At>,
}

impl From<Place> for At {
    fn from(place: Place) -> Self {
        Self { file: place.file.to_string(), line: place.line, column: place.column }
    }
}

impl From<&Place> for At {
    fn from(place: &Place) -> Self {
        place.clone().into()
    }
}
