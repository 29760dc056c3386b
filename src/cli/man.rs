//! `tidegate man`: manual pages, generated from the definition of the command line. To stdout, or one page for each
//! command into a directory, for packages.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::{Cli, Exit, terminal};

/// Arguments of `tidegate man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Write tidegate.1 and one page for each command to this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Man {
    /// Prints or writes the pages.
    pub fn run(&self) -> Exit {
        let command = Cli::command();
        let Some(out) = &self.out else {
            let mut page = Vec::new();
            // A Vec takes every write.
            let _ = clap_mangen::Man::new(command).render(&mut page);
            terminal::print(&String::from_utf8_lossy(&page));
            return Exit::Done;
        };
        let written = std::fs::create_dir_all(out).and_then(|()| clap_mangen::generate_to(command, out));
        match written {
            Ok(()) => Exit::Done,
            Err(error) => {
                terminal::complain(format_args!("cannot write manual pages to {}: {error}", out.display()), "");
                Exit::System
            }
        }
    }
}
