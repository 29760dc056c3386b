//! `tidegate check`: read, validate and compile a configuration as `run` would, and stop there.

use std::path::PathBuf;

use clap::Args;

use crate::config;

use super::run::{find_configuration, no_configuration};
use super::{Exit, serving, terminal};

/// Arguments of `tidegate check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The configuration [default: ./tidegate.toml, then /etc/tidegate/tidegate.toml]
    file: Option<PathBuf>,
}

impl Check {
    /// Prints what the file would serve, or every fault of it.
    pub fn run(self) -> Exit {
        let Some(path) = self.file.or_else(find_configuration) else {
            terminal::print_error(&no_configuration("check FILE"));
            return Exit::Usage;
        };
        match config::load(&path).and_then(|config| serving::compile(&config).map(|()| config)) {
            Ok(config) => {
                terminal::print(&config::summary(&config));
                Exit::Done
            }
            Err(faults) => {
                serving::report(&faults);
                Exit::Fault
            }
        }
    }
}
