//! QUIC with quinn, in both roles, for HTTP/3 and raw streams. From clients: one endpoint for each worker and UDP
//! address of a listener; the connection ID identifies the worker of a packet. To endpoints: [`client`].
pub mod client;
mod congestion;
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
pub use quinn::{Connection, Incoming, VarInt};

/// An error code of a protocol as it is sent; of one past 2^62, the largest.
pub fn varint(code: impl Into<u64>) -> VarInt {
    VarInt::from_u64(code.into()).unwrap_or(VarInt::MAX)
}

/// Closes a connection with an error code of the protocol that it carries. The other end is told at once, however much is on its
/// way there.
pub fn close(connection: &Connection, code: impl Into<u64>) {
    close_saying(connection, code, b"");
}

/// The same, with a reason for whoever debugs the other end.
pub fn close_saying(connection: &Connection, code: impl Into<u64>, reason: &[u8]) {
    congestion::lift(connection);
    connection.close(varint(code), reason);
}

#[cfg(test)]
pub(crate) mod tests;
