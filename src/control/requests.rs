//! Requests to the control thread: from signals, the admin listener, file changes, and programs that embed the proxy.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tracing::warn;

use super::endpoint_drain::Unknown;
use super::reload::{Refused, Report};
use super::signals::{self, Signals};
use crate::config::Config;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A signal to the process.
    Signal,
    /// Somebody at the admin listener.
    Admin,
    /// The files of the configuration changed.
    Watch,
    /// The program that this proxy is a part of.
    Embedder,
}

impl Trigger {
    /// The word for it in logs and in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Admin => "admin",
            Self::Watch => "watch",
            Self::Embedder => "embedder",
        }
    }
}

/// What is asked.
pub enum Request {
    /// Put this configuration in force.
    Reload(Box<Config>, Trigger, Answer),
    /// Read the file again and put it in force.
    ReloadFile(Trigger, Answer),
    /// Take one endpoint out of the picks, or put it back. Told the labels of what was meant; dropped where the process is
    /// leaving.
    DrainEndpoint(EndpointDrain, oneshot::Sender<Result<Vec<Arc<str>>, Unknown>>),
    /// Take no new work, after `drain_delay`, finish what is under way, leave. Asked again, the delay is over.
    Drain(Trigger),
    /// As `Drain` without the delay; asked again, leave now.
    Interrupt,
    /// Leave now.
    Stop,
}

/// An endpoint that is to take no new requests, or to take them again.
pub struct EndpointDrain {
    /// The name of its upstream.
    pub upstream: String,
    /// Its address, or the name it was resolved from.
    pub endpoint: String,
    /// Whether it is drained from now on.
    pub drained: bool,
}

/// Where the end of a reload is told: its report, or why nothing has changed.
pub struct Answer(Box<dyn FnOnce(Result<Report, Refused>) + Send>);

impl Answer {
    /// Tells it to `told`, on the control thread.
    pub fn to(told: impl FnOnce(Result<Report, Refused>) + Send + 'static) -> Self {
        Self(Box::new(told))
    }

    /// For those who read the log instead.
    pub fn nobody() -> Self {
        Self::to(drop)
    }

    /// Tells it.
    pub fn give(self, result: Result<Report, Refused>) {
        (self.0)(result);
    }
}

impl Request {
    /// Answers a reload that is past doing, since the process is on its way out.
    pub fn refuse(self) {
        if let Self::Reload(_, trigger, answer) | Self::ReloadFile(trigger, answer) = self {
            warn!(trigger = trigger.name(), "reload ignored: the process is stopping");
            answer.give(Err(Refused::Leaving));
        }
    }
}

/// What is asked from inside the process and by signals, in one queue.
pub struct Requests {
    asked: UnboundedReceiver<Request>,
    signals: Option<Signals>,
}

impl Requests {
    /// Of both; signals where the process takes them.
    pub fn new(asked: UnboundedReceiver<Request>, signals: Option<Signals>) -> Self {
        Self { asked, signals }
    }

    /// The next one. Cancel-safe.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            // Without a request, whoever could ask is gone.
            request = self.asked.recv() => request.unwrap_or(Request::Stop),
            request = next_signal(&mut self.signals) => match request {
                signals::Request::Reload => Request::ReloadFile(Trigger::Signal, Answer::nobody()),
                signals::Request::Drain => Request::Drain(Trigger::Signal),
                signals::Request::Interrupt => Request::Interrupt,
            },
        }
    }

    /// Ends when the process is told to leave at once; everything else is past doing. Cancel-safe.
    pub async fn until_leave(&mut self) {
        loop {
            match self.next().await {
                Request::Stop | Request::Interrupt => return,
                Request::Drain(_) => {}
                reload => reload.refuse(),
            }
        }
    }
}

async fn next_signal(signals: &mut Option<Signals>) -> signals::Request {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}
