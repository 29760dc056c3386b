//! A layer 4 worker: an OS thread with its own event loop, listening sockets, sessions and flows. Everything in here
//! belongs to this thread; the control thread sends it commands (`command`).

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Poll, Waker};
use slab::Slab;
use tracing::{debug, error};

use super::accept::{Acceptor, Batch};
use super::command::{Apply, Command, Orders, Setup};
use super::listener::L4Listener;
use super::session::{Readiness, Side};
use super::tcp::Tcp;
use super::token::Source;
use super::udp::Udp;
use super::upstreams::L4Upstream;
use crate::base::id::SocketId;
use crate::net::bind::{BoundSocket, Group};
use crate::snapshot::{ListenerSpec, Listening, Opened, Snapshot};
use crate::telemetry::access_log::Logger;
use crate::upstream::endpoint_set::EndpointSet;

/// How often a worker shows that it runs.
const BEAT: Duration = Duration::from_secs(1);
/// Events that are taken from the kernel at once.
const EVENTS: usize = 512;

struct Worker {
    setup: Setup,
    poll: Poll,
    commands: Receiver<Command>,
    acceptors: Slab<Acceptor>,
    /// Of the generation in force.
    places: BTreeMap<SocketId, usize>,
    upstreams: Rc<[Rc<L4Upstream>]>,
    logger: Option<Rc<Logger>>,
    /// Ends of access logs that are no longer in force, while sessions write to them.
    retired: Vec<Rc<Logger>>,
    tcp: Tcp,
    /// Made with the first socket for datagrams.
    udp: Option<Udp>,
    leaving: Leaving,
    beat: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    Stays,
    WhenEmpty,
    Now,
}

/// Starts a worker's thread with its first generation. `left` is told its number when it leaves, however that comes.
///
/// # Errors
/// The system has no thread or no descriptor for it. What becomes of the generation is told through `first.applied`.
pub fn spawn(setup: Setup, first: Apply, left: Box<dyn FnOnce(usize) + Send>) -> io::Result<(JoinHandle<()>, Orders)> {
    let poll = Poll::new()?;
    let (orders, commands) = Orders::new(Waker::new(poll.registry(), Source::Orders.token())?);
    let thread = std::thread::Builder::new().name(format!("l4-{}", setup.id)).spawn(move || {
        let _left = Left { worker: setup.id, told: Some(left) };
        let mut worker = Worker::new(setup, poll, commands);
        worker.apply(first);
        worker.run();
    })?;
    Ok((thread, orders))
}

/// Tells that a worker left, also where a fault of ours unwinds its thread.
struct Left {
    worker: usize,
    told: Option<Box<dyn FnOnce(usize) + Send>>,
}

impl Drop for Left {
    fn drop(&mut self) {
        if let Some(told) = self.told.take() {
            told(self.worker);
        }
    }
}

impl Worker {
    fn new(setup: Setup, poll: Poll, commands: Receiver<Command>) -> Self {
        let now = Instant::now();
        setup.telemetry.beat_first();
        let tcp = Tcp::new(Arc::clone(&setup.telemetry), now);
        Self {
            setup,
            poll,
            commands,
            acceptors: Slab::new(),
            places: BTreeMap::new(),
            upstreams: Rc::new([]),
            logger: None,
            retired: Vec::new(),
            tcp,
            udp: None,
            leaving: Leaving::Stays,
            beat: now + BEAT,
        }
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut wait = Some(Duration::ZERO);
        while !self.is_done() {
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    error!(worker = self.setup.id, %error, "the layer 4 event loop failed");
                    return;
                }
                _ => {}
            }
            let now = Instant::now();
            for event in &events {
                self.event(event, now);
            }
            self.carry_out();
            self.accept(now);
            self.tcp.take_turns(self.poll.registry(), now);
            let more = self.udp.as_mut().is_some_and(|udp| udp.turn(self.poll.registry(), now));
            let next = self.expire(now);
            let again = more || self.tcp.has_turns();
            wait = Some(if again { Duration::ZERO } else { next.saturating_duration_since(now) });
        }
        debug!(worker = self.setup.id, "worker stopped");
    }

    fn is_done(&self) -> bool {
        match self.leaving {
            Leaving::Stays => false,
            Leaving::WhenEmpty => {
                let has_flows = self.udp.as_ref().is_some_and(|udp| !udp.is_empty());
                self.acceptors.is_empty() && self.tcp.is_empty() && !has_flows
            }
            Leaving::Now => true,
        }
    }

    fn event(&mut self, event: &Event, now: Instant) {
        let (key, side) = match Source::of(event.token()) {
            Some(Source::Client(key)) => (key, Side::Client),
            Some(Source::Endpoint(key)) => (key, Side::Endpoint),
            Some(Source::Listener(number)) => {
                if let Some(acceptor) = self.acceptors.get_mut(number as usize) {
                    acceptor.ready();
                }
                return;
            }
            Some(source @ (Source::Datagrams(_) | Source::Flow(_))) => {
                if let Some(udp) = &mut self.udp {
                    udp.ready(self.poll.registry(), source, now);
                }
                return;
            }
            Some(Source::Orders) | None => return,
        };
        let readiness = Readiness {
            readable: event.is_readable(),
            writable: event.is_writable(),
            drains: event.is_read_closed() || event.is_priority(),
            fault: event.is_error(),
        };
        self.tcp.ready(key, side, readiness, self.poll.registry(), now);
    }

    /// What was ordered; looked at each time round, since an empty queue costs a load.
    fn carry_out(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Apply(apply) => self.apply(apply),
                Command::Endpoints { upstream, set } => self.set_endpoints(&upstream, &set),
                Command::Drain => {
                    self.acceptors.iter_mut().for_each(|(_, acceptor)| acceptor.drain());
                    self.places.clear();
                    if let Some(udp) = &mut self.udp {
                        udp.sockets().into_iter().for_each(|id| udp.drain(id));
                    }
                    self.leaving = Leaving::WhenEmpty;
                }
                Command::Cut => {
                    self.tcp.cut(Instant::now());
                    if let Some(udp) = &mut self.udp {
                        udp.cut(Instant::now());
                    }
                    self.leaving = Leaving::Now;
                }
                Command::Stop => self.leaving = Leaving::Now,
            }
        }
    }

    fn set_endpoints(&mut self, upstream: &str, set: &Arc<EndpointSet>) {
        if let Some(known) = self.upstreams.iter().find(|known| **known.name() == *upstream) {
            known.set_endpoints(Arc::clone(set));
        }
        if let Some(udp) = &mut self.udp {
            udp.endpoints_changed();
        }
    }

    fn accept(&mut self, now: Instant) {
        let mut drained = Vec::new();
        for (number, acceptor) in &mut self.acceptors {
            let registry = self.poll.registry();
            let tcp = &mut self.tcp;
            let counters = &self.setup.telemetry.counters;
            let batch = acceptor.accept(&self.setup.process_limit, counters, now, |accepted, listener| {
                let (client, peer, admission) = accepted;
                tcp.open(client, peer, listener, admission, registry, now);
            });
            if batch == Batch::Drained {
                drained.push(number);
            }
        }
        for number in drained {
            self.acceptors.remove(number);
        }
    }

    /// Everything that is due; when to look again at the latest.
    fn expire(&mut self, now: Instant) -> Instant {
        let sessions = self.tcp.expire(self.poll.registry(), now);
        if now >= self.beat {
            self.setup.telemetry.beat(now - self.beat);
            self.beat = now + BEAT;
            self.retired.retain(|logger| Rc::strong_count(logger) > 1);
        }
        let listening = self.acceptors.iter().filter_map(|(_, acceptor)| acceptor.wakes(now));
        let logs = self.logger.iter().chain(&self.retired).filter_map(|logger| logger.flush_due(now));
        let flows = self.udp.as_mut().and_then(|udp| udp.expire(self.poll.registry(), now));
        listening.chain(logs).chain(sessions).chain(flows).fold(self.beat, Instant::min)
    }

    fn apply(&mut self, apply: Apply) {
        self.attach(&apply.snapshot);
        let failed = self.listen(apply.listening);
        (apply.applied)(failed);
    }

    fn attach(&mut self, snapshot: &Snapshot) {
        let place = (self.setup.id, self.setup.workers);
        let before = |name: &str| self.upstreams.iter().find(|known| **known.name() == *name).map(|known| &**known);
        let upstreams = snapshot.upstreams.iter();
        self.upstreams = upstreams
            .map(|upstream| L4Upstream::new(Arc::clone(upstream), &self.setup.telemetry, place, before(&upstream.name)))
            .collect();
        let same = |logger: &&Rc<Logger>| {
            snapshot.access_log.as_ref().is_some_and(|log| Arc::ptr_eq(log, logger.access_log()))
        };
        if self.logger.as_ref().filter(same).is_none() {
            self.retired.extend(self.logger.take());
            self.logger = snapshot.access_log.as_ref().map(|log| Rc::new(log.logger()));
        }
    }

    fn listen(&mut self, listening: Vec<Listening>) -> Vec<(SocketId, io::Error)> {
        let mut failed = Vec::new();
        let mut before = std::mem::take(&mut self.places);
        let mut datagrams_before = self.udp.as_ref().map(Udp::sockets).unwrap_or_default();
        for Listening { id, spec, socket } in listening {
            let telemetry = &self.setup.telemetry;
            let spec = ListenerSpec::clone(&spec);
            let is_udp = spec.config.mode.is_udp();
            let Some(listener) = L4Listener::new(spec, &self.upstreams, telemetry, self.logger.as_ref()) else {
                continue;
            };
            if is_udp {
                datagrams_before.retain(|known| *known != id);
                if let Err(error) = self.take_datagrams(id, listener, socket) {
                    failed.push((id, error));
                }
                continue;
            }
            if let Some(place) = before.remove(&id) {
                self.acceptors[place].renew(Rc::clone(&listener));
                self.places.insert(id, place);
            }
            if let Some(Opened { socket, open, .. }) = socket {
                match self.listen_on(listener, socket, open) {
                    Ok(place) => drop(self.places.insert(id, place)),
                    Err(error) => failed.push((id, error)),
                }
            }
        }
        for place in before.into_values() {
            self.acceptors[place].drain();
        }
        if let Some(udp) = &mut self.udp {
            datagrams_before.into_iter().for_each(|id| udp.drain(id));
            udp.endpoints_changed();
        }
        failed
    }

    fn take_datagrams(&mut self, id: SocketId, listener: Rc<L4Listener>, socket: Option<Opened>) -> io::Result<()> {
        let udp = match &mut self.udp {
            Some(udp) => udp,
            none => {
                let setup = &self.setup;
                let (telemetry, limit) = (Arc::clone(&setup.telemetry), Arc::clone(&setup.process_limit));
                none.insert(Udp::new(telemetry, limit, Instant::now())?)
            }
        };
        match socket {
            Some(Opened { socket, open, .. }) => udp.listen(self.poll.registry(), id, listener, socket, open),
            None => {
                udp.renew(id, listener);
                Ok(())
            }
        }
    }

    fn listen_on(&mut self, listener: Rc<L4Listener>, socket: BoundSocket, open: Arc<Group>) -> io::Result<usize> {
        let entry = self.acceptors.vacant_entry();
        let place = entry.key();
        entry.insert(Acceptor::listen(place as u32, listener, socket, open, self.poll.registry())?);
        Ok(place)
    }
}
