//! Bodies that tests send, and what became of bodies that they receive.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tidegate::body::incoming::{Error, Incoming};
use tokio::sync::mpsc;

type Piece = Result<Frame<Bytes>, io::Error>;

/// A body that a test sends.
pub enum Sent {
    /// Bytes whose number is announced.
    Whole(Bytes),
    /// Frames; the length is announced where it is given.
    Frames(VecDeque<Piece>, Option<u64>),
    /// What comes through a [`Feed`].
    Fed(mpsc::Receiver<Piece>, Option<u64>),
}

/// The other end of a body that is sent while the test runs. Dropping it ends the body.
pub struct Feed(mpsc::Sender<Piece>);

/// A body as it arrived.
#[derive(Debug)]
pub struct Received {
    pub bytes: Bytes,
    pub trailers: Option<HeaderMap>,
    /// Why it is not whole.
    pub broken: Option<Error>,
}

impl Sent {
    pub fn empty() -> Self {
        Self::Whole(Bytes::new())
    }

    /// Frames of unknown number.
    pub fn pieces(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        Self::Frames(pieces.into_iter().map(|data| Ok(Frame::data(data))).collect(), None)
    }

    /// Announces a length, whether it is true or not.
    pub fn announcing(self, length: u64) -> Self {
        match self {
            Self::Whole(bytes) => Self::Frames(VecDeque::from([Ok(Frame::data(bytes))]), Some(length)),
            Self::Frames(frames, _) => Self::Frames(frames, Some(length)),
            Self::Fed(feed, _) => Self::Fed(feed, Some(length)),
        }
    }

    /// Adds trailers.
    pub fn with_trailers(self, trailers: HeaderMap) -> Self {
        self.then(Ok(Frame::trailers(trailers)))
    }

    /// Breaks off after what it has.
    pub fn then_broken(self) -> Self {
        self.then(Err(io::Error::other("broken off by the test")))
    }

    fn then(self, piece: Piece) -> Self {
        match self {
            Self::Frames(mut frames, length) => {
                frames.push_back(piece);
                Self::Frames(frames, length)
            }
            _ => panic!("only frames can be continued"),
        }
    }

    /// A body that is sent piece by piece.
    pub fn fed() -> (Feed, Self) {
        let (feed, fed) = mpsc::channel(1);
        (Feed(feed), Self::Fed(fed, None))
    }
}

impl From<&'static str> for Sent {
    fn from(text: &'static str) -> Self {
        Self::Whole(Bytes::from_static(text.as_bytes()))
    }
}

impl From<String> for Sent {
    fn from(text: String) -> Self {
        Self::Whole(text.into())
    }
}

impl From<Bytes> for Sent {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

impl Feed {
    /// Sends a piece when there is room for it; false where nobody takes it any more.
    pub async fn send(&self, piece: impl Into<Bytes>) -> bool {
        self.0.send(Ok(Frame::data(piece.into()))).await.is_ok()
    }

    /// Breaks the body off.
    pub async fn break_off(self) {
        let _ = self.0.send(Err(io::Error::other("broken off by the test"))).await;
    }

    /// Ends when nobody takes it any more.
    pub async fn refused(&self) {
        self.0.closed().await;
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Frames(frames, _) => Poll::Ready(frames.pop_front()),
            Self::Fed(feed, _) => feed.poll_recv(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Frames(frames, _) => frames.is_empty(),
            Self::Fed(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Frames(_, Some(length)) | Self::Fed(_, Some(length)) => SizeHint::with_exact(*length),
            Self::Frames(..) | Self::Fed(..) => SizeHint::default(),
        }
    }
}

/// Reads a body to its end, clean or not.
pub async fn receive(body: impl Into<Incoming>) -> Received {
    let mut body = body.into();
    let mut received = Received { bytes: Bytes::new(), trailers: None, broken: None };
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(frame)) => received.trailers = frame.into_trailers().ok(),
            Err(error) => {
                received.broken = Some(error);
                break;
            }
        }
    }
    received.bytes = bytes.into();
    received
}

/// The next bytes of a body; `None` at its clean end. Panics where it broke.
pub async fn next_piece(body: &mut Incoming) -> Option<Bytes> {
    loop {
        match body.frame().await?.unwrap().into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => return Some(data),
            Err(_) => return None,
        }
    }
}

/// The same 10 MiB in every test: no pattern that a wrong order could hide behind.
pub fn noise() -> Bytes {
    static NOISE: OnceLock<Bytes> = OnceLock::new();
    let make = || {
        let mut bytes = vec![0; 10 * 1024 * 1024];
        fastrand::Rng::with_seed(1).fill(&mut bytes);
        bytes.into()
    };
    NOISE.get_or_init(make).clone()
}

/// The noise in pieces of random sizes, from one byte to 64 KiB.
pub fn noise_in_pieces(seed: u64) -> Vec<Bytes> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut left = noise();
    let mut pieces = Vec::new();
    while !left.is_empty() {
        let size = if random.u8(..) < 16 { random.usize(1..16) } else { random.usize(1..65_536) };
        pieces.push(left.split_to(size.min(left.len())));
    }
    pieces
}
