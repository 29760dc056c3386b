//! Relays bytes between two ends, at least one of which is a QUIC stream: with back-pressure for each stream,
//! equivalent endings on both sides, an idle timeout, and a buffer only while bytes are in transit. Called by `serve`
//! for each session. `docs/quic-streams.md` documents it.

mod direction;
pub mod end;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::base::drain::Flag;
use crate::base::stream_code::StreamCode;
use crate::net::timer::{Instant, Timer};
use direction::{Broken, Direction, Place};
use end::End;

/// One side of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The endpoint's.
    Upstream,
}

/// Why a relay came to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Over<S> {
    /// Both sides ended what they sent, and everything was passed on.
    Closed,
    /// Both directions ended, one at least since that side cut it with the code. It was passed on.
    Cut(Side, u64),
    /// That side is gone; the other is to be cut with the code.
    Broken(Side, u64),
    /// Nothing moved for the idle time. The side that was waited for, and whether bytes were held for it.
    Idle(Side, bool),
    /// The stop signal came, with this.
    Stopped(S),
}

/// Two ends and what is on its way between them. Whatever is not over when it is dropped is cut.
pub struct Relay {
    downstream: End,
    upstream: Option<End>,
    up: Direction,
    down: Direction,
    /// The side whose bytes came last.
    last_heard: Side,
    first_cut: Option<(Side, u64)>,
}

/// Whether what a client sends first is kept until its endpoint shows a sign; see [`Relay::take_back`].
#[derive(Clone, Debug)]
pub enum Keeps {
    /// Not.
    Nothing,
    /// As long as it is not too much.
    First,
    /// No more is taken than can be kept, until the flag is raised; from then on as the other.
    AllUntil(Rc<Flag>),
}

/// How much of what a client sent is kept until its endpoint shows a sign, to be sent to another where that one refuses.
const REPLAY: usize = 16 * 1024;

impl Relay {
    /// A relay that has its client's end.
    pub fn new(downstream: End) -> Self {
        Self {
            downstream,
            upstream: None,
            up: Direction::new(),
            down: Direction::new(),
            last_heard: Side::Downstream,
            first_cut: None,
        }
    }

    /// The same where the client only sends.
    pub fn upward(downstream: End) -> Self {
        let mut relay = Self::new(downstream);
        relay.down.end();
        relay
    }

    /// The same where the client only receives.
    pub fn downward(downstream: End) -> Self {
        let mut relay = Self::new(downstream);
        relay.up.end();
        relay
    }

    /// Gives it its endpoint's end, which gets `preface` before anything of the client's.
    pub fn join(&mut self, upstream: End, preface: Vec<u8>, keeps: Keeps) {
        self.up.begin(preface, keeps, REPLAY);
        self.upstream = Some(upstream);
    }

    /// Bytes that the endpoint got, and that the client got.
    pub fn moved(&self) -> (u64, u64) {
        (self.up.moved(), self.down.moved())
    }

    /// Parts with an endpoint that refused with `code`, where nothing is lost by it: it processed nothing, and everything
    /// the client sent is still at hand. True: it may [join](Relay::join) another.
    pub fn take_back(&mut self, code: u64) -> bool {
        let refused = StreamCode::of(code).is_some_and(StreamCode::is_unprocessed);
        if !refused || !self.up.take_back() {
            return false;
        }
        if let Some(mut upstream) = self.upstream.take() {
            upstream.cut(code);
        }
        true
    }

    /// Cuts what has not ended of either end.
    pub fn cut(&mut self, code: u64) {
        self.downstream.cut(code);
        if let Some(upstream) = &mut self.upstream {
            upstream.cut(code);
        }
    }

    /// Waits until the peers of its streams have all that was sent to them; to be called when it is over, by whoever might
    /// close a connection then.
    pub async fn taken(&mut self) {
        self.downstream.taken().await;
        if let Some(upstream) = &mut self.upstream {
            upstream.taken().await;
        }
    }

    /// Relays until both directions have ended, one side is gone, nothing moves for `idle`, or `stop` is ready. `tell` is
    /// told, as they move, the bytes that the endpoint and the client got.
    ///
    /// Not cancel-safe: dropped, bytes on their way are lost, and both ends are to be cut.
    pub async fn run<S>(
        &mut self,
        idle: Duration,
        stop: impl Future<Output = S>,
        mut tell: impl FnMut(u64, u64),
    ) -> Over<S> {
        let timer = Timer::new();
        let mut last = Instant::now();
        let mut stop = pin!(stop);
        timer.set(last + idle);
        poll_fn(|cx| {
            let before = (self.up.progress(), self.down.progress());
            let moved = self.moved();
            let polled = self.poll(cx);
            let after = self.moved();
            if moved != after {
                tell(after.0.saturating_sub(moved.0), after.1.saturating_sub(moved.1));
            }
            if let Poll::Ready(over) = polled {
                return Poll::Ready(over);
            }
            if let Poll::Ready(stopped) = stop.as_mut().poll(cx) {
                return Poll::Ready(Over::Stopped(stopped));
            }
            if before != (self.up.progress(), self.down.progress()) {
                last = Instant::now();
            }
            // The timer is only moved when it fires, not for every byte that moves.
            while timer.poll_expired(cx).is_ready() {
                if Instant::now() >= last + idle {
                    return Poll::Ready(self.silence());
                }
                timer.set(last + idle);
            }
            Poll::Pending
        })
        .await
    }

    fn poll<S>(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Over<S>> {
        let Some(upstream) = &mut self.upstream else { return Poll::Pending };
        let heard = (self.up.heard(), self.down.heard());
        // While everything can be sent again, a refusal is the caller's to judge before the client hears of it.
        let keeps = self.up.keeps();
        let judge = move |code: u64| keeps && StreamCode::of(code).is_some_and(StreamCode::is_unprocessed);
        match self.up.poll(cx, &mut self.downstream, upstream, |place, code| place == Place::Sink && judge(code)) {
            Poll::Ready(Err(Broken { place: Place::Source, code })) => {
                return Poll::Ready(Over::Broken(Side::Downstream, code));
            }
            Poll::Ready(Err(Broken { place: Place::Sink, code })) => {
                return Poll::Ready(Over::Broken(Side::Upstream, code));
            }
            _ => {}
        }
        match self.down.poll(cx, upstream, &mut self.downstream, |place, code| place == Place::Source && judge(code)) {
            Poll::Ready(Err(Broken { place: Place::Source, code })) => {
                return Poll::Ready(Over::Broken(Side::Upstream, code));
            }
            Poll::Ready(Err(Broken { place: Place::Sink, code })) => {
                return Poll::Ready(Over::Broken(Side::Downstream, code));
            }
            _ => {}
        }
        if self.down.heard() != heard.1 {
            self.last_heard = Side::Upstream;
            self.up.forget();
        } else if self.up.heard() != heard.0 {
            self.last_heard = Side::Downstream;
        }
        let cut_up = self
            .up
            .cut()
            .map(|(place, code)| (if place == Place::Source { Side::Downstream } else { Side::Upstream }, code));
        let cut_down = self
            .down
            .cut()
            .map(|(place, code)| (if place == Place::Source { Side::Upstream } else { Side::Downstream }, code));
        self.first_cut = self.first_cut.or(cut_up).or(cut_down);
        // What is only thrown away any more is not worth waiting for.
        if self.up.is_over() && self.down.is_over()
            || self.up.is_over() && self.down.is_thrown_away()
            || self.up.is_thrown_away() && self.down.is_over()
        {
            return Poll::Ready(match self.first_cut {
                None => Over::Closed,
                Some((side, code)) => Over::Cut(side, code),
            });
        }
        Poll::Pending
    }

    fn silence<S>(&self) -> Over<S> {
        if self.up.holds() {
            Over::Idle(Side::Upstream, true)
        } else if self.down.holds() {
            Over::Idle(Side::Downstream, true)
        } else if self.last_heard == Side::Downstream {
            Over::Idle(Side::Upstream, false)
        } else {
            Over::Idle(Side::Downstream, false)
        }
    }
}

#[cfg(test)]
mod tests;
