//! Logs, counters, and the telemetry of workers.
pub mod access_log;
pub mod calendar;
pub mod counters;
mod escape;
pub mod histogram;
pub mod log;
pub mod recent;
pub mod series;
pub mod trace_context;
mod worker;

pub use worker::{Plane, WorkerTelemetry};
