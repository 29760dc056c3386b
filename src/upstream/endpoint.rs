//! One endpoint: where it is, its weight, and what all workers and generations know of it together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use crate::base::addr::Address;
use crate::base::error::Kind;
use crate::transport::tls::client::ServerName;

/// One address that requests are sent to. A `dns:` name becomes one endpoint for each address it resolves to.
pub struct Endpoint {
    /// As it is told to people: the address, after the name it was resolved from.
    pub label: Arc<str>,
    /// Where to connect.
    pub address: Address,
    /// The name to ask for and to verify, where TLS is spoken.
    pub server_name: Option<ServerName<'static>>,
    /// The endpoint's own Host, for `host_header = "upstream"`.
    pub authority: HeaderValue,
    /// Its share of the picks, at least 1.
    pub weight: u32,
    /// What outlives generations.
    pub state: Arc<EndpointState>,
}

impl Endpoint {
    /// Whether a person means this endpoint by `name`: its label, its address, or the name it was resolved from, as the
    /// configuration writes it.
    pub fn is_called(&self, name: &str) -> bool {
        if *name == *self.label || name == self.address.to_string() {
            return true;
        }
        let Some((host, port)) = name.strip_prefix("dns:").and_then(|name| name.rsplit_once(':')) else { return false };
        let resolved_from = self.label.split_once(" (").map(|(host, _)| host);
        let own_port = match &self.address {
            Address::Socket(address) => address.port().to_string(),
            Address::Unix(_) => return false,
        };
        resolved_from.is_some_and(|own| own.eq_ignore_ascii_case(host)) && own_port == port
    }
}

/// What is known of an endpoint, kept across generations by the name of its upstream and its address. Alone on its cache
/// lines: every worker writes here when requests in flight are counted.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct EndpointState {
    in_flight: AtomicU32,
    spoken: AtomicU8,
    connect_failures: AtomicU64,
    /// In milliseconds of Unix time; 0: never.
    last_connect_failure: AtomicU64,
    /// The number of its [`Kind`].
    last_failure_kind: AtomicU8,
    is_drained: AtomicBool,
}

/// What an endpoint was last heard to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// It was not asked yet.
    Unknown,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl EndpointState {
    /// Requests under way over all workers; zero where the policy does not ask for it.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts one up what is in flight: a request, or a session of layer 4.
    pub fn request_began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one of these away.
    pub fn request_ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// What ALPN chose on the last connection of any worker. A hint: the next connection may choose otherwise.
    pub fn spoken(&self) -> Spoken {
        match self.spoken.load(Ordering::Relaxed) {
            1 => Spoken::Http1,
            2 => Spoken::Http2,
            _ => Spoken::Unknown,
        }
    }

    /// Connections of any worker that came to nothing.
    pub fn connect_failures(&self) -> u64 {
        self.connect_failures.load(Ordering::Relaxed)
    }

    /// How the last of them did, and when, to a millisecond. Of two failures at once the one's kind may stand with the
    /// other's time.
    pub fn last_connect_failure(&self) -> Option<(Kind, SystemTime)> {
        let millis = self.last_connect_failure.load(Ordering::Relaxed);
        let kind = Kind::ALL.get(usize::from(self.last_failure_kind.load(Ordering::Relaxed)))?;
        (millis > 0).then(|| (*kind, UNIX_EPOCH + Duration::from_millis(millis)))
    }

    /// Whether an operator took it out of the picks.
    pub fn is_drained(&self) -> bool {
        self.is_drained.load(Ordering::Relaxed)
    }

    /// Takes it out of the picks of the sets that are made from now on, or puts it back.
    pub fn set_drained(&self, drained: bool) {
        self.is_drained.store(drained, Ordering::Relaxed);
    }

    /// Notes a connection that came to nothing.
    pub fn connect_failed(&self, kind: Kind, now: SystemTime) {
        self.connect_failures.fetch_add(1, Ordering::Relaxed);
        self.last_failure_kind.store(kind as u8, Ordering::Relaxed);
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_connect_failure.store(since_epoch.as_millis() as u64, Ordering::Relaxed);
    }

    pub(super) fn heard(&self, http2: bool) {
        self.spoken.store(if http2 { 2 } else { 1 }, Ordering::Relaxed);
    }
}
