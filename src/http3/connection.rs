//! What the streams of one connection share, in either role: QPACK, what the peer said about itself, and the end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use rustc_hash::FxHashMap;
use slab::Slab;

use super::allowance::Allowance;
use super::config::Config;
use super::control::Control;
use super::control_frames::{ControlFrame, write_goaway};
use super::datagrams::Table;
use super::error::{Code, Error, Scope};
use super::frame::Role;
use super::outgoing::{Lane, Outgoing};
use super::priority::Priority;
use super::qpack::{Decoder, Encoder};
use super::settings::Settings;
use crate::base::drain::Flag;
use crate::transport::quic;

/// One connection.
pub(super) struct Connection {
    pub(super) quinn: quinn::Connection,
    pub(super) role: Role,
    pub(super) config: Rc<Config>,
    pub(super) control: Rc<Control>,
    pub(super) encoder: RefCell<Encoder>,
    pub(super) decoder: RefCell<Decoder>,
    pub(super) outgoing: Outgoing,
    /// The peer's SETTINGS.
    pub(super) settings: RefCell<Option<Settings>>,
    /// They came, or never will.
    pub(super) settled: Flag,
    /// The peer's GOAWAY: a server's says from which stream on nothing is processed.
    pub(super) goaway: Cell<Option<u64>>,
    /// Requests of ours that wait for an answer.
    awaiting: RefCell<Slab<Waker>>,
    /// What a peer does that is of no use to it: streams and frames that mean nothing.
    pub(super) useless: Allowance,
    /// Bytes on its control stream and its QPACK streams.
    pub(super) instructions: Allowance,
    /// Requests that it gave up, or that were malformed.
    pub(super) resets: Allowance,
    /// Streams whose field section waits for our dynamic table.
    blocked: RefCell<FxHashMap<u64, Waker>>,
    /// What PRIORITY_UPDATE said of streams, until they end.
    priorities: RefCell<FxHashMap<u64, Priority>>,
    /// Where they are taken (RFC 9297).
    pub(super) datagrams: Option<Box<Table>>,
    failure: Cell<Option<Error>>,
}

impl Connection {
    pub(super) fn new(quinn: quinn::Connection, role: Role, config: Rc<Config>, control: Rc<Control>) -> Rc<Self> {
        let decoder = Decoder::new(config.max_table_capacity, config.max_blocked_streams);
        let connection = Rc::new(Self {
            quinn,
            role,
            control,
            encoder: RefCell::new(Encoder::new()),
            decoder: RefCell::new(decoder),
            outgoing: Outgoing::new(),
            settings: RefCell::default(),
            settled: Flag::default(),
            goaway: Cell::new(None),
            awaiting: RefCell::default(),
            useless: Allowance::new(USELESS, USELESS_PER_SECOND),
            instructions: Allowance::new(INSTRUCTIONS, INSTRUCTIONS_PER_SECOND),
            resets: Allowance::new(RESETS, RESETS_PER_SECOND),
            blocked: RefCell::default(),
            priorities: RefCell::default(),
            datagrams: config.datagrams.then(Box::default),
            failure: Cell::new(None),
            config,
        });
        connection.introduce();
        connection
    }

    /// Says our SETTINGS (RFC 9114 §3.2: the first thing on the control stream).
    fn introduce(&self) {
        let config = &self.config;
        let settings = Settings {
            qpack_max_table_capacity: config.max_table_capacity as u64,
            qpack_blocked_streams: config.max_blocked_streams as u64,
            max_field_section_size: Some(config.max_field_section_size),
            // RFC 9220 §3: of no meaning from a client.
            enable_connect_protocol: config.connect_protocol && self.role == Role::Server,
            h3_datagram: config.datagrams,
        };
        let mut frame = Vec::with_capacity(64);
        settings.write(fastrand::u32(..), &mut frame);
        self.outgoing.push(Lane::Control, &frame);
    }

    /// Ends the connection for what `error` says; the first word stands.
    pub(super) fn fail(&self, error: Error) {
        if self.failure.get().is_none() {
            self.failure.set(Some(error));
            quic::close_saying(&self.quinn, error.code().value(), error.reason().as_bytes());
        }
    }

    /// Why the connection ended, where `error` is only that it did.
    pub(super) fn cause(&self, error: Error) -> Error {
        match self.failure.get() {
            Some(failure) if error.scope() == Scope::Connection => failure,
            _ => error,
        }
    }

    /// A request began: an honest peer may do more of the rest.
    pub(super) fn note_request(&self) {
        self.useless.give(USELESS_PER_REQUEST);
        self.instructions.give(INSTRUCTIONS_PER_REQUEST);
        if self.outgoing.waiting() > MAX_WAITING {
            self.fail(Error::connection(Code::EXCESSIVE_LOAD, "the peer does not take what its requests lead to"));
        }
    }

    /// A request was given up or is malformed. Too many of them end the connection.
    pub(super) fn note_reset(&self) {
        if !self.resets.take(1) {
            self.fail(Error::connection(Code::EXCESSIVE_LOAD, "too many requests given up"));
        }
    }

    /// Whether the stream's field section waits for the table, and is woken when it does not any more.
    pub(super) fn is_blocked(&self, stream: u64, cx: &Context<'_>) -> bool {
        let mut blocked = self.blocked.borrow_mut();
        if blocked.is_empty() {
            return false;
        }
        let waker = blocked.get_mut(&stream);
        waker.map(|waker| waker.clone_from(cx.waker())).is_some()
    }

    /// The stream's field section waits for the table.
    pub(super) fn block(&self, stream: u64, waker: &Waker) {
        self.blocked.borrow_mut().insert(stream, waker.clone());
    }

    /// Nothing of the stream will be decoded any more (RFC 9204 §2.2.2.2).
    pub(super) fn cancel(&self, stream: u64) {
        self.blocked.borrow_mut().remove(&stream);
        let mut decoder = self.decoder.borrow_mut();
        decoder.cancel(stream);
        self.outgoing.push(Lane::Decoder, decoder.take_instructions().as_slice());
    }

    /// The priority that PRIORITY_UPDATE gave the stream.
    pub(super) fn priority(&self, stream: u64) -> Option<Priority> {
        let priorities = self.priorities.borrow();
        if priorities.is_empty() {
            return None;
        }
        priorities.get(&stream).copied()
    }

    /// The stream ended.
    pub(super) fn forget(&self, stream: u64) {
        let mut priorities = self.priorities.borrow_mut();
        if !priorities.is_empty() {
            priorities.remove(&stream);
        }
        if let Some(datagrams) = &self.datagrams {
            self.control.note_dropped(datagrams.forget(stream));
        }
    }

    /// Where datagrams wait, once both sides have said that they take them (RFC 9297 §2.1.1).
    pub(super) fn open_datagrams(&self) -> Option<&Table> {
        let table = self.datagrams.as_deref()?;
        self.settings.borrow().as_ref().is_some_and(|settings| settings.h3_datagram).then_some(table)
    }

    /// Says GOAWAY: requests from stream `id` on are not processed.
    pub(super) fn say_goaway(&self, id: u64) {
        let mut frame = Vec::with_capacity(10);
        write_goaway(id, &mut frame);
        self.outgoing.push(Lane::Control, &frame);
    }

    /// Wakes the task when GOAWAY comes. `place` is where it is kept.
    pub(super) fn hear_of_goaway(&self, place: &mut Option<usize>, cx: &Context<'_>) {
        let mut awaiting = self.awaiting.borrow_mut();
        match place.and_then(|place| awaiting.get_mut(place)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *place = Some(awaiting.insert(cx.waker().clone())),
        }
    }

    pub(super) fn hear_no_more(&self, place: Option<usize>) {
        if let Some(place) = place {
            self.awaiting.borrow_mut().remove(place);
        }
    }

    pub(super) fn on_control_frame(&self, frame: ControlFrame) -> Result<(), Error> {
        match frame {
            ControlFrame::Settings(settings) => self.on_settings(settings)?,
            ControlFrame::Goaway(id) => {
                self.goaway.set(Some(id));
                self.awaiting.borrow().iter().for_each(|(_, waker)| waker.wake_by_ref());
                if self.role == Role::Client {
                    self.control.drain();
                }
            }
            // We push nothing.
            ControlFrame::MaxPushId(_) => {}
            ControlFrame::PriorityUpdate { stream, priority } => {
                let mut priorities = self.priorities.borrow_mut();
                // RFC 9218 §7.2: of streams that are not open yet, only so many are remembered.
                if priorities.len() < MAX_PRIORITIES || priorities.contains_key(&stream) {
                    priorities.insert(stream, priority);
                }
            }
        }
        Ok(())
    }

    fn on_settings(&self, settings: Settings) -> Result<(), Error> {
        // RFC 9297 §2.1.1: they need the transport's, too.
        if settings.h3_datagram && self.config.datagrams && self.quinn.max_datagram_size().is_none() {
            let reason = "HTTP datagrams without those of the transport";
            return Err(Error::connection(Code::SETTINGS_ERROR, reason));
        }
        let capacity = self.config.max_table_capacity as u64;
        let limits = (settings.qpack_max_table_capacity, settings.qpack_blocked_streams);
        self.encoder.borrow_mut().set_limits(limits.0, capacity, limits.1);
        *self.settings.borrow_mut() = Some(settings);
        self.settled.raise();
        Ok(())
    }

    /// Instructions for our decoder.
    pub(super) fn on_encoder_bytes(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut decoder = self.decoder.borrow_mut();
        let unblocked = decoder.on_encoder_bytes(bytes)?;
        let mut blocked = self.blocked.borrow_mut();
        unblocked.iter().filter_map(|stream| blocked.remove(stream)).for_each(Waker::wake);
        self.outgoing.push(Lane::Decoder, decoder.take_instructions().as_slice());
        Ok(())
    }

    /// What became of our instructions and sections.
    pub(super) fn on_decoder_bytes(&self, bytes: &[u8]) -> Result<(), Error> {
        self.encoder.borrow_mut().on_decoder_bytes(bytes)
    }
}

/// Closes the connection when nobody serves it any more.
pub(super) struct Closing(pub(super) Rc<Connection>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.fail(Error::connection(Code::NO_ERROR, "the connection is served no more"));
    }
}

const USELESS: u64 = 1000;
const USELESS_PER_SECOND: u64 = 50;
const USELESS_PER_REQUEST: u64 = 8;
const INSTRUCTIONS: u64 = 64 * 1024;
const INSTRUCTIONS_PER_SECOND: u64 = 16 * 1024;
const INSTRUCTIONS_PER_REQUEST: u64 = 8 * 1024;
const RESETS: u64 = 200;
const RESETS_PER_SECOND: u64 = 20;
/// Bytes on our control and QPACK streams that a peer may leave untaken.
const MAX_WAITING: usize = 64 * 1024;
const MAX_PRIORITIES: usize = 256;
