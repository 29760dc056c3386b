//! The one set of cryptography of the program: aws-lc-rs with its default suites and groups, X25519MLKEM768 first.
//!
//! A rustls server takes the first group of the client's own list that it knows, so the order here costs a client
//! without ML-KEM nothing. As a client, rustls sends an X25519 share next to the hybrid one, out of the same key pair,
//! so an endpoint without ML-KEM answers without a second round (draft-ietf-tls-ecdhe-mlkem, RFC 8446 §4.1.4).

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The provider, made once.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}
