//! Skips a chunked body (sans-io, RFC 9112 §7.1). It follows hyper's parser: on an error, the offending byte is
//! released so that hyper fails on it too, and nothing after it. A bare line feed in the trailers is an error here:
//! hyper would continue to CR LF CR LF, where another parser would see the end of the message and a further request.
//! hyper limits the sizes of extensions and trailers; nothing of them is stored here.

/// Where in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    SizeFirst,
    Size(u64),
    SizeSpace(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the beginning of a trailer line, or of the empty line.
    TrailerFirst,
    Trailer,
    TrailerLf,
    EndLf,
}

/// What stands behind the bytes passed over.
pub(super) enum Skipped {
    /// More of the body.
    Inside(Chunk),
    /// The next head.
    Whole,
    /// Nothing: the last byte cannot stand where it does.
    Broken,
}

/// How many bytes go on, and what is behind them.
pub(super) fn skip(mut chunk: Chunk, bytes: &[u8]) -> (usize, Skipped) {
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if let Chunk::Data(left) = chunk {
            let skip = left.min((bytes.len() - at) as u64);
            at += skip as usize;
            chunk = if skip == left { Chunk::DataCr } else { Chunk::Data(left - skip) };
            continue;
        }
        at += 1;
        let next = match (chunk, byte) {
            (Chunk::SizeFirst, _) => hex(byte).map(Chunk::Size),
            (Chunk::Size(size) | Chunk::SizeSpace(size), b' ' | b'\t') => Some(Chunk::SizeSpace(size)),
            (Chunk::Size(size) | Chunk::SizeSpace(size), b';') => Some(Chunk::Extension(size)),
            (Chunk::Size(size) | Chunk::SizeSpace(size) | Chunk::Extension(size), b'\r') => Some(Chunk::SizeLf(size)),
            (Chunk::Size(size), _) => {
                hex(byte).and_then(|digit| size.checked_mul(16)?.checked_add(digit)).map(Chunk::Size)
            }
            (Chunk::Extension(size), byte) if byte != b'\n' => Some(Chunk::Extension(size)),
            (Chunk::SizeLf(0), b'\n') => Some(Chunk::TrailerFirst),
            (Chunk::SizeLf(size), b'\n') => Some(Chunk::Data(size)),
            (Chunk::DataCr, b'\r') => Some(Chunk::DataLf),
            (Chunk::DataLf, b'\n') => Some(Chunk::SizeFirst),
            (Chunk::TrailerFirst, b'\r') => Some(Chunk::EndLf),
            (Chunk::Trailer, b'\r') => Some(Chunk::TrailerLf),
            (Chunk::TrailerFirst | Chunk::Trailer, byte) if byte != b'\n' => Some(Chunk::Trailer),
            (Chunk::TrailerLf, b'\n') => Some(Chunk::TrailerFirst),
            (Chunk::EndLf, b'\n') => return (at, Skipped::Whole),
            _ => None,
        };
        match next {
            Some(next) => chunk = next,
            None => return (at, Skipped::Broken),
        }
    }
    (at, Skipped::Inside(chunk))
}

fn hex(byte: u8) -> Option<u64> {
    (byte as char).to_digit(16).map(u64::from)
}
