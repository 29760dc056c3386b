//! From sections to the model: checks values and the relations between them. All faults are collected with their
//! places; a faulty value gets an arbitrary substitute, because a model with faults is never returned.

mod address;
mod control;
mod edits;
mod expectation;
mod health;
mod identity;
mod layer4;
mod listener;
mod logs;
mod matching;
mod network;
mod outbound;
mod overlap;
mod quic;
mod relayed;
mod route;
mod socket;
mod upstream;

use std::collections::HashMap;
use std::path::PathBuf;

use super::defaults;
use super::effective::Effective;
use super::findings::{Finding, Findings};
use super::model::{Config, Metrics, Mode, Place, Server, UpstreamProtocol};
use super::section::{Name, Section, Written};
use super::source::{Sources, Spot};
use super::suggest;

use control::OwnAddress;
use relayed::{Relay, WrittenEndpoints};

pub(super) use layer4::{HELLO, without_effect};
pub(crate) use overlap::host_text;
pub use overlap::match_text;
pub(super) use overlap::{path_text, value_text};

/// What every check needs.
pub(crate) struct Check<'a> {
    sources: &'a Sources,
    findings: &'a mut Findings,
    /// Names to their places in [`Config::upstreams`].
    upstreams: HashMap<&'a str, usize>,
    /// Names to their places in [`Config::listeners`].
    listeners: HashMap<String, usize>,
    /// Which listeners end TLS.
    with_tls: Vec<bool>,
    /// Which listeners serve requests by routes.
    with_routes: Vec<bool>,
    /// The addresses of `[server.admin]` and `[server.observe]`.
    own: Vec<OwnAddress>,
    /// Which upstreams layer 4 relays to.
    relays: Vec<Relay>,
    /// By the places of upstreams.
    endpoints: Vec<WrittenEndpoints>,
}

/// Checks the sections of all files and makes the model. Faults go to `findings`.
pub(crate) fn validate(
    sources: &Sources,
    sections: &[Section],
    files: Vec<PathBuf>,
    findings: &mut Findings,
) -> Config {
    let mut check = Check {
        sources,
        findings,
        upstreams: HashMap::new(),
        listeners: HashMap::new(),
        with_tls: Vec::new(),
        with_routes: Vec::new(),
        own: Vec::new(),
        relays: Vec::new(),
        endpoints: Vec::new(),
    };
    let server = check.server(sections);
    let named = check.unique_upstreams(sections);
    let mut listeners = check.listeners(sections.iter().flat_map(|section| section.sections("listener")));
    let upstreams: Vec<_> = named.iter().map(|(name, section)| check.upstream(name, section)).collect();
    for ((name, section), upstream) in named.iter().zip(&upstreams) {
        check.fits_quic(name, section, upstream);
    }
    for listener in &mut listeners {
        if let Mode::Tcp { upstream, as_streams } = &mut listener.mode {
            let known = upstreams.get(*upstream);
            *as_streams = known.is_some_and(|upstream| upstream.protocol == UpstreamProtocol::Quic);
        }
    }
    let routes = check.routes(sections.iter().flat_map(|section| section.sections("route")));
    let written = sections.iter().flat_map(|section| section.sections("route"));
    written.zip(&routes).for_each(|(section, route)| check.speaks_grpc(section, route, &upstreams));
    check.relayed(&named, &upstreams, &routes);
    check.no_circles(&listeners, &upstreams);
    let expectations =
        check.expectations(sections.iter().flat_map(|section| section.sections("expect")), &listeners, &routes);
    check.presence(sections);
    Config { server, listeners, routes, upstreams, expectations, files, written: Effective::default() }
}

/// `[server.metrics]`.
fn metrics(section: &Section) -> Metrics {
    Metrics { max_routes: section.count("max_routes").unwrap_or(defaults::METRICS_MAX_ROUTES) }
}

impl<'a> Check<'a> {
    fn server(&mut self, sections: &[Section]) -> Server {
        let mut written = sections.iter().filter_map(|section| section.section("server"));
        let first = written.next();
        if let Some(first) = first {
            for again in written {
                let finding = Finding::new(again.spot, "`[server]` appears in two files", "the second one");
                self.findings.push(finding.second(first.spot, "the first one"));
            }
        }
        let count = first.and_then(|section| section.count("workers"));
        Server {
            workers: count.map_or_else(defaults::workers, |count| count as usize),
            drain_timeout: first
                .and_then(|section| section.duration("drain_timeout"))
                .unwrap_or(defaults::DRAIN_TIMEOUT),
            watch: first.and_then(|section| section.flag("watch")).unwrap_or(defaults::WATCH),
            drain_delay: first.and_then(|section| section.duration("drain_delay")).unwrap_or(defaults::DRAIN_DELAY),
            identity: first.and_then(|section| self.identity(section)),
            admin: self.control_listener(first, "admin"),
            observe: self.control_listener(first, "observe"),
            log: self.process_log(first.and_then(|section| section.section("log"))),
            access_log: first.and_then(|section| section.section("access_log")).map(|section| self.access_log(section)),
            metrics: first.and_then(|section| section.section("metrics")).map_or_else(Metrics::default, metrics),
            quic_key_file: first
                .and_then(|section| section.text("quic_key_file"))
                .map(|written| (self.path(written), self.place(written.spot))),
        }
    }

    /// The upstreams of every file, sorted by name, without second definitions.
    fn unique_upstreams(&mut self, sections: &'a [Section]) -> Vec<(&'a Name, &'a Section)> {
        let mut first: HashMap<&str, &Name> = HashMap::new();
        let mut unique = Vec::new();
        for (name, section) in sections.iter().flat_map(|section| section.named("upstream")) {
            match first.get(name.value.as_str()) {
                Some(earlier) => {
                    let message = format!("upstream `{}` is defined twice", name.value);
                    let finding = Finding::new(name.spot, message, "the second one");
                    self.findings.push(finding.second(earlier.spot, "first defined here"));
                }
                None => {
                    first.insert(&name.value, name);
                    unique.push((name, section));
                }
            }
        }
        unique.sort_by_key(|(name, _)| name.value.as_str());
        self.upstreams = unique.iter().enumerate().map(|(index, (name, _))| (name.value.as_str(), index)).collect();
        unique
    }

    /// A file that accepts nothing or forwards nothing is a mistake.
    fn presence(&mut self, sections: &[Section]) {
        let words = if sections.len() > 1 { "these files" } else { "this file" };
        if !sections.iter().any(|section| section.has("listener")) {
            let finding = Finding::of_file(0, "no listener", format!("{words} would accept nothing"));
            self.findings.push_absent(finding.help("write `[[listener]]` and below it `bind = \":8080\"`"));
        }
        let has_routes = self.with_routes.is_empty() || self.with_routes.contains(&true);
        let mut routes = sections.iter().flat_map(|section| section.sections("route"));
        if let Some(first) = routes.next().filter(|_| !has_routes) {
            let finding = Finding::new(first.spot, "a route that can never match", "no listener has mode \"http\"");
            self.findings.push_absent(finding.help("listeners of other modes name their upstream themselves"));
        }
        if has_routes && !sections.iter().any(|section| section.has("route")) {
            let finding = Finding::of_file(0, "no route", format!("{words} would answer every request with 404"));
            self.findings.push_absent(finding.help("write `[[route]]` and below it `upstream = \"app\"`"));
        }
    }

    /// The index of an upstream that is named somewhere.
    fn upstream_index(&mut self, written: Written<'_>) -> usize {
        if let Some(index) = self.upstreams.get(written.value) {
            return *index;
        }
        // After a syntax error its table may be there in the text alone.
        if self.findings.incomplete && self.sources.mention(&format!("upstream.{}", written.value)) {
            return 0;
        }
        let words = if self.sources.iter().count() > 1 { "these files" } else { "this file" };
        let message = format!("unknown upstream `{}`", written.value);
        let finding = Finding::new(written.spot, message, format!("no [upstream.{}] in {words}", written.value));
        let near = self.findings.may_compare(self.upstreams.len());
        let help = near.then(|| suggest::did_you_mean(written.value, self.upstreams.keys().copied())).flatten();
        self.findings.push(finding.help_if(help));
        0
    }

    /// The index of a listener that is named somewhere.
    fn listener_index(&mut self, written: Written<'_>) -> Option<usize> {
        if let Some(index) = self.listeners.get(written.value) {
            return Some(*index);
        }
        if self.findings.incomplete {
            return None;
        }
        let message = format!("unknown listener `{}`", written.value);
        let finding = Finding::new(written.spot, message, "no [[listener]] has this name");
        let near = self.findings.may_compare(self.listeners.len());
        let help =
            near.then(|| suggest::did_you_mean(written.value, self.listeners.keys().map(String::as_str))).flatten();
        self.findings.push(finding.help_if(help));
        None
    }

    /// A name of ours: it stands in logs, metrics and headers.
    fn name(&mut self, value: &str, spot: Spot) {
        let valid = |c: char| !c.is_control() && !c.is_whitespace() && c != '"';
        if value.is_empty() || value.len() > 128 || !value.chars().all(valid) {
            let message = format!("bad name `{value}`");
            self.findings.push(Finding::new(
                spot,
                message,
                "1 to 128 characters, without spaces, quotes and control characters",
            ));
        }
    }

    /// A path of a file, relative to the directory of the text that names it.
    fn path(&mut self, written: Written<'_>) -> PathBuf {
        if written.value.is_empty() || written.value.contains('\0') {
            self.findings.push(Finding::new(written.spot, "not a path", "expected the name of a file"));
        }
        self.sources.file(written.spot.file).directory.join(written.value)
    }

    fn place(&self, spot: Spot) -> Place {
        self.sources.place(spot)
    }

    fn fault(&mut self, spot: Spot, message: impl Into<String>, label: impl Into<String>) {
        self.findings.push(Finding::new(spot, message, label));
    }

    fn fault_with_help(
        &mut self,
        spot: Spot,
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.findings.push(Finding::new(spot, message, label).help(help));
    }
}

/// Routes with one of these forward nothing.
pub(super) const ANSWERS: [&str; 2] = ["redirect", "respond"];
/// What only means something where a request is forwarded.
pub(super) const FORWARDING_ONLY: [&str; 10] = [
    "strip_prefix",
    "replace_path",
    "host_header",
    "timeouts",
    "retry",
    "buffer",
    "grpc_web",
    "normalize_path",
    "upgrade",
    "request_headers",
];
