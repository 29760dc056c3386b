//! Named endpoint sets and how to reach them.
pub mod balance;
pub mod client;
pub mod connector;
pub mod endpoint;
pub mod endpoint_set;
pub mod pool;
pub mod registry;
