//! QUIC with quinn, in both roles: connections whose streams HTTP/3 and raw bytes travel on. From clients: one endpoint for
//! each worker and UDP address of a listener; whose a datagram is stands in its connection ID. To endpoints: [`client`].
pub mod client;
pub mod connection_id;
mod crypto;
mod endpoint;
mod failure;
mod handshake;
pub mod keys;
mod params;
mod qlog;
mod socket;
pub mod steering;
mod unpadded;
mod writable;

pub use crypto::QuicCrypto;
pub use endpoint::{Place, QuicListener};
pub use failure::{fell_silent, refusal};
pub use handshake::{Established, QuicAccepted, handshake};
pub use quinn::{Connection, Incoming};

/// Closes a connection with an error code of the protocol that it carries; of one past 2^62, the largest.
pub fn close(connection: &Connection, code: u64) {
    connection.close(quinn::VarInt::from_u64(code).unwrap_or(quinn::VarInt::MAX), b"");
}

#[cfg(test)]
pub(crate) mod tests;
