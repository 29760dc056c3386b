//! Exponential back-off with jitter (sans-io).
