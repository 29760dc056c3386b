//! Closes a downstream connection, with a last response and time for the client to read it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use crate::net::timer;
use crate::transport::Channel;

/// Tells the client that nothing more comes (close_notify over TLS), with a short timeout, because the client may be
/// gone.
pub(super) async fn close(channel: &mut Channel) {
    let _ = timer::timeout(LINGER, channel.shutdown()).await;
}

/// Sends a last response and closes the connection.
pub(super) async fn farewell(mut channel: Channel, words: Bytes) {
    if let Ok(Ok(())) = timer::timeout(LINGER, channel.write_all(&words)).await {
        let _ = timer::timeout(LINGER, channel.shutdown()).await;
        linger(channel).await;
    }
}

/// Reads and discards for a moment what the client still sends, so that the reset caused by unread bytes does not
/// overtake the last response (RFC 9112 §9.6).
pub(super) async fn linger(mut channel: Channel) {
    close(&mut channel).await;
    let mut left = LINGER_BYTES;
    let drained = poll_fn(|cx| {
        let mut scratch = [std::mem::MaybeUninit::uninit(); 16 * 1024];
        while left > 0 {
            let mut buffer = ReadBuf::uninit(&mut scratch);
            match ready!(Pin::new(&mut channel).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => left = left.saturating_sub(buffer.filled().len()),
                _ => return Poll::Ready(()),
            }
        }
        Poll::Ready(())
    });
    let _ = timer::timeout(LINGER, drained).await;
}

/// How long the client's rest is read and discarded.
const LINGER: Duration = Duration::from_secs(2);
/// Limit on the discarded bytes: more than the buffers along the path can hold, because a client that continues to
/// write is reset at the end. A client that has read the response stops.
const LINGER_BYTES: usize = 64 * 1024 * 1024;
