//! Capsules: what a stream of a request that switched protocols is made of where the Capsule Protocol is spoken, on every
//! version of HTTP (sans-io, RFC 9297 §3.2). Only those that carry a datagram mean something; others are passed over.

use smallvec::SmallVec;

use super::varint;

/// The value of a DATAGRAM capsule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Its payload, or the beginning of one that is longer than any that is taken.
    pub payload: &'a [u8],
    /// Whether that is all of it.
    pub is_whole: bool,
}

/// Takes the stream apart, in whatever pieces it comes.
#[derive(Debug)]
pub struct Capsules {
    /// Bytes of a payload that are kept.
    longest: usize,
    /// Type and length, as far as they came.
    head: SmallVec<[u8; 16]>,
    /// A payload that comes in pieces.
    payload: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// Within a payload.
    Datagram {
        /// Bytes of it that are still to come.
        left: u64,
        is_whole: bool,
    },
    /// Within a capsule that means nothing to us.
    Other {
        left: u64,
    },
}

impl Capsules {
    /// At the beginning of a stream; `longest`: bytes of a datagram's payload that are taken.
    pub fn new(longest: usize) -> Self {
        Self { longest, head: SmallVec::new(), payload: Vec::new(), state: State::Head }
    }

    /// Takes bytes from the start of `input`, up to the end of the next datagram: how many they were, and the datagram if one
    /// ended there. Where none did, all were taken.
    pub fn next<'a>(&'a mut self, input: &'a [u8]) -> (usize, Option<Datagram<'a>>) {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            match self.state {
                State::Head => {
                    let Some(read) = self.read_head(rest) else { return (input.len(), None) };
                    taken += read;
                }
                // RFC 9297 §3.2: passed over in silence, however long it is. Nothing of it is kept.
                State::Other { left } => {
                    let skipped = left.min(rest.len() as u64);
                    taken += skipped as usize;
                    if skipped < left {
                        self.state = State::Other { left: left - skipped };
                        return (taken, None);
                    }
                    self.state = State::Head;
                }
                State::Datagram { left, is_whole } if left > rest.len() as u64 => {
                    self.keep(rest);
                    self.state = State::Datagram { left: left - rest.len() as u64, is_whole };
                    return (input.len(), None);
                }
                State::Datagram { left, is_whole } => {
                    let (last, end) = (&rest[..left as usize], taken + left as usize);
                    self.state = State::Head;
                    let payload = if self.payload.is_empty() {
                        &last[..last.len().min(self.longest)]
                    } else {
                        self.keep(last);
                        &self.payload
                    };
                    return (end, Some(Datagram { payload, is_whole }));
                }
            }
        }
    }

    /// Whether the stream may end here: not within a capsule.
    pub fn is_between(&self) -> bool {
        self.state == State::Head && self.head.is_empty()
    }

    /// Lets go of the memory of a payload that came in pieces, where none is being read. To be called before a pause.
    pub fn let_go(&mut self) {
        if self.is_between() {
            self.payload = Vec::new();
        }
    }

    /// Type and length: how many bytes of `input` they took, or `None` where they go on after all of it.
    fn read_head(&mut self, input: &[u8]) -> Option<usize> {
        for (at, &byte) in input.iter().enumerate() {
            self.head.push(byte);
            let Some((kind, first)) = varint::read(&self.head) else { continue };
            let Some((length, _)) = varint::read(&self.head[first..]) else { continue };
            self.head.clear();
            self.payload.clear();
            self.state = if kind == DATAGRAM {
                State::Datagram { left: length, is_whole: length <= self.longest as u64 }
            } else {
                State::Other { left: length }
            };
            return Some(at + 1);
        }
        None
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.longest - self.payload.len();
        self.payload.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Appends what stands before a datagram's payload of that length.
pub fn write_datagram_head(length: usize, out: &mut Vec<u8>) {
    varint::write(DATAGRAM, out);
    varint::write(length as u64, out);
}

/// RFC 9297 §3.5.
const DATAGRAM: u64 = 0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capsule(kind: u64, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        varint::write(kind, &mut bytes);
        varint::write(value.len() as u64, &mut bytes);
        bytes.extend_from_slice(value);
        bytes
    }

    /// What comes of the bytes in pieces of that size, and whether they end between capsules.
    fn read(bytes: &[u8], size: usize, longest: usize) -> (Vec<(Vec<u8>, bool)>, bool) {
        let mut capsules = Capsules::new(longest);
        let mut found = Vec::new();
        for mut piece in bytes.chunks(size) {
            while !piece.is_empty() {
                let (taken, datagram) = capsules.next(piece);
                if let Some(Datagram { payload, is_whole }) = datagram {
                    found.push((payload.to_vec(), is_whole));
                } else {
                    assert_eq!(taken, piece.len());
                }
                piece = &piece[taken..];
            }
        }
        (found, capsules.is_between())
    }

    #[test]
    fn datagrams_come_out_and_the_rest_is_passed_over() {
        let bytes =
            [capsule(0x2575, b"who knows"), capsule(0, b"one"), capsule(0, b""), capsule(9, b""), capsule(0, b"three")]
                .concat();
        let wanted = vec![(b"one".to_vec(), true), (Vec::new(), true), (b"three".to_vec(), true)];
        for size in 1..=bytes.len() {
            assert_eq!(read(&bytes, size, 100), (wanted.clone(), true), "in pieces of {size}");
        }
    }

    #[test]
    fn a_stream_that_ends_within_a_capsule_shows() {
        let bytes = capsule(0, b"payload");
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end], 2, 100), (Vec::new(), end == 0), "{end}");
        }
        assert_eq!(read(&capsule(7, b"x")[..2], 2, 100), (Vec::new(), false));
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let bytes = [capsule(0, &[7; 1000]), capsule(0, b"next")].concat();
        for size in [1, 10, 100, 5000] {
            let wanted = vec![(vec![7; 10], false), (b"next".to_vec(), true)];
            assert_eq!(read(&bytes, size, 10), (wanted, true), "in pieces of {size}");
        }
        // A capsule may say of itself what it wants: only so much of it is ever held.
        for (kind, held) in [(0, 10), (0x17, 0)] {
            let mut huge = vec![kind];
            varint::write(varint::MAX, &mut huge);
            huge.resize(1000, 1);
            let mut capsules = Capsules::new(10);
            assert_eq!(capsules.next(&huge), (1000, None));
            assert_eq!(capsules.payload.len(), held);
            capsules.let_go();
            assert_eq!(capsules.payload.len(), held, "it is half-read");
        }
    }

    #[test]
    fn a_pause_holds_no_memory() {
        let mut capsules = Capsules::new(100);
        let bytes = capsule(0, b"payload");
        for piece in bytes.chunks(4) {
            capsules.next(piece);
        }
        assert!(capsules.payload.capacity() > 0);
        capsules.let_go();
        assert_eq!(capsules.payload.capacity(), 0);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
            size in 1..400usize,
        ) {
            let mut bytes = Vec::new();
            for payload in &payloads {
                write_datagram_head(payload.len(), &mut bytes);
                bytes.extend_from_slice(payload);
            }
            let wanted = payloads.into_iter().map(|payload| (payload, true)).collect();
            prop_assert_eq!(read(&bytes, size, 300), (wanted, true));
        }

        #[test]
        fn nothing_is_kept_past_the_bound(bytes: Vec<u8>, size in 1..50usize) {
            for (payload, is_whole) in read(&bytes, size, 16).0 {
                prop_assert!(payload.len() <= 16);
                prop_assert!(is_whole || payload.len() == 16);
            }
        }
    }
}
