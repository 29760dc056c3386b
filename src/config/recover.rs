//! Finds all TOML syntax faults (sans-io). The parser continues after most faults. If it stops, or swallows what
//! follows, the statement is blanked out and the text parsed again, so that one missing bracket does not hide further
//! faults.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use toml::de::{DeTable, DeValue, Error};

use super::findings::{Finding, Findings};
use super::source::Spot;

/// A text that can be read, though not everything in it was TOML.
pub(crate) struct Recovered<'a> {
    /// As long as the original; statements that broke the parser are overwritten.
    pub(crate) text: Cow<'a, str>,
    /// Where syntax faults are, in order: values here mean nothing.
    pub(crate) broken: Vec<Range<usize>>,
}

/// Finds the syntax faults of a text.
pub(crate) fn recover<'a>(file: u32, text: &'a str, findings: &mut Findings) -> Recovered<'a> {
    let mut recovery = Recovery {
        file,
        original: text,
        findings,
        text: Cow::Borrowed(text),
        broken: Vec::new(),
        seen: BTreeSet::new(),
    };
    if !(0..ROUNDS).any(|_| !recovery.round()) {
        recovery.findings.incomplete = true;
    }
    let Recovery { text, mut broken, .. } = recovery;
    broken.sort_by_key(|range| range.start);
    Recovered { text, broken }
}

struct Recovery<'a, 'f> {
    file: u32,
    original: &'a str,
    findings: &'f mut Findings,
    text: Cow<'a, str>,
    broken: Vec<Range<usize>>,
    /// Beginnings of lines that have their fault: what follows on a line is usually its echo.
    seen: BTreeSet<usize>,
}

/// What a syntax fault does to the text behind it.
enum Damage {
    /// Nothing: the parser went on behind this line.
    None,
    /// A value reaches over several lines, perhaps because it is not closed.
    Value(Range<usize>),
    /// A header was not closed, or a line is no statement at all.
    Line,
}

impl Recovery<'_, '_> {
    /// Parses once; whether the text was changed and must be parsed again.
    fn round(&mut self) -> bool {
        let text = self.text.clone();
        let (tree, mut errors) = DeTable::parse_recoverable(&text);
        if errors.is_empty() {
            return false;
        }
        errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
        let mut extent = Extent::default();
        extent.table(tree.get_ref(), &text);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let span = span.start.min(text.len())..span.end.min(text.len());
            // The crate tells kinds apart by their text alone.
            if error.message().starts_with("duplicate key") {
                self.duplicate(span);
                continue;
            }
            let damage = self.damage(&extent, span.start);
            match damage {
                Damage::None => self.report(&error, span),
                Damage::Value(value) => {
                    self.close_value(&error, span, value);
                    return true;
                }
                Damage::Line => {
                    self.report(&error, span.clone());
                    self.blank_line(span.start);
                    return true;
                }
            }
        }
        false
    }

    fn damage(&self, extent: &Extent, at: usize) -> Damage {
        if extent.headers.iter().any(|header| header.contains(&at)) {
            return Damage::Line;
        }
        let long = extent.long_values.iter().filter(|value| value.start <= at && at <= value.end);
        if let Some(value) = long.min_by_key(|value| value.start) {
            return Damage::Value(value.clone());
        }
        let stopped = at >= extent.reach && self.text[line_end(&self.text, at)..].lines().any(is_statement);
        if stopped { Damage::Line } else { Damage::None }
    }

    fn report(&mut self, error: &Error, span: Range<usize>) {
        let line = line_range(self.original, span.start);
        self.broken.push(line.clone());
        if !self.seen.insert(line.start) {
            return;
        }
        let marked = self.original.get(span.clone()).unwrap_or("");
        let before = self.original[line.start..span.start].trim_end();
        if before.ends_with(['=', ',', '[']) && marked.starts_with(|c: char| c.is_alphabetic() || "/:*~.".contains(c)) {
            let spot = Spot::new(self.file, span);
            let help = format!("write `\"{}\"`", marked.trim());
            self.findings.push(Finding::new(spot, "strings need quotes", "no quotes here").help(help));
            return;
        }
        let (message, label) = match error.message().split_once(", expected ") {
            Some((message, "nothing")) => (message, String::new()),
            Some((message, expected)) => (message, format!("expected {expected}")),
            None => (error.message(), String::new()),
        };
        self.findings.push(Finding::new(Spot::new(self.file, span), format!("not TOML: {message}"), label));
    }

    fn duplicate(&mut self, span: Range<usize>) {
        let line = line_range(self.original, span.start);
        if !self.seen.insert(line.start) {
            return;
        }
        let name = &self.original[span.clone()];
        let spot = Spot::new(self.file, span.clone());
        let mut finding = Finding::new(spot, format!("`{name}` is defined twice"), "the second one");
        if self.seen.len() < DUPLICATES_SHOWN
            && let Some(first) = self.first_definition(&line, name)
        {
            finding = finding.second(Spot::new(self.file, first), "first defined here");
        }
        self.findings.push(finding);
    }

    /// Where a name that is defined again stood first, found in the text: the parser does not say.
    fn first_definition(&self, again: &Range<usize>, name: &str) -> Option<Range<usize>> {
        let line = self.original[again.clone()].trim();
        let mut end = again.start;
        let mut found = None;
        for earlier in self.original[..again.start].split_inclusive('\n').rev() {
            let start = end - earlier.len();
            end = start;
            let text = earlier.trim();
            if line.starts_with('[') {
                if text.trim_matches(['[', ']']) == line.trim_matches(['[', ']']) {
                    found = Some(start);
                    break;
                }
            } else if text.starts_with('[') {
                break;
            } else if text.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with(['=', '.'])) {
                found = Some(start);
            }
        }
        let start = found?;
        let offset = self.original[start..].find(name)?;
        Some(start + offset..start + offset + name.len())
    }

    fn close_value(&mut self, error: &Error, span: Range<usize>, value: Range<usize>) {
        let text = self.text.clone();
        let is_list = text[value.start..].starts_with('[');
        let first_end = line_end(&text, value.start);
        let mut stop = value.end;
        let mut at = first_end;
        while at < value.end {
            let end = line_end(&text, at);
            let line = &text[at..end];
            if is_header(line) || is_list && is_assignment(line) {
                stop = at;
                break;
            }
            at = end;
        }
        let first_line = value.start..value.start + text[value.start..first_end].trim_end().len();
        if stop < value.end {
            let spot = Spot::new(self.file, first_line);
            let line = text[..stop].matches('\n').count() + 1;
            self.findings.push(Finding::new(
                spot,
                "not TOML: a value is never closed",
                format!("not closed before line {line}"),
            ));
            self.broken.push(value.start..stop);
        } else {
            self.report(error, span);
            self.broken.push(value.clone());
        }
        if !is_list {
            self.findings.incomplete = true;
        }
        self.overwrite(value.start..stop, "0");
    }

    /// Takes a line out that the parser does not get over. A key without its `=` keeps its name, so that it is not
    /// missed; a header takes its table along, so that the keys do not fall into the table before.
    fn blank_line(&mut self, at: usize) {
        let text = self.text.clone();
        let line = line_range(&text, at);
        let statement = text[line.clone()].trim_start();
        let start = line.end - statement.len();
        let key = statement.len() - statement.trim_start_matches(is_key).len();
        if statement.starts_with('[') {
            let mut stop = line_end(&text, line.end);
            while stop < text.len() && !text[stop..].trim_start_matches([' ', '\t']).starts_with('[') {
                stop = line_end(&text, stop);
            }
            self.broken.push(line.start..stop);
            self.findings.incomplete = true;
            self.overwrite(line.start..stop, "");
        } else if key > 0 && statement.len() >= key + 2 {
            self.overwrite(start + key..line.end, "=0");
        } else {
            self.findings.incomplete = true;
            self.overwrite(line, "");
        }
    }

    /// Puts `with` at the beginning of a range and blanks the rest, line ends excepted.
    fn overwrite(&mut self, range: Range<usize>, with: &str) {
        let text = self.text.to_mut();
        let mut fresh = String::with_capacity(range.len());
        for (index, byte) in text[range.clone()].bytes().enumerate() {
            fresh.push(match with.as_bytes().get(index) {
                Some(put) => char::from(*put),
                None if byte == b'\n' => '\n',
                None => ' ',
            });
        }
        text.replace_range(range, &fresh);
    }
}

/// How far the parser came, and what in its tree reaches over several lines.
#[derive(Default)]
struct Extent {
    reach: usize,
    headers: Vec<Range<usize>>,
    long_values: Vec<Range<usize>>,
}

impl Extent {
    fn table(&mut self, table: &DeTable<'_>, text: &str) {
        for (key, value) in table.iter() {
            self.reach = self.reach.max(key.span().end);
            self.value(value.get_ref(), value.span(), text);
        }
    }

    fn value(&mut self, value: &DeValue<'_>, span: Range<usize>, text: &str) {
        self.reach = self.reach.max(span.end);
        let is_long = text.get(span.clone()).is_some_and(|text| text.contains('\n'));
        let opens = text[span.start.min(text.len())..].chars().next();
        match value {
            DeValue::Table(table) => {
                if is_long {
                    let list = if opens == Some('[') { &mut self.headers } else { &mut self.long_values };
                    list.push(span);
                }
                self.table(table, text);
            }
            DeValue::Array(items) => {
                let of_tables = items.first().is_some_and(|item| item.span() == span);
                if is_long && !of_tables {
                    self.long_values.push(span);
                }
                for item in items.iter() {
                    self.value(item.get_ref(), item.span(), text);
                }
            }
            _ if is_long => self.long_values.push(span),
            _ => {}
        }
    }
}

/// The line around an offset, without its end.
fn line_range(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
    start..end
}

/// The offset behind the end of the line around an offset.
fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |end| at + end + 1)
}

fn is_statement(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

fn is_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

fn is_assignment(line: &str) -> bool {
    let line = line.trim_start();
    let rest = line.trim_start_matches(is_key);
    rest.len() < line.len() && rest.trim_start().starts_with('=')
}

/// A header, closed or not: no list of ours has a line that begins with a bracket and a letter.
fn is_header(line: &str) -> bool {
    let line = line.trim_start();
    let name = line.trim_start_matches('[');
    let quoted = name.starts_with('"') && line.trim_end().ends_with(']') && !line.contains(',');
    line.starts_with('[') && (name.starts_with(|c: char| c.is_ascii_alphabetic()) || quoted)
}

/// Statements that break the parser and are taken out one by one; a file with more is not a file with slips.
const ROUNDS: usize = 64;
/// Each looks through the text before it.
const DUPLICATES_SHOWN: usize = 50;
