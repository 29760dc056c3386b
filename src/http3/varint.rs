//! Variable-length integers of QUIC, which HTTP/3 measures everything with (sans-io, RFC 9000 §16).

/// The largest number there is.
pub const MAX: u64 = (1 << 62) - 1;

/// Reads one from the start of `bytes`: the number and how many bytes it took; `None` where there are too few.
#[inline]
pub fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let tail = bytes.get(1..length)?;
    let value = tail.iter().fold(u64::from(first & 0x3f), |value, &byte| value << 8 | u64::from(byte));
    Some((value, length))
}

/// Reads one that must fill `bytes`.
pub fn read_whole(bytes: &[u8]) -> Option<u64> {
    read(bytes).filter(|&(_, length)| length == bytes.len()).map(|(value, _)| value)
}

/// Appends `value` in as few bytes as it needs. What is past [`MAX`] is written as [`MAX`].
#[inline]
pub fn write(value: u64, out: &mut Vec<u8>) {
    match value {
        0..0x40 => out.push(value as u8),
        0x40..0x4000 => out.extend_from_slice(&(0x4000 | value as u16).to_be_bytes()),
        0x4000..0x4000_0000 => out.extend_from_slice(&(0x8000_0000 | value as u32).to_be_bytes()),
        _ => out.extend_from_slice(&(0xc000_0000_0000_0000 | value.min(MAX)).to_be_bytes()),
    }
}

/// How many bytes [`write`](fn@write) needs for `value`.
pub const fn size(value: u64) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 9000 §A.1
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ] {
            assert_eq!(read_whole(bytes), Some(value));
            let mut out = Vec::new();
            write(value, &mut out);
            assert_eq!(out, bytes);
        }
        assert_eq!(read(&[0x40, 0x25]), Some((37, 2)), "longer than needed is allowed");
        assert_eq!(read_whole(&[0x25, 0]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in 0..=MAX, shift in 0..62u32) {
            let value = value >> shift;
            let mut out = Vec::new();
            write(value, &mut out);
            prop_assert_eq!(out.len(), size(value));
            for end in 0..out.len() {
                prop_assert_eq!(read(&out[..end]), None);
            }
            out.push(0xff);
            prop_assert_eq!(read(&out), Some((value, out.len() - 1)));
        }
    }
}
