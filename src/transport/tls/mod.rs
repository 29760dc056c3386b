//! TLS with rustls and aws-lc-rs, in both roles, and certificates.
pub mod cert_store;
pub mod client;
pub mod development;
mod early_data;
pub(super) mod failure;
mod pem;
pub mod provider;
pub mod server;

pub use failure::kind_of;
pub use rustls_pki_types::ServerName;

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
