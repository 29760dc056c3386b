//! How a server leaves a connection without losing a request (RFC 9114 §5.2): it says that it will go, then which
//! requests were its last, and closes when those are answered.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::control::Order;
use super::error::{Code, Error};
use crate::net::timer::Timer;

/// Where it stands.
#[derive(Debug)]
pub(super) struct Departure {
    step: Step,
    /// The first stream that was not accepted.
    next: u64,
}

#[derive(Debug)]
enum Step {
    Stays,
    /// Requests that are on their way already are still accepted.
    Announced(Timer),
    /// Nothing is accepted any more.
    Refuses,
    /// Everything was answered; the last of it is on its way. With the frames of streams that were sent when that was
    /// last looked at.
    Lingers(Timer, u64),
}

impl Departure {
    pub(super) fn new() -> Self {
        Self { step: Step::Stays, next: 0 }
    }

    /// Whether a request on `stream` is still served.
    pub(super) fn accepts(&mut self, stream: u64) -> bool {
        let accepts = matches!(self.step, Step::Stays | Step::Announced(_));
        if accepts {
            self.next = self.next.max(stream + 4);
        }
        accepts
    }

    /// Carries out what the connection's owner asked for. Ready when the connection is closed for it.
    pub(super) fn poll(&mut self, connection: &Connection, cx: &mut Context<'_>) -> Poll<Error> {
        connection.control.watch(cx);
        match connection.control.current_order() {
            Order::Serve => return Poll::Pending,
            Order::Close(code) => {
                return close(connection, Error::connection(code, "the connection was closed on this side"));
            }
            Order::Drain => {}
        }
        let rtt = connection.quinn.rtt();
        loop {
            self.step = match &self.step {
                Step::Stays => {
                    connection.say_goaway(LAST);
                    Step::Announced(after((rtt * 2).clamp(SHORTEST, LONGEST)))
                }
                Step::Announced(timer) => {
                    if timer.poll_expired(cx).is_pending() {
                        return Poll::Pending;
                    }
                    connection.say_goaway(self.next);
                    Step::Refuses
                }
                Step::Refuses if connection.control.open() > 0 => return Poll::Pending,
                // Closing discards what the peer has not acknowledged: lost packets are sent again until then. A
                // client that has nothing left to wait for closes first.
                Step::Refuses => linger(connection),
                Step::Lingers(timer, sent) => {
                    if timer.poll_expired(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if frames(connection) == *sent {
                        return close(connection, Error::connection(Code::NO_ERROR, "everything asked was answered"));
                    }
                    // What the transport has taken leaves it a window at a time, for as long as the link needs.
                    linger(connection)
                }
            };
        }
    }
}

fn close(connection: &Connection, error: Error) -> Poll<Error> {
    connection.fail(error);
    Poll::Ready(error)
}

fn linger(connection: &Connection) -> Step {
    Step::Lingers(after((connection.quinn.rtt() * 4).clamp(SHORTEST * 4, LONGEST)), frames(connection))
}

/// Frames of streams that were sent so far, again where they were lost.
fn frames(connection: &Connection) -> u64 {
    connection.quinn.stats().frame_tx.stream
}

fn after(duration: Duration) -> Timer {
    let timer = Timer::new();
    timer.set(Instant::now() + duration);
    timer
}

/// The largest id of a request: nothing is refused yet.
const LAST: u64 = (1 << 62) - 4;
const SHORTEST: Duration = Duration::from_millis(25);
const LONGEST: Duration = Duration::from_secs(1);
