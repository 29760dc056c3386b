//! One endpoint: its address and weight, and the state shared by all workers and generations.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use tokio::sync::Notify;

use super::alternative::Alternative;
use super::health::standing::Standing;
use super::health::state::{Bar, Bars, State};
use crate::base::addr::Address;
use crate::base::error::Kind;
use crate::base::ewma::Ewma;
use crate::transport::tls::client::ServerName;

/// One address that requests are sent to. A `dns:` name becomes one endpoint for each of its addresses.
pub struct Endpoint {
    /// Its name for people: the address, preceded by the name it was resolved from.
    pub label: Arc<str>,
    /// The address to connect to.
    pub address: Address,
    /// The server name to send and verify, with TLS.
    pub server_name: Option<ServerName<'static>>,
    /// The endpoint's own Host, for `host_header = "upstream"`.
    pub authority: HeaderValue,
    /// Its weight, at least 1.
    pub weight: u32,
    /// What to measure of real traffic.
    pub watch: Watch,
    /// State that outlives generations.
    pub state: Arc<EndpointState>,
}

/// What the upstream's policy and `[outlier]` need to know of real traffic. If they need nothing, reporting a result
/// costs only this check.
#[derive(Clone, Default)]
pub struct Watch {
    /// Latencies, for `p2c-ewma`.
    pub latency: bool,
    /// Failures in a row, and how to wake the control thread when the limit is reached.
    pub outlier: Option<Outlier>,
}

/// See [`Watch::outlier`].
#[derive(Clone)]
pub struct Outlier {
    /// Never zero.
    pub consecutive_failures: u32,
    /// Wakes the control thread, which ejects.
    pub alarm: Arc<Notify>,
}

impl Endpoint {
    /// Whether `name` means this endpoint: its label, its address, or the name it was resolved from, as written in the
    /// configuration.
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

    /// Whether results are needed; if not, the clock need not be read.
    pub fn is_watched(&self) -> bool {
        self.watch.latency || self.watch.outlier.is_some()
    }

    /// Reports a connection established in this time. Used if no requests are sent; for requests, only a response shows
    /// that the endpoint works.
    pub fn connected(&self, latency: Duration) {
        self.did_well(latency);
    }

    /// Reports a response head after this time; `ok`: its status is below 500.
    pub fn answered(&self, ok: bool, latency: Duration) {
        if ok {
            return self.did_well(latency);
        }
        // A failure may be fast, but must not attract more requests.
        if self.watch.latency {
            self.state.latency.raise(self.state.age(), latency);
        }
        self.failed_once();
    }

    /// Reports a failed connection attempt, or a request that failed before the response head. Failures that are not
    /// caused by the endpoint do not count.
    pub fn failed(&self, kind: Kind) {
        if !is_endpoints_doing(kind) {
            return;
        }
        if self.watch.latency {
            self.state.latency.raise(self.state.age(), FAILURE);
        }
        self.failed_once();
    }

    /// Reports that nobody waits for a response any more: it takes at least this long.
    pub fn abandoned(&self, after: Duration) {
        if self.watch.latency {
            self.state.latency.raise(self.state.age(), after);
        }
    }

    /// The smoothed latency in nanoseconds, decayed since it was measured; `None`: never measured.
    pub fn latency(&self) -> Option<f32> {
        self.state.latency.value(self.state.age())
    }

    fn did_well(&self, latency: Duration) {
        if self.watch.latency {
            self.state.latency.record(self.state.age(), latency);
        }
        // A load, so that the cache line stays shared; a store only after a failure.
        if self.watch.outlier.is_some() && self.state.failures_in_a_row() > 0 {
            self.state.forget_failures();
        }
    }

    fn failed_once(&self) {
        let Some(outlier) = &self.watch.outlier else { return };
        let failures = self.state.failures_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures >= outlier.consecutive_failures {
            outlier.alarm.notify_one();
        }
    }
}

/// Whether an error is caused by the endpoint, and not by the client, the proxy or its limits.
fn is_endpoints_doing(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::DestinationUnavailable
            | Kind::ConnectionRefused
            | Kind::ConnectionTerminated
            | Kind::ConnectionTimeout
            | Kind::ConnectionWriteTimeout
            | Kind::TlsProtocolError
            | Kind::TlsCertificateError
            | Kind::TlsAlertReceived
            | Kind::HttpResponseIncomplete
            | Kind::HttpResponseTimeout
            | Kind::HttpProtocolError
    )
}

/// The state of an endpoint, kept across generations by the name of its upstream and its address. On cache lines of its
/// own, because every worker writes to it when requests in progress are counted.
#[derive(Debug)]
#[repr(align(128))]
pub struct EndpointState {
    in_flight: AtomicU32,
    failures_in_a_row: AtomicU32,
    latency: Ewma,
    /// The origin of the times in `latency`.
    born: Instant,
    bars: Bars,
    spoken: AtomicU8,
    /// Its Alt-Svc, if the upstream uses it.
    pub alternative: Alternative,
    connect_failures: AtomicU64,
    /// In milliseconds of Unix time; 0: never.
    last_connect_failure: AtomicU64,
    /// The number of its [`Kind`].
    last_failure_kind: AtomicU8,
    /// Used by the control thread only.
    standing: Mutex<Standing>,
}

/// The protocol of an endpoint: as configured, or as last negotiated over TLS, which chooses only between the first
/// two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// Not known yet.
    Unknown,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/3.
    Http3,
}

impl Default for EndpointState {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::default(),
            failures_in_a_row: AtomicU32::default(),
            latency: Ewma::default(),
            born: Instant::now(),
            bars: Bars::default(),
            spoken: AtomicU8::default(),
            alternative: Alternative::default(),
            connect_failures: AtomicU64::default(),
            last_connect_failure: AtomicU64::default(),
            last_failure_kind: AtomicU8::default(),
            standing: Mutex::default(),
        }
    }
}

impl EndpointState {
    /// Requests in progress over all workers; 0 if the policy does not need it.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Adds one request, or layer 4 session, in progress.
    pub fn request_began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes one.
    pub fn request_ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// The protocol chosen by ALPN on the last connection of any worker. A hint: the next connection may choose
    /// otherwise.
    pub fn spoken(&self) -> Spoken {
        match self.spoken.load(Ordering::Relaxed) {
            1 => Spoken::Http1,
            2 => Spoken::Http2,
            _ => Spoken::Unknown,
        }
    }

    /// Failed connection attempts of all workers.
    pub fn connect_failures(&self) -> u64 {
        self.connect_failures.load(Ordering::Relaxed)
    }

    /// The kind and time of the last failed attempt, in milliseconds. After two simultaneous failures, kind and time
    /// may come from different ones.
    pub fn last_connect_failure(&self) -> Option<(Kind, SystemTime)> {
        let millis = self.last_connect_failure.load(Ordering::Relaxed);
        let kind = Kind::ALL.get(usize::from(self.last_failure_kind.load(Ordering::Relaxed)))?;
        (millis > 0).then(|| (*kind, UNIX_EPOCH + Duration::from_millis(millis)))
    }

    /// Its state: why it gets no new requests, or that it is ready.
    pub fn state(&self) -> State {
        self.bars.state()
    }

    /// Whether it gets new requests.
    pub fn is_ready(&self) -> bool {
        self.state() == State::Ready
    }

    /// Whether `bar` (drained, unhealthy or ejected) applies to it.
    pub fn has(&self, bar: Bar) -> bool {
        self.bars.has(bar)
    }

    /// Sets or clears `bar`, for endpoint sets made from now on; returns whether that changed anything.
    pub fn set(&self, bar: Bar, up: bool) -> bool {
        self.bars.set(bar, up)
    }

    /// The state of checks and ejections. Used by the control thread and the status, never on a request's path.
    pub fn standing(&self) -> MutexGuard<'_, Standing> {
        // Consistent at every step, so a poisoned lock can still be used.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Failures since the last success, over all workers; counted only with `[outlier]`.
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row.load(Ordering::Relaxed)
    }

    /// Restarts the count.
    pub fn forget_failures(&self) {
        self.failures_in_a_row.store(0, Ordering::Relaxed);
    }

    /// The last measured smoothed latency; only if the policy needs it.
    pub fn latency(&self) -> Option<Duration> {
        self.latency.last()
    }

    /// Time since it was first known.
    pub fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// Notes a failed connection attempt.
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

/// The latency that a failure counts as: longer than that of a success, until it has decayed.
const FAILURE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::fixtures::{endpoint, on_paused_worker};

    fn watched(consecutive_failures: u32) -> (Endpoint, Arc<Notify>) {
        let alarm = Arc::new(Notify::new());
        let outlier = Some(Outlier { consecutive_failures, alarm: Arc::clone(&alarm) });
        (Endpoint { watch: Watch { latency: true, outlier }, ..endpoint("10.0.0.1:80") }, alarm)
    }

    #[test]
    fn enough_failures_in_a_row_raise_the_alarm() {
        on_paused_worker(async {
            let (endpoint, alarm) = watched(3);
            endpoint.failed(Kind::ConnectionRefused);
            endpoint.answered(false, Duration::ZERO);
            endpoint.answered(true, Duration::ZERO);
            assert_eq!(endpoint.state.failures_in_a_row(), 0, "what went well ends the row");
            for _ in 0..2 {
                endpoint.failed(Kind::HttpResponseTimeout);
            }
            assert!(futures_now(alarm.notified()).await.is_none());
            endpoint.answered(false, Duration::ZERO);
            assert!(futures_now(alarm.notified()).await.is_some());
        });
    }

    #[test]
    fn what_is_not_the_endpoints_doing_does_not_count() {
        let (endpoint, _) = watched(1);
        for kind in
            [Kind::ClientGone, Kind::ConnectionLimitReached, Kind::ProxyInternalError, Kind::RequestBodyTooLarge]
        {
            endpoint.failed(kind);
        }
        assert_eq!((endpoint.state.failures_in_a_row(), endpoint.latency()), (0, None));
    }

    #[test]
    fn nothing_is_kept_where_nobody_asks() {
        let endpoint = endpoint("10.0.0.1:80");
        endpoint.failed(Kind::ConnectionRefused);
        endpoint.answered(true, Duration::from_secs(1));
        endpoint.abandoned(Duration::from_secs(1));
        assert_eq!((endpoint.state.failures_in_a_row(), endpoint.latency()), (0, None));
    }

    #[test]
    fn a_quick_failure_does_not_look_fast() {
        let (endpoint, _) = watched(100);
        endpoint.connected(Duration::from_millis(20));
        endpoint.answered(false, Duration::from_micros(1));
        assert!(endpoint.state.latency() >= Some(Duration::from_millis(20)));
        endpoint.failed(Kind::ConnectionRefused);
        assert!(endpoint.state.latency() >= Some(FAILURE));
    }

    async fn futures_now<F: Future>(future: F) -> Option<F::Output> {
        tokio::time::timeout(Duration::ZERO, future).await.ok()
    }
}
