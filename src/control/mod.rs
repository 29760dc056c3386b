//! What changes over time; a thread and a runtime of its own.
pub mod compile;
pub mod discovery;
pub mod reload;
pub mod signals;
