//! What an independent implementation makes of sections, and what it is to make of ours. `tests/qpack/vectors.py` writes
//! the one file and checks the other; it says how they read.

use std::fmt::Write as _;
use std::ops::ControlFlow;

use super::*;

const THEIRS: &str = include_str!("../../../tests/qpack/ls-qpack.txt");
const OURS: &str = include_str!("../../../tests/qpack/tidegate.txt");
const LIMITS: Limits = Limits { max_size: 100_000, max_fields: 100 };

type Pair = (Vec<u8>, Vec<u8>);

#[derive(Debug, Default)]
struct Pairs(Vec<Pair>);

impl Sink for Pairs {
    fn field(&mut self, name: FieldName<'_>, value: FieldValue<'_>, _: bool) -> ControlFlow<()> {
        self.0.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        ControlFlow::Continue(())
    }
}

enum Line {
    Connection(usize, usize),
    Encoder(Vec<u8>),
    Section(Section),
}

struct Section {
    stream: u64,
    block: Vec<u8>,
    fields: Vec<Pair>,
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|digit| *digit != b'-').collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match *line.split(' ').collect::<Vec<_>>() {
            ["connection", capacity, blocked] => {
                lines.push(Line::Connection(capacity.parse().unwrap(), blocked.parse().unwrap()));
            }
            ["encoder", hex] => lines.push(Line::Encoder(bytes(hex))),
            ["section", stream, hex] => {
                let (stream, block) = (stream.parse().unwrap(), bytes(hex));
                lines.push(Line::Section(Section { stream, block, fields: Vec::new() }));
            }
            ["field", name, value] => match lines.last_mut() {
                Some(Line::Section(section)) => section.fields.push((bytes(name), bytes(value))),
                _ => panic!("a field without a section"),
            },
            _ => panic!("{line}"),
        }
    }
    lines
}

#[test]
fn what_another_encoder_wrote_is_read() {
    let mut decoder = Decoder::new(0, 0);
    let (mut waiting, mut sections, mut waited): (Vec<Section>, _, _) = (Vec::new(), 0, 0);
    let decode = |decoder: &mut Decoder, section: &Section| {
        let mut pairs = Pairs::default();
        let decoded = decoder.decode(section.stream, &section.block, LIMITS, &mut pairs).unwrap();
        if decoded == Decoded::Done {
            assert_eq!(pairs.0, section.fields);
        }
        decoded
    };
    for line in parse(THEIRS) {
        match line {
            Line::Connection(capacity, blocked) => decoder = Decoder::new(capacity, blocked),
            Line::Encoder(instructions) => {
                for stream in decoder.on_encoder_bytes(&instructions).unwrap() {
                    let place = waiting.iter().position(|section| section.stream == stream).unwrap();
                    assert_eq!(decode(&mut decoder, &waiting.swap_remove(place)), Decoded::Done);
                }
            }
            Line::Section(section) => {
                sections += 1;
                if decode(&mut decoder, &section) == Decoded::Blocked {
                    waited += 1;
                    waiting.push(section);
                }
            }
        }
    }
    assert!(waiting.is_empty());
    assert!(sections == 160 && waited > 0, "{sections}, of which {waited} waited");
}

#[test]
fn what_another_decoder_read_is_what_we_write() {
    let mut written = String::from("# By Tidegate's encoder; read by vectors.py of this folder.\n");
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(0, 0));
    let mut number = 0;
    for line in parse(THEIRS) {
        match line {
            Line::Connection(capacity, blocked) => {
                (encoder, decoder) = (Encoder::new(), Decoder::new(capacity, blocked));
                encoder.set_limits(capacity as u64, 4096, blocked as u64);
                writeln!(written, "connection {capacity} {blocked}").unwrap();
            }
            Line::Encoder(_) => {}
            Line::Section(Section { stream, fields, .. }) => {
                let (mut block, mut instructions) = (Vec::new(), Vec::new());
                let lines = fields.iter().map(|(name, value)| Field { name, value, is_sensitive: false });
                encoder.encode(stream, lines, u64::MAX, &mut block, &mut instructions).unwrap();
                // The section comes before what it may need, now and then.
                let is_late = number % 4 == 1;
                let instructions_line = match instructions.is_empty() {
                    true => String::new(),
                    false => format!("encoder {}\n", hex(&instructions)),
                };
                let section_line = format!("section {stream} {}\n", hex(&block));
                let [first, second] =
                    if is_late { [section_line, instructions_line] } else { [instructions_line, section_line] };
                written += &(first + &second);
                decoder.on_encoder_bytes(&instructions).unwrap();
                let mut pairs = Pairs::default();
                assert_eq!(decoder.decode(stream, &block, LIMITS, &mut pairs), Ok(Decoded::Done));
                assert_eq!(pairs.0, fields);
                encoder.on_decoder_bytes(decoder.take_instructions().as_slice()).unwrap();
                number += 1;
            }
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qpack/tidegate.txt");
        std::fs::write(path, &written).unwrap();
        return;
    }
    // What differs is to be read by vectors.py before it is kept.
    assert!(written == OURS, "the encoder writes something else: UPDATE_GOLDEN=1, then vectors.py check");
}
