//! The reasons for not using an endpoint, and the state shown to people (sans-io). The reasons are independent: an
//! endpoint is used when none applies.

use std::sync::atomic::{AtomicU8, Ordering};

/// The state of an endpoint as people are told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It is picked.
    Ready,
    /// An operator took it out.
    Drained,
    /// It fails its active checks.
    Unhealthy,
    /// It failed real traffic and is out for a while.
    Ejected,
}

impl State {
    /// Every state, in the order in which they are told.
    pub const ALL: [State; 4] = [State::Ready, State::Drained, State::Unhealthy, State::Ejected];

    /// Its word, the same in status, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drained => "drained",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
        }
    }
}

/// One reason why an endpoint is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bar {
    /// An operator's word.
    Drained = 1,
    /// Active checks.
    Unhealthy = 2,
    /// Real traffic.
    Ejected = 4,
}

/// The bars of one endpoint. Written by the control thread alone.
#[derive(Debug, Default)]
pub struct Bars(AtomicU8);

impl Bars {
    /// Puts a bar up or takes it away; says whether that changed anything.
    pub fn set(&self, bar: Bar, up: bool) -> bool {
        let before = match up {
            true => self.0.fetch_or(bar as u8, Ordering::Relaxed),
            false => self.0.fetch_and(!(bar as u8), Ordering::Relaxed),
        };
        (before & bar as u8 != 0) != up
    }

    /// Whether a bar is up.
    pub fn has(&self, bar: Bar) -> bool {
        self.0.load(Ordering::Relaxed) & bar as u8 != 0
    }

    /// What people are told where several are up: first what somebody wanted, then what is known, then what is suspected.
    pub fn state(&self) -> State {
        let bars = self.0.load(Ordering::Relaxed);
        let states =
            [(Bar::Drained, State::Drained), (Bar::Unhealthy, State::Unhealthy), (Bar::Ejected, State::Ejected)];
        states.into_iter().find(|(bar, _)| bars & *bar as u8 != 0).map_or(State::Ready, |(_, state)| state)
    }
}

/// Why none of these endpoints takes a request: the reason that the client's answer and the log carry.
pub fn why_none(states: impl Iterator<Item = State>) -> &'static str {
    let mut only = None;
    for state in states {
        match only {
            None => only = Some(state),
            Some(before) if before == state => {}
            Some(_) => return "every endpoint of the upstream is drained, unhealthy or ejected",
        }
    }
    match only {
        None => "no name of the upstream has resolved to an address yet",
        Some(State::Drained) => "every endpoint of the upstream is drained",
        Some(State::Unhealthy) => "every endpoint of the upstream fails its health check",
        Some(State::Ejected) => "every endpoint of the upstream is ejected after failures in a row",
        // One was let in again between the pick and the look.
        Some(State::Ready) => "no endpoint of the upstream was ready",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_ready_when_the_last_bar_is_lifted() {
        let bars = Bars::default();
        assert!(bars.set(Bar::Ejected, true) && !bars.set(Bar::Ejected, true));
        assert!(bars.set(Bar::Unhealthy, true) && bars.set(Bar::Drained, true));
        assert_eq!(bars.state(), State::Drained);
        assert!(bars.set(Bar::Drained, false));
        assert_eq!(bars.state(), State::Unhealthy);
        assert!(bars.set(Bar::Unhealthy, false));
        assert_eq!(bars.state(), State::Ejected);
        assert!(bars.set(Bar::Ejected, false) && !bars.set(Bar::Ejected, false));
        assert_eq!(bars.state(), State::Ready);
    }

    #[test]
    fn the_reason_tells_the_causes_apart() {
        let why = |states: &[State]| why_none(states.iter().copied());
        assert!(why(&[]).contains("resolved"));
        assert!(why(&[State::Drained; 3]).ends_with("is drained"));
        assert!(why(&[State::Unhealthy; 2]).ends_with("fails its health check"));
        assert!(why(&[State::Ejected]).contains("is ejected"));
        assert!(why(&[State::Drained, State::Unhealthy]).contains("drained, unhealthy or ejected"));
    }
}
