//! Secure channels.
pub mod tls;
