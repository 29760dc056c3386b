//! One direction of a relay: the bytes that were read and not written yet, and its state.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::Keeps;
use super::end::{End, Fault};
use crate::base::drain::Flag;
use crate::net::buffers::{BUFFER_SIZE, Buffer, return_buffer, take_buffer};

/// From one end to the other.
pub(super) struct Direction {
    held: Held,
    /// Bytes the sink took.
    moved: u64,
    /// Counts whatever moved, so that the idle deadline sees it.
    progress: u64,
    /// Counts what the source said, its end included.
    heard: u64,
    state: State,
    kept: Option<Kept>,
}

/// What was read so far, where all of it may have to be sent once more.
struct Kept {
    bytes: Vec<u8>,
    /// How much it may become.
    most: usize,
    /// Until this is raised nothing is read past `most`; then nothing is kept past it.
    until: Option<Rc<Flag>>,
}

enum Held {
    Nothing,
    Read {
        buffer: Buffer,
        start: usize,
        end: usize,
    },
    /// What goes before everything else.
    Preface {
        bytes: Vec<u8>,
        start: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The source has ended; the sink is to know.
    Finishing,
    /// The sink wants no more. A socket cannot be told so without cutting its other direction too: it is read from, and
    /// what comes is thrown away.
    ThrownAway(u64),
    Ended,
    /// Cut by the peer at that place.
    Cut(Place, u64),
}

/// Where in a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Source,
    Sink,
}

/// An end is gone, in both directions.
pub(super) struct Broken {
    pub(super) place: Place,
    pub(super) code: u64,
}

/// Bytes of one turn: others have theirs in between.
const TURN: usize = 16 * BUFFER_SIZE;

impl Direction {
    pub(super) fn new() -> Self {
        Self { held: Held::Nothing, moved: 0, progress: 0, heard: 0, state: State::Open, kept: None }
    }

    /// Begins towards a new sink: `preface` first, then what was taken back. `keeps`: how much may be taken back once more.
    pub(super) fn begin(&mut self, mut preface: Vec<u8>, keeps: Keeps, most: usize) {
        let bytes = self.kept.take().map(|kept| kept.bytes).unwrap_or_default();
        preface.extend_from_slice(&bytes);
        self.kept = match keeps {
            Keeps::Nothing => None,
            Keeps::First => Some(Kept { bytes, most, until: None }),
            Keeps::AllUntil(flag) => Some(Kept { bytes, most, until: Some(flag) }),
        };
        if !preface.is_empty() {
            self.hold(Held::Preface { bytes: preface, start: 0 });
        }
    }

    /// Whether everything that was read is still at hand.
    pub(super) fn keeps(&self) -> bool {
        self.kept.is_some()
    }

    /// From now on nothing is kept.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// Makes as if nothing had been written, where that can be; see [`Direction::begin`].
    pub(super) fn take_back(&mut self) -> bool {
        if self.kept.is_none() {
            return false;
        }
        self.hold(Held::Nothing);
        self.moved = 0;
        self.state = match self.state {
            State::Open | State::Cut(Place::Sink, _) => State::Open,
            State::Finishing | State::Ended => State::Finishing,
            State::ThrownAway(_) | State::Cut(Place::Source, _) => return false,
        };
        true
    }

    /// There is nothing in this direction.
    pub(super) fn end(&mut self) {
        self.state = State::Ended;
    }

    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    pub(super) fn progress(&self) -> u64 {
        self.progress
    }

    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    pub(super) fn holds(&self) -> bool {
        !matches!(self.held, Held::Nothing)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Ended | State::Cut(..))
    }

    pub(super) fn is_thrown_away(&self) -> bool {
        matches!(self.state, State::ThrownAway(_))
    }

    pub(super) fn cut(&self) -> Option<(Place, u64)> {
        match self.state {
            State::Cut(place, code) => Some((place, code)),
            State::ThrownAway(code) => Some((Place::Sink, code)),
            _ => None,
        }
    }

    /// Ready when it is over, or an end is gone. `judge` says of a code at a place that it is to be taken for the latter.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut End,
        sink: &mut End,
        judge: impl Fn(Place, u64) -> bool,
    ) -> Poll<Result<(), Broken>> {
        let until = self.moved + TURN as u64;
        loop {
            if self.moved >= until {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let fault = match self.state {
                State::Open => match self.step(cx, source, sink) {
                    Ok(Poll::Ready(())) => continue,
                    Ok(Poll::Pending) => return Poll::Pending,
                    Err(fault) => fault,
                },
                State::Finishing => match self.finish(cx, sink) {
                    Ok(Poll::Ready(())) => continue,
                    Ok(Poll::Pending) => return Poll::Pending,
                    Err(fault) => fault,
                },
                State::ThrownAway(code) => match ready!(self.throw_away(cx, source)) {
                    Ok(()) => {
                        self.state = State::Cut(Place::Sink, code);
                        continue;
                    }
                    Err(fault) => (Place::Source, fault),
                },
                State::Ended | State::Cut(..) => return Poll::Ready(Ok(())),
            };
            self.progress += 1;
            match fault {
                (place, Fault::Broken(code)) => return Poll::Ready(Err(Broken { place, code })),
                (place, Fault::Cut(code)) if judge(place, code) => return Poll::Ready(Err(Broken { place, code })),
                // RESET_STREAM. A TCP connection knows no half of a reset: it is broken off as a whole.
                (Place::Source, Fault::Cut(code)) => {
                    self.heard += 1;
                    self.hold(Held::Nothing);
                    self.state = State::Cut(Place::Source, code);
                    if !sink.is_stream() {
                        return Poll::Ready(Err(Broken { place: Place::Source, code }));
                    }
                    sink.reset_sending(code);
                }
                (Place::Sink, Fault::Cut(code)) => {
                    self.hold(Held::Nothing);
                    // RFC 9000 §3.5: who gets STOP_SENDING answers with RESET_STREAM, with the same code.
                    sink.reset_sending(code);
                    self.state = if source.is_stream() {
                        source.stop_receiving(code);
                        State::Cut(Place::Sink, code)
                    } else {
                        State::ThrownAway(code)
                    };
                }
            }
        }
    }

    fn step(&mut self, cx: &mut Context<'_>, source: &mut End, sink: &mut End) -> Result<Poll<()>, (Place, Fault)> {
        let at_sink = |fault| (Place::Sink, fault);
        if self.write(cx, sink).map_err(at_sink)?.is_pending() {
            return Ok(Poll::Pending);
        }
        let room = self.room();
        if room == 0 {
            return Ok(Poll::Pending);
        }
        let mut buffer = take_buffer();
        match source.poll_read(cx, &mut buffer[..room]) {
            Poll::Ready(Ok(0)) => {
                return_buffer(buffer);
                self.heard += 1;
                self.progress += 1;
                self.state = State::Finishing;
            }
            Poll::Ready(Ok(length)) => {
                self.keep(&buffer[..length]);
                self.heard += 1;
                self.progress += 1;
                self.held = Held::Read { buffer, start: 0, end: length };
            }
            Poll::Ready(Err(fault)) => {
                return_buffer(buffer);
                return Err((Place::Source, fault));
            }
            Poll::Pending => {
                return_buffer(buffer);
                // Asked only now: a sink that is written to tells it by itself.
                return match sink.poll_stopped(cx) {
                    Poll::Ready(fault) => Err(at_sink(fault)),
                    Poll::Pending => Ok(Poll::Pending),
                };
            }
        }
        Ok(Poll::Ready(()))
    }

    fn finish(&mut self, cx: &mut Context<'_>, sink: &mut End) -> Result<Poll<()>, (Place, Fault)> {
        let at_sink = |fault| (Place::Sink, fault);
        if self.write(cx, sink).map_err(at_sink)?.is_pending() {
            return Ok(Poll::Pending);
        }
        match sink.poll_finish(cx) {
            Poll::Ready(Ok(())) => {
                self.progress += 1;
                self.state = State::Ended;
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(fault)) => Err(at_sink(fault)),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Writes what is held; ready when nothing is.
    fn write(&mut self, cx: &mut Context<'_>, sink: &mut End) -> Result<Poll<()>, Fault> {
        loop {
            let bytes = match &self.held {
                Held::Nothing => return Ok(Poll::Ready(())),
                Held::Read { buffer, start, end } => &buffer[*start..*end],
                Held::Preface { bytes, start } => &bytes[*start..],
            };
            let length = bytes.len();
            let Poll::Ready(written) = sink.poll_write(cx, bytes)? else { return Ok(Poll::Pending) };
            self.moved += written as u64;
            self.progress += 1;
            match &mut self.held {
                _ if written == length => self.hold(Held::Nothing),
                Held::Read { start, .. } | Held::Preface { start, .. } => *start += written,
                Held::Nothing => {}
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            if kept.bytes.len() + bytes.len() > kept.most {
                self.kept = None;
            } else {
                kept.bytes.extend_from_slice(bytes);
            }
        }
    }

    /// How much may be read.
    fn room(&self) -> usize {
        match &self.kept {
            Some(Kept { bytes, most, until: Some(until) }) if !until.is_raised() => {
                most.saturating_sub(bytes.len()).min(BUFFER_SIZE)
            }
            _ => BUFFER_SIZE,
        }
    }

    fn throw_away(&mut self, cx: &mut Context<'_>, source: &mut End) -> Poll<Result<(), Fault>> {
        let mut buffer = take_buffer();
        let ended = loop {
            match source.poll_read(cx, &mut buffer[..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(fault)) => break Poll::Ready(Err(fault)),
                Poll::Pending => break Poll::Pending,
            }
        };
        return_buffer(buffer);
        ended
    }

    fn hold(&mut self, held: Held) {
        if let Held::Read { buffer, .. } = std::mem::replace(&mut self.held, held) {
            return_buffer(buffer);
        }
    }
}

impl Drop for Direction {
    fn drop(&mut self) {
        self.hold(Held::Nothing);
    }
}
