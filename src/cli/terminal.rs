//! What a person sees: colours only on a terminal, text that survives a closed pipe, errors in one shape.

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
