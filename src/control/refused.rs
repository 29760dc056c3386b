//! Why a configuration was rejected, for the log and the requester.

use std::io;

use crate::config::Faults;
use crate::net::bind::BindError;

/// Why a configuration was not put in force. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The configuration is at fault.
    #[error("{0}")]
    Faults(Faults),
    /// Addresses cannot be listened on.
    #[error("{}", one_per_line(.0))]
    Bind(Vec<BindError>),
    /// The system has no thread, no descriptor or no signal for us.
    #[error("system error: {0}")]
    System(#[from] io::Error),
    /// There is no file to read again.
    #[error("this proxy was started without a configuration file")]
    NoFile,
    /// The process is on its way out.
    #[error("the process is stopping")]
    Leaving,
}

impl Refused {
    /// Whether the configuration is to blame, and not the system.
    pub fn is_fault_of_configuration(&self) -> bool {
        matches!(self, Self::Faults(_))
    }
}

impl Refused {
    /// In one line: the first of several faults, and how many more there are.
    pub fn summary(&self) -> String {
        let more = |count: usize| if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        match self {
            Self::Faults(faults) => {
                let first = faults.iter().next().map_or_else(String::new, |fault| match &fault.excerpt {
                    Some(excerpt) => format!("{}:{}: {}", excerpt.place.file, excerpt.place.line, fault.message),
                    None => fault.message.clone(),
                });
                first + &more(faults.len())
            }
            Self::Bind(errors) => errors.first().map_or_else(String::new, ToString::to_string) + &more(errors.len()),
            other => other.to_string(),
        }
    }
}

impl From<Faults> for Refused {
    fn from(faults: Faults) -> Self {
        Self::Faults(faults)
    }
}

fn one_per_line(errors: &[BindError]) -> String {
    errors
        .iter()
        .map(|error| {
            let mut told = match error.help() {
                Some(help) => format!("{error} ({help})"),
                None => error.to_string(),
            };
            // What stands on the command line is in front of whoever reads this.
            if let Some(place) = error.place.as_ref().filter(|place| !place.file.starts_with('<')) {
                told.push_str(&format!("\n --> {}:{}:{}", place.file, place.line, place.column));
            }
            told
        })
        .collect::<Vec<_>>()
        .join("\n")
}
