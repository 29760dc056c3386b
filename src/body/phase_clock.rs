//! Measures the phases of an exchange (sans-io). Exactly one phase runs at a time, so that they add up to the total,
//! over all attempts.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::series::Phases;

/// What an exchange is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The proxy itself: checks, the choice of a route and an endpoint, the wait for another's connection, a pause between
    /// two attempts.
    Queue,
    /// The endpoint's socket is being connected.
    Connect,
    /// The TLS handshake with the endpoint.
    Tls,
    /// From the request's first byte towards the endpoint to the head of its answer; the request's body is sent meanwhile.
    FirstByte,
    /// The answer's body, until its last byte was handed on.
    Body,
}

/// Number of phases.
const PHASES: usize = Phase::Body as usize + 1;

/// The clock of one exchange.
#[derive(Debug)]
pub struct PhaseClock {
    began: Cell<Instant>,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    /// Nanoseconds of the phases before this one: 584 years fit.
    spent: [Cell<u64>; PHASES],
}

impl PhaseClock {
    /// A clock that starts in [`Phase::Queue`].
    pub fn new(now: Instant) -> Self {
        Self { began: Cell::new(now), phase: Cell::new(Phase::Queue), since: Cell::new(now), spent: Default::default() }
    }

    /// Starts again.
    pub fn restart(&self, now: Instant) {
        self.began.set(now);
        self.phase.set(Phase::Queue);
        self.since.set(now);
        self.spent.iter().for_each(|spent| spent.set(0));
    }

    /// When it started.
    pub fn began(&self) -> Instant {
        self.began.get()
    }

    /// What the exchange is at.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// The exchange is at `phase` from `now` on.
    pub fn enter(&self, phase: Phase, now: Instant) {
        let spent = &self.spent[self.phase.get() as usize];
        spent.set(spent.get() + nanoseconds(now - self.since.get()));
        self.phase.set(phase);
        self.since.set(now);
    }

    /// What series want to know, and nothing else: the whole, and the time to the first byte.
    pub fn outline(&self, now: Instant) -> Phases {
        Phases { first_byte: self.spent(Phase::FirstByte, now), total: now - self.began.get(), ..Phases::default() }
    }

    /// What every phase took until `now`.
    pub fn read(&self, now: Instant) -> Phases {
        let spent = |phase| self.spent(phase, now);
        Phases {
            queue: spent(Phase::Queue),
            connect: spent(Phase::Connect),
            tls: spent(Phase::Tls),
            first_byte: spent(Phase::FirstByte),
            body: spent(Phase::Body),
            total: now - self.began.get(),
        }
    }

    fn spent(&self, phase: Phase, now: Instant) -> Duration {
        let before = self.spent[phase as usize].get();
        let running = if phase == self.phase.get() { nanoseconds(now - self.since.get()) } else { 0 };
        Duration::from_nanos(before + running)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(duration.subsec_nanos().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_are_the_whole() {
        let began = Instant::now();
        let clock = PhaseClock::new(began);
        let phases =
            [Phase::Connect, Phase::Tls, Phase::FirstByte, Phase::Queue, Phase::Connect, Phase::FirstByte, Phase::Body];
        let mut now = began;
        let mut seed = fastrand::Rng::with_seed(7);
        for phase in phases {
            now += Duration::from_nanos(seed.u64(1..1_000_000_000));
            clock.enter(phase, now);
        }
        let now = now + Duration::from_millis(5);
        let read = clock.read(now);
        assert_eq!(read.queue + read.connect + read.tls + read.first_byte + read.body, read.total);
        assert_eq!(read.total, now - began);
        assert_eq!(read.body, Duration::from_millis(5));
        let outline = clock.outline(now);
        assert_eq!((outline.first_byte, outline.total), (read.first_byte, read.total));
    }

    #[test]
    fn a_clock_starts_again_from_nothing() {
        let began = Instant::now();
        let clock = PhaseClock::new(began);
        clock.enter(Phase::Body, began + Duration::from_secs(1));
        let again = began + Duration::from_secs(2);
        clock.restart(again);
        assert_eq!(clock.read(again + Duration::from_secs(3)).queue, Duration::from_secs(3));
        assert_eq!(clock.read(again + Duration::from_secs(3)).total, Duration::from_secs(3));
    }
}
