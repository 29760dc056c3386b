//! endpoint_set
