//! Combines the rooms for each listener: a worker thread, its listening sockets, and the life of a connection.
pub mod connection;
mod http3;
mod introduction;
pub mod listeners;
mod quic;
mod session;
mod streams;
mod tunnel;
pub mod worker;
