//! Sessions for requests that switch protocols: which kinds the endpoint supports, and what to do if that is not known.

use std::rc::Rc;

use super::client::Session;
use super::connector;
use super::http1;
use super::sessions::Multiplexed;
use super::worker::{Pick, WorkerEndpoint, WorkerUpstream};
use crate::base::error::{Error, Kind, Retry};
use crate::body::phase_clock::PhaseClock;
use crate::config::model::UpstreamProtocol;
use crate::net::timer;

impl WorkerUpstream {
    /// As [`session`](Self::session), for a request that wants to switch protocols: by Upgrade on HTTP/1.1, by extended CONNECT on a
    /// stream of an endpoint that takes it. Where ALPN decides and no connection is known to take it, one of HTTP/1.1 is made.
    ///
    /// # Errors
    /// As [`session`](Self::session); or the endpoint does not take it.
    pub async fn session_to_switch(
        &self,
        pick: &Pick,
        fresh: bool,
        clock: &PhaseClock,
        preface: Option<&[u8]>,
    ) -> Result<Session, Error> {
        if self.upstream().config.protocol == UpstreamProtocol::Auto && self.upstream().tls.is_some() {
            return self.by_upgrade_if_in_doubt(&pick.endpoint, fresh, clock, preface).await;
        }
        let session = self.session(pick, fresh, clock, preface).await?;
        match timer::timeout(self.upstream().config.timeouts.connect, session.switches()).await {
            Ok(true) => Ok(session),
            _ => {
                let reason = "the endpoint does not offer to switch protocols (extended CONNECT)";
                Err(Error::upstream(Kind::HttpUpgradeFailed, Retry::Never, reason))
            }
        }
    }

    async fn by_upgrade_if_in_doubt(
        &self,
        endpoint: &Rc<WorkerEndpoint>,
        fresh: bool,
        clock: &PhaseClock,
        preface: Option<&[u8]>,
    ) -> Result<Session, Error> {
        let pool = &endpoint.pool;
        if preface.is_none() {
            let shared = pool.http2.find(|session| session.takes_connect().then(|| Rc::clone(session)));
            let stream = shared.filter(|session| session.free() > 0).map(|session| Session::Http2(session.stream()));
            let pooled = stream.or_else(|| if fresh { None } else { pool.take_idle().map(Session::Http1) });
            if let Some(session) = pooled {
                self.pools.counters().upstream_reuses.add(1);
                return Ok(session);
            }
        }
        let (upstream, counters) = (self.upstream(), self.pools.counters());
        let reached = &endpoint.endpoint;
        let connected = connector::connect(upstream, reached, counters, clock, &self.sources, preface, true).await?;
        Ok(Session::Http1(http1::start(connected, pool).await?))
    }
}
