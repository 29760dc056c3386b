//! Bytes to messages, generic over the service.
pub mod detect;
mod farewell;
mod gather;
pub mod h2_frames;
pub mod http;
pub mod http3;
pub mod link;
pub mod quic_stream;
mod supervisor;
pub mod wire;
