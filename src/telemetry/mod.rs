//! Logs, counters, and what a worker tells of itself.
pub mod counters;
pub mod histogram;
pub mod log;
pub mod recent;
pub mod series;
mod worker;

pub use worker::WorkerTelemetry;
