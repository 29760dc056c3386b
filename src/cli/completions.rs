//! `tidegate completions SHELL`: prints a completion script, generated from the definition of the command line.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Exit, terminal};

/// Arguments of `tidegate completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// Shell to generate the script for
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub fn run(&self) -> Exit {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tidegate", &mut script);
        terminal::print(&String::from_utf8_lossy(&script));
        Exit::Done
    }
}
