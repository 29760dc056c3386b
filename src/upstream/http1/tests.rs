use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::join;

use super::*;
use crate::base::error::Side;
use crate::body::exchange::{Exchange, Limits};
use crate::body::load::Load;
use crate::body::phase_clock::Phase;
use crate::body::request::Source;
use crate::config::model::EndpointAddress;
use crate::upstream::client::Session;
use crate::upstream::fixtures::{Caller, Origin, body_of, failure_of, on_worker, request, until, upstream_config};

async fn stage() -> (Caller, Origin) {
    let origin = Origin::bind().await;
    (Caller::new(upstream_config("api", &[origin.address()])), origin)
}

/// One request on a connection that has served another before.
async fn on_reused(caller: &Caller, origin: &Origin) -> (Session, crate::upstream::fixtures::OriginConnection) {
    let connection = {
        let (answer, connection) = join!(caller.get(), async {
            let mut connection = origin.accept().await;
            connection.answer().await;
            connection
        });
        body_of(answer.ok().unwrap()).await;
        connection
    };
    until(|| caller.pools.resting().0 == 1).await;
    let session = caller.session(false).await.unwrap();
    assert!(session.is_reused());
    (session, connection)
}

#[test]
fn a_connection_is_used_again_without_another_connect() {
    on_worker(async {
        let (caller, origin) = stage().await;
        let origin_task = async {
            let mut connection = origin.accept().await;
            for _ in 0..5 {
                connection.answer().await;
            }
            connection
        };
        let requests = async {
            for turn in 0..5 {
                let session = caller.session(false).await.unwrap();
                assert_eq!(session.is_reused(), turn > 0);
                assert_eq!(caller.phase.get(), if turn > 0 { Phase::Queue } else { Phase::Connect });
                let answer = session.send(request()).await.ok().unwrap();
                assert_eq!(body_of(answer).await, "hello");
                until(|| caller.pools.resting().0 == 1).await;
            }
        };
        let (_connection, ()) = join!(origin_task, requests);
        assert_eq!(caller.connects(), (1, 4));
        assert_eq!(caller.telemetry.counters.bytes_upstream_in.value(), 5 * 43);
        assert!(caller.telemetry.counters.bytes_upstream_out.value() > 0);
    });
}

#[test]
fn an_answer_without_a_body_gives_the_connection_back_at_once() {
    on_worker(async {
        let (caller, origin) = stage().await;
        let (answer, _connection) = join!(caller.get(), async {
            let mut connection = origin.accept().await;
            connection.request().await;
            connection.say("HTTP/1.1 204 No Content\r\n\r\n").await;
            connection
        });
        assert_eq!(answer.ok().unwrap().response.status(), 204);
        assert_eq!(caller.pools.resting().0, 1);
    });
}

#[test]
fn the_request_goes_out_as_http_1_1_whatever_its_version_was() {
    on_worker(async {
        let (caller, origin) = stage().await;
        let session = caller.session(false).await.unwrap();
        let mut request = Request::get("/path?query").header("host", "a").body(Body::empty()).unwrap();
        *request.version_mut() = Version::HTTP_2;
        let (_answer, head) = join!(session.send(request), async {
            let mut connection = origin.accept().await;
            let head = connection.request().await;
            connection.say("HTTP/1.1 204 No Content\r\n\r\n").await;
            head
        });
        assert!(head.starts_with("GET /path?query HTTP/1.1\r\nhost: a\r\n"), "{head}");
    });
}

#[test]
fn an_idle_connection_that_closes_is_never_met_by_a_request() {
    on_worker(async {
        let (caller, origin) = stage().await;
        let (session, connection) = on_reused(&caller, &origin).await;
        drop(session);
        until(|| caller.pools.resting().0 == 1).await;
        drop(connection);
        until(|| caller.pools.resting().0 == 0).await;
        let (answer, ()) = join!(caller.get(), async { origin.accept().await.answer().await });
        assert!(answer.is_ok());
    });
}

#[test]
fn bytes_on_an_idle_connection_close_it() {
    on_worker(async {
        let (caller, origin) = stage().await;
        let (session, mut connection) = on_reused(&caller, &origin).await;
        drop(session);
        connection.say("HTTP/1.1 408 Request Timeout\r\n\r\n").await;
        until(|| caller.pools.resting().0 == 0).await;
        assert!(connection.is_closed().await);
    });
}

#[test]
fn a_request_that_never_left_is_handed_back() {
    on_worker(async {
        let (caller, origin) = stage().await;
        let (session, connection) = on_reused(&caller, &origin).await;
        drop(connection);
        until(|| matches!(&session, Session::Http1(session) if session.slot.closed.get())).await;
        let failure = failure_of(session.send(request()).await);
        assert_eq!(failure.error.kind(), Kind::ConnectionTerminated);
        assert_eq!(failure.error.retry(), Retry::Always);
        assert_eq!(failure.request.unwrap().headers()["host"], "origin.test");
    });
}

#[test]
fn a_close_before_the_answer_is_worth_a_retry_only_on_a_reused_connection() {
    on_worker(async {
        for reset in [false, true] {
            let (caller, origin) = stage().await;
            let (failure, ()) = join!(caller.get(), async {
                let mut connection = origin.accept().await;
                connection.request().await;
                if reset {
                    connection.reset();
                }
            });
            let error = failure_of(failure).error;
            assert_eq!((error.kind(), error.retry()), (Kind::ConnectionTerminated, Retry::Never));

            let (session, mut connection) = on_reused(&caller, &origin).await;
            let (failure, ()) = join!(session.send(request()), async {
                connection.request().await;
                if reset {
                    connection.reset();
                }
            });
            let failure = failure_of(failure);
            assert!(failure.request.is_none(), "it may have been processed");
            assert_eq!(failure.error.kind(), Kind::ConnectionTerminated);
            assert_eq!(failure.error.retry(), Retry::IfReused);
        }
    });
}

#[test]
fn a_close_inside_the_head_is_never_worth_a_retry() {
    on_worker(async {
        let (caller, origin) = stage().await;
        let (session, mut connection) = on_reused(&caller, &origin).await;
        let (failure, ()) = join!(session.send(request()), async {
            connection.request().await;
            connection.say("HTTP/1.1 200 OK\r\ncontent-le").await;
            drop(connection);
        });
        let error = failure_of(failure).error;
        assert_eq!((error.kind(), error.retry()), (Kind::ConnectionTerminated, Retry::Never));
    });
}

#[test]
fn what_is_no_answer_is_a_protocol_error() {
    let big = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(MAX_HEAD));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
    for (bytes, kind) in [
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", Kind::HttpProtocolError),
        ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Kind::HttpProtocolError),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", Kind::HttpProtocolError),
        (&big, Kind::HttpResponseHeaderSectionSize),
        (&many, Kind::HttpResponseHeaderSectionSize),
    ] {
        on_worker(async {
            let (caller, origin) = stage().await;
            let (failure, _connection) = join!(caller.get(), async {
                let mut connection = origin.accept().await;
                connection.request().await;
                let _ = connection.stream.write_all(bytes.as_bytes()).await;
                connection
            });
            let error = failure_of(failure).error;
            assert_eq!(
                (error.kind(), error.retry(), error.side()),
                (kind, Retry::Never, Side::Upstream),
                "{bytes:.40}"
            );
            assert_eq!(caller.pools.resting().0, 0);
        });
    }
}

#[test]
fn informational_answers_come_before_the_final_one() {
    on_worker(async {
        let (caller, origin) = stage().await;
        let (answer, ()) = join!(caller.get(), async {
            let mut connection = origin.accept().await;
            connection.request().await;
            connection.say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await;
            connection.say("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
        });
        assert_eq!(answer.ok().unwrap().response.status(), 404);
    });
}

#[test]
fn a_101_gives_the_connection_with_the_bytes_that_came_along() {
    on_worker(async {
        for together in [true, false] {
            let (caller, origin) = stage().await;
            let upgrade = request();
            let session = caller.session(false).await.unwrap();
            let (answer, said) = join!(session.send(upgrade), async {
                let mut connection = origin.accept().await;
                connection.request().await;
                let along = if together { "early" } else { "" };
                connection.say(&format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n{along}")).await;
                (connection, along)
            });
            let (mut connection, along) = said;
            let mut channel = answer.ok().unwrap().upgraded.unwrap().await.unwrap();
            let mut early = vec![0; along.len()];
            channel.read_exact(&mut early).await.unwrap();
            assert_eq!(early, along.as_bytes());
            connection.say("down").await;
            let mut down = [0; 4];
            channel.read_exact(&mut down).await.unwrap();
            assert_eq!(&down, b"down");
            channel.write_all(b"up").await.unwrap();
            let mut up = [0; 2];
            connection.stream.read_exact(&mut up).await.unwrap();
            assert_eq!(&up, b"up");
            assert_eq!(caller.pools.resting().0, 0);
        }
    });
}

#[test]
fn a_request_given_up_half_way_closes_its_connection() {
    on_worker(async {
        let (caller, origin) = stage().await;
        let session = caller.session(false).await.unwrap();
        let mut connection = tokio::select! {
            _ = session.send(request()) => unreachable!(),
            connection = async {
                let mut connection = origin.accept().await;
                connection.request().await;
                connection
            } => connection,
        };
        assert!(connection.is_closed().await);
        assert_eq!(caller.pools.resting().0, 0);
    });
}

#[test]
fn a_body_given_up_half_way_closes_its_connection() {
    on_worker(async {
        let (caller, origin) = stage().await;
        let (answer, mut connection) = join!(caller.get(), async {
            let mut connection = origin.accept().await;
            connection.request().await;
            connection.say("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await;
            connection
        });
        drop(answer);
        assert!(connection.is_closed().await);
        assert_eq!(caller.pools.resting().0, 0);
    });
}

#[test]
fn a_connection_whose_body_is_still_coming_is_not_idle() {
    on_worker(async {
        let (caller, origin) = stage().await;
        let (answer, mut connection) = join!(caller.get(), async {
            let mut connection = origin.accept().await;
            connection.request().await;
            connection.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
            connection
        });
        let mut body = answer.ok().unwrap().response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        assert_eq!(caller.pools.resting().0, 0);
        connection.say("0\r\n\r\n").await;
        assert!(body.frame().await.is_none());
        until(|| caller.pools.resting().0 == 1).await;
    });
}

#[test]
fn connection_close_and_http_1_0_are_not_pooled() {
    for head in ["HTTP/1.1 200 OK\r\nconnection: close\r\n", "HTTP/1.0 200 OK\r\n"] {
        on_worker(async {
            let (caller, origin) = stage().await;
            let (answer, mut connection) = join!(caller.get(), async {
                let mut connection = origin.accept().await;
                connection.request().await;
                connection.say(&format!("{head}content-length: 5\r\n\r\nhello")).await;
                connection
            });
            assert_eq!(body_of(answer.ok().unwrap()).await, "hello");
            assert!(connection.is_closed().await);
            assert_eq!(caller.pools.resting().0, 0);
        });
    }
}

#[test]
fn an_unused_session_goes_back_to_the_pool() {
    on_worker(async {
        let (caller, origin) = stage().await;
        let (session, _connection) = on_reused(&caller, &origin).await;
        assert_eq!(caller.pools.resting().0, 0);
        drop(session);
        assert_eq!(caller.pools.resting().0, 1);
        drop(caller.session(true).await.unwrap());
        until(|| caller.pools.resting().0 == 2).await;
    });
}

#[test]
fn a_failing_request_body_is_not_blamed_on_the_endpoint() {
    on_worker(async {
        let (caller, origin) = stage().await;
        // The body of an answer that breaks off stands in for a client that goes away inside its body.
        let (answer, breaking) = join!(caller.get(), async {
            let mut connection = origin.accept().await;
            connection.request().await;
            connection.say("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await;
            connection
        });
        let second = std::time::Duration::from_secs(1);
        let limits = Limits { client_stall: second, stream_idle: second, judge_client: false };
        let exchange = Exchange::begin(&Load::new(std::sync::Arc::clone(&caller.telemetry)), limits);
        let source = Source::new(answer.ok().unwrap().response.into_body(), exchange, None, 0, |_| ());
        let upload = Request::post("/").header("host", "a").body(Body::Request(source.attempt())).unwrap();
        let session = caller.session(true).await.unwrap();
        let (failure, ()) = join!(session.send(upload), async {
            let mut connection = origin.accept().await;
            connection.request().await;
            drop(breaking);
            assert!(connection.stream.read_to_end(&mut Vec::new()).await.is_ok());
        });
        let error = failure_of(failure).error;
        assert_eq!((error.kind(), error.side()), (Kind::ClientGone, Side::Downstream));
    });
}

#[test]
fn unix_sockets_work_and_a_missing_one_is_refused() {
    on_worker(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let mut config = upstream_config("api", &["127.0.0.1:1".parse().unwrap()]);
        config.endpoints[0].address = EndpointAddress::Unix(path.clone());
        let caller = Caller::new(config);
        let error = caller.session(false).await.err().unwrap();
        assert_eq!((error.kind(), error.retry()), (Kind::ConnectionRefused, Retry::Always));
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let (answer, ()) = join!(caller.get(), async {
            let mut stream = listener.accept().await.unwrap().0;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        });
        assert_eq!(answer.ok().unwrap().response.status(), 204);
    });
}

#[test]
fn an_answer_before_the_whole_request_ends_the_connection_though_the_endpoint_takes_nothing() {
    on_worker(async {
        let (caller, origin) = stage().await;
        let (answer, mut client) = join!(caller.get(), async {
            let mut connection = origin.accept().await;
            connection.request().await;
            connection.say("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
            connection
        });
        let client =
            tokio::task::spawn_local(async move { while client.stream.write_all(&[0; 65_536]).await.is_ok() {} });
        let second = std::time::Duration::from_secs(1);
        let limits = Limits { client_stall: second, stream_idle: second, judge_client: false };
        let exchange = Exchange::begin(&Load::new(std::sync::Arc::clone(&caller.telemetry)), limits);
        let source = Source::new(answer.ok().unwrap().response.into_body(), exchange, None, 0, |_| ());
        let upload = Request::post("/").header("host", "a").body(Body::Request(source.attempt())).unwrap();
        let session = caller.session(true).await.unwrap();
        let Session::Http1(http1) = &session else { panic!("another version") };
        let slot = Rc::clone(&http1.slot);
        let (answer, _connection) = join!(session.send(upload), async {
            let mut connection = origin.accept().await;
            connection.request().await;
            connection.say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
            connection
        });
        assert_eq!(body_of(answer.ok().unwrap()).await, "hello");
        let sent = || caller.telemetry.counters.bytes_upstream_out.value();
        let (mut before, mut turns) = (0, 0);
        // Until nothing more fits on the way.
        until(|| {
            turns = if before == sent() { turns + 1 } else { 0 };
            before = sent();
            turns > 1000
        })
        .await;
        source.abandon();
        client.await.unwrap();
        until(|| slot.closed.get()).await;
        assert_eq!(caller.pools.resting().0, 0);
    });
}
