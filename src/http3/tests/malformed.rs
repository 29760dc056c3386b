//! What a peer must not do, and the code that each of it ends the stream or the connection with.

use http::Response;
use http_body_util::BodyExt;
use tokio::task::spawn_local;

use super::support::*;
use crate::http3::frame::kind;
use crate::http3::*;

/// A server towards which `misbehave` is done.
fn server_says<F>(misbehave: F) -> Code
where
    F: AsyncFnOnce(&mut Rude),
{
    on_worker(async {
        let link = link().await;
        let served = run(&link, Config::default(), async |request, _| {
            let (parts, body) = request.into_parts();
            drop(parts);
            drop(whole(body).await);
            Response::new(full("answered"))
        });
        let mut rude = Rude::new(&link.client);
        misbehave(&mut rude).await;
        let code = rude.closed_with().await;
        let closed = served.closed.await.unwrap();
        assert_eq!((closed.code, closed.side), (code, Side::Local));
        code
    })
}

/// A client towards which `misbehave` is done.
fn client_says<F>(misbehave: F) -> Code
where
    F: AsyncFnOnce(&mut Rude),
{
    on_worker(async {
        let link = link().await;
        let (_sender, driver) = connect(&link, Config::default());
        let mut rude = Rude::new(&link.server);
        misbehave(&mut rude).await;
        let code = rude.closed_with().await;
        let closed = driver.await.unwrap();
        assert_eq!((closed.code, closed.side), (code, Side::Local));
        code
    })
}

/// What the server resets a request stream with that carries `bytes` and ends.
fn stream_says(bytes: Vec<u8>) -> Code {
    on_worker(async {
        let link = link().await;
        let served = run(&link, Config::default(), async |request, _| {
            drop(whole(request.into_body()).await);
            std::future::pending().await
        });
        let mut rude = Rude::new(&link.client);
        rude.control(&[]).await;
        let mut answered = rude.request(&bytes).await;
        let reset = tokio::time::timeout(std::time::Duration::from_secs(5), reset_with(&mut answered)).await;
        let code = reset.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&bytes)));
        assert!(link.client.close_reason().is_none());
        while served.control.open() > 0 {
            tokio::task::yield_now().await;
        }
        code
    })
}

/// What a client makes of an answer: the code and scope of its failure.
fn answer_says(bytes: Vec<u8>) -> (Code, Scope) {
    on_worker(async {
        let link = link().await;
        let (sender, _driver) = connect(&link, Config::default());
        let mut rude = Rude::new(&link.server);
        rude.control(&[]).await;
        let answering = link.server.clone();
        spawn_local(async move {
            let (mut send, _recv) = answering.accept_bi().await.unwrap();
            send.write_all(&bytes).await.unwrap();
            let _ = send.finish();
            answering.closed().await;
        });
        let error = match sender.send(get("/"), drop).await {
            Ok(answer) => whole(answer.into_body()).await.unwrap_err(),
            Err(failed) => {
                assert!(failed.request.is_none());
                failed.error
            }
        };
        assert_eq!(error.side(), Side::Local);
        assert_eq!(sender.is_open(), error.scope() == Scope::Stream);
        (error.code(), error.scope())
    })
}

#[test]
fn streams_that_must_stay_open() {
    // RFC 9114 §6.2.1, RFC 9204 §4.2
    for kind in [0, 2, 3] {
        let end = async |rude: &mut Rude| {
            let bytes: &[u8] = if kind == 0 { &[0, 4, 0] } else { &[kind] };
            rude.uni(bytes).await.finish().unwrap();
        };
        assert_eq!(server_says(end), Code::CLOSED_CRITICAL_STREAM);
        assert_eq!(client_says(end), Code::CLOSED_CRITICAL_STREAM);
    }
}

#[test]
fn our_streams_must_stay_open_too() {
    on_worker(async {
        let link = link().await;
        let served = run(&link, Config::default(), async |_, _| Response::new(full("")));
        let mut rude = Rude::new(&link.client);
        rude.control(&[]).await;
        let mut control = link.client.accept_uni().await.unwrap();
        control.stop(0u32.into()).unwrap();
        // Who has an answer to what was sent later has told of it.
        let mut answered = rude.request(&headers(&GET)).await;
        answered.read_to_end(1000).await.unwrap();
        // It is noticed when there is something to say.
        served.control.drain();
        assert_eq!(rude.closed_with().await, Code::CLOSED_CRITICAL_STREAM);
        assert_eq!(served.closed.await.unwrap().code, Code::CLOSED_CRITICAL_STREAM);
    });
}

#[test]
fn streams_that_may_not_be() {
    for kind in [0, 2, 3] {
        let twice = async |rude: &mut Rude| {
            let bytes: &[u8] = if kind == 0 { &[0, 4, 0] } else { &[kind] };
            rude.uni(bytes).await;
            rude.uni(bytes).await;
        };
        assert_eq!(server_says(twice), Code::STREAM_CREATION_ERROR);
        assert_eq!(client_says(twice), Code::STREAM_CREATION_ERROR);
    }
    // RFC 9114 §6.2.2, §4.6
    let push = async |rude: &mut Rude| rude.say(&[1, 0]).await;
    assert_eq!(server_says(push), Code::STREAM_CREATION_ERROR);
    assert_eq!(client_says(push), Code::ID_ERROR);
    // RFC 9114 §6.1
    let request = async |rude: &mut Rude| drop(rude.open(&headers(&GET)).await);
    assert_eq!(client_says(request), Code::STREAM_CREATION_ERROR);
}

#[test]
fn streams_of_unknown_types_are_refused_and_no_more() {
    on_worker(async {
        let link = link().await;
        let _served = run(&link, Config::default(), async |_, _| Response::new(full("")));
        let mut rude = Rude::new(&link.client);
        rude.control(&[]).await;
        let stream = rude.uni(&[0x21, 1, 2, 3]).await;
        let stopped = stream.stopped().await.unwrap().unwrap();
        assert_eq!(Code::from(stopped), Code::STREAM_CREATION_ERROR);
        // One that ends before its type is known is none of our business.
        rude.uni(&[0x40]).await.finish().unwrap();
        let mut answered = rude.request(&headers(&GET)).await;
        assert!(!answered.read_to_end(1000).await.unwrap().is_empty());
    });
}

#[test]
fn control_frames_that_may_not_be() {
    let mut cases = vec![
        (vec![0, 0x21, 0], Code::MISSING_SETTINGS),
        (vec![0, 7, 1, 0], Code::MISSING_SETTINGS),
        (vec![0, 4, 0, 4, 0], Code::FRAME_UNEXPECTED),
        (vec![0, 4, 2, 2, 0], Code::SETTINGS_ERROR),
        (vec![0, 4, 1, 6], Code::FRAME_ERROR),
        (vec![0, 4, 0, 7, 2, 0, 0], Code::FRAME_ERROR),
        (vec![0, 4, 0, 0, 0], Code::FRAME_UNEXPECTED),
        (vec![0, 4, 0, 1, 0], Code::FRAME_UNEXPECTED),
        (vec![0, 4, 0, 5, 0], Code::FRAME_UNEXPECTED),
        (vec![0, 4, 0, 3, 1, 0], Code::ID_ERROR),
    ];
    for of_http2 in [2, 6, 8, 9] {
        cases.push((vec![0, 4, 0, of_http2, 0], Code::FRAME_UNEXPECTED));
    }
    for (bytes, code) in &cases {
        assert_eq!(server_says(async |rude| rude.say(bytes).await), *code, "{bytes:?}");
        assert_eq!(client_says(async |rude| rude.say(bytes).await), *code, "{bytes:?}");
    }
    let by_client = [
        // RFC 9114 §5.2, §7.2.7: an id that rises, one that falls.
        ([frame_of(kind::GOAWAY, &number(0)), frame_of(kind::GOAWAY, &number(1))].concat(), Code::ID_ERROR),
        ([frame_of(kind::MAX_PUSH_ID, &number(5)), frame_of(kind::MAX_PUSH_ID, &number(4))].concat(), Code::ID_ERROR),
        // RFC 9218 §7.2
        (frame_of(kind::PRIORITY_UPDATE, &number(1)), Code::ID_ERROR),
        (frame_of(kind::PRIORITY_UPDATE_PUSH, &number(0)), Code::ID_ERROR),
    ];
    for (bytes, code) in &by_client {
        assert_eq!(server_says(async |rude| rude.say(&[&[0, 4, 0], &bytes[..]].concat()).await), *code, "{bytes:?}");
    }
    let by_server = [
        (frame_of(kind::GOAWAY, &number(1)), Code::ID_ERROR),
        ([frame_of(kind::GOAWAY, &number(0)), frame_of(kind::GOAWAY, &number(4))].concat(), Code::ID_ERROR),
        (frame_of(kind::MAX_PUSH_ID, &number(1)), Code::FRAME_UNEXPECTED),
        (frame_of(kind::PRIORITY_UPDATE, &number(0)), Code::FRAME_UNEXPECTED),
    ];
    for (bytes, code) in &by_server {
        // A request under way, so that GOAWAY alone does not end the connection.
        let code_said = on_worker(async {
            let link = link().await;
            let (sender, driver) = connect(&link, Config::default());
            let asking = spawn_local(async move { drop(sender.send(get("/"), drop).await) });
            let _stream = link.server.accept_bi().await.unwrap();
            let mut rude = Rude::new(&link.server);
            rude.control(bytes).await;
            let code = rude.closed_with().await;
            assert_eq!(driver.await.unwrap().code, code);
            asking.await.unwrap();
            code
        });
        assert_eq!(code_said, *code, "{bytes:?}");
    }
}

#[test]
fn request_frames_that_may_not_be() {
    let mut cases = vec![
        (frame_of(kind::DATA, b"x"), Code::FRAME_UNEXPECTED),
        (frame_of(kind::SETTINGS, &[]), Code::FRAME_UNEXPECTED),
        (frame_of(kind::GOAWAY, &[0]), Code::FRAME_UNEXPECTED),
        (frame_of(kind::MAX_PUSH_ID, &[0]), Code::FRAME_UNEXPECTED),
        (frame_of(kind::CANCEL_PUSH, &[0]), Code::FRAME_UNEXPECTED),
        (frame_of(kind::PUSH_PROMISE, &[0]), Code::FRAME_UNEXPECTED),
        ([headers(&POST), headers(&[("x", "y")]), frame_of(kind::DATA, b"x")].concat(), Code::FRAME_UNEXPECTED),
        ([headers(&POST), headers(&[("x", "y")]), headers(&[("x", "y")])].concat(), Code::FRAME_UNEXPECTED),
        // RFC 9114 §7.1: the stream ends within a frame.
        ([headers(&POST), vec![0, 5, 1, 2]].concat(), Code::FRAME_ERROR),
        (vec![1, 5, 0], Code::FRAME_ERROR),
        (vec![0x40], Code::FRAME_ERROR),
        (vec![1, 1, 0], Code::QPACK_DECOMPRESSION_FAILED),
        (vec![1, 0], Code::QPACK_DECOMPRESSION_FAILED),
    ];
    for of_http2 in [2, 6, 8, 9] {
        cases.push((vec![of_http2, 0], Code::FRAME_UNEXPECTED));
    }
    for (bytes, code) in &cases {
        let misbehave = async |rude: &mut Rude| {
            rude.control(&[]).await;
            rude.request(bytes).await;
            let closed = tokio::time::timeout(std::time::Duration::from_secs(5), rude.closed_with()).await;
            assert_eq!(closed, Ok(*code), "{bytes:?}");
        };
        assert_eq!(server_says(misbehave), *code, "{bytes:?}");
    }
}

/// An endpoint over HTTP/1.1 has all it needs with the trailers, and nobody reads on for it.
#[test]
fn what_follows_trailers_is_judged_with_them() {
    for frame in [frame_of(kind::DATA, b"x"), headers(&[("x", "y")])] {
        on_worker(async {
            let link = link().await;
            let _served = run(&link, Config::default(), async |request, _| {
                let mut body = request.into_body();
                while body.frame().await.unwrap().is_ok_and(|frame| frame.is_data()) {}
                std::future::pending().await
            });
            let mut rude = Rude::new(&link.client);
            rude.control(&[]).await;
            rude.request(&[headers(&POST), headers(&[("x", "y")]), frame].concat()).await;
            let closed = tokio::time::timeout(std::time::Duration::from_secs(5), rude.closed_with()).await;
            assert_eq!(closed, Ok(Code::FRAME_UNEXPECTED));
        });
    }
}

#[test]
fn requests_that_are_malformed() {
    let with = |more: &[(&'static str, &'static str)]| headers(&[&POST, more].concat());
    let but = |name: &str, value: &'static str| {
        let fields = POST.map(|field| if field.0 == name { (field.0, value) } else { field });
        headers(&fields)
    };
    let without = |name: &str| headers(&POST.into_iter().filter(|field| field.0 != name).collect::<Vec<_>>());
    let cases = vec![
        without(":method"),
        without(":scheme"),
        without(":path"),
        but(":path", ""),
        but(":authority", ""),
        with(&[(":method", "GET")]),
        with(&[("x", "y"), (":path", "/")]),
        with(&[(":unknown", "y")]),
        with(&[(":status", "200")]),
        with(&[("X-Upper", "y")]),
        with(&[("bad name", "y")]),
        with(&[("x", "a\r\nb")]),
        with(&[("connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("te", "gzip")]),
        with(&[("content-length", "x")]),
        with(&[("content-length", "1"), ("content-length", "2")]),
        // RFC 9114 §4.1.2: the length is not what was announced.
        with(&[("content-length", "1")]),
        [with(&[("content-length", "3")]), frame_of(kind::DATA, b"ab")].concat(),
        [with(&[("content-length", "1")]), frame_of(kind::DATA, b"ab")].concat(),
        [with(&[("content-length", "3")]), frame_of(kind::DATA, b"ab"), headers(&[("x", "y")])].concat(),
        // RFC 9114 §4.3: no pseudo-header among the trailers.
        [with(&[]), headers(&[(":path", "/")])].concat(),
    ];
    for bytes in cases {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(stream_says(bytes), Code::MESSAGE_ERROR, "{shown}");
    }
    // RFC 9114 §4.1
    assert_eq!(stream_says(Vec::new()), Code::REQUEST_INCOMPLETE);
    assert_eq!(stream_says(vec![0x21, 1, 0]), Code::REQUEST_INCOMPLETE);
}

#[test]
fn answers_that_are_malformed() {
    let ok = || headers(&[(":status", "200")]);
    let stream = |code| (code, Scope::Stream);
    let connection = |code| (code, Scope::Connection);
    let cases = vec![
        (headers(&[]), stream(Code::MESSAGE_ERROR)),
        (headers(&[(":status", "99")]), stream(Code::MESSAGE_ERROR)),
        (headers(&[(":status", "101")]), stream(Code::MESSAGE_ERROR)),
        (headers(&[(":status", "200"), (":path", "/")]), stream(Code::MESSAGE_ERROR)),
        (headers(&[(":status", "200"), ("connection", "close")]), stream(Code::MESSAGE_ERROR)),
        (headers(&[(":status", "200"), ("content-length", "5")]), stream(Code::MESSAGE_ERROR)),
        (headers(&[(":status", "103")]), stream(Code::MESSAGE_ERROR)),
        (Vec::new(), stream(Code::MESSAGE_ERROR)),
        ([headers(&[(":status", "204")]), frame_of(kind::DATA, b"x")].concat(), stream(Code::MESSAGE_ERROR)),
        (frame_of(kind::DATA, b"x"), connection(Code::FRAME_UNEXPECTED)),
        ([headers(&[(":status", "103")]), frame_of(kind::DATA, b"x")].concat(), connection(Code::FRAME_UNEXPECTED)),
        ([ok(), vec![0, 5, 1]].concat(), connection(Code::FRAME_ERROR)),
        ([ok(), frame_of(kind::SETTINGS, &[])].concat(), connection(Code::FRAME_UNEXPECTED)),
        // RFC 9114 §7.2.5: no push was allowed.
        ([ok(), frame_of(kind::PUSH_PROMISE, &[0, 0, 0])].concat(), connection(Code::ID_ERROR)),
        (vec![1, 1, 0], connection(Code::QPACK_DECOMPRESSION_FAILED)),
    ];
    for (bytes, said) in cases {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(answer_says(bytes), said, "{shown}");
    }
}

#[test]
fn what_is_not_known_is_passed_over() {
    on_worker(async {
        let link = link().await;
        let _served = run(&link, Config::default(), async |request, _| {
            let (text, trailers) = whole(request.into_body()).await.unwrap();
            assert_eq!(trailers.unwrap()["x"], "y");
            Response::new(full(text))
        });
        let mut rude = Rude::new(&link.client);
        let unknown = frame_of(0x21 + 0x1f * 7, b"whatever");
        // A setting, a frame and a field that nobody knows.
        rude.uni(&[&[0, 4, 2, 0x21, 5][..], &unknown].concat()).await;
        let parts =
            [&unknown[..], &headers(&POST), &unknown, &frame_of(0, b"on"), &unknown, &frame_of(0, b"e"), &unknown];
        let bytes = [&parts.concat()[..], &headers(&[("x", "y")]), &unknown].concat();
        // One byte after the other.
        let (mut send, mut recv) = rude.open(&[]).await;
        for byte in bytes {
            send.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        send.finish().unwrap();
        let answer = recv.read_to_end(1000).await.unwrap();
        assert!(answer.ends_with(b"one"), "{answer:?}");
    });
}
