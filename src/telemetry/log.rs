//! The process's own log: `tracing` events as lines on stderr, as text or JSON. `cli` calls [`init`] once, before any
//! thread starts; the configuration and the admin listener can change it at run time.

mod json;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::config::model::{ProcessLog, ProcessLogFormat};

pub use crate::base::log_filter::{Filter, FilterError};

/// The one log of the process, as `tracing` has one subscriber for it.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    targets: reload::Handle<Targets, Registry>,
    /// Asked for by whoever started the process: the configuration has no say.
    is_pinned: bool,
    /// What it was started with.
    started: Filter,
    levels: Mutex<Levels>,
}

struct Levels {
    now: Filter,
    configured: Option<Filter>,
}

/// Starts the log on stderr; `colour` puts ANSI colours into lines for people. `asked` is the filter that the command line
/// or the environment wants, and wins over the configuration; `quiet` holds where neither says anything. A second call
/// changes nothing.
pub fn init(asked: Option<Filter>, quiet: Filter, colour: bool) {
    let is_pinned = asked.is_some();
    let started = asked.unwrap_or(quiet);
    let (filter, targets) = reload::Layer::new(targets(&started));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(colour)
        .event_format(Lines::new())
        // Reporting a failed write to stderr on stderr would panic when stderr is gone.
        .log_internal_errors(false);
    // Fails only where a subscriber is set already: then that one is meant.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        SHOWS_TARGETS.store(started.own > LevelFilter::INFO, Ordering::Relaxed);
        let levels = Mutex::new(Levels { now: started.clone(), configured: None });
        let _ = LOG.set(Log { targets, is_pinned, started, levels });
    }
}

/// Puts `[server.log]` in force, at start and at reloads. A level that was set while running stays until the file says
/// another than before.
pub fn configure(config: &ProcessLog) {
    let Some(log) = LOG.get() else { return };
    IS_JSON.store(config.format == ProcessLogFormat::Json, Ordering::Relaxed);
    let mut levels = log.levels.lock().unwrap_or_else(PoisonError::into_inner);
    if !log.is_pinned && levels.configured != config.level {
        levels.configured.clone_from(&config.level);
        log.put(&mut levels, config.level.clone().unwrap_or_else(|| log.started.clone()));
    }
}

/// Changes the level while running. `false`: this process has another log than ours.
pub fn set_level(filter: Filter) -> bool {
    let Some(log) = LOG.get() else { return false };
    log.put(&mut log.levels.lock().unwrap_or_else(PoisonError::into_inner), filter);
    true
}

/// The level in force; `None`: this process has another log than ours.
pub fn level() -> Option<Filter> {
    Some(LOG.get()?.levels.lock().unwrap_or_else(PoisonError::into_inner).now.clone())
}

impl Log {
    fn put(&self, levels: &mut Levels, filter: Filter) {
        SHOWS_TARGETS.store(filter.own > LevelFilter::INFO, Ordering::Relaxed);
        // Fails only where the subscriber is gone, and it is the process's.
        let _ = self.targets.reload(targets(&filter));
        levels.now = filter;
    }
}

fn targets(filter: &Filter) -> Targets {
    Targets::new()
        .with_default(filter.own.min(LevelFilter::WARN))
        .with_target(env!("CARGO_PKG_NAME"), filter.own)
        .with_targets(filter.named.iter().cloned())
}

/// One of the two forms of a line, as it is in force.
struct Lines {
    plain: Format,
    with_target: Format,
}

impl Lines {
    fn new() -> Self {
        Self { plain: Format::default().with_target(false), with_target: Format::default().with_target(true) }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if IS_JSON.load(Ordering::Relaxed) {
            json::line(out, event)
        } else if SHOWS_TARGETS.load(Ordering::Relaxed) {
            // The module is noise to an operator and the first question of whoever debugs.
            self.with_target.format_event(context, out, event)
        } else {
            self.plain.format_event(context, out, event)
        }
    }
}

static IS_JSON: AtomicBool = AtomicBool::new(false);
static SHOWS_TARGETS: AtomicBool = AtomicBool::new(false);

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn of(text: &str) -> Targets {
        targets(&text.parse().unwrap())
    }

    #[test]
    fn a_level_is_tidegates_own_and_libraries_stay_at_warn() {
        assert!(of("debug").would_enable("tidegate::serve::worker", &Level::DEBUG));
        assert!(!of("debug").would_enable("tidegate::serve::worker", &Level::TRACE));
        assert!(of("debug").would_enable("hyper", &Level::WARN));
        assert!(!of("debug").would_enable("hyper", &Level::INFO));
    }

    #[test]
    fn a_quieter_level_than_warn_holds_for_libraries_too() {
        assert!(!of("error").would_enable("hyper", &Level::WARN));
    }

    #[test]
    fn a_named_target_has_its_own_level() {
        assert!(of("info, h2=trace").would_enable("h2::frame", &Level::TRACE));
        assert!(!of("info, h2=trace").would_enable("tidegate::app", &Level::DEBUG));
    }
}
