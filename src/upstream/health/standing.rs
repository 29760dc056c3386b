//! The state of an endpoint's checks and ejections: written by the control thread, read by the status.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::active::Verdict;
use super::outlier::Ejection;

/// Kept with the endpoint's state across generations.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// By active checks.
    pub verdict: Verdict,
    /// The last of them; `None`: it was not checked yet.
    pub last_check: Option<LastCheck>,
    /// Checks since the start that went well.
    pub checks_passed: u64,
    /// Checks since the start that did not.
    pub checks_failed: u64,
    /// By real traffic.
    pub ejection: Ejection,
    /// When it will be let in again, for people; `None`: it is not ejected.
    pub ejected_until: Option<SystemTime>,
    /// Ejections since the start.
    pub ejections: u64,
    /// When it was last told that it fails and stays in.
    told_spared: Option<Instant>,
}

impl Standing {
    /// Whether it is time to tell that the endpoint fails and stays in; not again before `pause` is over.
    pub fn tells_that_it_is_spared(&mut self, now: Instant, pause: Duration) -> bool {
        let is_time = self.told_spared.is_none_or(|told| now >= told + pause);
        if is_time {
            self.told_spared = Some(now);
        }
        is_time
    }
}

/// How a check went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCheck {
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Why it failed; `None`: it went well.
    pub failure: Option<Arc<str>>,
}
