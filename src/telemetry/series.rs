//! The metrics of a listener, route or upstream: rate, errors, duration and bytes of ended exchanges and sessions. A
//! series is created on first use, so that unused routes cost nothing.

use std::collections::HashMap;
use std::ops::AddAssign;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::counters::Cell64;
use super::histogram::{Histogram, HistogramTotals};
use crate::base::error::Kind;

/// What a series is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The requests that came in on a listener.
    Listener,
    /// The requests that a route matched.
    Route,
    /// The requests that were sent to an upstream.
    Upstream,
    /// The sessions and flows of a listener of layer 4.
    ListenerSessions,
    /// The sessions and flows that were relayed to an upstream: apart from the requests that routes send there.
    UpstreamSessions,
}

/// How an exchange ended, for series and logs.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The status that the client got; 0 where none was sent.
    pub status: u16,
    /// What went wrong; `None` is well.
    pub outcome: Option<Kind>,
    /// Why, in words that hold no data of a request; empty where all is well.
    pub reason: &'static str,
    /// How long its parts took.
    pub phases: Phases,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
}

/// How long the parts of an exchange took. A part that was not reached, or had nothing to do, is zero; the first five
/// add up to the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// From the request's head until a connection was at hand or began to be made.
    pub queue: Duration,
    /// Making the connection to the endpoint; zero on a pooled one.
    pub connect: Duration,
    /// The TLS handshake on it.
    pub tls: Duration,
    /// From there to the head of the answer.
    pub first_byte: Duration,
    /// From there to the end of the exchange.
    pub body: Duration,
    /// From the request's head to the end of the exchange.
    pub total: Duration,
}

/// What one worker counted of one listener, route or upstream; see [`SeriesTotals`] for the sum. Cells of a single
/// writer, on lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Series {
    /// By class; the first is for 1xx.
    answers: [Cell64; CLASSES],
    ok: Cell64,
    outcomes: [Cell64; Kind::ALL.len()],
    bytes_in: Cell64,
    bytes_out: Cell64,
    duration: Histogram,
    first_byte: Histogram,
}

/// What series counted together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesTotals {
    /// Responses sent, by class; the first is for 1xx (an answer 101, which ends an exchange).
    pub answers: [u64; CLASSES],
    /// Exchanges that ended well.
    pub ok: u64,
    /// Exchanges that ended in an error, by the number of its kind.
    pub outcomes: [u64; Kind::ALL.len()],
    /// Bytes of the requests' bodies.
    pub bytes_in: u64,
    /// Bytes of the answers' bodies.
    pub bytes_out: u64,
    /// From a request's head to the end of its exchange.
    pub duration: HistogramTotals,
    /// What endpoints took to begin their answer; exchanges that waited for none are not in it.
    pub first_byte: HistogramTotals,
}

/// The series of one worker, by name.
#[derive(Debug, Default)]
pub struct SeriesBook {
    /// Locked when the worker first uses a series in a generation, and when somebody reads: never for a request.
    series: Mutex<HashMap<SeriesKey, Arc<Series>>>,
}

/// What a series is about, and the name of that listener, route or upstream.
pub type SeriesKey = (Scope, Arc<str>);

impl Series {
    /// Counts an exchange that ended. Only the worker that owns the series may call it.
    pub fn ended(&self, ended: &Ended) {
        if let Some(class) = usize::from(ended.status / 100).checked_sub(1) {
            self.answers[class.min(CLASSES - 1)].add(1);
        }
        match ended.outcome {
            None => self.ok.add(1),
            Some(kind) => self.outcomes[kind as usize].add(1),
        }
        self.bytes_in.add(ended.bytes_in);
        self.bytes_out.add(ended.bytes_out);
        self.duration.observe(ended.phases.total);
        if !ended.phases.first_byte.is_zero() {
            self.first_byte.observe(ended.phases.first_byte);
        }
    }

    /// What was counted, from any thread.
    pub fn read(&self) -> SeriesTotals {
        SeriesTotals {
            answers: std::array::from_fn(|class| self.answers[class].value()),
            ok: self.ok.value(),
            outcomes: std::array::from_fn(|kind| self.outcomes[kind].value()),
            bytes_in: self.bytes_in.value(),
            bytes_out: self.bytes_out.value(),
            duration: self.duration.read(),
            first_byte: self.first_byte.read(),
        }
    }
}

impl SeriesTotals {
    /// Exchanges that ended; sessions and flows in their scopes.
    pub fn ended(&self) -> u64 {
        self.ok + self.outcomes.iter().sum::<u64>()
    }

    /// Exchanges that ended in an error of this kind.
    pub fn outcome(&self, kind: Kind) -> u64 {
        self.outcomes[kind as usize]
    }
}

impl AddAssign<&SeriesTotals> for SeriesTotals {
    fn add_assign(&mut self, other: &SeriesTotals) {
        self.answers.iter_mut().zip(&other.answers).for_each(|(class, more)| *class += more);
        self.ok += other.ok;
        self.outcomes.iter_mut().zip(&other.outcomes).for_each(|(kind, more)| *kind += more);
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.duration += &other.duration;
        self.first_byte += &other.first_byte;
    }
}

impl SeriesBook {
    /// The series of this name, made where there is none yet. Takes a lock: keep what it gives.
    pub fn series(&self, scope: Scope, name: &Arc<str>) -> Arc<Series> {
        Arc::clone(self.lock().entry((scope, Arc::clone(name))).or_default())
    }

    /// Every series there is, in no order.
    pub fn all(&self) -> Vec<(SeriesKey, Arc<Series>)> {
        self.lock().iter().map(|(key, series)| (key.clone(), Arc::clone(series))).collect()
    }

    /// Forgets the series of what is no longer configured. A worker that still holds one counts where nobody looks.
    pub fn retain(&self, keep: impl Fn(&SeriesKey) -> bool) {
        self.lock().retain(|key, _| keep(key));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SeriesKey, Arc<Series>>> {
        // Nothing is half-done where a panic may come.
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of the series that counts the routes past `server.metrics.max_routes` together; a route that is called
/// so is counted with them.
pub fn others() -> Arc<str> {
    static OTHERS: LazyLock<Arc<str>> = LazyLock::new(|| OTHERS_NAME.into());
    Arc::clone(&OTHERS)
}

const OTHERS_NAME: &str = "(others)";
/// Classes of status: 1xx to 5xx.
const CLASSES: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: u16, outcome: Option<Kind>, total_ms: u64, first_byte_ms: u64) -> Ended {
        let (total, first_byte) = (Duration::from_millis(total_ms), Duration::from_millis(first_byte_ms));
        let phases = Phases { total, first_byte, ..Phases::default() };
        Ended { status, outcome, reason: "", phases, bytes_in: 3, bytes_out: 40 }
    }

    #[test]
    fn an_exchange_counts_by_class_outcome_and_duration() {
        let series = Series::default();
        series.ended(&ended(204, None, 7, 6));
        series.ended(&ended(101, None, 7, 6));
        series.ended(&ended(502, Some(Kind::ConnectionRefused), 1, 0));
        series.ended(&ended(0, Some(Kind::ClientGone), 900, 0));
        series.ended(&ended(999, None, 1, 1));
        let totals = series.read();
        assert_eq!(totals.answers, [1, 1, 0, 0, 2]);
        assert_eq!((totals.ok, totals.ended()), (3, 5));
        assert_eq!((totals.outcome(Kind::ConnectionRefused), totals.outcome(Kind::ClientGone)), (1, 1));
        assert_eq!((totals.bytes_in, totals.bytes_out), (15, 200));
        assert_eq!((totals.duration.count(), totals.first_byte.count()), (5, 3));
        assert_eq!(totals.duration.sum, Duration::from_millis(916));
    }

    #[test]
    fn a_name_keeps_its_series_and_scopes_are_apart() {
        let book = SeriesBook::default();
        let name: Arc<str> = "api".into();
        book.series(Scope::Route, &name).ended(&ended(200, None, 1, 1));
        book.series(Scope::Route, &"api".into()).ended(&ended(200, None, 1, 1));
        book.series(Scope::Upstream, &name);
        assert_eq!(book.series(Scope::Route, &name).read().ok, 2);
        assert_eq!(book.series(Scope::Upstream, &name).read().ok, 0);
        assert_eq!(book.all().len(), 2);
    }

    #[test]
    fn what_is_gone_is_forgotten_and_what_stays_keeps_its_counts() {
        let book = SeriesBook::default();
        let (stays, goes): (Arc<str>, Arc<str>) = ("stays".into(), "goes".into());
        let held = book.series(Scope::Route, &goes);
        book.series(Scope::Route, &stays).ended(&ended(200, None, 1, 1));
        book.retain(|(scope, name)| *scope == Scope::Route && &**name == "stays");
        held.ended(&ended(200, None, 1, 1));
        assert_eq!(book.series(Scope::Route, &stays).read().ok, 1);
        assert_eq!(book.series(Scope::Route, &goes).read().ok, 0);
    }

    #[test]
    fn totals_add_up() {
        let series = Series::default();
        series.ended(&ended(200, None, 1, 1));
        series.ended(&ended(503, Some(Kind::DestinationUnavailable), 2, 0));
        let mut totals = series.read();
        totals += &series.read();
        assert_eq!((totals.ended(), totals.ok, totals.answers), (4, 2, [0, 2, 0, 0, 2]));
        assert_eq!(totals.duration.sum, Duration::from_millis(6));
    }

    /// `docs/metrics.md` says what routes cost; whoever changes this changes that.
    #[test]
    fn a_series_is_as_large_as_documented() {
        assert_eq!(size_of::<Series>(), 640);
    }
}
