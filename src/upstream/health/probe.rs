//! One active check of one endpoint: a connection, or a GET over the upstream's own transport. The caller enforces the
//! deadline.

use std::error::Error as _;
use std::fmt;
use std::future::Future;

use http::header::{CONNECTION, HOST, USER_AGENT};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, StatusCode, Uri};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::base::error::{Error, Kind};
use crate::body::Body;
use crate::body::phase_clock::PhaseClock;
use crate::config::model::{self, SendProxyProtocol, SocketOptions, UpstreamProtocol};
use crate::http3::{Code, client};
use crate::net::proxy_protocol::{self, Transport};
use crate::net::socket::Sources;
use crate::transport::quic::{self, Connection};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::failure::{self, Progress};
use crate::upstream::http2::LocalTasks;
use crate::upstream::{Upstream, connector, http3};

/// Why an endpoint is not well.
#[derive(Debug)]
pub enum Unwell {
    /// It answered, but not with 200 to 399.
    Status(StatusCode),
    /// It could not be asked, or gave no answer.
    Failed(Error),
}

impl fmt::Display for Unwell {
    /// For people: with the cause where the kind of error does not say it all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "answered {}", status.as_u16()),
            Self::Failed(error) => {
                f.write_str(error.reason())?;
                let tells = matches!(
                    error.kind(),
                    Kind::TlsCertificateError
                        | Kind::TlsProtocolError
                        | Kind::TlsAlertReceived
                        | Kind::HttpProtocolError
                );
                match error.source().filter(|_| tells) {
                    Some(cause) => write!(f, ": {cause}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Asks an endpoint once. Cancel-safe: dropped, it closes what it opened.
///
/// # Errors
/// Why it is not well.
pub async fn probe(upstream: &Upstream, endpoint: &Endpoint, health: &model::Health) -> Result<(), Unwell> {
    let sources = Sources::new(&upstream.config.source, fastrand::usize(..1 << 16));
    // A connection that waits for its first data, as with TCP_FASTOPEN_CONNECT, would say nothing of the endpoint.
    let options = SocketOptions { fast_open: false, ..upstream.config.socket.clone() };
    if matches!(upstream.config.protocol, UpstreamProtocol::Http3 | UpstreamProtocol::Quic) {
        return over_quic(upstream, endpoint, health, &sources).await;
    }
    let header = header(upstream.config.send_proxy_protocol);
    let socket = connector::socket(endpoint, &options, &sources, header.as_deref()).await.map_err(Unwell::Failed)?;
    let Some(path) = &health.path else { return Ok(()) };
    let clock = PhaseClock::new(Instant::now());
    let (channel, http2) =
        connector::channel(upstream, endpoint, socket, &clock, false).await.map_err(Unwell::Failed)?;
    let asked = match http2 {
        false => {
            let (mut sender, connection) = http1::handshake(TokioIo::new(channel)).await.map_err(no_answer)?;
            driven(connection, sender.send_request(request(upstream, endpoint, health, path, false)?)).await
        }
        true => {
            let (mut sender, connection) =
                http2::handshake(LocalTasks, TokioIo::new(channel)).await.map_err(no_answer)?;
            driven(connection, sender.send_request(request(upstream, endpoint, health, path, true)?)).await
        }
    };
    judge(asked.map_err(no_answer)?.status())
}

/// Without a path a handshake is well enough: it takes more of an endpoint than a TCP connection does.
async fn over_quic(
    upstream: &Upstream,
    endpoint: &Endpoint,
    health: &model::Health,
    sources: &Sources,
) -> Result<(), Unwell> {
    let way = connector::way(upstream, endpoint, sources).map_err(Unwell::Failed)?;
    let visit = Visit(way.connect().await.map_err(Unwell::Failed)?);
    let Some(path) = &health.path else { return Ok(()) };
    let (sender, connection) = client::start(visit.0.clone(), http3::config());
    let asked = driven(connection, sender.send(request(upstream, endpoint, health, path, true)?, drop)).await;
    let progress = Progress { reused: false, received: false };
    match asked {
        Ok(answer) => judge(answer.status()),
        Err(failed) => {
            let refusal = quic::refusal(&visit.0);
            Err(Unwell::Failed(refusal.unwrap_or_else(|| failure::http3(failed.error, progress))))
        }
    }
}

/// A connection that is closed as soon as nobody looks at it: the endpoint need not wait for its silence to end.
struct Visit(Connection);

impl Drop for Visit {
    fn drop(&mut self) {
        quic::close(&self.0, Code::NO_ERROR.value());
    }
}

/// The head says it; nobody waits for the body.
fn judge(status: StatusCode) -> Result<(), Unwell> {
    if (200..400).contains(&status.as_u16()) { Ok(()) } else { Err(Unwell::Status(status)) }
}

/// What `send_proxy_protocol` puts before everything else: that nobody is spoken for.
fn header(version: SendProxyProtocol) -> Option<Vec<u8>> {
    let mut header = Vec::new();
    match version {
        SendProxyProtocol::Off => return None,
        version => proxy_protocol::write(&mut header, version, Transport::Stream, None, None, &[]),
    }
    Some(header)
}

fn request(
    upstream: &Upstream,
    endpoint: &Endpoint,
    health: &model::Health,
    path: &PathAndQuery,
    http2: bool,
) -> Result<Request<Body>, Unwell> {
    let host = match &health.host {
        Some(host) => HeaderValue::from_str(host).unwrap_or_else(|_| endpoint.authority.clone()),
        None => endpoint.authority.clone(),
    };
    let mut request = Request::new(Body::Empty);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(OURSELVES));
    if http2 {
        let scheme = if upstream.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(path.clone()).build();
        *request.uri_mut() = uri.map_err(|error| {
            Unwell::Failed(Error::internal("the host of the check does not fit a request").because(error))
        })?;
    } else {
        *request.uri_mut() = Uri::from(path.clone());
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(request)
}

/// An exchange, with the connection that has to move for it.
async fn driven<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    tokio::pin!(connection, exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // What it still has to say, the exchange has been told.
        _ = &mut connection => exchange.await,
    }
}

fn no_answer(error: hyper::Error) -> Unwell {
    let (kind, reason) = match error.is_parse() {
        true => (Kind::HttpProtocolError, "the answer is not valid HTTP"),
        false => (Kind::ConnectionTerminated, "the endpoint closed the connection before it answered"),
    };
    Unwell::Failed(Error::upstream(kind, crate::base::error::Retry::Always, reason).because(error))
}

/// Who asks, for the endpoint's own log.
const OURSELVES: &str = concat!("tidegate/", env!("CARGO_PKG_VERSION"), " (health check)");

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixListener;

    use super::*;
    use crate::base::id::UpstreamId;
    use crate::config::model::EndpointAddress;
    use crate::upstream::fixtures::{Origin, on_worker, upstream_config};
    use crate::upstream::registry::Registry;

    fn health(path: Option<&str>) -> model::Health {
        model::Health {
            path: path.map(|path| path.parse().unwrap()),
            host: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            healthy_after: 1,
            unhealthy_after: 1,
        }
    }

    /// What a check says of the one endpoint of an upstream.
    async fn said(config: model::Upstream, health: &model::Health) -> Result<(), String> {
        let upstream = Registry::new().upstream(UpstreamId(0), Arc::new(config), None);
        let endpoint = Arc::clone(&upstream.endpoints.load().all()[0]);
        probe(&upstream, &endpoint, health).await.map_err(|unwell| unwell.to_string())
    }

    /// What a check says of an origin that answers so, and the request that it got.
    async fn of_answer(answer: &'static str) -> (Result<(), String>, String) {
        let origin = Origin::bind().await;
        let config = upstream_config("app", &[origin.address()]);
        let asked = tokio::task::spawn_local(async move {
            let mut connection = origin.accept().await;
            let head = connection.request().await;
            connection.say(answer).await;
            head
        });
        let said = said(config, &health(Some("/up"))).await;
        (said, asked.await.unwrap())
    }

    #[test]
    fn the_status_decides() {
        on_worker(async {
            for (answer, wanted) in [
                ("HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n", Ok(())),
                ("HTTP/1.1 204 No Content\r\n\r\n", Ok(())),
                ("HTTP/1.1 399 Odd\r\n\r\n", Ok(())),
                ("HTTP/1.1 404 Not Found\r\n\r\n", Err("answered 404")),
                ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Err("answered 503")),
                ("", Err("the endpoint closed the connection before it answered")),
            ] {
                assert_eq!(of_answer(answer).await.0, wanted.map_err(str::to_owned), "{answer:?}");
            }
            let (said, asked) = of_answer("what?\r\n\r\n").await;
            assert!(said.unwrap_err().starts_with("the answer is not valid HTTP: "));
            assert!(asked.starts_with("GET /up HTTP/1.1\r\n") && asked.contains("\r\nhost: 127.0.0.1:"), "{asked}");
            assert!(asked.contains("\r\nconnection: close\r\n"), "{asked}");
        });
    }

    #[test]
    fn nobody_there_is_told_as_such() {
        on_worker(async {
            let origin = Origin::bind().await;
            let config = upstream_config("app", &[origin.address()]);
            assert_eq!(said(config.clone(), &health(None)).await, Ok(()), "a connection is enough");
            drop(origin);
            let refused = Err("the endpoint refused the connection".to_owned());
            assert_eq!(said(config, &health(None)).await, refused);
        });
    }

    #[test]
    fn a_unix_socket_is_asked_as_well() {
        on_worker(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("app.sock");
            let mut config = upstream_config("app", &["127.0.0.1:1".parse().unwrap()]);
            config.endpoints[0].address = EndpointAddress::Unix(path.clone());
            let missing = Err("the endpoint's socket file does not exist".to_owned());
            assert_eq!(said(config.clone(), &health(None)).await, missing);
            let origin = UnixListener::bind(Path::new(&path)).unwrap();
            let asked = tokio::task::spawn_local(async move {
                let (mut stream, _) = origin.accept().await.unwrap();
                let mut head = vec![0; 64];
                let read = stream.read(&mut head).await.unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                head.truncate(read);
                String::from_utf8(head).unwrap()
            });
            assert_eq!(said(config, &health(Some("/up"))).await, Ok(()));
            assert!(asked.await.unwrap().starts_with("GET /up HTTP/1.1\r\n"));
        });
    }
}
