//! Origins: what stands behind the proxy. One that speaks HTTP properly and answers as a test's function says, and one
//! that does with raw bytes whatever a test wants.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::header::EXPECT;
use http::{HeaderMap, Request, Response, Uri};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tidegate::body::incoming::Incoming;
use tidegate::http3;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use super::body::{Sent, receive};
use super::certificates;
use super::pair::Upstream;
use super::raw::Raw;

/// The head of a request as an origin got it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub uri: Uri,
    pub headers: HeaderMap,
    /// The PROXY header that its connection began with, where the origin reads one.
    pub told: Vec<u8>,
}

/// An origin that speaks HTTP.
pub struct Origin {
    address: SocketAddr,
    seen: Rc<RefCell<Vec<Seen>>>,
    connections: Rc<Cell<usize>>,
}

impl Origin {
    /// Answers every request as `behaviour` says.
    pub async fn start<F>(speaks: Upstream, behaviour: F) -> Self
    where
        F: AsyncFn(Request<Incoming>) -> Response<Sent> + 'static,
    {
        Self::start_told(false, speaks, behaviour).await
    }

    /// The same; `told`: every connection begins with a PROXY header.
    pub async fn start_told<F>(told: bool, speaks: Upstream, behaviour: F) -> Self
    where
        F: AsyncFn(Request<Incoming>) -> Response<Sent> + 'static,
    {
        if speaks == Upstream::Http3 {
            return Self::start_http3(behaviour);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let origin = Self { address, seen: Rc::default(), connections: Rc::default() };
        let service = Rc::new(Service { behaviour, seen: Rc::clone(&origin.seen) });
        let connections = Rc::clone(&origin.connections);
        spawn_local(async move {
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                connections.set(connections.get() + 1);
                spawn_local(serve(told, speaks, socket, Rc::clone(&service)));
            }
        });
        origin
    }

    fn start_http3<F>(behaviour: F) -> Self
    where
        F: AsyncFn(Request<Incoming>) -> Response<Sent> + 'static,
    {
        let endpoint = certificates::quic_origin("127.0.0.1:0".parse().unwrap());
        let address = endpoint.local_addr().unwrap();
        let origin = Self { address, seen: Rc::default(), connections: Rc::default() };
        let service = Rc::new(Service { behaviour, seen: Rc::clone(&origin.seen) });
        let connections = Rc::clone(&origin.connections);
        spawn_local(async move {
            while let Some(incoming) = endpoint.accept().await {
                connections.set(connections.get() + 1);
                let service = OverHttp3(Rc::clone(&service));
                spawn_local(async move {
                    if let Ok(connection) = incoming.await {
                        http3::serve(connection, Rc::default(), http3::Control::new(), service).await;
                    }
                });
            }
        });
        origin
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it accepted.
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    /// How many requests there were.
    pub fn count(&self) -> usize {
        self.seen.borrow().len()
    }

    /// The one request there was.
    pub fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }
}

struct Service<F> {
    behaviour: F,
    seen: Rc<RefCell<Vec<Seen>>>,
}

impl<F> Service<F>
where
    F: AsyncFn(Request<Incoming>) -> Response<Sent> + 'static,
{
    async fn answer(self: Rc<Self>, told: Vec<u8>, request: Request<Incoming>) -> Response<Sent> {
        let seen = Seen { uri: request.uri().clone(), headers: request.headers().clone(), told };
        self.seen.borrow_mut().push(seen);
        (self.behaviour)(request).await
    }
}

struct OverHttp3<F>(Rc<Service<F>>);

impl<F> http3::Service for OverHttp3<F>
where
    F: AsyncFn(Request<Incoming>) -> Response<Sent> + 'static,
{
    type Body = Sent;

    fn call(
        &self,
        request: Request<http3::RecvBody>,
        informational: http3::Informational,
    ) -> (impl Future<Output = Response<Sent>> + 'static, impl http3::Watch + 'static) {
        if request.headers().contains_key(EXPECT) {
            // As hyper does by itself when the body is read.
            informational.send(Response::builder().status(100).body(()).unwrap());
        }
        (Rc::clone(&self.0).answer(Vec::new(), request.map(Incoming::Http3)), ())
    }

    fn refuse(&self, refusal: http3::Refusal) -> Response<Bytes> {
        panic!("the proxy's request was refused: {refusal:?}");
    }
}

async fn serve<F>(told: bool, speaks: Upstream, mut socket: TcpStream, service: Rc<Service<F>>)
where
    F: AsyncFn(Request<Incoming>) -> Response<Sent> + 'static,
{
    let told = if told { proxy_header(&mut socket).await.unwrap() } else { Vec::new() };
    match speaks {
        Upstream::Http1 => http(false, told, socket, service).await,
        Upstream::Http2 => http(true, told, socket, service).await,
        Upstream::Http2Tls => {
            let acceptor = TlsAcceptor::from(certificates::origin_config(&[b"h2"]));
            if let Ok(stream) = acceptor.accept(socket).await {
                http(true, told, stream, service).await;
            }
        }
        Upstream::Http3 => unreachable!("it is not spoken over TCP"),
    }
}

/// Reads a PROXY header of either version, by its form alone.
pub async fn proxy_header(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut header = vec![stream.read_u8().await?];
    if header[0] == b'P' {
        while header.last() != Some(&b'\n') {
            header.push(stream.read_u8().await?);
        }
        return Ok(header);
    }
    header.resize(16, 0);
    stream.read_exact(&mut header[1..]).await?;
    let length = u16::from_be_bytes([header[14], header[15]]);
    header.resize(16 + usize::from(length), 0);
    stream.read_exact(&mut header[16..]).await?;
    Ok(header)
}

async fn http<F>(http2: bool, told: Vec<u8>, io: impl AsyncRead + AsyncWrite + Unpin + 'static, service: Rc<Service<F>>)
where
    F: AsyncFn(Request<Incoming>) -> Response<Sent> + 'static,
{
    let io = TokioIo::new(io);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answering = Rc::clone(&service).answer(told.clone(), request.map(Incoming::Hyper));
        async move { Ok::<_, Infallible>(answering.await) }
    });
    // How a connection ends is what the tests look at from the other side.
    let _ended = if http2 {
        http2::Builder::new(LocalTasks).serve_connection(io, service).await
    } else {
        http1::Builder::new().serve_connection(io, service).await
    };
}

/// Runs HTTP/2 streams on the test's thread.
#[derive(Clone, Copy)]
pub struct LocalTasks;

impl<F: Future + 'static> Executor<F> for LocalTasks {
    fn execute(&self, future: F) {
        spawn_local(async move { drop(future.await) });
    }
}

/// Tells a request back as text: a line for the method and the target, one for each field, an empty one, the body.
pub async fn echo(request: Request<Incoming>) -> Response<Sent> {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    let mut text = format!("{} {target}\n", head.method);
    if let Some(authority) = head.uri.authority() {
        text += &format!(":authority: {authority}\n");
    }
    for (name, value) in &head.headers {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    text += "\n";
    let received = receive(body).await;
    text += &String::from_utf8_lossy(&received.bytes);
    Response::new(text.into())
}

/// Answers `ok` and reads nothing of a body.
pub async fn ok(_: Request<Incoming>) -> Response<Sent> {
    Response::new("ok".into())
}

/// An origin of raw bytes.
pub struct RawOrigin {
    address: SocketAddr,
    connections: Rc<Cell<usize>>,
}

impl RawOrigin {
    /// Does with each connection what `behaviour` says; it gets the number of the connection, from 0.
    pub async fn start<F>(behaviour: F) -> Self
    where
        F: AsyncFn(Raw, usize) + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let behaviour = Rc::new(behaviour);
        let connections = Rc::new(Cell::new(0));
        let counted = Rc::clone(&connections);
        spawn_local(async move {
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                let number = counted.replace(counted.get() + 1);
                let behaviour = Rc::clone(&behaviour);
                spawn_local(async move { behaviour(Raw::over(socket), number).await });
            }
        });
        Self { address, connections }
    }

    /// Answers every request with these bytes.
    pub async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(async move |mut connection: Raw, _| {
            while connection.request().await.is_some() {
                connection.send(&answer).await;
            }
        })
        .await
    }

    /// Answers the first request on each connection with these bytes and closes.
    pub async fn answering_once(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(async move |mut connection: Raw, _| {
            if connection.request().await.is_some() {
                connection.send(&answer).await;
            }
        })
        .await
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it accepted.
    pub fn connections(&self) -> usize {
        self.connections.get()
    }
}

/// An address that refuses connections for as long as this lives: bound, never listening.
pub struct Closed(SocketAddr, #[allow(dead_code, reason = "held so that nobody else gets the port")] TcpSocket);

impl Closed {
    pub fn bind() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self(socket.local_addr().unwrap(), socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0
    }
}
