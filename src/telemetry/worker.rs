//! The telemetry of one worker: created by the control thread, written by the worker, readable by all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::counters::{Cell64, Counters};
use super::histogram::Histogram;
use super::recent::Recent;
use super::series::SeriesBook;

/// Everything of one worker that readers on other threads may look at.
#[derive(Debug)]
pub struct WorkerTelemetry {
    /// What it counts of everything.
    pub counters: Arc<Counters>,
    /// What it counts by listener, route and upstream.
    pub series: SeriesBook,
    /// The last errors it saw.
    pub recent: Recent,
    /// How late its timers fire, seen once a second: time that a task held the thread, or that the thread did not get
    /// from the system.
    pub lag: Histogram,
    /// When it last showed that it runs, in milliseconds since it was made; once a second.
    pub heartbeat: Cell64,
    /// What it carries.
    pub plane: Plane,
    has_begun: AtomicBool,
    began: Instant,
}

/// What a worker carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Requests.
    Http,
    /// Sessions and flows.
    Layer4,
}

impl Plane {
    /// Its word in metrics and on the status page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Layer4 => "layer4",
        }
    }
}

impl WorkerTelemetry {
    /// Of a worker that serves requests.
    pub fn new() -> Self {
        Self::of(Plane::Http)
    }

    /// Of a worker of this plane.
    pub fn of(plane: Plane) -> Self {
        Self {
            counters: Arc::default(),
            series: SeriesBook::default(),
            recent: Recent::default(),
            lag: Histogram::default(),
            heartbeat: Cell64::default(),
            plane,
            has_begun: AtomicBool::new(false),
            began: Instant::now(),
        }
    }

    /// Notes that the worker runs, and how late its timer was. Only the worker may call it.
    pub fn beat(&self, lag: Duration) {
        self.lag.observe(lag);
        self.beat_first();
    }

    /// Notes that the worker has begun to run. Only the worker may call it.
    pub fn beat_first(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
        self.heartbeat.set(self.began.elapsed().as_millis() as u64);
    }

    /// Whether the worker runs at all: those of layer 4 begin when a listener first needs them.
    pub fn has_begun(&self) -> bool {
        self.plane == Plane::Http || self.has_begun.load(Ordering::Relaxed)
    }

    /// How long ago the worker last showed that it runs, to a millisecond. More than a few seconds: it is stuck.
    pub fn since_heartbeat(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.heartbeat.value()))
    }
}

impl Default for WorkerTelemetry {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_is_seen_from_another_thread() {
        let telemetry = WorkerTelemetry::new();
        std::thread::sleep(Duration::from_millis(20));
        assert!(telemetry.since_heartbeat() >= Duration::from_millis(20));
        telemetry.beat(Duration::from_millis(3));
        let (since, lag) = std::thread::scope(|scope| {
            scope.spawn(|| (telemetry.since_heartbeat(), telemetry.lag.read())).join().unwrap()
        });
        assert!(since < Duration::from_secs(5), "{since:?}");
        assert_eq!((lag.count(), lag.sum), (1, Duration::from_millis(3)));
        assert!(telemetry.heartbeat.value() >= 19);
    }
}
