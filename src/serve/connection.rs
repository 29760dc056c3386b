//! connection

use std::net::SocketAddr;
use std::rc::Rc;

use super::listeners::{ConnectionPermit, WorkerListener};
use super::worker::Worker;
use crate::net::io::Socket;

/// Serves one connection of a client until it ends.
pub async fn serve(
    worker: Rc<Worker>,
    listener: Rc<WorkerListener>,
    socket: Socket,
    remote: Option<SocketAddr>,
    permit: ConnectionPermit,
) {
    drop((worker, listener, socket, remote, permit));
}
