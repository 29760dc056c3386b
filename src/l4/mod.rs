//! The layer 4 plane: TCP, TLS routed by the ClientHello, and UDP, relayed by mio event loops on separate threads,
//! without tokio. Relaying a byte allocates nothing and takes no lock.

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
