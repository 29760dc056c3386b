//! The Huffman code of strings (sans-io, RFC 7541 §5.2, Appendix B). The code is canonical: all of its tables follow from
//! the lengths of its codes.

/// What is no Huffman code: the end-of-string symbol, or padding that is not its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// Appends what `coded` says.
///
/// # Errors
/// Where it is no code; what stood before the fault may be appended.
pub fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    let start = out.len();
    // No code is shorter than five bits; two symbols are written at a time.
    out.resize(start + coded.len() * 8 / 5 + 2, 0);
    let decoded = decode_into(coded, &mut out[start..]);
    out.truncate(start + decoded.unwrap_or(0));
    decoded.map(drop)
}

fn decode_into(coded: &[u8], out: &mut [u8]) -> Result<usize, Invalid> {
    // The bits that were not used yet, from the highest on; behind them zeros.
    let (mut bits, mut count) = (0u64, 0u32);
    let mut rest = coded;
    let mut filled = 0;
    while let Some((eight, _)) = rest.split_first_chunk::<8>() {
        // Whole bytes until there is no room for another. What is beyond them comes again.
        let taken = (63 - count) / 8;
        bits |= u64::from_be_bytes(*eight) >> count;
        count += 8 * taken;
        bits &= !(u64::MAX >> count);
        rest = &rest[taken as usize..];
        // More than two of the longest codes have come.
        while count >= MAX_LENGTH {
            let pair = PAIRS[(bits >> (64 - INDEX_BITS)) as usize];
            if pair.first == 0 {
                let (symbol, length) = long_code(bits)?;
                out[filled] = symbol;
                filled += 1;
                bits <<= length;
                count -= length;
                continue;
            }
            out[filled] = pair.symbols[0];
            out[filled + 1] = pair.symbols[1];
            filled += 1 + usize::from(pair.both != pair.first);
            bits <<= pair.both;
            count -= u32::from(pair.both);
        }
    }
    loop {
        while count <= 56
            && let Some((&byte, behind)) = rest.split_first()
        {
            bits |= u64::from(byte) << (56 - count);
            count += 8;
            rest = behind;
        }
        let pair = PAIRS[(bits >> (64 - INDEX_BITS)) as usize];
        let (symbol, length) = match pair.first {
            0 => long_code(bits)?,
            length => (pair.symbols[0], u32::from(length)),
        };
        if length > count {
            break;
        }
        bits <<= length;
        count -= length;
        out[filled] = symbol;
        filled += 1;
    }
    // RFC 7541 §5.2: fewer than eight bits of padding, all of them ones.
    if count < 8 && bits == !(u64::MAX >> count) { Ok(filled) } else { Err(Invalid) }
}

/// A code that is longer than the index of the table.
#[cold]
fn long_code(bits: u64) -> Result<(u8, u32), Invalid> {
    let code = (bits >> 32) as u32;
    let first = INDEX_BITS as usize + 1;
    for length in first..=MAX_LENGTH as usize {
        // The codes of a length follow each other, and are below those of all greater lengths.
        let here = code >> (32 - length);
        let index = here.wrapping_sub(FIRST_CODE[length]);
        if index < u32::from(COUNT[length]) {
            return Ok((SORTED[usize::from(FIRST_SORTED[length]) + index as usize], length as u32));
        }
    }
    // The end-of-string symbol.
    Err(Invalid)
}

/// How many bytes `text` takes when encoded.
#[inline]
pub fn encoded_length(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|&byte| usize::from(LENGTHS[usize::from(byte)])).sum();
    bits.div_ceil(8)
}

/// Appends the code of `text`.
pub fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0u64, 0u32);
    for &byte in text {
        let Code { bits: code, length } = CODE_OF[usize::from(byte)];
        bits = bits << length | u64::from(code);
        count += length;
        if count >= 32 {
            count -= 32;
            out.extend_from_slice(&((bits >> count) as u32).to_be_bytes());
        }
    }
    // RFC 7541 §5.2: padded with the beginning of the end-of-string symbol, which is all ones.
    let padding = count.next_multiple_of(8) - count;
    let last = (bits << padding | ((1 << padding) - 1)) << (32 - count - padding);
    let bytes = (last as u32).to_be_bytes();
    out.extend_from_slice(&bytes[..((count + padding) / 8) as usize]);
}

#[derive(Clone, Copy)]
struct Code {
    bits: u32,
    length: u32,
}

static CODE_OF: [Code; 256] = {
    let mut table = [Code { bits: 0, length: 0 }; 256];
    let mut symbol = 0;
    while symbol < 256 {
        table[symbol] = Code { bits: CODES[symbol], length: LENGTHS[symbol] as u32 };
        symbol += 1;
    }
    table
};

/// One symbol, or two whose codes follow each other.
#[derive(Clone, Copy)]
struct Pair {
    symbols: [u8; 2],
    /// Bits of the first code; 0 where it is longer than the index.
    first: u8,
    /// Bits of both; those of the first where the second is not known yet.
    both: u8,
}

/// By the bits that come next.
static PAIRS: [Pair; 1 << INDEX_BITS] = {
    let mut table = [Pair { symbols: [0, 0], first: 0, both: 0 }; 1 << INDEX_BITS];
    let mut symbol = 0;
    while symbol < 256 {
        let length = LENGTHS[symbol] as u32;
        if length <= INDEX_BITS {
            let left = INDEX_BITS - length;
            let start = (CODES[symbol] as usize) << left;
            let mut index = 0;
            while index < 1 << left {
                let mut pair = Pair { symbols: [symbol as u8, 0], first: length as u8, both: length as u8 };
                // The shortest code that the bits left begin with, if it is whole: codes of a length follow each other.
                let mut second = 5;
                while second <= left {
                    let code = (index >> (left - second)) as u32;
                    let place = code.wrapping_sub(FIRST_CODE[second as usize]);
                    if place < COUNT[second as usize] as u32 {
                        pair.symbols[1] = SORTED[FIRST_SORTED[second as usize] as usize + place as usize];
                        pair.both = (length + second) as u8;
                        break;
                    }
                    second += 1;
                }
                table[start + index] = pair;
                index += 1;
            }
        }
        symbol += 1;
    }
    table
};

/// How many codes of each length there are.
static COUNT: [u8; 31] = {
    let mut count = [0; 31];
    let mut symbol = 0;
    while symbol < 256 {
        count[LENGTHS[symbol] as usize] += 1;
        symbol += 1;
    }
    count
};

/// The first code of each length.
static FIRST_CODE: [u32; 31] = {
    let mut first = [0; 31];
    let mut length = 1;
    while length < 31 {
        first[length] = (first[length - 1] + COUNT[length - 1] as u32) << 1;
        length += 1;
    }
    first
};

/// Where the symbols of each length begin in `SORTED`.
static FIRST_SORTED: [u8; 31] = {
    let mut first = [0u8; 31];
    let mut length = 1;
    while length < 31 {
        first[length] = (first[length - 1] as u16 + COUNT[length - 1] as u16) as u8;
        length += 1;
    }
    first
};

/// The symbols by the length of their code.
static SORTED: [u8; 256] = {
    let mut sorted = [0; 256];
    let mut next = 0;
    let mut length = 0;
    while length < 31 {
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] == length {
                sorted[next] = symbol as u8;
                next += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    sorted
};

static CODES: [u32; 256] = {
    let mut codes = [0; 256];
    let mut next = FIRST_CODE;
    let mut symbol = 0;
    while symbol < 256 {
        let length = LENGTHS[symbol] as usize;
        codes[symbol] = next[length];
        next[length] += 1;
        symbol += 1;
    }
    codes
};

/// Most text has codes of five to eight bits: two letters at a time, and only rare characters take the long way, for eight
/// kibibytes.
const INDEX_BITS: u32 = 11;
const MAX_LENGTH: u32 = 30;

/// The bits of each symbol's code (RFC 7541 Appendix B).
#[rustfmt::skip]
static LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, Invalid> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 7541 §C.4, §C.6
        for (text, coded) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-key", "25a849e95ba97d7f"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("302", "6402"),
            ("private", "aec3771a4b"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
            ("https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
            (
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
            ),
        ] {
            let bytes: Vec<u8> =
                (0..coded.len()).step_by(2).map(|at| u8::from_str_radix(&coded[at..at + 2], 16).unwrap()).collect();
            let mut out = Vec::new();
            encode(text.as_bytes(), &mut out);
            assert_eq!(out, bytes, "{text}");
            assert_eq!(encoded_length(text.as_bytes()), bytes.len());
            assert_eq!(decoded(&bytes).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn some_codes_of_the_appendix() {
        for (symbol, code, length) in [
            (b'0', 0x0, 5),
            (b' ', 0x14, 6),
            (b'z', 0x7b, 7),
            (b'&', 0xf8, 8),
            (b'?', 0x3fc, 10),
            (b'\\', 0x7_fff0, 19),
            (0, 0x1ff8, 13),
            (22, 0x3fff_fffe, 30),
            (249, 0xfff_fffe, 28),
            (255, 0x3ff_ffee, 26),
        ] {
            assert_eq!((CODES[usize::from(symbol)], LENGTHS[usize::from(symbol)]), (code, length), "{symbol}");
        }
    }

    #[test]
    fn padding_is_short_and_of_ones() {
        assert_eq!(decoded(b""), Ok(vec![]));
        assert_eq!(decoded(&[0x07]), Ok(b"0".to_vec()));
        assert_eq!(decoded(&[0x06]), Err(Invalid), "padded with a zero");
        assert_eq!(decoded(&[0x00]), Err(Invalid), "padded with zeros");
        assert_eq!(decoded(&[0xff]), Err(Invalid), "eight bits of padding");
        assert_eq!(decoded(&[0x07, 0xff]), Err(Invalid), "more than eight bits of padding");
        assert_eq!(decoded(&[0xff; 4]), Err(Invalid), "the end-of-string symbol");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xfc]), Err(Invalid), "the end-of-string symbol alone");
        assert_eq!(decoded(&[0xff; 16]), Err(Invalid));
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xfb]), Ok(vec![22]), "thirty bits and two of padding");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text: Vec<u8>) {
            let mut coded = Vec::new();
            encode(&text, &mut coded);
            prop_assert_eq!(coded.len(), encoded_length(&text));
            prop_assert_eq!(decoded(&coded).unwrap(), text);
        }

        #[test]
        fn there_is_one_code_for_each_text(coded: Vec<u8>) {
            if let Ok(text) = decoded(&coded) {
                let mut again = Vec::new();
                encode(&text, &mut again);
                prop_assert_eq!(again, coded);
            }
        }
    }
}
