//! A request that a listener reads: what `proxy` decides about it, step by step.

use std::net::SocketAddr;

use http::request::Parts;
use http::{Response, Version};

use super::explanation::{Answer, At, Explanation, Matched, Verdict};
use super::outgoing::{Lines, field};
use super::recorder::Recorder;
use super::refusal::{access, refusal};
use super::rehearsal::Cast;
use super::routes::Routes;
use super::settings::Settings;
use super::{Explainer, SOMEBODY, head};
use crate::base::error::{Error, Kind};
use crate::base::id::RouteId;
use crate::body::Body;
use crate::config::effective::Owner;
use crate::config::model::{self, Asked};
use crate::proxy::egress::target::Ask;
use crate::proxy::rescue;
use crate::proxy::stack::Decided;
use crate::proxy::upgrade::{asked_for, is_extended_connect, routed_method};
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
        let egress = listener.egress.as_ref();
        let head = if egress.is_some() { head::for_proxy } else { head::head };
        let parts = match head(asked, version) {
            Ok(parts) => parts,
            Err(error) => {
                let refused = (Kind::HttpRequestError, "it cannot be written as a request");
                told.refusal = Some(refusal(self.config, refused, index, None, None));
                told.notes.push(error.to_string());
                return;
            }
        };
        // Clients of a proxy ask for tunnels, and streams switch by CONNECT.
        told.request.method = parts.method.to_string();
        if let Some(refused) = head::refused(&parts, &listener.config.limits) {
            let error = Error::downstream(refused.kind, refused.reason);
            self.tell_refused(&error, index, None, told);
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
            port: asked.port().filter(|_| egress.is_none()),
        };
        let mut recorder = Recorder::new(&parts.headers, 0);
        let decided = self.rehearsal.decide(&cast, parts.clone(), &mut recorder);
        let route = recorder.found.and_then(|id| self.snapshot.routes.route(id));
        self.tell_match(&parts, listener, &recorder, whole, told);
        if let Some((at, configured)) = route.and_then(|route| self.configured(route)) {
            settings.of_body((index, &listener.config), Some((at, configured)));
        }
        match decided {
            Decided::Forward(order) => {
                let Some((route, rule)) = route.and_then(|route| Some((route, rule_of(route)?))) else { return };
                self.tell_body(&parts, index, Some(route), order.max_body, told);
                if told.refusal.is_none() {
                    told.action = "forward".to_owned();
                    told.served = true;
                }
                let switches = order.wanted.is_some() && head::body(&parts.headers).is_none();
                told.upgrade = self.upgrade(&parts, route, rule, switches);
                self.tell_upstreams(&cast, &parts, (route, rule), told);
                if whole
                    && let Some((at, configured)) = self.configured(route)
                    && let model::RouteAction::Forward(forward) = &configured.action
                {
                    for upstream in rule.split.upstreams().filter_map(|id| self.config.upstreams.get(id.0 as usize)) {
                        settings.of_forward(at, forward, upstream);
                        if switches {
                            settings.of_tunnel(at, forward, upstream);
                        }
                    }
                }
            }
            Decided::Egress(asked) => {
                let Some((egress, rules)) = egress.zip(listener.config.mode.outbound()) else { return };
                match self.outbound(*asked, (listener, egress), &mut recorder, told) {
                    Ok(Ask::Connect | Ask::ConnectUdp) => settings.of_outbound(index, rules, true),
                    Ok(Ask::Request { .. }) => {
                        settings.of_body((index, &listener.config), None);
                        settings.of_outbound(index, rules, false);
                        self.tell_body(&parts, index, None, listener.config.limits.max_body, told);
                    }
                    Err((error, at)) => self.tell_refused(&error, index, at, told),
                }
            }
            Decided::Answered(response) => {
                let rule = route.and_then(|route| Some((route, rule_of(route)?)));
                told.upgrade = rule.and_then(|(route, rule)| self.upgrade(&parts, route, rule, false));
                self.tell_answer(response, index, recorder, route, &settings, told);
            }
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
            method: routed_method(parts),
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

    /// Whether it may switch to the protocol that it names, where it names one; `switches`: it does.
    fn upgrade(&self, parts: &Parts, route: &Route, rule: &ForwardRule, switches: bool) -> Option<Verdict> {
        let protocol = asked_for(parts)?;
        let name = String::from_utf8_lossy(protocol.as_bytes()).to_ascii_lowercase();
        let why = match (switches, rule.may_upgrade_to(protocol.as_bytes()), is_extended_connect(parts)) {
            (true, ..) => format!("it may switch to {name}"),
            (_, false, true) => format!("no switch to {name}: the route does not allow it"),
            (_, false, false) => {
                format!("no switch to {name}: the route does not allow it, and the request goes on without")
            }
            (_, true, _) if head::body(&parts.headers).is_some() => {
                format!("no switch to {name}: the request has a body (RFC 9110 §7.8), and goes on without")
            }
            (_, true, _) => {
                format!(
                    "no switch to {name}: that takes GET over HTTP/1.1 and a Connection that names Upgrade, or extended CONNECT"
                )
            }
        };
        let at = self.config.written.place(Owner::Route(route.id.0 as usize), &["upgrade"]).map(At::from);
        Some(Verdict { allowed: switches, why, at })
    }

    /// A body that is announced too large is refused before an endpoint is asked.
    fn tell_body(
        &self,
        parts: &Parts,
        listener: usize,
        route: Option<&Route>,
        max: Option<u64>,
        told: &mut Explanation,
    ) {
        let announced = head::body(&parts.headers).flatten();
        if announced.zip(max).is_some_and(|(announced, max)| announced > max) {
            let refused = (Kind::RequestBodyTooLarge, "the request's body is larger than allowed");
            let route = route.and_then(|route| self.configured(route));
            told.refusal = Some(refusal(self.config, refused, listener, route, None));
            (told.served, told.action) = (false, "refuse".to_owned());
        }
    }

    /// What is refused before a route is asked for; `at`: the line, where that is not known by the outcome.
    fn tell_refused(&self, error: &Error, listener: usize, at: Option<At>, told: &mut Explanation) {
        let mut refused = refusal(self.config, (error.kind(), error.reason()), listener, None, None);
        if at.is_some() {
            (refused.at, refused.otherwise) = (at, String::new());
        }
        told.refusal = Some(refused);
        let (head, body) = rescue::answer(error, None, REQUEST_ID).into_parts();
        let mut recorder = Recorder::default();
        recorder.note(Step::Answer, &head.headers);
        let lines = Lines { config: self.config, listener, route: None, edits: "response_headers" };
        told.answer = Some(answer((head.status.as_u16(), &body), &recorder, &lines, None, false));
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
