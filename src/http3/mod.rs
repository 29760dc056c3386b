//! HTTP/3 on quinn (RFC 9114), both roles, generic over what answers and what is sent. A connection and all of its
//! streams live on the thread that drives it: one task per connection, one per request of a client.

mod allowance;
mod answer;
mod body;
pub mod capsule;
pub mod client;
mod config;
mod connection;
mod control;
pub mod control_frames;
pub mod datagram;
mod datagrams;
mod date;
mod departure;
mod error;
pub mod frame;
mod heads;
mod inbound;
mod incoming;
pub mod message;
mod outgoing;
pub mod priority;
mod pump;
pub mod qpack;
mod reader;
mod request;
pub mod server;
pub mod settings;
pub mod uni_stream;
pub mod varint;
mod writer;

pub use self::body::RecvBody;
pub use self::client::{SendError, Sender};
pub use self::config::{Config, FIRST_REQUESTS};
pub use self::control::{Closed, Control};
pub use self::datagrams::{Datagrams, Posted};
pub use self::error::{BrokenOff, Code, Error, Scope, Side};
pub use self::server::{Early, Informational, Refusal, Service, Watch, serve};

#[cfg(test)]
mod tests;
