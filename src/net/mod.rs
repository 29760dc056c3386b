//! Bytes and sockets.
pub mod accept;
pub mod bind;
pub mod connect;
pub mod handoff;
pub mod io;
pub mod relay;
pub mod socket;
pub mod sys;
pub mod timer;
