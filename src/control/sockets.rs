//! The listening sockets of the process, by their address. The control thread keeps a descriptor of each, so that a
//! socket outlives its listener if the next generation uses it too: closing one member of a SO_REUSEPORT group resets
//! the connections in its backlog. A reload first plans, which may fail, and then commits, which cannot.

mod bound;
mod file;
mod key;
mod shares;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::base::addr::Address;
use crate::base::id::SocketId;
use crate::config::effective::Owner;
use crate::config::model::{Bind, Config, Listener};
use crate::net::bind::{self, BindError, BoundSocket};
use crate::net::inherited::InheritedSocket;
use crate::snapshot::{Listening, Snapshot};
use crate::transport::quic::keys::Keys;

use bound::{Bound, Gone, Purpose};
pub(super) use file::SocketFile;
use key::{Key, keys};
pub use shares::Shares;

/// Every bound address.
pub struct ListeningSockets {
    bound: Vec<Bound>,
    workers: usize,
    next_id: u32,
    /// What goes, for as long as a worker still empties its queue: it would look like another process to whoever asks
    /// whether the address is free.
    going: Vec<Gone>,
    /// Kept open for as long as the process lives, since a later generation may want one again and nobody can be asked
    /// for it a second time. With each, whether the log says already that nobody wants it.
    inherited: Vec<(InheritedSocket, bool)>,
}

/// The sockets of the next generation; dropping it closes what it opened.
pub struct Plan {
    /// In the order of the configuration: kept ones by their place, new ones whole.
    entries: Vec<Entry>,
}

enum Entry {
    /// With descriptors for the workers of the other plane, where the listener has gone over to it.
    Kept {
        place: usize,
        listener: usize,
        moved: Vec<BoundSocket>,
    },
    New(Box<Bound>),
}

/// What a commit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Addresses that stay.
    pub kept: usize,
    /// Addresses that are new.
    pub opened: usize,
    /// Addresses that go.
    pub closed: usize,
}

impl ListeningSockets {
    /// None yet; each will have one member for each of `workers`.
    pub fn new(workers: usize) -> Self {
        Self { bound: Vec::new(), workers, next_id: 0, going: Vec::new(), inherited: Vec::new() }
    }

    /// Sockets that are bound already and stand for what the configuration binds.
    pub fn inherit(&mut self, sockets: Vec<InheritedSocket>) {
        self.inherited.extend(sockets.into_iter().map(|socket| (socket, false)));
    }

    /// Binds what `config` wants and is not there. Nothing that is there changes.
    ///
    /// # Errors
    /// Every address that cannot be had.
    pub fn plan(&mut self, config: &Config, quic: &Keys) -> Result<Plan, Vec<BindError>> {
        self.try_plan(config, quic).map_err(|errors| errors.into_iter().map(|error| placed(error, config)).collect())
    }

    fn try_plan(&mut self, config: &Config, quic: &Keys) -> Result<Plan, Vec<BindError>> {
        let wanted: Vec<(usize, &Listener, Key)> = (0..)
            .zip(&config.listeners)
            .flat_map(|(place, listener)| keys(listener).map(move |key| (place, listener, key)))
            .collect();
        let heirs = self.heirs(&wanted);
        let mut errors: Vec<_> = wanted
            .iter()
            .zip(&heirs)
            .filter(|((_, listener, key), heir)| {
                heir.is_none()
                    && self.place_of(key).is_none()
                    && !self.holds_port_of(key)
                    && !self.is_back(listener, key)
            })
            .filter_map(|((_, _, key), _)| key.ensure_free().err())
            .collect();
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut entries = Vec::with_capacity(wanted.len());
        for ((listener, config, key), heir) in wanted.into_iter().zip(heirs) {
            let purpose = Purpose { listener, config, workers: self.workers, keys: quic };
            match self.place_of(&key) {
                Some(place) => match self.bound[place].moved_to(config) {
                    Ok(moved) => entries.push(Entry::Kept { place, listener, moved }),
                    Err(error) => errors.push(error),
                },
                None => match self.back(&key, &purpose).unwrap_or_else(|| self.open(key, &purpose, heir, &mut entries))
                {
                    Ok(bound) => entries.push(Entry::New(Box::new(bound))),
                    Err(error) => errors.push(error),
                },
            }
        }
        if errors.is_empty() { Ok(Plan { entries }) } else { Err(errors) }
    }

    /// Takes a plan over. Gives each worker's share, and closes the control thread's descriptors of what goes: the
    /// workers' are then the last.
    pub fn commit(&mut self, plan: Plan, snapshot: &Snapshot) -> (Shares, Changes) {
        let mut before: Vec<_> = std::mem::take(&mut self.bound).into_iter().map(Some).collect();
        let mut changes = Changes::default();
        for entry in plan.entries {
            match entry {
                Entry::New(bound) => {
                    changes.opened += 1;
                    self.bound.push(*bound);
                }
                Entry::Kept { place, listener, moved } => {
                    // Two listeners never have the same key, so a place is taken once.
                    if let Some(mut bound) = before[place].take() {
                        changes.kept += 1;
                        bound.renew(listener, &snapshot.listeners[listener].config, moved);
                        self.bound.push(bound);
                    }
                }
            }
        }
        changes.closed = before.iter().flatten().count();
        // What is back is open again, and gone no more.
        self.going.retain(|gone| gone.is_open() && !self.bound.iter().any(|bound| bound.key == gone.key));
        for bound in before.into_iter().flatten() {
            self.going.push(bound.gone());
            bound.close();
        }
        (self.shares(snapshot), changes)
    }

    /// Closes the control thread's descriptors of all of them.
    pub fn close(&mut self) {
        std::mem::take(&mut self.bound).into_iter().for_each(Bound::close);
    }

    /// Where each listener accepts: its name and an address, in the order of the configuration. One of both TCP and UDP is
    /// named once.
    pub fn addresses(&self, snapshot: &Snapshot) -> Vec<(Arc<str>, Address)> {
        let named = |bound: &Bound| {
            let address = bound.members.first()?.local_address().clone();
            Some((Arc::clone(&snapshot.listeners[bound.listener].name), address))
        };
        let mut addresses: Vec<_> = self.bound.iter().filter_map(named).collect();
        addresses.dedup();
        addresses
    }

    /// Logs each address that is new or changed, with what is spoken there and what the kernel granted.
    pub fn log(&mut self, snapshot: &Snapshot) {
        for bound in self.bound.iter_mut().filter(|bound| !bound.is_logged) {
            bound.log(&snapshot.listeners[bound.listener]);
            bound.is_logged = true;
        }
    }

    /// Which inherited socket stands for each wanted address: the one that is bound to it, or else the first of the
    /// listener's name that stands for nothing else.
    fn heirs(&mut self, wanted: &[(usize, &Listener, Key)]) -> Vec<Option<usize>> {
        let mut taken = vec![false; self.inherited.len()];
        let mut heirs = vec![None; wanted.len()];
        let mut find = |fits: &dyn Fn(&InheritedSocket, &Listener, &Key) -> bool| {
            for (heir, (_, listener, key)) in heirs.iter_mut().zip(wanted).filter(|(heir, _)| heir.is_none()) {
                *heir = (0..taken.len()).find(|n| !taken[*n] && fits(&self.inherited[*n].0, listener, key));
                if let Some(found) = *heir {
                    taken[found] = true;
                }
            }
        };
        // What is handed over listens: no socket of datagrams is among them.
        find(&|socket, _, key| !key.is_udp && socket.is_at(&key.bind));
        find(&|socket, listener, key| !key.is_udp && socket.name() == &*listener.name);
        for ((socket, is_told), is_taken) in self.inherited.iter_mut().zip(taken) {
            if !is_taken && !*is_told {
                let (address, name) = (socket.local_address(), socket.name());
                warn!(%address, name, "a socket passed by the service manager is not used: no listener has its address or its name");
            }
            *is_told = !is_taken;
        }
        heirs
    }

    /// An address that takes QUIC and drains, to be served on.
    fn back(&self, key: &Key, purpose: &Purpose<'_>) -> Option<Result<Bound, BindError>> {
        let gone = self.going.iter().find(|gone| gone.key == *key)?;
        Bound::back(gone, purpose)
    }

    /// Opens an address. Where the kernel picks the port of both TCP and UDP it is the same for both, so that clients find
    /// the one by the other; it knows nothing of that, and may have to pick again.
    fn open(
        &mut self,
        key: Key,
        purpose: &Purpose<'_>,
        heir: Option<usize>,
        entries: &mut [Entry],
    ) -> Result<Bound, BindError> {
        let mut tries = PICKS;
        loop {
            let twin = self.twin_of(&key, entries);
            let at = twin.map_or_else(|| key.bind.clone(), |port| with_port(&key.bind, port));
            let heir = heir.map(|heir| &self.inherited[heir].0);
            let opened = Bound::open(SocketId(self.next_id), key.clone(), &at, purpose, heir);
            self.next_id += 1;
            match opened {
                Err(error) if error.source.kind() == io::ErrorKind::AddrInUse && twin.is_some() && tries > 0 => {
                    tries -= 1;
                    let Some(place) = entries.iter().position(|entry| entry.is_new_twin_of(&key)) else {
                        return Err(error);
                    };
                    if let Entry::New(other) = &mut entries[place] {
                        let id = SocketId(self.next_id);
                        self.next_id += 1;
                        **other = Bound::open(id, other.key.clone(), &other.key.bind, purpose, None)?;
                    }
                }
                opened => return opened,
            }
        }
    }

    /// The port that was picked for the same address over the other transport.
    fn twin_of(&self, key: &Key, entries: &[Entry]) -> Option<u16> {
        let new = entries.iter().filter_map(|entry| match entry {
            Entry::New(bound) => Some(&**bound),
            Entry::Kept { .. } => None,
        });
        let twin = new.chain(&self.bound).find(|bound| bound.key.is_twin_of(key))?;
        match twin.members.first()?.local_address() {
            Address::Socket(address) => Some(address.port()),
            Address::Unix(_) => None,
        }
    }

    fn place_of(&self, key: &Key) -> Option<usize> {
        self.bound.iter().position(|bound| bound.key == *key)
    }

    /// Whether one of our own sockets has the port, which then is no sign of another process: `:80` and
    /// `127.0.0.1:80` may stand side by side.
    fn holds_port_of(&self, wanted: &Key) -> bool {
        self.bound.iter().any(|bound| bound.key.shares_port_with(wanted)) || self.is_going(wanted)
    }

    fn is_back(&self, listener: &Listener, wanted: &Key) -> bool {
        listener.takes_quic()
            && self.going.iter().any(|gone| gone.is_open() && gone.takes_quic() && gone.key == *wanted)
    }

    fn is_going(&self, wanted: &Key) -> bool {
        self.going.iter().any(|gone| gone.is_open() && !gone.takes_quic() && gone.key.shares_port_with(wanted))
    }

    /// Waits until the workers have closed what goes, where `config` wants the address again, at most for a moment: the
    /// sockets would share its connections, and those at the old one meet the generation that it belonged to.
    pub async fn let_go(&self, config: &Config) {
        let until = Instant::now() + LET_GO;
        while Instant::now() < until && config.listeners.iter().flat_map(keys).any(|key| self.is_going(&key)) {
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn shares(&mut self, snapshot: &Snapshot) -> Shares {
        let mut shares = Shares::new(self.workers);
        for bound in &mut self.bound {
            let mut given = bound.give();
            for share in shares.of(bound.plane) {
                let spec = Arc::clone(&snapshot.listeners[bound.listener]);
                share.push(Listening { id: bound.id, spec, socket: given.next() });
            }
        }
        shares
    }
}

impl Entry {
    fn is_new_twin_of(&self, key: &Key) -> bool {
        matches!(self, Self::New(bound) if bound.key.is_twin_of(key))
    }
}

fn with_port(bind: &Bind, port: u16) -> Bind {
    match bind {
        Bind::AnyAddress(_) => Bind::AnyAddress(port),
        Bind::Address(address) => Bind::Address((address.ip(), port).into()),
        Bind::Unix(path) => Bind::Unix(path.clone()),
    }
}

/// How often the kernel may pick a port for TCP that somebody else has for UDP.
const PICKS: u32 = 16;
/// How long a worker may take to empty the queue of an address that is wanted again.
const LET_GO: Duration = Duration::from_millis(500);

/// With the place where the address is written.
fn placed(error: BindError, config: &Config) -> BindError {
    let place = config.listeners.iter().enumerate().find_map(|(at, listener)| {
        let nth = listener.binds.iter().position(|bind| bind::name(bind) == error.address)?;
        let written = |path: &[&str]| config.written.place(Owner::Listener(at), path);
        written(&["bind", &nth.to_string()]).or_else(|| written(&["bind"]))
    });
    BindError { place, ..error }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::base::id::Generation;
    use crate::config;
    use crate::control::compile::compile;
    use crate::transport::tls::development::{make_authority, make_leaf};
    use crate::upstream::registry::Registry;

    fn parse(text: &str) -> Config {
        config::parse("test.toml", text).unwrap_or_else(|faults| panic!("{faults}"))
    }

    fn listener(name: &str, bind: &str, more: &str) -> String {
        format!(
            "[[listener]]\nname = \"{name}\"\nbind = \"{bind}\"\n{more}\n[[route]]\nname = \"to-{name}\"\nlistener = \"{name}\"\nrespond = {{}}\n"
        )
    }

    fn put(sockets: &mut ListeningSockets, config: &Config) -> (Shares, Changes) {
        let snapshot = compile(config, None, &Registry::new(), Generation(1)).unwrap();
        let plan = sockets.plan(config, &snapshot.quic_keys).unwrap_or_else(|errors| panic!("{errors:?}"));
        sockets.commit(plan, &snapshot)
    }

    fn port(sockets: &ListeningSockets) -> u16 {
        match sockets.bound[0].members[0].local_address() {
            Address::Socket(address) => address.port(),
            Address::Unix(_) => panic!("not TCP"),
        }
    }

    #[test]
    fn every_worker_gets_each_new_socket_once() {
        let mut sockets = ListeningSockets::new(3);
        let config = parse(&listener("web", "127.0.0.1:0", ""));
        let (shares, _) = put(&mut sockets, &config);
        assert!(shares.http.iter().all(|share| share.len() == 1 && share[0].socket.is_some()));
        let (shares, changes) = put(&mut sockets, &config);
        assert!(shares.http.iter().all(|share| share.len() == 1 && share[0].socket.is_none()));
        assert_eq!(changes, Changes { kept: 1, opened: 0, closed: 0 });
    }

    fn free_address() -> String {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
    }

    fn relay(name: &str, bind: &str, mode: &str) -> String {
        format!(
            "[[listener]]\nname = \"{name}\"\nbind = \"{bind}\"\nmode = \"{mode}\"\nupstream = \"to-{name}\"\n[upstream.to-{name}]\nendpoints = [\"127.0.0.1:9\"]\n"
        )
    }

    #[test]
    fn each_plane_gets_what_is_its_own() {
        let mut sockets = ListeningSockets::new(2);
        let config = [listener("web", "127.0.0.1:0", ""), relay("db", "127.0.0.1:0", "tcp")].concat();
        let (shares, _) = put(&mut sockets, &parse(&config));
        let names = |share: &[Listening]| share.iter().map(|one| one.spec.name.to_string()).collect::<Vec<_>>();
        assert!(shares.http.iter().all(|share| names(share) == ["web"]));
        assert!(shares.layer4.iter().all(|share| names(share) == ["db"] && share[0].socket.is_some()));
    }

    #[test]
    fn a_socket_goes_over_to_the_other_plane_without_being_closed() {
        let mut sockets = ListeningSockets::new(2);
        let bind = free_address();
        let (_shares, _) = put(&mut sockets, &parse(&listener("web", &bind, "")));
        let (first, changes) = put(&mut sockets, &parse(&relay("web", &bind, "tcp")));
        assert_eq!((changes.kept, changes.opened, changes.closed), (1, 0, 0));
        assert!(first.http.iter().all(Vec::is_empty));
        assert!(first.layer4.iter().all(|share| share[0].socket.is_some()));
        let (again, _) = put(&mut sockets, &parse(&relay("web", &bind, "tcp")));
        assert!(again.layer4.iter().all(|share| share[0].socket.is_none()));
    }

    #[test]
    fn tcp_and_udp_may_have_the_same_port() {
        let mut sockets = ListeningSockets::new(1);
        let bind = free_address();
        let both = [relay("dns", &bind, "tcp"), relay("dns-udp", &bind, "udp")].concat();
        let (shares, changes) = put(&mut sockets, &parse(&both));
        assert_eq!((shares.layer4[0].len(), changes.opened), (2, 2));
    }

    #[test]
    fn a_socket_stays_when_its_listener_is_renamed() {
        let mut sockets = ListeningSockets::new(1);
        let folder = tempfile::tempdir().unwrap();
        let bind = format!("unix:{}", folder.path().join("x.sock").display());
        let (shares, _) = put(&mut sockets, &parse(&listener("one", &bind, "")));
        let (again, changes) = put(&mut sockets, &parse(&listener("two", &bind, "")));
        assert_eq!(changes.kept, 1);
        assert_eq!(shares.http[0][0].id, again.http[0][0].id);
        assert_eq!(&*again.http[0][0].spec.name, "two");
    }

    #[test]
    fn a_plan_that_fails_or_is_dropped_leaves_nothing_open() {
        let mut sockets = ListeningSockets::new(2);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let config = parse(&listener("local", &format!("unix:{}", path.display()), ""));
        let plan = sockets.plan(&config, &Keys::random().unwrap()).unwrap_or_else(|errors| panic!("{errors:?}"));
        assert!(UnixStream::connect(&path).is_ok());
        drop(plan);
        assert!(!path.exists());
        assert!(sockets.bound.is_empty());
    }

    #[test]
    fn every_address_that_cannot_be_had_is_told() {
        let (mut first, mut second) = (ListeningSockets::new(1), ListeningSockets::new(1));
        put(&mut first, &parse(&listener("web", "127.0.0.1:0", "")));
        let taken = format!("127.0.0.1:{}", port(&first));
        let both = listener("taken", &taken, "") + &listener("foreign", "192.0.2.1:9", "");
        let Err(errors) = second.plan(&parse(&both), &Keys::random().unwrap()) else { panic!("both were had") };
        let line = |address: &str| 1 + both.lines().position(|line| line.contains(address)).unwrap() as u32;
        let told: Vec<_> = errors.iter().map(|error| error.place.as_ref().unwrap().line).collect();
        assert_eq!(told, [line(&taken), line("192.0.2.1:9")]);
    }

    #[test]
    fn the_wildcard_may_join_an_address_of_ours() {
        let mut sockets = ListeningSockets::new(1);
        put(&mut sockets, &parse(&listener("one", "127.0.0.1:0", "")));
        let port = port(&sockets);
        let both = listener("one", "127.0.0.1:0", "") + &listener("all", &format!("127.0.0.2:{port}"), "");
        let (_, changes) = put(&mut sockets, &parse(&both));
        assert_eq!((changes.kept, changes.opened), (1, 1));
    }

    #[test]
    fn changed_options_reach_a_socket_that_listens() {
        let mut sockets = ListeningSockets::new(2);
        put(
            &mut sockets,
            &parse(&listener("web", "127.0.0.1:0", "socket = { user_timeout = \"7s\", nodelay = false }")),
        );
        let granted = |sockets: &ListeningSockets| {
            let bound = &sockets.bound[0];
            bound.members.iter().map(|member| member.granted(&bound.options).unwrap()).collect::<Vec<_>>()
        };
        assert!(granted(&sockets).iter().all(|granted| granted.user_timeout == Some(Duration::from_secs(7))));
        assert!(granted(&sockets).iter().all(|granted| !granted.nodelay));
        let before = port(&sockets);
        put(&mut sockets, &parse(&listener("web", "127.0.0.1:0", "socket = { keepalive = { idle = \"9s\" } }")));
        assert_eq!(port(&sockets), before);
        for granted in granted(&sockets) {
            assert_eq!((granted.user_timeout, granted.nodelay), (None, true));
            assert_eq!(granted.keepalive.unwrap().idle, Duration::from_secs(9));
        }
    }

    #[test]
    fn an_address_may_come_back_while_a_worker_empties_its_queue() {
        let mut sockets = ListeningSockets::new(1);
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = parse(&listener("web", &format!("127.0.0.1:{port}"), ""));
        let (shares, _) = put(&mut sockets, &config);
        put(&mut sockets, &parse(&listener("other", "127.0.0.1:0", "")));
        let (again, changes) = put(&mut sockets, &config);
        assert_eq!((changes.opened, changes.closed), (1, 1));
        // Once the workers have closed theirs, a socket there is another process's.
        drop((shares, again));
        put(&mut sockets, &parse(&listener("other", "127.0.0.1:0", "")));
        let _theirs = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(sockets.plan(&config, &Keys::random().unwrap()).is_err());
    }

    #[test]
    fn a_socket_that_goes_is_closed_when_the_workers_close_theirs() {
        let mut sockets = ListeningSockets::new(1);
        let (shares, _) = put(&mut sockets, &parse(&listener("web", "127.0.0.1:0", "")));
        let address = ("127.0.0.1", port(&sockets));
        sockets.close();
        assert!(TcpStream::connect(address).is_ok());
        drop(shares);
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn a_socket_file_that_another_process_replaced_stays() {
        let mut sockets = ListeningSockets::new(1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        put(&mut sockets, &parse(&listener("local", &format!("unix:{}", path.display()), "")));
        std::fs::remove_file(&path).unwrap();
        let _theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
        sockets.close();
        assert!(path.exists());
    }

    /// A listener for HTTP/3 beside the others, with a certificate of its own.
    fn with_http3(folder: &tempfile::TempDir, bind: &str, protocols: &str) -> String {
        let leaf = make_leaf(&["web.test"], &make_authority().unwrap()).unwrap();
        let [cert, key] = [("web.pem", leaf.cert_pem), ("web.key", leaf.key_pem)].map(|(name, text)| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        });
        let tls = format!("protocols = {protocols}\ntls.certificates = [{{ cert = {cert:?}, key = {key:?} }}]");
        listener("web", bind, &tls)
    }

    fn opened(shares: &Shares) -> Vec<(SocketId, Option<Address>, bool)> {
        let told = |listening: &Listening| {
            let socket = listening.socket.as_ref();
            let steered = socket.is_some_and(|opened| opened.steering.is_some());
            (listening.id, socket.map(|opened| opened.socket.local_address().clone()), steered)
        };
        shares.http.iter().flatten().map(told).collect()
    }

    #[test]
    fn http3_has_the_port_of_the_others_over_udp_and_comes_and_goes_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut sockets = ListeningSockets::new(2);
        let all = parse(&with_http3(&folder, "127.0.0.1:0", r#"["http1", "http3"]"#));
        let (shares, changes) = put(&mut sockets, &all);
        assert_eq!(changes, Changes { kept: 0, opened: 2, closed: 0 });
        let told = opened(&shares);
        assert_eq!(told.iter().map(|(_, _, steered)| *steered).collect::<Vec<_>>(), [false, true, false, true]);
        assert!(told.iter().all(|(_, address, _)| *address == told[0].1), "{told:?}");
        let snapshot = compile(&all, None, &Registry::new(), Generation(1)).unwrap();
        assert_eq!(sockets.addresses(&snapshot).len(), 1, "told once");
        let (_, changes) = put(&mut sockets, &parse(&with_http3(&folder, "127.0.0.1:0", r#"["http1"]"#)));
        assert_eq!(changes, Changes { kept: 1, opened: 0, closed: 1 });
        drop(shares);
        let (shares, changes) = put(&mut sockets, &all);
        assert_eq!(changes, Changes { kept: 1, opened: 1, closed: 0 });
        assert_eq!(opened(&shares)[1].1, told[0].1, "the port of what stayed");
    }

    #[test]
    fn an_address_of_quic_that_drains_is_had_back_with_its_sockets() {
        let folder = tempfile::tempdir().unwrap();
        let mut sockets = ListeningSockets::new(2);
        let only = parse(&with_http3(&folder, "127.0.0.1:0", r#"["http3"]"#));
        let (shares, _) = put(&mut sockets, &only);
        let first = opened(&shares);
        let other = parse(&listener("other", "127.0.0.1:0", ""));
        put(&mut sockets, &other);
        // Its workers still have connections.
        let (again, changes) = put(&mut sockets, &only);
        assert_eq!(changes.opened, 1);
        assert_eq!(opened(&again), first, "the same sockets, by the same number");
        put(&mut sockets, &other);
        drop((shares, again));
        // Now they are closed, and the kernel picks another port.
        let (new, _) = put(&mut sockets, &only);
        assert_ne!(opened(&new)[0].0, first[0].0);
    }

    #[test]
    fn what_is_relayed_does_not_become_what_ends_here_while_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let mut sockets = ListeningSockets::new(1);
        let udp = "[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\nmode = \"udp\"\nupstream = \"app\"\n\
                   [upstream.app]\nendpoints = [\"127.0.0.1:1\"]\n";
        put(&mut sockets, &parse(udp));
        let config = parse(&with_http3(&folder, "127.0.0.1:0", r#"["http3"]"#));
        let Err(errors) = sockets.plan(&config, &Keys::random().unwrap()) else { panic!("it is had") };
        assert!(errors[0].to_string().contains("with a restart"), "{}", errors[0]);
    }

    fn handed_over(name: &str, socket: impl Into<std::os::fd::OwnedFd>) -> InheritedSocket {
        InheritedSocket::new(socket.into(), name.to_owned()).unwrap()
    }

    #[test]
    fn an_inherited_socket_is_adopted_by_its_address_or_its_name() {
        let [at, named, spare] = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [at_port, named_port] = [&at, &named].map(|socket| socket.local_addr().unwrap().port());
        let mut sockets = ListeningSockets::new(2);
        sockets.inherit(vec![
            // The address counts before the name.
            handed_over("public", at),
            handed_over("unknown", spare),
            handed_over("public", named),
        ]);
        let both = listener("local", &format!("127.0.0.1:{at_port}"), "") + &listener("public", ":443", "");
        let (shares, changes) = put(&mut sockets, &parse(&both));
        assert_eq!((changes.opened, shares.http[1].len()), (2, 2));
        let ports: Vec<_> = sockets.bound.iter().map(|bound| bound.members[0].local_address().to_string()).collect();
        assert_eq!(ports, [format!("127.0.0.1:{at_port}"), format!("127.0.0.1:{named_port}")]);
        assert_eq!(sockets.inherited.iter().map(|(_, is_told)| *is_told).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn the_queue_of_an_inherited_socket_outlives_its_listener() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut sockets = ListeningSockets::new(1);
        sockets.inherit(vec![handed_over("web", socket)]);
        let config = parse(&listener("web", &address.to_string(), ""));
        drop(put(&mut sockets, &config));
        let mut waiting = TcpStream::connect(address).unwrap();
        drop(put(&mut sockets, &parse(&listener("other", "127.0.0.1:0", ""))));
        waiting.set_nonblocking(true).unwrap();
        let error = std::io::Read::read(&mut waiting, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let (shares, changes) = put(&mut sockets, &config);
        assert_eq!(changes.opened, 1);
        assert!(shares.http[0][0].socket.is_some());
    }

    #[test]
    fn the_file_of_an_inherited_socket_is_not_ours_to_remove() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let mut sockets = ListeningSockets::new(1);
        sockets.inherit(vec![handed_over("x", std::os::unix::net::UnixListener::bind(&path).unwrap())]);
        put(&mut sockets, &parse(&listener("local", &format!("unix:{}", path.display()), "")));
        sockets.close();
        assert!(path.exists());
    }
}
