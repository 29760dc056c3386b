//! The layer 4 plane: raw TCP, TLS by its ClientHello, and UDP, relayed on mio, on threads of its own and without tokio.
//! Nothing is allocated, and no lock taken, for a byte that passes.

mod accept;
pub mod command;
pub mod flow;
mod life;
pub mod listener;
mod opening;
pub mod pipes;
pub mod quic;
mod relay;
pub mod session;
pub mod sni;
mod tcp;
pub mod timer;
pub mod token;
mod udp;
pub mod upstreams;
pub mod worker;
