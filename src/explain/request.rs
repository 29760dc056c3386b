//! A request that a listener reads: what `proxy` decides about it, step by step.

use std::net::SocketAddr;

use http::request::Parts;
use http::{Response, Version};

use super::explanation::{Answer, At, Explanation, Matched};
use super::outgoing::{Lines, field};
use super::recorder::Recorder;
use super::refusal::{access, refusal};
use super::rehearsal::Cast;
use super::routes::Routes;
use super::settings::Settings;
use super::{Explainer, SOMEBODY, head};
use crate::base::error::Kind;
use crate::base::id::RouteId;
use crate::body::Body;
use crate::config::model::{self, Asked};
use crate::proxy::rescue;
use crate::proxy::stack::Decided;
use crate::proxy::witness::Step;
use crate::route::action::{Action, ForwardRule, Route};
use crate::route::table::RequestHead;
use crate::snapshot::ListenerSpec;
use crate::transport::tls::server::Alpn;

impl Explainer<'_> {
    /// Puts a request to the deciding functions, as often as there are upstreams that chance may choose.
    pub(super) fn requested(
        &self,
        asked: &Asked,
        listener: &ListenerSpec,
        version: Version,
        whole: bool,
        told: &mut Explanation,
    ) {
        let index = listener.id.0 as usize;
        let mut settings = Settings::new(self.config);
        if whole {
            settings.of_listener(index, &listener.config, version);
        }
        if asked.scheme().starts_with("ws") && version >= Version::HTTP_2 {
            let note = "over HTTP/2 and HTTP/3 a WebSocket begins with an extended CONNECT: what is told here is what a GET meets";
            told.notes.push(note.to_owned());
        }
        let parts = match head::head(asked, version) {
            Ok(parts) => parts,
            Err(error) => {
                let refused = (Kind::HttpRequestError, "it cannot be written as a request");
                told.refusal = Some(refusal(self.config, refused, index, None, None));
                told.notes.push(error.to_string());
                return;
            }
        };
        if let Some(refused) = head::refused(&parts, &listener.config.limits) {
            let error = crate::base::error::Error::downstream(refused.kind, refused.reason);
            told.refusal = Some(refusal(self.config, (refused.kind, refused.reason), index, None, None));
            let (head, body) = rescue::answer(&error, None, REQUEST_ID).into_parts();
            let mut recorder = Recorder::default();
            recorder.note(Step::Answer, &head.headers);
            let lines = Lines { config: self.config, listener: index, route: None, edits: "response_headers" };
            told.answer = Some(answer((head.status.as_u16(), &body), &recorder, &lines, None, false));
            told.settings = settings.into_list();
            return;
        }
        let sni = told.request.sni.clone();
        let cast = Cast {
            listener,
            client: SocketAddr::new(asked.client.unwrap_or(SOMEBODY), CLIENT_PORT),
            sni: sni.as_deref(),
            alpn: match version {
                Version::HTTP_3 => Alpn::Http3,
                Version::HTTP_2 => Alpn::Http2,
                _ => Alpn::Http1,
            },
            port: asked.port(),
        };
        let mut recorder = Recorder::new(&parts.headers, 0);
        let decided = self.rehearsal.decide(&cast, parts.clone(), &mut recorder);
        let route = recorder.found.and_then(|id| self.snapshot.routes.route(id));
        self.tell_match(&parts, listener, &recorder, whole, told);
        if let Some((at, configured)) = route.and_then(|route| self.configured(route)) {
            settings.of_body((index, &listener.config), (at, configured));
        }
        match decided {
            Decided::Forward(order) => {
                let Some((route, rule)) = route.and_then(|route| Some((route, rule_of(route)?))) else { return };
                self.tell_body(&parts, index, route, order.max_body, told);
                if told.refusal.is_none() {
                    told.action = "forward".to_owned();
                    told.served = true;
                }
                self.tell_upstreams(&cast, &parts, (route, rule), told);
                if whole
                    && let Some((at, configured)) = self.configured(route)
                    && let model::RouteAction::Forward(forward) = &configured.action
                {
                    for upstream in rule.split.upstreams().filter_map(|id| self.config.upstreams.get(id.0 as usize)) {
                        settings.of_forward(at, forward, upstream);
                    }
                }
            }
            // Asked otherwise: by `outbound`.
            Decided::Egress(_) => {}
            Decided::Answered(response) => self.tell_answer(response, index, recorder, route, &settings, told),
        }
        if whole {
            told.settings = settings.into_list();
        }
    }

    /// Which route, and why each other not.
    fn tell_match(
        &self,
        parts: &Parts,
        listener: &ListenerSpec,
        recorder: &Recorder,
        whole: bool,
        told: &mut Explanation,
    ) {
        let Some((host, path, client)) = &recorder.understood else { return };
        told.matched = Some(Matched {
            host: host.clone(),
            path: path.clone(),
            path_was_normalised: path != parts.uri.path(),
            client: client.map(|client| client.to_string()),
        });
        if let Some((index, route)) = recorder.found.and_then(|id| self.configured_at(id)) {
            told.access = Some(access(self.config, index, route, *client));
        }
        let head = RequestHead {
            listener: listener.id,
            method: &parts.method,
            host,
            path,
            query: parts.uri.query(),
            headers: &parts.headers,
        };
        let routes = Routes { config: self.config, head, winner: recorder.found };
        if whole {
            told.other_routes = routes.others();
        }
        told.route = routes.taken(&told.other_routes);
    }

    /// A body that is announced too large is refused before an endpoint is asked.
    fn tell_body(&self, parts: &Parts, listener: usize, route: &Route, max: Option<u64>, told: &mut Explanation) {
        let announced = head::body(&parts.headers).flatten();
        if announced.zip(max).is_some_and(|(announced, max)| announced > max) {
            let refused = (Kind::RequestBodyTooLarge, "the request's body is larger than allowed");
            told.refusal = Some(refusal(self.config, refused, listener, self.configured(route), None));
        }
    }

    fn tell_answer(
        &self,
        response: Response<Body>,
        listener: usize,
        mut recorder: Recorder,
        route: Option<&Route>,
        settings: &Settings<'_>,
        told: &mut Explanation,
    ) {
        let (head, body) = response.into_parts();
        let at = route.map(|route| route.id.0 as usize);
        let lines = Lines { config: self.config, listener, route: at, edits: "response_headers" };
        let configured = route.and_then(|route| self.configured(route));
        if let Some(refused) = recorder.refused {
            let client = recorder.understood.as_ref().and_then(|(_, _, client)| *client);
            told.refusal = Some(refusal(self.config, refused, listener, configured, client));
            recorder = Recorder::default();
        } else {
            told.served = true;
            told.action = match route.map(|route| &route.action) {
                Some(Action::Redirect(_)) => "redirect".to_owned(),
                _ => "respond".to_owned(),
            };
        }
        recorder.note(Step::Answer, &head.headers);
        let bytes = match &body {
            Body::Own(bytes, _) => bytes.clone(),
            _ => Default::default(),
        };
        let action = configured.filter(|_| told.served).and_then(|(at, route)| settings.action_at(at, route));
        let names_itself = told.request.headers.iter().any(|(name, _)| name == rescue::X_REQUEST_ID.as_str());
        told.answer = Some(answer((head.status.as_u16(), &bytes), &recorder, &lines, action, names_itself));
    }

    fn configured_at(&self, id: RouteId) -> Option<(usize, &model::Route)> {
        let index = id.0 as usize;
        Some((index, self.config.routes.get(index)?))
    }

    pub(super) fn configured(&self, route: &Route) -> Option<(usize, &model::Route)> {
        self.configured_at(route.id)
    }
}

/// `names_itself`: the request brought its id.
fn answer(
    (status, body): (u16, &[u8]),
    recorder: &Recorder,
    lines: &Lines<'_>,
    at: Option<At>,
    names_itself: bool,
) -> Answer {
    let fields = recorder.fields().map(|(name, value, step)| field(name, value, step, lines, None, recorder));
    let mut headers: Vec<_> = fields.collect();
    let mut body = String::from_utf8_lossy(body).into_owned();
    // Made for each answer, and shown so.
    for field in headers.iter_mut().filter(|field| field.name == rescue::X_REQUEST_ID.as_str() && !names_itself) {
        field.varies = true;
        body = body.replace(&field.value, REQUEST_ID);
        field.value = REQUEST_ID.to_owned();
    }
    Answer { status, headers, body, at }
}

pub(super) fn rule_of(route: &Route) -> Option<&ForwardRule> {
    match &route.action {
        Action::Forward(rule) => Some(rule),
        _ => None,
    }
}

/// Stands for what is made anew for each request.
const REQUEST_ID: &str = "{request_id}";
/// Of no client in particular.
const CLIENT_PORT: u16 = 49_152;
