//! What `[listener.quic]` says, seen on a connection.

use std::time::Duration;

use super::*;
use crate::transport::quic::congestion;

/// Both ends of a connection to a listener with these lines: the client's, then ours.
async fn connected(lines: &str) -> (Connection, Connection) {
    let site = Site::new(&format!("[listener.quic]\n{lines}"));
    let place = Place { worker: 0, telemetry: Arc::default(), open: Arc::default() };
    let socket = site.sockets(1).remove(0);
    let address = socket.local_address().to_string().parse().unwrap();
    let listener = QuicListener::open(socket, Steering::new(&site.keys, 1), place, &site.listener, &site.tls).unwrap();
    let client = site.client();
    let accepted = async {
        let incoming = listener.next().await.unwrap();
        handshake(listener.accept(incoming).unwrap(), false, PATIENCE).await.unwrap().connection
    };
    let (theirs, ours) = tokio::join!(client.connect(address), accepted);
    (theirs.unwrap(), ours)
}

#[test]
fn congestion_control_is_the_one_that_is_written() {
    on_worker(async {
        for (word, is_it) in
            [("", 0), ("congestion = \"cubic\"", 0), ("congestion = \"bbr\"", 1), ("congestion = \"newreno\"", 2)]
        {
            let (_theirs, ours) = connected(word).await;
            assert_eq!(congestion::which(&ours), Some(is_it), "{word}");
        }
    });
}

/// What a client may send at once on a stream and then on a second one, to one who reads nothing.
async fn sent_at_once(lines: &str) -> [usize; 2] {
    let (theirs, _ours) = connected(lines).await;
    let (mut first, mut second) = (theirs.open_bi().await.unwrap().0, theirs.open_bi().await.unwrap().0);
    let bytes = vec![0; 8 * 1024 * 1024];
    let sent = first.write(&bytes).await.unwrap();
    let more = tokio::select! {
        biased;
        more = second.write(&bytes) => more.unwrap(),
        () = std::future::ready(()) => 0,
    };
    [sent, more]
}

#[test]
fn windows_bound_what_a_client_sends_ahead() {
    const KIB: usize = 1024;
    on_worker(async {
        assert_eq!(sent_at_once("").await, [1024 * KIB, 1024 * KIB]);
        assert_eq!(sent_at_once("stream_window = \"64KiB\"").await, [64 * KIB, 64 * KIB]);
        let both = "stream_window = \"64KiB\"\nconnection_window = \"96KiB\"";
        assert_eq!(sent_at_once(both).await, [64 * KIB, 32 * KIB]);
    });
}

#[test]
fn a_silent_client_is_asked_whether_it_is_there() {
    simulated::simulated(async {
        let pings = |connection: &Connection| connection.stats().frame_tx.ping;
        for (lines, expected) in [("keep_alive = \"1s\"", 18..=22), ("", 0..=1)] {
            let (_theirs, ours) = connected(lines).await;
            // What looks for the size of datagrams that fits is a PING too.
            tokio::time::sleep(Duration::from_secs(5)).await;
            let before = pings(&ours);
            tokio::time::sleep(Duration::from_secs(20)).await;
            assert_eq!(ours.close_reason(), None, "{lines}");
            let asked = pings(&ours) - before;
            assert!(expected.contains(&asked), "{lines}: {asked}");
        }
    });
}

#[test]
fn without_offload_each_datagram_is_sent_for_itself() {
    on_worker(async {
        for (lines, alone) in [("segmentation_offload = false", true), ("", false)] {
            let (theirs, ours) = connected(lines).await;
            let (mut send, _) = ours.open_bi().await.unwrap();
            let receiving = async {
                let (_, mut receive) = theirs.accept_bi().await.unwrap();
                receive.read_to_end(1_000_000).await.unwrap().len()
            };
            let sending = async {
                send.write_all(&[7; 300_000]).await.unwrap();
                send.finish().unwrap();
            };
            assert_eq!(tokio::join!(receiving, sending).0, 300_000);
            let sent = ours.stats().udp_tx;
            assert_eq!(sent.ios == sent.datagrams, alone, "{lines}: {sent:?}");
        }
    });
}
