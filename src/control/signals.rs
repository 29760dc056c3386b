//! Receives signals. `app` decides what they mean, depending on the state of the shutdown.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the process is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// HUP: read the configuration again.
    Reload,
    /// TERM: finish what is under way and leave.
    Drain,
    /// INT: the same for somebody at a terminal, who does not wait for load balancers; leave now where a drain is under
    /// way already.
    Interrupt,
}

/// The signals this process listens to.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
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
        })
    }

    /// The next request. Cancel-safe.
    pub async fn next(&mut self) -> Request {
        poll_fn(|cx| {
            // An interrupt first: whoever is impatient shall not wait behind a reload.
            if self.interrupt.poll_recv(cx).is_ready() {
                return Poll::Ready(Request::Interrupt);
            }
            if self.terminate.poll_recv(cx).is_ready() {
                return Poll::Ready(Request::Drain);
            }
            self.hangup.poll_recv(cx).map(|_| Request::Reload)
        })
        .await
    }
}
