//! From a file to the checked model; builds no runtime object.
//! `load` reads a file and what it includes, `parse` reads a text; both report every fault at once.

pub mod defaults;
pub mod diagnostic;
pub mod model;
pub mod schema;
pub mod source;
pub mod summary;
pub mod validate;

use std::path::Path;

pub use diagnostic::{Fault, Faults};
pub use model::{Config, Place};
pub use summary::summary;

/// Reads a configuration file and the files it includes.
///
/// # Errors
/// Every fault of the files, or the one reason why a file could not be read.
pub fn load(path: &Path) -> Result<Config, Faults> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&path.display().to_string(), &text),
        Err(error) => {
            let mut faults = Faults::new();
            faults.push_plain(format!("cannot read {}: {error}", path.display()), None);
            Err(faults)
        }
    }
}

/// Reads a configuration from a text; `name` is what its faults call it. Relative paths are taken from the working
/// directory.
///
/// # Errors
/// Every fault of the text.
pub fn parse(name: &str, text: &str) -> Result<Config, Faults> {
    validate::validate(name, text)
}
