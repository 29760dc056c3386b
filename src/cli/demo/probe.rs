//! One real request through the running proxy, as a client would send it: connect, handshake, ask, read to the end,
//! and look whether the answer is what it should be.

use std::error::Error as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::base::error::Error;
use crate::config::model::{Listener, Mode, UpstreamProtocol, UpstreamTls};
use crate::net::io::Socket;
use crate::transport::tls::client::ClientTls;

use super::table::Row;

/// Through which of the demo's listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Requests in the clear.
    Cleartext,
    /// Requests over TLS, which must then be 1.3.
    Tls,
    /// A connection that is relayed to the origin as it is.
    Relayed,
}

impl Way {
    /// Every way there is.
    pub const ALL: [Way; 3] = [Way::Cleartext, Way::Tls, Way::Relayed];

    /// Whether a listener is this way in.
    pub fn leads_through(self, listener: &Listener) -> bool {
        let own = match (&listener.mode, &listener.tls) {
            (Mode::Http, None) => Way::Cleartext,
            (Mode::Http, Some(_)) => Way::Tls,
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
    pub const ALL: [Probe; 5] = [
        Probe { what: "HTTP/1.1", version: Version::HTTP_11, way: Way::Cleartext },
        Probe { what: "HTTP/2 (prior knowledge)", version: Version::HTTP_2, way: Way::Cleartext },
        Probe { what: "HTTP/1.1 over TLS", version: Version::HTTP_11, way: Way::Tls },
        Probe { what: "HTTP/2 over TLS", version: Version::HTTP_2, way: Way::Tls },
        Probe { what: "TCP, relayed", version: Version::HTTP_11, way: Way::Relayed },
    ];

    /// Sends one request to `address`; `ca` is the file of the authority to believe.
    pub async fn send(self, address: SocketAddr, ca: &Path) -> Row {
        let scheme = match self.way {
            Way::Cleartext => "http",
            Way::Tls => "https",
            Way::Relayed => "tcp",
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
        let stream = TcpStream::connect(address).await.map_err(ProbeError::Connect)?;
        stream.set_nodelay(true).map_err(ProbeError::Connect)?;
        if self.way != Way::Tls {
            return self.ask(stream, address, None).await;
        }
        let protocol = if self.version == Version::HTTP_2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 };
        let trust = UpstreamTls { ca: Some(ca.to_owned()), ..UpstreamTls::default() };
        let tls = ClientTls::new(Some(&trust), protocol).map_err(|fault| ProbeError::Authority(fault.to_string()))?;
        let name = ServerName::IpAddress(address.ip().into());
        let stream = tls.connect(Socket::Tcp(stream), &name).await.map_err(ProbeError::Handshake)?;
        let version = stream.get_ref().1.protocol_version();
        self.ask(stream, address, version).await
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
    async fn judge(
        self,
        response: Response<Incoming>,
        tls: Option<rustls::ProtocolVersion>,
    ) -> Result<Answer, ProbeError> {
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
        if self.way == Way::Relayed && head.headers.contains_key("x-served-by") {
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
        let version = if self.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" };
        let way = match self.way {
            Way::Cleartext => "",
            Way::Tls => "  TLS 1.3",
            Way::Relayed => "  as sent",
        };
        write!(f, "{}  {version:8}  {} bytes{way}", self.status.as_u16(), self.bytes)
    }
}

/// Why a row is bad.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("cannot read the demo's authority: {0}")]
    Authority(String),
    #[error("TLS handshake: {0}")]
    Handshake(Error),
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
    #[error("the answer was changed on its way")]
    Changed,
    #[error("something else answered, not the demo's origin")]
    Stranger,
}

/// hyper's errors say one level only, and the level below is the one that helps.
fn with_cause(error: &hyper::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

fn request(target: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
    Request::get(target).header("user-agent", concat!("tidegate-demo/", env!("CARGO_PKG_VERSION"))).body(Empty::new())
}

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
        for probe in Probe::ALL.into_iter().filter(|probe| probe.way != Way::Tls) {
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
