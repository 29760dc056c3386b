//! Against an origin that speaks HTTP/3 frame by frame, so that it can misbehave.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::BodyExt;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, RecvStream, SendStream, ServerConfig, TransportConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::join;
use tokio::net::UdpSocket;

use super::*;
use crate::base::error::Side;
use crate::config::model::{Upstream, UpstreamProtocol, UpstreamTls};
use crate::transport::tls::client::ClientTls;
use crate::transport::tls::development::{make_authority, make_leaf};
use crate::transport::tls::provider::provider;
use crate::upstream::client::Session;
use crate::upstream::fixtures::{
    Caller, body_of, failure_of, on_paused_worker, on_worker, request, until, upstream_config,
};

/// Status 200, by the static table of QPACK.
const OK: &[u8] = &[0x01, 3, 0, 0, 0xd9];
/// The same with the length of what follows: `content-length: 10`, a literal by the name of the static table.
const OK_OF_TEN: &[u8] = &[0x01, 7, 0, 0, 0xd9, 0x54, 2, b'1', b'0'];
const HELLO: &[u8] = &[0x00, 5, b'h', b'e', b'l', b'l', b'o'];

struct Origin(Endpoint);

/// A connection to it.
struct Visitor {
    connection: quinn::Connection,
    control: SendStream,
}

impl Origin {
    fn bind() -> Self {
        Self::allowing(100)
    }

    fn allowing(streams: u32) -> Self {
        Self(Endpoint::server(server(streams, 0), "127.0.0.1:0".parse().unwrap()).unwrap())
    }

    fn config(&self) -> Upstream {
        let mut config = upstream_config("api", &[self.0.local_addr().unwrap()]);
        config.protocol = UpstreamProtocol::Http3;
        config
    }

    fn caller(&self) -> Caller {
        caller(self.config())
    }

    async fn accept(&self) -> Visitor {
        let connecting = self.0.accept().await.unwrap().accept().unwrap();
        // Before the handshake is over, which is when early data comes.
        let Ok((connection, _)) = connecting.into_0rtt() else { unreachable!("servers may always") };
        let mut control = connection.open_uni().await.unwrap();
        // The type of the stream, then SETTINGS without any.
        control.write_all(&[0x00, 0x04, 0]).await.unwrap();
        Visitor { connection, control }
    }

    /// Accepts connections and answers every request with `hello`.
    fn serve(self) {
        tokio::task::spawn_local(async move {
            loop {
                let mut visitor = self.accept().await;
                tokio::task::spawn_local(async move {
                    while let Some(mut streams) = visitor.next().await {
                        tokio::task::spawn_local(async move { answer(&mut streams).await });
                    }
                });
            }
        });
    }
}

/// What an origin begins with that allows as many requests at once; `early`: bytes of early data that it takes, all or none.
fn server(streams: u32, early: u32) -> ServerConfig {
    let leaf = make_leaf(&["origin.test"], &make_authority().unwrap()).unwrap();
    let chain = CertificateDer::pem_slice_iter(leaf.cert_pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h3".to_vec()];
    config.max_early_data_size = early;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()));
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(streams.into());
    config.transport_config(Arc::new(transport));
    config
}

impl Visitor {
    /// The next request, its head read; `None` when the connection is over.
    async fn next(&mut self) -> Option<(SendStream, RecvStream)> {
        let (send, mut receive) = self.connection.accept_bi().await.ok()?;
        let mut head = [0; 2];
        receive.read_exact(&mut head).await.ok()?;
        assert!(head[0] == 1 && head[1] < 64, "not a short HEADERS frame: {head:?}");
        receive.read_exact(&mut vec![0; head[1].into()]).await.ok()?;
        Some((send, receive))
    }

    async fn request(&mut self) -> (SendStream, RecvStream) {
        self.next().await.expect("a request")
    }

    /// Names the first request that was not taken.
    async fn go_away(&mut self, first_not_taken: u8) {
        self.control.write_all(&[0x07, 1, first_not_taken]).await.unwrap();
    }

    /// Keeps the connection.
    fn keep(self) {
        tokio::task::spawn_local(async move {
            self.connection.closed().await;
            drop(self.control);
        });
    }
}

async fn answer((send, _): &mut (SendStream, RecvStream)) {
    send.write_all(&[OK, HELLO].concat()).await.unwrap();
    send.finish().unwrap();
}

fn tls_settings() -> UpstreamTls {
    UpstreamTls { server_name: Some("origin.test".into()), insecure: true, ..UpstreamTls::default() }
}

fn tls() -> Arc<ClientTls> {
    ClientTls::new(Some(&tls_settings()), UpstreamProtocol::Http3).unwrap()
}

fn caller(mut config: Upstream) -> Caller {
    config.tls = Some(tls_settings());
    Caller::over(config, Some(tls()))
}

/// What comes of a request while the origin does `met` with its first visitor.
async fn met<F: Future<Output = T>, T>(
    origin: &Origin,
    caller: &Caller,
    met: impl FnOnce(Visitor) -> F,
) -> (Result<Answer, SendFailure>, T) {
    join!(caller.get(), async { met(origin.accept().await).await })
}

#[test]
fn requests_share_one_connection() {
    on_worker(async {
        let origin = Origin::bind();
        let caller = origin.caller();
        origin.serve();
        for turn in 0..5 {
            let session = caller.session(false).await.unwrap();
            assert!(session.is_multiplexed() && matches!(session, Session::Http3(_)));
            assert_eq!(session.is_reused(), turn > 0);
            assert_eq!(body_of(session.send(request()).await.ok().unwrap()).await, "hello");
        }
        assert_eq!(caller.connects(), (1, 4));
    });
}

#[test]
fn a_burst_at_the_start_makes_as_few_connections_as_the_windows_bear() {
    on_worker(async {
        let origin = Origin::bind();
        let caller = Rc::new(origin.caller());
        origin.serve();
        let requests: Vec<_> = (0..32)
            .map(|_| {
                let caller = Rc::clone(&caller);
                tokio::task::spawn_local(async move { body_of(caller.get().await.ok().unwrap()).await })
            })
            .collect();
        for request in requests {
            assert_eq!(request.await.unwrap(), "hello");
        }
        assert_eq!(caller.connects().0, 1);
    });
}

#[test]
fn no_more_streams_share_a_connection_than_its_window_bears() {
    let quic = |stream_window, connection_window| QuicTransport { stream_window, connection_window, ..<_>::default() };
    assert_eq!(streams_within(&quic(1 << 20, 16 << 20)), 16);
    assert_eq!(streams_within(&quic(1 << 20, 1 << 20)), 1);
    assert_eq!(streams_within(&quic(64 << 10, 1 << 30)), MAX_STREAMS);
    on_worker(async {
        let origin = Origin::bind();
        let mut config = origin.config();
        config.quic.transport = quic(1 << 20, 2 << 20);
        let caller = caller(config);
        origin.serve();
        let mut answers = Vec::new();
        for _ in 0..5 {
            answers.push(caller.get().await.ok().unwrap());
        }
        assert_eq!((caller.connects().0, caller.pools.resting().1), (3, 3));
        answers.clear();
        body_of(caller.get().await.ok().unwrap()).await;
        assert_eq!(caller.connects().0, 3);
    });
}

#[test]
fn another_connection_is_made_when_the_endpoint_allows_no_more_streams() {
    on_worker(async {
        let origin = Origin::allowing(2);
        let caller = origin.caller();
        // Answers that never end: a stream that has ended makes room for another.
        tokio::task::spawn_local(async move {
            loop {
                let mut visitor = origin.accept().await;
                tokio::task::spawn_local(async move {
                    let mut open = Vec::new();
                    while let Some(mut streams) = visitor.next().await {
                        streams.0.write_all(OK).await.unwrap();
                        open.push(streams);
                    }
                });
            }
        });
        let mut answers = Vec::new();
        for _ in 0..5 {
            answers.push(caller.get().await.ok().unwrap());
        }
        assert_eq!(caller.connects().0, 3);
    });
}

#[test]
fn what_a_reset_says_decides_whether_it_may_be_sent_again() {
    on_worker(async {
        for (code, kind, retry) in [
            (Code::REQUEST_REJECTED, Kind::ConnectionTerminated, Retry::Always),
            (Code::INTERNAL_ERROR, Kind::ConnectionTerminated, Retry::Never),
            (Code::REQUEST_CANCELLED, Kind::ConnectionTerminated, Retry::Never),
            (Code::MESSAGE_ERROR, Kind::HttpProtocolError, Retry::Never),
        ] {
            let origin = Origin::bind();
            let caller = origin.caller();
            let (failure, ()) = met(&origin, &caller, async |mut visitor: Visitor| {
                let (mut send, _receive) = visitor.request().await;
                send.reset(u32::try_from(code.value()).unwrap().into()).unwrap();
                visitor.keep();
            })
            .await;
            let error = failure_of(failure).error;
            assert_eq!((error.kind(), error.retry(), error.side()), (kind, retry, Side::Upstream), "{code}");
            assert_eq!(caller.pools.resting().1, 1, "the session goes on");
        }
    });
}

#[test]
fn a_goaway_sends_new_requests_elsewhere_and_lets_open_ones_finish() {
    on_worker(async {
        let origin = Origin::bind();
        let caller = origin.caller();
        let (open, (mut open_stream, visitor)) = met(&origin, &caller, async |mut visitor: Visitor| {
            let mut streams = visitor.request().await;
            streams.0.write_all(OK).await.unwrap();
            visitor.go_away(4).await;
            (streams, visitor)
        })
        .await;
        // The endpoint's word is on its way: whoever meets it is told that nothing was sent, or goes elsewhere at once.
        let answered = async {
            loop {
                match caller.get().await {
                    Ok(answer) => return answer,
                    Err(failure) => assert_eq!(failure.error.retry(), Retry::Always),
                }
            }
        };
        let (again, ()) = join!(answered, async {
            let mut second = origin.accept().await;
            let mut streams = second.request().await;
            answer(&mut streams).await;
            second.keep();
        });
        assert_eq!(body_of(again).await, "hello");
        open_stream.0.write_all(HELLO).await.unwrap();
        open_stream.0.finish().unwrap();
        assert_eq!(body_of(open.ok().unwrap()).await, "hello");
        // Its last stream is over: nobody needs the connection any more.
        visitor.connection.closed().await;
    });
}

#[test]
fn a_goaway_below_the_request_means_it_was_not_processed() {
    on_worker(async {
        let origin = Origin::bind();
        let caller = origin.caller();
        let (failure, _kept) = met(&origin, &caller, async |mut visitor: Visitor| {
            let streams = visitor.request().await;
            visitor.go_away(0).await;
            (streams, visitor)
        })
        .await;
        let error = failure_of(failure).error;
        assert_eq!((error.kind(), error.retry()), (Kind::ConnectionTerminated, Retry::Always));
        assert_eq!(caller.pools.resting().1, 0);
    });
}

#[test]
fn a_connection_that_breaks_is_not_met_again() {
    on_worker(async {
        // Fresh: the endpoint may have taken the request. Reused: it may have been closed as idle.
        for retry in [Retry::Never, Retry::IfReused] {
            let origin = Origin::bind();
            let caller = origin.caller();
            let (failure, ()) = join!(
                async {
                    if retry == Retry::IfReused {
                        body_of(caller.get().await.ok().unwrap()).await;
                    }
                    let session = caller.session(false).await.unwrap();
                    assert_eq!(session.is_reused(), retry == Retry::IfReused);
                    let failure = failure_of(session.send(request()).await);
                    assert_eq!(caller.pools.resting().1, 0, "at once");
                    failure
                },
                async {
                    let mut visitor = origin.accept().await;
                    if retry == Retry::IfReused {
                        answer(&mut visitor.request().await).await;
                    }
                    let _streams = visitor.request().await;
                    visitor.connection.close(0x100_u32.into(), b"");
                }
            );
            assert_eq!((failure.error.kind(), failure.error.retry()), (Kind::ConnectionTerminated, retry));
        }
    });
}

#[test]
fn an_endpoint_that_breaks_the_rules_is_left() {
    on_worker(async {
        let origin = Origin::bind();
        let caller = origin.caller();
        let (failure, closed) = met(&origin, &caller, async |mut visitor: Visitor| {
            let _streams = visitor.request().await;
            // RFC 9114 §7.2.4: SETTINGS come once.
            visitor.control.write_all(&[0x04, 0]).await.unwrap();
            visitor.connection.closed().await
        })
        .await;
        let error = failure_of(failure).error;
        assert_eq!((error.kind(), error.retry()), (Kind::HttpProtocolError, Retry::Never));
        assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{closed}");
        assert_eq!(caller.pools.resting().1, 0);
    });
}

#[test]
fn dropping_an_unanswered_request_cancels_its_stream_alone() {
    on_worker(async {
        let origin = Origin::bind();
        let caller = origin.caller();
        let ((), mut visitor) = join!(
            async {
                let session = caller.session(false).await.unwrap();
                let sent = tokio::time::timeout(Duration::from_millis(50), session.send(request())).await;
                assert!(sent.is_err());
            },
            async {
                let mut visitor = origin.accept().await;
                let (send, _receive) = visitor.request().await;
                let code = send.stopped().await.unwrap().expect("a code");
                assert_eq!(code.into_inner(), Code::REQUEST_CANCELLED.value());
                visitor
            }
        );
        let (answered, ()) = join!(caller.get(), async {
            answer(&mut visitor.request().await).await;
            visitor.keep();
        });
        assert_eq!(body_of(answered.ok().unwrap()).await, "hello");
        assert_eq!(caller.connects().0, 1);
    });
}

#[test]
fn an_answer_that_breaks_off_is_never_whole() {
    on_worker(async {
        for reset in [true, false] {
            let origin = Origin::bind();
            let caller = origin.caller();
            let (answered, _kept) = met(&origin, &caller, async |mut visitor: Visitor| {
                let (mut send, receive) = visitor.request().await;
                send.write_all(&[if reset { OK } else { OK_OF_TEN }, HELLO].concat()).await.unwrap();
                if reset {
                    // What was written reaches the other end before the stream is reset.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    send.reset(0x102_u32.into()).unwrap();
                } else {
                    send.finish().unwrap();
                }
                (visitor, send, receive)
            })
            .await;
            let body = answered.ok().unwrap().response.into_body();
            assert!(body.collect().await.is_err(), "reset: {reset}");
        }
    });
}

#[test]
fn an_idle_session_closes_and_one_with_a_stream_stays() {
    on_paused_worker(async {
        let origin = Origin::bind();
        let mut config = origin.config();
        config.pool.idle_timeout = Duration::from_secs(10);
        let caller = caller(config);
        origin.serve();
        let answer = caller.get().await.ok().unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(caller.pools.resting().1, 1);
        body_of(answer).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(caller.pools.resting().1, 1);
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert_eq!(caller.pools.resting().1, 0);
        assert_eq!(body_of(caller.get().await.ok().unwrap()).await, "hello");
        assert_eq!(caller.connects().0, 2);
    });
}

#[test]
fn an_old_session_takes_no_more_streams() {
    on_paused_worker(async {
        let origin = Origin::bind();
        let mut config = origin.config();
        config.pool.max_age = Duration::from_secs(10);
        let caller = caller(config);
        origin.serve();
        let open = caller.get().await.ok().unwrap();
        tokio::time::sleep(Duration::from_secs(12)).await;
        body_of(caller.get().await.ok().unwrap()).await;
        assert_eq!(caller.connects().0, 2);
        assert_eq!(body_of(open).await, "hello");
    });
}

#[test]
fn an_endpoint_that_says_nothing_is_waited_for_no_longer_than_the_connect_timeout() {
    on_paused_worker(async {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut config = upstream_config("api", &[silent.local_addr().unwrap()]);
        config.protocol = UpstreamProtocol::Http3;
        let caller = caller(config);
        let (a, b, c) = join!(caller.session(false), caller.session(false), caller.session(false));
        for outcome in [a, b, c] {
            assert_eq!(outcome.err().unwrap().kind(), Kind::ConnectionTimeout);
        }
        assert_eq!(caller.connects().0, 1, "those who waited are told the same");
    });
}

#[test]
fn a_session_dropped_unused_gives_its_stream_back() {
    on_worker(async {
        let origin = Origin::bind();
        let caller = origin.caller();
        origin.serve();
        let session = caller.session(false).await.unwrap();
        let Session::Http3(stream) = &session else { unreachable!() };
        let shared = Rc::clone(stream.0.session());
        assert_eq!(shared.life.open(), 1);
        drop(session);
        assert_eq!(shared.life.open(), 0);
        until(|| caller.pools.resting().1 == 1).await;
    });
}

#[test]
fn a_drained_worker_closes_its_sessions() {
    on_worker(async {
        let origin = Origin::bind();
        let caller = origin.caller();
        let (answered, visitor) = met(&origin, &caller, async |mut visitor: Visitor| {
            answer(&mut visitor.request().await).await;
            visitor
        })
        .await;
        body_of(answered.ok().unwrap()).await;
        caller.pools.close_idle();
        let closed = visitor.connection.closed().await;
        let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
        assert_eq!(close.error_code.into_inner(), Code::NO_ERROR.value());
        let counters = &caller.telemetry.counters;
        until(|| counters.bytes_upstream_in.value() > 1200 && counters.bytes_upstream_out.value() > 1200).await;
    });
}

/// An origin that takes early data, and the caller that had an answer of it and was closed.
async fn visited() -> (Origin, Arc<ClientTls>) {
    let origin = Origin(Endpoint::server(server(100, u32::MAX), "127.0.0.1:0".parse().unwrap()).unwrap());
    let tls = tls();
    let caller = early(&origin, &tls);
    let (answered, visitor) = met(&origin, &caller, async |mut visitor: Visitor| {
        let mut streams = visitor.request().await;
        assert!(!streams.1.is_0rtt(), "there is no ticket yet");
        answer(&mut streams).await;
        visitor
    })
    .await;
    body_of(answered.ok().unwrap()).await;
    caller.pools.close_idle();
    visitor.connection.closed().await;
    (origin, tls)
}

fn early(origin: &Origin, tls: &Arc<ClientTls>) -> Caller {
    let mut config = origin.config();
    config.quic.early_data = true;
    config.tls = Some(tls_settings());
    Caller::over(config, Some(Arc::clone(tls)))
}

#[test]
fn a_safe_request_goes_in_the_first_flight_and_others_wait() {
    on_worker(async {
        let (origin, tls) = visited().await;
        let caller = early(&origin, &tls);
        let (answered, mut visitor) = met(&origin, &caller, async |mut visitor: Visitor| {
            let mut streams = visitor.request().await;
            assert!(streams.1.is_0rtt());
            answer(&mut streams).await;
            visitor
        })
        .await;
        assert_eq!(body_of(answered.ok().unwrap()).await, "hello");
        // On another connection that begins early.
        caller.pools.close_idle();
        visitor.connection.closed().await;
        let caller = early(&origin, &tls);
        let post = Request::post("http://origin.test/").body(Body::empty()).unwrap();
        let session = caller.session(false).await.unwrap();
        let answered;
        (answered, visitor) = join!(session.send(post), async {
            let mut visitor = origin.accept().await;
            let mut streams = visitor.request().await;
            assert!(!streams.1.is_0rtt(), "it may do harm when it is sent again by others");
            answer(&mut streams).await;
            visitor
        });
        assert_eq!(body_of(answered.ok().unwrap()).await, "hello");
        assert_eq!(caller.connects().0, 1);
        visitor.keep();
    });
}

#[test]
fn what_was_not_taken_early_is_sent_again_on_a_connection_that_is_waited_for() {
    on_worker(async {
        let (origin, tls) = visited().await;
        // It has forgotten who was there.
        origin.0.set_server_config(Some(server(100, u32::MAX)));
        let caller = early(&origin, &tls);
        let (failure, visitor) = met(&origin, &caller, async |visitor: Visitor| visitor).await;
        let error = failure_of(failure).error;
        assert_eq!((error.kind(), error.retry()), (Kind::ConnectionTerminated, Retry::Always));
        visitor.connection.closed().await;
        let (answered, visitor) = met(&origin, &caller, async |mut visitor: Visitor| {
            answer(&mut visitor.request().await).await;
            visitor
        })
        .await;
        assert_eq!(body_of(answered.ok().unwrap()).await, "hello");
        visitor.keep();
    });
}

#[test]
fn an_endpoint_that_wants_no_early_data_is_asked_again_after_the_handshake() {
    on_worker(async {
        let (origin, tls) = visited().await;
        let caller = early(&origin, &tls);
        let (failure, mut visitor) = met(&origin, &caller, async |mut visitor: Visitor| {
            let (mut send, _) = visitor.request().await;
            // Status 425, by the static table of QPACK.
            send.write_all(&[0x01, 4, 0, 0, 0xff, 7]).await.unwrap();
            send.finish().unwrap();
            visitor
        })
        .await;
        assert_eq!(failure_of(failure).error.retry(), Retry::Always);
        let (answered, ()) = join!(caller.get(), async { answer(&mut visitor.request().await).await });
        assert_eq!(body_of(answered.ok().unwrap()).await, "hello");
        assert_eq!(caller.connects().0, 1);
        visitor.keep();
    });
}

/// An address where a process can go without a word, and another come in its place that knows none of its connections.
struct Mortal {
    origin: Origin,
    address: SocketAddr,
    leads_to: Rc<Cell<SocketAddr>>,
}

impl Mortal {
    async fn bind() -> Self {
        let origin = Origin::bind();
        let leads_to = Rc::new(Cell::new(origin.0.local_addr().unwrap()));
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::task::spawn_local(Self::relay(socket, Rc::clone(&leads_to)));
        Self { origin, address, leads_to }
    }

    /// Between the client, who speaks first, and who is there now.
    async fn relay(socket: UdpSocket, leads_to: Rc<Cell<SocketAddr>>) {
        let (mut client, mut datagram) = (None, [0; 2000]);
        while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
            let to = match from == leads_to.get() {
                true => client,
                false => (*client.get_or_insert(from) == from).then(|| leads_to.get()),
            };
            if let Some(to) = to {
                socket.send_to(&datagram[..length], to).await.unwrap();
            }
        }
    }

    fn config(&self) -> Upstream {
        let mut config = upstream_config("api", &[self.address]);
        config.protocol = UpstreamProtocol::Http3;
        config
    }

    /// Who was there hears and says nothing any more.
    fn restart(&mut self) -> Origin {
        let next = Origin::bind();
        self.leads_to.set(next.0.local_addr().unwrap());
        std::mem::replace(&mut self.origin, next)
    }
}

#[test]
fn an_endpoint_that_went_without_a_word_is_not_waited_for_until_the_idle_deadline() {
    on_paused_worker(async {
        let mut mortal = Mortal::bind().await;
        let caller = caller(mortal.config());
        let (answer, visitor) = join!(caller.get(), async {
            let mut visitor = mortal.origin.accept().await;
            answer(&mut visitor.request().await).await;
            visitor
        });
        assert_eq!(body_of(answer.ok().unwrap()).await, "hello");
        let _gone = mortal.restart();
        mortal.origin.serve();
        let lost = caller.session(false).await.unwrap();
        assert!(lost.is_reused());
        let lost = tokio::task::spawn_local(lost.send(request()));
        tokio::time::sleep(Duration::from_secs(20)).await;
        let session = caller.session(false).await.unwrap();
        assert!(!session.is_reused(), "a request is sent to nobody");
        assert_eq!(body_of(session.send(request()).await.ok().unwrap()).await, "hello");
        assert!(!lost.is_finished(), "its own deadline is the caller's");
        drop(visitor);
    });
}

#[test]
fn an_endpoint_that_takes_its_time_is_not_given_up() {
    on_paused_worker(async {
        let origin = Origin::bind();
        let caller = origin.caller();
        let slow = async {
            let mut visitor = origin.accept().await;
            for _ in 0..3 {
                let mut asked = visitor.request().await;
                tokio::time::sleep(Duration::from_secs(10)).await;
                answer(&mut asked).await;
            }
            visitor
        };
        let asking = async {
            for _ in 0..3 {
                assert_eq!(body_of(caller.get().await.ok().unwrap()).await, "hello");
            }
        };
        let (_visitor, ()) = join!(slow, asking);
        assert_eq!(caller.connects(), (1, 2));
    });
}

#[test]
fn a_goaway_below_a_request_with_a_body_means_the_same() {
    on_worker(async {
        let origin = Origin::bind();
        let caller = origin.caller();
        let session = caller.session(false);
        let (session, mut visitor) = join!(session, origin.accept());
        let mut upload = request();
        *upload.method_mut() = Method::POST;
        *upload.body_mut() = Body::full("all of it".into());
        let (failure, _streams) = join!(session.unwrap().send(upload), async {
            let streams = visitor.request().await;
            visitor.go_away(0).await;
            streams
        });
        let error = failure_of(failure).error;
        assert_eq!((error.kind(), error.retry()), (Kind::ConnectionTerminated, Retry::Always));
    });
}
