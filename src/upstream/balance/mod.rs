//! Which endpoint takes the next request (sans-io).
pub mod least_requests;
pub mod random;
pub mod round_robin;
