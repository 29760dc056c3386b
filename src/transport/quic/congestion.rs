//! Congestion control as it is configured, for as long as a connection is open. quinn puts what would say that it is closed
//! behind the congestion window (quinn#2785, in 0.11.19 still): where that is full, the other end hears nothing until it asks by
//! itself, or its idle deadline has passed. So the window is lifted with the close.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quinn::Connection;
use quinn::congestion::{BbrConfig, Controller, ControllerFactory, ControllerMetrics, CubicConfig, NewRenoConfig};
use quinn_proto::RttEstimator;

use crate::config::model::Congestion;

/// The connections of an endpoint that is closed as a whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving(Arc<AtomicBool>);

impl Leaving {
    /// Lifts the windows of all of them.
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes what controls the connections of an endpoint.
pub(super) fn factory(congestion: Congestion, leaving: &Leaving) -> Arc<dyn ControllerFactory + Send + Sync> {
    let configured: Arc<dyn ControllerFactory + Send + Sync> = match congestion {
        Congestion::Cubic => Arc::new(CubicConfig::default()),
        Congestion::Bbr => Arc::new(BbrConfig::default()),
        Congestion::NewReno => Arc::new(NewRenoConfig::default()),
    };
    Arc::new(Factory { configured, leaving: leaving.clone() })
}

/// Lifts the window of a connection that is about to be closed.
pub(super) fn lift(connection: &Connection) {
    if let Ok(controlled) = connection.congestion_state().into_any().downcast::<Controlled>() {
        controlled.closing.begin();
    }
}

struct Factory {
    configured: Arc<dyn ControllerFactory + Send + Sync>,
    leaving: Leaving,
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let configured = Arc::clone(&self.configured).build(now, current_mtu);
        Box::new(Controlled { configured, closing: Leaving::default(), leaving: self.leaving.clone() })
    }
}

/// What controls one connection.
struct Controlled {
    configured: Box<dyn Controller>,
    /// The connection is being closed. Its copies share it.
    closing: Leaving,
    /// Its endpoint is.
    leaving: Leaving,
}

impl Controller for Controlled {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.configured.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.configured.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.configured.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.configured.on_congestion_event(now, sent, is_persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.configured.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        // No other frame leaves a closed connection.
        if self.closing.has_begun() || self.leaving.has_begun() { u64::MAX } else { self.configured.window() }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.configured.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let (closing, leaving) = (self.closing.clone(), self.leaving.clone());
        Box::new(Self { configured: self.configured.clone_box(), closing, leaving })
    }

    fn initial_window(&self) -> u64 {
        self.configured.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Which of the three controls a connection, in the order of the configuration's words.
#[cfg(test)]
pub(super) fn which(connection: &Connection) -> Option<usize> {
    use quinn::congestion::{Bbr, Cubic, NewReno};
    let configured =
        || connection.congestion_state().into_any().downcast::<Controlled>().unwrap().configured.into_any();
    let found = [configured().is::<Cubic>(), configured().is::<Bbr>(), configured().is::<NewReno>()];
    found.iter().position(|found| *found)
}
