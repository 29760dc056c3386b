//! What would become of a request, without sending it: the functions that decide for traffic are asked with a witness, and
//! each answer gets the line of the configuration that it comes from. `cli` asks about files, `control` about what is in
//! force, and tries the `[[expect]]` of a configuration before it takes it.

mod egress;
mod entrance;
pub mod expectations;
pub mod explanation;
mod head;
mod layer4;
mod outgoing;
pub mod question;
mod recorder;
mod refusal;
mod rehearsal;
mod request;
mod routes;
mod settings;
mod upstreams;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::Version;

use crate::config::Config;
use crate::config::model::{Asked, Mode, Route};
use crate::config::outcomes::NO_LISTENER;
use crate::snapshot::Snapshot;
use explanation::{Chosen, Explanation, FORMAT, Refusal, Request};
use outgoing::Lines;
use rehearsal::Rehearsal;

/// Who asks where nobody is named: an address for documentation (RFC 5737), which stands for anybody on the internet.
pub const SOMEBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A generation that is asked about requests. For many questions make it once.
pub struct Explainer<'a> {
    snapshot: &'a Arc<Snapshot>,
    config: &'a Config,
    rehearsal: Rehearsal,
    is_live: bool,
}

impl<'a> Explainer<'a> {
    /// Asks a configuration that was compiled to this snapshot. `is_live`: it is in force, and what is known of its endpoints
    /// counts.
    pub fn new(snapshot: &'a Arc<Snapshot>, config: &'a Config, is_live: bool) -> Self {
        Self { snapshot, config, rehearsal: Rehearsal::new(snapshot), is_live }
    }

    /// Everything about one request.
    pub fn explain(&self, asked: &Asked) -> Explanation {
        let mut told = self.ask(asked, true);
        self.conceal(&mut told);
        if told.request.assumed.iter().any(|word| word == "client") {
            told.notes.push(format!("no client was named: {SOMEBODY} stands for anybody on the internet (--client)"));
        }
        told
    }

    /// Masks what edits put that is not for everybody. What a client sends is its own.
    fn conceal(&self, told: &mut Explanation) {
        let names = |route: &Route| told.route.as_ref().is_some_and(|own| own.name == *route.name);
        let route = self.config.routes.iter().position(names);
        let sent = told.upstreams.iter_mut().filter_map(|upstream| upstream.sent.as_mut());
        let fields = sent.flat_map(|sent| sent.headers.iter_mut()).map(|field| ("request_headers", field));
        let answered = told.answer.iter_mut().flat_map(|answer| answer.headers.iter_mut());
        for (edits, field) in fields.chain(answered.map(|field| ("response_headers", field))) {
            let lines = Lines { config: self.config, listener: 0, route, edits };
            if let Some(mask) = lines.concealed(&field.name).filter(|_| field.by.starts_with(edits)) {
                field.value = mask.to_owned();
            }
        }
    }

    /// As [`explain`](Self::explain); without `whole`, what only people read is left out.
    fn ask(&self, asked: &Asked, whole: bool) -> Explanation {
        let mut told = Explanation {
            format: FORMAT,
            generation: self.is_live.then_some(self.snapshot.generation.0),
            action: "refuse".to_owned(),
            request: request_of(asked),
            ..Explanation::default()
        };
        let entrance = match entrance::listener(self.snapshot, asked) {
            Ok(entrance) => entrance,
            Err(none) => {
                told.refusal = Some(closed(none));
                told.other_listeners = entrance::others(self.snapshot, None, asked);
                return told;
            }
        };
        let listener = entrance.listener;
        if entrance.is_assumed {
            told.request.assumed.push("listener".to_owned());
        }
        told.listener = Some(Chosen {
            name: listener.name.to_string(),
            what: entrance::what(&listener.config),
            why: entrance.why,
            at: Some((&listener.config.place).into()),
        });
        if whole {
            told.other_listeners = entrance::others(self.snapshot, Some(&listener), asked);
        }
        let is_forward = matches!(listener.config.mode, Mode::Forward(_));
        if is_forward {
            // The address is where it goes; the proxy has another name.
            told.request.sni = asked.sni.as_deref().filter(|_| listener.tls.is_some()).map(str::to_ascii_lowercase);
        }
        if let Some(tls) = &listener.tls {
            let host = if is_forward { told.request.sni.as_deref() } else { asked.url.host() };
            let host = host.map(|host| host.trim_end_matches('.').to_ascii_lowercase());
            let sni = told.request.sni.as_deref();
            told.certificate = Some(entrance::certificate(&listener, tls, sni, host.as_deref()));
        }
        if listener.config.mode.relays() {
            self.relayed(asked, &listener, &mut told);
            return told;
        }
        match entrance::version(&listener, asked, self.config) {
            Ok((version, is_said)) => {
                told.request.protocol = protocol(version);
                if !is_said {
                    told.request.assumed.push("protocol".to_owned());
                }
                self.requested(asked, &listener, version, whole, &mut told);
            }
            Err(none) => told.refusal = Some(closed(none)),
        }
        told
    }
}

fn request_of(asked: &Asked) -> Request {
    let header = |(name, value): &(http::HeaderName, http::HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Request {
        method: if asked.is_http() { asked.method.to_string() } else { String::new() },
        url: asked.url.to_string(),
        protocol: asked.scheme().to_ascii_uppercase(),
        client: asked.client.unwrap_or(SOMEBODY).to_string(),
        sni: asked.server_name(),
        headers: asked.headers.iter().map(header).collect(),
        assumed: asked.client.is_none().then(|| "client".to_owned()).into_iter().collect(),
    }
}

fn closed(none: entrance::NoEntrance) -> Refusal {
    let outcome = NO_LISTENER.to_owned();
    Refusal { outcome, reason: none.reason, at: none.at, ..Refusal::default() }
}

fn protocol(version: Version) -> String {
    match version {
        Version::HTTP_3 => "HTTP/3",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
    .to_owned()
}
