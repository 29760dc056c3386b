//! Streaming base64 (RFC 4648 §4), for the text form of gRPC-Web (sans-io). Output is padded at the end of each chunk,
//! so that no byte has to wait for the next chunk; input may be padded anywhere.

use bytes::Bytes;

/// What was read and is no whole group of four yet.
#[derive(Debug, Default)]
pub struct Decoder {
    group: [u8; 4],
    held: usize,
}

/// The text is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Decoder {
    /// The bytes that a further piece of the text completes.
    ///
    /// # Errors
    /// The text is not base64.
    pub fn decode(&mut self, text: &[u8]) -> Result<Bytes, Malformed> {
        let mut out = Vec::with_capacity((self.held + text.len()) / 4 * 3);
        for &byte in text {
            self.group[self.held] = byte;
            self.held += 1;
            if self.held == 4 {
                self.held = 0;
                group(self.group, &mut out)?;
            }
        }
        Ok(out.into())
    }

    /// Whether the text may end here.
    pub fn is_complete(&self) -> bool {
        self.held == 0
    }
}

fn group(group: [u8; 4], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let length = match group {
        [.., b'=', b'='] => 1,
        [.., b'='] => 2,
        _ => 3,
    };
    let mut bits = 0u32;
    for (nth, &byte) in group.iter().enumerate() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' if nth > length => 0,
            _ => return Err(Malformed),
        };
        bits = bits << 6 | u32::from(value);
    }
    out.extend_from_slice(&bits.to_be_bytes()[1..=length]);
    Ok(())
}

/// A piece as text, whole by itself.
pub fn encode(bytes: &[u8]) -> Bytes {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for nth in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * nth) & 63) as usize];
            out.push(if nth > three.len() { b'=' } else { digit });
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_writes_the_examples_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(Decoder::default().decode(text.as_bytes()).unwrap(), bytes);
        }
    }

    #[test]
    fn what_is_no_base64_is_refused() {
        for text in ["Zg=a", "Z===", "====", "Zm9*", "Zm 9", "Zm-_"] {
            assert_eq!(Decoder::default().decode(text.as_bytes()), Err(Malformed), "{text}");
        }
        let mut unfinished = Decoder::default();
        assert_eq!(unfinished.decode(b"Zm9vY").unwrap(), "foo");
        assert!(!unfinished.is_complete());
    }

    proptest! {
        #[test]
        fn pieces_may_be_cut_anywhere(pieces in prop::collection::vec(any::<Vec<u8>>(), 0..5), cut in 1..7usize) {
            let text: Vec<u8> = pieces.iter().flat_map(|piece| encode(piece)).collect();
            let mut decoder = Decoder::default();
            let read: Vec<u8> = text.chunks(cut).flat_map(|part| decoder.decode(part).unwrap()).collect();
            prop_assert_eq!(read, pieces.concat());
            prop_assert!(decoder.is_complete());
        }
    }
}
