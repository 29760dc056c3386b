use std::ops::ControlFlow;

use super::*;

const LIMITS: Limits = Limits { max_size: 10_000, max_fields: 100 };

/// Fields as text; a sensitive one is marked.
#[derive(Debug, Default)]
struct Lines(Vec<String>);

impl Sink for Lines {
    fn field(&mut self, name: FieldName<'_>, value: FieldValue<'_>, is_sensitive: bool) -> ControlFlow<()> {
        let [name, value] = [name.as_bytes(), value.as_bytes()].map(String::from_utf8_lossy);
        self.0.push(format!("{name}={value}{}", if is_sensitive { " (sensitive)" } else { "" }));
        if name == "stop" { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn decode(decoder: &mut Decoder, stream: u64, block: &str) -> (Result<Decoded, Code>, Vec<String>) {
    let mut lines = Lines::default();
    let decoded = decoder.decode(stream, &hex(block), LIMITS, &mut lines);
    (decoded.map_err(|error| error.code()), lines.0)
}

fn done(decoder: &mut Decoder, stream: u64, block: &str) -> Vec<String> {
    let (decoded, lines) = decode(decoder, stream, block);
    assert_eq!(decoded, Ok(Decoded::Done));
    lines
}

fn failure(decoder: &mut Decoder, block: &str) -> Code {
    decode(decoder, 0, block).0.unwrap_err()
}

fn instruct(decoder: &mut Decoder, instructions: &str) -> Vec<u64> {
    decoder.on_encoder_bytes(&hex(instructions)).unwrap().to_vec()
}

fn encoder_failure(capacity: usize, instructions: &str) -> Code {
    Decoder::new(capacity, 0).on_encoder_bytes(&hex(instructions)).unwrap_err().code()
}

/// The state after RFC 9204 §B.2: `:authority` and `:path` are in the table.
fn with_two_entries() -> Decoder {
    let mut decoder = Decoder::new(220, 8);
    instruct(&mut decoder, "3fbd01 c00f7777772e6578616d706c652e636f6d c10c2f73616d706c652f70617468");
    decoder.take_instructions();
    decoder
}

#[test]
fn the_examples_of_the_rfc() {
    // RFC 9204 Appendix B: the same connection from one example to the next.
    let mut decoder = Decoder::new(220, 8);
    assert_eq!(done(&mut decoder, 0, "0000 510b2f696e6465782e68746d6c"), [":path=/index.html"]);
    assert!(decoder.take_instructions().as_slice().is_empty());
    assert_eq!(decode(&mut decoder, 4, "0381 10 11"), (Ok(Decoded::Blocked), vec![]));
    let instructions = "3fbd01 c00f7777772e6578616d706c652e636f6d c10c2f73616d706c652f70617468";
    assert_eq!(instruct(&mut decoder, instructions), [4]);
    assert_eq!(done(&mut decoder, 4, "0381 10 11"), [":authority=www.example.com", ":path=/sample/path"]);
    // The RFC has the acknowledgement alone: here the insertions were known before the section.
    assert_eq!(decoder.take_instructions().as_slice(), hex("02 84"));
    instruct(&mut decoder, "4a637573746f6d2d6b65790c637573746f6d2d76616c7565");
    assert_eq!(decoder.take_instructions().as_slice(), hex("01"));
    assert!(instruct(&mut decoder, "02").is_empty());
    let expected = [":authority=www.example.com", ":path=/", "custom-key=custom-value"];
    assert_eq!(done(&mut decoder, 8, "0500 80 c1 81"), expected);
    decoder.cancel(8);
    assert_eq!(decoder.take_instructions().as_slice(), hex("01 88 48"));
    instruct(&mut decoder, "810d637573746f6d2d76616c756532");
    assert_eq!(decoder.take_instructions().as_slice(), hex("01"));
    assert_eq!(decoder.table.inserted(), 5);
    let left: Vec<_> = (0..5).map(|index| decoder.table.get(index).map(|entry| entry.value.as_bytes())).collect();
    let expected =
        [None, Some(&b"/sample/path"[..]), Some(b"custom-value"), Some(b"www.example.com"), Some(b"custom-value2")];
    assert_eq!(left, expected);
}

#[test]
fn each_kind_of_field_line() {
    let mut decoder = with_two_entries();
    // Required 2, base 1: an index before the base, one behind it, names by either, names written out.
    let block = "0380 80 10 4001 61 0001 62 5f1d 0163 2178 0164 7f1d 0165 3179 0166 6001 67 0801 68";
    let expected = [
        ":authority=www.example.com",
        ":path=/sample/path",
        ":authority=a",
        ":path=b",
        "content-type=c",
        "x=d",
        "content-type=e (sensitive)",
        "y=f (sensitive)",
        ":authority=g (sensitive)",
        ":path=h (sensitive)",
    ];
    assert_eq!(done(&mut decoder, 0, block), expected);
}

#[test]
fn the_required_insert_count_wraps() {
    // Capacity 100: three entries at most, so that counts are told modulo six (RFC 9204 §4.5.1.1).
    let mut decoder = Decoder::new(100, 1);
    instruct(&mut decoder, "3f45");
    for _ in 0..10 {
        instruct(&mut decoder, "c1022f61");
    }
    // The example of the section: ten insertions, and 4 stands for nine.
    assert_eq!(decoder.required(4), Some(9));
    assert_eq!(decoder.required(0), Some(0));
    assert_eq!(decoder.required(5), Some(10));
    assert_eq!(decoder.required(6), Some(11));
    assert_eq!(decoder.required(2), Some(13));
    assert_eq!(decoder.required(3), Some(8));
    assert_eq!(decoder.required(7), None);
    let mut fresh = Decoder::new(100, 1);
    assert_eq!(fresh.required(5), None, "more than can be there at the start");
    assert_eq!(fresh.required(4), Some(3));
    assert_eq!(failure(&mut fresh, "0700"), Code::QPACK_DECOMPRESSION_FAILED);
    assert_eq!(failure(&mut Decoder::new(0, 1), "0200 80"), Code::QPACK_DECOMPRESSION_FAILED, "no table at all");
}

#[test]
fn what_cannot_be_decoded() {
    for block in [
        "",             // no prefix
        "00",           // half of one
        "0000 ff",      // an index that does not end
        "0000 ff24",    // static 99
        "0000 80",      // dynamic without any required
        "0000 10",      // post-base without any required
        "0000 51",      // a literal without value
        "0000 5105 61", // a value that is cut
        "0000 23 61",   // a name that is cut
        "0000 5181 00", // Huffman padding of zeros
        "0000 5184 ffffffff",
        "0000 ffffffffffffffffffffff",
        "0380 82", // below the first entry
        "0300 82",
        "0300 10",       // at the required insert count
        "0280 10 10 11", // beyond it
        "0382 80",       // a base below zero
        "0080",          // the same with nothing required
        "0001 80",
        "ff00", // more required than there can be
    ] {
        let mut decoder = with_two_entries();
        assert_eq!(failure(&mut decoder, block), Code::QPACK_DECOMPRESSION_FAILED, "{block}");
    }
    // Evicted, and asked for.
    let mut decoder = with_two_entries();
    instruct(&mut decoder, "3f45");
    assert_eq!(failure(&mut decoder, "0300 81"), Code::QPACK_DECOMPRESSION_FAILED);
    // RFC 9204 §2.2.1: in the table, but not announced.
    assert_eq!(failure(&mut with_two_entries(), "0201 80"), Code::QPACK_DECOMPRESSION_FAILED);
}

#[test]
fn what_an_encoder_may_not_say() {
    for instructions in [
        "3fbe01",              // a capacity above 220
        "c00161",              // an insertion at capacity zero
        "3f00 c00161",         // larger than the table
        "3fbd01 ff24 0161",    // static 99
        "3fbd01 800161",       // a name that is not there
        "3fbd01 00",           // a duplicate of nothing
        "3fbd01 c07fffffff0f", // a value longer than any
        "3fbd01 c081 00",      // Huffman padding of zeros
        "3fffffffffffffffffffff",
    ] {
        assert_eq!(encoder_failure(220, instructions), Code::QPACK_ENCODER_STREAM_ERROR, "{instructions}");
    }
    assert_eq!(encoder_failure(0, "21"), Code::QPACK_ENCODER_STREAM_ERROR);
    assert!(instruct(&mut Decoder::new(0, 0), "20").is_empty());
    // What is announced is refused before it comes.
    assert_eq!(encoder_failure(220, "3fbd01 5fff07"), Code::QPACK_ENCODER_STREAM_ERROR);
}

#[test]
fn instructions_come_in_any_pieces() {
    let instructions = hex(
        "3fbd01 c00f7777772e6578616d706c652e636f6d c10c2f73616d706c652f70617468 4a637573746f6d2d6b65790c637573746f6d2d76616c7565 02",
    );
    for size in 1..instructions.len() {
        let mut decoder = Decoder::new(220, 8);
        for piece in instructions.chunks(size) {
            decoder.on_encoder_bytes(piece).unwrap();
        }
        assert!(decoder.partial.is_empty());
        let expected = [":authority=www.example.com", ":path=/", "custom-key=custom-value"];
        assert_eq!(done(&mut decoder, 8, "0500 80 c1 81"), expected, "in pieces of {size}");
    }
}

#[test]
fn only_so_many_streams_wait() {
    let mut decoder = Decoder::new(220, 2);
    for stream in [0, 0, 4] {
        assert_eq!(decode(&mut decoder, stream, "0200 80").0, Ok(Decoded::Blocked), "the same one again is no other");
    }
    assert_eq!(decode(&mut decoder, 8, "0200 80").0, Err(Code::QPACK_DECOMPRESSION_FAILED));
    decoder.cancel(0);
    assert_eq!(decode(&mut decoder, 8, "0300 80").0, Ok(Decoded::Blocked));
    assert_eq!(instruct(&mut decoder, "3fbd01 c00161"), [4]);
    assert_eq!(done(&mut decoder, 4, "0200 80"), [":authority=a"]);
    assert_eq!(instruct(&mut decoder, "c00162"), [8]);
    assert_eq!(decoder.take_instructions().as_slice(), hex("40 01 84 01"));
}

#[test]
fn sections_larger_than_allowed_stop_early() {
    // A name of three bytes and a value of one: 36.
    let block = hex("0000 23616263 0164 23616263 0165");
    for (max_size, max_fields, expected) in [
        (72, 2, Decoded::Done),
        (71, 2, Decoded::TooLarge),
        (35, 2, Decoded::TooLarge),
        (2, 2, Decoded::TooLarge),
        (72, 1, Decoded::TooLarge),
    ] {
        let limits = Limits { max_size, max_fields };
        let decoded = Decoder::new(0, 0).decode(0, &block, limits, &mut Lines::default());
        assert_eq!(decoded, Ok(expected), "{max_size} {max_fields}");
    }
    // Pseudo-header fields count as bytes only.
    let limits = Limits { max_size: 1000, max_fields: 0 };
    assert_eq!(Decoder::new(0, 0).decode(0, &hex("0000 c1 d1"), limits, &mut Lines::default()), Ok(Decoded::Done));
    // A bomb: each byte stands for an entry of 4 KiB.
    let mut decoder = Decoder::new(4096, 1);
    let mut instructions = hex("3fe11f");
    instructions.extend(hex("c07fa11e"));
    instructions.extend([b'a'; 4000]);
    decoder.on_encoder_bytes(&instructions).unwrap();
    decoder.take_instructions();
    let bomb = [hex("0200"), vec![0x80; 60_000]].concat();
    let mut lines = Lines::default();
    assert_eq!(decoder.decode(4, &bomb, LIMITS, &mut lines), Ok(Decoded::TooLarge));
    assert_eq!(lines.0.len(), 2);
    assert_eq!(decoder.take_instructions().as_slice(), hex("84"), "its references are released");
}

#[test]
fn a_sink_may_break_off() {
    let mut decoder = with_two_entries();
    let (decoded, lines) = decode(&mut decoder, 4, "0300 80 2473746f70 00 ff");
    assert_eq!((decoded, lines.len()), (Ok(Decoded::Refused), 2));
    assert_eq!(decoder.take_instructions().as_slice(), hex("84"));
}

#[test]
fn a_table_that_no_one_may_fill_is_not_spoken_of() {
    let mut decoder = Decoder::new(0, 0);
    decoder.cancel(4);
    assert!(decoder.take_instructions().as_slice().is_empty());
}
