//! Whether an endpoint of QUIC still answers (sans-io). One that went without a word, and came back without the key that it would
//! say so with (`server.quic_key_file`), is silent until the connection's idle deadline, and whatever is sent there is lost.

use std::cell::Cell;
use std::time::Duration;

use quinn::ConnectionStats;
use tokio::time::Instant;

/// Silence after which what is new goes to another connection, in the least. A live endpoint acknowledges what it gets within a
/// round trip, however long its answer takes.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was heard on one connection.
#[derive(Default)]
pub(super) struct Heard {
    /// Acknowledgements of the endpoint, and frames that it has to acknowledge, when that was last looked at. Not what came in
    /// datagrams: whoever has its address now answers each with a reset that may have been made with other keys.
    seen: Cell<(u64, u64)>,
    /// Since when none came, though something was sent.
    silent_since: Cell<Option<Instant>>,
    /// For too long.
    is_given_up: Cell<bool>,
}

impl Heard {
    /// Looks again; whether the connection is still worth something new.
    pub(super) fn answers(&self, stats: &ConnectionStats, now: Instant) -> bool {
        let asked = asked(stats);
        let (acknowledged, before) = self.seen.replace((stats.frame_rx.acks, asked));
        let owes = asked != before || self.silent_since.get().is_some();
        if stats.frame_rx.acks != acknowledged || !owes {
            self.silent_since.set(None);
            self.is_given_up.set(false);
            return true;
        }
        let since = self.silent_since.get().unwrap_or(now);
        self.silent_since.set(Some(since));
        self.is_given_up.set(now >= since + PATIENCE.max(stats.path.rtt * 3));
        !self.is_given_up.get()
    }

    /// What came of the last look: nothing new is sent any more, and the connection leaves the pool when that is swept.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up.get()
    }
}

/// Frames of streams, and what asks again for their acknowledgement; not what tries out how large a datagram may be, and is
/// meant to be lost where that is too large.
fn asked(stats: &ConnectionStats) -> u64 {
    let (sent, trials) = (&stats.frame_tx, stats.path.sent_plpmtud_probes);
    sent.stream + sent.ping.saturating_sub(trials) + sent.immediate_ack.saturating_sub(trials)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(acknowledged: u64, sent: u64, rtt: u64) -> ConnectionStats {
        let mut stats = ConnectionStats::default();
        // What nobody can tell who sent.
        stats.udp_rx.datagrams = acknowledged + sent;
        stats.frame_rx.acks = acknowledged;
        stats.frame_tx.stream = sent;
        stats.path.rtt = Duration::from_millis(rtt);
        stats
    }

    #[test]
    fn an_endpoint_that_owes_an_acknowledgement_is_given_up_in_time() {
        for (rtt, patience) in [(20, 1000), (500, 1500)] {
            let (heard, began) = (Heard::default(), Instant::now());
            let at = |ms| began + Duration::from_millis(ms);
            assert!(heard.answers(&stats(5, 5, rtt), at(0)));
            assert!(heard.answers(&stats(5, 6, rtt), at(100)), "it had no time yet");
            assert!(heard.answers(&stats(5, 6, rtt), at(100 + patience - 1)));
            assert!(!heard.answers(&stats(5, 7, rtt), at(100 + patience)), "{rtt}");
            assert!(heard.is_given_up());
            assert!(heard.answers(&stats(6, 7, rtt), at(5000)), "it was only away");
            assert!(!heard.is_given_up());
        }
    }

    #[test]
    fn an_endpoint_that_owes_nothing_may_be_silent() {
        let (heard, began) = (Heard::default(), Instant::now());
        assert!(heard.answers(&stats(5, 5, 20), began));
        for hour in 1..5 {
            assert!(heard.answers(&stats(5, 5, 20), began + Duration::from_secs(3600 * hour)));
        }
    }

    #[test]
    fn an_endpoint_that_acknowledges_may_take_its_time() {
        let (heard, began) = (Heard::default(), Instant::now());
        for second in 0..100 {
            let asked_on = stats(5 + second, 5 + second, 20);
            assert!(heard.answers(&asked_on, began + Duration::from_secs(second)));
        }
    }
}
