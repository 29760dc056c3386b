//! CONNECT, and what is spoken through it (RFC 9114 §4.4, RFC 9220).

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::task::spawn_local;

use super::support::*;
use crate::http3::*;

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
