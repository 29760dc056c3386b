//! HTTP/3 on one accepted QUIC connection.

use std::rc::Rc;

use super::listeners::WorkerListener;
use super::quic::Held;
use super::worker::Worker;
use crate::transport::quic::QuicAccepted;

/// Serves one connection until it ends; `held` is given back then.
pub(super) async fn serve(_worker: Rc<Worker>, _listener: Rc<WorkerListener>, accepted: QuicAccepted, _held: Held) {
    accepted.connection.close(quinn::VarInt::from_u32(0x100), b"");
}
