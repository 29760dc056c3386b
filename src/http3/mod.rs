//! HTTP/3 on quinn (RFC 9114), both roles, generic over what answers and what is sent. A connection and all of its
//! streams live on the thread that drives it: one task per connection, one per request of a client.

mod body;
pub mod client;
mod config;
mod control;
pub mod control_frames;
#[allow(dead_code, reason = "the driver of the connection is not there yet")]
mod error;
pub mod frame;
pub mod message;
pub mod priority;
pub mod qpack;
pub mod server;
pub mod settings;
pub mod uni_stream;
pub mod varint;

pub use self::body::RecvBody;
pub use self::client::{SendError, Sender};
pub use self::config::Config;
pub use self::control::{Closed, Control};
pub use self::error::{Code, Error, Scope, Side};
pub use self::server::{Informational, Refusal, Service, Watch, serve};
