//! A request of a client that is pointed at a listener with `mode = "forward"`: whether it may go where it says, asked of
//! the functions that traffic asks, in their order. Nothing is resolved, connected to, or tried of a password.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use http::header::PROXY_AUTHORIZATION;

use super::Explainer;
use super::explanation::{At, Endpoint, Explanation, Upstream as Told, Verdict};
use super::outgoing::{Lines, sent};
use super::recorder::Recorder;
use crate::base::error::{Error, Kind};
use crate::config::effective::Owner;
use crate::config::model::Outbound;
use crate::net::bind::is_reached_at;
use crate::proxy::egress::target::{self, Ask, Target};
use crate::proxy::egress::{Asked, names_a_user, order, permitted};
use crate::route::action::Action;
use crate::route::destination::{Host, Reach, allowing, may_ask, may_connect};
use crate::route::egress::Egress;
use crate::snapshot::ListenerSpec;

impl Explainer<'_> {
    /// Where it may go, and by which entry; what an origin would get. `Err`: why it goes no further, and the line.
    pub(super) fn outbound(
        &self,
        asked: Asked,
        (listener, egress): (&ListenerSpec, &Arc<Egress>),
        recorder: &mut Recorder,
        told: &mut Explanation,
    ) -> Result<Ask, (Error, Option<At>)> {
        let index = listener.id.0 as usize;
        let written = |path: &[&str]| self.config.written.place(Owner::Listener(index), path).map(At::from);
        let read = target::read(&asked.head, &asked.normalized, egress.secure.is_some());
        let (host, port, ask) = read.map_err(|error| (error, None))?;
        if let Some(users) = &egress.users {
            let at = written(&["forward", "users"]);
            if asked.head.headers.contains_key(PROXY_AUTHORIZATION) {
                let name = names_a_user(users, &asked.head).map_err(|error| (error, at))?;
                told.notes.push(format!("{name} is a user of the listener; the password is not tried here"));
            } else {
                let line = at.map_or_else(String::new, |at| format!(" ({}:{})", at.file, at.line));
                told.notes.push(format!(
                    "told as for a user of `forward.users`{line}: who does not name itself gets 407 (-H 'proxy-authorization: …')"
                ));
                told.request.assumed.push("user".to_owned());
            }
        }
        let rules = &egress.outbound;
        let target = permitted(egress, host.clone(), port, ask).map_err(|error| {
            let at = self.prohibiting(rules, &host, port, &error).or_else(|| written(&["forward", "allow"]));
            told.access = Some(Verdict { allowed: false, why: error.reason().to_owned(), at: at.clone() });
            (error, at)
        })?;
        let entry = allowing(rules, &host, port);
        let why = match (entry, target.reach) {
            (Some(entry), Reach::Public) if matches!(host, Host::Name(_)) => {
                format!("`{entry}` allows the name, at public addresses and those that a network of `allow` has")
            }
            (Some(entry), _) => format!("`{entry}` allows the address"),
            (None, _) => {
                "a network of `allow` may have its address, whatever the name: that is seen once it is resolved".into()
            }
        };
        let at = entry.map(|entry| At::from(&entry.place)).or_else(|| written(&["forward", "allow"]));
        told.access = Some(Verdict { allowed: true, why, at: at.clone() });
        told.served = true;
        told.action = if matches!(ask, Ask::Request { .. }) { "forward" } else { "tunnel" }.to_owned();
        let mut entry = origin(egress, &target, at);
        if let Ask::Request { is_secure } = ask {
            let own = HeaderValue::try_from(target.label()).unwrap_or(HeaderValue::from_static(""));
            let order = order(asked, egress, target, recorder).map_err(|refused| (refused.0, None))?;
            let Action::Forward(rule) = &egress.route.action else { return Ok(ask) };
            let lines = Lines { config: self.config, listener: index, route: None, edits: "request_headers" };
            entry.protocol = if is_secure { "http1 or http2" } else { "http1" }.to_owned();
            entry.sent = Some(sent(order, rule, recorder, &lines, (false, &own)).map_err(|error| (error, None))?);
        }
        told.upstreams.push(entry);
        Ok(ask)
    }

    /// The line that keeps somebody from a destination, where there is one.
    fn prohibiting(&self, rules: &Outbound, host: &Host, port: u16, error: &Error) -> Option<At> {
        let verdict = may_ask(rules, host, port).and_then(|reach| match host {
            Host::Address(address) => may_connect(rules, reach, *address, port),
            Host::Name(_) => Ok(()),
        });
        if let Err(prohibited) = verdict {
            return prohibited.entry.map(|entry| At::from(&entry.place));
        }
        // The rules let it through: it is a listener of our own.
        let Host::Address(address) = host else { return None };
        let address = SocketAddr::new(*address, port);
        if error.kind() == Kind::ProxyLoopDetected {
            let mut circles = self.snapshot.listeners.iter().filter(|listener| listener.egress.is_some());
            let own = circles.find(|own| own.config.binds.iter().any(|bind| is_reached_at(bind, address)));
            return own.map(|own| At::from(&own.config.place));
        }
        let server = &self.config.server;
        let mut guarded = [&server.admin, &server.observe].into_iter().flatten();
        guarded.find(|own| is_reached_at(&own.bind, address)).map(|own| At::from(&own.place))
    }
}

/// What a client names, as an upstream of one endpoint.
fn origin(egress: &Egress, target: &Target, at: Option<At>) -> Told {
    let address = target.label();
    let (state, can_be_picked) = ("configured".to_owned(), true);
    Told {
        name: egress.cleartext.name.to_string(),
        share: 100.0,
        protocol: if target.ask == Ask::ConnectUdp { "udp" } else { "tcp" }.to_owned(),
        tls: target.ask == (Ask::Request { is_secure: true }),
        at: Some(At::from(&egress.cleartext.place)),
        endpoints: vec![Endpoint { address, weight: 1, at, can_be_picked, state, in_flight: None }],
        ..Told::default()
    }
}
