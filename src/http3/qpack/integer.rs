//! Integers and strings with a prefix of fewer than eight bits (sans-io, RFC 9204 §4.1, RFC 7541 §5.1-5.2).

use super::huffman;

/// Why a number or a string cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes end before it does.
    Short,
    /// No number that QPACK has, or no Huffman code.
    Invalid,
}

/// Reads an integer from the low `prefix` bits of the first byte on: the number and how many bytes it took.
///
/// # Errors
/// [`Fault::Invalid`] past 62 bits (RFC 9204 §4.1.1).
#[inline]
pub fn read(bytes: &[u8], prefix: u8) -> Result<(u64, usize), Fault> {
    let mask = low_bits(prefix);
    match bytes.first() {
        Some(first) if first & mask < mask => Ok((u64::from(first & mask), 1)),
        Some(_) => read_long(bytes, mask),
        None => Err(Fault::Short),
    }
}

fn read_long(bytes: &[u8], mask: u8) -> Result<(u64, usize), Fault> {
    let mut value = u64::from(mask);
    for (index, &byte) in bytes[1..].iter().enumerate() {
        // Nine groups of seven bits are 63 bits: the sum stays below 2^64.
        if index == 9 {
            return Err(Fault::Invalid);
        }
        value += u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return if value < 1 << 62 { Ok((value, index + 2)) } else { Err(Fault::Invalid) };
        }
    }
    Err(if bytes.len() > 9 { Fault::Invalid } else { Fault::Short })
}

/// Appends an integer behind the bits of `pattern` above the prefix.
#[inline]
pub fn write(value: u64, prefix: u8, pattern: u8, out: &mut Vec<u8>) {
    let mask = low_bits(prefix);
    if value < u64::from(mask) {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask);
    let mut rest = value - u64::from(mask);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// A string as it stands in a block.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    bytes: &'a [u8],
    is_huffman: bool,
}

impl<'a> Text<'a> {
    /// Reads one whose length has a prefix of `prefix` bits, with the Huffman bit above; and how many bytes it took.
    ///
    /// # Errors
    /// As [`read`].
    #[inline]
    pub fn read(bytes: &'a [u8], prefix: u8) -> Result<(Self, usize), Fault> {
        let (length, start) = read(bytes, prefix)?;
        let end = usize::try_from(length).ok().and_then(|length| start.checked_add(length)).ok_or(Fault::Invalid)?;
        let is_huffman = bytes[0] >> prefix & 1 == 1;
        let bytes = bytes.get(start..end).ok_or(Fault::Short)?;
        Ok((Self { bytes, is_huffman }, end))
    }

    /// The least that it is when decoded.
    #[inline]
    pub fn min_length(&self) -> usize {
        // No code is longer than 30 bits.
        if self.is_huffman { self.bytes.len() * 8 / 30 } else { self.bytes.len() }
    }

    /// What it says, decoded into `scratch` where it has to be.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for what is no Huffman code.
    #[inline]
    pub fn decode<'b>(self, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], Fault>
    where
        'a: 'b,
    {
        if !self.is_huffman {
            return Ok(self.bytes);
        }
        scratch.clear();
        huffman::decode(self.bytes, scratch).map_err(|huffman::Invalid| Fault::Invalid)?;
        Ok(scratch)
    }
}

/// Appends a string whose length has a prefix of `prefix` bits, Huffman-coded where that is shorter.
#[inline]
pub fn write_text(text: &[u8], prefix: u8, pattern: u8, out: &mut Vec<u8>) {
    if text.len() < usize::from(low_bits(prefix)) {
        // What is shorter than this has a length of one byte.
        let start = out.len();
        out.push(0);
        huffman::encode(text, out);
        let coded = out.len() - start - 1;
        if coded < text.len() {
            out[start] = pattern | 1 << prefix | coded as u8;
        } else {
            out[start] = pattern | text.len() as u8;
            out.truncate(start + 1);
            out.extend_from_slice(text);
        }
        return;
    }
    let coded = huffman::encoded_length(text);
    if coded < text.len() {
        write(coded as u64, prefix, pattern | 1 << prefix, out);
        huffman::encode(text, out);
    } else {
        write(text.len() as u64, prefix, pattern, out);
        out.extend_from_slice(text);
    }
}

const fn low_bits(prefix: u8) -> u8 {
    ((1u16 << prefix) - 1) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 7541 §C.1
        for (value, prefix, bytes) in [(10, 5, &[10][..]), (1337, 5, &[31, 154, 10]), (42, 8, &[42])] {
            let mut out = Vec::new();
            write(value, prefix, 0, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(read(bytes, prefix), Ok((value, bytes.len())));
        }
    }

    #[test]
    fn numbers_end_somewhere() {
        assert_eq!(read(&[], 5), Err(Fault::Short));
        assert_eq!(read(&[0xff; 9], 8), Err(Fault::Short));
        assert_eq!(read(&[0xff; 10], 8), Err(Fault::Invalid));
        assert_eq!(read(&[0xff; 64], 8), Err(Fault::Invalid));
        assert_eq!(read(&[0x1f, 0x80, 0x80, 0], 5), Ok((31, 4)), "longer than needed");
        let mut out = Vec::new();
        write((1 << 62) - 1, 3, 0, &mut out);
        assert_eq!(read(&out, 3), Ok(((1 << 62) - 1, out.len())));
        out.clear();
        write(1 << 62, 3, 0, &mut out);
        assert_eq!(read(&out, 3), Err(Fault::Invalid));
        assert!(matches!(
            Text::read(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f], 7),
            Err(Fault::Short)
        ));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in 0..1u64 << 62, shift in 0..62u32, prefix in 3..=8u8, pattern: u8) {
            let (value, pattern) = (value >> shift, pattern & !low_bits(prefix));
            let mut out = Vec::new();
            write(value, prefix, pattern, &mut out);
            prop_assert_eq!(out[0] & !low_bits(prefix), pattern);
            for end in 0..out.len() {
                prop_assert_eq!(read(&out[..end], prefix), Err(Fault::Short));
            }
            out.push(0xff);
            prop_assert_eq!(read(&out, prefix), Ok((value, out.len() - 1)));
        }

        #[test]
        fn texts_come_back(text: Vec<u8>, prefix in 3..=7u8) {
            let mut out = Vec::new();
            write_text(&text, prefix, 0, &mut out);
            let (read, length) = Text::read(&out, prefix).unwrap();
            prop_assert_eq!(length, out.len());
            prop_assert!(read.min_length() <= text.len());
            let mut scratch = Vec::new();
            prop_assert_eq!(read.decode(&mut scratch).unwrap(), &text[..]);
        }
    }
}
