//! `[[expect]]`: each is asked as `tidegate explain` would ask it, and one that does not hold is a fault of the configuration.
//! Called wherever a configuration is compiled: by `check`, at start, and before a reload.

use std::sync::Arc;

use http::HeaderName;

use super::Explainer;
use super::explanation::{Explanation, Field, Sent};
use crate::config::effective::Owner;
use crate::config::model::{Expectation, ValuePattern};
use crate::config::{Config, Fault, Faults};
use crate::snapshot::Snapshot;

/// Every expectation that does not hold.
pub fn unmet(snapshot: &Arc<Snapshot>, config: &Config) -> Faults {
    let mut faults = Faults::new();
    if config.expectations.is_empty() {
        return faults;
    }
    let explainer = Explainer::new(snapshot, config, false);
    for (index, expectation) in config.expectations.iter().enumerate() {
        let unmet = differences(expectation, &explainer.ask(&expectation.asked, false));
        if unmet.is_empty() {
            continue;
        }
        // Why each other route lost takes longer to tell, and is told of what does not hold only; secrets masked, as the fault
        // goes into logs.
        let told = explainer.explain(&expectation.asked);
        let mut shown = differences(expectation, &told);
        let mut own = Vec::new();
        for mut difference in unmet {
            let found = shown.iter_mut().find(|shown| shown.path == difference.path);
            difference.found =
                found.map_or_else(|| "it is another".to_owned(), |shown| std::mem::take(&mut shown.found));
            own.push(fault(config, index, expectation, &told, difference));
        }
        // In the order in which they are read.
        own.sort_by_key(|fault| fault.excerpt.as_ref().map(|excerpt| (excerpt.place.line, excerpt.place.column)));
        own.into_iter().for_each(|fault| faults.push(fault));
    }
    faults
}

/// Something that is not as expected.
struct Difference {
    /// The key.
    path: Vec<String>,
    /// What was expected, in words.
    expected: String,
    /// What was found instead.
    found: String,
}

fn differences(expectation: &Expectation, told: &Explanation) -> Vec<Difference> {
    let mut list = Vec::<Difference>::new();
    let mut differ = |path: &[&str], expected: String, found: String| {
        // One fault for each key, whatever it has to say.
        match list.iter_mut().find(|other| other.path == path) {
            Some(other) => other.found += &format!(", {found}"),
            None => list.push(Difference { path: path.iter().map(|&part| part.to_owned()).collect(), expected, found }),
        }
    };
    if let Some(route) = &expectation.route {
        match &told.route {
            Some(found) if *found.name == **route => {}
            Some(found) => differ(&["route"], format!("route `{route}`"), format!("route `{}` takes it", found.name)),
            None => differ(&["route"], format!("route `{route}`"), outcome(told)),
        }
    }
    if !expectation.upstreams.is_empty() {
        let mut found: Vec<&str> = told.upstreams.iter().map(|upstream| &*upstream.name).collect();
        found.sort_unstable();
        if !expectation.upstreams.iter().map(|name| &**name).eq(found.iter().copied()) {
            let found = if found.is_empty() { outcome(told) } else { format!("it goes to {}", quoted(&found)) };
            let names: Vec<&str> = expectation.upstreams.iter().map(|name| &**name).collect();
            differ(&["upstream"], format!("upstream {}", quoted(&names)), found);
        }
    }
    if let Some(status) = expectation.status
        && status_of(told) != Some(status.as_u16())
    {
        differ(&["status"], format!("status {}", status.as_u16()), outcome(told));
    }
    if let Some(word) = &expectation.outcome {
        let found = told.refusal.as_ref().map_or("ok", |refusal| &refusal.outcome);
        if **word != *found {
            differ(&["outcome"], format!("outcome `{word}`"), outcome(told));
        }
    }
    let fields = told.answer.as_ref().map(|answer| &answer.headers);
    for (name, pattern) in &expectation.header {
        if let Some(found) = missing(fields, name, pattern) {
            let found = if fields.is_none() { outcome(told) } else { found };
            differ(&["header", name.as_str()], format!("header {}", wanted(name, pattern)), found);
        }
    }
    if !expectation.sent.is_empty() {
        let sent = told.upstreams.iter().filter_map(|upstream| Some((&*upstream.name, upstream.sent.as_ref()?)));
        let sent: Vec<_> = sent.collect();
        if sent.is_empty() {
            differ(&["sent"], "`sent`".to_owned(), outcome(told));
        }
        for (name, one) in &sent {
            of_sent(expectation, one, &mut |path, expected, found| {
                // Of a weighted route each upstream may get something else.
                let found = if sent.len() > 1 { format!("for `{name}` {found}") } else { found };
                differ(path, expected, found);
            });
        }
    }
    list
}

fn of_sent(expectation: &Expectation, sent: &Sent, differ: &mut impl FnMut(&[&str], String, String)) {
    let expected = &expectation.sent;
    if let Some(host) = expected.host.as_ref().filter(|host| ***host != *sent.authority) {
        differ(&["sent", "host"], format!("sent host `{host}`"), format!("it is `{}`", sent.authority));
    }
    if let Some(path) = expected.path.as_ref().filter(|path| ***path != *sent.target) {
        differ(&["sent", "path"], format!("sent path `{path}`"), format!("it is `{}`", sent.target));
    }
    for (name, pattern) in &expected.header {
        if let Some(found) = missing(Some(&sent.headers), name, pattern) {
            differ(&["sent", "header", name.as_str()], format!("sent header {}", wanted(name, pattern)), found);
        }
    }
    for (at, name) in expected.without.iter().enumerate() {
        if let Some(field) = sent.headers.iter().find(|field| *name == field.name.as_str()) {
            let found = format!("it is there, by {}", field.by);
            differ(&["sent", "without", &at.to_string()], format!("sent without `{name}`"), found);
        }
    }
}

/// What is there instead of a field; `None`: it is as wanted.
fn missing(fields: Option<&Vec<Field>>, name: &HeaderName, pattern: &ValuePattern) -> Option<String> {
    let fields = fields.into_iter().flatten();
    let values: Vec<&str> =
        fields.filter(|field| *name == field.name.as_str()).map(|field| field.value.as_str()).collect();
    if values.iter().any(|value| pattern.matches(value.as_bytes())) {
        return None;
    }
    Some(if values.is_empty() { "it is not there".to_owned() } else { format!("it is {}", quoted(&values)) })
}

/// A field as it is to be, in the way that it is written.
fn wanted(name: &HeaderName, pattern: &ValuePattern) -> String {
    match pattern {
        ValuePattern::Exact(text) => format!("`{name}: {text}`"),
        ValuePattern::Regex(regex) => format!("`{name}: ~ {regex}`"),
    }
}

/// What the client would get of the proxy itself; `None`: an endpoint answers.
fn status_of(told: &Explanation) -> Option<u16> {
    told.refusal.as_ref().and_then(|refusal| refusal.status).or(told.answer.as_ref().map(|answer| answer.status))
}

/// What becomes of it, in a few words.
fn outcome(told: &Explanation) -> String {
    match (&told.refusal, &told.answer) {
        (Some(refusal), _) => {
            let status = refusal.status.map_or_else(|| "not served, ".to_owned(), |status| format!("{status} "));
            format!("{status}{}: {}", refusal.outcome, refusal.reason)
        }
        (None, Some(answer)) => format!("answered with {} here", answer.status),
        (None, None) => {
            let names: Vec<&str> = told.upstreams.iter().map(|upstream| &*upstream.name).collect();
            format!("it goes to {}", quoted(&names))
        }
    }
}

fn quoted(names: &[&str]) -> String {
    format!("`{}`", names.join("`, `"))
}

fn fault(config: &Config, index: usize, expectation: &Expectation, told: &Explanation, found: Difference) -> Fault {
    let path: Vec<&str> = found.path.iter().map(String::as_str).collect();
    let asked = &expectation.asked;
    // What is no request has no method.
    let method = if asked.is_http() { format!("{} ", asked.method) } else { String::new() };
    let message = format!("{method}{} does not meet {}", asked.url, found.expected);
    let help = why(expectation, told, path[0]);
    config.written.fault(Owner::Expectation(index), &path, message, &found.found, help)
}

/// Why it came otherwise.
fn why(expectation: &Expectation, told: &Explanation, key: &str) -> Option<String> {
    let expected = expectation.route.as_deref().filter(|_| key == "route");
    if let Some(lost) = expected.and_then(|route| told.other_routes.iter().find(|lost| lost.name == route)) {
        let line = lost.at.as_ref().map_or_else(String::new, |at| format!(" ({}:{})", at.file, at.line));
        return Some(format!("route `{}`: {}{line}", lost.name, lost.why));
    }
    let at = told.refusal.as_ref().and_then(|refusal| refusal.at.as_ref());
    if let Some(at) = at {
        return Some(format!("refused by {}:{}", at.file, at.line));
    }
    let route = told.route.as_ref()?;
    let at = route.at.as_ref()?;
    Some(format!("route `{}` ({}:{}) takes it, {}", route.name, at.file, at.line, route.why))
}
