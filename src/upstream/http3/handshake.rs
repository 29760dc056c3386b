//! The state of the handshake on a connection with early data, on which requests may be sent before the endpoint has
//! answered (0-RTT, RFC 8470).

use std::cell::Cell;

use http::{Method, Request, StatusCode};
use http_body::Body as _;
use tokio::sync::Notify;

use crate::body::Body;

/// The handshake of one connection.
pub(super) struct Handshake {
    state: Cell<State>,
    changed: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    UnderWay,
    Done,
    /// The endpoint took nothing of what was sent early, or never answered.
    Failed,
}

impl Handshake {
    pub(super) fn new(under_way: bool) -> Self {
        let state = if under_way { State::UnderWay } else { State::Done };
        Self { state: Cell::new(state), changed: Notify::new() }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state.get() == State::Done
    }

    pub(super) fn end(&self, well: bool) {
        self.state.set(if well { State::Done } else { State::Failed });
        self.changed.notify_waiters();
    }

    /// Waits for its end and says whether it went well.
    pub(super) async fn ended_well(&self) -> bool {
        while self.state.get() == State::UnderWay {
            self.changed.notified().await;
        }
        self.is_done()
    }
}

/// Whether a request does no harm when somebody who recorded it sends it again (RFC 8470 §3, RFC 9110 §9.2.1).
pub(super) fn may_go_early(request: &Request<Body>) -> bool {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    safe && request.body().is_end_stream()
}

/// Whether the endpoint wants the handshake to be waited for, and whether that is ours to do: who asked us with `Early-Data` waits
/// for its own (RFC 8470 §5.2).
pub(super) fn wants_to_wait(status: StatusCode, client_knows: bool) -> bool {
    status == StatusCode::TOO_EARLY && !client_knows
}
