//! The protection of a QUIC connection's first packets (RFC 9001 §5.2). Its keys can be derived by anyone who sees the
//! first packet, so the packets can be read without being changed.

use rustls::Side;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{DirectionalKeys, Version};

/// The version of RFC 9000.
pub const V1: u32 = 1;
/// The version of RFC 9369.
pub const V2: u32 = 0x6b33_43cf;

/// The keys of what a client sends first.
pub struct InitialKeys {
    client: DirectionalKeys,
}

impl InitialKeys {
    /// Made of the destination connection ID of the client's very first packet; `None`: a version that is not known.
    pub fn new(version: u32, destination: &[u8]) -> Option<Self> {
        // RFC 9001 §5.2: always AES-128-GCM, whatever is agreed on later.
        let suite = TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()?;
        Some(Self { client: suite.keys(destination, Side::Server, known(version)?).remote })
    }

    /// Takes the protection off `packet`, whose packet number begins at `number`, and gives the frames in it; `None`: it was not
    /// protected with these keys, or is too short for that.
    pub fn open<'a>(&self, packet: &'a mut [u8], number: usize) -> Option<&'a [u8]> {
        // RFC 9001 §5.4.2: the sample begins where the longest packet number would end.
        let (before, sampled) = packet.split_at_mut_checked(number + LONGEST_NUMBER)?;
        let sample = sampled.get(..self.client.header.sample_len())?;
        let (first, rest) = before.split_first_mut()?;
        self.client.header.decrypt_in_place(sample, first, rest.get_mut(number.checked_sub(1)?..)?).ok()?;
        let length = usize::from(*first & 0b11) + 1;
        let (header, payload) = packet.split_at_mut(number + length);
        // RFC 9000 §17.1: the number's low bytes, which for a client's first packets are all of it.
        let number = header[number..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        self.client.packet.decrypt_in_place(number, header, payload).ok()
    }
}

fn known(version: u32) -> Option<Version> {
    match version {
        V1 => Some(Version::V1),
        V2 => Some(Version::V2),
        _ => None,
    }
}

/// Bytes of the longest packet number.
const LONGEST_NUMBER: usize = 4;

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Protects `frames` as a client does: `header` ends with a packet number of four bytes.
    pub(crate) fn protect(version: u32, destination: &[u8], header: &[u8], frames: &[u8]) -> Vec<u8> {
        let suite = TLS13_AES_128_GCM_SHA256.tls13().unwrap().quic_suite().unwrap();
        let keys = suite.keys(destination, Side::Client, known(version).unwrap()).local;
        let mut packet = [header, frames].concat();
        let number = header.len() - LONGEST_NUMBER;
        let (head, payload) = packet.split_at_mut(header.len());
        let full = u64::from(u32::from_be_bytes(head[number..].try_into().unwrap()));
        let tag = keys.packet.encrypt_in_place(full, head, payload).unwrap();
        packet.extend_from_slice(tag.as_ref());
        let (before, sampled) = packet.split_at_mut(number + LONGEST_NUMBER);
        let (first, rest) = before.split_first_mut().unwrap();
        keys.header.encrypt_in_place(&sampled[..16], first, &mut rest[number - 1..]).unwrap();
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESTINATION: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// RFC 9001 §A.2, the frames of a client that asks for example.com.
    fn frames() -> Vec<u8> {
        let mut frames = bytes(concat!(
            "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868",
            "04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578",
            "616d706c652e636f6dff01000100000a00080006001d00170018001000070005",
            "04616c706e000500050100000000003300260024001d00209370b2c9caa47fba",
            "baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400",
            "0d0010000e0403050306030203080408050806002d00020101001c0002400100",
            "3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000",
            "75300901100f088394c8f03e51570806048000ffff",
        ));
        frames.resize(1162, 0);
        frames
    }

    #[test]
    fn the_packets_of_the_documents_are_made_and_read() {
        // RFC 9001 §A.2 and RFC 9369 §A.2: the header in the clear, then how the packet begins and ends.
        for (version, header, begins, ends) in [
            (
                V1,
                "c300000001088394c8f03e5157080000449e00000002",
                "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11",
                "e221af44860018ab0856972e194cd934",
            ),
            (
                V2,
                "d36b3343cf088394c8f03e5157080000449e00000002",
                "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485",
                "a18b2faa745b6fe189cf772a9f84cbfc",
            ),
        ] {
            let mut packet = testing::protect(version, &DESTINATION, &bytes(header), &frames());
            assert!(packet.starts_with(&bytes(begins)) && packet.ends_with(&bytes(ends)) && packet.len() == 1200);
            let keys = InitialKeys::new(version, &DESTINATION).unwrap();
            assert_eq!(keys.open(&mut packet, 18), Some(&frames()[..]));
        }
    }

    #[test]
    fn what_was_changed_or_is_too_short_is_not_read() {
        let header = bytes("c300000001088394c8f03e5157080000449e00000002");
        let packet = testing::protect(V1, &DESTINATION, &header, &frames());
        let keys = InitialKeys::new(V1, &DESTINATION).unwrap();
        for place in [0, 5, 7, 17, 20, 300, 1199] {
            let mut changed = packet.clone();
            changed[place] ^= 0x10;
            assert_eq!(keys.open(&mut changed, 18), None, "byte {place}");
        }
        for length in 0..60 {
            assert_eq!(keys.open(&mut packet[..length].to_vec(), 18), None);
        }
        assert_eq!(InitialKeys::new(V1, &[1, 2, 3]).unwrap().open(&mut packet.clone(), 18), None);
        assert_eq!(InitialKeys::new(V2, &DESTINATION).unwrap().open(&mut packet.clone(), 18), None);
        assert!(InitialKeys::new(0xff00_001d, &DESTINATION).is_none());
    }
}
