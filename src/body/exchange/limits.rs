//! The limits of an exchange.

use std::time::Duration;

/// The deadlines of an exchange.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The client neither sends what we want nor takes what we have.
    pub client_stall: Duration,
    /// Silence of the origin inside a body.
    pub stream_idle: Duration,
    /// Whether the client's taking is judged here, by stream; otherwise the connection judges it.
    pub judge_client: bool,
}
