//! Writes down what the deciding functions tell: which route was found, what it saw, and which step changed which field.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::base::error::{Error, Kind};
use crate::base::id::RouteId;
use crate::proxy::normalize::Normalized;
use crate::proxy::witness::{Step, Witness};
use crate::route::action::Route;
use crate::route::matcher::Miss;
use crate::route::path_index;

/// What was told about one request.
#[derive(Default)]
pub struct Recorder {
    /// What a choice by weights is made with.
    pub chance: u32,
    /// The effective host, the path that routes are matched by, and the client.
    pub understood: Option<(String, String, Option<IpAddr>)>,
    /// The route that took it.
    pub found: Option<RouteId>,
    /// Why it went no further.
    pub refused: Option<(Kind, &'static str)>,
    /// As they came.
    before: HeaderMap,
    /// As they are.
    now: HeaderMap,
    /// Which step changed a field last.
    changed: Vec<(HeaderName, Step)>,
}

impl Recorder {
    /// For a request that comes with these fields.
    pub fn new(fields: &HeaderMap, chance: u32) -> Self {
        Self { chance, before: fields.clone(), now: fields.clone(), ..Self::default() }
    }

    /// Notes that the answer begins: its fields have nothing to do with the request's.
    fn begin_answer(&mut self) {
        self.before.clear();
        self.now.clear();
        self.changed.clear();
    }

    /// Notes what the fields are after a step that no witness is told of.
    pub fn note(&mut self, step: Step, fields: &HeaderMap) {
        let names = self.now.keys().chain(fields.keys().filter(|name| !self.now.contains_key(*name)));
        let is_other = |name: &&HeaderName| !self.now.get_all(*name).iter().eq(fields.get_all(*name).iter());
        let changed: Vec<HeaderName> = names.filter(is_other).cloned().collect();
        for name in changed {
            self.changed.retain(|(known, _)| *known != name);
            self.changed.push((name, step));
        }
        self.now = fields.clone();
    }

    /// The fields as they are, each with the step that put it; `None`: the client.
    pub fn fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue, Option<Step>)> {
        self.now.iter().map(|(name, value)| (name, value, self.step(name)))
    }

    /// The fields that the client sent and that are gone, each with the step that took it away.
    pub fn removed(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue, Option<Step>)> {
        let is_gone = |(name, _): &(&HeaderName, &HeaderValue)| !self.now.contains_key(*name);
        self.before.iter().filter(is_gone).map(|(name, value)| (name, value, self.step(name)))
    }

    /// Whether the client sent it.
    pub fn came_with(&self, name: &HeaderName) -> bool {
        self.before.contains_key(name)
    }

    fn step(&self, name: &HeaderName) -> Option<Step> {
        self.changed.iter().find(|(known, _)| known == name).map(|(_, step)| *step)
    }
}

impl path_index::Witness for Recorder {
    fn missed(&mut self, _: RouteId, _: Miss<'_>) {}
}

impl Witness for Recorder {
    fn chance(&mut self) -> u32 {
        self.chance
    }

    fn understood(&mut self, normalized: &Normalized, path: &str, client: Option<IpAddr>) {
        self.understood = Some((normalized.host().to_owned(), path.to_owned(), client));
    }

    fn found(&mut self, route: &Route, _: &str) {
        self.found = Some(route.id);
    }

    fn passed(&mut self, step: Step, fields: &HeaderMap) {
        if step == Step::Answer {
            self.begin_answer();
        }
        self.note(step, fields);
    }

    fn refused(&mut self, error: &Error) {
        self.refused = Some((error.kind(), error.reason()));
    }
}
