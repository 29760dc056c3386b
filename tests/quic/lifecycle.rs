//! Generations, drain and the end of the process, under open streams.

use quinn::{ConnectionError, ReadError};
use tidegate::app::ExitReason;
use tidegate::base::stream_code::StreamCode;

use crate::support::*;

/// A stream that is in use.
async fn open(client: &Client) -> (quinn::SendStream, quinn::RecvStream) {
    let (mut send, mut recv) = client.connection.open_bi().await.unwrap();
    goes_on(&mut send, &mut recv).await;
    (send, recv)
}

async fn goes_on(send: &mut quinn::SendStream, recv: &mut quinn::RecvStream) {
    send.write_all(b"still here").await.unwrap();
    let mut back = [0; 10];
    recv.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"still here");
}

fn closed_with(error: &ConnectionError) -> Option<u64> {
    match error {
        ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    }
}

#[test]
fn a_reload_leaves_streams_alone_and_moves_new_connections() {
    let (first, second) = (Served::echo(), Served::echo());
    let proxy = start(&edge(&[first.named()], "", ""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        let (mut send, mut recv) = open(&client).await;
        proxy.reload(&edge(&[second.named()], "", ""));
        goes_on(&mut send, &mut recv).await;
        let later = Client::new(proxy.address("edge")).await;
        later.echoes(b"to the second").await;
        goes_on(&mut send, &mut recv).await;
    });
    assert_eq!(second.accepted(), 1);
}

#[test]
fn a_drain_ends_no_stream_takes_no_new_ones_and_closes_with_its_code() {
    let echo = Served::echo();
    let proxy = start(&edge(&[echo.named()], "", ""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        let (mut send, mut recv) = open(&client).await;
        proxy.0.drain();
        // A stream that was opened before the drain was known of is taken; the first after it is refused.
        let refused = loop {
            match client.exchange(b"too late?").await {
                Ok(back) => assert_eq!(back, b"too late?"),
                Err(error) => break error,
            }
        };
        assert_eq!(refused, ReadError::Reset(code(StreamCode::Closing)));
        goes_on(&mut send, &mut recv).await;
        // The last bytes arrive although the connection closes behind them.
        send.write_all(&noise(100_000, 1)).await.unwrap();
        send.finish().unwrap();
        assert!(recv.read_to_end(200_000).await.unwrap() == noise(100_000, 1));
        assert_eq!(closed_with(&client.connection.closed().await), Some(StreamCode::Closing.number()));
    });
    assert_eq!(proxy.0.wait(), ExitReason::Drained);
}

#[test]
fn a_connection_without_streams_ends_a_drain_at_once() {
    let echo = Served::echo();
    let proxy = start(&edge(&[echo.named()], "", ""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        client.echoes(b"before").await;
        proxy.0.drain();
        assert_eq!(closed_with(&client.connection.closed().await), Some(StreamCode::Closing.number()));
    });
    assert_eq!(proxy.0.wait(), ExitReason::Drained);
}

#[test]
fn a_stream_that_outlasts_a_drain_is_cut() {
    let echo = Served::echo();
    let text = edge(&[echo.named()], "", "").replace("workers = 1", "workers = 1\ndrain_timeout = \"400ms\"");
    let proxy = start(&text);
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        let (_send, mut recv) = open(&client).await;
        proxy.0.drain();
        assert!(recv.read(&mut [0]).await.is_err());
    });
    proxy.0.wait();
}

#[test]
fn a_connection_that_is_too_old_takes_no_new_streams_and_ends_with_its_last() {
    let echo = Served::echo();
    let proxy = start(&edge(&[echo.named()], "timeouts.max_age = \"300ms\"", ""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        let (mut send, mut recv) = open(&client).await;
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        assert_eq!(client.exchange(b"?").await, Err(ReadError::Reset(code(StreamCode::Closing))));
        goes_on(&mut send, &mut recv).await;
        send.finish().unwrap();
        assert_eq!(recv.read_to_end(10).await.unwrap(), b"");
        assert_eq!(closed_with(&client.connection.closed().await), Some(StreamCode::Closing.number()));
        // Another connection is welcome.
        Client::new(proxy.address("edge")).await.echoes(b"anew").await;
    });
}

#[test]
fn silence_ends_a_session_with_its_code() {
    let echo = Served::echo();
    let proxy = start(&edge(&[echo.named()], "", "timeouts.stream_idle = \"300ms\""));
    run(async {
        let client = Client::new(proxy.address("edge")).await;
        let (_send, mut recv) = open(&client).await;
        assert_eq!(recv.read(&mut [0]).await, Err(ReadError::Reset(code(StreamCode::Silent))));
        client.echoes(b"the connection lives").await;
    });
}
