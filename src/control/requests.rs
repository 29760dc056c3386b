//! What the control thread is asked, and by whom: signals, the admin listener, a watch on the files, and programs that
//! embed the proxy all speak to it in these words.

use super::reload::{Refused, Report};
use crate::config::Config;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A signal to the process.
    Signal,
    /// Somebody at the admin listener.
    Admin,
    /// The files of the configuration changed.
    Watch,
    /// The program that this proxy is a part of.
    Embedder,
}

impl Trigger {
    /// The word for it in logs and in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Admin => "admin",
            Self::Watch => "watch",
            Self::Embedder => "embedder",
        }
    }
}

/// What is asked.
pub enum Request {
    /// Put this configuration in force.
    Reload(Box<Config>, Trigger, Answer),
    /// Read the file again and put it in force.
    ReloadFile(Trigger, Answer),
    /// Take no new work, after `drain_delay`, finish what is under way, leave. Asked again, the delay is over.
    Drain(Trigger),
    /// As `Drain` without the delay; asked again, leave now.
    Interrupt,
    /// Leave now.
    Stop,
}

/// Where the end of a reload is told: its report, or why nothing has changed.
pub struct Answer(Box<dyn FnOnce(Result<Report, Refused>) + Send>);

impl Answer {
    /// Tells it to `told`, on the control thread.
    pub fn to(told: impl FnOnce(Result<Report, Refused>) + Send + 'static) -> Self {
        Self(Box::new(told))
    }

    /// For those who read the log instead.
    pub fn nobody() -> Self {
        Self::to(drop)
    }

    /// Tells it.
    pub fn give(self, result: Result<Report, Refused>) {
        (self.0)(result);
    }
}
