//! `tidegate run`: serves a configuration file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::config;

use super::{Exit, serving, terminal};

/// Arguments of `tidegate run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Configuration file [default: ./tidegate.toml, then /etc/tidegate/tidegate.toml]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The same, written as `check` takes it
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
}

impl Run {
    /// Serves until a signal.
    pub fn run(self) -> ExitCode {
        let Some(path) = self.config.or(self.file).or_else(find_configuration) else {
            terminal::print_error(&no_configuration("run --config FILE"));
            return Exit::Usage.into();
        };
        let config = match config::load(&path) {
            Ok(config) => config,
            Err(faults) => {
                serving::report(&faults);
                return Exit::Fault.into();
            }
        };
        match serving::start(config, Some(path)) {
            Ok(running) => serving::wait(running),
            Err(exit) => exit.into(),
        }
    }
}

/// The first of the two default files that exists.
pub fn find_configuration() -> Option<PathBuf> {
    SEARCH.iter().map(Path::new).find(|path| path.exists()).map(Path::to_owned)
}

/// The message for a missing configuration file; `usage` is the command line that names one.
pub fn no_configuration(usage: &str) -> String {
    format!(
        "tidegate: no configuration found: neither ./{} nor {} exists.\n  \
         Name a file with `tidegate {usage}`, or start without one: `tidegate demo` or `tidegate proxy --from :8080 --to \
         127.0.0.1:3000`.\n",
        SEARCH[0], SEARCH[1]
    )
}

const SEARCH: [&str; 2] = ["tidegate.toml", "/etc/tidegate/tidegate.toml"];
