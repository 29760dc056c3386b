//! Whatever a peer sends on its encoder stream and in blocks: the decoder never panics, gives no more than its limits allow,
//! lets no more streams wait than may, and reads instructions alike in whatever pieces they come.
#![no_main]

use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use tidegate::http3::qpack::{Decoded, Decoder, Encoder, FieldName, FieldValue, Limits, Sink};

#[derive(Debug, Default, PartialEq)]
struct Seen {
    size: u64,
    fields: Vec<(Vec<u8>, Vec<u8>, bool)>,
}

impl Sink for Seen {
    fn field(&mut self, name: FieldName<'_>, value: FieldValue<'_>, is_sensitive: bool) -> ControlFlow<()> {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        self.size += (name.len() + value.len() + 32) as u64;
        self.fields.push((name.to_vec(), value.to_vec(), is_sensitive));
        ControlFlow::Continue(())
    }
}

const LIMITS: Limits = Limits { max_size: 2048, max_fields: 16 };

fuzz_target!(|input: (u8, u16, u8, Vec<(bool, u8, &[u8])>)| {
    let (piece, capacity, max_blocked, steps) = input;
    let (capacity, max_blocked) = (usize::from(capacity % 1024), usize::from(max_blocked % 8));
    let mut decoder = Decoder::new(capacity, max_blocked);
    let mut in_pieces = Decoder::new(capacity, max_blocked);
    let mut waiting = Vec::new();
    for (is_block, stream, bytes) in steps {
        let stream = u64::from(stream) * 4;
        if is_block {
            let (mut seen, mut again) = (Seen::default(), Seen::default());
            let decoded = decoder.decode(stream, bytes, LIMITS, &mut seen);
            assert_eq!(in_pieces.decode(stream, bytes, LIMITS, &mut again), decoded);
            assert_eq!(seen, again);
            assert!(seen.size <= LIMITS.max_size);
            match decoded {
                Ok(Decoded::Blocked) => {
                    assert!(seen.fields.is_empty());
                    waiting.retain(|other| *other != stream);
                    waiting.push(stream);
                    assert!(waiting.len() <= max_blocked);
                }
                Ok(_) => {}
                Err(_) => return,
            }
        } else {
            let unblocked = decoder.on_encoder_bytes(bytes);
            let piece = usize::from(piece).max(1);
            let pieces = bytes.chunks(piece).try_fold(Vec::new(), |mut streams, bytes| {
                streams.extend(in_pieces.on_encoder_bytes(bytes)?);
                Ok(streams)
            });
            match (unblocked, pieces) {
                (Ok(mut unblocked), Ok(mut pieces)) => {
                    unblocked.sort_unstable();
                    pieces.sort_unstable();
                    assert_eq!(unblocked[..], pieces[..]);
                    waiting.retain(|stream| !unblocked.contains(stream));
                }
                (Err(error), Err(other)) => {
                    assert_eq!(error, other);
                    return;
                }
                (one, other) => panic!("{one:?} at once, {other:?} in pieces"),
            }
        }
        // What a decoder says, another's encoder takes or refuses.
        let _ = Encoder::new().on_decoder_bytes(decoder.take_instructions().as_slice());
    }
});
