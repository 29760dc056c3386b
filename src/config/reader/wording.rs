//! The messages about unknown keys, wrong types and values out of range.

use toml::Spanned;
use toml::de::DeValue;

use super::Reader;
use crate::base::units;
use crate::config::findings::Finding;
use crate::config::schema::{Key, ROOT, Shape};
use crate::config::section::Data;
use crate::config::source::Spot;
use crate::config::suggest;

impl Reader<'_> {
    pub(super) fn bad_unit(
        &mut self,
        text: &str,
        what: &str,
        error: &units::UnitError,
        whole: &'static Shape,
        spot: Spot,
    ) -> Data {
        let known = if what == "size" {
            "sizes are written \"512B\", \"64KiB\", \"1MiB\", \"2GiB\""
        } else {
            "durations are written \"500ms\", \"30s\", \"5m\", \"1h\""
        };
        let known = match words(whole).next() {
            Some(word) => format!("{known}; or \"{word}\""),
            None => known.to_owned(),
        };
        let message = format!("bad {what} `{text}`");
        self.findings.push(Finding::new(spot, message, error.to_string()).help(known));
        Data::Bad
    }

    pub(super) fn out_of_range(&mut self, spot: Spot, min: String, max: String) -> Data {
        let message = format!("`{}` is out of range", self.here());
        self.findings.push(Finding::new(spot, message, format!("must be {min} to {max}")));
        Data::Bad
    }

    pub(super) fn near_word(&mut self, text: &str, whole: &'static Shape, spot: Spot) -> Data {
        let message = format!("unknown value `{text}` for `{}`", self.here());
        let label = format!("expected {}", whole.expected());
        let takes_number =
            matches!(whole, Shape::Either(shapes) if shapes.iter().any(|shape| matches!(shape, Shape::Count { .. })));
        let takes_flag =
            matches!(whole, Shape::Either(shapes) if shapes.iter().any(|shape| matches!(shape, Shape::Flag)));
        let help = if takes_flag && matches!(text, "true" | "false") {
            Some(format!("write `{text}` without quotes"))
        } else if takes_number && text.parse::<u64>().is_ok() {
            Some(format!("numbers are written without quotes: {text}"))
        } else {
            suggest::did_you_mean(text, words(whole))
        };
        self.findings.push(Finding::new(spot, message, label).help_if(help));
        Data::Bad
    }

    pub(super) fn wrong(&mut self, value: &Spanned<DeValue<'_>>, shape: &'static Shape, spot: Spot) -> Data {
        let kind = kind(value.get_ref());
        let text = self.text.get(value.span()).unwrap_or("").trim();
        let name = self.here();
        let help = match (shape, value.get_ref()) {
            (Shape::Tables(_), DeValue::Table(_)) => Some(format!("write `[[{name}]]`, with two brackets")),
            (Shape::Named(_), DeValue::Array(_)) => Some(format!("write `[{name}.NAME]`, with a name of your own")),
            (Shape::Table(_), DeValue::Array(items)) if items.first().is_some_and(|i| i.get_ref().is_table()) => {
                Some(format!("write `[{}]`, with single brackets", self.path.join(".")))
            }
            (Shape::Count { .. }, DeValue::String(text)) if text.parse::<u64>().is_ok() => {
                Some(format!("numbers are written without quotes: {text}"))
            }
            (Shape::Flag, DeValue::String(text)) if matches!(text.as_ref(), "true" | "false") => {
                Some(format!("write `{text}` without quotes"))
            }
            (shape, DeValue::Integer(number)) if shape.takes_any_string() => string_help(shape, number.as_str()),
            (Shape::OneOrMany(one), DeValue::Integer(number)) => string_help(one, number.as_str()),
            _ => None,
        };
        let found = if text.len() <= 20 && !text.contains('\n') && !text.is_empty() && kind != "a table" {
            format!("{kind} `{text}`")
        } else {
            kind.to_owned()
        };
        let finding = Finding::new(
            spot,
            format!("wrong kind of value for `{name}`"),
            format!("expected {}, found {found}", shape.expected()),
        );
        self.findings.push(finding.help_if(help));
        Data::Bad
    }

    pub(super) fn later(&mut self, spot: Spot, name: &str) {
        self.findings.push(Finding::new(spot, format!("`{name}` is not in this version"), "not in this version"));
    }

    pub(super) fn unknown_key(&mut self, written: &str, spot: Spot, keys: &'static [Key]) {
        let here = keys.iter().filter(|key| key.is_here());
        let mut help = suggest::did_you_mean(written, here.clone().map(|key| key.name));
        if help.is_none() && self.findings.may_compare(ROOT.len()) {
            help = home_of(written).map(|home| format!("`{written}` is a key of {home}"));
        }
        let help = help.unwrap_or_else(|| {
            let names: Vec<_> = here.map(|key| key.name).collect();
            format!("its keys are {}", names.join(", "))
        });
        let label = format!("not a key of {}", self.title(keys));
        self.findings.push(Finding::new(spot, format!("unknown key `{written}`"), label).help(help));
    }

    /// The name of the key that is read.
    pub(super) fn here(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    /// What the table is called whose keys are read.
    pub(super) fn title(&self, keys: &'static [Key]) -> String {
        if self.path.is_empty() {
            return "the file".into();
        }
        let repeats = ROOT.iter().any(|key| matches!(key.shape, Shape::Tables(table) if std::ptr::eq(table, keys)));
        if repeats { format!("[[{}]]", self.path.join(".")) } else { format!("[{}]", self.path.join(".")) }
    }
}

/// The words that may stand by themselves.
pub(super) fn words(shape: &'static Shape) -> Box<dyn Iterator<Item = &'static str>> {
    match shape {
        Shape::Word(word) => Box::new(std::iter::once(*word)),
        Shape::Choice { words, .. } => Box::new(words.iter().copied()),
        Shape::Either(shapes) => Box::new(shapes.iter().flat_map(words)),
        _ => Box::new(std::iter::empty()),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a flag",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn string_help(shape: &Shape, number: &str) -> Option<String> {
    match shape {
        // No unit makes sense of it.
        Shape::Duration { .. } | Shape::Size { .. } if number.starts_with('-') => None,
        Shape::Duration { .. } => Some(format!("write \"{number}s\" for seconds, \"{number}ms\" for milliseconds")),
        Shape::Size { .. } => Some(format!("write \"{number}B\" for bytes, \"{number}KiB\" for 1024 of them")),
        Shape::Text("an address") => Some(format!("write \":{number}\"")),
        Shape::Text(_) | Shape::Choice { .. } => Some(format!("write \"{number}\"")),
        Shape::Either(shapes) => shapes.iter().find_map(|shape| string_help(shape, number)),
        _ => None,
    }
}

/// The table that has a key of this name, for one that stands in the wrong table.
fn home_of(name: &str) -> Option<String> {
    pub(super) fn search(keys: &'static [Key], title: &str, name: &str, depth: u32) -> Option<String> {
        for key in keys.iter().filter(|key| key.is_here()) {
            if key.name == name && depth > 0 {
                return Some(format!("[{title}]"));
            }
        }
        keys.iter().find_map(|key| {
            let inner = key.shape.keys()?;
            let own = if matches!(key.shape, Shape::Named(_)) { ".NAME" } else { "" };
            let title =
                if title.is_empty() { format!("{}{own}", key.name) } else { format!("{title}.{}{own}", key.name) };
            search(inner, &title, name, depth + 1)
        })
    }
    search(ROOT, "", name, 0)
}
