//! The configuration in force as TOML, for the admin listener: one text, even if it came from several files, with all
//! defaults filled in. Secrets are not shown: values from the environment appear as the variable, and values of names
//! such as `authorization` are masked.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::diagnostic::Fault;
use super::model::Place;
use super::schema::{Fallback, Key, ROOT, Shape};
use super::section::{Data, Node, Pair, Section, Text};
use super::source::{Sources, Spot};
use super::validate::{ANSWERS, FORWARDING_ONLY, HELLO, without_effect};
use crate::base::units::{format_duration, format_size};

/// The configuration as it was written. It is no part of what a configuration means: any two are equal.
#[derive(Clone, Default)]
pub struct Effective(Arc<Written>);

#[derive(Default)]
struct Written {
    sections: Vec<Section>,
    /// It remembers the column that it counted last, and whoever asks for a place waits for nobody who asks for another.
    sources: Mutex<Sources>,
}

/// A table of a configuration, to ask where something in it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// `[server]`.
    Server,
    /// `[[listener]]`, by its place in the model.
    Listener(usize),
    /// `[[route]]`, likewise.
    Route(usize),
    /// `[upstream.NAME]`.
    Upstream(&'a str),
    /// `[[expect]]`, by its place in the model.
    Expectation(usize),
}

impl Effective {
    pub(crate) fn new(sections: Vec<Section>, sources: Sources) -> Self {
        Self(Arc::new(Written { sections, sources: Mutex::new(sources) }))
    }

    /// Where a key is written: `path` leads to it from its table, through tables, maps, and lists by number; an empty one is
    /// the table itself. `None`: it is not written, and its default holds.
    pub fn place(&self, owner: Owner<'_>, path: &[&str]) -> Option<Place> {
        let (key, _) = self.spots(owner, path)?;
        Some(self.0.sources.lock().unwrap_or_else(PoisonError::into_inner).place(key))
    }

    /// A fault at the value that [`place`](Self::place) finds, or else at the table.
    pub fn fault(&self, owner: Owner<'_>, path: &[&str], message: String, label: &str, help: Option<String>) -> Fault {
        let spots = self.spots(owner, path).or_else(|| self.spots(owner, &[]));
        let sources = self.0.sources.lock().unwrap_or_else(PoisonError::into_inner);
        Fault { message, excerpt: spots.map(|(_, value)| sources.excerpt(value, label)), second: None, help }
    }

    /// What is shown of a value in its place, where it is not for everybody: it has the name of a secret, or came from the
    /// environment.
    pub fn concealed(&self, owner: Owner<'_>, path: &[&str]) -> Option<&'static str> {
        let node = self.node(owner, path)?;
        let is_expanded = matches!(&node.data, Data::Text(Text { unexpanded: Some(_), .. }));
        (is_expanded || path.last().is_some_and(|name| is_secret(name))).then_some(MASK)
    }

    /// Where a key and its value are written.
    fn spots(&self, owner: Owner<'_>, path: &[&str]) -> Option<(Spot, Spot)> {
        let section = self.section(owner)?;
        if path.is_empty() {
            return Some((section.spot, section.spot));
        }
        within(section, path).map(|(key, node)| (key, node.spot))
    }

    fn node(&self, owner: Owner<'_>, path: &[&str]) -> Option<&Node> {
        within(self.section(owner)?, path).map(|(_, node)| node)
    }

    fn section(&self, owner: Owner<'_>) -> Option<&Section> {
        let sections = || self.0.sections.iter();
        match owner {
            Owner::Server => sections().find_map(|section| section.section("server")),
            Owner::Listener(at) => sections().flat_map(|section| section.sections("listener")).nth(at),
            Owner::Route(at) => sections().flat_map(|section| section.sections("route")).nth(at),
            Owner::Expectation(at) => sections().flat_map(|section| section.sections("expect")).nth(at),
            Owner::Upstream(name) => sections()
                .flat_map(|section| section.named("upstream"))
                .find_map(|(own, section)| (own.value == name).then_some(section)),
        }
    }

    /// The text; it is a configuration that means the same, where no secret had to be masked.
    pub fn toml(&self) -> String {
        let mut out = String::from(HEAD);
        for key in ROOT.iter().filter(|key| key.is_here() && key.name != "include") {
            let nodes = self.0.sections.iter().filter_map(|section| section.node(key.name));
            match key.shape {
                Shape::Table(keys) => {
                    let written = nodes.into_iter().find_map(|node| match &node.data {
                        Data::Section(section) => Some(section),
                        _ => None,
                    });
                    if written.is_some() || matches!(key.fallback, Fallback::Table) {
                        table(&mut out, &format!("[{}]", key.name), key.name, keys, written, &[]);
                    }
                }
                Shape::Tables(keys) => {
                    for section in self.0.sections.iter().flat_map(|section| section.sections(key.name)) {
                        let silent = if key.name == "listener" { silent(section) } else { Vec::new() };
                        table(&mut out, &format!("[[{}]]", key.name), key.name, keys, Some(section), &silent);
                    }
                }
                Shape::Named(keys) => {
                    let mut named: Vec<_> =
                        self.0.sections.iter().flat_map(|section| section.named(key.name)).collect();
                    named.sort_by_key(|(name, _)| &name.value);
                    for (name, section) in named {
                        let path = format!("{}.{}", key.name, key_text(&name.value));
                        table(&mut out, &format!("[{path}]"), &path, keys, Some(section), &[]);
                    }
                }
                _ => {
                    for node in nodes {
                        out.push_str(&format!("{} = {}\n", key.name, value(key.name, node)));
                    }
                }
            }
        }
        out
    }
}

impl PartialEq for Effective {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Effective")
    }
}

/// The value at the end of a path, and its key.
fn within<'s>(section: &'s Section, path: &[&str]) -> Option<(Spot, &'s Node)> {
    let (first, rest) = path.split_first()?;
    section.entry(first).and_then(|entry| inside(entry.name, &entry.node, rest))
}

fn inside<'s>(key: Spot, node: &'s Node, path: &[&str]) -> Option<(Spot, &'s Node)> {
    let Some((first, rest)) = path.split_first() else { return Some((key, node)) };
    match &node.data {
        Data::Section(section) => within(section, path),
        // Names of headers are written in any case.
        Data::Map(pairs) => pairs
            .iter()
            .find(|pair| pair.name.value.eq_ignore_ascii_case(first))
            .and_then(|pair| inside(pair.name.spot, &pair.node, rest)),
        Data::List(nodes) => nodes.get(first.parse::<usize>().ok()?).and_then(|node| inside(node.spot, node, rest)),
        _ => None,
    }
}

/// The keys of a listener whose defaults say nothing in its mode, each with its table.
fn silent(listener: &Section) -> Vec<(&'static str, &'static str)> {
    let mode = listener.word("mode").unwrap_or("http");
    let mut silent = without_effect(mode, HELLO.iter().any(|key| listener.has(key)));
    if mode == "forward" {
        // There the default is another.
        silent.push(("forwarding", "x_forwarded"));
    }
    if matches!(mode, "tcp" | "tls-passthrough") {
        // There the upstream's `stream_idle` is the default.
        silent.push(("timeouts", "idle"));
    }
    silent
}

/// One table: its own values first, then the tables in it. Defaults of what is `silent` are left out.
fn table(
    out: &mut String,
    header: &str,
    path: &str,
    keys: &'static [Key],
    written: Option<&Section>,
    silent: &[(&str, &'static str)],
) {
    out.push_str(&format!("\n{header}\n"));
    let answers = written.is_some_and(|section| ANSWERS.iter().any(|answer| section.has(answer)));
    let is_written = |key: &Key| written.is_some_and(|section| section.has(key.name));
    let has_effect = |key: &Key| {
        let is_silent = silent.contains(&("", key.name)) && !is_written(key);
        !is_silent && (!answers || !FORWARDING_ONLY.contains(&key.name))
    };
    let keys = || keys.iter().filter(|key| key.is_here() && has_effect(key));
    for key in keys() {
        match written.and_then(|section| section.node(key.name)) {
            Some(Node { data: Data::Section(_), .. }) => {}
            Some(node) => out.push_str(&format!("{} = {}\n", key.name, value(key.name, node))),
            None if matches!(key.fallback, Fallback::Table) => {}
            None => match (key.fallback.toml(), key.fallback) {
                (Some(default), _) => out.push_str(&format!("{} = {default}\n", key.name)),
                (None, Fallback::Told(words)) => out.push_str(&format!("# {}: {words}\n", key.name)),
                (None, _) => {}
            },
        }
    }
    for key in keys() {
        let Some(inner) = key.shape.keys() else { continue };
        let path = format!("{path}.{}", key.name);
        let silent: Vec<_> = silent.iter().filter(|(table, _)| *table == key.name).map(|(_, key)| ("", *key)).collect();
        match written.and_then(|section| section.node(key.name)) {
            Some(Node { data: Data::Section(section), .. }) => {
                table(out, &format!("[{path}]"), &path, inner, Some(section), &silent);
            }
            None if matches!(key.fallback, Fallback::Table) => {
                table(out, &format!("[{path}]"), &path, inner, None, &silent);
            }
            _ => {}
        }
    }
}

/// A value as TOML; `name` says what it is, and so whether it may be shown.
fn value(name: &str, node: &Node) -> String {
    match &node.data {
        // A configuration with faults is never in force.
        Data::Bad => "\"\"".to_owned(),
        Data::Word(word) => quoted(word),
        Data::Flag(flag) => flag.to_string(),
        Data::Count(count) => count.to_string(),
        // With its point, which TOML wants too.
        Data::Share(share) => format!("{share:?}"),
        Data::Duration(duration) => quoted(&format_duration(*duration)),
        Data::Size(bytes) => quoted(&format_size(*bytes)),
        Data::Text(text) => shown(name, text),
        Data::List(nodes) => {
            format!("[{}]", nodes.iter().map(|node| value(name, node)).collect::<Vec<_>>().join(", "))
        }
        Data::Map(pairs) => inline(pairs.iter().map(|Pair { name, node }| (name.value.as_str(), node))),
        Data::Section(section) => inline(section.entries.iter().map(|entry| (entry.key.name, &entry.node))),
        Data::Sections(sections) => {
            let tables = sections
                .iter()
                .map(|section| inline(section.entries.iter().map(|entry| (entry.key.name, &entry.node))))
                .collect::<Vec<_>>();
            format!("[{}]", tables.join(", "))
        }
        Data::Named(named) => {
            let tables = named.iter().map(|(name, section)| {
                let entries = section.entries.iter().map(|entry| (entry.key.name, &entry.node));
                format!("{} = {}", key_text(&name.value), inline(entries))
            });
            format!("{{ {} }}", tables.collect::<Vec<_>>().join(", "))
        }
    }
}

fn inline<'a>(entries: impl Iterator<Item = (&'a str, &'a Node)>) -> String {
    let entries: Vec<_> = entries.map(|(name, node)| format!("{} = {}", key_text(name), value(name, node))).collect();
    if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
}

fn shown(name: &str, text: &Text) -> String {
    match &text.unexpanded {
        Some(written) => quoted(written),
        None if is_secret(name) => quoted(MASK),
        None => quoted(&text.value),
    }
}

/// Whether what stands under this name is better not shown. Files are: their names tell nothing.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !name.ends_with("_file") && SECRETS.iter().any(|secret| name.contains(secret))
}

fn key_text(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if bare { name.to_owned() } else { quoted(name) }
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(control))),
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}

/// Parts of names of headers and parameters that hold secrets.
const SECRETS: [&str; 9] =
    ["authorization", "cookie", "token", "secret", "password", "passwd", "api-key", "api_key", "apikey"];
const MASK: &str = "(masked)";

const HEAD: &str = "\
# The configuration in force, with every default. Secrets are masked; `${NAME}` is shown as it was written.
";

#[cfg(test)]
mod tests {
    use crate::config;

    fn effective(text: &str) -> String {
        let lookup = |name: &str| (name == "TOKEN").then(|| "hunter2".to_owned());
        config::parse_with("test.toml", text, &lookup).unwrap_or_else(|faults| panic!("{faults}")).written.toml()
    }

    const SITE: &str = "[[listener]]\nname = \"web\"\nbind = \":8080\"\nlimits.max_headers = 7\n\
         [[route]]\nhost = [\"a.example\", \"b.example\"]\nupstream = \"app\"\nheader = { x-y = \"~ \\\\d\" }\n\
         request_headers.set = { authorization = \"Bearer ${TOKEN}\", x-api-key = \"abc\", x-kind = \"open\" }\n\
         [upstream.app]\nendpoints = [{ address = \"10.0.0.1:80\", weight = 2 }, \"10.0.0.2:80\"]\ntls = true\n";

    #[test]
    fn fills_in_defaults_and_says_what_is_off() {
        let shown = effective(SITE);
        for line in
            ["drain_timeout = \"30s\"", "[listener.limits]", "max_headers = 7", "[upstream.app.pool]", "tls = true"]
        {
            assert!(shown.contains(line), "{line}\n{shown}");
        }
        assert!(shown.contains("# trusted_proxies: none"), "{shown}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = effective(SITE);
        assert!(!shown.contains("hunter2") && !shown.contains("abc"), "{shown}");
        assert!(shown.contains("authorization = \"Bearer ${TOKEN}\""), "{shown}");
        assert!(shown.contains("x-api-key = \"(masked)\"") && shown.contains("x-kind = \"open\""), "{shown}");
    }

    #[test]
    fn every_character_survives() {
        let text = SITE.replace("open", "a\\\"b\\\\cd");
        let shown = effective(&text);
        assert!(shown.contains("x-kind = \"a\\\"b\\\\cd\""), "{shown}");
    }
}
