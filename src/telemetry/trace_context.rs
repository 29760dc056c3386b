//! `traceparent` of W3C Trace Context: parsing, validation, and generation (sans-io, except for random ids). A valid
//! one is passed on unchanged; otherwise it is replaced, and its `tracestate` removed.

use http::{HeaderMap, HeaderName, HeaderValue};

/// `traceparent`.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Which trace a request belongs to, and the span that sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never all zero.
    pub trace_id: [u8; 16],
    /// The span of whoever sent the request; ours where we began the trace. Never all zero.
    pub parent_id: [u8; 8],
    /// Bit 0: sampled.
    pub flags: u8,
}

impl TraceContext {
    /// Reads the value of a `traceparent`: version 00 to the letter, and of later versions the part that they share
    /// with it (§4 of the recommendation). `None`: whoever gets it begins a trace of their own.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (version, rest) = (hex::<1>(value.get(..2)?)?[0], value.get(2..)?);
        let [b'-', trace @ .., b'-', _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, b'-', _, _] = rest.get(..53)?
        else {
            return None;
        };
        let is_whole = match (version, rest.get(53)) {
            // ff is forbidden, and version 00 ends here.
            (0xff, _) | (0, Some(_)) => false,
            (_, after) => after.is_none_or(|byte| *byte == b'-'),
        };
        let (trace_id, parent_id) = (hex::<16>(trace)?, hex::<8>(&rest[34..50])?);
        let flags = hex::<1>(&rest[51..53])?[0];
        let is_valid = is_whole && trace_id != [0; 16] && parent_id != [0; 8];
        is_valid.then_some(Self { trace_id, parent_id, flags })
    }

    /// A trace that begins here, sampled, so that endpoints that follow their caller record it.
    pub fn begin() -> Self {
        // Only all zeros are forbidden.
        Self {
            trace_id: fastrand::u128(1..).to_be_bytes(),
            parent_id: fastrand::u64(1..).to_be_bytes(),
            flags: SAMPLED,
        }
    }

    /// The trace of a request: the one that it came with, left as it stands, or a new one that is put in its place; then
    /// a `tracestate` goes, as it belonged to another.
    pub fn take_up(fields: &mut HeaderMap) -> Self {
        Self::of(fields).unwrap_or_else(|| {
            let context = Self::begin();
            fields.insert(TRACEPARENT, context.to_header());
            fields.remove(TRACESTATE);
            context
        })
    }

    /// The trace that a request came with, where it says one and only one.
    pub fn of(fields: &HeaderMap) -> Option<Self> {
        let mut values = fields.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(only), None) => Self::parse(only.as_bytes()),
            _ => None,
        }
    }

    /// As version 00 writes it.
    pub fn to_header(&self) -> HeaderValue {
        let mut text = [b'-'; 55];
        text[..2].copy_from_slice(b"00");
        write_hex(&self.trace_id, &mut text[3..35]);
        write_hex(&self.parent_id, &mut text[36..52]);
        write_hex(&[self.flags], &mut text[53..]);
        HeaderValue::from_bytes(&text).unwrap_or(const { HeaderValue::from_static("") })
    }

    /// The trace's id, 32 digits.
    pub fn trace_digits(&self) -> [u8; 32] {
        let mut digits = [0; 32];
        write_hex(&self.trace_id, &mut digits);
        digits
    }

    /// The span's id, 16 digits.
    pub fn parent_digits(&self) -> [u8; 16] {
        let mut digits = [0; 16];
        write_hex(&self.parent_id, &mut digits);
        digits
    }
}

/// Lower case only (§3.2.2.1).
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

fn write_hex(bytes: &[u8], out: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";
const SAMPLED: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The examples of the recommendation and of its test suite.
    const VALID: [&str; 6] = [
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
        "00-12345678901234567890123456789012-1234567890123456-ff",
        "cc-12345678901234567890123456789012-1234567890123456-01",
        "cc-12345678901234567890123456789012-1234567890123456-01-what-the-future-will-be-like",
        "01-12345678901234567890123456789012-1234567890123456-01-",
    ];
    const INVALID: [&str; 22] = [
        "",
        "00",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-001",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be-like",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ".0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-.bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-.0f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-.1",
        "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        "cc-12345678901234567890123456789012-1234567890123456-01.what-the-future-will-not-be-like",
        " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ];

    #[test]
    fn reads_what_the_recommendation_gives_as_valid() {
        for text in VALID {
            let context = TraceContext::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(std::str::from_utf8(&context.trace_digits()).unwrap(), &text[3..35]);
            assert_eq!(std::str::from_utf8(&context.parent_digits()).unwrap(), &text[36..52]);
            assert_eq!(context.to_header().to_str().unwrap()[2..], text[2..55]);
        }
        assert_eq!(TraceContext::parse(VALID[0].as_bytes()).unwrap().to_header(), VALID[0]);
    }

    #[test]
    fn refuses_what_it_gives_as_invalid() {
        for text in INVALID {
            assert_eq!(TraceContext::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_valid_one_passes_untouched_with_its_state() {
        let mut fields = HeaderMap::new();
        fields.insert(TRACEPARENT, HeaderValue::from_static(VALID[4]));
        fields.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        let before = fields.clone();
        assert_eq!(TraceContext::take_up(&mut fields), TraceContext::parse(VALID[4].as_bytes()).unwrap());
        assert_eq!(fields, before);
    }

    #[test]
    fn an_invalid_or_doubled_one_makes_room_for_a_new_one_without_state() {
        for values in [&[INVALID[2]][..], &[VALID[0], VALID[1]], &[]] {
            let mut fields = HeaderMap::new();
            for value in values {
                fields.append(TRACEPARENT, HeaderValue::from_static(value));
            }
            fields.append(TRACESTATE, HeaderValue::from_static("a=b"));
            fields.append(TRACESTATE, HeaderValue::from_static("c=d"));
            let begun = TraceContext::take_up(&mut fields);
            assert_eq!(TraceContext::of(&fields), Some(begun));
            assert_eq!((begun.flags, fields.get(TRACESTATE)), (SAMPLED, None));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_alike(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceContext::parse(&bytes);
        }

        #[test]
        fn one_that_begins_is_valid(seed in any::<u64>()) {
            fastrand::seed(seed);
            let begun = TraceContext::begin();
            prop_assert_eq!(TraceContext::parse(begun.to_header().as_bytes()), Some(begun));
        }
    }
}
