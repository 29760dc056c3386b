//! What the demo origin sends: a text at once, a number of bytes made as they are asked for, or one piece every so
//! often. None of them holds more than a block in memory.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use std::convert::Infallible;

/// A response body of the demo origin.
pub enum Payload {
    /// At once.
    Whole(Bytes),
    /// So many bytes more.
    Fill(u64),
    /// A piece every so often, until there is none.
    Paced(Paced),
}

/// Pieces with pauses between them.
pub struct Paced {
    pause: Duration,
    next: Pin<Box<Sleep>>,
    piece: fn(u64) -> Option<Bytes>,
    sent: u64,
}

impl Payload {
    /// `text`, with its length.
    pub fn whole(text: impl Into<Bytes>) -> Self {
        Self::Whole(text.into())
    }

    /// `length` bytes, announced by Content-Length.
    pub fn fill(length: u64) -> Self {
        Self::Fill(length)
    }

    /// The pieces that `piece` makes from how many went before, the first at once.
    pub fn paced(pause: Duration, piece: fn(u64) -> Option<Bytes>) -> Self {
        Self::Paced(Paced { pause, next: Box::pin(tokio::time::sleep(Duration::ZERO)), piece, sent: 0 })
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            Self::Whole(text) => std::mem::take(text),
            Self::Fill(left) => {
                let length = usize::try_from(*left).map_or(BLOCK.len(), |left| left.min(BLOCK.len()));
                *left -= length as u64;
                Bytes::from_static(&BLOCK[..length])
            }
            Self::Paced(paced) => ready!(paced.poll_piece(cx)),
        };
        // An empty piece is the end of all three.
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(text) => text.is_empty(),
            Self::Fill(left) => *left == 0,
            Self::Paced(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(text) => SizeHint::with_exact(text.len() as u64),
            Self::Fill(left) => SizeHint::with_exact(*left),
            Self::Paced(_) => SizeHint::default(),
        }
    }
}

impl Paced {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        ready!(self.next.as_mut().poll(cx));
        self.next.as_mut().reset(Instant::now() + self.pause);
        let piece = (self.piece)(self.sent).unwrap_or_default();
        self.sent += 1;
        Poll::Ready(piece)
    }
}

static BLOCK: [u8; 64 * 1024] = [b'~'; 64 * 1024];

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn collect(payload: Payload) -> Bytes {
        payload.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn fill_sends_exactly_what_it_announces() {
        for length in [0, 1, 64 * 1024, 64 * 1024 + 1, 1_000_000] {
            let payload = Payload::fill(length);
            assert_eq!(payload.size_hint().exact(), Some(length));
            assert_eq!(collect(payload).await.len() as u64, length);
        }
    }

    #[tokio::test]
    async fn paced_sends_the_pieces_in_turn_and_ends() {
        let piece = |sent| (sent < 3).then(|| Bytes::from(format!("{sent}")));
        let payload = Payload::paced(Duration::from_millis(1), piece);
        assert_eq!(payload.size_hint().exact(), None);
        assert_eq!(collect(payload).await, "012");
    }
}
