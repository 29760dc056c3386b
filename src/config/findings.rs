//! Faults while they are collected: with byte ranges, in the order of discovery. Sorted and converted to lines at the
//! end.

use super::diagnostic::{Fault, Faults};
use super::source::{Sources, Spot};

/// Faults that were found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Finding>,
    /// Statements are missing from the tree after a syntax error: what is absent may well be written.
    pub(crate) incomplete: bool,
    compared: usize,
}

/// One fault, under construction. Where nothing is said about a place, it belongs to the whole file.
#[derive(Debug)]
#[must_use]
pub(crate) struct Finding {
    message: String,
    spot: Spot,
    whole_file: bool,
    label: String,
    second: Option<(Spot, String)>,
    help: Option<String>,
}

impl Finding {
    pub(crate) fn new(spot: Spot, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { message: message.into(), spot, whole_file: false, label: label.into(), second: None, help: None }
    }

    /// A fault of a whole file, which marks none of its lines.
    pub(crate) fn of_file(file: u32, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { whole_file: true, ..Self::new(Spot::new(file, 0..0), message, label) }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn help_if(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    pub(crate) fn second(mut self, spot: Spot, label: impl Into<String>) -> Self {
        self.second = Some((spot, label.into()));
        self
    }
}

impl Findings {
    pub(crate) fn push(&mut self, finding: Finding) {
        self.list.push(finding);
    }

    /// Adds a fault about something that is not there, unless it may have been lost in a syntax error.
    pub(crate) fn push_absent(&mut self, finding: Finding) {
        if !self.incomplete {
            self.list.push(finding);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether a written word may be compared with so many known ones: a file with hundreds of faults needs no suggestion
    /// at each, and comparing every name with every other takes time.
    pub(crate) fn may_compare(&mut self, words: usize) -> bool {
        self.compared += words;
        self.compared <= COMPARISON_LIMIT
    }

    pub(crate) fn into_faults(mut self, sources: &Sources) -> Faults {
        self.list.sort_by_key(|finding| (finding.spot.file, finding.spot.start));
        let mut faults = Faults::new();
        for finding in self.list {
            let mut excerpt = sources.excerpt(finding.spot, &finding.label);
            if finding.whole_file {
                excerpt.line.clear();
            }
            let second = finding.second.map(|(spot, label)| sources.excerpt(spot, &label));
            faults.push(Fault { message: finding.message, excerpt: Some(excerpt), second, help: finding.help });
        }
        faults
    }
}

const COMPARISON_LIMIT: usize = 100_000;
