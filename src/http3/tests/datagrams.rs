//! Datagrams of requests, and who gets them (RFC 9297 §2.1).

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use http::Response;
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_local;

use super::support::*;
use crate::http3::{Code, Config, Datagrams, Posted, datagram};

fn config() -> Config {
    Config { connect_protocol: true, datagrams: true, ..Config::default() }
}

/// SETTINGS that offer datagrams, on a control stream.
const OFFER: [u8; 5] = [0, 4, 2, 0x33, 1];
const ASK: [(&str, &str); 5] =
    [(":method", "CONNECT"), (":protocol", "x"), (":scheme", "https"), (":authority", "a"), (":path", "/")];

fn of(stream: u64, payload: &[u8]) -> Bytes {
    let mut bytes = Vec::new();
    datagram::write_stream(stream, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes.into()
}

/// Answers each datagram of a request with itself, once `opened` lets it.
fn echo(link: &Link, config: Config, opened: Rc<Semaphore>) -> Served {
    run(link, config, async move |_, informational| {
        opened.acquire().await.unwrap().forget();
        let datagrams = informational.datagrams().expect("they are taken here");
        let (feed, sent) = body(None);
        spawn_local(async move {
            loop {
                let payload = poll_fn(|cx| datagrams.poll_receive(cx)).await;
                if payload == "end" {
                    break drop(feed);
                }
                let whole = [datagrams.beginning(), &payload].concat();
                if datagrams.send(whole.into()) != Posted::Taken {
                    feed.send(data(payload)).unwrap();
                }
            }
        });
        Response::new(sent)
    })
}

#[test]
fn datagrams_reach_the_request_that_they_belong_to() {
    on_worker(async {
        let link = link().await;
        let opened = Rc::new(Semaphore::new(0));
        let served = echo(&link, config(), Rc::clone(&opened));
        let mut rude = Rude::new(&link.client);
        rude.uni(&OFFER).await;
        // Ahead of its request, and ahead of who takes them.
        link.client.send_datagram(of(4, b"early")).unwrap();
        let first = rude.open(&headers(&ASK)).await;
        let second = rude.open(&headers(&ASK)).await;
        opened.add_permits(2);
        for (stream, payload) in [(0, &b"one"[..]), (4, b"two"), (0, b"")] {
            link.client.send_datagram(of(stream, payload)).unwrap();
        }
        let mut came = Vec::new();
        for _ in 0..4 {
            came.push(datagram::read(link.client.read_datagram().await.unwrap()).unwrap());
        }
        came.sort();
        let wanted: [(u64, &[u8]); 4] = [(0, b""), (0, b"one"), (4, b"early"), (4, b"two")];
        assert_eq!(came, wanted.map(|(stream, payload)| (stream, Bytes::from_static(payload))));
        assert_eq!(served.control.dropped_datagrams(), 0);
        drop((first, second));
    });
}

#[test]
fn one_that_cannot_be_sent_is_told_so() {
    for (settings, expected) in [(&OFFER[..], [Posted::Taken, Posted::TooLarge]), (&[0, 4, 0], [Posted::NotOffered; 2])]
    {
        on_worker(async {
            let link = link().await;
            let kept = Rc::new(RefCell::new(None::<Datagrams>));
            let keeps = Rc::clone(&kept);
            let _served = run(&link, config(), async move |_, informational| {
                keeps.replace(informational.datagrams());
                Response::new(full("held"))
            });
            let mut rude = Rude::new(&link.client);
            rude.uni(settings).await;
            let (_send, mut recv) = rude.open(&headers(&ASK)).await;
            recv.read_to_end(1000).await.unwrap();
            let held = kept.take().unwrap();
            assert_eq!([held.send(of(0, b"x")), held.send(of(0, &[0; 60_000]))], expected);
        });
    }
}

#[test]
fn what_no_stream_can_have_ends_the_connection() {
    for (payload, code) in [
        (&[][..], Code::DATAGRAM_ERROR),
        (&[0x40], Code::DATAGRAM_ERROR),
        (&[0xd0, 0, 0, 0, 0, 0, 0, 0], Code::DATAGRAM_ERROR),
        // Of a stream past the limit.
        (&[0x44, 0], Code::ID_ERROR),
    ] {
        on_worker(async {
            let link = link().await;
            let _served = echo(&link, config(), Rc::new(Semaphore::new(0)));
            let mut rude = Rude::new(&link.client);
            rude.uni(&OFFER).await;
            link.client.send_datagram(Bytes::from_static(payload)).unwrap();
            assert_eq!(rude.closed_with().await, code, "{payload:?}");
        });
    }
}

#[test]
fn only_so_many_wait_for_nobody() {
    on_worker(async {
        let link = link().await;
        let opened = Rc::new(Semaphore::new(0));
        let served = echo(&link, config(), Rc::clone(&opened));
        let mut rude = Rude::new(&link.client);
        rude.uni(&OFFER).await;
        for number in 0..40u8 {
            link.client.send_datagram(of(0, &[number])).unwrap();
        }
        while served.control.dropped_datagrams() < 8 {
            tokio::task::yield_now().await;
        }
        let _streams = rude.open(&headers(&ASK)).await;
        opened.add_permits(1);
        for number in 8..40u8 {
            assert_eq!(link.client.read_datagram().await.unwrap(), of(0, &[number]), "the oldest went");
        }
        assert_eq!(served.control.dropped_datagrams(), 8);
    });
}

#[test]
fn a_request_that_has_none_is_aborted_for_one() {
    on_worker(async {
        let link = link().await;
        let reached = Rc::new(Notify::new());
        let tells = Rc::clone(&reached);
        let _served = run(&link, config(), async move |request, _| {
            if request.uri().path() != "/fine" {
                tells.notify_one();
                std::future::pending::<()>().await;
            }
            Response::new(full("hello"))
        });
        let mut rude = Rude::new(&link.client);
        rude.uni(&OFFER).await;
        let tunnel = [(":method", "CONNECT"), (":authority", "a:1")];
        for (stream, fields) in [(0, &GET[..]), (4, &tunnel)] {
            let mut recv = rude.request(&headers(fields)).await;
            reached.notified().await;
            // It waits for its answer, and for nothing else.
            tokio::task::yield_now().await;
            link.client.send_datagram(of(stream, b"stray")).unwrap();
            assert_eq!(reset_with(&mut recv).await, Code::DATAGRAM_ERROR);
        }
        let fine = [GET[0], GET[1], GET[2], (":path", "/fine")];
        let mut recv = rude.request(&headers(&fine)).await;
        assert!(recv.read_to_end(1000).await.unwrap().ends_with(b"hello"));
    });
}

#[test]
fn those_of_a_client_that_takes_none_do_not_pile_up() {
    on_worker(async {
        let link = link().await;
        let served = run(&link, config(), async |_, _| Response::new(full("hello")));
        let mut rude = Rude::new(&link.client);
        rude.uni(&[0, 4, 0]).await;
        let mut recv = rude.request(&headers(&GET)).await;
        assert!(recv.read_to_end(1000).await.unwrap().ends_with(b"hello"));
        for payload in [&[][..], &[0], &[0xff; 8]] {
            link.client.send_datagram(Bytes::from_static(payload)).unwrap();
        }
        while served.control.dropped_datagrams() < 3 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn datagrams_are_offered_where_they_are_taken() {
    on_worker(async {
        let link = link().await;
        let _served = run(&link, Config::default(), async |_, informational| {
            assert!(informational.datagrams().is_none());
            Response::new(full("hello"))
        });
        let (sender, _driver) = connect(&link, Config::default());
        assert_eq!(sender.send(get("/"), drop).await.unwrap().status(), 200);
    });
    on_worker(async {
        // RFC 9297 §2.1.1: not without those of the transport.
        let link = link_with(|transport| {
            transport.datagram_receive_buffer_size(None);
        })
        .await;
        let served = run(&link, config(), async |_, _| Response::new(full("")));
        let mut rude = Rude::new(&link.client);
        rude.uni(&OFFER).await;
        assert_eq!(rude.closed_with().await, Code::SETTINGS_ERROR);
        assert_eq!(served.closed.await.unwrap().code, Code::SETTINGS_ERROR);
    });
}
