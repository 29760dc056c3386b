//! `mode = "udp"` on one worker: sockets that receive datagrams from clients, and a socket to an endpoint for each
//! flow. Datagrams are received and sent in batches and never queued: what a socket does not accept at once is dropped
//! and counted. Driven by the event loop, which supplies readiness and time.

mod arrival;
mod forward;
mod hellos;
mod outbox;
mod relay;
mod relays;

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use mio::Registry;

use self::outbox::Outbox;
use self::relays::{Clock, Relays};
use super::flow::{FlowId, GroupId};
use super::listener::L4Listener;
use super::token::Source;
use crate::base::id::SocketId;
use crate::base::limit::Limit;
use crate::net::bind::{BoundSocket, Group};
use crate::net::datagram::{Inbox, ROOM};
use crate::telemetry::WorkerTelemetry;

/// Everything of `mode = "udp"` on one worker.
pub struct Udp {
    relays: Relays,
    inbox: Inbox,
    outbox: Outbox,
    /// Whose turn ended before their datagrams did.
    again: VecDeque<Source>,
}

/// Messages that one socket may bring before others have their turn.
const TURN: usize = 4 * ROOM;
/// Messages that are asked of a flow's socket at first: most have one answer, and asking for more than come is not free.
const FEW: usize = 8;

impl Udp {
    /// Without sockets.
    ///
    /// # Errors
    /// The system gives no socket for datagrams.
    pub fn new(telemetry: Arc<WorkerTelemetry>, process_limit: Arc<Limit>, now: Instant) -> io::Result<Self> {
        Ok(Self {
            relays: Relays::new(telemetry, process_limit, now),
            inbox: Inbox::new()?,
            outbox: Outbox::new(Inbox::new()?),
            again: VecDeque::new(),
        })
    }

    /// Takes datagrams from a socket; `open` is dropped when it is closed.
    ///
    /// # Errors
    /// It is no socket for datagrams, or cannot be watched.
    pub fn listen(
        &mut self,
        registry: &Registry,
        id: SocketId,
        listener: Rc<L4Listener>,
        socket: BoundSocket,
        open: Arc<Group>,
    ) -> io::Result<()> {
        self.relays.listen(registry, id, listener, socket, open)
    }

    /// Puts a generation in force on a socket that is there already; says whether it is. The flows that are open keep what they
    /// began with, but not their deadlines.
    pub fn renew(&mut self, id: SocketId, listener: Rc<L4Listener>) -> bool {
        self.relays.renew(id, listener)
    }

    /// The sockets that are there and not on their way out.
    pub fn sockets(&self) -> Vec<SocketId> {
        self.relays.listening()
    }

    /// Lets no further client have a flow on this socket. Those that are open end by themselves, soon where they are silent;
    /// then the socket is closed.
    pub fn drain(&mut self, id: SocketId) {
        self.outbox.flush(&self.relays);
        self.relays.drain(id);
    }

    /// Flows to endpoints that are no longer among those of their upstream move with the client's next datagram. To be called
    /// when endpoints changed.
    pub fn endpoints_changed(&mut self) {
        self.relays.leave_what_is_gone();
    }

    /// A socket has something to tell.
    pub fn ready(&mut self, registry: &Registry, source: Source, now: Instant) {
        let clock = self.relays.clock(now);
        match source {
            Source::Datagrams(number) => self.take_in(registry, GroupId(number), clock),
            Source::Flow(number) => self.take_answers(FlowId(number), clock),
            _ => {}
        }
    }

    /// Sends what was gathered, and gives those a turn whose last one ended early. To be called after a batch of events; `true`:
    /// once more before waiting for events.
    pub fn turn(&mut self, registry: &Registry, now: Instant) -> bool {
        for _ in 0..self.again.len() {
            if let Some(source) = self.again.pop_front() {
                self.ready(registry, source, now);
            }
        }
        self.outbox.flush(&self.relays);
        !self.again.is_empty()
    }

    /// Ends flows whose time is up, and says when to look again; `None`: there is nothing to wait for.
    pub fn expire(&mut self, registry: &Registry, now: Instant) -> Option<Instant> {
        self.outbox.flush(&self.relays);
        self.relays.expire(registry, self.relays.clock(now))
    }

    /// Whether there is no socket any more.
    pub fn is_empty(&self) -> bool {
        self.relays.is_empty()
    }

    /// Ends every flow and closes every socket.
    pub fn cut(&mut self, now: Instant) {
        self.outbox.flush(&self.relays);
        self.relays.cut(self.relays.clock(now));
    }

    /// From clients to endpoints.
    fn take_in(&mut self, registry: &Registry, group: GroupId, clock: Clock) {
        let mut turn = 0;
        while let Some(socket) = self.relays.socket(group) {
            match self.inbox.receive(socket, 0, ROOM) {
                Ok(count) => {
                    self.relays.arrived(registry, group, &self.inbox, count, clock);
                    turn += count;
                    if count < ROOM {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // One that a send of ours left behind; it says nothing about what waits.
                Err(error) => tracing::debug!(%error, "cannot receive datagrams from clients"),
            }
            turn += 1;
            if turn >= TURN {
                return self.again.push_back(Source::Datagrams(group.0));
            }
        }
    }

    /// From an endpoint to its client.
    fn take_answers(&mut self, id: FlowId, clock: Clock) {
        let mut turn = 0;
        let mut asked = FEW;
        while let Some((group, socket)) = self.relays.endpoint_of(id) {
            let kept = self.outbox.prepare(&self.relays, group, asked);
            match self.outbox.inbox.receive(socket, kept, asked) {
                Ok(count) => {
                    self.relays.answered(id, &mut self.outbox, count, clock);
                    turn += count;
                    if count < asked {
                        return;
                    }
                    self.relays.put_together(id);
                    asked = ROOM;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => self.relays.failed(id, &error, clock),
            }
            turn += 1;
            if turn >= TURN {
                return self.again.push_back(Source::Flow(id.0));
            }
        }
    }
}

#[cfg(test)]
mod tests;
