//! TLS with rustls.
pub mod cert_store;
pub mod client;
pub mod provider;
pub mod server;
