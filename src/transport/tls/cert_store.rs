//! cert_store
