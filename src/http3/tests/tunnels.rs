//! CONNECT, and what is spoken through it (RFC 9114 §4.4, RFC 9220).

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::task::spawn_local;

use super::support::*;
use crate::base::error::{Error, Kind};
use crate::http3::{BrokenOff, Code, Config};

#[test]
fn a_tunnel_carries_bytes_both_ways() {
    on_worker(async {
        let link = link().await;
        let _served = run(&link, Config::default(), async |request, _| {
            assert_eq!(request.method(), "CONNECT");
            assert_eq!(request.uri().authority().unwrap(), "elsewhere:443");
            let (feed, sent) = body(None);
            let mut incoming = request.into_body();
            spawn_local(async move {
                while let Some(frame) = incoming.frame().await {
                    let said = frame.unwrap().into_data().unwrap();
                    let heard: Vec<u8> = said.iter().map(u8::to_ascii_uppercase).collect();
                    feed.send(data(heard)).unwrap();
                }
                // The client has said everything; the other way goes on.
                feed.send(data("bye")).unwrap();
            });
            Response::new(sent)
        });
        let (sender, _driver) = connect(&link, Config::default());
        let (feed, sent) = body(None);
        let answer = sender.send(Request::connect("elsewhere:443").body(sent).unwrap(), drop).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(!answer.headers().contains_key("content-length"));
        let mut incoming = answer.into_body();
        for word in ["one", "two", "three"] {
            feed.send(data(word)).unwrap();
            let heard = incoming.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(heard, word.to_uppercase());
        }
        drop(feed);
        let heard = incoming.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(heard, Bytes::from_static(b"bye"));
        assert!(incoming.frame().await.is_none());
        while sender.open() > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn extended_connect_is_announced() {
    on_worker(async {
        let link = link().await;
        let config = Config { connect_protocol: true, ..Config::default() };
        let _served = run(&link, config, async |_, _| Response::new(full("")));
        let (sender, _driver) = connect(&link, Config::default());
        assert_eq!(sender.peer_allows_connect_protocol(), None);
        sender.send(get("/"), drop).await.unwrap();
        while sender.peer_allows_connect_protocol().is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(sender.peer_allows_connect_protocol(), Some(true));
    });
}

#[test]
fn nothing_but_data_is_in_a_tunnel() {
    on_worker(async {
        let link = link().await;
        let served = run(&link, Config::default(), async |request, _| {
            let (feed, sent) = body(None);
            spawn_local(async move {
                drop(whole(request.into_body()).await);
                drop(feed);
            });
            Response::new(sent)
        });
        let mut rude = Rude::new(&link.client);
        rude.control(&[]).await;
        let head = headers(&[(":method", "CONNECT"), (":authority", "elsewhere:443")]);
        let bytes = [&head[..], &frame_of(0, b"x"), &headers(&[("x", "y")])].concat();
        let _streams = rude.open(&bytes).await;
        assert_eq!(rude.closed_with().await, Code::FRAME_UNEXPECTED);
        assert_eq!(served.closed.await.unwrap().code, Code::FRAME_UNEXPECTED);
    });
}

/// A request for another protocol (RFC 9220 §3).
fn websocket(body: Sent) -> Request<Sent> {
    let mut request = Request::builder().method("CONNECT").uri("https://example.org/chat").body(body).unwrap();
    request.extensions_mut().insert(hyper::ext::Protocol::from("websocket"));
    request
}

#[test]
fn an_extended_connect_has_a_target_and_a_protocol() {
    on_worker(async {
        let link = link().await;
        let config = Config { connect_protocol: true, ..Config::default() };
        let _served = run(&link, config, async |request, _| {
            assert_eq!((request.method().as_str(), request.uri().path()), ("CONNECT", "/chat"));
            assert_eq!(request.extensions().get::<hyper::ext::Protocol>().unwrap().as_str(), "websocket");
            Response::new(full("bye"))
        });
        let (sender, _driver) = connect(&link, Config::default());
        // RFC 9220 §3: not before it was offered.
        assert!(sender.connect_protocol_allowed().await);
        let (_feed, sent) = body(None);
        let answer = sender.send(websocket(sent), drop).await.unwrap();
        assert_eq!(whole(answer.into_body()).await.unwrap().0, "bye");
    });
}

#[test]
fn who_asks_for_what_is_not_offered_learns_it() {
    on_worker(async {
        let link = link().await;
        let _served = run(&link, Config::default(), async |_, _| Response::new(full("")));
        let (sender, driver) = connect(&link, Config::default());
        assert!(!sender.connect_protocol_allowed().await);
        let (sender_of_lost, other) = (sender.clone(), driver);
        link.server.close(0u32.into(), b"");
        other.await.unwrap();
        assert!(!sender_of_lost.connect_protocol_allowed().await);
    });
}

#[test]
fn a_tunnel_that_is_broken_off_is_reset_with_the_word_of_its_body() {
    on_worker(async {
        let link = link().await;
        let config = Config { connect_protocol: true, ..Config::default() };
        let _served = run(&link, config, async |_, _| {
            let (feed, sent) = body(None);
            feed.send(data("half")).unwrap();
            // Wherever in the chain of causes it stands.
            let cause = BrokenOff(Code::CONNECT_ERROR);
            feed.send(Err(Box::new(Error::downstream(Kind::ClientGone, "gone").because(cause)))).unwrap();
            Response::new(sent)
        });
        let mut rude = Rude::new(&link.client);
        rude.control(&[]).await;
        let fields =
            [(":method", "CONNECT"), (":protocol", "x"), (":scheme", "https"), (":authority", "a"), (":path", "/")];
        let (_send, mut recv) = rude.open(&headers(&fields)).await;
        assert_eq!(reset_with(&mut recv).await, Code::CONNECT_ERROR);
    });
}
