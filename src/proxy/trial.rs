//! One attempt at one endpoint, from the moment a request is handed to its session: how it goes is told to the endpoint, for
//! passive health and for the policy that looks at latencies. Where neither is configured nothing is measured.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::base::error::{Error, Kind};
use crate::upstream::endpoint::Endpoint;

/// See the module. Dropped before it was settled (the client left), it tells only that the endpoint takes at least this long.
pub struct Trial<'a> {
    endpoint: &'a Endpoint,
    began: Option<Instant>,
}

impl<'a> Trial<'a> {
    /// An attempt begins.
    pub fn begin(endpoint: &'a Endpoint) -> Self {
        Self { endpoint, began: endpoint.is_watched().then(Instant::now) }
    }

    /// The head of an answer came.
    pub fn answered(mut self, status: StatusCode) {
        if let Some(began) = self.began.take() {
            self.endpoint.answered(!status.is_server_error(), began.elapsed());
        }
    }

    /// No answer came. `total`: the route's deadline for the whole, which may be shorter than the one for an answer: an endpoint
    /// that had at least half of it and was waited for is to blame.
    pub fn failed(mut self, error: &Error, total: Option<Duration>, was_awaited: bool) {
        let Some(began) = self.began.take() else { return };
        let used = || total.is_some_and(|total| began.elapsed() * 2 >= total);
        match error.kind() {
            Kind::ExchangeTimeout if was_awaited && used() => self.endpoint.failed(Kind::HttpResponseTimeout),
            kind => self.endpoint.failed(kind),
        }
    }

    /// The connection had gone idle and is no fault: the request is sent again.
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
