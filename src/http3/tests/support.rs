//! A connection between two endpoints on loopback, services, bodies, and a peer without manners.

use std::any::Any;
use std::cell::Cell;
use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, spawn_local};

use crate::http3::control::{Closed, Control};
use crate::http3::qpack::{Encoder, Field};
use crate::http3::server::{Informational, Refusal, Service, serve};
use crate::http3::{Code, Config, RecvBody, Sender, client, frame, varint};
use crate::transport::quic::tests::simulated::{Network, connected};
use crate::transport::tls::development::{make_authority, make_leaf};
use crate::transport::tls::provider::provider;

pub(super) use crate::net::testing::on_worker;

pub(super) type BoxError = Box<dyn StdError>;

/// Both ends of a connection, and what carries it.
pub(super) struct Link {
    pub(super) client: quinn::Connection,
    pub(super) server: quinn::Connection,
    _carriers: Box<dyn Any>,
}

pub(super) async fn link() -> Link {
    link_with(|_| ()).await
}

/// `adjust` sees the transport of both sides.
pub(super) async fn link_with(adjust: impl Fn(&mut quinn::TransportConfig)) -> Link {
    let authority = make_authority().unwrap();
    let leaf = make_leaf(&["localhost"], &authority).unwrap();
    let chain = CertificateDer::pem_slice_iter(leaf.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.cert_pem.as_bytes()).unwrap()).unwrap();
    let versions = &[&rustls::version::TLS13];
    let tls = rustls::ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let mut tls = tls.with_no_client_auth().with_single_cert(chain, key).unwrap();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport(&adjust));
    let server = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();

    let tls = rustls::ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport(&adjust));
    let client = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = client.connect_with(config, server.local_addr().unwrap(), "localhost").unwrap();
    let accepting = async { server.accept().await.unwrap().await.unwrap() };
    let (connected, accepted) = tokio::join!(connecting, accepting);
    Link { client: connected.unwrap(), server: accepted, _carriers: Box::new((client, server)) }
}

/// A link over a network that is not one.
pub(super) async fn simulated_link(network: &Network) -> Link {
    let ends = connected(network).await;
    Link { client: ends.client.clone(), server: ends.server.clone(), _carriers: Box::new(ends) }
}

fn transport(adjust: &impl Fn(&mut quinn::TransportConfig)) -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    adjust(&mut transport);
    Arc::new(transport)
}

/// A body made of a channel: frames come as they are sent, an error breaks it off.
#[derive(Debug)]
pub(super) struct Sent {
    frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>,
    length: Option<u64>,
    /// There is always more; what was taken is counted.
    endless: Option<Rc<Cell<usize>>>,
}

pub(super) type Feed = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

pub(super) fn body(length: Option<u64>) -> (Feed, Sent) {
    let (feed, frames) = mpsc::unbounded_channel();
    (feed, Sent { frames, length, endless: None })
}

pub(super) fn full(text: impl Into<Bytes>) -> Sent {
    let text = text.into();
    let (feed, sent) = body(Some(text.len() as u64));
    if !text.is_empty() {
        feed.send(Ok(Frame::data(text))).unwrap();
    }
    sent
}

/// A body without an end that counts the bytes that were taken.
pub(super) fn endless(taken: &Rc<Cell<usize>>) -> Sent {
    Sent { endless: Some(Rc::clone(taken)), ..body(None).1 }
}

pub(super) fn data(text: impl Into<Bytes>) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(text.into()))
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(taken) = &self.endless {
            taken.set(taken.get() + 10_000);
            return Poll::Ready(Some(data(vec![0; 10_000])));
        }
        self.frames.poll_recv(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.endless.is_none() && self.frames.is_empty() && self.frames.is_closed()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A service made of an async function.
pub(super) struct Answers<F>(Rc<F>);

impl<F> Service for Answers<F>
where
    F: AsyncFn(Request<RecvBody>, Informational) -> Response<Sent> + 'static,
{
    type Body = Sent;

    fn call(
        &self,
        request: Request<RecvBody>,
        informational: Informational,
    ) -> (impl Future<Output = Response<Sent>> + 'static, impl super::super::Watch + 'static) {
        let answers = Rc::clone(&self.0);
        (async move { answers(request, informational).await }, ())
    }

    fn refuse(&self, refusal: Refusal) -> Response<Bytes> {
        let status = match refusal {
            Refusal::TooLarge => 431,
            Refusal::Late => 408,
        };
        Response::builder().status(status).body(Bytes::from_static(b"refused")).unwrap()
    }
}

/// A server that is run on a link.
pub(super) struct Served {
    pub(super) control: Rc<Control>,
    pub(super) closed: JoinHandle<Closed>,
}

pub(super) fn run<F>(link: &Link, config: Config, answers: F) -> Served
where
    F: AsyncFn(Request<RecvBody>, Informational) -> Response<Sent> + 'static,
{
    let control = Control::new();
    let serving = serve(link.server.clone(), Rc::new(config), Rc::clone(&control), Answers(Rc::new(answers)));
    Served { control, closed: spawn_local(serving) }
}

pub(super) fn connect(link: &Link, config: Config) -> (Sender, JoinHandle<Closed>) {
    let (sender, driver) = client::start(link.client.clone(), Rc::new(config));
    (sender, spawn_local(driver))
}

/// Notes that it was dropped.
pub(super) struct Dropped(pub(super) Rc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

pub(super) fn get(path: &str) -> Request<Sent> {
    Request::get(format!("https://localhost{path}")).body(full("")).unwrap()
}

pub(super) async fn whole(body: RecvBody) -> Result<(Bytes, Option<HeaderMap>), crate::http3::Error> {
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    Ok((collected.to_bytes(), trailers))
}

/// Writes whatever it is told to.
pub(super) struct Rude {
    pub(super) connection: quinn::Connection,
    /// Kept: a dropped stream is finished.
    streams: Vec<quinn::SendStream>,
}

impl Rude {
    pub(super) fn new(connection: &quinn::Connection) -> Self {
        Self { connection: connection.clone(), streams: Vec::new() }
    }

    /// Opens a unidirectional stream that begins with `bytes` and stays open.
    pub(super) async fn uni(&mut self, bytes: &[u8]) -> &mut quinn::SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        self.streams.push(stream);
        self.streams.last_mut().unwrap()
    }

    /// As [`uni`](Self::uni).
    pub(super) async fn say(&mut self, bytes: &[u8]) {
        self.uni(bytes).await;
    }

    /// A control stream with empty SETTINGS, and `more` after them.
    pub(super) async fn control(&mut self, more: &[u8]) -> &mut quinn::SendStream {
        self.uni(&[&[0, 4, 0], more].concat()).await
    }

    /// Sends `bytes` on a request stream and ends it.
    pub(super) async fn request(&mut self, bytes: &[u8]) -> quinn::RecvStream {
        let (mut send, recv) = self.connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        let _ = send.finish();
        recv
    }

    /// As [`request`](Self::request), but leaves the stream open.
    pub(super) async fn open(&mut self, bytes: &[u8]) -> (quinn::SendStream, quinn::RecvStream) {
        let (mut send, recv) = self.connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        (send, recv)
    }

    /// The code that the other side closed the connection with.
    pub(super) async fn closed_with(&self) -> Code {
        match self.connection.closed().await {
            quinn::ConnectionError::ApplicationClosed(close) => Code::from(close.error_code),
            other => panic!("{other}"),
        }
    }
}

/// The code that a stream was reset with.
pub(super) async fn reset_with(recv: &mut quinn::RecvStream) -> Code {
    match recv.read_to_end(usize::MAX).await {
        Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => Code::from(code),
        other => panic!("{other:?}"),
    }
}

pub(super) fn frame_of(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write_header(kind, payload.len() as u64, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

pub(super) fn number(value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint::write(value, &mut bytes);
    bytes
}

/// A HEADERS frame with these fields, none of them from a table.
pub(super) fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    frame_of(frame::kind::HEADERS, &section(fields))
}

pub(super) fn section(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let fields = fields.iter().map(|(name, value)| {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        Field { name, value, is_sensitive: false }
    });
    Encoder::new().encode(0, fields, u64::MAX, &mut block, &mut Vec::new()).unwrap();
    block
}

pub(super) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/")];
pub(super) const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", "/")];
