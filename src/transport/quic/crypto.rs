//! TLS for QUIC: quinn's session over rustls, plus facts that quinn does not expose: whether a handshake resumed a
//! session, and whether its early data was accepted.

use std::any::Any;
use std::sync::Arc;

use quinn::crypto::rustls::{HandshakeData, NoInitialCipherSuite, QuicServerConfig};
use quinn::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session, UnsupportedVersion,
};
use quinn::{ConnectionId, Side};
use quinn_proto::TransportError;
use quinn_proto::transport_parameters::TransportParameters;

use super::unpadded::{unpadded, unpadded_pair};

/// What a listener needs to do handshakes over QUIC.
pub struct QuicCrypto {
    inner: Arc<QuicServerConfig>,
    early_data: bool,
}

/// What a handshake agreed on.
#[derive(Debug)]
pub(super) struct Agreed {
    /// By ALPN.
    pub(super) protocol: Option<Vec<u8>>,
    /// The name that the client asked for.
    pub(super) server_name: Option<String>,
    /// The client came with a ticket.
    pub(super) resumed: bool,
    /// What it sent before the handshake ended is taken.
    pub(super) early: bool,
}

impl QuicCrypto {
    /// Over a configuration for TLS 1.3.
    ///
    /// # Errors
    /// It lacks the suite that protects the first packets.
    pub fn new(config: rustls::ServerConfig) -> Result<Arc<Self>, NoInitialCipherSuite> {
        let early_data = config.max_early_data_size > 0;
        Ok(Arc::new(Self { inner: Arc::new(config.try_into()?), early_data }))
    }

    /// Whether early data may be taken.
    pub fn takes_early_data(&self) -> bool {
        self.early_data
    }
}

impl ServerConfig for QuicCrypto {
    fn initial_keys(&self, version: u32, destination: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.inner.initial_keys(version, destination).map(unpadded)
    }

    fn retry_tag(&self, version: u32, original: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.inner.retry_tag(version, original, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, parameters: &TransportParameters) -> Box<dyn Session> {
        let inner = Arc::clone(&self.inner).start_session(version, parameters);
        Box::new(Told { inner, resumed: None })
    }
}

/// A session that tells more.
struct Told {
    inner: Box<dyn Session>,
    /// `None`: our answer has not been written.
    resumed: Option<bool>,
}

impl Session for Told {
    fn initial_keys(&self, destination: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(destination, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let data = self.inner.handshake_data()?.downcast::<HandshakeData>().ok()?;
        Some(Box::new(Agreed {
            protocol: data.protocol,
            server_name: data.server_name,
            resumed: self.resumed == Some(true),
            early: self.inner.early_crypto().is_some(),
        }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(bytes)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buffer: &mut Vec<u8>) -> Option<Keys> {
        let before = buffer.len();
        let keys = self.inner.write_handshake(buffer);
        if self.resumed.is_none() {
            self.resumed = resumes(&buffer[before..]);
        }
        keys.map(unpadded)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys().map(unpadded_pair)
    }

    fn is_valid_retry(&self, original: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(original, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

/// Whether a ServerHello takes the key of an earlier session (RFC 8446 §4.1.3); `None`: `bytes` do not begin with one, or
/// it asks the client for another hello.
fn resumes(bytes: &[u8]) -> Option<bool> {
    // The message's type and length, and the version.
    let body = bytes.strip_prefix(&[SERVER_HELLO])?.get(3 + 2..)?;
    let (random, body) = body.split_at_checked(32)?;
    if random == HELLO_RETRY_REQUEST {
        return None;
    }
    let (session, body) = body.split_first()?;
    // The session ID, the suite and the compression.
    let body = body.get(usize::from(*session) + 2 + 1..)?;
    let (length, body) = body.split_first_chunk()?;
    let mut extensions = body.get(..usize::from(u16::from_be_bytes(*length)))?;
    while let Some((kind, rest)) = extensions.split_first_chunk() {
        if u16::from_be_bytes(*kind) == PRE_SHARED_KEY {
            return Some(true);
        }
        let (length, rest) = rest.split_first_chunk()?;
        extensions = rest.get(usize::from(u16::from_be_bytes(*length))..)?;
    }
    Some(false)
}

/// RFC 8446 §4.
const SERVER_HELLO: u8 = 2;
/// RFC 8446 §4.2.
const PRE_SHARED_KEY: u16 = 41;
/// RFC 8446 §4.1.3: the random of a ServerHello that is none.
const HELLO_RETRY_REQUEST: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(random: [u8; 32], session: &[u8], extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut list = Vec::new();
        for (kind, data) in extensions {
            list.extend(kind.to_be_bytes());
            list.extend((data.len() as u16).to_be_bytes());
            list.extend_from_slice(data);
        }
        let mut body = vec![3, 3];
        body.extend(random);
        body.push(session.len() as u8);
        body.extend_from_slice(session);
        body.extend([0x13, 0x01, 0]);
        body.extend((list.len() as u16).to_be_bytes());
        body.extend(list);
        let mut message = vec![SERVER_HELLO, 0];
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
        message
    }

    #[test]
    fn a_server_hello_tells_whether_a_session_is_resumed() {
        let key_share: (u16, &[u8]) = (51, &[0, 29, 0, 2, 7, 7]);
        let version: (u16, &[u8]) = (43, &[3, 4]);
        let psk: (u16, &[u8]) = (PRE_SHARED_KEY, &[0, 0]);
        assert_eq!(resumes(&hello([7; 32], &[], &[version, key_share])), Some(false));
        assert_eq!(resumes(&hello([7; 32], &[1; 32], &[version, key_share, psk])), Some(true));
        assert_eq!(resumes(&hello([7; 32], &[], &[psk, version])), Some(true));
        assert_eq!(resumes(&hello(HELLO_RETRY_REQUEST, &[], &[version, key_share])), None);
        assert_eq!(resumes(&[]), None);
        assert_eq!(resumes(&[8, 0, 0, 2, 0, 0]), None, "encrypted extensions");
        let whole = hello([7; 32], &[1; 32], &[version, psk]);
        for end in 0..whole.len() {
            assert_ne!(resumes(&whole[..end]), Some(true), "{end}");
        }
    }
}
