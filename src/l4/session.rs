//! § The state machine of a relayed connection (sans-io): the next step, given the readiness of its two sockets and the
//! result of the last step. It owns no socket, buffer or pipe; `relay` executes the steps. Readiness is edge-triggered:
//! whatever may still be ready is tried again before waiting, and every wait is registered.

mod step;

pub use step::{Got, Method, Over, Put, Readiness, Side, Step};

/// What one session may do before others have their turn.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    bytes: u32,
    reads: u32,
}

/// One direction, named by where it comes from.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    /// Bytes that were written to the other side.
    passed: u64,
    /// Bytes that were read and not written yet.
    held: u32,
    /// Bytes that were read since the source was last found empty.
    run: u32,
    /// What holds them.
    by: Method,
    /// Whether so much comes at once that splicing pays.
    bulk: bool,
    /// The source has sent its last byte.
    ended: bool,
    /// And the other side was told.
    passed_on: bool,
}

/// What is known of one socket.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    readable: bool,
    writable: bool,
    /// A short read does not show that nothing is left.
    drains: bool,
    /// To be looked at for an error.
    suspect: bool,
    watched: bool,
    watched_for_writes: bool,
    /// It takes nothing any more; what it said before is still passed on.
    lost: bool,
}

/// A session, from the moment that both connections stand.
#[derive(Clone, Debug, Default)]
pub struct Session {
    flows: [Flow; 2],
    ends: [End; 2],
    /// Whose bytes were not looked at last.
    first: Side,
    spliced: bool,
}

/// A splice run of fewer bytes than this was not worth its pipe; the next is copied.
const WORTH_SPLICING: u32 = 16 << 10;

impl Turn {
    /// A turn of at most so many bytes and reads; what is under way when they are used up is finished.
    pub const fn new(bytes: u32, reads: u32) -> Self {
        Self { bytes, reads }
    }

    fn is_over(&self) -> bool {
        self.bytes == 0 || self.reads == 0
    }
}

impl Session {
    /// A session whose two connections stand; `held` bytes of the client were read already.
    pub fn new(held: u32) -> Self {
        let mut session = Self::default();
        session.flows[Side::Client.place()].held = held;
        session.ends.iter_mut().for_each(|end| end.writable = true);
        session
    }

    /// What to do now. Asked again after every answer, until it says to wait, to yield, or that all is over.
    pub fn next(&mut self, turn: &Turn) -> Step {
        let first = self.first;
        let step = self.step(first).or_else(|| self.step(first.other())).or_else(|| self.unwatched());
        match step {
            // What was read is still written.
            Some(Step::Read { .. }) if turn.is_over() => Step::Yield,
            Some(step) => step,
            None => Step::Wait,
        }
    }

    /// The next step for the bytes that come from `from`.
    fn step(&self, from: Side) -> Option<Step> {
        let (to, flow) = (from.other(), &self.flows[from.place()]);
        let (source, sink) = (&self.ends[from.place()], &self.ends[to.place()]);
        if source.suspect {
            return Some(Step::Inspect { side: from });
        }
        if flow.held > 0 {
            return match (sink.writable, sink.watched_for_writes) {
                (true, _) => Some(Step::Write { to, by: flow.by }),
                (false, false) => Some(Step::Watch { side: to, writes: true }),
                (false, true) => None,
            };
        }
        if !flow.ended {
            let by = if flow.bulk { Method::Splice } else { Method::Copy };
            return source.readable.then_some(Step::Read { from, by });
        }
        if source.lost {
            return Some(Step::Over(Over::Reset { by: from }));
        }
        match (flow.passed_on, self.flows[to.place()].passed_on) {
            // What it said before it broke off decides.
            _ if sink.lost => None,
            // The close of both sockets says it.
            (_, true) => Some(Step::Over(Over::Closed)),
            (false, false) => Some(Step::Finish { to }),
            (true, false) => None,
        }
    }

    fn unwatched(&self) -> Option<Step> {
        let side = Side::BOTH.into_iter().find(|side| !self.ends[side.place()].watched)?;
        Some(Step::Watch { side, writes: false })
    }

    /// What an event said.
    pub fn ready(&mut self, side: Side, readiness: Readiness) {
        let ended = self.flows[side.place()].ended;
        let end = &mut self.ends[side.place()];
        end.readable |= readiness.readable || readiness.fault || readiness.drains;
        end.writable |= readiness.writable || readiness.fault;
        end.drains |= readiness.drains || readiness.fault;
        // Nobody reads any more from a side that has ended, and nobody may ever write to it.
        end.suspect |= readiness.fault && ended && !end.lost;
    }

    /// Answers [`Step::Read`].
    pub fn read(&mut self, from: Side, by: Method, got: Got, turn: &mut Turn) {
        turn.reads = turn.reads.saturating_sub(1);
        let (flow, source) = (&mut self.flows[from.place()], &mut self.ends[from.place()]);
        self.first = from.other();
        match got {
            Got::Bytes { count, drained } => {
                turn.bytes = turn.bytes.saturating_sub(count);
                flow.held = count;
                flow.by = by;
                flow.run = flow.run.saturating_add(count);
                self.spliced |= by == Method::Splice;
                // A full buffer: there is most likely more.
                flow.bulk |= by == Method::Copy && !drained;
                if drained && !source.drains {
                    source.readable = false;
                    flow.run = 0;
                }
            }
            // A splice takes an urgent mark for the end of what there is, or of everything; only a read gets past it.
            Got::Nothing | Got::End if by == Method::Splice && (got == Got::End || source.drains) => {
                flow.bulk = false;
                flow.run = 0;
            }
            Got::Nothing => {
                source.readable = false;
                source.drains = false;
                flow.ended |= source.lost;
                flow.bulk &= flow.run >= WORTH_SPLICING;
                flow.run = 0;
            }
            Got::End => {
                source.readable = false;
                flow.ended = true;
            }
            Got::Failed => {
                flow.ended = true;
                self.lose(from);
            }
        }
    }

    /// Answers [`Step::Read`] where no pipe could be had: the bytes are copied.
    pub fn without_pipe(&mut self, from: Side) {
        self.flows[from.place()].bulk = false;
    }

    /// Answers [`Step::Write`].
    pub fn wrote(&mut self, to: Side, put: Put) {
        let (flow, sink) = (&mut self.flows[to.other().place()], &mut self.ends[to.place()]);
        match put {
            Put::Bytes { count, full } => {
                flow.held -= count;
                flow.passed += u64::from(count);
                sink.writable &= !full;
            }
            Put::Nothing => sink.writable = false,
            Put::Failed => self.lose(to),
        }
    }

    /// Answers [`Step::Finish`]; `done`: the connection still stood.
    pub fn finished(&mut self, to: Side, done: bool) {
        self.flows[to.other().place()].passed_on = true;
        if !done {
            self.lose(to);
        }
    }

    /// Answers [`Step::Inspect`].
    pub fn inspected(&mut self, side: Side, broken: bool) {
        self.ends[side.place()].suspect = false;
        if broken {
            self.lose(side);
        }
    }

    /// Answers [`Step::Watch`]; also where somebody else had the socket watched.
    pub fn watched(&mut self, side: Side, writes: bool) {
        let end = &mut self.ends[side.place()];
        end.watched = true;
        end.watched_for_writes |= writes;
    }

    /// `side` takes no more bytes. What it said before it broke off may still lie in its socket.
    fn lose(&mut self, side: Side) {
        let end = &mut self.ends[side.place()];
        end.lost = true;
        end.readable = true;
        end.drains = true;
        let into = &mut self.flows[side.other().place()];
        into.held = 0;
        into.ended = true;
        into.passed_on = true;
    }

    /// Bytes that came from `from` and were written to the other side.
    pub fn passed(&self, from: Side) -> u64 {
        self.flows[from.place()].passed
    }

    /// Bytes of `from` that were read and not written yet.
    pub fn held(&self, from: Side) -> u32 {
        self.flows[from.place()].held
    }

    /// Whether the socket's readiness is reported.
    pub fn is_watched(&self, side: Side) -> bool {
        self.ends[side.place()].watched
    }

    /// Whether bytes went through a pipe.
    pub fn is_spliced(&self) -> bool {
        self.spliced
    }

    /// Who was read from last.
    pub fn last_heard(&self) -> Side {
        self.first.other()
    }

    /// Whether one side has ended its bytes.
    pub fn has_ended(&self, side: Side) -> bool {
        self.flows[side.place()].ended
    }
}

#[cfg(test)]
mod tests;
