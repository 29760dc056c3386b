//! `tidegate schema`: prints the JSON Schema of the configuration.

use clap::Args;

use crate::config::json_schema::json_schema;

use super::{Exit, terminal};

/// Arguments of `tidegate schema`.
#[derive(Debug, Args)]
pub struct Schema {}

impl Schema {
    /// Prints the schema.
    pub fn run(&self) -> Exit {
        terminal::print(&json_schema());
        Exit::Done
    }
}
