//! From a file to the validated model; builds no runtime objects. `load` reads a file and its includes, `parse` reads a
//! text; both report all faults at once.

mod condition;
pub mod defaults;
pub mod diagnostic;
pub mod effective;
mod environment;
mod findings;
mod include;
pub mod json_schema;
pub mod model;
pub mod outcomes;
mod reader;
mod recover;
pub mod reference;
pub mod schema;
mod section;
mod source;
mod suggest;
pub mod summary;
mod validate;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

pub use diagnostic::{Fault, Faults};
pub use include::is_named_by;
pub use model::{Config, Place};
pub use summary::summary;
pub use validate::match_text;

use effective::Effective;
use environment::Lookup;
use findings::{Finding, Findings};
use section::{Node, Section};
use source::{Sources, TEXT_LIMIT};

/// Reads a configuration file and the files it includes.
///
/// # Errors
/// Every fault of the files, or the one reason why the main file could not be read.
pub fn load(path: &Path) -> Result<Config, Faults> {
    read(path).result
}

/// Where the process that serves a file is told what to do: `[server.admin]` of it, whatever else is wrong with it by now.
///
/// # Errors
/// Every fault of the files, where none of it could be found.
pub fn load_admin(path: &Path) -> Result<Option<model::ControlListener>, Faults> {
    let text = read_text(path).map_err(|reason| unreadable(path, &reason))?;
    let mut loading = Loading::new(&environment);
    loading.seen.insert(std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()));
    loading.read(&path.display().to_string(), path.parent().unwrap_or(Path::new("")), &text);
    let config = validate::validate(&loading.sources, &loading.sections, loading.files, &mut loading.findings);
    match config.server.admin {
        None if !loading.findings.is_empty() => Err(loading.findings.into_faults(&loading.sources)),
        admin => Ok(admin),
    }
}

/// What came of reading a configuration, faulty or not, and what it depends on.
#[derive(Debug)]
pub struct Reading {
    /// As [`load`] gives it.
    pub result: Result<Config, Faults>,
    /// Every file that was asked for, the main one first; one that is not there may come.
    pub files: Vec<PathBuf>,
    /// Directories that patterns were looked for in, each with the pattern of names there: [`is_named_by`].
    pub searched: Vec<(PathBuf, String)>,
}

/// As [`load`], for those who want to know of the next change.
pub fn read(path: &Path) -> Reading {
    let mut loading = Loading::new(&environment);
    loading.asked.push(path.to_owned());
    let result = match read_text(path) {
        Ok(text) => {
            loading.seen.insert(std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()));
            loading.files.push(path.to_owned());
            let directory = path.parent().unwrap_or(Path::new(""));
            loading.read(&path.display().to_string(), directory, &text);
            None
        }
        Err(reason) => Some(unreadable(path, &reason)),
    };
    let (files, searched) = (std::mem::take(&mut loading.asked), std::mem::take(&mut loading.searched));
    Reading { result: result.map_or_else(|| loading.finish(), Err), files, searched }
}

/// Reads a configuration from a text; `name` is what its faults call it. Relative paths are taken from the working
/// directory, variables from the environment of the process.
///
/// # Errors
/// Every fault of the text.
pub fn parse(name: &str, text: &str) -> Result<Config, Faults> {
    parse_with(name, text, &environment)
}

/// The same with an environment of the caller's.
///
/// # Errors
/// Every fault of the text.
pub fn parse_with(name: &str, text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Config, Faults> {
    let mut loading = Loading::new(lookup);
    if text.len() > TEXT_LIMIT {
        let mut faults = Faults::new();
        faults.push_plain(format!("{name} is too large"), None);
        return Err(faults);
    }
    loading.read(name, Path::new(""), text);
    loading.finish()
}

/// The texts while they are read, the main one first, each before those that it includes.
struct Loading<'a> {
    lookup: Lookup<'a>,
    sources: Sources,
    sections: Vec<Section>,
    findings: Findings,
    files: Vec<PathBuf>,
    /// Read or not.
    asked: Vec<PathBuf>,
    searched: Vec<(PathBuf, String)>,
    /// Canonical, so that a file that is named twice is read once.
    seen: HashSet<PathBuf>,
}

impl<'a> Loading<'a> {
    fn new(lookup: Lookup<'a>) -> Self {
        Self {
            lookup,
            sources: Sources::default(),
            sections: Vec::new(),
            findings: Findings::default(),
            files: Vec::new(),
            asked: Vec::new(),
            searched: Vec::new(),
            seen: HashSet::new(),
        }
    }

    fn read(&mut self, name: &str, directory: &Path, text: &str) {
        let file = self.sources.add(name, directory, text);
        let section = reader::read(file, text, self.lookup, &mut self.findings);
        let included: Vec<PathBuf> =
            section.list("include").iter().flat_map(|node| self.included(node, directory)).collect();
        self.sections.push(section);
        for path in included {
            // `included` has read permission checked by reading; what changed since is the system's word.
            match read_text(&path) {
                Ok(text) => {
                    let directory = path.parent().unwrap_or(Path::new("")).to_owned();
                    self.files.push(path.clone());
                    self.read(&path.display().to_string(), &directory, &text);
                }
                Err(reason) => {
                    let message = format!("cannot read {}: {reason}", path.display());
                    self.findings.push(Finding::of_file(file, message, "included by this file"));
                }
            }
        }
    }

    /// The files that one pattern brings and that were not read before.
    fn included(&mut self, node: &Node, directory: &Path) -> Vec<PathBuf> {
        let Some(written) = node.written() else { return Vec::new() };
        let found = match include::expand(directory, written.value, &mut self.searched) {
            Ok(found) => found,
            Err(error) => {
                let message = format!("cannot look for `{}`: {error}", written.value);
                self.findings.push(Finding::new(written.spot, message, "cannot be read"));
                return Vec::new();
            }
        };
        let mut fresh = Vec::new();
        for path in found {
            self.asked.push(path.clone());
            match std::fs::canonicalize(&path) {
                Ok(canonical) => {
                    if self.seen.insert(canonical) {
                        fresh.push(path);
                    }
                }
                Err(error) => {
                    let message = format!("cannot read {}: {error}", path.display());
                    self.findings.push(Finding::new(written.spot, message, "no such file"));
                }
            }
        }
        fresh
    }

    fn finish(mut self) -> Result<Config, Faults> {
        let mut config = validate::validate(&self.sources, &self.sections, self.files, &mut self.findings);
        if !self.findings.is_empty() {
            return Err(self.findings.into_faults(&self.sources));
        }
        config.written = Effective::new(self.sections, self.sources);
        Ok(config)
    }
}

fn unreadable(path: &Path, reason: &str) -> Faults {
    let mut faults = Faults::new();
    faults.push_plain(format!("cannot read {}: {reason}", path.display()), None);
    faults
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    if bytes.len() > TEXT_LIMIT {
        return Err("it is too large".into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8")
    })
}
