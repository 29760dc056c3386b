//! HTTP datagrams in DATAGRAM frames of QUIC: which request stream one belongs to (sans-io, RFC 9297 §2.1).

use bytes::Bytes;

use super::error::{Code, Error};
use super::varint;

/// Takes the number of the stream off a datagram; what is left is its payload.
///
/// # Errors
/// Of the connection (H3_DATAGRAM_ERROR): it has no number, or one that no stream can have.
pub fn read(mut datagram: Bytes) -> Result<(u64, Bytes), Error> {
    let malformed = |reason| Error::connection(Code::DATAGRAM_ERROR, reason);
    let (quarter, length) =
        varint::read(&datagram).ok_or(malformed("a datagram that ends within the number of its stream"))?;
    if quarter > MAX_QUARTER {
        return Err(malformed("a datagram for a stream that cannot be"));
    }
    Ok((quarter * 4, datagram.split_off(length)))
}

/// Appends what a datagram of the stream begins with.
pub fn write_stream(stream: u64, out: &mut Vec<u8>) {
    varint::write(stream / 4, out);
}

/// A request stream's number divided by four, at the most.
const MAX_QUARTER: u64 = varint::MAX / 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_has_no_stream_is_an_error_of_the_connection() {
        let mut past = Vec::new();
        varint::write(MAX_QUARTER + 1, &mut past);
        for bytes in [&[][..], &[0x40], &[0xc0, 0, 0], &past, &[0xff; 8]] {
            let error = read(Bytes::copy_from_slice(bytes)).unwrap_err();
            assert_eq!(error, Error::connection(Code::DATAGRAM_ERROR, error.reason()), "{bytes:?}");
        }
        assert_eq!(read(Bytes::from_static(&[1])).unwrap(), (4, Bytes::new()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(quarter in 0..=MAX_QUARTER, payload: Vec<u8>) {
            let mut bytes = Vec::new();
            write_stream(quarter * 4, &mut bytes);
            bytes.extend_from_slice(&payload);
            prop_assert_eq!(read(bytes.into()), Ok((quarter * 4, payload.into())));
        }
    }
}
