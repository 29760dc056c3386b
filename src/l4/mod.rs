//! The layer 4 plane: raw TCP, TLS by its ClientHello, and UDP, relayed on mio, on threads of its own and without tokio.
//! Nothing is allocated, and no lock taken, for a byte that passes.

pub mod command;
pub mod flow;
pub mod session;
pub mod sni;
pub mod timer;
pub mod token;
