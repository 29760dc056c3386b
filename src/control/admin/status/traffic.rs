//! The series of all workers, summed, in the form of `/status`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::error::Kind;
use crate::telemetry::WorkerTelemetry;
use crate::telemetry::histogram::HistogramTotals;
use crate::telemetry::series::{Scope, SeriesKey, SeriesTotals};

/// What was counted of a listener, a route or an upstream since it was first configured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Exchanges that ended.
    pub requests: u64,
    /// Answers by the class of their status.
    pub answers: Answers,
    /// How exchanges ended: `ok`, and each kind of error that was seen.
    pub outcomes: BTreeMap<Cow<'static, str>, u64>,
    /// From a request's head to the end of its exchange.
    pub duration: Hist,
    /// What endpoints took to begin their answer.
    pub first_byte: Hist,
    /// Of requests' bodies.
    pub bytes_in: u64,
    /// Of answers' bodies.
    pub bytes_out: u64,
}

/// What was counted of the sessions and flows of a listener or an upstream since it was first configured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Relayed {
    /// Those that ended.
    pub ended: u64,
    /// How they ended: `ok`, and each kind of error that was seen.
    pub outcomes: BTreeMap<Cow<'static, str>, u64>,
    /// From accept, or the first datagram, to the end.
    pub duration: Hist,
    /// From clients.
    pub bytes_in: u64,
    /// To clients.
    pub bytes_out: u64,
}

/// Answers by the class of their status.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answers {
    /// 101.
    #[serde(rename = "1xx")]
    pub informational: u64,
    /// 200 to 299.
    #[serde(rename = "2xx")]
    pub successful: u64,
    /// 300 to 399.
    #[serde(rename = "3xx")]
    pub redirections: u64,
    /// 400 to 499.
    #[serde(rename = "4xx")]
    pub client_errors: u64,
    /// 500 and above.
    #[serde(rename = "5xx")]
    pub server_errors: u64,
}

/// A histogram; its bounds stand once, at the top.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Hist {
    /// All of them.
    pub count: u64,
    /// All of them added up.
    pub sum_seconds: f64,
    /// Not cumulative; one more than there are bounds.
    pub buckets: Vec<u64>,
}

/// What all workers counted by name.
pub(super) struct Counted(HashMap<SeriesKey, SeriesTotals>);

impl Counted {
    pub(super) fn read(workers: &[Arc<WorkerTelemetry>]) -> Self {
        let mut sums: HashMap<SeriesKey, SeriesTotals> = HashMap::new();
        for (key, series) in workers.iter().flat_map(|worker| worker.series.all()) {
            *sums.entry(key).or_default() += &series.read();
        }
        Self(sums)
    }

    pub(super) fn of(&self, scope: Scope, name: &Arc<str>) -> Traffic {
        Traffic::of(self.0.get(&(scope, Arc::clone(name))).unwrap_or(&SeriesTotals::default()))
    }

    /// `None`: nothing was relayed under this name.
    pub(super) fn sessions_of(&self, scope: Scope, name: &Arc<str>) -> Option<Relayed> {
        self.0.get(&(scope, Arc::clone(name))).map(Relayed::of)
    }

    pub(super) fn all_of(&self, scope: Scope) -> Traffic {
        let mut all = SeriesTotals::default();
        self.0.iter().filter(|((of, _), _)| *of == scope).for_each(|(_, totals)| all += totals);
        Traffic::of(&all)
    }
}

impl Traffic {
    fn of(totals: &SeriesTotals) -> Self {
        let [informational, successful, redirections, client_errors, server_errors] = totals.answers;
        Self {
            requests: totals.ended(),
            answers: Answers { informational, successful, redirections, client_errors, server_errors },
            outcomes: outcomes(totals),
            duration: Hist::of(&totals.duration),
            first_byte: Hist::of(&totals.first_byte),
            bytes_in: totals.bytes_in,
            bytes_out: totals.bytes_out,
        }
    }
}

impl Relayed {
    fn of(totals: &SeriesTotals) -> Self {
        Self {
            ended: totals.ended(),
            outcomes: outcomes(totals),
            duration: Hist::of(&totals.duration),
            bytes_in: totals.bytes_in,
            bytes_out: totals.bytes_out,
        }
    }
}

fn outcomes(totals: &SeriesTotals) -> BTreeMap<Cow<'static, str>, u64> {
    let mut outcomes = BTreeMap::from([("ok".into(), totals.ok)]);
    let seen = Kind::ALL.iter().map(|kind| (kind.as_str().into(), totals.outcome(*kind)));
    outcomes.extend(seen.filter(|(_, count)| *count > 0));
    outcomes
}

impl Hist {
    pub(super) fn of(totals: &HistogramTotals) -> Self {
        Self { count: totals.count(), sum_seconds: totals.sum.as_secs_f64(), buckets: totals.buckets.to_vec() }
    }
}
