//! Clients: what stands in front of the proxy. Requests are written the same for every protocol; the client puts the
//! authority where its protocol has it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::HOST;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, response};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tidegate::body::incoming::{Error, Incoming};
use tidegate::http3;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};
use tokio_rustls::TlsConnector;

use super::body::{Sent, receive};
use super::certificates::{self, SITE};
use super::origin::LocalTasks;
use super::pair::Downstream;
use super::quic::Quic;

/// A client with one connection.
pub struct Client {
    sender: Sender,
    driver: JoinHandle<Ended>,
    scheme: Scheme,
}

enum Sender {
    Http1(http1::SendRequest<Sent>),
    Http2(http2::SendRequest<Sent>),
    Http3(http3::Sender, Quic),
}

/// How a connection ended; an error is no clean end.
type Ended = Result<(), String>;

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub head: response::Parts,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Client {
    /// Connects, over TLS as [`SITE`].
    pub async fn connect(address: SocketAddr, speaks: Downstream) -> Self {
        if speaks == Downstream::H3 {
            return Self::over_quic(Quic::connect(address, SITE).await);
        }
        Self::connect_saying(b"", address, speaks).await
    }

    /// The same, with `preface` in one segment before the first bytes.
    pub async fn connect_saying(preface: &[u8], address: SocketAddr, speaks: Downstream) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let socket = Saying { socket, preface: preface.to_vec() };
        match speaks {
            Downstream::H1 => Self::over(socket, false, Scheme::HTTP).await,
            Downstream::H2 => Self::over(socket, true, Scheme::HTTP).await,
            Downstream::H3 => panic!("HTTP/3 is not spoken over TCP"),
            Downstream::H1Tls | Downstream::H2Tls => {
                let http2 = speaks == Downstream::H2Tls;
                let alpn: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
                let connector = TlsConnector::from(certificates::client_config(&[alpn], false));
                let stream = connector.connect(SITE.try_into().unwrap(), socket).await.unwrap();
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
                Self::over(stream, http2, Scheme::HTTPS).await
            }
        }
    }

    pub async fn over(io: impl AsyncRead + AsyncWrite + Unpin + 'static, http2: bool, scheme: Scheme) -> Self {
        let io = TokioIo::new(io);
        let (sender, driver) = if http2 {
            let (sender, connection) = http2::Builder::new(LocalTasks).handshake(io).await.unwrap();
            (Sender::Http2(sender), spawn_local(ended(connection)))
        } else {
            let (sender, connection) = http1::Builder::new().handshake(io).await.unwrap();
            (Sender::Http1(sender), spawn_local(ended(connection)))
        };
        Self { sender, driver, scheme }
    }

    /// Speaks HTTP/3 on a connection.
    pub fn over_quic(quic: Quic) -> Self {
        let (sender, driver) = http3::client::start(quic.connection.clone(), Rc::default());
        let driver = spawn_local(async move {
            let closed = driver.await;
            if closed.code == http3::Code::NO_ERROR { Ok(()) } else { Err(format!("{closed:?}")) }
        });
        Self { sender: Sender::Http3(sender, quic), driver, scheme: Scheme::HTTPS }
    }

    /// Asks for URLs of this scheme, whatever its own connection is: it is pointed at a proxy.
    pub fn asking_for(mut self, scheme: Scheme) -> Self {
        self.scheme = scheme;
        self
    }

    /// Whether it speaks HTTP/3.
    pub fn is_http3(&self) -> bool {
        matches!(self.sender, Sender::Http3(..))
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send(&mut self, request: Request<Sent>) -> Result<Response<Incoming>, Error> {
        let (mut head, body) = request.into_parts();
        let host = head.headers.remove(HOST).unwrap_or(HeaderValue::from_static(SITE));
        match &mut self.sender {
            Sender::Http1(sender) => {
                head.headers.insert(HOST, host);
                sender.ready().await?;
                Ok(sender.send_request(Request::from_parts(head, body)).await?.map(Incoming::Hyper))
            }
            Sender::Http2(sender) => {
                if head.method != Method::CONNECT {
                    head.uri = with_authority(&head.uri, &self.scheme, &host);
                }
                sender.ready().await?;
                Ok(sender.send_request(Request::from_parts(head, body)).await?.map(Incoming::Hyper))
            }
            Sender::Http3(sender, quic) => {
                if head.method != Method::CONNECT {
                    head.uri = with_authority(&head.uri, &self.scheme, &host);
                }
                let interim = Rc::clone(&quic.interim);
                let hear = move |answer| interim.borrow_mut().push(answer);
                match sender.send(Request::from_parts(head, body), hear).await {
                    Ok(response) => Ok(response.map(Incoming::Http3)),
                    Err(failed) => Err(failed.error.into()),
                }
            }
        }
    }

    /// A client of the same connection; HTTP/2 only.
    pub fn another(&self) -> http2::SendRequest<Sent> {
        match &self.sender {
            Sender::Http2(sender) => sender.clone(),
            _ => panic!("not HTTP/2"),
        }
    }

    /// The connection of QUIC; HTTP/3 only.
    pub fn quic(&self) -> &Quic {
        match &self.sender {
            Sender::Http3(_, quic) => quic,
            _ => panic!("not HTTP/3"),
        }
    }

    /// Sends a request and takes its whole answer, which must be well-formed.
    pub async fn call(&mut self, request: Request<Sent>) -> Reply {
        let response = self.send(request).await.unwrap();
        Reply::take(response).await
    }

    pub async fn get(&mut self, target: &str) -> Reply {
        self.call(get(target)).await
    }

    /// Waits until the connection has ended.
    pub async fn ended(self) -> Ended {
        self.driver.await.unwrap()
    }

    pub fn has_ended(&self) -> bool {
        self.driver.is_finished()
    }

    /// Breaks the connection off: whatever is under way on it is not finished.
    pub fn vanish(self) {
        if let Sender::Http3(_, quic) = &self.sender {
            quic.connection.close(0u32.into(), b"");
        }
        self.driver.abort();
    }
}

async fn ended(connection: impl Future<Output = hyper::Result<()>>) -> Ended {
    connection.await.map_err(|error| error.to_string())
}

/// A target with its scheme and authority, where HTTP/2 and HTTP/3 want them.
fn with_authority(target: &Uri, scheme: &Scheme, host: &HeaderValue) -> Uri {
    let target = target.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    Uri::builder().scheme(scheme.clone()).authority(host.as_bytes()).path_and_query(target).build().unwrap()
}

/// A socket that says something before what is written to it.
struct Saying {
    socket: TcpStream,
    preface: Vec<u8>,
}

impl AsyncRead for Saying {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Saying {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let length = self.preface.len();
        if length == 0 {
            return Pin::new(&mut self.socket).poll_write(cx, bytes);
        }
        let all = [&self.preface, bytes].concat();
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &all))?;
        assert_eq!(written, all.len(), "a new socket has room");
        self.preface.clear();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Reply {
    pub async fn take(response: Response<impl Into<Incoming>>) -> Self {
        let (head, body) = response.into_parts();
        let received = receive(body).await;
        assert!(received.broken.is_none(), "{head:?}: {:?}", received.broken);
        Self { head, body: received.bytes, trailers: received.trailers }
    }

    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The value of a field that occurs once.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.head.headers.get_all(name).iter();
        let value = values.next().map(|value| value.to_str().unwrap());
        assert_eq!(values.next(), None, "{name} occurs more than once");
        value
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Sees that the proxy itself answered, with this status and this kind of error.
    pub fn is_fault(&self, status: u16, error: &str) {
        let told = self.field("proxy-status").unwrap_or("no proxy-status");
        assert_eq!(self.status(), status, "{told}: {}", self.text());
        assert!(told.starts_with(&format!("tidegate; error={error};")), "{told}");
        assert!(self.field("x-request-id").is_some());
    }
}

pub fn get(target: &str) -> Request<Sent> {
    of(Method::GET, target, Sent::empty())
}

pub fn post(target: &str, body: impl Into<Sent>) -> Request<Sent> {
    of(Method::POST, target, body.into())
}

pub fn of(method: Method, target: &str, body: impl Into<Sent>) -> Request<Sent> {
    Request::builder().method(method).uri(target).body(body.into()).unwrap()
}

/// A request with one field more.
pub fn with(mut request: Request<Sent>, name: &'static str, value: &'static str) -> Request<Sent> {
    request.headers_mut().append(name, HeaderValue::from_static(value));
    request
}
