//! One attempt at one endpoint, from the moment a request is passed to its session. Its result is reported to the
//! endpoint, for passive health checks and for policies based on latency. If neither is configured, nothing is
//! measured.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::base::error::{Error, Kind};
use crate::upstream::endpoint::Endpoint;

/// See the module. If it is dropped without a result (the client left), it only reports that the endpoint takes at
/// least this long.
pub struct Trial<'a> {
    endpoint: &'a Endpoint,
    began: Option<Instant>,
}

impl<'a> Trial<'a> {
    /// Starts an attempt.
    pub fn begin(endpoint: &'a Endpoint) -> Self {
        Self { endpoint, began: endpoint.is_watched().then(Instant::now) }
    }

    /// A response head arrived.
    pub fn answered(mut self, status: StatusCode) {
        if let Some(began) = self.began.take() {
            self.endpoint.answered(!status.is_server_error(), began.elapsed());
        }
    }

    /// No response arrived. `total` is the route's deadline for the whole exchange, which may be shorter than the one
    /// for a response: the endpoint is blamed if it was awaited and had at least half of that time.
    pub fn failed(mut self, error: &Error, total: Option<Duration>, was_awaited: bool) {
        let Some(began) = self.began.take() else { return };
        let used = || total.is_some_and(|total| began.elapsed() * 2 >= total);
        match error.kind() {
            Kind::ExchangeTimeout if was_awaited && used() => self.endpoint.failed(Kind::HttpResponseTimeout),
            kind => self.endpoint.failed(kind),
        }
    }

    /// The connection had been closed while idle, which is not a fault: the request is sent again.
    pub fn void(mut self) {
        self.began = None;
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if let Some(began) = self.began.take() {
            self.endpoint.abandoned(began.elapsed());
        }
    }
}
