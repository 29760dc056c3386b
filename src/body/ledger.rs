//! What an exchange belongs to, and where its end is recorded: series, access log, recent errors. Plain
//! reference-counted pointers of one worker, so that a request pays only a few stores.

use std::rc::Rc;
use std::sync::Arc;

use crate::telemetry::WorkerTelemetry;
use crate::telemetry::access_log::{Logger, Record};
use crate::telemetry::recent::Place;
use crate::telemetry::series::{Ended, Scope, Series};

/// The metrics of a listener, route or upstream on one worker.
pub struct Measured {
    /// Its name.
    pub name: Arc<str>,
    /// Its series on this worker.
    pub series: Arc<Series>,
}

impl Measured {
    /// The series with this name in the telemetry of this worker.
    pub fn new(telemetry: &WorkerTelemetry, scope: Scope, name: &Arc<str>) -> Rc<Self> {
        Rc::new(Self { name: Arc::clone(name), series: telemetry.series.series(scope, name) })
    }
}

/// What one exchange belongs to; filled in while the request is processed.
#[derive(Default)]
pub struct Ledger {
    /// The listener.
    pub listener: Option<Rc<Measured>>,
    /// The route.
    pub route: Option<Rc<Measured>>,
    /// The upstream.
    pub upstream: Option<Rc<Measured>>,
    /// The endpoint of the last attempt.
    pub endpoint: Option<Rc<Arc<str>>>,
    /// Number of attempts.
    pub attempts: u32,
    /// The access log and its record of the exchange; `None`: not logged.
    pub record: Option<(Rc<Logger>, Box<Record>)>,
}

impl Ledger {
    /// Notes an attempt at an endpoint.
    pub fn attempt(&mut self, endpoint: Rc<Arc<str>>) {
        self.endpoint = Some(endpoint);
        self.attempts += 1;
    }

    /// Records the end of an exchange, once.
    pub fn close(mut self, ended: &Ended, telemetry: &WorkerTelemetry) {
        for measured in [&self.listener, &self.route, &self.upstream].into_iter().flatten() {
            measured.series.ended(ended);
        }
        if let Some((kind, listener)) = ended.outcome.zip(self.listener.as_deref()) {
            let place = Place {
                listener: &listener.name,
                route: self.route.as_deref().map(|route| &route.name),
                upstream: self.upstream.as_deref().map(|upstream| &upstream.name),
                endpoint: self.endpoint.as_deref(),
            };
            telemetry.recent.note(kind, ended.reason, ended.status, place);
        }
        if let Some((logger, mut record)) = self.record.take() {
            let name = |measured: &Option<Rc<Measured>>| measured.as_deref().map(|measured| Arc::clone(&measured.name));
            record.route = name(&self.route);
            record.upstream = name(&self.upstream);
            record.endpoint = self.endpoint.as_deref().cloned();
            record.attempts = self.attempts;
            logger.log(&record, ended);
        }
    }
}
