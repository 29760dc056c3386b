//! What the tests of this room share: configurations, and origins that speak raw bytes so that they can misbehave.

use std::time::Duration;

use crate::config::model::{
    Balance, EndpointAddress, EndpointConfig, Place, PoolLimits, SocketOptions, Upstream, UpstreamProtocol,
    UpstreamTimeouts,
};

fn place() -> Place {
    Place { file: "test".into(), line: 1, column: 1 }
}

pub(crate) fn dns_endpoint(host: &str, port: u16) -> EndpointConfig {
    EndpointConfig { address: EndpointAddress::Dns { host: host.to_owned(), port }, weight: 1, place: place() }
}

pub(crate) fn upstream_config(name: &str, addresses: &[std::net::SocketAddr]) -> Upstream {
    Upstream {
        name: name.into(),
        endpoints: addresses
            .iter()
            .map(|address| EndpointConfig { address: EndpointAddress::Socket(*address), weight: 1, place: place() })
            .collect(),
        protocol: UpstreamProtocol::Auto,
        tls: None,
        balance: Balance::RoundRobin,
        pool: PoolLimits {
            max_idle_per_endpoint: 8,
            idle_timeout: Duration::from_secs(60),
            max_age: Duration::from_secs(3_600),
        },
        timeouts: UpstreamTimeouts {
            connect: Duration::from_secs(5),
            response: Duration::from_secs(5),
            stream_idle: Duration::from_secs(5),
        },
        socket: SocketOptions {
            nodelay: true,
            keepalive: None,
            backlog: 0,
            recv_buffer: None,
            send_buffer: None,
            fast_open: false,
            user_timeout: None,
        },
        place: place(),
    }
}
