//! Whose an exchange is, and where it is entered once it has ended: series, the access log, the recent errors. Plain
//! counted pointers of one worker, so that a request pays a few stores for it.

use std::rc::Rc;
use std::sync::Arc;

use crate::telemetry::WorkerTelemetry;
use crate::telemetry::access_log::{Logger, Record};
use crate::telemetry::recent::Place;
use crate::telemetry::series::{Ended, Scope, Series};

/// A listener, route or upstream as one worker measures it.
pub struct Measured {
    /// Its name.
    pub name: Arc<str>,
    /// Its series on this worker.
    pub series: Arc<Series>,
}

impl Measured {
    /// The series of this name on the worker of `telemetry`.
    pub fn new(telemetry: &WorkerTelemetry, scope: Scope, name: &Arc<str>) -> Rc<Self> {
        Rc::new(Self { name: Arc::clone(name), series: telemetry.series.series(scope, name) })
    }
}

/// Whose one exchange is; filled in as the request is understood.
#[derive(Default)]
pub struct Ledger {
    /// Where it came in.
    pub listener: Option<Rc<Measured>>,
    /// What it matched.
    pub route: Option<Rc<Measured>>,
    /// Where it was sent.
    pub upstream: Option<Rc<Measured>>,
    /// The endpoint of the last attempt.
    pub endpoint: Option<Rc<Arc<str>>>,
    /// Attempts that were made.
    pub attempts: u32,
    /// What the access log says of it, and the log; `None` where it is not logged.
    pub record: Option<(Rc<Logger>, Box<Record>)>,
}

impl Ledger {
    /// Notes that the request is sent to an endpoint.
    pub fn attempt(&mut self, endpoint: Rc<Arc<str>>) {
        self.endpoint = Some(endpoint);
        self.attempts += 1;
    }

    /// Enters an exchange that has ended, once.
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
