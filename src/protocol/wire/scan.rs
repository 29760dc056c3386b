//! Finds the end of a token, a text or a target, eight bytes at a time (sans-io).

/// How many bytes of a token (RFC 9110 §5.6.2) stand at the front. Names are too short for more than one at a time.
pub(super) fn token_length(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !TOKEN[usize::from(*byte)]).unwrap_or(bytes.len())
}

/// How many bytes stand before the first control character, tabs among them.
pub(super) fn text_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let found = below(word, b' ') | equal(word, 0x7f);
        if found != 0 {
            return at + first_marked(found);
        }
        at += 8;
    }
    let is_control = |byte: &u8| *byte < b' ' || *byte == 0x7f;
    at + bytes[at..].iter().position(is_control).unwrap_or(bytes.len() - at)
}

/// How many bytes stand before the first that no request target may hold.
pub(super) fn target_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let found = below(word, b'!') | equal(word, 0x7f) | equal(word, b'#') | equal(word, b'\\');
        if found != 0 {
            return at + first_marked(found);
        }
        at += 8;
    }
    let is_outside = |byte: &u8| *byte <= b' ' || matches!(*byte, 0x7f | b'#' | b'\\');
    at + bytes[at..].iter().position(is_outside).unwrap_or(bytes.len() - at)
}

/// Marks bytes below `limit` (at most 0x80) in their highest bit. Marks above the lowest one may be false: a borrow.
fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(limit)) & !word & (ONES << 7)
}

/// Marks bytes equal to `byte` as [`below`] does.
fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * u64::from(byte)), 1)
}

fn first_marked(marks: u64) -> usize {
    marks.trailing_zeros() as usize / 8
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// RFC 9110 §5.6.2.
pub(super) const TOKEN: [bool; 256] = {
    let mut map = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        map[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < marks.len() {
        map[marks[at] as usize] = true;
        at += 1;
    }
    map
};
