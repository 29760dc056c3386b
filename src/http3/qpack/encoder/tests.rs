use std::collections::VecDeque;
use std::ops::ControlFlow;

use proptest::prelude::*;

use super::*;
use crate::http3::qpack::{Decoded, Decoder, FieldName, FieldValue, Limits, Sink};

type Pair = (Vec<u8>, Vec<u8>);

#[derive(Debug, Default)]
struct Pairs(Vec<Pair>);

impl Sink for Pairs {
    fn field(&mut self, name: FieldName<'_>, value: FieldValue<'_>, _: bool) -> ControlFlow<()> {
        self.0.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        ControlFlow::Continue(())
    }
}

const LIMITS: Limits = Limits { max_size: u64::MAX, max_fields: usize::MAX };

fn field<'a>(name: &'a str, value: &'a str) -> Field<'a> {
    Field { name: name.as_bytes(), value: value.as_bytes(), is_sensitive: false }
}

/// The block and the instructions.
fn encode(encoder: &mut Encoder, stream: u64, fields: &[Field<'_>]) -> (Vec<u8>, Vec<u8>) {
    let (mut block, mut instructions) = (Vec::new(), Vec::new());
    encoder.encode(stream, fields.iter().copied(), u64::MAX, &mut block, &mut instructions).unwrap();
    (block, instructions)
}

fn with_table(max_blocked: u64) -> Encoder {
    let mut encoder = Encoder::new();
    encoder.set_limits(4096, 4096, max_blocked);
    encoder
}

#[test]
fn without_a_table_there_are_no_instructions() {
    let mut encoder = Encoder::new();
    let fields = [field(":status", "200"), field("content-type", "text/css"), field("x-a", "b"), field("age", "1")];
    for _ in 0..3 {
        let (block, instructions) = encode(&mut encoder, 0, &fields);
        // x-a takes as much Huffman-coded as it is.
        assert_eq!(block, [&[0, 0, 0xd9, 0xf3][..], b"\x23x-a\x01b", &[0x52, 0x01, b'1']].concat());
        assert!(instructions.is_empty());
    }
}

#[test]
fn what_is_sent_twice_is_referred_to_when_it_is_acknowledged() {
    let mut encoder = with_table(0);
    let fields = [field("server", "tidegate")];
    let literal = encode(&mut encoder, 0, &fields);
    assert!(literal.1.is_empty());
    let (block, instructions) = encode(&mut encoder, 4, &fields);
    assert_eq!(block, literal.0, "the peer may not have it");
    assert_eq!(instructions[..3], [0x3f, 0xe1, 0x1f], "the capacity is said first");
    assert_eq!(encode(&mut encoder, 8, &fields), literal, "inserted once");
    encoder.on_decoder_bytes(&[0x01]).unwrap();
    let (block, instructions) = encode(&mut encoder, 12, &fields);
    assert_eq!((block, instructions), (vec![0x02, 0x00, 0x80], vec![]));
}

#[test]
fn a_stream_may_wait_where_it_is_told_so() {
    let mut encoder = with_table(1);
    let fields = [field("server", "tidegate")];
    encode(&mut encoder, 0, &fields);
    assert_eq!(encode(&mut encoder, 0, &fields).0, [0x02, 0x80, 0x10]);
    assert_ne!(encode(&mut encoder, 4, &fields).0[0], 0x02, "one waits already");
    assert_eq!(encode(&mut encoder, 0, &fields).0[0], 0x02, "it waits anyway");
    encoder.on_decoder_bytes(&[0x40]).unwrap();
    assert_eq!(encode(&mut encoder, 4, &fields).0[0], 0x02, "the other was given up");
}

#[test]
fn secrets_and_what_comes_once_stay_out_of_the_table() {
    let mut encoder = with_table(0);
    let secret = Field { is_sensitive: true, ..field("x-token", "secret") };
    let known = Field { is_sensitive: true, ..field(":status", "200") };
    for _ in 0..4 {
        let fields = [field("authorization", "Basic YTpi"), field("set-cookie", "a=b"), secret, known];
        let (block, instructions) = encode(&mut encoder, 0, &fields);
        assert!(instructions.is_empty());
        assert_eq!(block[0], 0);
        // RFC 9204 §7.1.3: marked for those behind, too.
        let mut marked = Vec::new();
        struct Marks<'a>(&'a mut Vec<bool>);
        impl Sink for Marks<'_> {
            fn field(&mut self, _: FieldName<'_>, _: FieldValue<'_>, is_sensitive: bool) -> ControlFlow<()> {
                self.0.push(is_sensitive);
                ControlFlow::Continue(())
            }
        }
        Decoder::new(0, 0).decode(0, &block, LIMITS, &mut Marks(&mut marked)).unwrap();
        assert_eq!(marked, [false, false, true, true]);
    }
}

#[test]
fn what_a_decoder_may_not_say() {
    for bytes in [&[0x80][..], &[0x00], &[0x01], &[0x3f; 12], &[0xff; 12]] {
        let mut encoder = with_table(0);
        let error = encoder.on_decoder_bytes(bytes).unwrap_err();
        assert_eq!(error.code(), Code::QPACK_DECODER_STREAM_ERROR, "{bytes:x?}");
    }
    let mut encoder = with_table(0);
    let fields = [field("server", "tidegate")];
    encode(&mut encoder, 0, &fields);
    encode(&mut encoder, 0, &fields);
    assert!(encoder.on_decoder_bytes(&[0x02]).is_err(), "one was inserted");
    encoder.on_decoder_bytes(&[0x01, 0x44]).unwrap();
    encode(&mut encoder, 0, &fields);
    encoder.on_decoder_bytes(&[0x80]).unwrap();
    assert!(encoder.on_decoder_bytes(&[0x80]).is_err(), "acknowledged twice");
}

#[test]
fn instructions_of_a_decoder_come_in_any_pieces() {
    let mut encoder = with_table(0);
    let fields = [field("server", "tidegate")];
    encode(&mut encoder, 0, &fields);
    encode(&mut encoder, 0, &fields);
    encoder.on_decoder_bytes(&[0x01]).unwrap();
    encode(&mut encoder, 100_000, &fields);
    let mut acknowledgement = Vec::new();
    write(100_000, 7, 0x80, &mut acknowledgement);
    write(100_000, 6, 0x40, &mut acknowledgement);
    for byte in acknowledgement {
        encoder.on_decoder_bytes(&[byte]).unwrap();
    }
    assert_eq!(encoder.outstanding, 0);
    assert!(encoder.partial.is_empty());
}

#[test]
fn a_section_that_is_too_large_is_not_sent() {
    let mut encoder = with_table(0);
    let (mut block, mut instructions) = (vec![7], Vec::new());
    let fields = [field("server", "tidegate"), field("via", "x")];
    assert_eq!(section_size(fields.into_iter()), 46 + 36);
    assert_eq!(encoder.encode(0, fields.into_iter(), 81, &mut block, &mut instructions), Err(TooLarge));
    assert_eq!(block, [7]);
    assert_eq!(encoder.encode(0, fields.into_iter(), 82, &mut block, &mut instructions), Ok(()));
}

#[test]
fn a_peer_that_acknowledges_nothing_costs_a_bounded_amount() {
    let mut encoder = with_table(0);
    let fields = [field("server", "tidegate")];
    encode(&mut encoder, 0, &fields);
    encode(&mut encoder, 0, &fields);
    encoder.on_decoder_bytes(&[0x01]).unwrap();
    for stream in 0..2 * MAX_OUTSTANDING as u64 {
        encode(&mut encoder, stream, &fields);
    }
    assert_eq!(encoder.outstanding, MAX_OUTSTANDING);
    assert_eq!(encode(&mut encoder, 0, &fields).0[0], 0);
}

/// A connection between the two, with what is on its way.
struct Link {
    encoder: Encoder,
    decoder: Decoder,
    instructions: VecDeque<u8>,
    acknowledgements: VecDeque<u8>,
    sections: Vec<(u64, Vec<u8>, Vec<Pair>)>,
    blocked: Vec<(u64, Vec<u8>, Vec<Pair>)>,
    max_blocked: usize,
}

impl Link {
    fn deliver_section(&mut self, (stream, block, expected): (u64, Vec<u8>, Vec<Pair>)) {
        let mut pairs = Pairs::default();
        match self.decoder.decode(stream, &block, LIMITS, &mut pairs).unwrap() {
            Decoded::Done => assert_eq!(pairs.0, expected),
            Decoded::Blocked => {
                self.blocked.push((stream, block, expected));
                assert!(self.blocked.len() <= self.max_blocked);
            }
            other => panic!("{other:?}"),
        }
        self.acknowledgements.extend(self.decoder.take_instructions());
    }

    fn deliver_instructions(&mut self, count: usize) {
        let count = count.min(self.instructions.len());
        let bytes: Vec<u8> = self.instructions.drain(..count).collect();
        let unblocked = self.decoder.on_encoder_bytes(&bytes).unwrap();
        self.acknowledgements.extend(self.decoder.take_instructions());
        let (ready, blocked) =
            std::mem::take(&mut self.blocked).into_iter().partition(|section| unblocked.contains(&section.0));
        self.blocked = blocked;
        for section in ready {
            self.deliver_section(section);
        }
    }

    fn deliver_acknowledgements(&mut self, count: usize) {
        let count = count.min(self.acknowledgements.len());
        let bytes: Vec<u8> = self.acknowledgements.drain(..count).collect();
        self.encoder.on_decoder_bytes(&bytes).unwrap();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Encode(Vec<(u8, u8)>),
    Section(usize),
    Drop(usize),
    Instructions(usize),
    Acknowledgements(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec((0..12u8, 0..6u8), 0..10).prop_map(Step::Encode),
        4 => (0..100usize).prop_map(Step::Section),
        1 => (0..100usize).prop_map(Step::Drop),
        3 => (0..200usize).prop_map(Step::Instructions),
        3 => (0..20usize).prop_map(Step::Acknowledgements),
    ]
}

fn pair((name, value): (u8, u8)) -> Pair {
    const NAMES: [&str; 12] = [
        ":status",
        "server",
        "x-one",
        "x-two",
        "content-type",
        "via",
        "age",
        "vary",
        "x-three",
        "set-cookie",
        "date",
        "x",
    ];
    let value = match value {
        0 => String::new(),
        1 => "200".into(),
        value => format!("value {value} ").repeat(usize::from(value)),
    };
    (NAMES[usize::from(name)].into(), value.into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever comes when, and in whatever pieces: each section is decoded as it was encoded, no more streams wait than
    /// may, and neither side finds a fault with the other.
    #[test]
    fn sections_arrive_as_they_were_sent(
        steps in proptest::collection::vec(step(), 0..80),
        capacity in prop_oneof![Just(0u64), 64..600u64, Just(4096)],
        used in prop_oneof![Just(u64::MAX), 32..600u64],
        max_blocked in 0..4usize,
    ) {
        let mut link = Link {
            encoder: Encoder::new(),
            decoder: Decoder::new(capacity as usize, max_blocked),
            instructions: VecDeque::new(),
            acknowledgements: VecDeque::new(),
            sections: Vec::new(),
            blocked: Vec::new(),
            max_blocked,
        };
        link.encoder.set_limits(capacity, used, max_blocked as u64);
        let mut stream = 0;
        for step in steps {
            match step {
                Step::Encode(fields) => {
                    stream += 4;
                    let pairs: Vec<Pair> = fields.into_iter().map(pair).collect();
                    let fields = pairs.iter().map(|(name, value)| Field { name, value, is_sensitive: false });
                    let (mut block, mut instructions) = (Vec::new(), Vec::new());
                    link.encoder.encode(stream, fields, u64::MAX, &mut block, &mut instructions).unwrap();
                    link.instructions.extend(instructions);
                    link.sections.push((stream, block, pairs));
                }
                Step::Section(which) if !link.sections.is_empty() => {
                    let section = link.sections.swap_remove(which % link.sections.len());
                    link.deliver_section(section);
                }
                Step::Drop(which) if !link.sections.is_empty() => {
                    let (stream, ..) = link.sections.swap_remove(which % link.sections.len());
                    link.decoder.cancel(stream);
                    link.acknowledgements.extend(link.decoder.take_instructions());
                }
                Step::Instructions(count) => link.deliver_instructions(count),
                Step::Acknowledgements(count) => link.deliver_acknowledgements(count),
                Step::Section(_) | Step::Drop(_) => {}
            }
        }
        for section in std::mem::take(&mut link.sections) {
            link.deliver_section(section);
        }
        link.deliver_instructions(usize::MAX);
        link.deliver_acknowledgements(usize::MAX);
        prop_assert!(link.blocked.is_empty());
        prop_assert_eq!(link.encoder.outstanding, 0);
        prop_assert!(link.encoder.sections.is_empty());
        prop_assert_eq!(link.encoder.acknowledged, link.encoder.table.inserted());
    }

    #[test]
    fn any_bytes_from_a_decoder_are_taken_or_refused(bytes: Vec<u8>, size in 1..8usize) {
        let mut encoder = with_table(0);
        let _ = bytes.chunks(size).try_for_each(|piece| encoder.on_decoder_bytes(piece));
    }
}
