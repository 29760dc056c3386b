use std::collections::VecDeque;

use super::*;

/// Bytes of the buffer that copies go through; small, so that it is filled often.
const BUFFER: u32 = 16;

/// A socket of ours with the peer behind it, and what the kernel would do.
#[derive(Default)]
struct Socket {
    /// What the peer has sent and we have not read.
    incoming: VecDeque<u8>,
    /// Bytes before an urgent mark. A read that begins there goes past it; one that comes to it, and any splice, stops.
    mark: Option<usize>,
    peer_ended: bool,
    /// The peer has reset the connection; nobody was told yet.
    reset: bool,
    /// The error was taken by some call: reads see the end, writes fail.
    dead: bool,
    /// Bytes that still fit.
    room: usize,
    /// What the peer got.
    outgoing: Vec<u8>,
    shutdowns: u32,
    watched: Option<bool>,
    /// An edge that was not delivered yet.
    edge: Option<Readiness>,
    /// A write met no room: an edge follows when there is some.
    wants_room: bool,
    /// What the peer sent in all, to compare.
    sent: Vec<u8>,
}

impl Socket {
    fn level(&self) -> Readiness {
        let closed = self.peer_ended || self.reset || self.dead;
        Readiness {
            readable: !self.incoming.is_empty() || closed,
            writable: self.room > 0 || self.reset || self.dead,
            drains: closed || self.mark.is_some(),
            fault: self.reset,
        }
    }

    /// Something changed: whoever watches is told all there is to tell, as epoll does.
    fn raise(&mut self) {
        let Some(writes) = self.watched else { return };
        let level = self.level();
        let seen = Readiness { writable: level.writable && writes, ..level };
        if seen != Readiness::default() {
            self.edge = Some(seen);
        }
    }

    fn read(&mut self, limit: usize, by: Method) -> Result<usize, Got> {
        if by == Method::Copy && self.mark == Some(0) {
            self.mark = None;
        }
        let before_mark = self.mark.unwrap_or(usize::MAX).min(self.incoming.len());
        if before_mark == 0 {
            return Err(match () {
                () if self.reset => {
                    (self.reset, self.dead) = (false, true);
                    Got::Failed
                }
                () if self.dead || self.peer_ended => Got::End,
                () => Got::Nothing,
            });
        }
        let count = before_mark.min(limit);
        self.mark = self.mark.map(|mark| mark - count);
        Ok(count)
    }

    fn is_broken(&self) -> bool {
        self.reset || self.dead
    }
}

/// A session with both of its sockets, driven by chance.
struct World {
    rng: fastrand::Rng,
    session: Session,
    sockets: [Socket; 2],
    /// What was read of each side and is not written.
    held: [VecDeque<u8>; 2],
    queued: bool,
    over: Option<Over>,
    resets: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let sockets = [0, 1].map(|_| Socket { room: rng.usize(..40), ..Socket::default() });
        let resets = rng.u8(..3) == 0;
        let mut world = Self {
            session: Session::default(),
            sockets,
            held: Default::default(),
            queued: true,
            over: None,
            resets,
            rng,
        };
        let early = world.rng.u32(..20);
        world.session = Session::new(early);
        for _ in 0..early {
            let byte = world.rng.u8(..);
            world.sockets[0].sent.push(byte);
            world.held[0].push_back(byte);
        }
        if world.rng.bool() {
            // Somebody else had the client watched before.
            world.sockets[0].watched = Some(false);
            world.session.watched(Side::Client, false);
        }
        world
    }

    fn peer_acts(&mut self, side: Side) {
        let resets = self.resets;
        let action = self.rng.u8(..24);
        let count = self.rng.usize(1..64);
        let socket = &mut self.sockets[side.place()];
        match action {
            0..9 if !socket.peer_ended && !socket.is_broken() => {
                for _ in 0..count {
                    let byte = self.rng.u8(..);
                    socket.incoming.push_back(byte);
                    socket.sent.push(byte);
                }
                socket.raise();
            }
            9..18 if !socket.is_broken() => {
                socket.room += count;
                if std::mem::take(&mut socket.wants_room) {
                    socket.raise();
                }
            }
            18 if self.rng.u8(..4) == 0 && !socket.is_broken() => {
                socket.peer_ended = true;
                socket.raise();
            }
            19 if resets && self.rng.u8(..4) == 0 && !socket.is_broken() => {
                socket.reset = true;
                socket.raise();
            }
            20 if !socket.peer_ended && !socket.is_broken() && socket.mark.is_none() => {
                socket.mark = Some(socket.incoming.len());
                socket.raise();
            }
            21 => {
                // Woken for nothing.
                let lie = Readiness { readable: true, writable: true, ..Readiness::default() };
                self.session.ready(side, lie);
                self.queued = true;
            }
            _ => {}
        }
    }

    fn deliver(&mut self, side: Side) {
        if let Some(edge) = self.sockets[side.place()].edge.take() {
            self.session.ready(side, edge);
            self.queued = true;
        }
    }

    /// One turn of the session.
    fn run(&mut self) {
        self.queued = false;
        let mut turn = Turn::new(self.rng.u32(1..60), self.rng.u32(1..5));
        for steps in 0.. {
            assert!(steps < 1000, "a turn without an end");
            let step = self.session.next(&turn);
            match step {
                Step::Read { from, by } => self.read(from, by, &mut turn),
                Step::Write { to, by } => self.write(to, by),
                Step::Finish { to } => self.finish(to),
                Step::Inspect { side } => {
                    let socket = &mut self.sockets[side.place()];
                    let broken = std::mem::take(&mut socket.reset);
                    socket.dead |= broken;
                    self.session.inspected(side, broken);
                }
                Step::Watch { side, writes } => {
                    let socket = &mut self.sockets[side.place()];
                    assert!(socket.watched.is_none_or(|before| writes && !before), "watched twice");
                    socket.watched = Some(writes);
                    socket.raise();
                    self.session.watched(side, writes);
                }
                Step::Wait => return self.check_waiting(),
                Step::Yield => {
                    self.queued = true;
                    return;
                }
                Step::Over(over) => {
                    self.over = Some(over);
                    return;
                }
            }
            self.check();
        }
    }

    fn read(&mut self, from: Side, by: Method, turn: &mut Turn) {
        assert!(self.held[from.place()].is_empty(), "read on top of what is not written");
        if by == Method::Splice && self.rng.u8(..10) == 0 {
            return self.session.without_pipe(from);
        }
        let limit = match by {
            Method::Copy => BUFFER as usize,
            // A pipe is full when its slots are.
            Method::Splice => self.rng.usize(1..80),
        };
        let socket = &mut self.sockets[from.place()];
        let got = match socket.read(limit, by) {
            Ok(count) => {
                self.held[from.place()].extend(socket.incoming.drain(..count));
                Got::Bytes { count: count as u32, drained: by == Method::Copy && count < limit }
            }
            Err(got) => got,
        };
        self.session.read(from, by, got, turn);
    }

    fn write(&mut self, to: Side, by: Method) {
        let held = &mut self.held[to.other().place()];
        let socket = &mut self.sockets[to.place()];
        assert!(!held.is_empty() && socket.shutdowns == 0);
        let fits = held.len().min(socket.room);
        let put = if socket.is_broken() {
            (socket.reset, socket.dead) = (false, true);
            held.clear();
            Put::Failed
        } else if fits == 0 {
            socket.wants_room = true;
            Put::Nothing
        } else {
            let count = if by == Method::Splice { self.rng.usize(1..=fits) } else { fits };
            socket.room -= count;
            socket.outgoing.extend(held.drain(..count));
            let full = by == Method::Copy && !held.is_empty();
            socket.wants_room |= full;
            Put::Bytes { count: count as u32, full }
        };
        self.session.wrote(to, put);
    }

    fn finish(&mut self, to: Side) {
        let whole = self.sockets[to.other().place()].sent.len();
        let socket = &mut self.sockets[to.place()];
        assert_eq!(socket.outgoing.len(), whole, "an end before the last byte");
        socket.shutdowns += 1;
        let done = !socket.is_broken();
        self.session.finished(to, done);
    }

    /// Holds after every step.
    fn check(&self) {
        for from in Side::BOTH {
            let (source, sink) = (&self.sockets[from.place()], &self.sockets[from.other().place()]);
            let passed = sink.outgoing.len();
            assert_eq!(sink.outgoing, source.sent[..passed], "lost, doubled or out of order");
            assert_eq!(self.session.passed(from), passed as u64);
            assert!(sink.shutdowns <= 1, "an end told twice");
            if !sink.is_broken() {
                assert_eq!(self.session.held(from) as usize, self.held[from.place()].len());
                let read = passed + self.held[from.place()].len();
                assert_eq!(read + source.incoming.len(), source.sent.len());
            }
        }
    }

    /// Whoever waits is watched, and would be woken by whatever lets it go on.
    fn check_waiting(&self) {
        for side in Side::BOTH {
            let (socket, far) = (&self.sockets[side.place()], &self.sockets[side.other().place()]);
            assert!(socket.watched.is_some(), "nobody would hear of {side:?}");
            if socket.edge.is_some() || far.edge.is_some() || self.session.ends[side.other().place()].lost {
                continue;
            }
            let held = !self.held[side.place()].is_empty();
            if held {
                assert_eq!(far.watched, Some(true), "room of {side:?}'s opposite would not be heard of");
                assert!(far.room == 0 || far.wants_room, "stuck with room");
            } else if !self.session.has_ended(side) {
                assert!(socket.incoming.is_empty() && !socket.peer_ended && !socket.is_broken(), "stuck with bytes");
            } else if socket.peer_ended {
                assert_eq!(far.shutdowns, 1, "the end was kept");
            }
        }
    }

    fn step(&mut self) {
        let side = if self.rng.bool() { Side::Client } else { Side::Endpoint };
        match self.rng.u8(..4) {
            0 | 1 => self.peer_acts(side),
            2 => self.deliver(side),
            _ if self.queued => self.run(),
            _ => {}
        }
    }

    /// The peers end what they have to say and take everything: nothing may be left.
    fn settle(&mut self) {
        for socket in &mut self.sockets {
            if !socket.is_broken() {
                socket.peer_ended = true;
                socket.room += 1_000_000;
                socket.wants_room = false;
                socket.raise();
            }
        }
        for _ in 0..10_000 {
            if self.over.is_some() {
                return;
            }
            Side::BOTH.into_iter().for_each(|side| self.deliver(side));
            assert!(self.queued, "stuck");
            self.run();
        }
        panic!("never over");
    }
}

#[test]
fn random_interleavings_lose_nothing_and_never_stick() {
    let base = fastrand::u64(..);
    println!("seed {base}");
    let (mut closed, mut reset, mut spliced) = (0, 0, 0);
    for round in 0..4_000 {
        let seed = base.wrapping_add(round);
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.step();
            if world.over.is_some() {
                break;
            }
        }
        world.settle();
        spliced += u32::from(world.session.is_spliced());
        let broken = world.sockets.iter().any(Socket::is_broken);
        match world.over {
            Some(Over::Closed) => {
                assert!(!broken || world.resets, "seed {seed}");
                closed += 1;
                for side in Side::BOTH {
                    let sink = &world.sockets[side.other().place()];
                    assert_eq!(sink.outgoing, world.sockets[side.place()].sent, "seed {seed}");
                }
            }
            Some(Over::Reset { by }) => {
                reset += 1;
                assert!(world.sockets[by.place()].is_broken(), "seed {seed}");
            }
            None => unreachable!("settled"),
        }
    }
    assert!(closed > 500 && reset > 200 && spliced > 500, "{closed} closed, {reset} reset, {spliced} spliced");
}

/// A session that was read from and written to until it waits, with both sockets watched.
fn waiting() -> Session {
    let mut session = Session::new(0);
    for side in Side::BOTH {
        assert_eq!(session.next(&WHOLE), Step::Watch { side, writes: false });
        session.watched(side, false);
    }
    assert_eq!(session.next(&WHOLE), Step::Wait);
    session
}

const WHOLE: Turn = Turn::new(1 << 20, 100);
const READABLE: Readiness = Readiness { readable: true, writable: false, drains: false, fault: false };

#[test]
fn a_small_message_is_one_read_and_one_write() {
    let mut session = waiting();
    session.ready(Side::Client, READABLE);
    assert_eq!(session.next(&WHOLE), Step::Read { from: Side::Client, by: Method::Copy });
    session.read(Side::Client, Method::Copy, Got::Bytes { count: 9, drained: true }, &mut WHOLE.clone());
    assert_eq!(session.next(&WHOLE), Step::Write { to: Side::Endpoint, by: Method::Copy });
    session.wrote(Side::Endpoint, Put::Bytes { count: 9, full: false });
    assert_eq!(session.next(&WHOLE), Step::Wait);
}

#[test]
fn an_end_behind_the_bytes_is_read_at_once() {
    let mut session = waiting();
    session.ready(Side::Client, Readiness { drains: true, ..READABLE });
    session.read(Side::Client, Method::Copy, Got::Bytes { count: 9, drained: true }, &mut WHOLE.clone());
    session.wrote(Side::Endpoint, Put::Bytes { count: 9, full: false });
    assert_eq!(session.next(&WHOLE), Step::Read { from: Side::Client, by: Method::Copy });
}

#[test]
fn what_fills_the_buffer_is_spliced_until_little_comes() {
    let mut session = waiting();
    let endpoint = Side::Endpoint;
    let read = |session: &mut Session, by, got| {
        session.ready(endpoint, READABLE);
        assert_eq!(session.next(&WHOLE), Step::Read { from: endpoint, by });
        session.read(endpoint, by, got, &mut WHOLE.clone());
        if let Got::Bytes { count, .. } = got {
            session.wrote(Side::Client, Put::Bytes { count, full: false });
        }
    };
    read(&mut session, Method::Copy, Got::Bytes { count: 65_536, drained: false });
    read(&mut session, Method::Splice, Got::Bytes { count: 100_000, drained: false });
    read(&mut session, Method::Splice, Got::Nothing);
    read(&mut session, Method::Splice, Got::Bytes { count: 500, drained: false });
    read(&mut session, Method::Splice, Got::Nothing);
    read(&mut session, Method::Copy, Got::Bytes { count: 500, drained: true });
    // The other direction had no part in it.
    session.ready(Side::Client, READABLE);
    assert_eq!(session.next(&WHOLE), Step::Read { from: Side::Client, by: Method::Copy });
}

#[test]
fn a_splice_that_ends_may_only_have_come_to_an_urgent_mark() {
    let mut session = waiting();
    let endpoint = Side::Endpoint;
    for got in [Got::Nothing, Got::End] {
        session.ready(endpoint, Readiness { drains: true, ..READABLE });
        session.read(endpoint, Method::Copy, Got::Bytes { count: 65_536, drained: false }, &mut WHOLE.clone());
        session.wrote(Side::Client, Put::Bytes { count: 65_536, full: false });
        assert_eq!(session.next(&WHOLE), Step::Read { from: endpoint, by: Method::Splice });
        session.read(endpoint, Method::Splice, got, &mut WHOLE.clone());
        assert_eq!(session.next(&WHOLE), Step::Read { from: endpoint, by: Method::Copy });
    }
}

#[test]
fn what_a_side_said_before_it_broke_off_is_passed_on_first() {
    let mut session = waiting();
    let mut turn = WHOLE;
    // The client's request meets a connection that the endpoint has answered on and reset.
    session.ready(Side::Client, READABLE);
    session.read(Side::Client, Method::Copy, Got::Bytes { count: 9, drained: true }, &mut turn);
    session.wrote(Side::Endpoint, Put::Failed);
    assert_eq!(session.next(&WHOLE), Step::Read { from: Side::Endpoint, by: Method::Copy });
    session.read(Side::Endpoint, Method::Copy, Got::Bytes { count: 100, drained: true }, &mut turn);
    assert_eq!(session.next(&WHOLE), Step::Write { to: Side::Client, by: Method::Copy });
    session.wrote(Side::Client, Put::Bytes { count: 100, full: false });
    session.read(Side::Endpoint, Method::Copy, Got::End, &mut turn);
    assert_eq!(session.next(&WHOLE), Step::Over(Over::Reset { by: Side::Endpoint }));
}

#[test]
fn a_side_that_breaks_off_after_its_end_is_noticed() {
    let mut session = waiting();
    session.ready(Side::Client, Readiness { drains: true, ..READABLE });
    session.read(Side::Client, Method::Copy, Got::End, &mut WHOLE.clone());
    assert_eq!(session.next(&WHOLE), Step::Finish { to: Side::Endpoint });
    session.finished(Side::Endpoint, true);
    assert_eq!(session.next(&WHOLE), Step::Wait);
    session.ready(Side::Client, Readiness { fault: true, ..READABLE });
    assert_eq!(session.next(&WHOLE), Step::Inspect { side: Side::Client });
    session.inspected(Side::Client, true);
    assert_eq!(session.next(&WHOLE), Step::Over(Over::Reset { by: Side::Client }));
}

#[test]
fn a_turn_ends_with_what_was_read_written() {
    let mut session = waiting();
    session.ready(Side::Client, READABLE);
    let mut turn = Turn::new(10, 100);
    session.read(Side::Client, Method::Copy, Got::Bytes { count: 16, drained: false }, &mut turn);
    assert_eq!(session.next(&turn), Step::Write { to: Side::Endpoint, by: Method::Copy });
    session.wrote(Side::Endpoint, Put::Bytes { count: 16, full: false });
    assert_eq!(session.next(&turn), Step::Yield);
}

#[test]
fn is_small() {
    assert!(size_of::<Session>() <= 72, "{}", size_of::<Session>());
}
