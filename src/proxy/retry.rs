//! Whether a request may be sent again (sans-io). There are two cases: the silent replay of a request on a stale pooled
//! connection, which does not count as an attempt, and the attempts that a route allows. RFC 9110 §9.2.2 applies to
//! both: a request that may have been processed is repeated only if its method is idempotent.

use http::{Method, StatusCode};

use crate::base::error::{Error, Kind, Retry};
use crate::config::model::RetryRules;

/// Limit on replays of a request that was certainly not processed (RFC 9113 §8.7): all requests refused by one GOAWAY
/// move to the same next connection, and may get its GOAWAY too.
const UNPROCESSED_REPLAYS: u32 = 5;

/// The state of a request when an attempt fails.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The route's rules.
    pub rules: &'a RetryRules,
    /// Its method is idempotent.
    pub idempotent: bool,
    /// No byte of its body was read from the client; true if it has none.
    pub body_untouched: bool,
    /// Its body can be sent from the beginning again.
    pub body_replayable: bool,
    /// It has a body.
    pub has_body: bool,
    /// Attempts used so far.
    pub used: u32,
    /// Silent replays so far.
    pub replays: u32,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Return the error to the client.
    GiveUp,
    /// Send it again on a new connection to the same endpoint, without using an attempt.
    Replay,
    /// Send it to another endpoint, if there is one.
    TryAgain,
}

/// RFC 9110 §9.2.2.
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

impl Attempt<'_> {
    /// Whether a copy of the head must be kept before it is sent.
    pub fn may_be_sent_again(&self, reused: bool, multiplexed: bool) -> bool {
        let left = self.used < self.rules.attempts;
        (reused && self.replays == 0 && (self.idempotent || self.has_body))
            || multiplexed
            || (left && self.idempotent && (self.rules.on_reset_before_headers || !self.rules.on_status.is_empty()))
    }

    /// After a failed connection attempt; nothing was sent.
    pub fn after_connect_failure(&self, error: &Error) -> Decision {
        let unreachable = error.retry() == Retry::Always && error.kind() != Kind::ConnectionLimitReached;
        if unreachable && self.rules.on_connect_failure && self.used < self.rules.attempts {
            Decision::TryAgain
        } else {
            Decision::GiveUp
        }
    }

    /// After a request was passed to a session and failed before the response head.
    pub fn after_send_failure(&self, error: &Error, reused: bool) -> Decision {
        if !self.body_replayable {
            return Decision::GiveUp;
        }
        // If none of its body was sent, an endpoint cannot have processed the request.
        let unprocessed = self.has_body && self.body_untouched;
        let safe = match error.retry() {
            Retry::Always => self.replays < UNPROCESSED_REPLAYS,
            Retry::IfReused => reused && self.replays == 0 && (self.idempotent || unprocessed),
            Retry::Never => false,
        };
        if safe {
            return Decision::Replay;
        }
        let broke = matches!(error.kind(), Kind::ConnectionTerminated);
        if broke && self.rules.on_reset_before_headers && self.idempotent && self.used < self.rules.attempts {
            return Decision::TryAgain;
        }
        Decision::GiveUp
    }

    /// After a response head.
    pub fn after_status(&self, status: StatusCode) -> Decision {
        let wanted = self.rules.on_status.contains(&status);
        if wanted && self.idempotent && self.body_replayable && self.used < self.rules.attempts {
            Decision::TryAgain
        } else {
            Decision::GiveUp
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> RetryRules {
        RetryRules {
            attempts: 1,
            on_connect_failure: true,
            on_reset_before_headers: false,
            on_status: Vec::new(),
            replay: 65_536,
        }
    }

    fn attempt(rules: &RetryRules, method: Method) -> Attempt<'_> {
        Attempt {
            rules,
            idempotent: is_idempotent(&method),
            body_untouched: true,
            body_replayable: true,
            has_body: false,
            used: 0,
            replays: 0,
        }
    }

    fn broke(retry: Retry) -> Error {
        Error::upstream(Kind::ConnectionTerminated, retry, "closed")
    }

    #[test]
    fn a_stale_connection_is_replayed_once_and_only_when_idempotent() {
        let rules = rules();
        let stale = broke(Retry::IfReused);
        assert_eq!(attempt(&rules, Method::GET).after_send_failure(&stale, true), Decision::Replay);
        assert_eq!(attempt(&rules, Method::POST).after_send_failure(&stale, true), Decision::GiveUp);
        let again = Attempt { replays: 1, ..attempt(&rules, Method::GET) };
        assert_eq!(again.after_send_failure(&stale, true), Decision::GiveUp);
    }

    #[test]
    fn what_was_not_processed_may_meet_several_goaways() {
        let rules = rules();
        let refused = broke(Retry::Always);
        for replays in 0..UNPROCESSED_REPLAYS {
            let post = Attempt { replays, ..attempt(&rules, Method::POST) };
            assert_eq!(post.after_send_failure(&refused, false), Decision::Replay);
        }
        let spent = Attempt { replays: UNPROCESSED_REPLAYS, ..attempt(&rules, Method::POST) };
        assert_eq!(spent.after_send_failure(&refused, false), Decision::GiveUp);
    }

    #[test]
    fn a_post_that_may_have_been_processed_is_never_sent_twice() {
        let mut rules = rules();
        rules.on_reset_before_headers = true;
        rules.on_status = vec![StatusCode::SERVICE_UNAVAILABLE];
        let post = Attempt { has_body: true, body_untouched: false, ..attempt(&rules, Method::POST) };
        for retry in [Retry::IfReused, Retry::Never] {
            for reused in [true, false] {
                assert_eq!(post.after_send_failure(&broke(retry), reused), Decision::GiveUp);
            }
        }
        assert_eq!(post.after_status(StatusCode::SERVICE_UNAVAILABLE), Decision::GiveUp);
        let untouched = Attempt { has_body: true, ..attempt(&rules, Method::POST) };
        assert_eq!(untouched.after_send_failure(&broke(Retry::IfReused), true), Decision::Replay);
    }

    #[test]
    fn a_body_that_is_gone_forbids_everything() {
        let rules = rules();
        let put =
            Attempt { has_body: true, body_untouched: false, body_replayable: false, ..attempt(&rules, Method::PUT) };
        assert_eq!(put.after_send_failure(&broke(Retry::Always), true), Decision::GiveUp);
    }

    #[test]
    fn attempts_are_bounded() {
        let rules = rules();
        let refused = Error::upstream(Kind::ConnectionRefused, Retry::Always, "refused");
        assert_eq!(attempt(&rules, Method::POST).after_connect_failure(&refused), Decision::TryAgain);
        let spent = Attempt { used: 1, ..attempt(&rules, Method::POST) };
        assert_eq!(spent.after_connect_failure(&refused), Decision::GiveUp);
    }
}
