//! QUIC: connections whose streams HTTP/3 and raw bytes travel on.

pub mod client;
mod failure;

pub use failure::refusal;
pub use quinn::Connection;
