//! Whether `[[expect]]` is well-formed. `control::compile` runs it.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode, Version};

use super::Check;
use crate::base::error::Kind;
use crate::config::findings::Finding;
use crate::config::model::{Asked, Expectation, Listener, Route, Sent, ValuePattern};
use crate::config::outcomes::NO_LISTENER;
use crate::config::section::{Section, Written};
use crate::config::suggest;

impl Check<'_> {
    pub(super) fn expectations<'s>(
        &mut self,
        sections: impl Iterator<Item = &'s Section>,
        listeners: &[Listener],
        routes: &[Route],
    ) -> Vec<Expectation> {
        sections.filter_map(|section| self.expectation(section, listeners, routes)).collect()
    }

    /// `None`: there is no request in it, which was told.
    fn expectation(&mut self, section: &Section, listeners: &[Listener], routes: &[Route]) -> Option<Expectation> {
        if !expects_something(section) {
            let finding = Finding::new(section.spot, "a test without an expectation", "it can never fail");
            self.findings.push_absent(finding.help("write `route = \"…\"`, `upstream = \"…\"` or `status = 200`"));
        }
        let route = section.text("route").map(|written| self.route_name(written, routes));
        let mut upstreams: Vec<Arc<str>> = section
            .texts("upstream")
            .map(|written| {
                self.upstream_index(written);
                written.value.into()
            })
            .collect();
        upstreams.sort();
        upstreams.dedup();
        let sent = section.section("sent").map(|section| self.sent(section)).unwrap_or_default();
        Some(Expectation {
            asked: self.asked(section, listeners)?,
            route,
            upstreams,
            status: section.count("status").and_then(|status| StatusCode::from_u16(status as u16).ok()),
            outcome: section.text("outcome").map(|written| self.outcome(written)),
            header: self.patterns(section, "header"),
            sent,
            place: self.place(section.spot),
        })
    }

    fn asked(&mut self, section: &Section, listeners: &[Listener]) -> Option<Asked> {
        let written = section.text("request")?;
        let parsed = Asked::parse(written.value);
        let client = section.text("client").and_then(|written| {
            let address = written.value.parse::<IpAddr>().ok();
            if address.is_none() {
                self.fault(written.spot, format!("bad address `{}`", written.value), "not an IP address");
            }
            address
        });
        let headers = self.brought(section);
        let listener = section.text("listener").and_then(|written| self.listener_index(written));
        match parsed {
            Ok(asked) => Some(Asked {
                headers,
                client,
                listener: listener.and_then(|index| listeners.get(index)).map(|listener| Arc::clone(&listener.name)),
                version: section.word("protocol").map(|word| match word {
                    "http3" => Version::HTTP_3,
                    "http2" => Version::HTTP_2,
                    _ => Version::HTTP_11,
                }),
                upgrade: section.text("upgrade").and_then(|written| self.protocol_name(written)).map(Into::into),
                sni: section.text("sni").map(|written| written.value.into()),
                alpn: section.texts("alpn").map(|written| written.value.into()).collect(),
                ..asked
            }),
            Err(bad) => {
                let help = "write \"GET https://example.org/path\"";
                self.fault_with_help(written.spot, format!("bad request `{}`", written.value), bad.to_string(), help);
                None
            }
        }
    }

    fn brought(&mut self, section: &Section) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        for pair in section.map("headers") {
            let Some(name) = self.header_name(&pair.name.value, pair.name.spot) else { continue };
            let Some(written) = pair.node.written() else { continue };
            match HeaderValue::from_str(written.value) {
                Ok(value) => headers.push((name, value)),
                Err(_) => {
                    self.fault(written.spot, format!("bad value for header `{name}`"), "not a valid header value");
                }
            }
        }
        headers
    }

    fn patterns(&mut self, section: &Section, key: &str) -> Vec<(HeaderName, ValuePattern)> {
        let mut patterns = Vec::new();
        for pair in section.map(key) {
            let Some(name) = self.header_name(&pair.name.value, pair.name.spot) else { continue };
            let Some(written) = pair.node.written() else { continue };
            patterns.extend(self.value_pattern(written).map(|pattern| (name, pattern)));
        }
        patterns
    }

    fn sent(&mut self, section: &Section) -> Sent {
        let without = section.texts("without").filter_map(|written| self.header_name(written.value, written.spot));
        Sent {
            without: without.collect(),
            host: section.text("host").map(|written| written.value.into()),
            path: section.text("path").map(|written| written.value.into()),
            header: self.patterns(section, "header"),
        }
    }

    fn route_name(&mut self, written: Written<'_>, routes: &[Route]) -> Arc<str> {
        let names = || routes.iter().map(|route| &*route.name);
        if !self.findings.incomplete && names().all(|name| name != written.value) {
            let finding =
                Finding::new(written.spot, format!("unknown route `{}`", written.value), "no [[route]] has this name");
            let near = self.findings.may_compare(routes.len());
            let help = near.then(|| suggest::did_you_mean(written.value, names())).flatten();
            let help = help.unwrap_or_else(|| "`tidegate check` prints the names of routes without one".to_owned());
            self.findings.push(finding.help(help));
        }
        written.value.into()
    }

    fn outcome(&mut self, written: Written<'_>) -> Arc<str> {
        let words = || Kind::ALL.iter().map(|kind| kind.as_str()).chain(["ok", NO_LISTENER]);
        if words().all(|word| word != written.value) {
            let finding = Finding::new(
                written.spot,
                format!("unknown outcome `{}`", written.value),
                "not an outcome of the access log",
            );
            self.findings.push(finding.help_if(suggest::did_you_mean(written.value, words())));
        }
        written.value.into()
    }
}

/// Whether there is anything that may not hold.
fn expects_something(section: &Section) -> bool {
    let of_sent = |sent: &Section| {
        let has_one = sent.texts("without").next().is_some() || !sent.map("header").is_empty();
        has_one || ["host", "path"].iter().any(|key| sent.has(key))
    };
    ["route", "status", "outcome"].iter().any(|key| section.has(key))
        || section.texts("upstream").next().is_some()
        || !section.map("header").is_empty()
        || section.section("sent").is_some_and(of_sent)
}
