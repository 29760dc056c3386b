//! The first pass over a file's TOML tree. It reports every unknown key, wrong type and value out of range, and returns
//! the rest in the form of the schema.

mod wording;

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::environment::{self, Lookup};
use super::findings::{Finding, Findings};
use super::recover::{self, Recovered};
use super::schema::{Fallback, Key, ROOT, Shape, Since};
use super::section::{Data, Entry, Name, Node, Pair, Section, Text};
use super::source::Spot;
use crate::base::units;
use wording::words;

/// Reads one text.
pub(crate) fn read(file: u32, text: &str, lookup: Lookup<'_>, findings: &mut Findings) -> Section {
    let Recovered { text: readable, broken } = recover::recover(file, text, findings);
    let (tree, _) = DeTable::parse_recoverable(&readable);
    let mut reader = Reader { file, text, broken, lookup, findings, path: Vec::new() };
    reader.section(tree.get_ref(), ROOT, 0..0)
}

struct Reader<'a> {
    file: u32,
    text: &'a str,
    broken: Vec<Range<usize>>,
    lookup: Lookup<'a>,
    findings: &'a mut Findings,
    /// The names of the tables around what is read.
    path: Vec<String>,
}

impl Reader<'_> {
    fn section(&mut self, table: &DeTable<'_>, keys: &'static [Key], span: Range<usize>) -> Section {
        let mut entries = Vec::with_capacity(table.len());
        for (name, value) in in_order(table) {
            let spot = self.spot(name.span());
            match keys.iter().find(|key| key.name == name.get_ref().as_ref()) {
                Some(key) => match key.since {
                    Since::Version(_) => {
                        self.path.push(key.name.to_owned());
                        let node = self.node(value, &key.shape);
                        self.path.pop();
                        entries.push(Entry { key, name: spot, node });
                    }
                    Since::Later => self.later(spot, key.name),
                    Since::Never(why) => {
                        let message = format!("`{}` has no effect in {}", key.name, self.title(keys));
                        self.findings.push(Finding::new(spot, message, why));
                    }
                },
                None if self.is_broken(&name.span()) => {}
                None => self.unknown_key(name.get_ref(), spot, keys),
            }
        }
        let section = Section { spot: self.spot(span), entries };
        // What the root must have may stand in another file.
        if !self.path.is_empty() {
            self.required(&section, keys);
        }
        section
    }

    fn required(&mut self, section: &Section, keys: &'static [Key]) {
        for key in keys.iter().filter(|key| matches!(key.fallback, Fallback::Required)) {
            if !section.has(key.name) {
                let message = format!("`{}` is missing", key.name);
                let label = format!("{} without `{}`", self.title(keys), key.name);
                let finding = Finding::new(section.spot, message, label);
                self.findings.push_absent(finding.help(format!("write `{} = {}`", key.name, key.example)));
            }
        }
    }

    fn node(&mut self, value: &Spanned<DeValue<'_>>, shape: &'static Shape) -> Node {
        let spot = self.spot(value.span());
        // A header may have a fault behind it and its table none.
        let has_header = value.get_ref().is_table() && self.text[spot.start as usize..].starts_with('[');
        let data = if self.is_broken(&value.span()) && !has_header { Data::Bad } else { self.data(value, shape, spot) };
        Node { spot, data }
    }

    fn data(&mut self, value: &Spanned<DeValue<'_>>, shape: &'static Shape, spot: Spot) -> Data {
        match (shape, value.get_ref()) {
            (Shape::Flag, DeValue::Boolean(flag)) => Data::Flag(*flag),
            (Shape::Count { min, max }, DeValue::Integer(number)) => self.count(number, *min, *max, spot),
            (Shape::Share, DeValue::Float(number)) => self.share(number.as_str(), spot),
            (Shape::Share, DeValue::Integer(number)) => self.share(number.as_str(), spot),
            (Shape::Either(shapes), DeValue::String(text)) => {
                let exact = shapes.iter().find(|shape| matches!(shape, Shape::Word(word) if word == text));
                let open = || shapes.iter().find(|shape| shape.takes_any_string() && !matches!(shape, Shape::Word(_)));
                match exact.or_else(open) {
                    Some(inner) => self.string(text, inner, shape, spot),
                    None => self.near_word(text, shape, spot),
                }
            }
            (Shape::Either(shapes), other) => match shapes.iter().find(|shape| shape.takes(other)) {
                Some(inner) => self.data(value, inner, spot),
                None => self.wrong(value, shape, spot),
            },
            (Shape::OneOrMany(one) | Shape::List(one), DeValue::Array(items)) => {
                Data::List(items.iter().map(|item| self.node(item, one)).collect())
            }
            (Shape::OneOrMany(one), _) => Data::List(vec![self.node(value, one)]),
            (Shape::Map(inner), DeValue::Table(table)) => Data::Map(self.pairs(table, inner)),
            (Shape::Table(keys), DeValue::Table(table)) => Data::Section(self.section(table, keys, value.span())),
            (Shape::Tables(keys), DeValue::Array(items)) => self.tables(items, keys),
            // Its keys are checked all the same.
            (Shape::Tables(keys), DeValue::Table(table)) => {
                self.wrong(value, shape, spot);
                Data::Sections(vec![self.section(table, keys, value.span())])
            }
            (Shape::Named(keys), DeValue::Table(table)) => self.named(table, keys),
            (shape, DeValue::String(text)) if shape.takes_any_string() => self.string(text, shape, shape, spot),
            _ => self.wrong(value, shape, spot),
        }
    }

    fn pairs(&mut self, table: &DeTable<'_>, inner: &'static Shape) -> Vec<Pair> {
        let mut pairs = Vec::with_capacity(table.len());
        for (name, value) in in_order(table) {
            let spot = self.spot(name.span());
            self.path.push(name.get_ref().to_string());
            let node = self.node(value, inner);
            self.path.pop();
            pairs.push(Pair { name: Name { value: name.get_ref().to_string(), spot }, node });
        }
        pairs
    }

    fn tables(&mut self, items: &[Spanned<DeValue<'_>>], keys: &'static [Key]) -> Data {
        let mut sections = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::Table(table) => sections.push(self.section(table, keys, item.span())),
                _ if self.is_broken(&item.span()) => {}
                _ => {
                    let spot = self.spot(item.span());
                    self.wrong(item, &Shape::Table(&[]), spot);
                }
            }
        }
        Data::Sections(sections)
    }

    fn named(&mut self, table: &DeTable<'_>, keys: &'static [Key]) -> Data {
        let mut sections = Vec::with_capacity(table.len());
        for (name, value) in in_order(table) {
            let spot = self.spot(name.span());
            self.path.push(name.get_ref().to_string());
            match value.get_ref() {
                DeValue::Table(table) => {
                    let section = self.section(table, keys, value.span());
                    sections.push((Name { value: name.get_ref().to_string(), spot }, section));
                }
                _ if self.is_broken(&value.span()) => {}
                _ => {
                    let root = self.path[0].clone();
                    let message = format!("`{}` is not a table", name.get_ref());
                    let label = format!("expected a table [{root}.NAME]");
                    let help = format!("write `[{root}.NAME]` above the keys, with a name of your own");
                    self.findings.push(Finding::new(spot, message, label).help(help));
                }
            }
            self.path.pop();
        }
        Data::Named(sections)
    }

    fn count(&mut self, number: &DeInteger<'_>, min: u64, max: u64, spot: Spot) -> Data {
        let digits = number.as_str().replace('_', "");
        match u64::from_str_radix(digits.trim_start_matches('+'), number.radix()) {
            Ok(count) if (min..=max).contains(&count) => Data::Count(count),
            _ => {
                let message = format!("`{}` is out of range", self.here());
                self.findings.push(Finding::new(spot, message, format!("must be {min} to {max}")));
                Data::Bad
            }
        }
    }

    fn share(&mut self, digits: &str, spot: Spot) -> Data {
        match digits.replace('_', "").parse::<f64>() {
            Ok(share) if share > 0.0 && share <= 1.0 => Data::Share(share),
            _ => {
                let message = format!("`{}` is out of range", self.here());
                self.findings.push(Finding::new(spot, message, "must be above 0 and at most 1"));
                Data::Bad
            }
        }
    }

    /// A string for one shape; `whole` is all that may stand here, for what is said about a fault.
    fn string(&mut self, written: &str, shape: &'static Shape, whole: &'static Shape, spot: Spot) -> Data {
        let Some(text) = self.expand(written, spot) else {
            return Data::Bad;
        };
        let word = words(whole).find(|word| *word == text.value);
        match (shape, word) {
            (Shape::Word(_) | Shape::Choice { .. }, Some(word)) => Data::Word(word),
            // A variable may say "off".
            (Shape::Duration { .. } | Shape::Size { .. } | Shape::Text(_), Some(word)) => Data::Word(word),
            (Shape::Choice { later, .. }, None) if later.contains(&text.value.as_str()) => {
                self.later(spot, &text.value);
                Data::Bad
            }
            (Shape::Duration { min, max }, None) => match units::parse_duration(&text.value) {
                Ok(duration) if (*min..=*max).contains(&duration) => Data::Duration(duration),
                Ok(_) => self.out_of_range(spot, units::format_duration(*min), units::format_duration(*max)),
                Err(error) => self.bad_unit(&text.value, "duration", &error, whole, spot),
            },
            (Shape::Size { min, max }, None) => match units::parse_size(&text.value) {
                Ok(bytes) if (*min..=*max).contains(&bytes) => Data::Size(bytes),
                Ok(_) => self.out_of_range(spot, units::format_size(*min), units::format_size(*max)),
                Err(error) => self.bad_unit(&text.value, "size", &error, whole, spot),
            },
            (Shape::Text(_), None) => Data::Text(text),
            _ => self.near_word(&text.value, whole, spot),
        }
    }

    fn expand(&mut self, written: &str, spot: Spot) -> Option<Text> {
        let source = &self.text[spot.start as usize..spot.end as usize];
        let inside = source.strip_prefix(['"', '\'']).and_then(|rest| rest.strip_suffix(['"', '\'']));
        let verbatim = inside == Some(written);
        match environment::expand(written, self.lookup) {
            Ok(value) => Some(Text {
                verbatim: verbatim && value == written,
                unexpanded: (value != written).then(|| written.into()),
                value: value.into_owned(),
            }),
            Err(unset) => {
                for fault in unset {
                    let range = fault.range.start + 1..fault.range.end + 1;
                    let place = if verbatim { spot.part(range) } else { spot };
                    self.findings.push(Finding::new(place, fault.message, fault.label).help(fault.help));
                }
                None
            }
        }
    }

    fn spot(&self, span: Range<usize>) -> Spot {
        let end = span.end.min(self.text.len());
        Spot::new(self.file, span.start.min(end)..end)
    }

    fn is_broken(&self, span: &Range<usize>) -> bool {
        let reaches = self.broken.partition_point(|range| range.start <= span.end);
        self.broken[..reaches].iter().rev().take(BROKEN_LOOKED_AT).any(|range| span.start <= range.end)
    }
}

impl Shape {
    fn takes_any_string(&self) -> bool {
        matches!(
            self,
            Shape::Duration { .. } | Shape::Size { .. } | Shape::Text(_) | Shape::Choice { .. } | Shape::Word(_)
        )
    }

    fn takes(&self, value: &DeValue<'_>) -> bool {
        match value {
            DeValue::Boolean(_) => matches!(self, Shape::Flag),
            DeValue::Integer(_) => matches!(self, Shape::Count { .. }),
            DeValue::Table(_) => matches!(self, Shape::Table(_) | Shape::Map(_)),
            DeValue::Array(_) => matches!(self, Shape::List(_) | Shape::OneOrMany(_)),
            _ => false,
        }
    }
}

/// The entries of a table as the file has them: the parser sorts them by name.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t Spanned<toml::de::DeString<'i>>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

/// Broken ranges overlap only where one lies in another; looking back over a few finds the one that counts.
const BROKEN_LOOKED_AT: usize = 4;
