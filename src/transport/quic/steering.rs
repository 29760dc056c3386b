//! Passes packets between the workers of one UDP address: every worker has a mailbox, and a worker that receives a
//! packet of another's connection puts it there. If the kernel steers by connection ID, this is rare; otherwise it
//! carries the packets of all clients that changed their address.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use quinn::udp::RecvMeta;
use tokio::sync::Notify;

use super::connection_id::ConnectionIds;
use super::keys::Keys;

/// The workers of one bound UDP address.
#[derive(Debug)]
pub struct Steering {
    keys: Keys,
    ids: ConnectionIds,
    mailboxes: Box<[Mailbox]>,
    /// Connections of all workers.
    open: AtomicUsize,
    emptied: Notify,
}

/// One connection of the address, for as long as it is open.
#[derive(Debug)]
pub struct Open(Arc<Steering>);

/// What others received for one worker.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    /// Messages in it: looked at without the lock, since there are seldom any.
    waiting: AtomicUsize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Whether somebody empties it.
    is_open: bool,
    messages: VecDeque<(RecvMeta, Box<[u8]>)>,
    bytes: usize,
    waker: Option<Waker>,
}

impl Steering {
    /// For that many workers, none of which has opened its mailbox.
    pub fn new(keys: &Keys, workers: usize) -> Arc<Self> {
        let mailboxes = (0..workers).map(|_| Mailbox::default()).collect();
        let ids = keys.connection_ids(workers);
        Arc::new(Self { keys: keys.clone(), ids, mailboxes, open: AtomicUsize::new(0), emptied: Notify::new() })
    }

    /// Counts a connection until the guard is dropped.
    pub fn opened(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::SeqCst);
        Open(Arc::clone(self))
    }

    /// Ends when no worker has a connection: only then does any of them close its socket, since what the kernel steers to a
    /// place in the group would go elsewhere. Cancel-safe.
    pub async fn emptied(&self) {
        loop {
            // The registration comes before the look, so an end in between is not missed.
            let mut emptied = std::pin::pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if self.open.load(Ordering::SeqCst) == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// The keys of the address.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn ids(&self) -> ConnectionIds {
        self.ids
    }

    pub(super) fn mailbox(&self, worker: usize) -> Option<&Mailbox> {
        self.mailboxes.get(worker)
    }

    /// Takes out of a message what is for other workers and puts it into their mailboxes. What stays moves to the front of
    /// `bytes`, and `meta` says how much that is.
    pub(super) fn sort(&self, own: usize, bytes: &mut [u8], meta: &mut RecvMeta) -> Sorted {
        let mut sorted = Sorted::default();
        if self.mailboxes.len() < 2 {
            return sorted;
        }
        let (end, stride) = (meta.len, meta.stride.max(1));
        let (mut at, mut kept) = (0, 0);
        while at < end {
            let next = (at + stride).min(end);
            match self.ids.stranger(own, &bytes[at..next]) {
                None => {
                    // Only the last may be shorter than the others, so those that stay still follow each other by `stride`.
                    if kept < at {
                        bytes.copy_within(at..next, kept);
                    }
                    kept += next - at;
                }
                Some(worker) => {
                    let one = RecvMeta { len: next - at, stride: next - at, ..*meta };
                    let is_taken = self.mailbox(worker).is_some_and(|mailbox| mailbox.post(one, &bytes[at..next]));
                    if is_taken { sorted.handed_over += 1 } else { sorted.dropped += 1 }
                }
            }
            at = next;
        }
        meta.len = kept;
        sorted
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.emptied.notify_waiters();
        }
    }
}

/// What became of datagrams that were another worker's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sorted {
    /// They are in its mailbox.
    pub(super) handed_over: u64,
    /// It had no room, or nobody there.
    pub(super) dropped: u64,
}

impl Mailbox {
    /// From now on what comes is kept.
    pub(super) fn open(&self) {
        self.inside().is_open = true;
    }

    /// Forgets what is in it, and whatever comes.
    pub(super) fn close(&self) {
        *self.inside() = Inside::default();
        self.waiting.store(0, Ordering::Release);
    }

    /// Puts a copy of a message in and wakes who waits; false: there is no room.
    fn post(&self, meta: RecvMeta, bytes: &[u8]) -> bool {
        let mut inside = self.inside();
        if !inside.is_open || inside.bytes + bytes.len() > MOST_BYTES || inside.messages.len() >= MOST_MESSAGES {
            return false;
        }
        inside.bytes += bytes.len();
        inside.messages.push_back((meta, bytes.into()));
        self.waiting.store(inside.messages.len(), Ordering::Release);
        let waker = inside.waker.take();
        drop(inside);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Moves messages into `buffers`, from the first on, and says how many.
    pub(super) fn take(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return 0;
        }
        let mut inside = self.inside();
        let mut taken = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some((about, bytes)) = inside.messages.pop_front() else { break };
            inside.bytes -= bytes.len();
            // A datagram was received into a buffer of the same size before.
            let length = bytes.len().min(buffer.len());
            buffer[..length].copy_from_slice(&bytes[..length]);
            *meta = RecvMeta { len: length, ..about };
            taken += 1;
        }
        self.waiting.store(inside.messages.len(), Ordering::Release);
        taken
    }

    /// Whether it is empty, in which case `waker` is woken by the next message.
    pub(super) fn wait(&self, waker: &Waker) -> bool {
        let mut inside = self.inside();
        if !inside.messages.is_empty() {
            return false;
        }
        if !inside.waker.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            inside.waker = Some(waker.clone());
        }
        true
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // Nothing is half-done where a panic may come.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What may wait for a worker that is busy: a few round trips of a fast transfer. A sender takes what is lost past it for a
/// full network, which it is.
const MOST_BYTES: usize = 4 << 20;
const MOST_MESSAGES: usize = 8192;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use quinn_proto::ConnectionIdGenerator;

    use super::*;

    fn steering(workers: usize) -> Arc<Steering> {
        let steering = Steering::new(&Keys::random().unwrap(), workers);
        steering.mailboxes.iter().for_each(Mailbox::open);
        steering
    }

    fn packet(steering: &Steering, worker: usize, mark: u8, length: usize) -> Vec<u8> {
        let mut packet = vec![mark; length];
        packet[0] = 0x40;
        let id = steering.ids.generator(worker).generate_cid();
        packet[1..=id.len()].copy_from_slice(&id);
        packet
    }

    fn meta(bytes: &[u8], stride: usize) -> RecvMeta {
        RecvMeta { len: bytes.len(), stride, addr: "192.0.2.1:7".parse().unwrap(), ..RecvMeta::default() }
    }

    /// Every message in a mailbox, by its last byte and its length.
    fn taken(mailbox: &Mailbox) -> Vec<(u8, usize)> {
        let mut memory = vec![0; 64 << 10];
        let mut buffers: Vec<_> = memory.chunks_mut(2048).map(IoSliceMut::new).collect();
        let mut metas = vec![RecvMeta::default(); buffers.len()];
        let count = mailbox.take(&mut buffers, &mut metas);
        (0..count).map(|n| (buffers[n][metas[n].len - 1], metas[n].len)).collect()
    }

    #[test]
    fn each_datagram_of_a_message_goes_to_its_worker_and_the_others_stay_in_order() {
        fastrand::seed(5);
        for round in 0..500 {
            let workers = fastrand::usize(2..6);
            let (own, count) = (fastrand::usize(..workers), fastrand::usize(1..20));
            let steering = steering(workers);
            let owners: Vec<_> = (0..count).map(|_| fastrand::usize(..workers)).collect();
            let lengths: Vec<_> =
                (1..=count).map(|n| if n == count { fastrand::usize(40..=100) } else { 100 }).collect();
            let packets: Vec<_> = (0..count).map(|n| packet(&steering, owners[n], n as u8, lengths[n])).collect();
            let mut bytes = packets.concat();
            let mut about = meta(&bytes, 100);
            let sorted = steering.sort(own, &mut bytes, &mut about);
            let of = |worker: usize| (0..count).filter(|n| owners[*n] == worker).collect::<Vec<_>>();
            let stayed: Vec<u8> = of(own).iter().flat_map(|n| packets[*n].clone()).collect();
            assert_eq!(&bytes[..about.len], &stayed, "round {round}");
            assert_eq!(sorted, Sorted { handed_over: (count - of(own).len()) as u64, dropped: 0 });
            for worker in (0..workers).filter(|worker| *worker != own) {
                let expected: Vec<_> = of(worker).iter().map(|n| (*n as u8, lengths[*n])).collect();
                assert_eq!(taken(&steering.mailboxes[worker]), expected, "round {round}");
            }
        }
    }

    #[test]
    fn a_mailbox_without_an_owner_or_without_room_takes_nothing() {
        let steering = steering(2);
        let mailbox = &steering.mailboxes[1];
        let send = || {
            let mut bytes = packet(&steering, 1, 9, 1200);
            let mut about = meta(&bytes, 1200);
            steering.sort(0, &mut bytes, &mut about).dropped == 0
        };
        let room = MOST_BYTES / 1200;
        assert!((0..room).all(|_| send()));
        assert!(!send(), "it is full");
        assert_eq!(taken(mailbox).len(), 32);
        assert!(send());
        mailbox.close();
        assert!(!send(), "nobody is there");
        assert!(taken(mailbox).is_empty());
        mailbox.open();
        assert!(send());
        assert_eq!(taken(mailbox), [(9, 1200)]);
    }

    #[test]
    fn who_waits_is_woken_once_and_what_came_before_is_not_waited_for() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let steering = steering(2);
        let mailbox = &steering.mailboxes[0];
        assert!(mailbox.wait(&waker) && mailbox.wait(&waker));
        let message = packet(&steering, 0, 1, 60);
        assert!(mailbox.post(meta(&message, 60), &message) && mailbox.post(meta(&message, 60), &message));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(!mailbox.wait(&waker), "there is something in it");
        assert_eq!(taken(mailbox).len(), 2);
        assert!(mailbox.wait(&waker));
    }
}
