//! Sections over a connection whose streams deliver when they like: each is decoded as it was encoded, no more streams wait
//! than may, and neither side finds a fault with the other.
#![no_main]

use std::collections::VecDeque;
use std::ops::ControlFlow;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tidegate::http3::qpack::{Decoded, Decoder, Encoder, Field, FieldName, FieldValue, Limits, Sink};

type Pair = (Vec<u8>, Vec<u8>);

#[derive(Arbitrary, Debug)]
enum Step {
    Encode(Vec<(u8, u8)>),
    Section(u8),
    Cancel(u8),
    Instructions(u8),
    Acknowledgements(u8),
}

#[derive(Default)]
struct Pairs(Vec<Pair>);

impl Sink for Pairs {
    fn field(&mut self, name: FieldName<'_>, value: FieldValue<'_>, _: bool) -> ControlFlow<()> {
        self.0.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        ControlFlow::Continue(())
    }
}

struct Link {
    decoder: Decoder,
    acknowledgements: VecDeque<u8>,
    waiting: Vec<(u64, Vec<u8>, Vec<Pair>)>,
    max_blocked: usize,
}

impl Link {
    fn deliver(&mut self, section: (u64, Vec<u8>, Vec<Pair>)) {
        let limits = Limits { max_size: u64::MAX, max_fields: usize::MAX };
        let mut pairs = Pairs::default();
        match self.decoder.decode(section.0, &section.1, limits, &mut pairs).expect("a valid section") {
            Decoded::Blocked => self.waiting.push(section),
            _ => assert_eq!(pairs.0, section.2),
        }
        assert!(self.waiting.len() <= self.max_blocked);
        self.acknowledgements.extend(self.decoder.take_instructions());
    }

    fn instruct(&mut self, instructions: &mut VecDeque<u8>, count: usize) {
        let bytes: Vec<u8> = instructions.drain(..count.min(instructions.len())).collect();
        let unblocked = self.decoder.on_encoder_bytes(&bytes).expect("valid instructions");
        self.acknowledgements.extend(self.decoder.take_instructions());
        let (ready, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|section| unblocked.contains(&section.0));
        self.waiting = waiting;
        for section in ready {
            self.deliver(section);
        }
    }
}

fuzz_target!(|input: (u16, u16, u8, Vec<Step>)| {
    let (capacity, used, max_blocked, steps) = input;
    let (capacity, max_blocked) = (u64::from(capacity % 2048), usize::from(max_blocked % 4));
    let decoder = Decoder::new(capacity as usize, max_blocked);
    let mut link = Link { decoder, acknowledgements: VecDeque::new(), waiting: Vec::new(), max_blocked };
    let mut encoder = Encoder::new();
    encoder.set_limits(capacity, u64::from(used), max_blocked as u64);
    let (mut instructions, mut sections, mut stream) = (VecDeque::new(), Vec::new(), 0);
    for step in steps {
        match step {
            Step::Encode(fields) => {
                stream += 4;
                let pairs: Vec<Pair> = fields.into_iter().map(pair).collect();
                let fields = pairs.iter().map(|(name, value)| Field { name, value, is_sensitive: false });
                let (mut block, mut said) = (Vec::new(), Vec::new());
                encoder.encode(stream, fields, u64::MAX, &mut block, &mut said).expect("there is no limit");
                instructions.extend(said);
                sections.push((stream, block, pairs));
            }
            Step::Section(which) if !sections.is_empty() => {
                link.deliver(sections.swap_remove(usize::from(which) % sections.len()));
            }
            Step::Cancel(which) if !sections.is_empty() => {
                let (stream, ..) = sections.swap_remove(usize::from(which) % sections.len());
                link.decoder.cancel(stream);
                link.acknowledgements.extend(link.decoder.take_instructions());
            }
            Step::Section(_) | Step::Cancel(_) => {}
            Step::Instructions(count) => link.instruct(&mut instructions, usize::from(count)),
            Step::Acknowledgements(count) => {
                let count = usize::from(count).min(link.acknowledgements.len());
                let bytes: Vec<u8> = link.acknowledgements.drain(..count).collect();
                encoder.on_decoder_bytes(&bytes).expect("valid acknowledgements");
            }
        }
    }
    sections.into_iter().for_each(|section| link.deliver(section));
    link.instruct(&mut instructions, usize::MAX);
    assert!(link.waiting.is_empty());
    let (bytes, _) = link.acknowledgements.as_slices();
    encoder.on_decoder_bytes(bytes).expect("valid acknowledgements");
});

fn pair((name, value): (u8, u8)) -> Pair {
    let names = ["server", "x-a", "content-type", ":path", "via", "x-bb", "set-cookie", "age"];
    let name = names[usize::from(name) % names.len()].into();
    (name, vec![value; usize::from(value % 64)])
}
