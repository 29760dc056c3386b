//! One real request through the running proxy, like a client's: connects, sends, reads the response to its end, and
//! verifies it.

use std::error::Error as _;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::base::error::Error;
use crate::config::model::{Listener, Mode, UpstreamProtocol, UpstreamQuic, UpstreamTls};
use crate::http3;
use crate::net::io::Socket;
use crate::net::socket::Sources;
use crate::transport::quic;
use crate::transport::tls::client::ClientTls;

use super::table::Row;

/// Through which of the demo's listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Requests in the clear.
    Cleartext,
    /// Requests over TLS, which must then be 1.3, or over QUIC.
    Tls,
    /// A connection that is relayed to the origin as it is.
    Relayed,
    /// A QUIC stream that becomes a connection to the origin.
    Stream,
}

impl Way {
    /// Every way there is.
    pub const ALL: [Way; 4] = [Way::Cleartext, Way::Tls, Way::Relayed, Way::Stream];

    /// Whether a listener is this way in.
    pub fn leads_through(self, listener: &Listener) -> bool {
        let own = match (&listener.mode, &listener.tls) {
            (Mode::Http, None) => Way::Cleartext,
            (Mode::Http, Some(_)) => Way::Tls,
            (Mode::Quic(_), _) => Way::Stream,
            _ => Way::Relayed,
        };
        own == self
    }
}

/// One request through the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Its name in the table.
    pub what: &'static str,
    /// The version that must be spoken, over TLS chosen by ALPN.
    pub version: Version,
    /// Where it comes in.
    pub way: Way,
}

impl Probe {
    /// One of every kind that this version has.
    pub const ALL: [Probe; 7] = [
        Probe { what: "HTTP/1.1", version: Version::HTTP_11, way: Way::Cleartext },
        Probe { what: "HTTP/2 (prior knowledge)", version: Version::HTTP_2, way: Way::Cleartext },
        Probe { what: "HTTP/1.1 over TLS", version: Version::HTTP_11, way: Way::Tls },
        Probe { what: "HTTP/2 over TLS", version: Version::HTTP_2, way: Way::Tls },
        Probe { what: "HTTP/3", version: Version::HTTP_3, way: Way::Tls },
        Probe { what: "TCP, relayed", version: Version::HTTP_11, way: Way::Relayed },
        Probe { what: "QUIC stream to TCP", version: Version::HTTP_11, way: Way::Stream },
    ];

    /// Sends one request to `address`; `ca` is the file of the authority to believe.
    pub async fn send(self, address: SocketAddr, ca: &Path) -> Row {
        let scheme = match self.way {
            Way::Cleartext => "http",
            Way::Tls => "https",
            Way::Relayed => "tcp",
            Way::Stream => "quic",
        };
        let began = Instant::now();
        let answer = match tokio::time::timeout(DEADLINE, self.exchange(address, ca)).await {
            Ok(Ok(answer)) => Ok(answer.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
        };
        Row { what: self.what, address: format!("{scheme}://{address}"), answer, took: began.elapsed() }
    }

    async fn exchange(self, address: SocketAddr, ca: &Path) -> Result<Answer, ProbeError> {
        let name = ServerName::IpAddress(address.ip().into());
        if self.version == Version::HTTP_3 {
            let tls = trusting(ca, UpstreamProtocol::Http3)?;
            return self.exchange_http3(address, &tls, &name).await;
        }
        if self.way == Way::Stream {
            let tls = trusting(ca, UpstreamProtocol::Quic)?;
            let connection = connect_quic(address, &tls, &name, ALPN).await?;
            let (send, receive) = connection.open_bi().await.map_err(|error| ProbeError::Stream(error.to_string()))?;
            let answer = self.ask(tokio::io::join(receive, send), address, None).await;
            quic::close(&connection, 0u64);
            // The connection's own task says so: without its turn the demo would show a connection until that is found idle.
            tokio::task::yield_now().await;
            return answer;
        }
        let stream = TcpStream::connect(address).await.map_err(ProbeError::Connect)?;
        stream.set_nodelay(true).map_err(ProbeError::Connect)?;
        if self.way != Way::Tls {
            return self.ask(stream, address, None).await;
        }
        let protocol = if self.version == Version::HTTP_2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 };
        let stream =
            trusting(ca, protocol)?.connect(Socket::Tcp(stream), &name).await.map_err(ProbeError::Handshake)?;
        let version = stream.get_ref().1.protocol_version();
        self.ask(stream, address, version).await
    }

    async fn exchange_http3(
        self,
        address: SocketAddr,
        tls: &ClientTls,
        name: &ServerName<'static>,
    ) -> Result<Answer, ProbeError> {
        let connection = connect_quic(address, tls, name, quic::client::H3).await?;
        let (sender, driver) = http3::client::start(connection, Rc::new(http3::Config::default()));
        let request = request(&format!("https://{address}{PATH}"))?;
        let exchange = async {
            let response = sender.send(request, |_| ()).await.map_err(|refused| ProbeError::Http3(refused.error))?;
            // RFC 9001 §4.2: QUIC has no older TLS.
            self.judge(response, Some(rustls::ProtocolVersion::TLSv1_3)).await
        };
        tokio::select! {
            answer = exchange => answer,
            closed = driver => Err(ProbeError::Stream(format!("{closed:?}"))),
        }
    }

    async fn ask<T>(
        self,
        io: T,
        address: SocketAddr,
        tls: Option<rustls::ProtocolVersion>,
    ) -> Result<Answer, ProbeError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(io);
        let response = if self.version == Version::HTTP_2 {
            let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            let scheme = if self.way == Way::Tls { "https" } else { "http" };
            sender.send_request(request(&format!("{scheme}://{address}{PATH}"))?).await?
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
            tokio::spawn(connection);
            let mut request = request(PATH)?;
            request.headers_mut().insert(HOST, address.to_string().parse().map_err(http::Error::from)?);
            sender.send_request(request).await?
        };
        self.judge(response, tls).await
    }

    /// A row is good only if the whole answer came, in the version that was asked for, from the origin itself.
    async fn judge<B>(self, response: Response<B>, tls: Option<rustls::ProtocolVersion>) -> Result<Answer, ProbeError>
    where
        B: Body,
        ProbeError: From<B::Error>,
    {
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        if head.status != StatusCode::OK {
            let text = String::from_utf8_lossy(&body);
            return Err(ProbeError::Status(head.status, text.lines().next().unwrap_or_default().to_owned()));
        }
        if head.version != self.version {
            return Err(ProbeError::Version(head.version));
        }
        if self.way == Way::Tls && tls != Some(rustls::ProtocolVersion::TLSv1_3) {
            return Err(ProbeError::TlsVersion(tls));
        }
        // The route marks what it answers; what was relayed as it is has no mark.
        if matches!(self.way, Way::Relayed | Way::Stream) && head.headers.contains_key("x-served-by") {
            return Err(ProbeError::Changed);
        }
        let is_echo = body.windows(PATH.len()).any(|window| window == PATH.as_bytes());
        if !is_echo {
            return Err(ProbeError::Stranger);
        }
        Ok(Answer { status: head.status, version: head.version, way: self.way, bytes: body.len() })
    }
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    version: Version,
    way: Way,
    bytes: usize,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let version = match self.version {
            Version::HTTP_3 => "HTTP/3",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        };
        let way = match self.way {
            Way::Cleartext => "",
            Way::Tls => "  TLS 1.3",
            Way::Relayed | Way::Stream => "  as sent",
        };
        write!(f, "{}  {version:8}  {} bytes{way}", self.status.as_u16(), self.bytes)
    }
}

/// Why a row is bad.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("cannot read the demo's CA certificate: {0}")]
    Authority(String),
    #[error("TLS handshake: {0}")]
    Handshake(Error),
    #[error("QUIC: {0}")]
    Quic(Error),
    #[error("QUIC: {0}")]
    Stream(String),
    #[error("HTTP/3: {0}")]
    Http3(#[from] http3::Error),
    #[error("HTTP: {}", with_cause(.0))]
    Http(#[from] hyper::Error),
    #[error("cannot build the request: {0}")]
    Request(#[from] http::Error),
    #[error("{0}: {1}")]
    Status(StatusCode, String),
    #[error("answered in {0:?}")]
    Version(Version),
    #[error("agreed on {0:?} instead of TLS 1.3")]
    TlsVersion(Option<rustls::ProtocolVersion>),
    #[error("the response was modified on its way")]
    Changed,
    #[error("the response is not from the demo's origin")]
    Stranger,
}

/// hyper's errors say one level only, and the level below is the one that helps.
fn with_cause(error: &hyper::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// The client's side of TLS for a protocol; believes only what `ca` signed.
fn trusting(ca: &Path, protocol: UpstreamProtocol) -> Result<Arc<ClientTls>, ProbeError> {
    let trust = UpstreamTls { ca: Some(ca.to_owned()), ..UpstreamTls::default() };
    ClientTls::new(Some(&trust), protocol).map_err(|fault| ProbeError::Authority(fault.to_string()))
}

async fn connect_quic(
    address: SocketAddr,
    tls: &ClientTls,
    name: &ServerName<'static>,
    alpn: &[u8],
) -> Result<quic::Connection, ProbeError> {
    let options = UpstreamQuic::default();
    let sources = Sources::default();
    let way = quic::client::Way { address, tls, name, alpn, options: &options, sources: &sources, on_trial: false };
    way.connect().await.map_err(ProbeError::Quic)
}

fn request(target: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
    Request::get(target).header("user-agent", concat!("tidegate-demo/", env!("CARGO_PKG_VERSION"))).body(Empty::new())
}

/// The protocol by which the demo's listener for streams knows where they lead.
const ALPN: &[u8] = b"demo";

/// A path that the origin echoes.
const PATH: &str = "/hello/from/the/demo";

const DEADLINE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::super::origin::Origin;
    use super::*;

    #[tokio::test]
    async fn the_origin_answers_in_both_versions() {
        let origin = Origin::start().unwrap();
        for probe in Probe::ALL.into_iter().filter(|probe| matches!(probe.way, Way::Cleartext | Way::Relayed)) {
            let row = probe.send(origin.address, Path::new("")).await;
            assert!(row.answer.is_ok(), "{row:?}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_bad_row() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let row = Probe::ALL[0].send(free, Path::new("")).await;
        assert!(row.answer.unwrap_err().starts_with("cannot connect"));
    }
}
