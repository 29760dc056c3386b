//! The log: `tracing` events as lines on stderr. A filter comes from `--log-level` or `TIDEGATE_LOG`; `cli` calls
//! [`init`] once, before any thread starts.

use std::fmt;
use std::io;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Which events become lines: a level for Tidegate's own, and levels for targets that are named.
///
/// Written `info`, or `debug,hyper=trace`. Libraries stay at `warn` unless they are named, so that `debug` shows what
/// Tidegate does and not every frame that h2 reads. Default: `info`.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    own: LevelFilter,
    named: Vec<(String, LevelFilter)>,
}

/// A filter that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is not a log level: write off, error, warn, info, debug or trace, or `debug,hyper=trace`")]
pub struct FilterError {
    /// The part that is wrong.
    pub word: String,
}

/// Starts the log on stderr; `colour` puts ANSI colours into it. A second call changes nothing.
pub fn init(filter: &Filter, colour: bool) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(colour)
        // The module is noise to an operator and the first question of whoever debugs.
        .with_target(filter.own > LevelFilter::INFO)
        // Reporting a failed write to stderr on stderr would panic when stderr is gone.
        .log_internal_errors(false);
    // Fails only where a subscriber is set already: then that one is meant.
    let _ = tracing_subscriber::registry().with(filter.targets()).with(lines).try_init();
}

impl Filter {
    /// Tidegate's own events from `level` up.
    pub fn level(level: LevelFilter) -> Self {
        Self { own: level, named: Vec::new() }
    }

    fn targets(&self) -> Targets {
        Targets::new()
            .with_default(self.own.min(LevelFilter::WARN))
            .with_target(env!("CARGO_PKG_NAME"), self.own)
            .with_targets(self.named.iter().cloned())
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::level(LevelFilter::INFO)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        for word in text.split(',').map(str::trim) {
            let wrong = || FilterError { word: word.to_owned() };
            match word.split_once('=') {
                None => filter.own = level(word).ok_or_else(wrong)?,
                Some((target, name)) if !target.is_empty() => {
                    filter.named.push((target.to_owned(), level(name).ok_or_else(wrong)?));
                }
                Some(_) => return Err(wrong()),
            }
        }
        Ok(filter)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.own)?;
        self.named.iter().try_for_each(|(target, level)| write!(f, ",{target}={level}"))
    }
}

/// `LevelFilter::from_str` also takes numbers and the empty text, which nobody means.
fn level(name: &str) -> Option<LevelFilter> {
    Some(match name {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_level_is_tidegates_own_and_libraries_stay_at_warn() {
        let targets = "debug".parse::<Filter>().unwrap().targets();
        assert!(targets.would_enable("tidegate::serve::worker", &Level::DEBUG));
        assert!(!targets.would_enable("tidegate::serve::worker", &Level::TRACE));
        assert!(targets.would_enable("hyper", &Level::WARN));
        assert!(!targets.would_enable("hyper", &Level::INFO));
    }

    #[test]
    fn a_quieter_level_than_warn_holds_for_libraries_too() {
        let targets = "error".parse::<Filter>().unwrap().targets();
        assert!(!targets.would_enable("hyper", &Level::WARN));
    }

    #[test]
    fn a_named_target_has_its_own_level() {
        let filter: Filter = "info, h2=trace".parse().unwrap();
        assert!(filter.targets().would_enable("h2::frame", &Level::TRACE));
        assert!(!filter.targets().would_enable("tidegate::app", &Level::DEBUG));
        assert_eq!(filter.to_string(), "info,h2=trace");
    }

    #[test]
    fn what_is_no_level_is_named_in_the_error() {
        for (text, word) in [("verbose", "verbose"), ("info,h2=loud", "h2=loud"), ("", ""), ("=info", "=info")] {
            assert_eq!(text.parse::<Filter>().unwrap_err(), FilterError { word: word.to_owned() });
        }
    }
}
