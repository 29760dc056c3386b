//! Origins named by clients (forward mode): each is an upstream with one endpoint, so that requests to it are sent like
//! all others, through its own pools. A worker keeps a bounded number of them; the least recently used one is removed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;
use rustc_hash::FxHasher;

use super::Upstream;
use super::endpoint::{Endpoint, EndpointState, Watch};
use super::endpoint_set::EndpointSet;
use super::pool::Pools;
use super::worker::WorkerUpstream;
use crate::base::addr::Address;
use crate::base::error::Error;
use crate::base::id::{Generation, ListenerId, UpstreamId};
use crate::body::ledger::Measured;
use crate::config::model::{self, Balance};
use crate::net::io::Socket;
use crate::transport::tls::client::{ClientTls, ServerName};

/// Origins that one worker knows at once.
const MOST: usize = 512;

/// What an upstream is that a client named.
pub struct Origin {
    /// What its connections are kept under, such as `https://example.org:443`.
    pub name: Arc<str>,
    /// How it is reached.
    pub dial: Arc<dyn Dial>,
}

/// Who connects to an origin: finds its addresses, and lets nobody be led to one that is not allowed.
pub trait Dial: Send + Sync {
    /// A connection, within the time that the whole of connecting has. Dropped, it closes what it opened.
    fn dial(&self) -> Pin<Box<dyn Future<Output = Result<Socket, Error>> + '_>>;
}

/// An origin as a request names it, on one listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    /// The listener, whose rules say how it is reached.
    pub listener: ListenerId,
    /// `https`.
    pub is_secure: bool,
    /// The name or the address, without brackets.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
}

/// What all origins of a listener share.
pub struct Terms<'a> {
    /// Deadlines, limits of pools, socket options.
    pub config: &'a Arc<model::Upstream>,
    /// `None`: cleartext.
    pub tls: Option<&'a Arc<ClientTls>>,
    /// The generation in force. Connections are not carried over to the next: its rules may be others.
    pub generation: Generation,
}

/// The origins that one worker knows in one generation.
pub struct Origins {
    pools: Rc<Pools>,
    known: RefCell<HashMap<Named, Known>>,
    asked: Cell<u64>,
}

struct Known {
    upstream: Rc<WorkerUpstream>,
    asked: u64,
}

impl Origins {
    /// Knows none yet.
    pub fn new(pools: Rc<Pools>) -> Self {
        Self { pools, known: RefCell::default(), asked: Cell::new(0) }
    }

    /// The origin of this name; `dial` makes what reaches it, where it was not known.
    pub fn origin(&self, named: Named, terms: &Terms<'_>, dial: impl FnOnce() -> Arc<dyn Dial>) -> Rc<WorkerUpstream> {
        let asked = self.asked.get() + 1;
        self.asked.set(asked);
        let mut known = self.known.borrow_mut();
        if let Some(found) = known.get_mut(&named) {
            found.asked = asked;
            return Rc::clone(&found.upstream);
        }
        if known.len() >= MOST
            && let Some(oldest) = known.iter().min_by_key(|(_, known)| known.asked).map(|(named, _)| named.clone())
        {
            // Requests that are under way hold it themselves, and what is kept of it is given up with one of the next.
            known.remove(&oldest);
            self.pools.retire_unused();
        }
        let upstream = self.pools.attach(&upstream(&named, terms, dial()));
        known.insert(named, Known { upstream: Rc::clone(&upstream), asked });
        upstream
    }

    /// What this worker measures of everything that goes out under this name.
    pub fn measured(&self, name: &Arc<str>) -> Rc<Measured> {
        self.pools.measured(name)
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.known.borrow().len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn upstream(named: &Named, terms: &Terms<'_>, dial: Arc<dyn Dial>) -> Arc<Upstream> {
    let Named { listener, is_secure, host, port } = named;
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    let label: Arc<str> = format!("{bracketed}:{port}").into();
    let scheme = if *is_secure { "https" } else { "http" };
    let endpoint = Endpoint {
        label: Arc::clone(&label),
        // Nobody connects to it: `dial` knows where the origin is, each time anew.
        address: Address::Socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port))),
        server_name: terms.tls.and_then(|_| ServerName::try_from(host.to_string()).ok()),
        authority: HeaderValue::try_from(&*label).unwrap_or(HeaderValue::from_static("localhost")),
        weight: 1,
        watch: Watch::default(),
        state: Arc::new(EndpointState::default()),
    };
    let mut hasher = FxHasher::default();
    (Upstream::settings_of(terms.config), terms.generation.0, listener.0).hash(&mut hasher);
    Arc::new(Upstream {
        id: UpstreamId(u32::MAX),
        name: Arc::clone(&terms.config.name),
        config: Arc::clone(terms.config),
        tls: terms.tls.cloned(),
        settings: hasher.finish(),
        endpoints: ArcSwap::from_pointee(EndpointSet::new(Balance::RoundRobin, vec![Arc::new(endpoint)])),
        origin: Some(Origin { name: format!("{scheme}://{label}").into(), dial }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::WorkerTelemetry;
    use crate::upstream::fixtures::{on_worker, upstream_config};

    struct Nowhere;

    impl Dial for Nowhere {
        fn dial(&self) -> Pin<Box<dyn Future<Output = Result<Socket, Error>> + '_>> {
            Box::pin(async { Err(Error::internal("nowhere")) })
        }
    }

    fn named(host: &str, is_secure: bool) -> Named {
        Named { listener: ListenerId(0), is_secure, host: host.into(), port: 80 }
    }

    #[test]
    fn an_origin_is_known_once_and_the_oldest_makes_room() {
        on_worker(async {
            let origins = Origins::new(Pools::new(0, 1, Arc::new(WorkerTelemetry::default())));
            let config = Arc::new(upstream_config("out", &[]));
            let terms = Terms { config: &config, tls: None, generation: Generation(1) };
            let ask = |host: &str, is_secure| origins.origin(named(host, is_secure), &terms, || Arc::new(Nowhere));
            let first = ask("a.example", false);
            assert!(Rc::ptr_eq(&first, &ask("a.example", false)));
            assert!(!Rc::ptr_eq(&first, &ask("a.example", true)), "another scheme is another origin");
            for number in 0..2 * MOST {
                ask(&format!("{number}.example"), false);
                ask("a.example", false);
            }
            assert_eq!(origins.len(), MOST);
            assert_eq!(origins.pools.len(), MOST, "nothing is kept of those that went, though none was ever reached");
            assert!(Rc::ptr_eq(&first, &ask("a.example", false)), "who is asked for stays");
        });
    }

    #[test]
    fn connections_of_an_origin_are_its_own() {
        let config = Arc::new(upstream_config("out", &[]));
        let made = |host: &str, generation| {
            let terms = Terms { config: &config, tls: None, generation: Generation(generation) };
            upstream(&named(host, false), &terms, Arc::new(Nowhere))
        };
        let name = |upstream: &Upstream| upstream.origin.as_ref().unwrap().name.clone();
        assert_ne!(name(&made("a.example", 1)), name(&made("b.example", 1)));
        assert_ne!(made("a.example", 1).identity(), made("a.example", 2).identity(), "rules may have changed");
        assert_eq!(&*name(&made("::1", 1)), "http://[::1]:80");
    }
}
