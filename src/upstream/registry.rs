//! Makes upstreams from the configuration, on the control thread, and keeps across generations the state of each
//! endpoint, by the name of its upstream and its address, and the last good DNS answer for each name. Keyed by both,
//! because two upstreams may judge one address differently.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::sync::Notify;

use super::Upstream;
use super::endpoint::{Endpoint, EndpointState, Outlier, Watch};
use super::endpoint_set::EndpointSet;
use crate::base::addr::Address;
use crate::base::id::UpstreamId;
use crate::config::model::{self, Balance, Bind, EndpointAddress, EndpointConfig};
use crate::net::bind;
use crate::transport::tls::client::{ClientTls, ServerName};

/// What upstreams of all generations share.
#[derive(Default)]
pub struct Registry {
    known: Mutex<Known>,
    alarm: Arc<Notify>,
}

#[derive(Default)]
struct Known {
    /// Weak: what no generation holds any more is forgotten.
    states: HashMap<(Arc<str>, Address), Weak<EndpointState>>,
    /// How many states there may be before those that nobody holds are looked for: looking costs as many steps.
    sweep_at: usize,
    answers: HashMap<String, Vec<IpAddr>>,
    /// Where clients must not get.
    own: Vec<Bind>,
}

impl Registry {
    /// A registry that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps what names resolve to away from the proxy's own listeners, in the sets that are made from now on: whoever has
    /// a name point at this machine shall not get there by way of a route.
    pub fn keep_away_from(&self, own: Vec<Bind>) {
        self.known().own = own;
    }

    /// Compiles one upstream. Names start with the last good answer; an upstream of names that were never resolved has
    /// no endpoints until discovery brings them.
    pub fn upstream(&self, id: UpstreamId, config: Arc<model::Upstream>, tls: Option<Arc<ClientTls>>) -> Arc<Upstream> {
        let endpoints = ArcSwap::new(self.endpoint_set(&config));
        let settings = Upstream::settings_of(&config);
        Arc::new(Upstream { id, name: Arc::clone(&config.name), config, tls, settings, endpoints, origin: None })
    }

    /// Wakes when an endpoint of any upstream has failed as often in a row as its `[outlier]` allows.
    pub fn alarm(&self) -> &Arc<Notify> {
        &self.alarm
    }

    /// The endpoints of an upstream by what is known now.
    pub fn endpoint_set(&self, config: &model::Upstream) -> Arc<EndpointSet> {
        let watch = self.watch(config);
        let mut known = self.known();
        known.sweep();
        let mut endpoints = Vec::with_capacity(config.endpoints.len());
        for endpoint in &config.endpoints {
            for address in known.addresses(&endpoint.address) {
                let state = known.state(&config.name, &address);
                endpoints.push(Arc::new(describe(config, endpoint, address, watch.clone(), state)));
            }
        }
        Arc::new(EndpointSet::new(config.balance, endpoints))
    }

    /// Takes in what a name resolved to and says whether that is news. An empty answer is never taken in: the last good
    /// one stays. Order does not count, as resolvers rotate it.
    pub fn learn(&self, host: &str, mut addresses: Vec<IpAddr>) -> bool {
        addresses.sort_unstable();
        addresses.dedup();
        let mut known = self.known();
        if addresses.is_empty() || known.answers.get(host) == Some(&addresses) {
            return false;
        }
        known.answers.insert(host.to_owned(), addresses);
        true
    }

    /// Forgets what names resolved to that nobody wants any more: what is wanted again is asked again.
    pub fn retain_names(&self, wanted: impl Fn(&str) -> bool) {
        self.known().answers.retain(|host, _| wanted(host));
    }

    /// Whether a name has ever resolved.
    pub fn knows(&self, host: &str) -> bool {
        self.known().answers.contains_key(host)
    }

    fn watch(&self, config: &model::Upstream) -> Watch {
        let outlier = config.outlier.as_ref().map(|outlier| Outlier {
            consecutive_failures: outlier.consecutive_failures,
            alarm: Arc::clone(&self.alarm),
        });
        Watch { latency: config.balance == Balance::P2cEwma, outlier }
    }

    /// Nothing that holds the lock can leave the maps half-changed, so a poisoned lock is still good.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn addresses(&self, address: &EndpointAddress) -> Vec<Address> {
        match address {
            EndpointAddress::Socket(address) => vec![Address::Socket(*address)],
            EndpointAddress::Unix(path) => vec![Address::from(path.as_path())],
            EndpointAddress::Dns { host, port } => {
                let answer = self.answers.get(host).map_or(&[][..], Vec::as_slice);
                let addresses = answer.iter().map(|ip| SocketAddr::new(*ip, *port));
                addresses.filter(|address| !self.is_own(host, *address)).map(Address::Socket).collect()
            }
        }
    }

    fn is_own(&self, host: &str, address: SocketAddr) -> bool {
        let is_own = self.own.iter().any(|own| bind::is_reached_at(own, address));
        if is_own {
            tracing::warn!(%host, %address, "the name resolves to an admin or observe listener of this proxy; the address is not used");
        }
        is_own
    }

    fn sweep(&mut self) {
        if self.states.len() >= self.sweep_at {
            self.states.retain(|_, state| state.strong_count() > 0);
            self.sweep_at = 2 * self.states.len() + FEWEST_STATES;
        }
    }

    fn state(&mut self, upstream: &Arc<str>, address: &Address) -> Arc<EndpointState> {
        let slot = self.states.entry((Arc::clone(upstream), address.clone())).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let state = Arc::new(EndpointState::default());
            *slot = Arc::downgrade(&state);
            state
        })
    }
}

/// States that are never looked through.
const FEWEST_STATES: usize = 64;

fn describe(
    upstream: &model::Upstream,
    config: &EndpointConfig,
    address: Address,
    watch: Watch,
    state: Arc<EndpointState>,
) -> Endpoint {
    let (label, own_name) = match &config.address {
        EndpointAddress::Socket(socket) => (socket.to_string(), socket.ip().to_string()),
        EndpointAddress::Unix(_) => (address.to_string(), "localhost".to_owned()),
        EndpointAddress::Dns { host, .. } => (format!("{host} ({address})"), host.clone()),
    };
    let server_name = upstream.tls.as_ref().map(|tls| tls.server_name.as_ref().unwrap_or(&own_name));
    Endpoint {
        label: label.into(),
        address,
        // The configuration checks names; one that is none leaves the handshake to fail with a TLS error.
        server_name: server_name.and_then(|name| ServerName::try_from(name.clone()).ok()),
        authority: authority_of(upstream, &config.address),
        weight: config.weight,
        watch,
        state,
    }
}

/// The own Host of an endpoint that is written like this.
pub fn authority_of(upstream: &model::Upstream, address: &EndpointAddress) -> HeaderValue {
    let default_port = if upstream.tls.is_some() { 443 } else { 80 };
    let with_port =
        |host: &str, port: u16| if port == default_port { host.to_owned() } else { format!("{host}:{port}") };
    let authority = match address {
        EndpointAddress::Socket(socket) if socket.is_ipv6() => with_port(&format!("[{}]", socket.ip()), socket.port()),
        EndpointAddress::Socket(socket) => with_port(&socket.ip().to_string(), socket.port()),
        EndpointAddress::Dns { host, port } => with_port(host, *port),
        // RFC 9110 §7.2 wants a Host where there is no name: `localhost`, as others send.
        EndpointAddress::Unix(_) => "localhost".to_owned(),
    };
    HeaderValue::try_from(authority).unwrap_or(HeaderValue::from_static("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::fixtures::{dns_endpoint, upstream_config};

    fn config() -> model::Upstream {
        let mut config = upstream_config("api", &[]);
        config.endpoints = vec![dns_endpoint("api.internal", 8080)];
        config
    }

    fn labels(set: &EndpointSet) -> Vec<String> {
        set.endpoints().iter().map(|endpoint| endpoint.label.to_string()).collect()
    }

    #[test]
    fn a_name_becomes_one_endpoint_for_each_address() {
        let registry = Registry::new();
        assert!(registry.endpoint_set(&config()).endpoints().is_empty());
        assert!(registry.learn("api.internal", vec!["10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap()]));
        assert!(!registry.learn("api.internal", vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()]));
        let set = registry.endpoint_set(&config());
        assert_eq!(labels(&set), ["api.internal (10.0.0.1:8080)", "api.internal (10.0.0.2:8080)"]);
        assert_eq!(set.endpoints()[0].authority, "api.internal:8080");
    }

    #[test]
    fn an_empty_answer_keeps_the_last_good_one() {
        let registry = Registry::new();
        registry.learn("api.internal", vec!["10.0.0.1".parse().unwrap()]);
        assert!(!registry.learn("api.internal", vec![]));
        assert_eq!(registry.endpoint_set(&config()).endpoints().len(), 1);
    }

    #[test]
    fn a_name_never_leads_to_a_listener_of_the_proxys_own() {
        let registry = Registry::new();
        registry.keep_away_from(vec![Bind::AnyAddress(8080)]);
        registry.learn("api.internal", vec!["127.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap()]);
        assert_eq!(labels(&registry.endpoint_set(&config())), ["api.internal (192.0.2.1:8080)"]);
        registry.keep_away_from(vec![Bind::AnyAddress(8081)]);
        assert_eq!(labels(&registry.endpoint_set(&config())).len(), 2);
    }

    #[test]
    fn state_outlives_a_generation_and_is_forgotten_with_the_last() {
        let registry = Registry::new();
        registry.learn("api.internal", vec!["10.0.0.1".parse().unwrap()]);
        let first = registry.endpoint_set(&config());
        first.endpoints()[0].state.request_began();
        let second = registry.endpoint_set(&config());
        drop(first);
        assert_eq!(second.endpoints()[0].state.in_flight(), 1);
        drop(second);
        assert_eq!(registry.endpoint_set(&config()).endpoints()[0].state.in_flight(), 0);
    }

    #[test]
    fn states_that_nobody_holds_do_not_pile_up() {
        let registry = Registry::new();
        for n in 0..10_000_u32 {
            registry.learn("api.internal", vec![IpAddr::from(n.to_be_bytes())]);
            registry.endpoint_set(&config());
        }
        assert!(registry.known().states.len() <= 2 * FEWEST_STATES);
    }

    #[test]
    fn names_that_nobody_wants_are_forgotten() {
        let registry = Registry::new();
        registry.learn("api.internal", vec!["10.0.0.1".parse().unwrap()]);
        registry.learn("old.internal", vec!["10.0.0.2".parse().unwrap()]);
        registry.retain_names(|host| host == "api.internal");
        assert!(registry.knows("api.internal") && !registry.knows("old.internal"));
    }

    #[test]
    fn two_upstreams_with_one_address_do_not_share_its_state() {
        let registry = Registry::new();
        registry.learn("api.internal", vec!["10.0.0.1".parse().unwrap()]);
        let mut other = config();
        other.name = "other".into();
        let (one, two) = (registry.endpoint_set(&config()), registry.endpoint_set(&other));
        one.endpoints()[0].state.request_began();
        assert_eq!(two.endpoints()[0].state.in_flight(), 0);
    }
}
