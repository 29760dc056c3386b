//! `tidegate status`: shows the state of the running process, as text or, with `--json`, as JSON.

mod text;

use clap::Args;

use crate::control::admin::status::Status as Shown;

use super::Exit;
use super::admin::Target;
use super::terminal::{self, Palette};

/// Arguments of `tidegate status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Print everything as JSON; docs/openapi.json describes the fields
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: Target,
}

impl Status {
    /// Prints it.
    pub fn run(self) -> Exit {
        self.ask().unwrap_or_else(|exit| exit)
    }

    fn ask(self) -> Result<Exit, Exit> {
        let answer = self.target.find("status")?.ask("GET", "/status", None)?;
        if answer.status != 200 {
            return Err(answer.complain());
        }
        if self.json {
            terminal::print(&String::from_utf8_lossy(&answer.body));
        } else {
            let status: Shown = answer.read()?;
            terminal::print(&text::render(&status, Palette::stdout()));
        }
        Ok(Exit::Done)
    }
}
