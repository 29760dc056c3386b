//! `tidegate reload`: makes the running process reload its configuration.

use clap::Args;

use crate::control::admin::orders::{ReloadRefused, Reloaded};

use super::admin::Target;
use super::{Exit, terminal};

/// Arguments of `tidegate reload`.
#[derive(Debug, Args)]
pub struct Reload {
    #[command(flatten)]
    target: Target,
}

impl Reload {
    /// Prints what changed, or every fault; then nothing has changed.
    pub fn run(self) -> Exit {
        self.ask().unwrap_or_else(|exit| exit)
    }

    fn ask(self) -> Result<Exit, Exit> {
        let answer = self.target.find("reload")?.ask("POST", "/reload", None)?;
        match answer.status {
            200 => {
                let reloaded: Reloaded = answer.read()?;
                terminal::print(&text(&reloaded));
                Ok(Exit::Done)
            }
            422 => {
                let refused: ReloadRefused = answer.read()?;
                terminal::print_error(&format!("{}\n\n{}\n", refused.detail.trim_end(), told(&refused)));
                Ok(Exit::Fault)
            }
            _ => Err(answer.complain()),
        }
    }
}

fn text(reloaded: &Reloaded) -> String {
    let Reloaded { generation, listeners, routes, upstreams, changes } = reloaded;
    let mut text = format!(
        "generation {generation} is in force: {}, {}, {}\n",
        count(*listeners, "listener"),
        count(*routes, "route"),
        count(*upstreams, "upstream")
    );
    changes.iter().for_each(|change| text += &format!("  {change}\n"));
    text
}

fn told(refused: &ReloadRefused) -> String {
    let faults = match refused.faults.len() {
        0 => String::new(),
        many => format!("{}; ", count(many, "fault")),
    };
    format!("{faults}nothing was changed")
}

fn count(number: usize, word: &str) -> String {
    if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") }
}
