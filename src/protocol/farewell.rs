//! The end of a downstream connection: the last words, and time for the client to read them.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use crate::net::timer;
use crate::transport::Channel;

/// Tells the client that nothing more comes (close_notify over TLS). It may be gone, so nobody waits for it for long.
pub(super) async fn close(channel: &mut Channel) {
    let _ = timer::timeout(LINGER, channel.shutdown()).await;
}

/// Says why the connection ends, and ends it.
pub(super) async fn farewell(mut channel: Channel, words: Bytes) {
    if let Ok(Ok(())) = timer::timeout(LINGER, channel.write_all(&words)).await {
        let _ = timer::timeout(LINGER, channel.shutdown()).await;
        linger(channel).await;
    }
}

/// Reads what the client still sends for a moment, so that the reset which unread bytes would cause does not overtake
/// our last answer (RFC 9112 §9.6).
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

/// How long the rest of what a client sends is read and thrown away, so that our last words are not lost to a reset.
const LINGER: Duration = Duration::from_secs(2);
/// How much of it: more than the buffers of both ends hold on the way here, since whoever writes on is reset at its end. A client
/// that has read our answer stops.
const LINGER_BYTES: usize = 64 * 1024 * 1024;
