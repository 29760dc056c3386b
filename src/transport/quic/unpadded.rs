//! Removes the padding after the frames of a packet (RFC 9000 §19.1). quinn parses each padding byte as a frame, which
//! took a fifth of a handshake's time, because first packets and path MTU probes consist mostly of padding.

use bytes::{Buf, BytesMut};
use quinn::crypto::{CryptoError, KeyPair, Keys, PacketKey};

/// A key that takes the padding off what it decrypts.
struct Unpadded(Box<dyn PacketKey>);

/// Has what the peer sends handed on without padding.
pub(super) fn unpadded(keys: Keys) -> Keys {
    Keys { header: keys.header, packet: unpadded_pair(keys.packet) }
}

/// As [`unpadded`], of one kind of keys.
pub(super) fn unpadded_pair(keys: KeyPair<Box<dyn PacketKey>>) -> KeyPair<Box<dyn PacketKey>> {
    KeyPair { local: keys.local, remote: Box::new(Unpadded(keys.remote)) }
}

impl PacketKey for Unpadded {
    fn encrypt(&self, packet: u64, buffer: &mut [u8], header: usize) {
        self.0.encrypt(packet, buffer, header);
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        self.0.decrypt(packet, header, payload)?;
        // Of most packets that carry data this is all.
        if payload.last() == Some(&PADDING) {
            strip(payload);
        }
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.0.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.0.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}

fn strip(payload: &mut BytesMut) {
    match frames(payload) {
        // quinn reckons what it keeps of a handshake by the length of the packet: it is to have no more than that.
        Some(Frames { length, has_crypto: true }) => *payload = BytesMut::from(&payload[..length]),
        Some(Frames { length, has_crypto: false }) => payload.truncate(length),
        None => {}
    }
}

/// What is left of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frames {
    /// Up to the first byte of the padding at the end, which stays: there may be nothing else, and no packet is empty.
    length: usize,
    has_crypto: bool,
}

/// The frames before the padding at the end. `None` where there is none, and where frames that carry data or that are not
/// known here come before it: zeros may be theirs.
fn frames(payload: &[u8]) -> Option<Frames> {
    let mut rest = payload;
    let mut has_crypto = false;
    loop {
        match *rest.first()? {
            PADDING => {
                let zeros = rest.iter().take_while(|byte| **byte == PADDING).count();
                if zeros == rest.len() {
                    return Some(Frames { length: payload.len() - zeros + 1, has_crypto });
                }
                rest.advance(zeros);
            }
            PING | HANDSHAKE_DONE | IMMEDIATE_ACK => rest.advance(1),
            kind @ (ACK | ACK_ECN) => {
                rest.advance(1);
                let _largest = integer(&mut rest)?;
                let _delay = integer(&mut rest)?;
                let ranges = integer(&mut rest)?;
                let _first = integer(&mut rest)?;
                for _ in 0..ranges {
                    let _gap = integer(&mut rest)?;
                    let _length = integer(&mut rest)?;
                }
                for _ in 0..if kind == ACK_ECN { 3 } else { 0 } {
                    let _count = integer(&mut rest)?;
                }
            }
            CRYPTO => {
                rest.advance(1);
                let _offset = integer(&mut rest)?;
                let length = usize::try_from(integer(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
                has_crypto = true;
            }
            _ => return None,
        }
    }
}

/// RFC 9000 §16
fn integer(rest: &mut &[u8]) -> Option<u64> {
    let first = *rest.first()?;
    let length = 1 << (first >> 6);
    let (bytes, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(bytes[1..].iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)))
}

/// RFC 9000 §19.
const PADDING: u8 = 0x00;
const PING: u8 = 0x01;
const ACK: u8 = 0x02;
const ACK_ECN: u8 = 0x03;
const CRYPTO: u8 = 0x06;
const HANDSHAKE_DONE: u8 = 0x1e;
/// Of the acknowledgement frequency extension; quinn's packets that try the path's size have it.
const IMMEDIATE_ACK: u8 = 0x1f;

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands between header and padding in packets of a handshake, and behind it.
    const ACKNOWLEDGED: [&[u8]; 2] =
        [&[ACK, 0x05, 0x00, 0x01, 0x00, 0x01, 0x00], &[ACK_ECN, 0x40, 0x00, 0, 0, 0, 0, 0, 0]];
    const HELLO: &[u8] = &[CRYPTO, 0x00, 0x40, 0x04, 1, 2, 0, 0];

    fn padded(frames: &[&[u8]], zeros: usize) -> Vec<u8> {
        let mut payload = frames.concat();
        payload.resize(payload.len() + zeros, PADDING);
        payload
    }

    #[test]
    fn one_byte_of_the_padding_is_left() {
        for (parts, has_crypto) in [
            (&[HELLO] as &[&[u8]], true),
            (&[ACKNOWLEDGED[0], HELLO], true),
            (&[HELLO, &[0, 0, 0], &[PING], HELLO], true),
            (&[ACKNOWLEDGED[0]], false),
            (&[ACKNOWLEDGED[1], &[PING]], false),
            (&[&[PING, IMMEDIATE_ACK]], false),
            (&[&[HANDSHAKE_DONE]], false),
            (&[], false),
        ] {
            for zeros in [1, 2, 1200] {
                let payload = padded(parts, zeros);
                let length = parts.concat().len() + 1;
                assert_eq!(frames(&payload), Some(Frames { length, has_crypto }), "{payload:?}");
                let mut stripped = BytesMut::from(&payload[..]);
                strip(&mut stripped);
                assert_eq!(stripped, payload[..length]);
            }
        }
    }

    #[test]
    fn zeros_that_may_belong_to_a_frame_stay() {
        // STREAM without a length, DATAGRAM, NEW_TOKEN, a type of two bytes, and frames that are cut short.
        for part in
            [&[0x08u8, 0x04][..], &[0x30], &[0x07, 0x10], &[0x40, 0x01], &[CRYPTO, 0x00, 0x50, 0x00], &[ACK, 0x80]]
        {
            let payload = padded(&[&[PING], part], 3);
            assert_eq!(frames(&payload), None, "{part:?}");
            let mut kept = BytesMut::from(&payload[..]);
            strip(&mut kept);
            assert_eq!(kept, payload);
        }
        assert_eq!(frames(HELLO), None, "zeros at the end of its data");
        assert_eq!(frames(&[]), None);
    }

    #[test]
    fn whatever_comes_only_zeros_are_taken_off() {
        fastrand::seed(9);
        for round in 0..20_000 {
            let kinds = [PADDING, PING, ACK, ACK_ECN, CRYPTO, HANDSHAKE_DONE, 0x0a, 0xff, 1, 3];
            let mut payload: Vec<u8> =
                (0..fastrand::usize(..40)).map(|_| fastrand::choice(kinds).unwrap_or_default()).collect();
            payload.resize(payload.len() + fastrand::usize(..8), 0);
            let mut stripped = BytesMut::from(&payload[..]);
            strip(&mut stripped);
            assert!(payload.starts_with(&stripped), "round {round}");
            assert!(payload[stripped.len()..].iter().all(|byte| *byte == 0), "round {round}");
            assert_eq!(stripped.is_empty(), payload.is_empty(), "round {round}");
        }
    }
}
