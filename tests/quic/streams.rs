//! Streams of clients that become connections of TCP and to paths, or streams of QUIC endpoints.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quinn::ReadError;
use tidegate::base::stream_code::StreamCode;

use crate::support::*;

#[test]
fn streams_of_random_sizes_come_back_whole_over_tcp_and_over_paths() {
    let echo = Served::echo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echo.sock");
    echo_at(&path);
    let text = edge(&[echo.named()], "", "").replace("\"to\" }", "\"to\", \"path/1\" = \"path\" }")
        + &format!("[upstream.path]\nendpoints = [\"unix:{}\"]\n", path.display());
    let proxy = start(&text);
    run(async {
        for alpn in [ECHO, "path/1"] {
            let client = Client::with(proxy.address("edge"), alpn, false).await.unwrap();
            let sizes = (0..24).map(|n| (n, fastrand::usize(..1 << fastrand::u32(1..21))));
            let exchanges = sizes.map(|(n, size)| {
                let client = &client;
                async move { client.echoes(&noise(size, n)).await }
            });
            futures_all(exchanges).await;
        }
    });
    assert_eq!(echo.accepted(), 24);
    proxy.counts("sessions", |totals| totals.sessions == 48 && totals.sessions_open == 0);
    assert_eq!(proxy.0.counters().quic_connections, 2);
}

/// Waits for all of them, each polled whenever one is woken.
async fn futures_all(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut futures: Vec<_> = futures.map(|future| Some(Box::pin(future))).collect();
    std::future::poll_fn(|cx| {
        for place in &mut futures {
            if place.as_mut().is_some_and(|future| future.as_mut().poll(cx).is_ready()) {
                *place = None;
            }
        }
        if futures.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[test]
fn the_protocol_of_the_handshake_chooses_the_upstream_and_an_unknown_one_is_refused() {
    let (first, second) = (Served::echo(), Served::echo());
    let text = edge(&[first.named()], "", "").replace("\"to\" }", "\"to\", \"other/1\" = \"other\" }")
        + &format!("[upstream.other]\nendpoints = [\"{}\"]\n", second.address);
    let proxy = start(&text);
    run(async {
        Client::with(proxy.address("edge"), "other/1", false).await.unwrap().echoes(b"to the second").await;
        assert!(Client::with(proxy.address("edge"), "unknown", false).await.is_err());
    });
    assert_eq!((first.accepted(), second.accepted()), (0, 1));
}

#[test]
fn who_speaks_first_does_not_matter() {
    let greeter = Served::new(|mut stream| {
        stream.write_all(b"220 ready").unwrap();
        let _ = stream.read(&mut [0]);
    });
    let far = start(&edge(&[greeter.named()], "", ""));
    let near = start(&edge(&[far.address("edge").to_string()], "", OVER_QUIC));
    run(async {
        let client = Client::new(near.address("edge")).await;
        let (mut send, mut recv) = client.connection.open_bi().await.unwrap();
        // An empty STREAM frame: nothing is said, and the stream is there.
        send.write(&[]).await.unwrap();
        let mut greeting = [0; 9];
        recv.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 ready");
    });
}

#[test]
fn one_stream_that_nobody_reads_is_bounded_and_stalls_no_other() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let flood = Served::new(move |mut stream| {
        let mut asked = [0];
        let _ = stream.read(&mut asked);
        if asked == *b"e" {
            return drop(stream.write_all(b"echo"));
        }
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        while let Ok(written @ 1..) = stream.write(&[7; 16 << 10]) {
            counted.fetch_add(written, Ordering::SeqCst);
        }
    });
    let proxy = start(&edge(&[flood.named()], "", "socket.recv_buffer = \"64KiB\""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        let (mut send, _unread) = client.connection.open_bi().await.unwrap();
        send.write_all(b"f").await.unwrap();
        let mut before = usize::MAX;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = sent.load(Ordering::SeqCst);
            if now == before && now > 0 {
                break;
            }
            before = now;
        }
        assert_eq!(client.exchange(b"e").await.unwrap(), b"echo");
    });
    // The window that quinn's client gives (1.25 MB), the buffers of two sockets, and what the relay holds.
    assert!(sent.load(Ordering::SeqCst) < 8 << 20, "{}", sent.load(Ordering::SeqCst));
}

#[test]
fn a_client_has_as_many_streams_as_the_listener_allows() {
    let echo = Served::echo();
    let proxy = start(&edge(&[echo.named()], "limits.max_concurrent_streams = 3", ""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        let mut open = Vec::new();
        for _ in 0..3 {
            let (mut send, recv) = client.connection.open_bi().await.unwrap();
            send.write_all(b"held").await.unwrap();
            open.push((send, recv));
        }
        let fourth = tokio::time::timeout(Duration::from_millis(200), client.connection.open_bi()).await;
        assert!(fourth.is_err(), "a fourth stream was allowed");
        let (mut send, mut recv) = open.remove(0);
        send.finish().unwrap();
        assert_eq!(recv.read_to_end(10).await.unwrap(), b"held");
        client.echoes(b"in its place").await;
    });
}

#[test]
fn an_endpoint_that_is_down_is_passed_over_and_the_last_failure_is_told() {
    let echo = Served::echo();
    let proxy = start(&edge(&[nobody().to_string(), echo.named()], "", ""));
    let dead = start(&edge(&[nobody().to_string(), nobody().to_string()], "", ""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        for _ in 0..4 {
            client.echoes(b"to the one that is there").await;
        }
        let client = Client::new(dead.address("edge")).await;
        assert_eq!(client.exchange(b"anybody?").await, Err(ReadError::Reset(code(StreamCode::Refused))));
    });
    assert_eq!(echo.accepted(), 4);
}

#[test]
fn a_proxy_behind_says_what_it_met_and_another_is_tried() {
    let echo = Served::echo();
    let (dead, alive) = (start(&edge(&[nobody().to_string()], "", "")), start(&edge(&[echo.named()], "", "")));
    let addresses = [&dead, &alive].map(|far| far.address("edge").to_string());
    let near = start(&edge(&addresses, "", OVER_QUIC));
    let near_dead = start(&edge(&addresses[..1], "", OVER_QUIC));
    run(async {
        let client = Client::new(near.address("edge")).await;
        for n in 0..6 {
            client.echoes(&noise(1000, n)).await;
        }
        let client = Client::new(near_dead.address("edge")).await;
        assert_eq!(client.exchange(b"anybody?").await, Err(ReadError::Reset(code(StreamCode::Refused))));
    });
    assert_eq!(echo.accepted(), 6);
    assert_eq!(alive.0.counters().quic_connections, 1, "streams share a connection");
}

#[test]
fn the_endpoint_is_told_of_the_client() {
    let told = Served::new(|mut stream| {
        let mut header = [0; 107];
        let read = stream.read(&mut header).unwrap();
        let _ = stream.write_all(&header[..read]);
    });
    let proxy = start(&edge(&[told.named()], "", "send_proxy_protocol = \"v1\""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        let back = String::from_utf8(client.exchange(b"").await.unwrap()).unwrap();
        let (from, to) = (client.endpoint.local_addr().unwrap(), proxy.address("edge"));
        assert_eq!(back, format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", from.port(), to.port()));
    });
}

#[test]
fn a_client_whose_address_changes_goes_on() {
    let echo = Served::echo();
    let proxy = start(&edge(&[echo.named()], "", "").replace("workers = 1", "workers = 2"));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        let bytes = noise(6_000_000, 7);
        let moving = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(15)).await;
                client.endpoint.rebind(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
            }
        };
        let ((), ()) = tokio::join!(client.echoes(&bytes), moving);
        client.echoes(b"and after").await;
    });
}
