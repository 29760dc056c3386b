//! Faults of a configuration, collected and printed like a compiler's: line, column, marker, label, help. The reader
//! and `validate` collect them; `control::compile` adds those found in the files that a configuration refers to.

use std::fmt::{self, Write as _};
use std::path::Path;

use super::model::Place;

/// Every fault found, in the order of the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    list: Vec<Fault>,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, without a period at its end.
    pub message: String,
    /// Where, and what is written there; `None` for what has no place.
    pub excerpt: Option<Excerpt>,
    /// Another place that explains the first, such as the first definition of a name.
    pub second: Option<Excerpt>,
    /// What to do about it.
    pub help: Option<String>,
}

/// A marked piece of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Where it begins.
    pub place: Place,
    /// The line, or what is shown of a long one; empty where it cannot be shown.
    pub line: String,
    /// Characters of `line` before the caret.
    pub offset: u32,
    /// Characters under the caret, at least 1.
    pub width: u32,
    /// What stands beside the caret; may be empty.
    pub label: String,
}

impl Faults {
    /// No fault yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The faults in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.list.iter()
    }

    /// Adds one.
    pub fn push(&mut self, fault: Fault) {
        self.list.push(fault);
    }

    /// Adds one that has no place in a file, such as a file that cannot be read.
    pub fn push_plain(&mut self, message: impl Into<String>, help: Option<String>) {
        self.push(Fault { message: message.into(), excerpt: None, second: None, help });
    }

    /// Adds one at a place of a configuration that was read before. The line is read from the file again; where that
    /// fails, only the place is printed.
    pub fn push_at(
        &mut self,
        place: &Place,
        message: impl Into<String>,
        label: impl Into<String>,
        help: Option<String>,
    ) {
        let line = line_of(Path::new(&*place.file), place.line).unwrap_or_default();
        let width = token_width(&line, place.column);
        let at = line.char_indices().nth(place.column.max(1) as usize - 1).map_or(line.len(), |(at, _)| at);
        let excerpt = Excerpt::new(place.clone(), &line, at, width, label.into());
        self.push(Fault { message: message.into(), excerpt: Some(excerpt), second: None, help });
    }

    /// Takes over the faults of another.
    pub fn append(&mut self, mut other: Faults) {
        self.list.append(&mut other.list);
    }

    /// The text for a person: one block for each fault, an empty line between them. `colour` adds ANSI escapes.
    pub fn render(&self, colour: bool) -> String {
        let paint = Paint { colour };
        let mut out = String::new();
        for (index, fault) in self.list.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            render_fault(&mut out, fault, paint);
        }
        out
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Faults {}

fn render_fault(out: &mut String, fault: &Fault, paint: Paint) {
    let _ = writeln!(out, "{}: {}", paint.error("error"), paint.bold(&printable(&fault.message)));
    let numbers = [&fault.excerpt, &fault.second].into_iter().flatten().map(|excerpt| excerpt.place.line);
    let gutter = numbers.max().unwrap_or(0).to_string().len();
    if let Some(excerpt) = &fault.excerpt {
        render_excerpt(out, excerpt, gutter, "-->", paint);
    }
    if let Some(second) = &fault.second {
        render_excerpt(out, second, gutter, ":::", paint);
    }
    if let Some(help) = &fault.help {
        let indent = if fault.excerpt.is_some() { gutter + 1 } else { 1 };
        let _ = writeln!(out, "{:indent$}{} {}: {}", "", paint.frame("="), paint.bold("help"), printable(help));
    }
}

fn render_excerpt(out: &mut String, excerpt: &Excerpt, gutter: usize, arrow: &str, paint: Paint) {
    let Excerpt { place, line, offset, width, label } = excerpt;
    let _ = writeln!(out, "{:gutter$}{} {}:{}:{}", "", paint.frame(arrow), place.file, place.line, place.column);
    let label = printable(label);
    if line.is_empty() {
        if !label.is_empty() {
            let _ = writeln!(out, "{:gutter$} {} {}", "", paint.frame("="), label);
        }
        return;
    }
    let bar = paint.frame("|");
    let _ = writeln!(out, "{:gutter$} {bar}", "");
    let number = paint.frame(&format!("{:>gutter$}", place.line));
    let _ = writeln!(out, "{number} {bar} {}", printable(line).trim_end());
    // Tabs stay tabs, so that the mark stands under what it marks.
    let indent: String = line.chars().take(*offset as usize).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let marks = if arrow == "-->" { "^" } else { "-" }.repeat(*width as usize);
    let marks = if label.is_empty() { marks } else { format!("{marks} {label}") };
    let marks = if arrow == "-->" { paint.error(&marks) } else { paint.frame(&marks) };
    let _ = writeln!(out, "{:gutter$} {bar} {indent}{marks}", "");
}

impl Excerpt {
    /// Marks `width` characters of a line from a byte offset on. Of a line of a megabyte only the surroundings are kept.
    pub(crate) fn new(place: Place, line: &str, at: usize, width: u32, label: String) -> Self {
        let at = at.min(line.len());
        let before = line[..at].char_indices().rev().nth(LINE_LIMIT - 1).map_or(0, |(start, _)| start);
        let behind = line[at..].char_indices().nth(LINE_LIMIT).map_or(line.len(), |(end, _)| at + end);
        let mut shown = String::from(if before > 0 { "…" } else { "" });
        shown.push_str(&line[before..at]);
        let offset = shown.chars().count() as u32;
        shown.push_str(&line[at..behind]);
        if behind < line.len() {
            shown.push('…');
        }
        let room = line[at..behind].chars().count() as u32;
        Self { place, line: shown, offset, width: width.clamp(1, room.max(1)), label }
    }
}

/// What stands in a file must not move the cursor of whoever reads the fault.
fn visible(character: char) -> char {
    match character {
        '\t' => '\t',
        // The bidirectional controls make a line look like another.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        other if other.is_control() => char::REPLACEMENT_CHARACTER,
        other => other,
    }
}

fn printable(text: &str) -> String {
    text.chars().map(visible).collect()
}

fn line_of(path: &Path, line: u32) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().nth(line.checked_sub(1)? as usize).map(str::to_owned)
}

/// Characters of what begins at a column: a string, a bracketed value that ends on the line, or a word.
fn token_width(line: &str, column: u32) -> u32 {
    let rest: Vec<char> = line.chars().skip(column.max(1) as usize - 1).collect();
    let end = match rest.first() {
        Some(quote @ ('"' | '\'')) => rest.iter().skip(1).position(|c| c == quote).map(|at| at + 2),
        Some('{') => rest.iter().position(|c| *c == '}').map(|at| at + 1),
        Some('[') => rest.iter().rposition(|c| *c == ']').map(|at| at + 1),
        _ => rest.iter().position(|c| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))),
    };
    end.unwrap_or(rest.len()).max(1) as u32
}

#[derive(Clone, Copy)]
struct Paint {
    colour: bool,
}

impl Paint {
    fn error(self, text: &str) -> String {
        self.wrap("\x1b[1;31m", text)
    }

    fn frame(self, text: &str) -> String {
        self.wrap("\x1b[1;34m", text)
    }

    fn bold(self, text: &str) -> String {
        self.wrap("\x1b[1m", text)
    }

    fn wrap(self, escape: &str, text: &str) -> String {
        if self.colour { format!("{escape}{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Characters of a line shown on either side of the place.
const LINE_LIMIT: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(line: u32, column: u32, text: &str, width: u32, label: &str) -> Excerpt {
        let place = Place { file: "tidegate.toml".into(), line, column };
        let at = text.char_indices().nth(column as usize - 1).map_or(text.len(), |(at, _)| at);
        Excerpt::new(place, text, at, width, label.into())
    }

    fn faults(fault: Fault) -> Faults {
        Faults { list: vec![fault] }
    }

    #[test]
    fn prints_the_shape_of_a_compiler() {
        let fault = Fault {
            message: "unknown upstream `ap`".into(),
            excerpt: Some(excerpt(12, 12, "upstream = \"ap\"", 4, "no [upstream.ap] in this file")),
            second: None,
            help: Some("did you mean `api`?".into()),
        };
        let expected = "\
error: unknown upstream `ap`
  --> tidegate.toml:12:12
   |
12 | upstream = \"ap\"
   |            ^^^^ no [upstream.ap] in this file
   = help: did you mean `api`?
";
        assert_eq!(faults(fault.clone()).render(false), expected);
        assert!(faults(fault).render(true).contains("\x1b[1;31merror\x1b[0m"));
    }

    #[test]
    fn points_to_a_second_place() {
        let fault = Fault {
            message: "twice".into(),
            excerpt: Some(excerpt(100, 1, "a = 1", 1, "again")),
            second: Some(excerpt(3, 1, "a = 0", 1, "first here")),
            help: None,
        };
        let expected = "\
error: twice
   --> tidegate.toml:100:1
    |
100 | a = 1
    | ^ again
   ::: tidegate.toml:3:1
    |
  3 | a = 0
    | - first here
";
        assert_eq!(faults(fault).render(false), expected);
    }

    #[test]
    fn keeps_tabs_and_hides_control_characters() {
        let fault = Fault {
            message: "m".into(),
            excerpt: Some(excerpt(1, 3, "\t\u{1b}x", 1, "here")),
            second: None,
            help: None,
        };
        let text = faults(fault).render(false);
        assert!(text.contains("\n1 | \t\u{fffd}x\n  | \t ^ here\n"), "{text}");
    }

    #[test]
    fn cuts_a_line_of_a_megabyte() {
        let line = "x".repeat(1 << 20);
        let fault = Fault {
            message: "m".into(),
            excerpt: Some(excerpt(1, 500_001, &line, 9, "here")),
            second: None,
            help: None,
        };
        assert!(faults(fault).render(false).len() < 2000);
    }

    #[test]
    fn a_place_without_its_file_prints_no_line() {
        let mut faults = Faults::new();
        let place = Place { file: "<command line>".into(), line: 1, column: 1 };
        faults.push_at(&place, "m", "label", None);
        assert_eq!(faults.render(false), "error: m\n --> <command line>:1:1\n  = label\n");
        assert_eq!(faults.len(), 1);
    }

    #[test]
    fn finds_what_a_place_covers() {
        assert_eq!(token_width("a = \"bc\" # x", 5), 4);
        assert_eq!(token_width("a = { b = 1 }, c", 5), 9);
        assert_eq!(token_width("[[listener]]", 1), 12);
        assert_eq!(token_width("workers = 3", 1), 7);
        assert_eq!(token_width("", 7), 1);
    }
}
