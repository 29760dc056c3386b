//! One endpoint: where it is, its weight, and what all workers and generations know of it together.

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
    /// What is to be learned from real traffic.
    pub watch: Watch,
    /// What outlives generations.
    pub state: Arc<EndpointState>,
}

/// What an upstream's policy and its `[outlier]` want to learn from real traffic. Where it is nothing, telling an endpoint how
/// it did costs a look at this and no more.
#[derive(Clone, Default)]
pub struct Watch {
    /// Latencies, for `p2c-ewma`.
    pub latency: bool,
    /// Failures in a row, and what wakes the control thread when there were as many.
    pub outlier: Option<Outlier>,
}

/// See [`Watch::outlier`].
#[derive(Clone)]
pub struct Outlier {
    /// Never zero.
    pub consecutive_failures: u32,
    /// Wakes whoever ejects.
    pub alarm: Arc<Notify>,
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

    /// Whether somebody wants to know how it does: where not, no clock needs to be read.
    pub fn is_watched(&self) -> bool {
        self.watch.latency || self.watch.outlier.is_some()
    }

    /// A connection was established in this time. For what speaks no requests: to a connection that carries some, only an
    /// answer shows that the endpoint is well.
    pub fn connected(&self, latency: Duration) {
        self.did_well(latency);
    }

    /// The head of an answer came after this time; `ok`: it was below 500.
    pub fn answered(&self, ok: bool, latency: Duration) {
        if ok {
            return self.did_well(latency);
        }
        // A failure may be quick. That shall not draw more requests to it.
        if self.watch.latency {
            self.state.latency.raise(self.state.age(), latency);
        }
        self.failed_once();
    }

    /// Nothing came of a connection, or of a request before the head of its answer. What is not the endpoint's doing does not
    /// count against it.
    pub fn failed(&self, kind: Kind) {
        if !is_endpoints_doing(kind) {
            return;
        }
        if self.watch.latency {
            self.state.latency.raise(self.state.age(), FAILURE);
        }
        self.failed_once();
    }

    /// Whoever waited for an answer no longer does: it takes at least this long.
    pub fn abandoned(&self, after: Duration) {
        if self.watch.latency {
            self.state.latency.raise(self.state.age(), after);
        }
    }

    /// The smoothed latency in nanoseconds, less what was forgotten since; `None`: never measured.
    pub fn latency(&self) -> Option<f32> {
        self.state.latency.value(self.state.age())
    }

    fn did_well(&self, latency: Duration) {
        if self.watch.latency {
            self.state.latency.record(self.state.age(), latency);
        }
        // A load that all workers share without harm; a store only after a failure.
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

/// Whether an error tells something about the endpoint, and not about the client, the proxy or its limits.
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

/// What is known of an endpoint, kept across generations by the name of its upstream and its address. Alone on its cache
/// lines: every worker writes here when requests in flight are counted.
#[derive(Debug)]
#[repr(align(128))]
pub struct EndpointState {
    in_flight: AtomicU32,
    failures_in_a_row: AtomicU32,
    latency: Ewma,
    /// What the moments of `latency` are counted from.
    born: Instant,
    bars: Bars,
    spoken: AtomicU8,
    /// What it says of itself by Alt-Svc, where its upstream listens to that.
    pub alternative: Alternative,
    connect_failures: AtomicU64,
    /// In milliseconds of Unix time; 0: never.
    last_connect_failure: AtomicU64,
    /// The number of its [`Kind`].
    last_failure_kind: AtomicU8,
    /// The control thread's; no worker touches it.
    standing: Mutex<Standing>,
}

/// What an endpoint speaks: by configuration, or as it was last heard over TLS, which tells between the first two alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// It was not asked yet.
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

    /// The word for what keeps it out of the picks, or that nothing does.
    pub fn state(&self) -> State {
        self.bars.state()
    }

    /// Whether it belongs in the picks.
    pub fn is_ready(&self) -> bool {
        self.state() == State::Ready
    }

    /// Whether this keeps it out of the picks.
    pub fn has(&self, bar: Bar) -> bool {
        self.bars.has(bar)
    }

    /// Takes it out of the picks of the sets that are made from now on, or lifts that; says whether that changed anything.
    pub fn set(&self, bar: Bar, up: bool) -> bool {
        self.bars.set(bar, up)
    }

    /// What checks and ejections hold of it. For the control thread and whoever shows it: never on a request's way.
    pub fn standing(&self) -> MutexGuard<'_, Standing> {
        // Whole at every step, so a poisoned lock is still good.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Failures since the last thing that went well, over all workers; counted where `[outlier]` is configured.
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row.load(Ordering::Relaxed)
    }

    /// Begins to count anew.
    pub fn forget_failures(&self) {
        self.failures_in_a_row.store(0, Ordering::Relaxed);
    }

    /// The smoothed latency as it was last measured; only where the policy asks for it.
    pub fn latency(&self) -> Option<Duration> {
        self.latency.last()
    }

    /// Its own time: since it was first known.
    pub fn age(&self) -> Duration {
        self.born.elapsed()
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

/// What a failure counts as where latencies are compared: slower than what answers, until it is forgotten.
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
