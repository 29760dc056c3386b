//! Endpoints behind TLS: what ALPN chooses is what is spoken.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::base::id::UpstreamId;
use crate::body::phase_clock::Phase;
use crate::config::model::{
    CertificateFiles, ClientAuth, ListenerTls, Place, Protocols, TlsVersion, Upstream as UpstreamConfig, UpstreamTls,
};
use crate::net::io::Socket;
use crate::telemetry::WorkerTelemetry;
use crate::transport::tls::client::ClientTls;
use crate::transport::tls::development::{make_authority, make_leaf};
use crate::transport::tls::server::{Alpn, ServerTls};
use crate::upstream::fixtures::{Caller, body_of, on_worker, request, until, upstream_config};
use crate::upstream::registry::Registry;

const HTTP1: Protocols = Protocols { http1: true, http2: false, http3: false };
const BOTH: Protocols = Protocols { http1: true, http2: true, http3: false };

/// An origin behind TLS that answers every request with `hello`.
struct TlsOrigin {
    listener: TcpListener,
    tls: Arc<ServerTls>,
    ca: PathBuf,
    accepted: Cell<u32>,
    _folder: tempfile::TempDir,
}

impl TlsOrigin {
    async fn serve(protocols: Protocols) -> Rc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let authority = make_authority().unwrap();
        let leaf = make_leaf(&["origin.test"], &authority).unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let place = Place { file: "test".into(), line: 1, column: 1 };
        let files = CertificateFiles { cert: write("leaf", &leaf.cert_pem), key: write("key", &leaf.key_pem), place };
        let tls = ListenerTls {
            certificates: vec![files],
            min_version: TlsVersion::V1_2,
            client_auth: ClientAuth::Off,
            early_data: false,
        };
        let origin = Rc::new(Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            tls: ServerTls::new(&tls, protocols, None).unwrap(),
            ca: write("ca", &authority.cert_pem),
            accepted: Cell::new(0),
            _folder: folder,
        });
        let serving = Rc::clone(&origin);
        tokio::task::spawn_local(async move {
            loop {
                let stream = serving.listener.accept().await.unwrap().0;
                serving.accepted.set(serving.accepted.get() + 1);
                tokio::task::spawn_local(Rc::clone(&serving).speak(Socket::Tcp(stream)));
            }
        });
        origin
    }

    async fn speak(self: Rc<Self>, socket: Socket) {
        let Ok((mut stream, accepted)) = self.tls.accept(socket).await else { return };
        if accepted.alpn == Alpn::Http2 {
            let mut session = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut stream))) = session.accept().await {
                let mut body = stream.send_response(http::Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"hello"), true).unwrap();
            }
            return;
        }
        let mut head = Vec::new();
        while let Ok(byte) = stream.read_u8().await {
            head.push(byte);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    }

    fn config(&self) -> UpstreamConfig {
        let mut config = upstream_config("api", &[self.listener.local_addr().unwrap()]);
        config.tls = Some(UpstreamTls {
            server_name: Some("origin.test".to_owned()),
            ca: Some(self.ca.clone()),
            ..UpstreamTls::default()
        });
        config
    }
}

fn caller(config: UpstreamConfig) -> Rc<Caller> {
    let telemetry = Arc::new(WorkerTelemetry::new());
    let pools = Pools::new(0, 1, Arc::clone(&telemetry));
    let tls = ClientTls::new(config.tls.as_ref(), config.protocol).unwrap();
    let upstream = Registry::new().upstream(UpstreamId(0), Arc::new(config), Some(tls));
    let upstream = pools.attach(&upstream);
    Rc::new(Caller { telemetry, pools, upstream, phase: Cell::new(Phase::Queue) })
}

async fn burst(caller: &Rc<Caller>, count: usize) {
    let requests: Vec<_> = (0..count)
        .map(|_| {
            let caller = Rc::clone(caller);
            tokio::task::spawn_local(async move { body_of(caller.get().await.ok().unwrap()).await })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap(), "hello");
    }
}

#[test]
fn auto_speaks_what_alpn_chooses() {
    on_worker(async {
        for (protocols, http2) in [(HTTP1, false), (BOTH, true)] {
            let origin = TlsOrigin::serve(protocols).await;
            let caller = caller(origin.config());
            for turn in 0..3 {
                let session = caller.session(false).await.unwrap();
                assert_eq!((session.is_multiplexed(), session.is_reused()), (http2, turn > 0));
                assert_eq!(caller.phase.get(), if turn > 0 { Phase::Queue } else { Phase::Tls });
                body_of(session.send(request()).await.ok().unwrap()).await;
                until(|| caller.pools.resting() == (usize::from(!http2), usize::from(http2))).await;
            }
        }
    });
}

#[test]
fn http1_is_spoken_where_it_is_configured_although_http2_is_offered() {
    on_worker(async {
        let origin = TlsOrigin::serve(BOTH).await;
        let mut config = origin.config();
        config.protocol = UpstreamProtocol::Http1;
        assert!(!caller(config).session(false).await.unwrap().is_multiplexed());
    });
}

#[test]
fn an_endpoint_without_http2_fails_where_http2_is_configured() {
    on_worker(async {
        let origin = TlsOrigin::serve(HTTP1).await;
        let mut config = origin.config();
        config.protocol = UpstreamProtocol::Http2;
        let error = caller(config).session(false).await.err().unwrap();
        assert!(matches!(error.kind(), Kind::TlsProtocolError | Kind::TlsAlertReceived), "{error}");
        assert_eq!(error.retry(), Retry::Always);
    });
}

#[test]
fn a_burst_to_an_endpoint_never_heard_makes_few_connections_if_it_speaks_http2() {
    on_worker(async {
        let origin = TlsOrigin::serve(BOTH).await;
        let caller = caller(origin.config());
        burst(&caller, 50).await;
        assert!(origin.accepted.get() <= MAX_UNASKED as u32, "{}", origin.accepted.get());
        burst(&caller, 50).await;
        assert!(origin.accepted.get() <= MAX_UNASKED as u32, "{}", origin.accepted.get());
    });
}

#[test]
fn a_burst_to_an_endpoint_never_heard_is_served_if_it_speaks_http1() {
    on_worker(async {
        let origin = TlsOrigin::serve(HTTP1).await;
        let caller = caller(origin.config());
        burst(&caller, 20).await;
        assert!(origin.accepted.get() > MAX_UNASKED as u32);
    });
}

#[test]
fn a_certificate_that_does_not_verify_is_told_as_such() {
    on_worker(async {
        let origin = TlsOrigin::serve(BOTH).await;
        let mut config = origin.config();
        config.tls.as_mut().unwrap().server_name = Some("other.test".to_owned());
        let error = caller(config).session(false).await.err().unwrap();
        assert_eq!((error.kind(), error.retry()), (Kind::TlsCertificateError, Retry::Always));
    });
}

#[test]
fn a_handshake_that_hangs_ends_with_the_connect_timeout() {
    on_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = TlsOrigin::serve(BOTH).await;
        let mut config = origin.config();
        config.endpoints[0].address = crate::config::model::EndpointAddress::Socket(listener.local_addr().unwrap());
        config.timeouts.connect = Duration::from_millis(60);
        let error = caller(config).session(false).await.err().unwrap();
        assert_eq!((error.kind(), error.retry()), (Kind::ConnectionTimeout, Retry::Always));
    });
}
