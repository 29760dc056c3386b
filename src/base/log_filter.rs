//! The filter of the process's own log (sans-io): `[server.log] level`, `--log-level`, `PUT /log-level`.

use std::fmt;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;

/// Which events become lines: a level for Tidegate's own, and levels for targets that are named.
///
/// Written `info`, or `debug,hyper=trace`. Libraries stay at `warn` unless they are named, so that `debug` shows what
/// Tidegate does and not every frame that h2 reads. Default: `info`.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// For Tidegate's own events.
    pub own: LevelFilter,
    /// For targets by the beginning of their names.
    pub named: Vec<(String, LevelFilter)>,
}

/// A filter that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is not a log level: use off, error, warn, info, debug or trace, or `debug,hyper=trace`")]
pub struct FilterError {
    /// The part that is wrong.
    pub word: String,
}

impl Filter {
    /// Tidegate's own events from `level` up.
    pub fn level(level: LevelFilter) -> Self {
        Self { own: level, named: Vec::new() }
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
    use super::*;

    #[test]
    fn what_is_no_level_is_named_in_the_error() {
        for (text, word) in [("verbose", "verbose"), ("info,h2=loud", "h2=loud"), ("", ""), ("=info", "=info")] {
            assert_eq!(text.parse::<Filter>().unwrap_err(), FilterError { word: word.to_owned() });
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let filter: Filter = "info, h2=trace".parse().unwrap();
        assert_eq!(filter.to_string(), "info,h2=trace");
        assert_eq!(filter.to_string().parse::<Filter>().unwrap(), filter);
    }
}
