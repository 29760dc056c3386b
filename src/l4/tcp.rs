//! The sessions of one worker: opened from accepted connections, driven by events, scheduled in turns, timed out,
//! recorded and closed. An idle one holds only its entry and two sockets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Registry;
use slab::Slab;

use super::life::{Admission, Ending, Life};
use super::listener::L4Listener;
use super::opening::{Advance, Ground, Opening};
use super::pipes::Pipes;
use super::relay::{Relay, Stop, Tools};
use super::session::{Over, Readiness, Side, Turn};
use super::timer::Wheel;
use crate::base::error::{Error, Kind};
use crate::telemetry::WorkerTelemetry;

/// The sessions of one worker.
pub struct Tcp {
    /// Boxed: a table of a million moves when it grows, its entries do not.
    sessions: Slab<Box<Entry>>,
    wheel: Wheel,
    /// Who has more to do, in the order of their turns.
    queue: VecDeque<u32>,
    tools: Tools,
    telemetry: Arc<WorkerTelemetry>,
}

struct Entry {
    stage: Stage,
    life: Life,
    is_queued: bool,
    /// It has lived long enough to be worth the options of long-lived connections.
    is_settled: bool,
}

enum Stage {
    Opening(Box<Opening>),
    Relaying(Relay),
    /// While it is being worked on, and when its sockets are closed.
    Between,
}

/// How old a session is when its connection to the endpoint is kept alive. The wheel looks after it then once more.
const SETTLING: Duration = Duration::from_secs(1);
/// Bytes and reads of one turn.
const TURN: Turn = Turn::new(1 << 20, 32);
/// What copies go through: as much as stays in the second-level cache beside everything else.
const BUFFER: usize = 64 << 10;

impl Tcp {
    /// No sessions yet.
    pub fn new(telemetry: Arc<WorkerTelemetry>, now: Instant) -> Self {
        let tools = Tools { buffer: vec![0; BUFFER].into(), pipes: Pipes::default() };
        Self { sessions: Slab::new(), wheel: Wheel::new(now), queue: VecDeque::new(), tools, telemetry }
    }

    /// Takes in a connection that was just accepted.
    pub fn open(
        &mut self,
        client: OwnedFd,
        peer: Option<SocketAddr>,
        listener: &Rc<L4Listener>,
        admission: Admission,
        registry: &Registry,
        now: Instant,
    ) {
        let counters = &self.telemetry.counters;
        counters.connections_open.add(1);
        counters.sessions.add(1);
        counters.sessions_open.add(1);
        let life = Life::new(Rc::clone(listener), peer, admission, now);
        let opening = match Opening::new(client, listener, &life, now) {
            Ok(opening) => opening,
            Err((client, error)) => {
                if error.kind() == Kind::HttpRequestDenied {
                    counters.proxy_headers_refused.add(1);
                }
                drop(client);
                return self.ended(life, refused(&error), now);
            }
        };
        let key =
            self.sessions.insert(Box::new(Entry { stage: Stage::Between, life, is_queued: false, is_settled: false }))
                as u32;
        self.advance(key, opening, registry, now, Opening::advance);
    }

    /// Wakes a session. What was closed since is no longer there, and its number may be another's, whom it wakes for nothing.
    pub fn ready(&mut self, key: u32, side: Side, readiness: Readiness, registry: &Registry, now: Instant) {
        let Some(entry) = self.sessions.get_mut(key as usize) else { return };
        match &mut entry.stage {
            Stage::Relaying(relay) => {
                relay.ready(side, readiness);
                self.run(key, registry, now);
            }
            Stage::Opening(opening) => {
                opening.ready(side, readiness);
                self.go_on(key, registry, now, Opening::advance);
            }
            Stage::Between => {}
        }
    }

    /// Gives everybody who waits for a turn one.
    pub fn take_turns(&mut self, registry: &Registry, now: Instant) {
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else { return };
            if let Some(entry) = self.sessions.get_mut(key as usize)
                && std::mem::take(&mut entry.is_queued)
            {
                self.run(key, registry, now);
            }
        }
    }

    /// Whether somebody waits for a turn.
    pub fn has_turns(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Ends what is overdue; when to ask again, if anything waits.
    pub fn expire(&mut self, registry: &Registry, now: Instant) -> Option<Instant> {
        let tick = self.wheel.tick(now);
        while let Some(key) = self.wheel.pop(tick) {
            self.overdue(key, registry, now);
        }
        self.wheel.next().map(|tick| self.wheel.moment(tick))
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Resets every session.
    pub fn cut(&mut self, now: Instant) {
        let keys: Vec<u32> = self.sessions.iter().map(|(key, _)| key as u32).collect();
        for key in keys {
            let ending = (Kind::ExchangeTimeout, "it was still open when the time to drain was over");
            self.break_off(key, ending, now);
        }
    }

    fn go_on(
        &mut self,
        key: u32,
        registry: &Registry,
        now: Instant,
        how: impl FnOnce(&mut Opening, &mut Life, &mut Ground<'_>) -> Advance,
    ) {
        let Some(entry) = self.sessions.get_mut(key as usize) else { return };
        if let Stage::Opening(opening) = std::mem::replace(&mut entry.stage, Stage::Between) {
            self.advance(key, *opening, registry, now, how);
        }
    }

    fn advance(
        &mut self,
        key: u32,
        mut opening: Opening,
        registry: &Registry,
        now: Instant,
        how: impl FnOnce(&mut Opening, &mut Life, &mut Ground<'_>) -> Advance,
    ) {
        let entry = &mut self.sessions[key as usize];
        let (telemetry, buffer) = (&*self.telemetry, &mut *self.tools.buffer);
        let mut ground = Ground { key, registry, telemetry, buffer, now };
        match how(&mut opening, &mut entry.life, &mut ground) {
            Advance::Waits => {
                let deadline = opening.deadline(&entry.life);
                entry.stage = Stage::Opening(Box::new(opening));
                self.set(key, deadline, now);
            }
            Advance::Opened(endpoint) => {
                entry.stage = Stage::Relaying(opening.into_relay(endpoint, &entry.life));
                entry.life.moved = self.wheel.tick(now);
                let deadline = entry.life.deadline(now).min(now + SETTLING);
                self.set(key, deadline, now);
                self.run(key, registry, now);
            }
            Advance::Failed(error) => {
                // The client's own fault is a plain close; that nobody can be reached is told as what it is.
                opening.close(error.side() != crate::base::error::Side::Downstream);
                let entry = self.take(key);
                self.ended(entry.life, refused(&error), now);
            }
        }
    }

    /// A turn of a session that relays.
    fn run(&mut self, key: u32, registry: &Registry, now: Instant) {
        let entry = &mut *self.sessions[key as usize];
        let Stage::Relaying(relay) = &mut entry.stage else { return };
        let before = relay.passed();
        let stop = relay.run(key, &mut TURN.clone(), &mut self.tools, registry);
        let after = relay.passed();
        if before != after {
            entry.life.moved = self.wheel.tick(now);
            let counters = &self.telemetry.counters;
            let (up, down) = (after.0 - before.0, after.1 - before.1);
            counters.bytes_downstream_in.add(up);
            counters.bytes_upstream_out.add(up);
            counters.bytes_upstream_in.add(down);
            counters.bytes_downstream_out.add(down);
        }
        match stop {
            Ok(Stop::Waits) => {}
            Ok(Stop::Yields) => {
                if !std::mem::replace(&mut entry.is_queued, true) {
                    self.queue.push_back(key);
                }
            }
            Ok(Stop::Over(over)) => self.over(key, over, now),
            Err(_) => self.break_off(key, (Kind::ProxyInternalError, "a socket cannot be watched"), now),
        }
    }

    fn over(&mut self, key: u32, over: Over, now: Instant) {
        let (outcome, reason, reset) = match over {
            Over::Closed => (None, "", None),
            Over::Reset { by: Side::Client } => {
                (Some(Kind::ClientGone), "the client broke the connection off", Some(Side::Endpoint))
            }
            Over::Reset { by: Side::Endpoint } => {
                (Some(Kind::ConnectionTerminated), "the endpoint broke the connection off", Some(Side::Client))
            }
        };
        self.close(key, outcome, reason, reset.as_slice(), now);
    }

    /// Resets both sides.
    fn break_off(&mut self, key: u32, (kind, reason): (Kind, &'static str), now: Instant) {
        self.close(key, Some(kind), reason, &Side::BOTH, now);
    }

    fn close(&mut self, key: u32, outcome: Option<Kind>, reason: &'static str, reset: &[Side], now: Instant) {
        let entry = self.take(key);
        let (mut bytes_in, mut bytes_out) = (0, 0);
        match entry.stage {
            Stage::Relaying(relay) => {
                (bytes_in, bytes_out) = relay.passed();
                if relay.state().is_spliced() {
                    self.telemetry.counters.sessions_spliced.add(1);
                }
                relay.close(reset, &mut self.tools.pipes);
            }
            Stage::Opening(opening) => opening.close(!reset.is_empty()),
            Stage::Between => {}
        }
        self.ended(entry.life, Ending { outcome, reason, bytes_in, bytes_out }, now);
    }

    fn take(&mut self, key: u32) -> Box<Entry> {
        self.wheel.clear(key);
        self.sessions.remove(key as usize)
    }

    fn ended(&self, life: Life, ending: Ending, now: Instant) {
        let counters = &self.telemetry.counters;
        counters.connections_open.sub(1);
        counters.sessions_open.sub(1);
        life.tell(ending, &self.telemetry, now);
    }

    fn set(&mut self, key: u32, deadline: Instant, now: Instant) {
        let ahead = Wheel::ticks(deadline.saturating_duration_since(now));
        self.wheel.set(key, self.wheel.tick(now) + ahead);
    }

    fn overdue(&mut self, key: u32, registry: &Registry, now: Instant) {
        let Some(entry) = self.sessions.get_mut(key as usize) else { return };
        let deadline = match &entry.stage {
            Stage::Opening(opening) => opening.deadline(&entry.life),
            Stage::Relaying(relay) => {
                if !std::mem::replace(&mut entry.is_settled, true)
                    && let Some(target) = &entry.life.target
                {
                    relay.keep_alive(&target.upstream().config().socket);
                }
                entry.life.deadline(self.wheel.moment(entry.life.moved))
            }
            Stage::Between => return,
        };
        if deadline > now {
            // It has moved since.
            return self.set(key, deadline, now);
        }
        match &entry.stage {
            Stage::Opening(_) => self.go_on(key, registry, now, Opening::overdue),
            Stage::Relaying(relay) => {
                let too_old = entry.life.cut_at().is_some_and(|cut| cut <= now);
                let ending = if too_old { (Kind::ExchangeTimeout, "it reached max_age") } else { silence(relay) };
                self.break_off(key, ending, now);
            }
            Stage::Between => {}
        }
    }
}

/// Whose silence it was.
fn silence(relay: &Relay) -> (Kind, &'static str) {
    let state = relay.state();
    if state.held(Side::Client) > 0 {
        (Kind::ConnectionWriteTimeout, "the endpoint took no bytes")
    } else if state.held(Side::Endpoint) > 0 {
        (Kind::ClientStall, "the client took no bytes")
    } else if state.last_heard() == Side::Client {
        (Kind::HttpResponseStalled, "nothing came either way, the endpoint's turn")
    } else {
        (Kind::ClientStall, "nothing came either way, the client's turn")
    }
}

fn refused(error: &Error) -> Ending {
    Ending { outcome: Some(error.kind()), reason: error.reason(), bytes_in: 0, bytes_out: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_takes_less_than_512_bytes() {
        // Its entry with what the allocator rounds up, its place in the table, its place in the wheel.
        let entry = size_of::<Entry>().next_multiple_of(32) + size_of::<usize>() * 2 + 16;
        assert!(entry <= 384, "{entry}: {} {} {}", size_of::<Entry>(), size_of::<Relay>(), size_of::<Life>());
    }
}
