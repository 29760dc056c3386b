//! Both ends of a tunnel: a client that asks for another protocol, and an origin that speaks it, over each HTTP. HTTP/2 is
//! spoken with `h2` itself: hyper takes a stream that was reset for one that ended.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tidegate::body::incoming::Incoming;
use tidegate::http3;
use tidegate::proxy::websocket::accept_of;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{spawn_local, yield_now};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::body::{Feed, Sent, receive};
use super::certificates::{self, SITE};
use super::pair::{Downstream, Upstream};
use super::quic::{self, Quic};
use super::raw::{End, Raw};

/// The key of the RFC's example, and the answer to it (RFC 6455 §1.3).
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// What clients ask for.
pub const TARGET: &str = "/chat?room=1";

/// One end of a tunnel.
pub enum Tunnel {
    Raw(Raw),
    Http2 { send: SendStream<Bytes>, recv: RecvStream, ahead: Vec<u8> },
    Http3 { feed: Option<Feed>, recv: Incoming, ahead: Vec<u8>, _client: Option<(http3::Sender, Quic)> },
}

impl Tunnel {
    fn http2(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self::Http2 { send, recv, ahead: Vec::new() }
    }

    fn http3(feed: Feed, recv: Incoming, client: Option<(http3::Sender, Quic)>) -> Self {
        Self::Http3 { feed: Some(feed), recv, ahead: Vec::new(), _client: client }
    }

    /// Sends; that nobody takes it any more is found out by reading.
    pub async fn send(&mut self, bytes: impl Into<Bytes>) {
        let mut bytes: Bytes = bytes.into();
        match self {
            Self::Raw(raw) => raw.send(bytes).await,
            Self::Http2 { send, .. } => {
                while !bytes.is_empty() {
                    send.reserve_capacity(bytes.len().min(16 * 1024));
                    let Some(Ok(room)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
                    if send.send_data(bytes.split_to(room.min(bytes.len())), false).is_err() {
                        return;
                    }
                }
            }
            Self::Http3 { feed, .. } => {
                feed.as_ref().expect("it has ended").send(bytes).await;
            }
        }
    }

    /// Ends this direction.
    pub async fn finish(&mut self) {
        match self {
            Self::Raw(raw) => raw.finish().await,
            Self::Http2 { send, .. } => send.send_data(Bytes::new(), true).unwrap(),
            Self::Http3 { feed, .. } => drop(feed.take()),
        }
    }

    /// Breaks it off in both directions. What is given back keeps the connection that it was a part of.
    pub async fn reset(self) -> Option<(http3::Sender, Quic)> {
        match self {
            Self::Raw(raw) => raw.reset(),
            Self::Http2 { mut send, .. } => send.send_reset(Reason::CANCEL),
            Self::Http3 { feed, _client, .. } => {
                feed.expect("it has ended").break_off().await;
                return _client;
            }
        }
        None
    }

    async fn more(&mut self) -> Result<bool, ()> {
        match self {
            Self::Raw(_) => unreachable!("it reads itself"),
            Self::Http2 { recv, ahead, .. } => match recv.data().await {
                None => Ok(false),
                Some(Err(_)) => Err(()),
                Some(Ok(data)) => {
                    let _ = recv.flow_control().release_capacity(data.len());
                    ahead.extend_from_slice(&data);
                    Ok(true)
                }
            },
            Self::Http3 { recv, ahead, .. } => match recv.frame().await {
                None => Ok(false),
                Some(Err(_)) => Err(()),
                Some(Ok(frame)) => {
                    ahead.extend_from_slice(&frame.into_data().expect("nothing but data is in a tunnel"));
                    Ok(true)
                }
            },
        }
    }

    /// The connection of QUIC that it is a part of.
    pub fn quic(&self) -> &quinn::Connection {
        match self {
            Self::Http3 { _client: Some((_, quic)), .. } => &quic.connection,
            _ => panic!("a client's tunnel over HTTP/3 has one"),
        }
    }

    fn ahead(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Raw(_) => unreachable!("it reads itself"),
            Self::Http2 { ahead, .. } | Self::Http3 { ahead, .. } => ahead,
        }
    }

    /// Exactly so many bytes; `None` where it ends before.
    pub async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        if let Self::Raw(raw) = self {
            return raw.exactly(length).await;
        }
        while self.ahead().len() < length {
            if self.more().await != Ok(true) {
                return None;
            }
        }
        Some(self.ahead().drain(..length).collect())
    }

    /// Everything that still comes, and how it ended.
    pub async fn rest(&mut self) -> (Vec<u8>, End) {
        if let Self::Raw(raw) = self {
            return raw.rest().await;
        }
        loop {
            match self.more().await {
                Ok(true) => {}
                Ok(false) => return (std::mem::take(self.ahead()), End::Clean),
                Err(()) => return (std::mem::take(self.ahead()), End::Broken),
            }
        }
    }

    /// Gives everything back until the other side ends, and ends then.
    pub async fn echo(mut self) {
        loop {
            let said = match &mut self {
                Self::Raw(raw) => raw.piece().await,
                _ => match self.more().await {
                    Ok(true) => Some(std::mem::take(self.ahead())),
                    _ => None,
                },
            };
            match said {
                Some(said) => self.send(said).await,
                None => break,
            }
        }
        self.finish().await;
        let _ = self.rest().await;
    }
}

/// What a client was answered.
pub struct Answer {
    pub status: u16,
    pub fields: HeaderMap,
    /// The tunnel, where it became one.
    pub tunnel: Option<Tunnel>,
    /// The body, where it did not.
    pub body: Bytes,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().unwrap())
    }

    /// The tunnel, after a success of the client's protocol that says nothing of another.
    pub fn switched(self, down: Downstream) -> Tunnel {
        let is_h1 = matches!(down, Downstream::H1 | Downstream::H1Tls);
        assert_eq!(self.status, if is_h1 { 101 } else { 200 }, "{:?} {:?}", self.fields, self.body);
        for name in ["connection", "upgrade", "sec-websocket-accept"] {
            assert_eq!(self.fields.contains_key(name), is_h1, "{name} in {:?}", self.fields);
        }
        assert!(!self.fields.contains_key("content-length") && !self.fields.contains_key("transfer-encoding"));
        self.tunnel.expect("no tunnel")
    }

    /// Sees that the proxy itself answered so.
    pub fn is_fault(&self, status: u16, error: &str) {
        let told = self.field("proxy-status").unwrap_or("no proxy-status");
        assert_eq!(self.status, status, "{told}");
        assert!(told.starts_with(&format!("tidegate; error={error};")), "{told}");
    }
}

/// A client that has asked and waits for the answer.
pub enum Asked {
    Raw(Raw),
    Http2(ResponseFuture, SendStream<Bytes>, h2::client::SendRequest<Bytes>),
    Http3(tokio::task::JoinHandle<Answer>),
}

/// Asks for a WebSocket, with these fields beside what the handshake needs.
pub async fn ask(address: SocketAddr, down: Downstream, fields: &[(&'static str, &str)]) -> Answer {
    begin(address, down, "websocket", fields).await.answer().await
}

/// The same for any protocol, without waiting for the answer.
pub async fn begin(address: SocketAddr, down: Downstream, protocol: &str, fields: &[(&'static str, &str)]) -> Asked {
    begin_with(address, down, Wish { protocol, target: TARGET, datagrams: None }, fields).await
}

/// What a client asks for.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    pub protocol: &'a str,
    pub target: &'a str,
    /// On HTTP/3: bytes of a frame of QUIC that it takes datagrams in.
    pub datagrams: Option<usize>,
}

/// The same for any wish.
pub async fn begin_with(
    address: SocketAddr,
    down: Downstream,
    Wish { protocol, target, datagrams }: Wish<'_>,
    fields: &[(&'static str, &str)],
) -> Asked {
    match down {
        Downstream::H1 | Downstream::H1Tls => {
            let mut raw = match down {
                Downstream::H1 => Raw::connect(address).await,
                _ => Raw::connect_tls(address).await,
            };
            let mut text = format!(
                "GET {target} HTTP/1.1\r\nHost: {SITE}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
                 Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
            );
            for (name, value) in fields {
                text += &format!("{name}: {value}\r\n");
            }
            raw.send(text + "\r\n").await;
            Asked::Raw(raw)
        }
        Downstream::H2 | Downstream::H2Tls => {
            let socket = TcpStream::connect(address).await.unwrap();
            let mut sender = match down {
                Downstream::H2 => over_http2(socket).await,
                _ => {
                    let connector = TlsConnector::from(certificates::client_config(&[b"h2"], false));
                    over_http2(connector.connect(SITE.try_into().unwrap(), socket).await.unwrap()).await
                }
            };
            // RFC 8441 §3: not before it was offered.
            while !sender.is_extended_connect_protocol_enabled() {
                yield_now().await;
            }
            let scheme = if down == Downstream::H2 { "http" } else { "https" };
            let mut request = connect(scheme, target, fields);
            request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
            let (response, send) = sender.send_request(request, false).unwrap();
            Asked::Http2(response, send, sender)
        }
        Downstream::H3 => {
            let mut quic = quic::config(certificates::client_config(&[b"h3"], false));
            let mut transport = quinn::TransportConfig::default();
            transport.datagram_receive_buffer_size(datagrams);
            quic.transport_config(Arc::new(transport));
            let quic = Quic::connect_with(quic, address, SITE).await.unwrap();
            let config = http3::Config { datagrams: datagrams.is_some(), ..http3::Config::default() };
            let (sender, driver) = http3::client::start(quic.connection.clone(), Rc::new(config));
            spawn_local(driver);
            assert!(sender.connect_protocol_allowed().await);
            let (feed, sent) = Sent::fed();
            let mut request = connect("https", target, fields).map(|()| sent);
            request.extensions_mut().insert(hyper::ext::Protocol::from(protocol));
            let answering = spawn_local(async move {
                let (head, body) = match sender.send(request, drop).await {
                    Ok(response) => response.into_parts(),
                    Err(failed) => panic!("no answer: {}", failed.error),
                };
                let (mut tunnel, mut bytes) = (None, Bytes::new());
                if head.status.is_success() {
                    tunnel = Some(Tunnel::http3(feed, body.into(), Some((sender, quic))));
                } else {
                    bytes = receive(body).await.bytes;
                }
                Answer { status: head.status.as_u16(), fields: head.headers, tunnel, body: bytes }
            });
            Asked::Http3(answering)
        }
    }
}

fn connect(scheme: &str, target: &str, fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = format!("{scheme}://{SITE}{target}").parse().unwrap();
    request.headers_mut().insert("sec-websocket-version", HeaderValue::from_static("13"));
    for (name, value) in fields {
        request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

async fn over_http2(io: impl AsyncRead + AsyncWrite + Unpin + 'static) -> h2::client::SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(io).await.unwrap();
    spawn_local(async move { drop(connection.await) });
    sender.ready().await.unwrap()
}

impl Asked {
    pub async fn answer(self) -> Answer {
        match self {
            Self::Raw(mut raw) => {
                let message = raw.response().await.expect("no answer");
                let mut fields = HeaderMap::new();
                for (name, value) in &message.fields {
                    fields.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
                }
                let status = message.status();
                let tunnel = (status == 101).then_some(Tunnel::Raw(raw));
                Answer { status, fields, tunnel, body: message.body.into() }
            }
            Self::Http2(response, send, _sender) => {
                let (head, mut recv) = response.await.unwrap().into_parts();
                if head.status.is_success() {
                    let tunnel = Some(Tunnel::http2(send, recv));
                    return Answer { status: head.status.as_u16(), fields: head.headers, tunnel, body: Bytes::new() };
                }
                let mut body = Vec::new();
                while let Some(data) = recv.data().await {
                    body.extend_from_slice(&data.unwrap());
                }
                Answer { status: head.status.as_u16(), fields: head.headers, tunnel: None, body: body.into() }
            }
            Self::Http3(answering) => answering.await.unwrap(),
        }
    }

    /// Leaves before there is an answer.
    pub fn give_up(self) {
        match self {
            Self::Raw(raw) => raw.reset(),
            Self::Http2(_, mut send, _) => send.send_reset(Reason::CANCEL),
            Self::Http3(answering) => answering.abort(),
        }
    }
}

/// An origin of tunnels.
pub struct TunnelOrigin(SocketAddr);

/// A request for a tunnel as an origin got it.
pub struct Asking {
    pub method: String,
    pub target: String,
    /// The protocol, of Upgrade or of `:protocol`; empty where none was asked for.
    pub protocol: String,
    pub fields: HeaderMap,
    way: Way,
}

enum Way {
    Raw(Raw),
    Http2(SendResponse<Bytes>, RecvStream),
    Http3(oneshot::Sender<Response<Sent>>, Incoming),
}

impl TunnelOrigin {
    /// Does with each request what `behaviour` says.
    pub async fn start<F>(up: Upstream, behaviour: F) -> Self
    where
        F: AsyncFn(Asking) + 'static,
    {
        Self::start_with(up, true, behaviour).await
    }

    /// The same; `offers`: whether HTTP/2 and HTTP/3 say that they take extended CONNECT.
    pub async fn start_with<F>(up: Upstream, offers: bool, behaviour: F) -> Self
    where
        F: AsyncFn(Asking) + 'static,
    {
        let behaviour = Rc::new(behaviour);
        if up == Upstream::Http3 {
            let endpoint = certificates::quic_origin("127.0.0.1:0".parse().unwrap());
            let address = endpoint.local_addr().unwrap();
            spawn_local(async move {
                while let Some(incoming) = endpoint.accept().await {
                    let service = OverHttp3(Rc::clone(&behaviour));
                    let config = http3::Config { connect_protocol: offers, ..http3::Config::default() };
                    spawn_local(async move {
                        if let Ok(connection) = incoming.await {
                            http3::serve(connection, Rc::new(config), http3::Control::new(), service).await;
                        }
                    });
                }
            });
            return Self(address);
        }
        Self::over_tcp(async move |socket: TcpStream| match up {
            Upstream::Http1 => http1(Raw::over(socket), Rc::clone(&behaviour)).await,
            Upstream::Http2 => http2(socket, offers, Rc::clone(&behaviour)).await,
            _ => {
                let acceptor = TlsAcceptor::from(certificates::origin_config(&[b"h2"]));
                if let Ok(stream) = acceptor.accept(socket).await {
                    http2(stream, offers, Rc::clone(&behaviour)).await;
                }
            }
        })
        .await
    }

    /// Over TLS, with what ALPN agrees on; `behaviour` is told whether that is HTTP/2, where `offers` says what it does elsewhere.
    pub async fn start_auto<F>(offers: bool, behaviour: F) -> Self
    where
        F: AsyncFn(Asking) + 'static,
    {
        let behaviour = Rc::new(behaviour);
        Self::over_tcp(async move |socket: TcpStream| {
            let acceptor = TlsAcceptor::from(certificates::origin_config(&[b"h2", b"http/1.1"]));
            let Ok(stream) = acceptor.accept(socket).await else { return };
            match stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                true => http2(stream, offers, Rc::clone(&behaviour)).await,
                false => http1(Raw::over(stream), Rc::clone(&behaviour)).await,
            }
        })
        .await
    }

    async fn over_tcp(serve: impl AsyncFn(TcpStream) + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = Rc::new(serve);
        spawn_local(async move {
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                let serve = Rc::clone(&serve);
                spawn_local(async move { serve(socket).await });
            }
        });
        Self(address)
    }

    pub fn address(&self) -> SocketAddr {
        self.0
    }
}

async fn http1<F: AsyncFn(Asking)>(mut raw: Raw, behaviour: Rc<F>) {
    let Some(head) = raw.head().await else { return };
    let mut words = head.line.split(' ').map(str::to_owned);
    let mut fields = HeaderMap::new();
    for (name, value) in &head.fields {
        fields.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    let protocol = head.field("upgrade").unwrap_or_default().to_owned();
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    behaviour(Asking { method, target, protocol, fields, way: Way::Raw(raw) }).await;
}

async fn http2<F: AsyncFn(Asking) + 'static>(
    io: impl AsyncRead + AsyncWrite + Unpin + 'static,
    offers: bool,
    behaviour: Rc<F>,
) {
    let mut builder = h2::server::Builder::new();
    if offers {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake(io).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (head, recv) = request.into_parts();
        let protocol = head.extensions.get::<h2::ext::Protocol>();
        let protocol = protocol.map_or(String::new(), |protocol| protocol.as_str().to_owned());
        let asking = Asking {
            method: head.method.to_string(),
            target: head.uri.path_and_query().map_or(String::new(), ToString::to_string),
            protocol,
            fields: head.headers,
            way: Way::Http2(respond, recv),
        };
        let behaviour = Rc::clone(&behaviour);
        spawn_local(async move { behaviour(asking).await });
    }
}

struct OverHttp3<F>(Rc<F>);

impl<F: AsyncFn(Asking) + 'static> http3::Service for OverHttp3<F> {
    type Body = Sent;

    fn call(
        &self,
        request: Request<http3::RecvBody>,
        _: http3::Informational,
    ) -> (impl Future<Output = Response<Sent>> + 'static, impl http3::Watch + 'static) {
        let (answer, answered) = oneshot::channel();
        let (head, recv) = request.into_parts();
        let protocol = head.extensions.get::<hyper::ext::Protocol>();
        let asking = Asking {
            method: head.method.to_string(),
            target: head.uri.path_and_query().map_or(String::new(), ToString::to_string),
            protocol: protocol.map_or(String::new(), |protocol| protocol.as_str().to_owned()),
            fields: head.headers,
            way: Way::Http3(answer, recv.into()),
        };
        let behaviour = Rc::clone(&self.0);
        spawn_local(async move { behaviour(asking).await });
        let answering = async move {
            // Where it is given up, `given_up` hears of it.
            answered.await.expect("the origin does not answer")
        };
        (answering, ())
    }

    fn refuse(&self, refusal: http3::Refusal) -> Response<Bytes> {
        panic!("the proxy's request was refused: {refusal:?}");
    }
}

impl Asking {
    /// Answers with success, and these fields beside what the handshake needs.
    pub async fn switch(self, fields: &[(&'static str, &str)]) -> Tunnel {
        match self.way {
            Way::Raw(mut raw) => {
                let accept = self.fields.get("sec-websocket-key").map(accept_of);
                let accept = accept.as_ref().map_or("", |accept| accept.to_str().unwrap());
                let mut text = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {}\r\n\
                     Sec-WebSocket-Accept: {accept}\r\n",
                    self.protocol
                );
                for (name, value) in fields {
                    text += &format!("{name}: {value}\r\n");
                }
                raw.send(text + "\r\n").await;
                Tunnel::Raw(raw)
            }
            Way::Http2(mut respond, recv) => {
                let send = respond.send_response(response(StatusCode::OK, fields), false).unwrap();
                Tunnel::http2(send, recv)
            }
            Way::Http3(answer, recv) => {
                let (feed, sent) = Sent::fed();
                let _ = answer.send(response(StatusCode::OK, fields).map(|()| sent));
                Tunnel::http3(feed, recv, None)
            }
        }
    }

    /// Answers with this and nothing else.
    pub async fn answer(self, status: u16, text: &'static str, fields: &[(&'static str, &str)]) {
        let status = StatusCode::from_u16(status).unwrap();
        match self.way {
            Way::Raw(mut raw) => {
                let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", text.len());
                for (name, value) in fields {
                    head += &format!("{name}: {value}\r\n");
                }
                raw.send(format!("{head}\r\n{text}")).await;
                let _ = raw.rest().await;
            }
            Way::Http2(mut respond, _recv) => {
                let mut send = respond.send_response(response(status, fields), false).unwrap();
                send.send_data(Bytes::from_static(text.as_bytes()), true).unwrap();
            }
            Way::Http3(answer, _) => {
                let _ = answer.send(response(status, fields).map(|()| text.into()));
            }
        }
    }

    /// Waits until whoever asked has given up.
    pub async fn given_up(self) {
        match self.way {
            Way::Raw(mut raw) => drop(raw.rest().await),
            Way::Http2(mut respond, _recv) => {
                let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            }
            Way::Http3(mut answer, _) => answer.closed().await,
        }
    }
}

fn response(status: StatusCode, fields: &[(&'static str, &str)]) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    for (name, value) in fields {
        response.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
    }
    response
}
