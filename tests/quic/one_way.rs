//! What has no answer of its own: unidirectional streams and datagrams, each way between a client and a QUIC endpoint.

use bytes::Bytes;
use quinn::ReadError;
use tidegate::base::stream_code::StreamCode;

use crate::support::*;

#[test]
fn unidirectional_streams_and_datagrams_pass_both_ways_over_a_connection_of_the_clients_own() {
    run(async {
        let server = quic_endpoint();
        let address = server.local_addr().unwrap().to_string();
        let proxy = tokio::task::spawn_blocking(move || start(&edge(&[address], "", OVER_QUIC))).await.unwrap();
        let (one, two) = (Client::new(proxy.address("edge")).await, Client::new(proxy.address("edge")).await);
        let mut behind = Vec::new();
        for (client, name) in [(&one, b"one"), (&two, b"two")] {
            let mut send = client.connection.open_uni().await.unwrap();
            send.write_all(name).await.unwrap();
            send.finish().unwrap();
            let connection = server.accept().await.unwrap().await.unwrap();
            let mut recv = connection.accept_uni().await.unwrap();
            assert_eq!(recv.read_to_end(10).await.unwrap(), name);
            behind.push(connection);
        }
        for (client, connection, name) in [(&one, &behind[0], b"one"), (&two, &behind[1], b"two")] {
            // To the endpoint, and back to whom it belongs.
            client.connection.send_datagram(Bytes::from_static(name)).unwrap();
            assert_eq!(&connection.read_datagram().await.unwrap()[..], name);
            connection.send_datagram(Bytes::from_static(name)).unwrap();
            assert_eq!(&client.connection.read_datagram().await.unwrap()[..], name);
            // What the endpoint opens reaches the client.
            let mut send = connection.open_uni().await.unwrap();
            send.write_all(name).await.unwrap();
            send.finish().unwrap();
            let mut recv = client.connection.accept_uni().await.unwrap();
            assert_eq!(recv.read_to_end(10).await.unwrap(), name);
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            send.write_all(b"who are you?").await.unwrap();
            let (mut answer, mut asked) = client.connection.accept_bi().await.unwrap();
            asked.read_exact(&mut [0; 12]).await.unwrap();
            answer.write_all(name).await.unwrap();
            answer.finish().unwrap();
            assert_eq!(recv.read_to_end(10).await.unwrap(), name);
            // A stream of the client goes the same way now.
            let (mut send, _recv) = client.connection.open_bi().await.unwrap();
            send.write_all(name).await.unwrap();
            let (_answer, mut asked) = connection.accept_bi().await.unwrap();
            let mut told = [0; 3];
            asked.read_exact(&mut told).await.unwrap();
            assert_eq!(&told, name);
        }
        // The client's connection takes its own with it.
        one.connection.close(0u32.into(), b"");
        behind[0].closed().await;
        assert!(behind[1].close_reason().is_none());
        tokio::task::spawn_blocking(move || drop(proxy)).await.unwrap();
    });
}

#[test]
fn a_unidirectional_stream_towards_tcp_is_stopped() {
    let echo = Served::echo();
    let proxy = start(&edge(&[echo.named()], "", ""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        let mut send = client.connection.open_uni().await.unwrap();
        send.write_all(b"one way").await.unwrap();
        assert_eq!(send.stopped().await, Ok(Some(code(StreamCode::Unsupported))));
        client.connection.send_datagram(Bytes::from_static(b"nowhere")).unwrap();
        client.echoes(b"both ways").await;
    });
    proxy.counts("dropped", |totals| totals.datagrams_dropped == 1);
    assert_eq!(echo.accepted(), 1);
}

#[test]
fn a_reset_of_a_unidirectional_stream_passes_with_its_code() {
    run(async {
        let server = quic_endpoint();
        let address = server.local_addr().unwrap().to_string();
        let proxy = tokio::task::spawn_blocking(move || start(&edge(&[address], "", OVER_QUIC))).await.unwrap();
        let client = Client::new(proxy.address("edge")).await;
        let mut send = client.connection.open_uni().await.unwrap();
        send.write_all(b"part").await.unwrap();
        let behind = server.accept().await.unwrap().await.unwrap();
        let mut recv = behind.accept_uni().await.unwrap();
        recv.read_exact(&mut [0; 4]).await.unwrap();
        send.reset(7u32.into()).unwrap();
        assert_eq!(recv.read(&mut [0]).await, Err(ReadError::Reset(7u32.into())));
        tokio::task::spawn_blocking(move || drop(proxy)).await.unwrap();
    });
}
