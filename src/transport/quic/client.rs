//! QUIC connections to endpoints (RFC 9000, RFC 9001). A worker has one UDP socket for each address family and each
//! source address of an upstream. The sockets are created on first use and carry all connections of that worker.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use quinn::{
    ClientConfig, ConnectError, Connecting, Connection, Endpoint, EndpointConfig, TokioRuntime, ZeroRttAccepted,
};
use quinn_proto::{ConnectionIdGenerator, RandomConnectionIdGenerator};
use tokio::runtime::{Handle, Id};
use tokio::sync::oneshot;

use super::congestion::Leaving;
use super::params::{self, Bounds};
use super::socket::BatchSocket;
use super::{failure, qlog};
use crate::base::error::{Error, Kind, Retry};
use crate::config::model::UpstreamQuic;
use crate::net::connect;
use crate::net::icmp::Undelivered;
use crate::net::socket::{Sources, datagrams_from};
use crate::transport::tls::client::{ClientTls, ServerName};

/// What HTTP/3 is called in a handshake (RFC 9114 §3.1).
pub const H3: &[u8] = b"h3";

/// Silence after which a connection is given up: no acknowledgement came of what was sent. An endpoint may want less.
const MAX_IDLE: Duration = Duration::from_secs(50);
/// The same where silence most likely means that datagrams do not pass any more, and there is another way.
const MAX_IDLE_ON_TRIAL: Duration = Duration::from_secs(12);
/// Streams that an HTTP/3 endpoint may open towards us: control, QPACK's two, and some that nobody knows (RFC 9114 §6.2.3).
const H3_STREAMS_FROM_ENDPOINT: u32 = 16;
/// Streams of either kind that any other endpoint may open towards us.
const STREAMS_FROM_ENDPOINT: u32 = 128;
/// Bytes of the connection ID that a connection begins with; quinn's own choice.
const MAX_CID_SIZE: usize = 20;

thread_local! {
    static SOCKETS: RefCell<Sockets> = RefCell::default();
}

/// The endpoints (in quinn's sense of the word) of a thread, by the local address that they are bound to.
#[derive(Default)]
struct Sockets {
    /// They live and die with it.
    runtime: Option<Id>,
    bound: Vec<(IpAddr, Endpoint)>,
    /// Handshakes under way, and whom to tell that the network refuses their packets.
    asking: Vec<(SocketAddr, oneshot::Sender<io::Error>)>,
}

/// A way to an endpoint.
pub struct Way<'a> {
    /// Where it is.
    pub address: SocketAddr,
    /// Whom to trust, and as whom to go.
    pub tls: &'a ClientTls,
    /// Who it has to prove to be.
    pub name: &'a ServerName<'static>,
    /// What to agree on.
    pub alpn: &'a [u8],
    /// Windows, keep-alive, early data.
    pub options: &'a UpstreamQuic,
    /// Where to come from: from each in turn.
    pub sources: &'a Sources,
    /// Nobody promised that there is a way: silence is taken for its end soon, as something else will do.
    pub on_trial: bool,
}

impl Way<'_> {
    /// Connects. The deadline is the caller's. Cancel-safe: a dropped call gives the connection up.
    ///
    /// # Errors
    /// The endpoint's or its network's fault, always worth another try: nothing was sent.
    pub async fn connect(&self) -> Result<Connection, Error> {
        established(self.address, self.begin()?).await
    }

    /// As [`connect`](Self::connect), but done at once where something may be sent early and a ticket allows it: what is sent then
    /// is taken, or not, as the second part tells.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_early(&self) -> Result<(Connection, Option<Early>), Error> {
        match self.begin()?.into_0rtt() {
            Ok((connection, accepted)) => Ok((connection, Some(Early(accepted)))),
            Err(connecting) => Ok((established(self.address, connecting).await?, None)),
        }
    }

    /// Sends the first packet, from the first of the sources that can be used.
    fn begin(&self) -> Result<Connecting, Error> {
        let idle = if self.on_trial { MAX_IDLE_ON_TRIAL } else { MAX_IDLE };
        let config = config(self.tls, self.alpn, self.options, idle)?;
        let mut last = None;
        for source in self.sources.turn(self.address) {
            let any = if self.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            match bound_to(source.unwrap_or(any)) {
                Ok(endpoint) => {
                    return endpoint.connect_with(config, self.address, &self.name.to_str()).map_err(not_begun);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(connect::explain(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())))
    }
}

/// A handshake that something was sent ahead of (RFC 9001 §4.6).
pub struct Early(ZeroRttAccepted);

impl Early {
    /// Whether the endpoint took what was sent early, once that is known; not, where the handshake failed.
    pub async fn is_taken(self) -> bool {
        self.0.await
    }
}

/// Waits for the end of a handshake, or until the network says that nobody is there: TCP would be told so by a reset. Once a
/// connection stands, such a word is as good as any stranger's.
async fn established(address: SocketAddr, connecting: Connecting) -> Result<Connection, Error> {
    let (teller, mut refusal) = oneshot::channel();
    SOCKETS.with_borrow_mut(|sockets| {
        sockets.asking.retain(|(_, teller)| !teller.is_closed());
        sockets.asking.push((address, teller));
    });
    let mut connecting = pin!(connecting);
    poll_fn(|cx| {
        if let Poll::Ready(Ok(error)) = Pin::new(&mut refusal).poll(cx) {
            return Poll::Ready(Err(connect::explain(error)));
        }
        connecting.as_mut().poll(cx).map_err(failure::of_endpoint)
    })
    .await
}

/// Tells those who ask there what came back of their packets.
async fn listen(undelivered: Undelivered) {
    while let Ok((address, error)) = undelivered.next().await {
        // Anything else, such as a packet that is too large for a link, may do better the next time.
        if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable) {
            SOCKETS.with_borrow_mut(|sockets| {
                for (_, teller) in sockets.asking.extract_if(.., |(asked, _)| *asked == address) {
                    drop(teller.send(error.kind().into()));
                }
            });
        }
    }
}

fn not_begun(error: ConnectError) -> Error {
    match error {
        ConnectError::InvalidRemoteAddress(_) => {
            let reason = "the endpoint's address takes no connection";
            Error::upstream(Kind::DestinationUnavailable, Retry::Always, reason).because(error)
        }
        error => Error::internal("a QUIC connection could not be started").because(error),
    }
}

/// This thread's endpoint on a local address.
fn bound_to(source: IpAddr) -> io::Result<Endpoint> {
    SOCKETS.with_borrow_mut(|sockets| {
        let runtime = Handle::current().id();
        if sockets.runtime != Some(runtime) {
            *sockets = Sockets { runtime: Some(runtime), ..Sockets::default() };
        }
        if let Some((_, endpoint)) = sockets.bound.iter().find(|(bound, _)| *bound == source) {
            return Ok(endpoint.clone());
        }
        let socket = datagrams_from(source)?;
        tokio::task::spawn_local(listen(Undelivered::of(&socket)?));
        let socket = Arc::new(BatchSocket::new(socket)?);
        let config = EndpointConfig::default();
        let endpoint = Endpoint::new_with_abstract_socket(config, None, socket, Arc::new(TokioRuntime))?;
        sockets.bound.push((source, endpoint.clone()));
        Ok(endpoint)
    })
}

/// How a connection to an endpoint behaves.
pub(super) fn config(
    tls: &ClientTls,
    alpn: &[u8],
    options: &UpstreamQuic,
    idle: Duration,
) -> Result<ClientConfig, Error> {
    let mut config = tls.quic(alpn, options.early_data)?;
    // RFC 9000 §7.2: at random. Chosen here to name the file after it.
    let id = RandomConnectionIdGenerator::new(MAX_CID_SIZE).generate_cid();
    let qlog = options.transport.qlog.as_deref().and_then(|folder| qlog::open(folder, "client", id));
    // RFC 9114 §6.1: an HTTP/3 endpoint opens no bidirectional stream.
    let (bidirectional, unidirectional) =
        if alpn == H3 { (0, H3_STREAMS_FROM_ENDPOINT) } else { (STREAMS_FROM_ENDPOINT, STREAMS_FROM_ENDPOINT) };
    let bounds = Bounds { idle, bidirectional, unidirectional };
    let mut transport = params::transport(&options.transport, bounds, &Leaving::default(), qlog);
    if alpn == H3 {
        // No request of ours has any (RFC 9297).
        transport.datagram_receive_buffer_size(None);
    }
    if let Some(keep_alive) = options.transport.keep_alive {
        transport.keep_alive_interval(Some(keep_alive.min(idle / 3)));
    }
    config.initial_dst_cid_provider(Arc::new(move || id)).transport_config(Arc::new(transport));
    Ok(config)
}

#[cfg(test)]
mod tests;
