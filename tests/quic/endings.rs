//! How the end of one side reaches the other: FIN, RESET_STREAM, STOP_SENDING, RST.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;

use quinn::{ReadError, VarInt};
use tidegate::base::stream_code::StreamCode;

use crate::support::*;

/// An endpoint whose connections are the test's to hold.
fn held() -> (Served, mpsc::Receiver<TcpStream>) {
    let (given, taken) = mpsc::channel();
    let given = std::sync::Mutex::new(given);
    (Served::new(move |stream| given.lock().unwrap().send(stream).unwrap()), taken)
}

#[test]
fn an_end_of_one_direction_is_passed_on_and_the_other_goes_on() {
    let late = Served::new(|mut stream| {
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).unwrap();
        stream.write_all(b"after the end: ").unwrap();
        stream.write_all(&asked).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let proxy = start(&edge(&[late.named()], "", ""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        assert_eq!(client.exchange(b"question").await.unwrap(), b"after the end: question");
    });
    proxy.counts("well", |totals| totals.outcome_ok == 1);
}

#[test]
fn a_stream_that_is_reset_resets_the_connection_and_only_that() {
    let (endpoint, connections) = held();
    let proxy = start(&edge(&[endpoint.named()], "", ""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        let (mut send, mut recv) = client.connection.open_bi().await.unwrap();
        send.write_all(b"half").await.unwrap();
        let mut connection = tokio::task::spawn_blocking(move || connections.recv().unwrap()).await.unwrap();
        connection.read_exact(&mut [0; 4]).unwrap();
        let (mut other, _other) = client.connection.open_bi().await.unwrap();
        other.write_all(b"x").await.unwrap();
        send.reset(VarInt::from_u32(77)).unwrap();
        let read = tokio::task::spawn_blocking(move || connection.read(&mut [0]).unwrap_err().kind());
        assert_eq!(read.await.unwrap(), ErrorKind::ConnectionReset);
        assert_eq!(recv.read(&mut [0]).await, Err(ReadError::Reset(VarInt::from_u32(77))));
        other.write_all(b"goes on").await.unwrap();
        assert!(client.connection.close_reason().is_none());
    });
}

#[test]
fn a_connection_that_is_reset_cuts_both_parts_of_the_stream() {
    let breaks = Served::new(|mut stream| {
        let _ = stream.read(&mut [0]);
        reset(stream);
    });
    let proxy = start(&edge(&[breaks.named()], "", ""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        let (mut send, mut recv) = client.connection.open_bi().await.unwrap();
        send.write_all(b"?").await.unwrap();
        assert_eq!(recv.read(&mut [0]).await, Err(ReadError::Reset(code(StreamCode::Reset))));
        assert_eq!(send.stopped().await, Ok(Some(code(StreamCode::Reset))));
    });
    proxy.counts("told", |totals| totals.outcomes.iter().sum::<u64>() == 1 && totals.outcome_ok == 0);
}

#[test]
fn who_closes_its_connection_breaks_what_it_carried() {
    let (endpoint, connections) = held();
    let proxy = start(&edge(&[endpoint.named()], "", ""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        let (mut send, _recv) = client.connection.open_bi().await.unwrap();
        send.write_all(b"half").await.unwrap();
        let mut connection = tokio::task::spawn_blocking(move || connections.recv().unwrap()).await.unwrap();
        connection.read_exact(&mut [0; 4]).unwrap();
        client.connection.close(VarInt::from_u32(9), b"");
        let read = tokio::task::spawn_blocking(move || connection.read(&mut [0]).unwrap_err().kind());
        assert_eq!(read.await.unwrap(), ErrorKind::ConnectionReset);
    });
    proxy.counts("closed", |totals| totals.sessions_open == 0 && totals.connections_open == 0);
}

#[test]
fn codes_pass_between_streams_each_way_and_each_direction_by_itself() {
    let endpoint = run_endpoint();
    run(async {
        let server = endpoint();
        let address = server.local_addr().unwrap().to_string();
        let proxy = tokio::task::spawn_blocking(move || start(&edge(&[address], "", OVER_QUIC))).await.unwrap();
        let client = Client::new(proxy.address("edge")).await;
        let (mut send, mut recv) = client.connection.open_bi().await.unwrap();
        send.write_all(b"partial").await.unwrap();
        let behind = server.accept().await.unwrap().await.unwrap();
        let (mut answer, mut asked) = behind.accept_bi().await.unwrap();
        asked.read_exact(&mut [0; 7]).await.unwrap();
        send.reset(VarInt::from_u32(41)).unwrap();
        assert_eq!(asked.read(&mut [0]).await, Err(ReadError::Reset(VarInt::from_u32(41))));
        answer.write_all(b"still").await.unwrap();
        recv.read_exact(&mut [0; 5]).await.unwrap();
        recv.stop(VarInt::from_u32(42)).unwrap();
        assert_eq!(answer.stopped().await, Ok(Some(VarInt::from_u32(42))));

        let (mut send, mut recv) = client.connection.open_bi().await.unwrap();
        send.write_all(b"again").await.unwrap();
        let (mut answer, mut asked) = behind.accept_bi().await.unwrap();
        asked.read_exact(&mut [0; 5]).await.unwrap();
        asked.stop(VarInt::from_u32(43)).unwrap();
        assert_eq!(send.stopped().await, Ok(Some(VarInt::from_u32(43))));
        answer.reset(VarInt::from_u32(44)).unwrap();
        assert_eq!(recv.read(&mut [0]).await, Err(ReadError::Reset(VarInt::from_u32(44))));
        behind.close(VarInt::from_u32(0), b"");
        tokio::task::spawn_blocking(move || drop(proxy)).await.unwrap();
    });
}

/// Endpoints are made inside of the runtime that drives them.
fn run_endpoint() -> impl Fn() -> quinn::Endpoint {
    quic_endpoint
}

#[test]
fn an_endpoint_that_is_lost_breaks_its_streams_and_the_next_go_elsewhere() {
    run(async {
        let (first, second) = (quic_endpoint(), quic_endpoint());
        let addresses = [&first, &second].map(|server| server.local_addr().unwrap().to_string());
        let proxy = tokio::task::spawn_blocking(move || start(&edge(&addresses, "", OVER_QUIC))).await.unwrap();
        let client = Client::new(proxy.address("edge")).await;
        let (mut send, mut recv) = client.connection.open_bi().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        let behind = first.accept().await.unwrap().await.unwrap();
        let (_answer, mut asked) = behind.accept_bi().await.unwrap();
        asked.read_exact(&mut [0; 5]).await.unwrap();
        behind.close(VarInt::from_u32(55), b"gone");
        assert_eq!(recv.read(&mut [0]).await, Err(ReadError::Reset(VarInt::from_u32(55))));
        let again = async { client.exchange(b"hello again").await };
        let serving = async {
            let behind = second.accept().await.unwrap().await.unwrap();
            let (mut answer, mut asked) = behind.accept_bi().await.unwrap();
            let all = asked.read_to_end(100).await.unwrap();
            answer.write_all(&all).await.unwrap();
            answer.finish().unwrap();
            let _ = answer.stopped().await;
        };
        let (back, ()) = tokio::join!(again, serving);
        assert_eq!(back.unwrap(), b"hello again");
        tokio::task::spawn_blocking(move || drop(proxy)).await.unwrap();
    });
}
