//! Terminal output: colours only on a terminal, no failure on a closed pipe, errors in one format.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// ANSI colours, or nothing in their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Palette {
    is_coloured: bool,
}

impl Palette {
    /// For text on stdout.
    pub fn stdout() -> Self {
        Self { is_coloured: is_wanted(io::stdout().is_terminal()) }
    }

    /// For text on stderr.
    pub fn stderr() -> Self {
        Self { is_coloured: is_wanted(io::stderr().is_terminal()) }
    }

    /// For files, pipes and tests.
    #[cfg(test)]
    pub fn plain() -> Self {
        Self { is_coloured: false }
    }

    /// For tests of what a terminal shows.
    #[cfg(test)]
    pub fn colourful() -> Self {
        Self { is_coloured: true }
    }

    /// Whether colours are on.
    pub fn is_coloured(self) -> bool {
        self.is_coloured
    }

    /// What is most important.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What matters least.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// What went well.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// What may go wrong.
    pub fn warning(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// What went wrong.
    pub fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Columns of the terminal on stdout, as far as lines of text are good to read; [`WIDEST`] where it is none.
pub fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    // Some say that they have no columns at all.
    size.map(|size| size.ws_col)
        .ok()
        .filter(|columns| *columns > 0)
        .map_or(WIDEST, usize::from)
        .clamp(NARROWEST, WIDEST)
}

/// Columns that a text takes, colours apart.
pub fn columns(text: &str) -> usize {
    let mut parts = text.split('\x1b');
    let first = parts.next().map_or(0, |part| part.chars().count());
    let rest = parts.map(|part| part.split_once('m').map_or(0, |(_, rest)| rest.chars().count()));
    first + rest.sum::<usize>()
}

/// A text in lines of at most so many columns, where it has blanks to break it at.
pub fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut taken = 0;
    for word in text.split(' ') {
        let width = columns(word);
        let Some(line) = lines.last_mut() else { continue };
        if taken > 0 && taken + 1 + width > room {
            line.truncate(line.trim_end().len());
            lines.push(word.to_owned());
            taken = width;
        } else {
            if taken > 0 {
                line.push(' ');
                taken += 1;
            }
            line.push_str(word);
            taken += width;
        }
    }
    lines
}

/// Columns of a line of text at the most.
const WIDEST: usize = 100;
/// What a terminal is taken for that says it has less.
const NARROWEST: usize = 40;

/// Writes `text` to stdout. A reader that went away (`tidegate man | head`) is no error and no panic.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes `text` to stderr, whoever reads it.
pub fn print_error(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes `error: …` and, below it, what to do about it.
pub fn complain(what: impl Display, help: &str) {
    let colours = Palette::stderr();
    let help = if help.is_empty() { String::new() } else { format!("  = help: {help}\n") };
    print_error(&format!("{}: {what}\n{help}", colours.bad("error")));
}

/// <https://no-color.org>: set and not empty means no colours, whatever the value.
fn is_wanted(is_terminal: bool) -> bool {
    let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    is_terminal && !is_refused && !is_dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_broken_at_its_blanks() {
        assert_eq!(wrapped("one two three", 20), ["one two three"]);
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("one  two", 20), ["one  two"]);
        assert_eq!(wrapped("one  two", 5), ["one", "two"]);
        assert_eq!(wrapped("a-very-long-word b", 4), ["a-very-long-word", "b"]);
        assert_eq!(wrapped("", 4), [""]);
        let coloured = Palette::colourful().bad("one two");
        assert_eq!((columns(&coloured), wrapped(&coloured, 7).len(), wrapped(&coloured, 3).len()), (7, 1, 2));
        assert_eq!(columns("größer"), 6);
    }
}
