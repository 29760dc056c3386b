//! What our layer of HTTP/3 costs above QUIC: the same exchanges, 1.1 KiB answers on 16 connections × 8 streams, over bare
//! quinn streams and over `http3`, client and server on one thread. The difference is both roles of ours.

use std::convert::Infallible;
use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidegate::http3::{Config, Control, Informational, RecvBody, Refusal, Sender, Service, Watch, client, serve};
use tidegate::transport::tls::development::{make_authority, make_leaf};
use tidegate::transport::tls::provider::provider;
use tokio::runtime::{Builder, LocalRuntime};
use tokio::task::spawn_local;

const CONNECTIONS: usize = 16;
const STREAMS: usize = 8;
const ANSWER: Bytes = Bytes::from_static(&[b'x'; 1100]);
const LARGE: Bytes = Bytes::from_static(&[b'x'; 1 << 20]);

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = Builder::new_current_thread().enable_all().build_local(Default::default()).expect("a runtime");
    let links = runtime.block_on(links());
    let mut small = criterion.benchmark_group("exchange of 1.1 KiB");
    small.throughput(Throughput::Elements(1)).measurement_time(Duration::from_secs(8)).sample_size(20);
    small.bench_function("bare quinn", |bencher| {
        bencher.iter_custom(|exchanges| timed(&runtime, exchanges, &links.bare, bare));
    });
    small.bench_function("http3", |bencher| {
        bencher
            .iter_custom(|exchanges| timed(&runtime, exchanges, &links.http3, async |sender| get(sender, "/").await));
    });
    small.finish();
    let mut large = criterion.benchmark_group("answer of 1 MiB");
    large.throughput(Throughput::Bytes(1 << 20)).measurement_time(Duration::from_secs(8)).sample_size(20);
    large.bench_function("http3", |bencher| {
        let ask = async |sender: &Sender| get(sender, "/large").await;
        bencher.iter_custom(|exchanges| timed(&runtime, exchanges, &links.http3[..1], ask));
    });
    large.finish();
    criterion.final_summary();
}

/// Has every connection carry its share of the exchanges, so many at a time.
fn timed<C: Clone + 'static, F>(runtime: &LocalRuntime, exchanges: u64, connections: &[C], exchange: F) -> Duration
where
    F: AsyncFn(&C) + Copy + 'static,
{
    runtime.block_on(async {
        let start = Instant::now();
        let lanes = (connections.len() * STREAMS) as u64;
        let mut tasks = Vec::new();
        for lane in 0..lanes {
            let connection = connections[lane as usize % connections.len()].clone();
            let share = exchanges / lanes + u64::from(lane < exchanges % lanes);
            tasks.push(spawn_local(async move {
                for _ in 0..share {
                    exchange(&connection).await;
                }
            }));
        }
        for task in tasks {
            task.await.expect("an exchange");
        }
        start.elapsed()
    })
}

async fn bare(connection: &quinn::Connection) {
    let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
    send.write_chunk(Bytes::from_static(&[b'q'; 60])).await.expect("a request");
    send.finish().expect("its end");
    while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.expect("an answer") {
        black_box(chunk);
    }
}

async fn get(sender: &Sender, path: &'static str) {
    let request = Request::get(format!("https://localhost{path}")).header("user-agent", "bench").body(Empty::new());
    let answer = sender.send(request.expect("a request"), drop).await.expect("an answer");
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        black_box(frame.expect("its body"));
    }
}

struct Links {
    bare: Vec<quinn::Connection>,
    http3: Vec<Sender>,
    _endpoints: (quinn::Endpoint, quinn::Endpoint),
}

async fn links() -> Links {
    tidegate::net::timer::start();
    let (server, config) = endpoint();
    let client = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("an endpoint");
    let address = server.local_addr().expect("an address");
    let mut links = Links { bare: Vec::new(), http3: Vec::new(), _endpoints: (client.clone(), server.clone()) };
    for at in 0..2 * CONNECTIONS {
        let connecting = client.connect_with(config.clone(), address, "localhost").expect("a connection");
        let accepting = async { server.accept().await.expect("a client").await.expect("a handshake") };
        let (connected, accepted) = tokio::join!(connecting, accepting);
        let connected = connected.expect("a handshake");
        if at < CONNECTIONS {
            links.bare.push(connected);
            spawn_local(echo(accepted));
        } else {
            let (sender, driver) = client::start(connected, Rc::new(Config::default()));
            spawn_local(driver);
            links.http3.push(sender);
            spawn_local(serve(accepted, Rc::new(Config::default()), Control::new(), Answers));
        }
    }
    links
}

async fn echo(connection: quinn::Connection) {
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        spawn_local(async move {
            while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX, true).await {
                black_box(chunk);
            }
            // A client that is gone is none of our business.
            let _ = send.write_chunk(ANSWER).await;
            let _ = send.finish();
        });
    }
}

fn endpoint() -> (quinn::Endpoint, quinn::ClientConfig) {
    let authority = make_authority().expect("an authority");
    let leaf = make_leaf(&["localhost"], &authority).expect("a certificate");
    let chain = CertificateDer::pem_slice_iter(leaf.cert_pem.as_bytes()).map(|der| der.expect("a certificate"));
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).expect("a key");
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.cert_pem.as_bytes()).expect("a certificate");
    roots.add(root).expect("a root");
    let versions = &[&rustls::version::TLS13];
    let tls = rustls::ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions);
    let tls = tls.expect("TLS 1.3").with_no_client_auth().with_single_cert(chain.collect(), key).expect("a pair");
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).expect("a suite");
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let server = quinn::Endpoint::server(config, "127.0.0.1:0".parse().expect("an address")).expect("an endpoint");
    let tls = rustls::ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions);
    let tls = tls.expect("TLS 1.3").with_root_certificates(roots).with_no_client_auth();
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("a suite");
    (server, quinn::ClientConfig::new(Arc::new(crypto)))
}

/// Answers at once.
struct Answers;

impl Service for Answers {
    type Body = Once;

    fn call(
        &self,
        request: Request<RecvBody>,
        _: Informational,
    ) -> (impl Future<Output = Response<Once>> + 'static, impl Watch + 'static) {
        let body = Once(Some(if request.uri().path() == "/large" { LARGE } else { ANSWER }));
        let answer = Response::builder().header("content-type", "text/plain").header("server", "bench").body(body);
        (async { answer.expect("an answer") }, ())
    }

    fn refuse(&self, _: Refusal) -> Response<Bytes> {
        Response::default()
    }
}

/// A body of one piece.
struct Once(Option<Bytes>);

impl Body for Once {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |data| data.len() as u64))
    }
}
