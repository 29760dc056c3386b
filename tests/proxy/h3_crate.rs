//! HTTP/3 with what others wrote on the other side: a client and an origin on the `h3` crate, over the same quinn.

use bytes::{Buf, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3::error::{Code, StreamError};
use h3_quinn::{BidiStream, OpenStreams};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use quinn::Endpoint;
use tokio::task::{JoinHandle, spawn_local};

use crate::support::body::Sent;
use crate::support::certificates::{self, SITE};
use crate::support::client::{Client, get, post};
use crate::support::origin::{Origin, RawOrigin, echo, ok};
use crate::support::pair::{Downstream, Pair, Upstream};
use crate::support::proxy::{Plan, Proxy};
use crate::support::{eventually, quic, tests};

tests! {
    its_client_gets_posts_and_reads_trailers,
    its_client_has_many_streams,
    its_client_sees_a_broken_answer_as_broken,
    its_client_is_told_to_go_and_finishes,
    its_server_is_an_origin,
}

const ALL: &str = "protocols = [\"http1\", \"http2\", \"http3\"]";

/// A client with one connection.
struct Theirs {
    sender: SendRequest<OpenStreams, Bytes>,
    driver: JoinHandle<h3::error::ConnectionError>,
    _endpoint: Endpoint,
}

type Stream = RequestStream<BidiStream<Bytes>, Bytes>;

impl Theirs {
    async fn connect(proxy: &Proxy) -> Self {
        let config = quic::config(certificates::client_config(&[b"h3"], false));
        let (endpoint, connecting) = quic::begin(config, proxy.address(), SITE);
        let connection = h3_quinn::Connection::new(connecting.await.unwrap());
        let (mut driver, sender) = h3::client::new(connection).await.unwrap();
        let driver = spawn_local(async move { driver.wait_idle().await });
        Self { sender, driver, _endpoint: endpoint }
    }

    async fn begin(&mut self, method: Method, path: &str) -> Stream {
        let uri = format!("https://{SITE}{path}");
        self.sender
            .send_request(Request::builder().method(method).uri(uri).header("te", "trailers").body(()).unwrap())
            .await
            .unwrap()
    }
}

/// An answer as it came.
struct Answer {
    status: StatusCode,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

async fn answer(mut stream: Stream) -> Result<Answer, StreamError> {
    let head = stream.recv_response().await?;
    let mut body = Vec::new();
    while let Some(mut piece) = stream.recv_data().await? {
        while piece.has_remaining() {
            let length = piece.chunk().len();
            body.extend_from_slice(piece.chunk());
            piece.advance(length);
        }
    }
    let trailers = stream.recv_trailers().await?;
    Ok(Answer { status: head.status(), body, trailers })
}

async fn before(endpoint: std::net::SocketAddr) -> (Theirs, Proxy) {
    let proxy = Plan::to(&[endpoint]).tls().listener(ALL).start();
    (Theirs::connect(&proxy).await, proxy)
}

async fn its_client_gets_posts_and_reads_trailers() {
    let origin = Origin::start(Upstream::Http1, async |request: Request<_>| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "15".parse().unwrap());
        let told = echo(request).await.into_body();
        let text = http_body_util::BodyExt::collect(told).await.unwrap().to_bytes();
        let body = Sent::pieces([text]).with_trailers(trailers);
        Response::builder().header("trailer", "x-sum").body(body).unwrap()
    })
    .await;
    let (mut client, _proxy) = before(origin.address()).await;
    let mut stream = client.begin(Method::GET, "/a?b=c").await;
    stream.finish().await.unwrap();
    let got = answer(stream).await.unwrap();
    let told = String::from_utf8(got.body).unwrap();
    assert!(got.status == StatusCode::OK && told.starts_with("GET /a?b=c\n"), "{told}");
    assert_eq!(got.trailers.unwrap()["x-sum"], "15");

    let mut stream = client.begin(Method::POST, "/").await;
    let piece = Bytes::from(vec![b'x'; 100_000]);
    for _ in 0..10 {
        stream.send_data(piece.clone()).await.unwrap();
    }
    stream.finish().await.unwrap();
    let got = answer(stream).await.unwrap();
    let told = String::from_utf8(got.body).unwrap();
    let (head, body) = told.split_once("\n\n").unwrap();
    assert!(head.starts_with("POST /\n") && body.len() == 1_000_000, "{head}, {} bytes", body.len());
}

async fn its_client_has_many_streams() {
    let origin = Origin::start(Upstream::Http2, echo).await;
    let proxy = Plan::to(&[origin.address()]).upstream("protocol = \"http2\"").tls().listener(ALL).start();
    let mut client = Theirs::connect(&proxy).await;
    let mut waiting = Vec::new();
    for number in 0..60 {
        let mut stream = client.begin(Method::GET, &format!("/{number}")).await;
        stream.finish().await.unwrap();
        waiting.push(stream);
    }
    for (number, stream) in waiting.into_iter().enumerate() {
        let told = String::from_utf8(answer(stream).await.unwrap().body).unwrap();
        assert!(told.starts_with(&format!("GET /{number}\n")), "{told}");
    }
    assert_eq!(proxy.running().counters().requests_http3, 60);
}

async fn its_client_sees_a_broken_answer_as_broken() {
    let origin = RawOrigin::answering_once("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    let (mut client, _proxy) = before(origin.address()).await;
    let mut stream = client.begin(Method::GET, "/").await;
    stream.finish().await.unwrap();
    match answer(stream).await {
        Err(StreamError::RemoteTerminate { code, .. }) => assert_eq!(code, Code::H3_INTERNAL_ERROR),
        other => panic!("{:?}", other.map(|answer| answer.body)),
    }
}

async fn its_client_is_told_to_go_and_finishes() {
    let (release, released) = tokio::sync::watch::channel(false);
    let origin = Origin::start(Upstream::Http1, async move |request| {
        released.clone().wait_for(|released| *released).await.unwrap();
        ok(request).await
    })
    .await;
    let (mut client, proxy) = before(origin.address()).await;
    let mut stream = client.begin(Method::GET, "/").await;
    stream.finish().await.unwrap();
    eventually(|| !origin.seen().is_empty()).await;
    proxy.running().drain();
    // The sockets of TCP close when the drain begins.
    eventually(|| std::net::TcpStream::connect(proxy.address()).is_err()).await;
    release.send(true).unwrap();
    assert_eq!(answer(stream).await.unwrap().body, b"ok");
    let ended = client.driver.await.unwrap();
    assert!(ended.is_h3_no_error(), "{ended:?}");
    proxy.left().await;
}

/// Tells the method, the path and the length of the body back, with trailers.
async fn serve(connection: quinn::Connection) {
    let mut connection = h3::server::Connection::<_, Bytes>::new(h3_quinn::Connection::new(connection)).await.unwrap();
    while let Ok(Some(request)) = connection.accept().await {
        spawn_local(async move {
            let Ok((request, mut stream)) = request.resolve_request().await else { return };
            let mut length = 0;
            while let Ok(Some(piece)) = stream.recv_data().await {
                length += piece.remaining();
            }
            let told = format!("{} {} {length}", request.method(), request.uri().path());
            stream.send_response(Response::new(())).await.unwrap();
            stream.send_data(told.into()).await.unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-last", "word".parse().unwrap());
            stream.send_trailers(trailers).await.unwrap();
            stream.finish().await.unwrap();
        });
    }
}

async fn its_server_is_an_origin() {
    let endpoint = certificates::quic_origin("127.0.0.1:0".parse().unwrap());
    let address = endpoint.local_addr().unwrap();
    spawn_local(async move {
        while let Some(incoming) = endpoint.accept().await {
            spawn_local(async move { serve(incoming.await.unwrap()).await });
        }
    });
    for down in [Downstream::H1, Downstream::H2, Downstream::H3] {
        let pair = Pair { down, up: Upstream::Http3 };
        let proxy = pair.plan(&[address]).start();
        let mut client = Client::connect(proxy.address(), down).await;
        assert_eq!(client.call(get("/a")).await.text(), "GET /a 0", "{down:?}");
        let reply = client.call(post("/b", Bytes::from(vec![0; 300_000]))).await;
        assert_eq!(reply.text(), "POST /b 300000", "{down:?}");
        if down != Downstream::H1 {
            assert_eq!(reply.trailers.unwrap()["x-last"], "word", "{down:?}");
        }
    }
}
