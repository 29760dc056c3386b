//! Follows the frame boundaries of an HTTP/2 client, so that the deadline on request heads applies as on HTTP/1
//! (sans-io, RFC 9113 §4.1, §6.2, §6.10). It validates nothing; hyper does.

use super::detect::PREFACE;
use super::link::Track;
use super::wire::Fed;

/// The frames of one connection, from the client.
#[derive(Clone, Debug)]
pub struct H2Frames {
    preface_left: u8,
    header: [u8; HEADER],
    header_filled: u8,
    payload_left: u32,
    /// A HEADERS frame began, and no complete frame with END_HEADERS followed.
    open_head: bool,
    /// The current frame has END_HEADERS.
    ends_head: bool,
}

impl H2Frames {
    /// From the first byte of the connection; the preface is skipped.
    pub fn new() -> Self {
        Self { preface_left: PREFACE.len() as u8, ..Self::after_preface() }
    }

    /// From the first frame.
    pub fn after_preface() -> Self {
        Self {
            preface_left: 0,
            header: [0; HEADER],
            header_filled: 0,
            payload_left: 0,
            open_head: false,
            ends_head: false,
        }
    }

    /// Takes the next bytes, split anywhere.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        let skip = bytes.len().min(usize::from(self.preface_left));
        self.preface_left -= skip as u8;
        bytes = &bytes[skip..];
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skip = bytes.len().min(self.payload_left as usize);
                self.payload_left -= skip as u32;
                bytes = &bytes[skip..];
                if self.payload_left == 0 {
                    self.end_frame();
                }
                continue;
            }
            let filled = usize::from(self.header_filled);
            let take = bytes.len().min(HEADER - filled);
            self.header[filled..filled + take].copy_from_slice(&bytes[..take]);
            self.header_filled += take as u8;
            bytes = &bytes[take..];
            if usize::from(self.header_filled) == HEADER {
                self.begin_frame();
            }
        }
    }

    /// Whether a request head is incomplete: within a HEADERS or CONTINUATION frame, or before END_HEADERS.
    pub fn head_in_progress(&self) -> bool {
        self.open_head
    }

    /// Whether the last byte ended a frame.
    pub fn at_boundary(&self) -> bool {
        self.preface_left == 0 && self.header_filled == 0 && self.payload_left == 0
    }

    fn begin_frame(&mut self) {
        self.header_filled = 0;
        let [a, b, c, kind, flags, ..] = self.header;
        self.payload_left = u32::from_be_bytes([0, a, b, c]);
        if kind == HEADERS || kind == CONTINUATION {
            self.open_head = true;
            self.ends_head = flags & END_HEADERS != 0;
        } else {
            // RFC 9113 §6.10: no other frame may come between the parts of a head; hyper closes such a connection.
            self.ends_head = false;
        }
        if self.payload_left == 0 {
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        if self.ends_head {
            self.open_head = false;
            self.ends_head = false;
        }
    }
}

impl Track for H2Frames {
    fn feed(&mut self, bytes: &[u8]) -> Fed {
        H2Frames::feed(self, bytes);
        Fed::Release(bytes.len())
    }

    fn is_in_head(&self) -> bool {
        self.head_in_progress()
    }

    fn is_at_boundary(&self) -> bool {
        self.at_boundary()
    }
}

impl Default for H2Frames {
    fn default() -> Self {
        Self::new()
    }
}

const HEADER: usize = 9;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
        bytes.resize(HEADER + length, 0xff);
        bytes
    }

    #[test]
    fn a_head_is_open_from_its_frame_header_to_its_last_byte() {
        let mut frames = H2Frames::new();
        frames.feed(PREFACE);
        frames.feed(&frame(4, 0, 18));
        assert!(!frames.head_in_progress() && frames.at_boundary());
        let head = frame(HEADERS, END_HEADERS, 30);
        frames.feed(&head[..HEADER]);
        assert!(frames.head_in_progress());
        frames.feed(&head[HEADER..HEADER + 29]);
        assert!(frames.head_in_progress());
        frames.feed(&head[HEADER + 29..]);
        assert!(!frames.head_in_progress() && frames.at_boundary());
    }

    #[test]
    fn a_head_without_its_end_stays_open_across_continuations() {
        let mut frames = H2Frames::after_preface();
        frames.feed(&frame(HEADERS, 0, 5));
        assert!(frames.head_in_progress() && frames.at_boundary());
        frames.feed(&frame(CONTINUATION, 0, 0));
        assert!(frames.head_in_progress());
        frames.feed(&frame(CONTINUATION, END_HEADERS, 0));
        assert!(!frames.head_in_progress());
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            shape in prop::collection::vec((0u8..10, 0u8..8, 0usize..40), 1..8),
            cuts in prop::collection::vec(1usize..30, 1..40),
        ) {
            let bytes: Vec<u8> = shape.iter().flat_map(|(kind, flags, length)| frame(*kind, *flags, *length)).collect();
            let mut whole = H2Frames::after_preface();
            whole.feed(&bytes);
            let mut parts = H2Frames::after_preface();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                parts.feed(now);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(whole.at_boundary() && parts.at_boundary());
            prop_assert_eq!(whole.head_in_progress(), parts.head_in_progress());
        }
    }
}
