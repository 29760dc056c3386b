//! Compression of fields for HTTP/3 (sans-io, RFC 9204): heads and trailers to blocks and back, with a static table that all
//! know and a dynamic one for each direction of a connection.

mod decoder;
mod dynamic;
mod encoder;
mod field;
mod huffman;
mod integer;
mod static_table;

pub use self::decoder::{Decoded, Decoder, Limits};
pub use self::encoder::{Encoder, TooLarge, section_size};
pub use self::field::{Field, FieldName, FieldValue, KnownName, KnownValue, Pseudo, Sink};

#[cfg(test)]
mod vectors;
