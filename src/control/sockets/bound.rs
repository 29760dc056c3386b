//! One bound address: the sockets of all workers, and what is common to them.

use std::io;
use std::sync::Arc;

use tracing::{info, warn};

use super::file::SocketFile;
use super::key::Key;
use super::shares::Plane;
use crate::base::id::SocketId;
use crate::config::model::{Bind, Listener, SocketOptions};
use crate::net::bind::{self, BindError, BoundSocket};
use crate::net::inherited::InheritedSocket;
use crate::net::reuseport_bpf;
use crate::snapshot::{ListenerSpec, Opened};
use crate::transport::quic::connection_id::ConnectionIds;
use crate::transport::quic::keys::Keys;
use crate::transport::quic::steering::Steering;

/// One bound address.
pub(super) struct Bound {
    pub(super) id: SocketId,
    pub(super) key: Key,
    pub(super) listener: usize,
    pub(super) options: SocketOptions,
    /// One for each worker, in the order of the workers: by it the kernel finds the worker of a QUIC connection.
    pub(super) members: Vec<BoundSocket>,
    /// For a Unix socket: the file that is ours to remove.
    file: Option<SocketFile>,
    /// Whose workers accept there.
    pub(super) plane: Plane,
    /// What the workers have not been given yet; empty once they have.
    to_give: Vec<BoundSocket>,
    /// Held by every worker for as long as its socket is open.
    pub(super) open: Arc<()>,
    /// Whether the log says already what the kernel granted.
    pub(super) is_logged: bool,
    /// What a service manager calls the socket that it handed over.
    inherited: Option<String>,
    /// Where QUIC connections are taken.
    quic: Option<Quic>,
}

/// What joins the workers of an address that takes QUIC.
struct Quic {
    steering: Arc<Steering>,
    /// Why the kernel does not steer, where it does not.
    unsteered: Option<io::Error>,
}

/// What an address is opened for.
pub(super) struct Purpose<'a> {
    pub(super) listener: usize,
    pub(super) config: &'a Listener,
    pub(super) workers: usize,
    pub(super) keys: &'a Keys,
}

impl Bound {
    /// Binds `at` for `key`, whose port it may name where the kernel is to pick it.
    pub(super) fn open(
        id: SocketId,
        key: Key,
        at: &Bind,
        purpose: &Purpose<'_>,
        heir: Option<&InheritedSocket>,
    ) -> Result<Self, BindError> {
        let Purpose { listener, config, workers, keys } = *purpose;
        let options = options(config, &key);
        let failed = |source| BindError { address: bind::name(&key.bind), source };
        let to_give = match heir {
            Some(socket) => socket.members(&options, workers).map_err(failed)?,
            None if key.is_udp && config.takes_quic() => {
                bind::bind_datagram(at, &options, workers.min(ConnectionIds::MOST_WORKERS))?
            }
            None if key.is_udp => bind::bind_datagram(at, &options, workers)?,
            None => bind::bind(at, &options, workers)?,
        };
        let file = match &key.bind {
            // The file of a socket that was handed over is its giver's.
            Bind::Unix(path) if heir.is_none() => SocketFile::of(path),
            _ => None,
        };
        let members: Vec<_> = to_give.iter().map(BoundSocket::try_clone).collect::<io::Result<_>>().map_err(failed)?;
        let quic = (key.is_udp && config.takes_quic()).then(|| Quic::new(&members, keys));
        let (open, plane) = (Arc::new(()), Plane::of(config));
        let inherited = heir.map(|socket| socket.name().to_owned());
        Ok(Self { id, key, listener, options, members, file, plane, to_give, open, is_logged: false, inherited, quic })
    }

    /// Descriptors for the workers of another plane; none where it is theirs already.
    pub(super) fn moved_to(&self, plane: Plane) -> Result<Vec<BoundSocket>, BindError> {
        if self.plane == plane { Ok(Vec::new()) } else { self.clones() }
    }

    /// Another descriptor of each socket.
    pub(super) fn clones(&self) -> Result<Vec<BoundSocket>, BindError> {
        let members = self.members.iter().map(BoundSocket::try_clone).collect::<io::Result<_>>();
        members.map_err(|source| BindError { address: bind::name(&self.key.bind), source })
    }

    /// Serves this listener from now on, with descriptors for workers that have none.
    pub(super) fn renew(&mut self, listener: usize, config: &Listener, given: Vec<BoundSocket>, keys: &Keys) {
        self.listener = listener;
        self.change_options(&options(config, &self.key));
        if given.is_empty() {
            return;
        }
        (self.to_give, self.plane, self.is_logged) = (given, Plane::of(config), false);
        match (&self.quic, self.key.is_udp && config.takes_quic()) {
            (None, true) => self.quic = Some(Quic::new(&self.members, keys)),
            (Some(_), false) => {
                self.members.first().into_iter().for_each(reuseport_bpf::detach);
                self.quic = None;
            }
            _ => {}
        }
    }

    /// What each worker in turn has not been given yet.
    pub(super) fn give(&mut self) -> impl Iterator<Item = Opened> + use<> {
        let (open, steering) = (Arc::clone(&self.open), self.quic.as_ref().map(|quic| Arc::clone(&quic.steering)));
        let given = std::mem::take(&mut self.to_give).into_iter();
        given.map(move |socket| Opened { socket, open: Arc::clone(&open), steering: steering.clone() })
    }

    fn change_options(&mut self, wanted: &SocketOptions) {
        if self.options == *wanted {
            return;
        }
        for member in &self.members {
            if let Err(error) = member.change_options(wanted) {
                warn!(address = bind::name(&self.key.bind), %error, "a changed socket option was refused and waits for a restart");
            }
        }
        self.options = wanted.clone();
        self.is_logged = false;
    }

    /// The file goes first: who connects from now on finds nobody, instead of a queue that nobody empties.
    pub(super) fn close(self) {
        drop(self.file);
        if let Some(member) = self.members.first() {
            info!(address = %member.local_address(), "no longer listening");
        }
    }

    pub(super) fn log(&self, spec: &ListenerSpec) {
        let Some(member) = self.members.first() else { return };
        let granted = member.granted(&self.options).map_or_else(|| "-".to_owned(), |granted| granted.to_string());
        info!(
            listener = %spec.name,
            address = %member.local_address(),
            transport = if self.key.is_udp { Some("udp") } else { None },
            protocols = self.spoken(spec),
            sockets = self.members.len(),
            inherited = self.inherited.as_deref(),
            granted,
            "listening"
        );
        if let Some(Quic { unsteered: Some(error), .. }) = &self.quic {
            warn!(
                listener = %spec.name,
                %error,
                "the kernel does not steer QUIC to workers; datagrams of clients that move are passed on between them"
            );
        }
    }

    fn spoken(&self, spec: &ListenerSpec) -> String {
        let config = &spec.config;
        if !config.mode.serves_requests() {
            return config.mode.as_str().to_owned();
        }
        // Each of its two ports has its own.
        let words: Vec<_> = config.protocols.words().filter(|word| (*word == "http3") == self.key.is_udp).collect();
        let tls = if spec.tls.is_some() && !self.key.is_udp { " over tls" } else { "" };
        format!("{}{tls}", words.join(", "))
    }
}

impl Quic {
    fn new(members: &[BoundSocket], keys: &Keys) -> Self {
        // With one there is nothing to choose.
        let attached = match members {
            [first, _, ..] => reuseport_bpf::attach(first, members.len()),
            _ => Ok(()),
        };
        Self { steering: Steering::new(keys, members.len()), unsteered: attached.err() }
    }
}

/// What is asked of the kernel. All clients of a worker share one socket of QUIC, and what does not fit into its buffer is
/// lost before anybody sees it: the default of 208 KiB is a millisecond of a fast network.
fn options(config: &Listener, key: &Key) -> SocketOptions {
    let mut options = config.socket.clone();
    if key.is_udp && config.takes_quic() {
        options.recv_buffer.get_or_insert(QUIC_BUFFER);
        options.send_buffer.get_or_insert(QUIC_BUFFER);
    }
    options
}

/// Bytes.
const QUIC_BUFFER: u32 = 4 << 20;
