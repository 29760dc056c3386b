//! Datagrams of the request streams of one connection (RFC 9297 §2.1): a task takes them off the transport and gives each to
//! whoever holds its stream's [`Datagrams`]. What nobody waits for is kept for a moment, bounded, then dropped.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use quinn::SendDatagramError;
use rustc_hash::FxHashMap;

use super::config::FIRST_REQUESTS;
use super::connection::Connection;
use super::datagram;
use super::error::{Code, Error};

/// The datagrams of one request. Those that come after it was dropped are dropped as well.
pub struct Datagrams {
    connection: Rc<Connection>,
    stream: u64,
    inbox: Rc<Inbox>,
    beginning: Box<[u8]>,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// The transport has it, or let another one go for it.
    Taken,
    /// It does not fit into a packet.
    TooLarge,
    /// The peer takes none: capsules may carry them.
    NotOffered,
}

/// What the datagrams of one connection wait in.
#[derive(Default)]
pub(super) struct Table {
    streams: RefCell<FxHashMap<u64, Rc<Inbox>>>,
    /// Of streams that nobody holds yet, the oldest first.
    early: RefCell<VecDeque<(u64, Bytes)>>,
    early_bytes: Cell<usize>,
    /// Tasks of requests that can have none, by their streams.
    strict: RefCell<FxHashMap<u64, Waker>>,
}

#[derive(Default)]
struct Inbox {
    queue: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    reader: RefCell<Option<Waker>>,
}

impl Datagrams {
    /// Of a request of the peer; `None` where none are taken on this connection.
    pub(super) fn open(connection: &Rc<Connection>, stream: u64) -> Option<Self> {
        let table = connection.datagrams.as_ref()?;
        let inbox = Rc::<Inbox>::default();
        table.early.borrow_mut().retain(|(of, payload)| {
            let is_its = *of == stream;
            if is_its {
                table.early_bytes.set(table.early_bytes.get() - payload.len());
                inbox.push(payload.clone());
            }
            !is_its
        });
        table.streams.borrow_mut().insert(stream, Rc::clone(&inbox));
        let mut beginning = Vec::with_capacity(8);
        datagram::write_stream(stream, &mut beginning);
        Some(Self { connection: Rc::clone(connection), stream, inbox, beginning: beginning.into() })
    }

    /// The payload of the next one.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if let Some(payload) = self.inbox.queue.borrow_mut().pop_front() {
            self.inbox.bytes.set(self.inbox.bytes.get() - payload.len());
            self.connection.control.note_moved(payload.len() as u64);
            return Poll::Ready(payload);
        }
        self.inbox.reader.borrow_mut().get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
        Poll::Pending
    }

    /// What every datagram that is sent has to begin with, before its payload.
    pub fn beginning(&self) -> &[u8] {
        &self.beginning
    }

    /// Sends a datagram without waiting: where there is no room, the one that has waited longest is dropped.
    pub fn send(&self, datagram: Bytes) -> Posted {
        if self.connection.open_datagrams().is_none() {
            return Posted::NotOffered;
        }
        let (length, control) = (datagram.len(), &self.connection.control);
        let room = self.connection.quinn.datagram_send_buffer_space();
        match self.connection.quinn.send_datagram(datagram) {
            Ok(()) => {
                control.note_dropped(u64::from(room < length));
                control.note_moved(length as u64);
                Posted::Taken
            }
            Err(SendDatagramError::TooLarge) => Posted::TooLarge,
            Err(SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled) => Posted::NotOffered,
            // Whoever has the stream hears of it there.
            Err(SendDatagramError::ConnectionLost(_)) => Posted::Taken,
        }
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.connection.control.note_dropped(self.inbox.queue.borrow().len() as u64);
        if let Some(table) = &self.connection.datagrams {
            table.streams.borrow_mut().remove(&self.stream);
        }
    }
}

impl Inbox {
    /// Puts one behind the others; `false` where there is no room.
    fn push(&self, payload: Bytes) -> bool {
        let mut queue = self.queue.borrow_mut();
        let bytes = self.bytes.get() + payload.len();
        if queue.len() >= MAX_WAITING || bytes > MAX_WAITING_BYTES {
            return false;
        }
        self.bytes.set(bytes);
        queue.push_back(payload);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        true
    }
}

impl Table {
    /// Keeps the datagram of a stream that nobody holds, for the while that its request needs to be taken up; how many were
    /// dropped for it.
    fn keep(&self, stream: u64, payload: &[u8]) -> u64 {
        let mut early = self.early.borrow_mut();
        let mut bytes = self.early_bytes.get() + payload.len();
        let mut dropped = 0;
        while early.len() >= MAX_EARLY || bytes > MAX_EARLY_BYTES {
            let Some((_, oldest)) = early.pop_front() else {
                self.early_bytes.set(0);
                return dropped + 1;
            };
            bytes -= oldest.len();
            dropped += 1;
        }
        // Copied: the packet that it came in is larger, and may wait here.
        early.push_back((stream, Bytes::copy_from_slice(payload)));
        self.early_bytes.set(bytes);
        if let Some(waker) = self.strict.borrow().get(&stream) {
            waker.wake_by_ref();
        }
        dropped
    }

    /// Ready when one came for the stream of a request that can have none.
    pub(super) fn poll_stray(&self, stream: u64, cx: &Context<'_>) -> Poll<()> {
        if self.early.borrow().iter().any(|(of, _)| *of == stream) {
            return Poll::Ready(());
        }
        let mut strict = self.strict.borrow_mut();
        strict.entry(stream).or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
        Poll::Pending
    }

    /// The stream ended; how many were dropped.
    pub(super) fn forget(&self, stream: u64) -> u64 {
        self.strict.borrow_mut().remove(&stream);
        let mut early = self.early.borrow_mut();
        let before = early.len();
        if before > 0 {
            early.retain(|(of, _)| *of != stream);
            self.early_bytes.set(early.iter().map(|(_, payload)| payload.len()).sum());
        }
        (before - early.len()) as u64
    }
}

/// Takes datagrams off the transport until the connection ends: they would pile up there, also those of a client that never
/// offered any.
pub(super) async fn drive(connection: &Connection) {
    let Some(table) = &connection.datagrams else { return };
    let mut batch = 0;
    while let Ok(datagram) = connection.quinn.read_datagram().await {
        if let Err(error) = deliver(connection, table, datagram) {
            connection.fail(error);
            return;
        }
        batch += 1;
        if batch == BATCH {
            batch = 0;
            // Whoever counts what the connection moves does so as its driver is polled, which hears of streams alone.
            connection.control.wake();
            // A flood of datagrams must not starve who is to take them.
            tokio::task::yield_now().await;
        }
    }
}

fn deliver(connection: &Connection, table: &Table, datagram: Bytes) -> Result<(), Error> {
    let control = &connection.control;
    // RFC 9297 §2.1.1: nobody may send any who does not take them. Their SETTINGS may come behind the first, though.
    if connection.settings.borrow().as_ref().is_some_and(|settings| !settings.h3_datagram) {
        control.note_dropped(1);
        return Ok(());
    }
    let (stream, payload) = datagram::read(datagram)?;
    // RFC 9297 §2.1: one of a stream that the client cannot have opened. As many more as may be open at a time have been begun,
    // since a stream counts until it was served; those that are turned away at the end are not counted.
    let most = control.served() + u64::from(connection.config.max_requests.max(FIRST_REQUESTS));
    if stream / 4 >= most && !control.is_leaving() {
        return Err(Error::connection(Code::ID_ERROR, "a datagram for a stream past the limit"));
    }
    let inbox = table.streams.borrow().get(&stream).cloned();
    control.note_dropped(match inbox {
        Some(inbox) => u64::from(!inbox.push(payload)),
        None => table.keep(stream, &payload),
    });
    Ok(())
}

/// Datagrams that are read in a row.
const BATCH: usize = 32;
/// Datagrams of one stream that may wait for who takes them, and their bytes.
const MAX_WAITING: usize = 128;
const MAX_WAITING_BYTES: usize = 128 * 1024;
/// The same for all streams together that nobody holds yet: what a client sends ahead of the answer to its request.
const MAX_EARLY: usize = 32;
const MAX_EARLY_BYTES: usize = 64 * 1024;
