//! Request body data that was read and is still needed: for a retry, or read ahead of the endpoint.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::held::Held;

/// What was read, as long as it may be needed again.
pub(super) struct Kept {
    pub(super) frames: Vec<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) room: u64,
    /// More was read than is kept.
    pub(super) overflowed: bool,
    /// The client's body ended.
    pub(super) ended: bool,
    /// Counts what was read ahead.
    pub(super) held: Option<Held>,
}

impl Kept {
    /// Nothing yet; `replay` bytes at the most.
    pub(super) fn new(replay: u64) -> Self {
        let overflowed = replay == 0;
        Self { frames: Vec::new(), trailers: None, room: replay, overflowed, ended: false, held: None }
    }

    /// Keeps a piece, or none at all any more. Clients choose how small pieces are: each takes up what it costs to keep it, and
    /// a small one does not hold on to the buffer that it came in.
    pub(super) fn keep(&mut self, data: &Bytes) {
        match self.room.checked_sub((data.len() as u64).max(COST)) {
            Some(room) => {
                self.room = room;
                self.frames.push(if data.len() < WORTH_A_BUFFER { Bytes::copy_from_slice(data) } else { data.clone() });
            }
            None => {
                self.overflowed = true;
                self.release();
            }
        }
    }

    /// Gives the pieces back.
    pub(super) fn release(&mut self) {
        self.frames = Vec::new();
        self.held = None;
    }

    /// What of the body is to be sent after `sent` pieces, where that is known here.
    pub(super) fn length_after(&self, sent: usize) -> u64 {
        self.frames.iter().skip(sent).map(|data| data.len() as u64).sum()
    }
}

/// Bytes in few pieces, however small those were that they came in.
#[derive(Default)]
pub(super) struct Gathered {
    whole: Vec<Bytes>,
    last: BytesMut,
    /// All of them.
    pub(super) length: u64,
}

impl Gathered {
    /// Puts a copy of `data` behind them.
    pub(super) fn take_in(&mut self, mut data: &[u8]) {
        self.length += data.len() as u64;
        while !data.is_empty() {
            if self.last.len() == self.last.capacity() {
                self.whole.extend(Some(std::mem::take(&mut self.last).freeze()).filter(|piece| !piece.is_empty()));
                self.last.reserve((self.length as usize).clamp(SMALLEST_PIECE, LARGEST_PIECE));
            }
            let (now, later) = data.split_at(data.len().min(self.last.capacity() - self.last.len()));
            self.last.extend_from_slice(now);
            data = later;
        }
    }

    /// The pieces.
    pub(super) fn into_frames(self) -> Vec<Bytes> {
        let Self { mut whole, last, .. } = self;
        whole.extend(Some(last.freeze()).filter(|piece| !piece.is_empty()));
        whole
    }
}

/// Bytes that a piece takes up at the least, beside its own.
const COST: u64 = 64;
/// Bytes from which on a piece is shared with the buffer that it came in, instead of copied.
const WORTH_A_BUFFER: usize = 256;
const SMALLEST_PIECE: usize = 1024;
const LARGEST_PIECE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_take_up_what_they_cost() {
        let mut kept = Kept::new(64 * 1024);
        let buffer = Bytes::from(vec![7; 64 * 1024]);
        kept.keep(&buffer.slice(..1));
        assert!(!buffer.as_ptr_range().contains(&kept.frames[0].as_ptr()), "it holds on to the whole buffer");
        kept.keep(&buffer.slice(..1024));
        assert_eq!(kept.frames[1].as_ptr(), buffer.as_ptr(), "a copy for nothing");
        while !kept.overflowed {
            assert!(kept.frames.len() < 2000, "as many pieces as there are bytes");
            kept.keep(&buffer.slice(..1));
        }
        assert!(kept.frames.is_empty());
    }

    #[test]
    fn small_pieces_are_gathered_into_few() {
        let mut gathered = Gathered::default();
        let bytes: Vec<u8> = (0..200_000u32).map(|nth| nth as u8).collect();
        bytes.chunks(3).for_each(|piece| gathered.take_in(piece));
        assert_eq!(gathered.length, 200_000);
        let frames = gathered.into_frames();
        assert!(frames.len() < 16, "{} pieces", frames.len());
        assert!(frames.iter().all(|piece| piece.len() <= LARGEST_PIECE));
        assert_eq!(frames.concat(), bytes);
    }
}
