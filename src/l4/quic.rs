//! Extracts the ClientHello from the first packets of a QUIC connection (sans-io): from the CRYPTO frames of a client's
//! Initial packets (RFC 9001 §4.3), across any number of datagrams in any order. Supports QUIC versions 1 and 2.

use smallvec::SmallVec;

use super::sni::{self, MAX_HELLO, Reading};
use crate::transport::quic_initial::{InitialKeys, V1, V2};

/// RFC 9000 §14.1: a server discards an Initial packet in a shorter datagram.
const SHORTEST: usize = 1200;
/// RFC 9000 §7.2: what a client chooses for its first packet is at least that long.
const SHORTEST_DESTINATION: usize = 8;
/// RFC 9000 §17.2.
const LONGEST_ID: usize = 20;
/// Pieces of a ClientHello with gaps between them; clients that shuffle their frames make a few dozen.
const MAX_PIECES: usize = 128;

/// The Initial packets of one client, as they come.
#[derive(Default)]
pub struct Initials {
    /// With the version and the connection ID that they were made of.
    keys: Option<(InitialKeys, u32, SmallVec<[u8; LONGEST_ID]>)>,
    crypto: Vec<u8>,
    /// What of it is there: begins and ends, in order, with gaps between them.
    pieces: SmallVec<[(usize, usize); 4]>,
    packet: Vec<u8>,
}

/// One packet with a long header (RFC 9000 §17.2).
struct Packet<'a> {
    is_initial: bool,
    version: u32,
    destination: &'a [u8],
    /// From its first byte to its last.
    bytes: &'a [u8],
    /// Where its packet number begins.
    number: usize,
}

/// The connection ID that a client's datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination<'a> {
    /// All of it.
    Long(&'a [u8]),
    /// It, and what stands behind it: only who chose it knows how long it is.
    Short(&'a [u8]),
}

/// The connection ID in the first packet of a datagram; `None`: it is not QUIC, or of a version that is not known.
pub fn destination(datagram: &[u8]) -> Option<Destination<'_>> {
    let mut cursor = Cursor(datagram);
    let first = cursor.byte()?;
    if first & LONG_HEADER == 0 {
        // RFC 9000 §17.3.1: one bit is always set, unless both agreed otherwise (RFC 9287), which nobody else knows.
        return (first & FIXED_BIT != 0).then_some(Destination::Short(cursor.0));
    }
    cursor.known_version()?;
    cursor.connection_id().map(Destination::Long)
}

/// The connection ID that an endpoint chose for itself, where the first packet of its datagram tells it.
pub fn source(datagram: &[u8]) -> Option<&[u8]> {
    if datagram.first()? & LONG_HEADER == 0 {
        return None;
    }
    let mut cursor = Cursor(&datagram[1..]);
    cursor.known_version()?;
    cursor.connection_id()?;
    cursor.connection_id()
}

impl Initials {
    /// Reads one more datagram of the client.
    pub fn read(&mut self, datagram: &[u8]) -> Reading {
        if datagram.len() < SHORTEST {
            return Reading::NotTls;
        }
        let mut rest = datagram;
        // RFC 9000 §12.2: packets stand behind each other; what is behind the last is none of ours.
        while let Some(packet) = Packet::first_of(rest) {
            rest = &rest[packet.bytes.len()..];
            if !packet.is_initial {
                continue;
            }
            if let Err(reading) = self.take(&packet) {
                return reading;
            }
        }
        if self.keys.is_none() {
            return Reading::NotTls;
        }
        match self.pieces.first() {
            Some((0, end)) => sni::read_message(&self.crypto[..*end]),
            _ => Reading::Incomplete,
        }
    }

    fn take(&mut self, packet: &Packet<'_>) -> Result<(), Reading> {
        let keys = match &self.keys {
            Some((keys, version, destination)) => {
                // RFC 9001 §5.2: the keys change with neither until the server has answered.
                if packet.version != *version || packet.destination != &destination[..] {
                    return Ok(());
                }
                keys
            }
            None if packet.destination.len() < SHORTEST_DESTINATION => {
                return Err(Reading::Broken("a connection ID that is too short"));
            }
            None => {
                let keys = InitialKeys::new(packet.version, packet.destination).ok_or(Reading::NotTls)?;
                &self.keys.insert((keys, packet.version, packet.destination.into())).0
            }
        };
        let mut bytes = std::mem::take(&mut self.packet);
        bytes.clear();
        bytes.extend_from_slice(packet.bytes);
        let taken = match keys.open(&mut bytes, packet.number) {
            Some(frames) => self.take_frames(frames),
            None => Err("an Initial packet that cannot be read"),
        };
        self.packet = bytes;
        taken.map_err(Reading::Broken)
    }

    /// RFC 9000 §17.2.2: an Initial packet holds no other frames.
    fn take_frames(&mut self, frames: &[u8]) -> Result<(), &'static str> {
        let mut frames = Cursor(frames);
        while let Some(kind) = frames.byte() {
            match kind {
                PADDING | PING => {}
                ACK | ACK_ECN => frames.skip_ack(kind == ACK_ECN).ok_or(CUT_OFF)?,
                CRYPTO => {
                    let (offset, length) = (frames.number().ok_or(CUT_OFF)?, frames.number().ok_or(CUT_OFF)?);
                    let data = frames.take(length).ok_or(CUT_OFF)?;
                    self.put(offset, data)?;
                }
                CONNECTION_CLOSE => return Err("the client closed the connection"),
                _ => return Err("a frame that does not belong into an Initial packet"),
            }
        }
        Ok(())
    }

    fn put(&mut self, begin: usize, data: &[u8]) -> Result<(), &'static str> {
        let end = begin.checked_add(data.len()).filter(|end| *end <= MAX_HELLO).ok_or("the ClientHello is too long")?;
        if data.is_empty() {
            return Ok(());
        }
        if self.crypto.len() < end {
            self.crypto.resize(end, 0);
        }
        self.crypto[begin..end].copy_from_slice(data);
        // Everything that touches the new piece becomes one with it.
        let first = self.pieces.partition_point(|piece| piece.1 < begin);
        let last = self.pieces.partition_point(|piece| piece.0 <= end);
        let whole = match self.pieces.get(first..last) {
            Some([one]) => (one.0.min(begin), one.1.max(end)),
            Some([one, .., other]) => (one.0.min(begin), other.1.max(end)),
            _ => (begin, end),
        };
        self.pieces.drain(first..last);
        self.pieces.insert(first, whole);
        if self.pieces.len() > MAX_PIECES { Err("a ClientHello in too many pieces") } else { Ok(()) }
    }
}

impl<'a> Packet<'a> {
    /// The packet that `bytes` begin with; `None`: one with a short header, of a version that is not known, or none at all.
    fn first_of(bytes: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        let first = cursor.byte()?;
        if first & LONG_HEADER == 0 {
            return None;
        }
        let version = cursor.known_version()?;
        let destination = cursor.connection_id()?;
        cursor.connection_id()?;
        // RFC 9369 §3.2: version 2 counts the types from another number.
        let kind = match version {
            V1 => (first >> 4) & 0b11,
            _ => ((first >> 4) & 0b11).wrapping_sub(1) & 0b11,
        };
        if kind == RETRY {
            return None;
        }
        if kind == INITIAL {
            let token = cursor.number()?;
            cursor.take(token)?;
        }
        let length = cursor.number()?;
        let number = bytes.len() - cursor.0.len();
        cursor.take(length)?;
        let bytes = &bytes[..number + length];
        Some(Self { is_initial: kind == INITIAL, version, destination, bytes, number })
    }
}

/// Bytes, from the front.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn known_version(&mut self) -> Option<u32> {
        let version = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
        [V1, V2].contains(&version).then_some(version)
    }

    fn connection_id(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.byte()?);
        if length > LONGEST_ID { None } else { self.take(length) }
    }

    /// RFC 9000 §16.
    fn number(&mut self) -> Option<usize> {
        let first = self.byte()?;
        let more = (1_usize << (first >> 6)) - 1;
        let rest = self.take(more)?;
        let number = rest.iter().fold(u64::from(first & 0b0011_1111), |number, byte| number << 8 | u64::from(*byte));
        usize::try_from(number).ok()
    }

    /// RFC 9000 §19.3.
    fn skip_ack(&mut self, with_ecn: bool) -> Option<()> {
        let (_largest, _delay, ranges, _first) = (self.number()?, self.number()?, self.number()?, self.number()?);
        for _ in 0..ranges {
            let (_gap, _length) = (self.number()?, self.number()?);
        }
        if with_ecn {
            let _counts = (self.number()?, self.number()?, self.number()?);
        }
        Some(())
    }
}

const LONG_HEADER: u8 = 0x80;
const FIXED_BIT: u8 = 0x40;
/// Types of packets with a long header, as version 1 counts them.
const INITIAL: u8 = 0;
const RETRY: u8 = 3;
/// Types of frames.
const PADDING: u8 = 0x00;
const PING: u8 = 0x01;
const ACK: u8 = 0x02;
const ACK_ECN: u8 = 0x03;
const CRYPTO: u8 = 0x06;
const CONNECTION_CLOSE: u8 = 0x1c;
const CUT_OFF: &str = "a frame that is cut off";

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::transport::quic_initial::testing::protect;

    /// A datagram with one Initial packet with these CRYPTO frames, padded as clients do.
    pub(crate) fn initial(version: u32, destination: &[u8], number: u32, pieces: &[(usize, &[u8])]) -> Vec<u8> {
        let mut frames = vec![PING];
        for (offset, data) in pieces {
            frames.push(CRYPTO);
            frames.extend(long_number(*offset));
            frames.extend(long_number(data.len()));
            frames.extend_from_slice(data);
        }
        let first = if version == V2 { 0xd3 } else { 0xc3 };
        let mut header = vec![first];
        header.extend(version.to_be_bytes());
        header.push(destination.len() as u8);
        header.extend_from_slice(destination);
        // No source connection ID, a token of three bytes.
        header.extend([0, 3, 1, 2, 3]);
        let least = SHORTEST - header.len() - 4 - 4 - 16;
        frames.resize(frames.len().max(least), PADDING);
        header.extend(long_number(4 + frames.len() + 16));
        header.extend(number.to_be_bytes());
        protect(version, destination, &header, &frames)
    }

    fn long_number(number: usize) -> [u8; 4] {
        (number as u32 | 0b10 << 30).to_be_bytes()
    }

    /// The message of a ClientHello that Chromium sent, to `localhost`.
    pub(crate) fn hello() -> Vec<u8> {
        let record = include_bytes!("../../tests/hellos/chromium.bin");
        record[5..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{hello, initial};
    use super::*;

    const DESTINATION: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn a_hello_in_one_datagram_is_read_in_both_versions() {
        for version in [V1, V2] {
            let hello = hello();
            let (one, two) = hello.split_at(900);
            let pieces =
                [initial(version, DESTINATION, 0, &[(0, one)]), initial(version, DESTINATION, 1, &[(900, two)])];
            let mut initials = Initials::default();
            assert_eq!(initials.read(&pieces[0]), Reading::Incomplete);
            assert_eq!(initials.read(&pieces[1]), sni::read_message(&hello));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_may_come_in_any_order_and_twice(
            mut cuts in prop::collection::vec(0usize..1700, 0..40),
            order in any::<u64>(),
            together in 1usize..8,
        ) {
            let hello = hello();
            cuts.iter_mut().for_each(|cut| *cut %= hello.len());
            cuts.extend([0, hello.len()]);
            cuts.sort_unstable();
            let mut pieces: Vec<_> = cuts.windows(2).map(|cut| (cut[0], &hello[cut[0]..cut[1]])).collect();
            // Some overlap with their neighbours.
            for piece in pieces.iter_mut().step_by(3) {
                piece.1 = &hello[piece.0..(piece.0 + piece.1.len() + 9).min(hello.len())];
            }
            let mut rng = fastrand::Rng::with_seed(order);
            rng.shuffle(&mut pieces);
            pieces.insert(rng.usize(..pieces.len()), pieces[0]);
            let mut initials = Initials::default();
            let mut last = Reading::Incomplete;
            for (number, pieces) in pieces.chunks(together).enumerate() {
                prop_assert_eq!(&last, &Reading::Incomplete);
                last = initials.read(&initial(V1, DESTINATION, number as u32, pieces));
                if last != Reading::Incomplete {
                    break;
                }
            }
            prop_assert_eq!(last, sni::read_message(&hello));
        }

        #[test]
        fn nothing_that_comes_from_outside_breaks_it(
            mut datagram in prop::collection::vec(any::<u8>(), 1200..1300),
            is_long: bool,
        ) {
            if is_long {
                datagram[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]);
            }
            let reading = Initials::default().read(&datagram);
            prop_assert!(!matches!(reading, Reading::Hello(_)));
        }

        #[test]
        fn no_frame_breaks_it(frames in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut initials = Initials::default();
            let _ = initials.take_frames(&frames);
            prop_assert!(initials.pieces.is_sorted() && initials.crypto.len() <= MAX_HELLO);
        }
    }

    #[test]
    fn packets_behind_each_other_are_taken_apart() {
        let hello = hello();
        let (one, two) = hello.split_at(700);
        let first = initial(V1, DESTINATION, 0, &[(0, one)]);
        let second = initial(V1, DESTINATION, 1, &[(700, two)]);
        // A 0-RTT packet between them, and what looks like a short header behind.
        let early = [&[0xd0, 0, 0, 0, 1, 8][..], DESTINATION, &[0, 0x05, 1, 2, 3, 4, 5]].concat();
        let datagram = [&first[..], &early, &second, &[0x40; 30]].concat();
        assert_eq!(Initials::default().read(&datagram), sni::read_message(&hello));
    }

    #[test]
    fn connection_ids_are_found_where_they_stand() {
        let first = initial(V2, DESTINATION, 0, &[]);
        assert_eq!(destination(&first), Some(Destination::Long(DESTINATION)));
        assert_eq!(source(&first), Some(&[][..]));
        assert_eq!(destination(&[0x41, 7, 8, 9]), Some(Destination::Short(&[7, 8, 9])));
        assert_eq!(source(&[0x41, 7, 8, 9]), None);
        let answer = [&[0xe0, 0, 0, 0, 1, 2, 1, 1, 3], &b"abc"[..], &[0; 40]].concat();
        assert_eq!(source(&answer), Some(&b"abc"[..]));
        for nothing in [&[][..], &[0x01, 7, 8], &[0xc0, 0, 0], &[0xc0, 0, 0, 0, 9, 1, 1, 0], &[0xc0, 0, 0, 0, 1, 21]] {
            assert_eq!((destination(nothing), source(nothing)), (None, None));
        }
    }

    #[test]
    fn what_is_no_first_datagram_of_a_client_is_not_read() {
        let whole = initial(V1, DESTINATION, 0, &[(0, b"x")]);
        let mut unknown = whole.clone();
        unknown[1..5].copy_from_slice(&[0x0a, 0x1a, 0x2a, 0x3a]);
        let mut short = whole.clone();
        short[0] &= 0x7f;
        for datagram in [&whole[..1199], &unknown, &short, &[0; 1500], b"dns"] {
            assert_eq!(Initials::default().read(datagram), Reading::NotTls);
        }
        let mut changed = whole.clone();
        changed[600] ^= 1;
        assert!(matches!(Initials::default().read(&changed), Reading::Broken(_)));
        let narrow = initial(V1, &[1; 7], 0, &[(0, b"x")]);
        assert!(matches!(Initials::default().read(&narrow), Reading::Broken(_)));
    }

    #[test]
    fn a_client_cannot_have_it_hold_more_than_a_hello() {
        let mut initials = Initials::default();
        assert!(initials.put(MAX_HELLO - 1, b"xy").is_err() && initials.put(usize::MAX, b"x").is_err());
        assert!((0..=MAX_PIECES).map(|n| initials.put(n * 3, b"x")).any(|put| put.is_err()));
        let closing = initial(V1, DESTINATION, 0, &[]);
        assert_eq!(Initials::default().read(&closing), Reading::Incomplete);
        assert_eq!(Initials::default().take_frames(&[CONNECTION_CLOSE]), Err("the client closed the connection"));
        assert!(Initials::default().take_frames(&[0x08]).is_err());
        assert!(Initials::default().take_frames(&[ACK, 1, 1, 1, 1, 1, 1, PING]).is_ok());
        assert_eq!(Initials::default().take_frames(&[ACK_ECN, 1, 1, 1, 1, 1, 1]), Err(CUT_OFF));
    }
}
