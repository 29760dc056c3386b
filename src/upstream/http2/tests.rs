use bytes::Bytes;
use h2::server::{Builder as OriginBuilder, Connection as OriginSession, SendResponse};
use h2::{Reason, RecvStream};
use http::Response;
use tokio::join;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::base::error::{Kind, Retry, Side};
use crate::body::exchange::{Exchange, Limits};
use crate::body::load::Load;
use crate::body::request::Source;
use crate::config::model::{Upstream, UpstreamProtocol};
use crate::upstream::client::Session;
use crate::upstream::fixtures::{
    Caller, body_of, failure_of, on_paused_worker, on_worker, request, until, upstream_config,
};

/// An origin that speaks HTTP/2 by prior knowledge.
struct Origin(TcpListener);

type Stream = (Request<RecvStream>, SendResponse<Bytes>);

impl Origin {
    async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn config(&self) -> Upstream {
        let mut config = upstream_config("api", &[self.0.local_addr().unwrap()]);
        config.protocol = UpstreamProtocol::Http2;
        config
    }

    async fn accept(&self, max_streams: u32) -> OriginSession<TcpStream, Bytes> {
        let stream = self.0.accept().await.unwrap().0;
        OriginBuilder::new().max_concurrent_streams(max_streams).handshake(stream).await.unwrap()
    }

    /// Accepts connections and answers every request with `hello`.
    fn serve(self, max_streams: u32) {
        tokio::task::spawn_local(async move {
            loop {
                let mut session = self.accept(max_streams).await;
                tokio::task::spawn_local(async move {
                    while let Some(Ok((_, stream))) = session.accept().await {
                        answer(stream);
                    }
                });
            }
        });
    }
}

fn answer(mut stream: SendResponse<Bytes>) {
    let mut body = stream.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"hello"), true).unwrap();
}

/// The next request; the connection goes on only while it is polled.
async fn next(session: &mut OriginSession<TcpStream, Bytes>) -> Stream {
    session.accept().await.unwrap().unwrap()
}

/// Keeps the connection going.
fn keep(mut session: OriginSession<TcpStream, Bytes>) {
    tokio::task::spawn_local(async move { while session.accept().await.is_some() {} });
}

#[test]
fn requests_share_one_connection() {
    on_worker(async {
        let origin = Origin::bind().await;
        let caller = Caller::new(origin.config());
        origin.serve(100);
        for turn in 0..5 {
            let session = caller.session(false).await.unwrap();
            assert!(session.is_multiplexed());
            assert_eq!(session.is_reused(), turn > 0);
            let answer = session.send(request()).await.ok().unwrap();
            assert_eq!(body_of(answer).await, "hello");
        }
        assert_eq!(caller.connects(), (1, 4));
    });
}

#[test]
fn a_burst_at_the_start_makes_one_connection() {
    on_worker(async {
        let origin = Origin::bind().await;
        let caller = std::rc::Rc::new(Caller::new(origin.config()));
        origin.serve(100);
        let requests: Vec<_> = (0..MAX_STREAMS)
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
fn another_connection_is_made_when_the_streams_run_out_and_places_come_back() {
    on_worker(async {
        let origin = Origin::bind().await;
        let caller = Caller::new(origin.config());
        origin.serve(2);
        // The first answer brings the endpoint's settings along.
        body_of(caller.get().await.ok().unwrap()).await;
        let mut answers = Vec::new();
        for _ in 0..5 {
            answers.push(caller.get().await.ok().unwrap());
        }
        assert_eq!(caller.connects().0, 3);
        assert_eq!(caller.pools.resting().1, 3);
        answers.clear();
        for _ in 0..2 {
            answers.push(caller.get().await.ok().unwrap());
        }
        assert_eq!(caller.connects().0, 3);
    });
}

#[test]
fn authority_comes_from_the_uri_and_host_is_left_out() {
    on_worker(async {
        let origin = Origin::bind().await;
        let caller = Caller::new(origin.config());
        let (_answer, (head, _session)) = join!(caller.get(), async {
            let mut session = origin.accept(100).await;
            let (head, stream) = next(&mut session).await;
            answer(stream);
            let _ = tokio::time::timeout(Duration::from_millis(50), session.accept()).await;
            (head, session)
        });
        assert_eq!(head.uri().authority().unwrap(), "origin.test");
        assert_eq!(head.uri().scheme_str(), Some("http"));
        assert!(!head.headers().contains_key("host"));
    });
}

#[test]
fn a_refused_stream_may_be_sent_again_and_the_session_goes_on() {
    on_worker(async {
        for (reason, kind, retry) in [
            (Reason::REFUSED_STREAM, Kind::ConnectionTerminated, Retry::Always),
            (Reason::INTERNAL_ERROR, Kind::ConnectionTerminated, Retry::Never),
            (Reason::CANCEL, Kind::ConnectionTerminated, Retry::Never),
            (Reason::PROTOCOL_ERROR, Kind::HttpProtocolError, Retry::Never),
        ] {
            let origin = Origin::bind().await;
            let caller = Caller::new(origin.config());
            let (failure, ()) = join!(caller.get(), async {
                let mut session = origin.accept(100).await;
                next(&mut session).await.1.send_reset(reason);
                keep(session);
            });
            let error = failure_of(failure).error;
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{reason}");
            assert_eq!(caller.pools.resting().1, 1);
        }
    });
}

#[test]
fn a_goaway_sends_new_requests_elsewhere_and_lets_open_ones_finish() {
    on_worker(async {
        let origin = Origin::bind().await;
        let caller = Caller::new(origin.config());
        let (open, mut session) = {
            let (open, session) = join!(caller.get(), async {
                let mut session = origin.accept(100).await;
                let (_, mut stream) = next(&mut session).await;
                let body = stream.send_response(Response::new(()), false).unwrap();
                session.graceful_shutdown();
                tokio::task::spawn_local(async move { while session.accept().await.is_some() {} });
                body
            });
            (open.ok().unwrap(), session)
        };
        // The endpoint's word is on its way: whoever meets it is told that nothing was sent, or goes elsewhere at once.
        let answered = async {
            loop {
                match caller.get().await {
                    Ok(answer) => return answer,
                    Err(failure) => assert_eq!(failure.error.retry(), Retry::Always),
                }
            }
        };
        let (answer, ()) = join!(answered, async {
            let mut second = origin.accept(100).await;
            let (_, stream) = next(&mut second).await;
            super::tests::answer(stream);
            keep(second);
        });
        assert_eq!(body_of(answer).await, "hello");
        session.send_data(Bytes::from_static(b"late"), true).unwrap();
        assert_eq!(body_of(open).await, "late");
    });
}

#[test]
fn a_goaway_below_the_request_means_it_was_not_processed() {
    on_worker(async {
        let origin = Origin::bind().await;
        let caller = Caller::new(origin.config());
        let (failure, ()) = join!(caller.get(), async {
            // Raw bytes: the crate's server would count the stream as accepted.
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut stream = origin.0.accept().await.unwrap().0;
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let mut seen = Vec::new();
            // Preface, SETTINGS, WINDOW_UPDATE, then the request's HEADERS (type 1).
            while !has_headers(&seen) {
                assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
            }
            stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
            stream.read_to_end(&mut seen).await.unwrap();
        });
        let error = failure_of(failure).error;
        assert_eq!((error.kind(), error.retry()), (Kind::ConnectionTerminated, Retry::Always));
        assert_eq!(caller.pools.resting().1, 0);
    });
}

/// Whether a client's bytes hold a whole HEADERS frame.
fn has_headers(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") else { return false };
    while rest.len() >= 9 {
        let length = 9 + usize::from(rest[1]) * 256 + usize::from(rest[2]);
        if rest.len() < length {
            return false;
        }
        if rest[3] == 1 {
            return true;
        }
        rest = &rest[length..];
    }
    false
}

#[test]
fn a_connection_that_breaks_is_not_met_again() {
    on_worker(async {
        let origin = Origin::bind().await;
        let caller = Caller::new(origin.config());
        // Fresh: the endpoint may have taken the request. Reused: it may have been closed as idle.
        for retry in [Retry::Never, Retry::IfReused] {
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
                    let mut session = origin.accept(100).await;
                    if retry == Retry::IfReused {
                        answer(next(&mut session).await.1);
                    }
                    let _stream = next(&mut session).await;
                    drop(session);
                }
            );
            assert_eq!((failure.error.kind(), failure.error.retry()), (Kind::ConnectionTerminated, retry));
        }
    });
}

#[test]
fn a_connection_is_given_up_only_where_nothing_came_since_the_request() {
    on_worker(async {
        let origin = Origin::bind().await;
        let caller = Caller::new(origin.config());
        origin.serve(100);
        let waiting = caller.session(false).await.unwrap();
        let pulse = waiting.pulse();
        body_of(caller.get().await.ok().unwrap()).await;
        pulse.overdue();
        assert_eq!(caller.pools.resting().1, 1, "another was served");
        // What the endpoint had on its way may still come.
        for _ in 0..100 {
            let pulse = waiting.pulse();
            tokio::time::sleep(Duration::from_millis(5)).await;
            pulse.overdue();
            if caller.pools.resting().1 == 0 {
                return;
            }
        }
        panic!("nothing comes, and nobody minds");
    });
}

#[test]
fn dropping_an_unanswered_request_resets_its_stream_alone() {
    on_worker(async {
        let origin = Origin::bind().await;
        let caller = Caller::new(origin.config());
        let ((), mut origin_session) = join!(
            async {
                let session = caller.session(false).await.unwrap();
                let sent = tokio::time::timeout(Duration::from_millis(50), session.send(request())).await;
                assert!(sent.is_err());
            },
            async {
                let mut session = origin.accept(100).await;
                let (_, mut stream) = next(&mut session).await;
                let reset = std::future::poll_fn(|cx| stream.poll_reset(cx));
                tokio::select! {
                    reason = reset => assert_eq!(reason.unwrap(), Reason::CANCEL),
                    _ = session.accept() => unreachable!(),
                }
                session
            }
        );
        let (answered, ()) = join!(caller.get(), async {
            answer(next(&mut origin_session).await.1);
            keep(origin_session);
        });
        assert_eq!(body_of(answered.ok().unwrap()).await, "hello");
        assert_eq!(caller.connects().0, 1);
    });
}

#[test]
fn an_idle_session_closes_and_one_with_a_stream_stays() {
    on_paused_worker(async {
        let origin = Origin::bind().await;
        let mut config = origin.config();
        config.pool.idle_timeout = Duration::from_secs(10);
        let caller = Caller::new(config);
        origin.serve(100);
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
        let origin = Origin::bind().await;
        let mut config = origin.config();
        config.pool.max_age = Duration::from_secs(10);
        let caller = Caller::new(config);
        origin.serve(100);
        let open = caller.get().await.ok().unwrap();
        tokio::time::sleep(Duration::from_secs(12)).await;
        body_of(caller.get().await.ok().unwrap()).await;
        assert_eq!(caller.connects().0, 2);
        assert_eq!(body_of(open).await, "hello");
    });
}

#[test]
fn a_failed_connect_is_told_to_all_who_waited_for_it() {
    on_worker(async {
        let address = Origin::bind().await.0.local_addr().unwrap();
        let mut config = upstream_config("api", &[address]);
        config.protocol = UpstreamProtocol::Http2;
        let caller = Caller::new(config);
        let (a, b, c) = join!(caller.session(false), caller.session(false), caller.session(false));
        for outcome in [a, b, c] {
            assert_eq!(outcome.err().unwrap().kind(), Kind::ConnectionRefused);
        }
        assert_eq!(caller.connects().0, 1);
    });
}

#[test]
fn a_session_dropped_unused_gives_its_stream_back() {
    on_worker(async {
        let origin = Origin::bind().await;
        let caller = Caller::new(origin.config());
        origin.serve(100);
        let session = caller.session(false).await.unwrap();
        let Session::Http2(stream) = &session else { unreachable!() };
        let shared = Rc::clone(stream.0.session());
        assert_eq!(shared.life.open(), 1);
        drop(session);
        assert_eq!(shared.life.open(), 0);
        until(|| caller.pools.resting().1 == 1).await;
    });
}

#[test]
fn a_failing_request_body_is_not_blamed_on_the_endpoint() {
    on_worker(async {
        // The body of an answer that breaks off stands in for a client that goes away inside its body.
        let breaking_origin = crate::upstream::fixtures::Origin::bind().await;
        let breaking_caller = Caller::new(upstream_config("breaking", &[breaking_origin.address()]));
        let (broken, breaking) = join!(breaking_caller.get(), async {
            let mut connection = breaking_origin.accept().await;
            connection.request().await;
            connection.say("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await;
            connection
        });
        let origin = Origin::bind().await;
        let caller = Caller::new(origin.config());
        let second = Duration::from_secs(1);
        let limits = Limits { client_stall: second, stream_idle: second, judge_client: false };
        let exchange = Exchange::begin(&Load::new(std::sync::Arc::clone(&caller.telemetry)), limits);
        let source = Source::new(broken.ok().unwrap().response.into_body(), exchange, None, 0, |_| ());
        let upload = Request::post("http://origin.test/").body(Body::Request(source.attempt())).unwrap();
        let session = caller.session(false).await.unwrap();
        let (failure, _stream) = join!(session.send(upload), async {
            let mut session = origin.accept(100).await;
            let stream = next(&mut session).await;
            drop(breaking);
            keep(session);
            stream
        });
        let error = failure_of(failure).error;
        assert_eq!((error.kind(), error.side()), (Kind::ClientGone, Side::Downstream));
        assert_eq!(caller.pools.resting().1, 1);
    });
}
