use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use mio::{Events, Poll};

use super::*;
use crate::base::error::Kind;
use crate::base::id::{ListenerId, UpstreamId};
use crate::base::limit::PerAddress;
use crate::config;
use crate::l4::upstreams::L4Upstream;
use crate::net::bind::bind_datagram;
use crate::net::proxy_protocol::{self, Reading, Transport};
use crate::route::l4::Layer4;
use crate::snapshot::ListenerSpec;
use crate::telemetry::counters::{Counters, Totals};
use crate::upstream::health::state::Bar;
use crate::upstream::registry::Registry;

mod behaviour;
mod headers;
mod quic;

const ID: SocketId = SocketId(7);

/// A worker with one socket, on the thread of the test.
struct Proxy {
    poll: Poll,
    udp: Udp,
    telemetry: Arc<WorkerTelemetry>,
    registry: Registry,
    process: Arc<Limit>,
    open: std::sync::Weak<crate::net::bind::Group>,
    upstreams: Rc<[Rc<L4Upstream>]>,
    address: SocketAddr,
    /// Runs ahead of the real one where a test says so.
    ahead: Duration,
}

impl Proxy {
    /// `text` is a configuration with one listener.
    fn new(text: &str) -> Self {
        let telemetry = Arc::new(WorkerTelemetry::new());
        let process = Arc::new(Limit::new(1000));
        let udp = Udp::new(Arc::clone(&telemetry), Arc::clone(&process), Instant::now()).unwrap();
        let open = Arc::new(crate::net::bind::Group::default());
        let mut proxy = Self {
            poll: Poll::new().unwrap(),
            udp,
            telemetry,
            registry: Registry::new(),
            process,
            open: Arc::downgrade(&open),
            upstreams: Rc::new([]),
            address: "127.0.0.1:0".parse().unwrap(),
            ahead: Duration::ZERO,
        };
        let listener = proxy.listener(text);
        let bind = listener.config().binds[0].clone();
        let socket = bind_datagram(&bind, &listener.config().socket, 1).unwrap().remove(0);
        proxy.address = socket.local_address().to_string().parse().unwrap();
        proxy.udp.listen(proxy.poll.registry(), ID, listener, socket, open).unwrap();
        proxy
    }

    fn listener(&mut self, text: &str) -> Rc<L4Listener> {
        let config = config::parse("test.toml", text).unwrap_or_else(|faults| panic!("{faults}"));
        let upstream = |(id, config): (usize, &config::model::Upstream)| {
            let upstream = self.registry.upstream(UpstreamId(id as u32), Arc::new(config.clone()), None);
            L4Upstream::new(upstream, &self.telemetry, (0, 1), None)
        };
        self.upstreams = config.upstreams.iter().enumerate().map(upstream).collect();
        let config = config.listeners[0].clone();
        let limits = &config.limits;
        let spec = ListenerSpec {
            egress: None,
            id: ListenerId(0),
            name: Arc::clone(&config.name),
            tls: None,
            connection_ids: Some(Arc::default()),
            layer4: Layer4::compile(&config.mode).map(Arc::new),
            limit: limits.max_connections.map(|max| Arc::new(Limit::new(max))),
            per_address: limits.max_connections_per_ip.map(|max| Arc::new(PerAddress::new(max))),
            config: Arc::new(config),
        };
        L4Listener::new(spec, &self.upstreams, &self.telemetry, None).unwrap()
    }

    /// One round of the event loop.
    fn round(&mut self) {
        let mut events = Events::with_capacity(64);
        self.poll.poll(&mut events, Some(Duration::from_millis(1))).unwrap();
        let now = Instant::now() + self.ahead;
        for event in &events {
            self.udp.ready(self.poll.registry(), Source::of(event.token()).unwrap(), now);
        }
        while self.udp.turn(self.poll.registry(), now) {}
        while self.udp.expire(self.poll.registry(), now).is_some_and(|next| next <= now) {}
    }

    /// Rounds until `done` gives something.
    fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            self.round();
            if let Some(found) = done(self) {
                return found;
            }
        }
        panic!("never: {what}; {:?}", self.counts());
    }

    fn receive(&mut self, socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut bytes = vec![0; 65_536];
        self.until("a datagram", |_| {
            let (length, from) = socket.recv_from(&mut bytes).ok()?;
            Some((bytes[..length].to_vec(), from))
        })
    }

    /// A few rounds in which nothing is to happen.
    fn idle(&mut self) {
        (0..20).for_each(|_| self.round());
    }

    fn counts(&self) -> Totals {
        Counters::sum([&*self.telemetry.counters])
    }

    fn errors(&self) -> Vec<(Kind, &'static str)> {
        self.telemetry.recent.all().into_iter().map(|incident| (incident.kind, incident.reason)).collect()
    }
}

/// A listener at `bind` that leads to `endpoints`; `listener` and `upstream` are further keys of the two.
fn text(bind: &str, endpoints: &[&UdpSocket], listener: &str, upstream: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect();
    format!(
        "[[listener]]\nname = \"dns\"\nbind = \"{bind}\"\nmode = \"udp\"\nupstream = \"app\"\n{listener}\n\
         [upstream.app]\nendpoints = {endpoints:?}\n{upstream}\n"
    )
}

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn client(proxy: &Proxy) -> UdpSocket {
    let client = socket(if proxy.address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" });
    client.connect(proxy.address).unwrap();
    client
}
