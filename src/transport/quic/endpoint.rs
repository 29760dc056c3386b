//! One worker's endpoint on a UDP address for QUIC. A reload changes the settings of new connections, but neither the
//! socket nor open connections.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use quinn::{Connecting, ConnectionError, Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, VarInt};

use super::congestion::Leaving;
use super::crypto::QuicCrypto;
use super::socket::SteeredSocket;
use super::steering::Steering;
use super::{params, qlog};
use crate::config::model::Listener;
use crate::net::bind::{BoundSocket, Group};
use crate::telemetry::WorkerTelemetry;
use crate::transport::tls::server::ServerTls;

/// One worker's endpoint.
pub struct QuicListener {
    endpoint: Endpoint,
    socket: Arc<SteeredSocket>,
    steering: Arc<Steering>,
    leaving: Leaving,
    served: RefCell<Served>,
}

/// What new connections are served with.
struct Served {
    listener: Arc<Listener>,
    tls: Arc<ServerTls>,
    /// What `config` was made with: a certificate that is renewed gives another.
    crypto: Arc<QuicCrypto>,
    config: Arc<ServerConfig>,
}

/// Where an endpoint stands: on which worker, and who tells of it.
pub struct Place {
    /// The worker's number.
    pub worker: usize,
    /// What it tells of itself.
    pub telemetry: Arc<WorkerTelemetry>,
    /// Dropped when the socket is closed.
    pub open: Arc<Group>,
}

impl QuicListener {
    /// Takes connections on `socket`, which is the worker's member of those that `steering` joins.
    ///
    /// # Errors
    /// The runtime cannot watch the socket, or the listener speaks no QUIC.
    pub fn open(
        socket: BoundSocket,
        steering: Arc<Steering>,
        place: Place,
        listener: &Arc<Listener>,
        tls: &Arc<ServerTls>,
    ) -> io::Result<Rc<Self>> {
        let Place { worker, telemetry, open } = place;
        let leaving = Leaving::default();
        let served = Served::new(listener, tls, &steering, &leaving)?;
        let socket = SteeredSocket::new(socket.into_udp()?, worker, Arc::clone(&steering), telemetry, open)?;
        let socket = Arc::new(socket);
        socket.set_receive_offload(listener.quic.transport.segmentation_offload);
        let mut config = EndpointConfig::new(steering.keys().reset());
        let ids = steering.ids();
        config.cid_generator(move || Box::new(ids.generator(worker))).supported_versions(vec![VERSION_1]);
        let endpoint = Endpoint::new_with_abstract_socket(
            config,
            Some(ServerConfig::clone(&served.config)),
            Arc::clone(&socket) as _,
            // Its tasks are spawned on the runtime of this thread.
            Arc::new(TokioRuntime),
        )?;
        Ok(Rc::new(Self { endpoint, socket, steering, leaving, served: RefCell::new(served) }))
    }

    /// Serves new connections with this from now on; those that are open stay as they are.
    ///
    /// # Errors
    /// The listener speaks no QUIC; then nothing changes.
    pub fn renew(&self, listener: &Arc<Listener>, tls: &Arc<ServerTls>) -> io::Result<()> {
        let served = Served::new(listener, tls, &self.steering, &self.leaving)?;
        self.socket.set_receive_offload(listener.quic.transport.segmentation_offload);
        self.endpoint.set_server_config(Some(ServerConfig::clone(&served.config)));
        self.served.replace(served);
        Ok(())
    }

    /// The next client that wants a connection; `None`: the endpoint is closed. Cancel-safe.
    pub async fn next(&self) -> Option<Incoming> {
        self.endpoint.accept().await
    }

    /// Begins the handshake with a client.
    ///
    /// # Errors
    /// Its first packet is broken.
    pub fn accept(&self, incoming: Incoming) -> Result<Connecting, ConnectionError> {
        let mut served = self.served.borrow_mut();
        served.look_at_files(&self.steering, &self.leaving);
        let config = match &served.listener.quic.transport.qlog {
            None => Arc::clone(&served.config),
            Some(folder) => {
                let log = qlog::open(folder, "server", incoming.orig_dst_cid());
                let (crypto, keys) = (Arc::clone(&served.crypto), self.steering.keys());
                Arc::new(params::server(&served.listener, crypto, keys, &self.leaving, log))
            }
        };
        drop(served);
        incoming.accept_with(config)
    }

    /// Whether early data may be taken.
    pub fn takes_early_data(&self) -> bool {
        self.served.borrow().crypto.takes_early_data()
    }

    /// What joins the workers of the address.
    pub fn steering(&self) -> &Arc<Steering> {
        &self.steering
    }

    /// Ends when there are none. Cancel-safe.
    pub async fn idle(&self) {
        self.endpoint.wait_idle().await;
    }

    /// Closes every connection.
    pub fn close(&self, code: u32, reason: &'static str) {
        self.leaving.begin();
        self.endpoint.close(VarInt::from_u32(code), reason.as_bytes());
    }

    /// Counts what the kernel dropped for want of room since the last time.
    pub fn count_dropped(&self) {
        self.socket.count_dropped();
    }
}

impl Served {
    fn new(listener: &Arc<Listener>, tls: &Arc<ServerTls>, steering: &Steering, leaving: &Leaving) -> io::Result<Self> {
        let crypto = tls.quic().ok_or_else(|| io::Error::other("a listener that speaks no QUIC"))?;
        let config = Arc::new(params::server(listener, Arc::clone(&crypto), steering.keys(), leaving, None));
        Ok(Self { listener: Arc::clone(listener), tls: Arc::clone(tls), crypto, config })
    }

    /// Certificates are renewed without a reload.
    fn look_at_files(&mut self, steering: &Steering, leaving: &Leaving) {
        if let Some(crypto) = self.tls.quic().filter(|crypto| !Arc::ptr_eq(crypto, &self.crypto)) {
            let config = params::server(&self.listener, Arc::clone(&crypto), steering.keys(), leaving, None);
            self.config = Arc::new(config);
            self.crypto = crypto;
        }
    }
}

/// RFC 9000.
const VERSION_1: u32 = 1;
