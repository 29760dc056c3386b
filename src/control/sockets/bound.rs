//! One bound address: the sockets of all workers, and their common state.

use std::io;
use std::sync::{Arc, Weak};

use tracing::{info, warn};

use super::file::SocketFile;
use super::key::Key;
use super::shares::Plane;
use crate::base::id::SocketId;
use crate::config::defaults;
use crate::config::model::{Bind, Listener, SocketOptions};
use crate::net::bind::{self, BindError, BoundSocket, Group};
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
    pub(super) open: Arc<Group>,
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
        let failed = |source| BindError { address: bind::name(&key.bind), source, place: None };
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
        let (open, plane) = (group(&members, quic.is_some()).map_err(failed)?, Plane::of(config));
        let inherited = heir.map(|socket| socket.name().to_owned());
        Ok(Self { id, key, listener, options, members, file, plane, to_give, open, is_logged: false, inherited, quic })
    }

    /// Descriptors for the workers of another plane; none where it is theirs already.
    pub(super) fn moved_to(&self, config: &Listener) -> Result<Vec<BoundSocket>, BindError> {
        let failed = |source| BindError { address: bind::name(&self.key.bind), source, place: None };
        if self.plane == Plane::of(config) {
            return Ok(Vec::new());
        }
        if self.key.is_udp {
            // Connections of QUIC and flows would take each other's datagrams for as long as the former drain.
            let reason = "datagrams are relayed there or QUIC ends there; the one becomes the other with a restart";
            return Err(failed(io::Error::new(io::ErrorKind::Unsupported, reason)));
        }
        clones(&self.members).map_err(failed)
    }

    /// The same sockets for the same key, which was given up a moment ago: workers still have them. `None`: they do no
    /// more, or something else is to be done there.
    pub(super) fn back(gone: &Gone, purpose: &Purpose<'_>) -> Option<Result<Self, BindError>> {
        let open = gone.open.upgrade()?;
        let quic = gone.quic.as_ref().filter(|_| purpose.config.takes_quic())?;
        let (members, to_give) = match (clones(&open.0), clones(&open.0)) {
            (Ok(members), Ok(to_give)) => (members, to_give),
            (Err(source), _) | (_, Err(source)) => {
                return Some(Err(BindError { address: bind::name(&gone.key.bind), source, place: None }));
            }
        };
        Some(Ok(Self {
            id: gone.id,
            key: gone.key.clone(),
            listener: purpose.listener,
            options: options(purpose.config, &gone.key),
            members,
            file: None,
            plane: Plane::of(purpose.config),
            to_give,
            open,
            is_logged: false,
            inherited: None,
            quic: Some(Quic { steering: Arc::clone(quic), unsteered: None }),
        }))
    }

    /// What is remembered of it when it is closed.
    pub(super) fn gone(&self) -> Gone {
        let quic = self.quic.as_ref().map(|quic| Arc::clone(&quic.steering));
        Gone { id: self.id, key: self.key.clone(), open: Arc::downgrade(&self.open), quic }
    }

    /// Serves this listener from now on, with descriptors for workers that have none.
    pub(super) fn renew(&mut self, listener: usize, config: &Listener, given: Vec<BoundSocket>) {
        self.listener = listener;
        self.change_options(&options(config, &self.key));
        if !given.is_empty() {
            (self.to_give, self.plane, self.is_logged) = (given, Plane::of(config), false);
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
                warn!(address = bind::name(&self.key.bind), %error, "a changed socket option was refused; it needs a restart");
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
                "the kernel does not steer QUIC packets to workers; packets of clients that change address are passed between workers"
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

/// An address that was given up, for as long as a worker still has a socket there.
pub(super) struct Gone {
    id: SocketId,
    pub(super) key: Key,
    open: Weak<Group>,
    /// Where QUIC connections were taken.
    quic: Option<Arc<Steering>>,
}

impl Gone {
    /// Whether a worker still has a socket there.
    pub(super) fn is_open(&self) -> bool {
        self.open.strong_count() > 0
    }

    /// Whether it may stay open for as long as connections do: a listener for QUIC can have it back, another one has to wait.
    pub(super) fn takes_quic(&self) -> bool {
        self.quic.is_some()
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

fn clones(sockets: &[BoundSocket]) -> io::Result<Vec<BoundSocket>> {
    sockets.iter().map(BoundSocket::try_clone).collect()
}

fn group(members: &[BoundSocket], is_quic: bool) -> io::Result<Arc<Group>> {
    Ok(Arc::new(Group(if is_quic { clones(members)? } else { Vec::new() })))
}

/// What is asked of the kernel.
fn options(config: &Listener, key: &Key) -> SocketOptions {
    let mut options = config.socket.clone();
    if key.is_udp && config.takes_quic() {
        options.recv_buffer.get_or_insert(defaults::QUIC_SOCKET_BUFFER);
        options.send_buffer.get_or_insert(defaults::QUIC_SOCKET_BUFFER);
    }
    options
}
