//! What changes over time; a thread and a runtime of its own.
pub mod access_log;
pub mod admin;
pub mod cert_watch;
pub mod compile;
pub mod diff;
pub mod discovery;
pub mod files;
pub mod limits;
pub mod privileges;
mod refused;
pub mod reload;
pub mod requests;
pub mod signals;
pub mod sockets;
pub mod supervision;
pub mod view;
pub mod watch;
pub mod workers;
