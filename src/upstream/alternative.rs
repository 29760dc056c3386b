//! An origin's Alt-Svc (RFC 7838): that HTTP/3 is available on another port of the same host. Parsing is sans-io; the
//! state is kept for each endpoint, for all workers and generations.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::header::{ALT_SVC, HeaderMap};

/// How long an offer stands that does not say (RFC 7838 §3.1).
const DEFAULT_AGE: u64 = 24 * 60 * 60;
/// How long one stands at most, however long it wants to and whether or not it is to persist: an origin that moved is found again
/// within a week.
const MAX_AGE: u64 = 7 * DEFAULT_AGE;
/// For how long nothing is tried where HTTP/3 could not be reached, the first time; twice as long each time after.
const FIRST_REST: Duration = Duration::from_secs(30);
/// The longest such rest.
const LONGEST_REST: Duration = Duration::from_secs(60 * 60);

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing: what was known stands.
    Nothing,
    /// That there is no HTTP/3 to be had, by `clear` or by offering other things alone.
    Gone,
    /// HTTP/3 at this port of the same host, for as many seconds.
    Http3 {
        /// Never 0.
        port: u16,
        /// Within the bounds.
        age: u64,
    },
}

/// What is known of one endpoint. Written by whichever worker hears something; a torn read picks a port that was offered before.
#[derive(Debug, Default)]
pub struct Alternative {
    /// 0: none.
    port: AtomicU16,
    /// In milliseconds of the endpoint's own time.
    until: AtomicU64,
    /// Nothing is tried until then.
    rests_until: AtomicU64,
    /// Failures since it last worked.
    failures: AtomicU32,
    /// All there were.
    failures_in_all: AtomicU64,
    /// One more than the millisecond in which it first answered, since it was offered or last broke; 0: it did not.
    used_since: AtomicU64,
}

/// What an operator is told of an [`Alternative`]. Times are the endpoint's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Where it is, on the host of the endpoint.
    pub port: u16,
    /// When the offer lapses, unless it is said again.
    pub until: Duration,
    /// What it is at.
    pub stage: Stage,
}

/// What an alternative is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Offered, and no answer came that way yet.
    Offered,
    /// Requests go there, since then.
    Used(Duration),
    /// It broke, and is left alone until then.
    Resting(Duration),
}

impl Stage {
    /// Every word there is.
    pub const WORDS: [&'static str; 3] = ["offered", "used", "resting"];

    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offered => Self::WORDS[0],
            Self::Used(_) => Self::WORDS[1],
            Self::Resting(_) => Self::WORDS[2],
        }
    }
}

/// Reads the Alt-Svc fields of an answer. What does not follow the grammar ends the reading of its field.
pub fn said(fields: &HeaderMap) -> Said {
    let mut said = Said::Nothing;
    for field in fields.get_all(ALT_SVC) {
        let Ok(text) = field.to_str() else { continue };
        said = Said::Gone;
        // RFC 7838 §3: it stands alone and takes back everything.
        if text.trim() == "clear" {
            return Said::Gone;
        }
        let mut rest = text;
        while let Some((offer, after)) = next(rest) {
            if let Some(http3) = offer {
                return http3;
            }
            rest = after;
        }
    }
    said
}

/// The next of a list of offers: what it means to us, and what comes after it.
fn next(text: &str) -> Option<(Option<Said>, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let (protocol, rest) = text.split_once('=')?;
    let (authority, mut rest) = quoted(rest)?;
    let mut age = DEFAULT_AGE;
    while let Some(parameter) = rest.trim_start().strip_prefix(';') {
        let (name, value) = parameter.trim_start().split_once('=')?;
        let (value, after) = if value.starts_with('"') { quoted(value)? } else { token(value) };
        if name == "ma" {
            // RFC 9111 §1.2.2: a number too large for us is as good as the largest.
            age = value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().unwrap_or(u64::MAX))?;
        }
        rest = after;
    }
    let port = authority.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port != 0);
    // Another host would have to be resolved and trusted anew: the offer is for others.
    let offer = port.filter(|_| protocol == "h3").map(|port| match age {
        0 => Said::Gone,
        age => Said::Http3 { port, age: age.min(MAX_AGE) },
    });
    Some((offer, rest))
}

fn token(text: &str) -> (&str, &str) {
    text.split_at(text.find([';', ',', ' ', '\t']).unwrap_or(text.len()))
}

/// A quoted string without escapes, which no authority and no number needs.
fn quoted(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix('"')?.split_once('"')
}

impl Alternative {
    /// Takes in what an answer says, `age` into the endpoint's own time; says whether that is news.
    pub fn hear(&self, said: Said, age: Duration) -> bool {
        let (port, until) = match said {
            Said::Nothing => return false,
            Said::Gone => (0, 0),
            Said::Http3 { port, age: seconds } => (port, millis(age + Duration::from_secs(seconds))),
        };
        self.until.store(until, Ordering::Relaxed);
        // Most answers say the same: a load that all workers share without harm.
        if self.port.load(Ordering::Relaxed) == port {
            return false;
        }
        self.port.store(port, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
        self.rests_until.store(0, Ordering::Relaxed);
        self.used_since.store(0, Ordering::Relaxed);
        true
    }

    /// The port that HTTP/3 is to be had at, where one is offered and not given a rest.
    pub fn port(&self, age: Duration) -> Option<u16> {
        let now = millis(age);
        let port = self.port.load(Ordering::Relaxed);
        let stands = now < self.until.load(Ordering::Relaxed) && now >= self.rests_until.load(Ordering::Relaxed);
        (port != 0 && stands).then_some(port)
    }

    /// It could not be reached, or fell silent: it is given a rest, each time a longer one.
    pub fn broke(&self, age: Duration) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
        let rest = (FIRST_REST * (1 << failures)).min(LONGEST_REST);
        self.rests_until.store(millis(age + rest), Ordering::Relaxed);
        self.failures_in_all.fetch_add(1, Ordering::Relaxed);
        self.used_since.store(0, Ordering::Relaxed);
    }

    /// It answered a request; `age` is asked for where that is news.
    pub fn worked(&self, age: impl FnOnce() -> Duration) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.used_since.load(Ordering::Relaxed) == 0 {
            self.used_since.store(millis(age()) + 1, Ordering::Relaxed);
        }
    }

    /// What is offered at this age of the endpoint, and what became of it; `None`: nothing is, or not any more.
    pub fn offered(&self, age: Duration) -> Option<Offered> {
        let load = |at: &AtomicU64| Duration::from_millis(at.load(Ordering::Relaxed));
        let (port, until) = (self.port.load(Ordering::Relaxed), load(&self.until));
        let (rests, since) = (load(&self.rests_until), load(&self.used_since));
        let stage = match since.checked_sub(Duration::from_millis(1)) {
            _ if age < rests => Stage::Resting(rests),
            Some(since) => Stage::Used(since),
            None => Stage::Offered,
        };
        (port != 0 && age < until).then_some(Offered { port, until, stage })
    }

    /// How often it could not be reached or fell silent, since the endpoint was first configured.
    pub fn failures_in_all(&self) -> u64 {
        self.failures_in_all.load(Ordering::Relaxed)
    }
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(fields: &[&str]) -> Said {
        let mut map = HeaderMap::new();
        for field in fields {
            map.append(ALT_SVC, HeaderValue::from_str(field).unwrap());
        }
        said(&map)
    }

    const fn http3(port: u16, age: u64) -> Said {
        Said::Http3 { port, age }
    }

    #[test]
    fn an_offer_of_the_same_host_is_taken() {
        for (fields, wanted) in [
            (&["h3=\":443\""][..], http3(443, DEFAULT_AGE)),
            (&["h3=\":8443\"; ma=3600"], http3(8443, 3600)),
            (&["h3=\":8443\";ma=\"60\";persist=1"], http3(8443, 60)),
            (&["h2=\":443\", h3-29=\":444\"; ma=5, h3=\":445\"; persist=1; ma=9"], http3(445, 9)),
            (&["h2=\":443\"", "h3=\":446\""], http3(446, DEFAULT_AGE)),
            (&["h3=\"elsewhere.test:443\", h3=\":447\""], http3(447, DEFAULT_AGE)),
            (&["h3=\":443\"; ma=99999999999999999999999"], http3(443, MAX_AGE)),
            (&["h3=\":443\"; new=\"a;b,c\"; ma=7"], http3(443, 7)),
        ] {
            assert_eq!(of(fields), wanted, "{fields:?}");
        }
    }

    #[test]
    fn what_offers_nothing_takes_back_what_was_offered() {
        for fields in [
            &["clear"][..],
            &["h2=\":443\""],
            &["h3=\"elsewhere.test:443\""],
            &["h3=\":443\"; ma=0"],
            &["h3=\":0\""],
            &["h3=\":70000\""],
            &["h3=443"],
            &["nonsense"],
            &[""],
        ] {
            assert_eq!(of(fields), Said::Gone, "{fields:?}");
        }
        assert_eq!(of(&[]), Said::Nothing);
    }

    #[test]
    fn an_offer_stands_for_as_long_as_it_says() {
        let (alternative, second) = (Alternative::default(), Duration::from_secs(1));
        assert_eq!(alternative.port(second), None);
        assert!(alternative.hear(http3(443, 60), second));
        assert!(!alternative.hear(http3(443, 60), 5 * second), "no news, but it stands for longer");
        assert!(!alternative.hear(Said::Nothing, 6 * second));
        assert_eq!(alternative.port(64 * second), Some(443));
        assert_eq!(alternative.port(65 * second), None);
        assert!(alternative.hear(http3(8443, 60), 5 * second));
        assert_eq!(alternative.port(6 * second), Some(8443));
        assert!(alternative.hear(Said::Gone, 7 * second));
        assert_eq!(alternative.port(7 * second), None);
    }

    #[test]
    fn what_cannot_be_reached_is_given_a_longer_rest_each_time() {
        let (alternative, second) = (Alternative::default(), Duration::from_secs(1));
        alternative.hear(http3(443, MAX_AGE), Duration::ZERO);
        let mut now = Duration::ZERO;
        for rest in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600] {
            alternative.broke(now);
            assert_eq!(alternative.port(now + (rest - 1) * second), None);
            now += rest * second;
            assert_eq!(alternative.port(now), Some(443));
        }
        alternative.worked(|| now);
        alternative.broke(now);
        assert_eq!(alternative.port(now + FIRST_REST), Some(443));
        alternative.broke(now);
        assert!(alternative.hear(http3(8443, 60), now), "another port is another try");
        assert_eq!(alternative.port(now), Some(8443));
    }

    #[test]
    fn what_became_of_an_offer_is_told() {
        let (alternative, second) = (Alternative::default(), Duration::from_secs(1));
        let told = |at: u32| alternative.offered(at * second);
        assert_eq!(told(1), None);
        alternative.hear(http3(443, 60), second);
        let offered = |stage| Some(Offered { port: 443, until: 61 * second, stage });
        assert_eq!(told(2), offered(Stage::Offered));
        alternative.worked(|| Duration::ZERO);
        alternative.worked(|| panic!("it is known"));
        assert_eq!(told(3), offered(Stage::Used(Duration::ZERO)), "from the first moment on");
        alternative.broke(5 * second);
        assert_eq!(told(6), offered(Stage::Resting(35 * second)));
        assert_eq!(told(35), offered(Stage::Offered), "to be tried again");
        assert_eq!((told(61), alternative.failures_in_all()), (None, 1));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_to_an_end(text in "[ -~\t]{0,80}") {
            if let Said::Http3 { port, age } = of(&[&text]) {
                prop_assert!(port > 0 && age > 0 && age <= MAX_AGE);
            }
        }

        #[test]
        fn what_looks_like_offers_is_read_to_an_end(parts in prop::collection::vec(
            prop::sample::select(vec!["h3", "=", "\"", ":443", ";", "ma", "1", ",", " ", "clear", "h2", "persist"]), 0..30)
        ) {
            of(&[&parts.concat()]);
        }
    }
}
