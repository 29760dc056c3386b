//! Header rules of a proxy.
pub mod cookie;
pub mod forwarded;
pub mod hop_by_hop;
pub mod max_forwards;
pub mod via;
