//! `tidegate check`: reads, validates and compiles a configuration like `run`, without starting it.

use std::path::PathBuf;

use clap::Args;

use crate::config;
use crate::control::capacity;

use super::doctor::{how_to_keep, table};
use super::run::{find_configuration, no_configuration};
use super::terminal::Palette;
use super::{Exit, serving, terminal};

/// Arguments of `tidegate check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Configuration file [default: ./tidegate.toml, then /etc/tidegate/tidegate.toml]
    file: Option<PathBuf>,

    /// The same, written as `run` takes it
    #[arg(long, short, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
}

impl Check {
    /// Prints what the file would serve, or every fault of it.
    pub fn run(self) -> Exit {
        let Some(path) = self.file.or(self.config).or_else(find_configuration) else {
            terminal::print_error(&no_configuration("check FILE"));
            return Exit::Usage;
        };
        match config::load(&path).and_then(|config| serving::compile(&config).map(|()| config)) {
            Ok(config) => {
                terminal::print(&(config::summary(&config) + &expectations(&config) + &shortages(&config)));
                Exit::Done
            }
            Err(faults) => {
                serving::report(&faults);
                Exit::Fault
            }
        }
    }
}

/// How many of `[[expect]]` were tried; nothing where there are none. One that does not hold is a fault.
fn expectations(config: &config::Config) -> String {
    match config.expectations.len() {
        0 => String::new(),
        1 => "\n1 expectation holds\n".to_owned(),
        many => format!("\n{many} expectations hold\n"),
    }
}

/// What this system grants less of than the file asks for; nothing where all is well.
fn shortages(config: &config::Config) -> String {
    let findings = capacity::shortages(config);
    if findings.is_empty() {
        return String::new();
    }
    let title = Palette::stdout().bold("this system provides less than the configuration asks for");
    format!("\n{title}\n{}{}", table(&findings, Palette::stdout()), how_to_keep(&findings))
}
