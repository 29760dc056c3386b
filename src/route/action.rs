//! A compiled route: what to do with the requests that it matches (sans-io).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use smallvec::SmallVec;

use super::access::Access;
use super::normal_path::normal_form;
use crate::base::id::{RouteId, UpstreamId};
use crate::base::template::{Placeholder, Template};
use crate::config::model::{self, PathRewrite};

/// What placeholders stand for in one exchange.
pub trait Values {
    /// Appends what `hole` stands for; nothing where it has no value.
    fn append(&self, hole: Placeholder, out: &mut String);
}

impl<F: Fn(Placeholder, &mut String)> Values for F {
    fn append(&self, hole: Placeholder, out: &mut String) {
        self(hole, out);
    }
}

/// A compiled route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its number in the snapshot, in the order of the file.
    pub id: RouteId,
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// What it does.
    pub action: Action,
    /// Bytes of a request body; `None`: the listener's limit.
    pub max_body: Option<u64>,
    /// Who may use it.
    pub access: Access,
    /// Edits of what goes to the upstream.
    pub request_headers: Edits,
    /// Edits of what goes to the client.
    pub response_headers: Edits,
    /// Whether its requests go into the access log.
    pub access_log: bool,
    /// Where it was written.
    pub place: model::Place,
}

/// What a route does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send the request to an endpoint.
    Forward(ForwardRule),
    /// Send the client elsewhere.
    Redirect(Redirect),
    /// Answer at once.
    Respond(Respond),
}

/// `upstream` or `weighted`, with what belongs to it.
#[derive(Clone, Debug)]
pub struct ForwardRule {
    /// Which upstream.
    pub split: Split,
    /// What becomes of the path.
    pub rewrite: PathRewrite,
    /// What the upstream sees as Host.
    pub host_header: model::HostHeader,
    /// Request sent to response head; `None`: the upstream's.
    pub response_timeout: Option<Duration>,
    /// The whole exchange; `None`: off.
    pub total_timeout: Option<Duration>,
    /// Silence of both sides after protocols were switched; `None`: the upstream's.
    pub tunnel_idle: Option<Duration>,
    /// When a request is sent again.
    pub retry: model::RetryRules,
    /// Protocols that may be switched to, lowercase.
    pub upgrade: Vec<String>,
    /// What is read ahead of its reader.
    pub buffer: model::BodyBuffers,
    /// Whether gRPC-Web is translated to gRPC.
    pub grpc_web: bool,
    /// Whether the path is forwarded in its normal form.
    pub normalize_path: bool,
}

impl ForwardRule {
    /// Whether a request may switch to `protocol` (RFC 9110 §7.8: names are compared without regard to case).
    pub fn may_upgrade_to(&self, protocol: &[u8]) -> bool {
        self.upgrade.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(protocol))
    }
}

/// `redirect`.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// The Location.
    pub to: Template,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// `respond`.
#[derive(Clone, Debug)]
pub struct Respond {
    /// The status.
    pub status: StatusCode,
    /// The whole body.
    pub body: Bytes,
    /// Its type.
    pub content_type: HeaderValue,
}

impl Route {
    /// Compiles a configured route.
    pub fn new(id: RouteId, route: &model::Route) -> Self {
        let action = match &route.action {
            model::RouteAction::Forward(forward) => Action::Forward(ForwardRule {
                split: Split::new(&forward.upstreams),
                rewrite: match &forward.rewrite {
                    // In the form that paths are matched and stripped in.
                    PathRewrite::StripPrefix(prefix) => PathRewrite::StripPrefix(
                        normal_form(prefix).ok().flatten().map_or_else(|| prefix.clone(), String::from),
                    ),
                    other => other.clone(),
                },
                host_header: forward.host_header.clone(),
                response_timeout: forward.response_timeout,
                total_timeout: forward.total_timeout,
                tunnel_idle: forward.tunnel_idle,
                retry: forward.retry.clone(),
                upgrade: forward.upgrade.clone(),
                buffer: forward.buffer,
                grpc_web: forward.grpc_web,
                normalize_path: forward.normalize_path,
            }),
            model::RouteAction::Redirect { to, status } => {
                Action::Redirect(Redirect { to: to.clone(), status: *status })
            }
            model::RouteAction::Respond { status, body, content_type } => Action::Respond(Respond {
                status: *status,
                body: Bytes::copy_from_slice(body.as_bytes()),
                content_type: content_type.clone(),
            }),
        };
        Self {
            id,
            name: Arc::clone(&route.name),
            action,
            max_body: route.max_body,
            access: Access::new(&route.allow, &route.deny),
            request_headers: Edits::new(&route.request_headers),
            response_headers: Edits::new(&route.response_headers),
            access_log: route.access_log,
            place: route.place.clone(),
        }
    }
}

impl Redirect {
    /// The Location of one request. What may not stand in a URI is percent-encoded, and a path that happens to begin
    /// with `//` is not turned into the name of another host.
    pub fn location(&self, values: &impl Values) -> HeaderValue {
        let mut text = String::new();
        self.to.render(&mut text, |hole, out| values.append(hole, out));
        let mut start = 0;
        if text.starts_with("//") && !self.to.source().starts_with("//") {
            start = text.len() - text.trim_start_matches('/').len() - 1;
        }
        let location = super::rewrite::encode_invalid(&text[start..]);
        HeaderValue::try_from(location.as_ref()).unwrap_or(const { HeaderValue::from_static("/") })
    }
}

/// Upstreams by weight.
#[derive(Clone, Debug)]
pub struct Split {
    /// Each with the sum of the weights up to and including its own.
    parts: SmallVec<[(u64, UpstreamId); 1]>,
}

impl Split {
    /// Indices into the configuration's upstreams, with weights; entries that weigh nothing are never picked.
    pub fn new(upstreams: &[(usize, u32)]) -> Self {
        let mut sum = 0;
        let parts = upstreams.iter().filter(|(_, weight)| *weight > 0 || upstreams.len() == 1).map(|(at, weight)| {
            sum += u64::from(*weight);
            (sum, UpstreamId(*at as u32))
        });
        Self { parts: parts.collect() }
    }

    /// The upstream that `random`, evenly distributed over all its values, stands for.
    pub fn pick(&self, random: u32) -> UpstreamId {
        let parts = self.parts.as_slice();
        let Some((total, last)) = parts.last() else {
            // The checked model has at least one upstream with a weight.
            return UpstreamId(0);
        };
        if parts.len() == 1 {
            return *last;
        }
        let point = ((u128::from(random) * u128::from(*total)) >> 32) as u64;
        parts.iter().find(|(sum, _)| point < *sum).map_or(*last, |(_, upstream)| *upstream)
    }

    /// Every upstream it may pick, each with a number that picks it, and its share in percent.
    pub fn shares(&self) -> impl Iterator<Item = (UpstreamId, u32, f64)> + '_ {
        let total = self.parts.last().map_or(1, |(sum, _)| (*sum).max(1));
        let mut before = 0;
        self.parts.iter().map(move |(sum, upstream)| {
            // The first number whose point is not below what comes before.
            let chance = ((u128::from(before) << 32).div_ceil(u128::from(total))) as u32;
            let share = if self.parts.len() == 1 { 100.0 } else { (sum - before) as f64 * 100.0 / total as f64 };
            before = *sum;
            (*upstream, chance, share)
        })
    }

    /// Every upstream it may pick.
    pub fn upstreams(&self) -> impl Iterator<Item = UpstreamId> + '_ {
        self.parts.iter().map(|(_, upstream)| *upstream)
    }
}

/// Edits of header fields, carried out in the order remove, set, add.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, EditValue)>,
    add: Vec<(HeaderName, EditValue)>,
    needs_values: bool,
}

#[derive(Clone, Debug)]
enum EditValue {
    Literal(HeaderValue),
    Template(Template),
}

impl Edits {
    /// Compiles configured edits; texts without placeholders become values at once.
    pub fn new(edits: &model::HeaderEdits) -> Self {
        let compile = |list: &[(HeaderName, Template)]| -> Vec<(HeaderName, EditValue)> {
            list.iter().map(|(name, template)| (name.clone(), EditValue::new(template))).collect()
        };
        let (set, add) = (compile(&edits.set), compile(&edits.add));
        let needs_values = set.iter().chain(&add).any(|(_, value)| matches!(value, EditValue::Template(_)));
        Self { remove: edits.remove.clone(), set, add, needs_values }
    }

    /// Whether nothing is edited.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Whether a placeholder must be looked up, so that what it stands for has to be kept until the edit.
    pub fn needs_values(&self) -> bool {
        self.needs_values
    }

    /// Carries the edits out. A text that comes out as no valid header value leaves the field out.
    pub fn apply(&self, headers: &mut HeaderMap, values: &impl Values) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            match value.render(values) {
                Some(value) => drop(headers.insert(name.clone(), value)),
                None => drop(headers.remove(name)),
            }
        }
        for (name, value) in &self.add {
            if let Some(value) = value.render(values) {
                headers.append(name.clone(), value);
            }
        }
    }
}

impl EditValue {
    fn new(template: &Template) -> Self {
        let literal = template.as_literal().and_then(|text| HeaderValue::from_str(text).ok());
        literal.map_or_else(|| Self::Template(template.clone()), Self::Literal)
    }

    fn render(&self, values: &impl Values) -> Option<HeaderValue> {
        match self {
            Self::Literal(value) => Some(value.clone()),
            Self::Template(template) => {
                let mut text = String::new();
                template.render(&mut text, |hole, out| values.append(hole, out));
                HeaderValue::try_from(text).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Template {
        Template::parse(text).unwrap()
    }

    fn values(hole: Placeholder, out: &mut String) {
        match hole {
            Placeholder::Host => out.push_str("example.org"),
            Placeholder::ClientIp => out.push_str("192.0.2.1"),
            Placeholder::PathAndQuery => out.push_str("//evil.example/x?y"),
            Placeholder::Sni => out.push_str("a\r\nb: c"),
            _ => {}
        }
    }

    #[test]
    fn edits_remove_then_set_then_add() {
        let name = HeaderName::from_static;
        let edits = Edits::new(&model::HeaderEdits {
            remove: vec![name("x-gone")],
            set: vec![(name("x-env"), template("prod")), (name("x-client"), template("{client_ip}"))],
            add: vec![(name("x-env"), template("more"))],
        });
        assert!(edits.needs_values() && !edits.is_empty());
        let mut headers = HeaderMap::new();
        headers.append("x-gone", HeaderValue::from_static("1"));
        headers.append("x-env", HeaderValue::from_static("dev"));
        headers.append("x-env", HeaderValue::from_static("test"));
        edits.apply(&mut headers, &values);
        assert!(!headers.contains_key("x-gone"));
        assert_eq!(headers.get_all("x-env").iter().collect::<Vec<_>>(), ["prod", "more"]);
        assert_eq!(headers["x-client"], "192.0.2.1");
    }

    #[test]
    fn a_text_that_is_no_header_value_is_left_out() {
        let name = HeaderName::from_static("x-sni");
        let edits = Edits::new(&model::HeaderEdits {
            set: vec![(name.clone(), template("{sni}"))],
            add: vec![(name.clone(), template("{sni}"))],
            remove: vec![],
        });
        let mut headers = HeaderMap::new();
        headers.insert(&name, HeaderValue::from_static("from the client"));
        edits.apply(&mut headers, &values);
        assert!(headers.is_empty());
    }

    #[test]
    fn weights_share_the_numbers_out() {
        let split = Split::new(&[(3, 95), (5, 0), (7, 5)]);
        assert_eq!(split.pick(0), UpstreamId(3));
        assert_eq!(split.pick(u32::MAX), UpstreamId(7));
        let step = 4096;
        let picks = (0..=u32::MAX / step).filter(|at| split.pick(at * step) == UpstreamId(7)).count();
        assert!((picks as f64 / f64::from(u32::MAX / step) - 0.05).abs() < 0.001, "{picks}");
        assert_eq!(Split::new(&[(4, 1)]).pick(12345), UpstreamId(4));
        for weights in [vec![(3, 95), (5, 0), (7, 5)], vec![(4, 1)], vec![(1, 1), (2, 65_535), (0, 1)]] {
            let split = Split::new(&weights);
            let shares: Vec<_> = split.shares().collect();
            assert!((shares.iter().map(|(.., share)| share).sum::<f64>() - 100.0).abs() < 1e-9, "{shares:?}");
            assert!(shares.iter().all(|(upstream, chance, _)| split.pick(*chance) == *upstream), "{shares:?}");
        }
    }

    #[test]
    fn a_redirect_stays_on_its_host() {
        let to = |text| Redirect { to: template(text), status: StatusCode::PERMANENT_REDIRECT };
        assert_eq!(to("https://{host}/a").location(&values), "https://example.org/a");
        assert_eq!(to("{path_and_query}").location(&values), "/evil.example/x?y");
        assert_eq!(to("//cdn.example{path_and_query}").location(&values), "//cdn.example//evil.example/x?y");
        assert_eq!(to("/{sni}").location(&values), "/a%0D%0Ab:%20c");
    }
}
