//! Tidegate: a proxy for HTTP/1.1, HTTP/2 and HTTP/3, raw QUIC streams, TCP and UDP. Each core has one thread with its own
//! runtime, sockets and connection pools.
//!
//! The rooms (top-level modules) below are declared bottom-up: a room imports only rooms declared above its own line, and
//! rooms on the same level never import each other. `tests/architecture.rs` enforces this. `docs/ARCHITECTURE.md`
//! describes the life of a request.
#![deny(unsafe_code)]
#![warn(missing_docs)]

// level 0
pub mod base;
// level 1
pub mod config;
// level 2
pub mod telemetry;
// level 3
pub mod net;
// level 4
pub mod transport;
// level 5
pub mod http3;
// level 5½
pub mod body;
// level 6, siblings
pub mod protocol;
pub mod upstream;
// level 7
pub mod route;
// level 8
pub mod snapshot;
// level 9, siblings
pub mod l4;
pub mod proxy;
// level 9½
pub mod explain;
// level 10
pub mod serve;
// level 11
pub mod control;
// level 12
pub mod app;
// level 13
pub mod cli;
