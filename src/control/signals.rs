//! Signals as words: HUP reloads, TERM drains, INT drains the first time and leaves at once the second.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the process is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// HUP: read the configuration again.
    Reload,
    /// TERM, or the first INT: finish what is under way and leave.
    Drain,
    /// A second INT, or an INT while draining: leave now.
    Leave,
}

/// The signals this process listens to.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    draining: bool,
}

impl Signals {
    /// Takes the signals from the system: from now on they no longer end the process by themselves.
    ///
    /// # Errors
    /// The system refused.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            draining: false,
        })
    }

    /// The next request. Cancel-safe.
    pub async fn next(&mut self) -> Request {
        let request = poll_fn(|cx| {
            // An interrupt first: whoever is impatient shall not wait behind a reload.
            if self.interrupt.poll_recv(cx).is_ready() {
                return Poll::Ready(if self.draining { Request::Leave } else { Request::Drain });
            }
            if self.terminate.poll_recv(cx).is_ready() {
                return Poll::Ready(Request::Drain);
            }
            self.hangup.poll_recv(cx).map(|_| Request::Reload)
        })
        .await;
        self.draining |= request == Request::Drain;
        request
    }
}
