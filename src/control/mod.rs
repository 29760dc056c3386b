//! What changes over time; a thread and a runtime of its own.
pub mod compile;
pub mod discovery;
pub mod limits;
pub mod reload;
pub mod signals;
pub mod sockets;
pub mod workers;
