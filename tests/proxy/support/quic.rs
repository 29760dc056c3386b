//! A client's end of QUIC.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::Response;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connecting, Connection, Endpoint};

use super::certificates;

/// A connection of QUIC that speaks HTTP/3.
pub struct Quic {
    pub connection: Connection,
    /// Interim answers to its requests.
    pub interim: Rc<RefCell<Vec<Response<()>>>>,
    _endpoint: Endpoint,
}

impl Quic {
    /// Connects for this name.
    pub async fn connect(address: SocketAddr, name: &str) -> Self {
        Self::connect_with(config(certificates::client_config(&[b"h3"], false)), address, name).await.unwrap()
    }

    /// Connects with what a test wants.
    pub async fn connect_with(
        config: ClientConfig,
        address: SocketAddr,
        name: &str,
    ) -> Result<Self, quinn::ConnectionError> {
        let (endpoint, connecting) = begin(config, address, name);
        Ok(Self::over(endpoint, connecting.await?))
    }

    pub fn over(endpoint: Endpoint, connection: Connection) -> Self {
        Self { connection, interim: Rc::default(), _endpoint: endpoint }
    }
}

/// Begins a handshake.
pub fn begin(config: ClientConfig, address: SocketAddr, name: &str) -> (Endpoint, Connecting) {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(config, address, name).unwrap();
    (endpoint, connecting)
}

/// What a client of QUIC is set up with.
pub fn config(tls: Arc<rustls::ClientConfig>) -> ClientConfig {
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}
