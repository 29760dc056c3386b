//! `config/reference.toml`, generated from the schema: every key with its default, unit and cost.

use super::schema::{Fallback, Key, ROOT, Shape, Since};
use crate::base::units;

/// The text of `config/reference.toml`. It is a configuration that loads: keys with a default are written with it, keys
/// without one are comments with an example.
pub fn reference() -> String {
    let mut out = String::from(HEAD);
    for key in ROOT.iter().filter(|key| key.is_here() && key.shape.keys().is_none()) {
        entry(&mut out, key, "", true);
    }
    later(&mut out, ROOT, "the file");
    for key in ROOT.iter().filter(|key| key.is_here()) {
        if let Some(keys) = key.shape.keys() {
            let own = if matches!(key.shape, Shape::Named(_)) { ".app" } else { "" };
            table(&mut out, key, &format!("{}{own}", key.name), keys, true);
        }
    }
    out
}

fn table(out: &mut String, key: &Key, path: &str, keys: &'static [Key], live: bool) {
    // Lists of tables inside others are shown by their keys; their header would be a second value for the same key.
    let is_list = matches!(key.shape, Shape::Tables(_) | Shape::List(_) | Shape::OneOrMany(_));
    let live = live
        && (!is_list || matches!(key.shape, Shape::Tables(_)))
        && !matches!(key.fallback, Fallback::Told(_) if !matches!(key.shape, Shape::Named(_)));
    let live = live && !matches!(key.fallback, Fallback::Flag(_));
    out.push('\n');
    comment(out, key.doc);
    if let Fallback::Told(words) = key.fallback
        && !matches!(key.shape, Shape::Named(_))
    {
        comment(out, &format!("Default: {words}."));
    }
    if key.shape.keys().is_some() && is_list && !matches!(key.shape, Shape::Tables(_)) {
        comment(out, &format!("Or inline: `{} = {}`.", key.name, key.example));
    }
    let mark = if live { "" } else { "#" };
    let header = if is_list { format!("[[{path}]]") } else { format!("[{path}]") };
    out.push_str(&format!("{mark}{header}\n"));
    for inner in keys.iter().filter(|inner| inner.is_here() && inner.shape.keys().is_none()) {
        entry(out, inner, path, live);
    }
    // Written in the short form, so that the long one below may stay a comment.
    for inner in keys.iter().filter(|inner| inner.is_here() && inner.shape.keys().is_some()) {
        if matches!(inner.fallback, Fallback::Required | Fallback::Flag(_)) {
            entry(out, inner, path, live);
        }
    }
    later(out, keys, &header);
    for inner in keys.iter().filter(|inner| inner.is_here()) {
        if let Some(below) = inner.shape.keys() {
            table(out, inner, &format!("{path}.{}", inner.name), below, live);
        }
    }
}

fn entry(out: &mut String, key: &Key, table: &str, live: bool) {
    comment(out, key.doc);
    let value = key.fallback.toml();
    comment(out, &facts(key).join(" "));
    let example = if key.example.is_empty() { value.clone().unwrap_or_default() } else { key.example.to_owned() };
    // One action is enough for a route to load.
    let acts = table == "route" && key.name == "upstream";
    let stands = value.is_some() || matches!(key.fallback, Fallback::Required) || acts;
    let mark = if live && stands { "" } else { "#" };
    out.push_str(&format!("{mark}{} = {}\n", key.name, value.unwrap_or(example)));
}

/// The default, the allowed values and the cost of a key, a sentence each.
pub(super) fn facts(key: &Key) -> Vec<String> {
    let mut facts = Vec::new();
    match &key.fallback {
        Fallback::Required => facts.push("Required.".to_owned()),
        Fallback::Told(words) => facts.push(format!("Default: {words}.")),
        _ => {}
    }
    facts.extend(allowed(&key.shape).map(|words| sentence(&words)));
    facts.extend(not_yet(&key.shape).map(|words| format!("Not in this version: {words}.")));
    if !key.cost.is_empty() {
        facts.push(format!("Cost: {}.", key.cost));
    }
    facts
}

/// The allowed values in words, with units.
fn allowed(shape: &Shape) -> Option<String> {
    match shape {
        Shape::Flag => Some("true or false".into()),
        Shape::Count { min, max } if *max >= u64::from(u32::MAX) => Some(format!("a number from {min}")),
        Shape::Count { min, max } => Some(format!("a number from {min} to {max}")),
        Shape::Share => Some("a number above 0 and at most 1".into()),
        Shape::Duration { min, max } => {
            Some(format!("a duration from {} to {}", units::format_duration(*min), units::format_duration(*max)))
        }
        Shape::Size { max, .. } if *max > 1 << 40 => Some("a size".into()),
        Shape::Size { min, max } => {
            Some(format!("a size from {} to {}", units::format_size(*min), units::format_size(*max)))
        }
        Shape::Choice { words: [only], .. } => Some(format!("only \"{only}\"")),
        Shape::Choice { words, .. } => Some(format!("one of {}", quoted(words))),
        Shape::Word(word) => Some(format!("\"{word}\"")),
        Shape::Text(what) => Some((*what).into()),
        Shape::Either(shapes) => Some(shapes.iter().filter_map(allowed).collect::<Vec<_>>().join(" or ")),
        Shape::OneOrMany(inner) => Some(format!("{} or a list", allowed(inner)?)),
        Shape::Table(_) => Some("a table".into()),
        _ => None,
    }
}

fn not_yet(shape: &Shape) -> Option<String> {
    match shape {
        Shape::Choice { later: [], .. } => None,
        Shape::Choice { later, .. } => Some(quoted(later)),
        Shape::OneOrMany(inner) => not_yet(inner),
        _ => None,
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

fn sentence(words: &str) -> String {
    let mut characters = words.chars();
    let first = characters.next().map(|first| first.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}.", characters.as_str())
}

fn later(out: &mut String, keys: &'static [Key], title: &str) {
    let names: Vec<_> = keys.iter().filter(|key| key.since == Since::Later).map(|key| key.name).collect();
    if !names.is_empty() {
        comment(out, &format!("Not in this version, in {title}: {}.", names.join(", ")));
    }
}

/// A comment in lines of at most 100 characters.
fn comment(out: &mut String, text: &str) {
    let mut width = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if width == 0 || width + 1 + length > 100 {
            if width > 0 {
                out.push('\n');
            }
            out.push('#');
            width = 1;
        }
        out.push(' ');
        out.push_str(word);
        width += 1 + length;
    }
    if width > 0 {
        out.push('\n');
    }
}

const HEAD: &str = "\
#:schema ./schema.json
# Every key of Tidegate's configuration with its default, unit and cost.
# Made from the code by `UPDATE_REFERENCE=1 cargo test --test config`; do not edit.
#
# Keys that have a default are written with it; keys without one are comments (`#key = …`) with an example.
# Durations are \"500ms\", \"30s\", \"5m\", \"1h\", \"7d\"; sizes \"512B\", \"64KiB\", \"1MiB\", \"1GiB\". In strings, `${NAME}` and
# `${NAME:-default}` are replaced by environment variables; `$${` stands for a literal `${`.
# Placeholders in redirects, paths and headers: {scheme} {host} {port} {path} {query} {path_and_query}
# {rest} {client_ip} {request_id} {sni}; `{{` stands for a literal `{`.

";
