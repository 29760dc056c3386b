//! Blocks and the peer's instructions to fields (sans-io, RFC 9204 §2.2, §4).

use std::mem;
use std::vec::Drain;

use smallvec::SmallVec;

use super::dynamic::{DynamicTable, TooLarge};
use super::field::{FieldName, FieldValue, KnownName, KnownValue, OVERHEAD, Sink};
use super::integer::{self, Fault, Text};
use super::static_table;
use crate::http3::error::{Code, Error};

/// How much a section may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes by the count of RFC 9114 §4.2.2: names, values, and 32 per field.
    pub max_size: u64,
    /// Fields, without pseudo-header fields.
    pub max_fields: usize,
}

/// What became of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// The sink has all of it.
    Done,
    /// It waits for instructions: decode it again, into a new sink, when [`Decoder::on_encoder_bytes`] names its stream.
    Blocked,
    /// It is larger than allowed; the sink has what came before.
    TooLarge,
    /// The sink broke off.
    Refused,
}

/// The decoder of a connection.
#[derive(Debug)]
pub struct Decoder {
    table: DynamicTable,
    max_capacity: u64,
    max_blocked: usize,
    /// Streams that wait, and for how many insertions.
    blocked: Vec<(u64, u64)>,
    /// The beginning of an instruction.
    partial: Vec<u8>,
    /// Insertions that the peer knows we have.
    acknowledged: u64,
    instructions: Vec<u8>,
    scratch: Scratch,
}

#[derive(Debug, Default)]
struct Scratch {
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    /// With what our SETTINGS promise: bytes of the table, and streams that may wait for it.
    pub fn new(max_capacity: usize, max_blocked: usize) -> Self {
        Self {
            table: DynamicTable::default(),
            max_capacity: max_capacity as u64,
            max_blocked,
            blocked: Vec::new(),
            partial: Vec::new(),
            acknowledged: 0,
            instructions: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// What is to be sent on our decoder stream. The room that it took is kept: there is an acknowledgement to each section
    /// with references.
    pub fn take_instructions(&mut self) -> Drain<'_, u8> {
        self.instructions.drain(..)
    }

    /// Gives the fields of `block`, which came on `stream`, to `sink`. Afterwards there may be instructions to send.
    ///
    /// # Errors
    /// Of the connection: QPACK_DECOMPRESSION_FAILED.
    pub fn decode(
        &mut self,
        stream: u64,
        block: &[u8],
        limits: Limits,
        sink: &mut impl Sink,
    ) -> Result<Decoded, Error> {
        let (prefix, block) = self.prefix(block)?;
        if prefix.required > self.table.inserted() {
            return self.block(stream, prefix.required);
        }
        let Self { table, scratch, .. } = self;
        let decoded = Section { table, prefix, rest: block }.decode(scratch, limits, sink)?;
        if prefix.required > 0 {
            // RFC 9204 §4.4.1: also where we break off, for nothing of it is referenced any more.
            integer::write(stream, 7, 0x80, &mut self.instructions);
        }
        Ok(decoded)
    }

    /// Nothing of `stream` will be decoded any more: it was reset or stopped (RFC 9204 §2.2.2.2).
    pub fn cancel(&mut self, stream: u64) {
        self.blocked.retain(|&(blocked, _)| blocked != stream);
        // The peer cannot refer to a table that it may not fill.
        if self.max_capacity > 0 {
            integer::write(stream, 6, 0x40, &mut self.instructions);
        }
    }

    /// Takes what came on the peer's encoder stream, cut anywhere, and gives the streams that need not wait any more.
    ///
    /// # Errors
    /// Of the connection: QPACK_ENCODER_STREAM_ERROR.
    pub fn on_encoder_bytes(&mut self, bytes: &[u8]) -> Result<SmallVec<[u64; 4]>, Error> {
        let mut partial = mem::take(&mut self.partial);
        let rest = if partial.is_empty() {
            self.instructions_in(bytes)?
        } else {
            partial.extend_from_slice(bytes);
            self.instructions_in(&partial)?
        };
        let (rest, is_shared) = (rest.len(), partial.is_empty());
        if is_shared {
            partial.extend_from_slice(&bytes[bytes.len() - rest..]);
        } else {
            partial.drain(..partial.len() - rest);
        }
        self.partial = partial;
        let inserted = self.table.inserted();
        if inserted > self.acknowledged {
            // RFC 9204 §4.4.3: at once, for the peer may wait for it before it refers to what it inserted.
            integer::write(inserted - self.acknowledged, 6, 0, &mut self.instructions);
            self.acknowledged = inserted;
        }
        let mut unblocked = SmallVec::new();
        self.blocked.retain(|&(stream, required)| {
            let is_blocked = required > inserted;
            if !is_blocked {
                unblocked.push(stream);
            }
            is_blocked
        });
        Ok(unblocked)
    }

    /// RFC 9204 §4.5.1: what a block needs of the table, and from where it counts.
    fn prefix<'a>(&self, block: &'a [u8]) -> Result<(Prefix, &'a [u8]), Error> {
        if let [0, 0, rest @ ..] = block {
            return Ok((Prefix { required: 0, base: 0 }, rest));
        }
        let (encoded, first) = integer::read(block, 8).map_err(broken)?;
        let rest = &block[first..];
        let (delta, second) = integer::read(rest, 7).map_err(broken)?;
        let required = self.required(encoded).ok_or(failed("a required insert count that cannot be"))?;
        let base = if rest[0] & 0x80 == 0 {
            required + delta
        } else {
            required.checked_sub(delta + 1).ok_or(failed("a base below zero"))?
        };
        Ok((Prefix { required, base }, &rest[second..]))
    }

    /// RFC 9204 §4.5.1.1
    fn required(&self, encoded: u64) -> Option<u64> {
        if encoded == 0 {
            return Some(0);
        }
        let max_entries = self.max_capacity / OVERHEAD;
        let full_range = 2 * max_entries;
        if encoded > full_range {
            return None;
        }
        let max_value = self.table.inserted() + max_entries;
        let required = max_value / full_range * full_range + encoded - 1;
        let required = if required > max_value { required.checked_sub(full_range)? } else { required };
        (required > 0).then_some(required)
    }

    fn block(&mut self, stream: u64, required: u64) -> Result<Decoded, Error> {
        self.blocked.retain(|&(blocked, _)| blocked != stream);
        // RFC 9204 §2.1.2
        if self.blocked.len() >= self.max_blocked {
            return Err(failed("more blocked streams than allowed"));
        }
        self.blocked.push((stream, required));
        Ok(Decoded::Blocked)
    }

    /// Carries out the instructions that are whole; what is left is the beginning of one.
    fn instructions_in<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        while !bytes.is_empty() {
            match self.instruction(bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(Stop::Short) if bytes.len() as u64 > 8 * self.max_capacity + MAX_INSTRUCTION => {
                    return Err(stream_fault("an instruction that is longer than the table"));
                }
                Err(Stop::Short) => break,
                Err(Stop::Error(reason)) => return Err(stream_fault(reason)),
            }
        }
        Ok(bytes)
    }

    /// RFC 9204 §4.3: the instruction at the start of `bytes`, and how many bytes it took.
    fn instruction(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        let first = bytes[0];
        if first & 0x80 != 0 {
            let (index, name_end) = integer::read(bytes, 6)?;
            let (value, value_end) = self.entry_text(&bytes[name_end..], 7)?;
            let name = if first & 0x40 != 0 {
                &static_table::get(index).ok_or(NO_ENTRY)?.name
            } else {
                &self.table.newest(index).ok_or(NO_ENTRY)?.name
            };
            let (name, value) = (name.clone(), KnownValue::new(value.decode(&mut self.scratch.value)?));
            self.table.insert(name, value)?;
            Ok(name_end + value_end)
        } else if first & 0x40 != 0 {
            let (name, name_end) = self.entry_text(bytes, 5)?;
            let (value, value_end) = self.entry_text(&bytes[name_end..], 7)?;
            let name = KnownName::new(name.decode(&mut self.scratch.name)?);
            self.table.insert(name, KnownValue::new(value.decode(&mut self.scratch.value)?))?;
            Ok(name_end + value_end)
        } else if first & 0x20 != 0 {
            let (capacity, length) = integer::read(bytes, 5)?;
            if capacity > self.max_capacity {
                return Err(Stop::Error("a table larger than allowed"));
            }
            self.table.set_capacity(capacity);
            Ok(length)
        } else {
            let (index, length) = integer::read(bytes, 5)?;
            let entry = self.table.newest(index).ok_or(NO_ENTRY)?;
            let (name, value) = (entry.name.clone(), entry.value.clone());
            self.table.insert(name, value)?;
            Ok(length)
        }
    }

    /// A string of an entry. One that cannot be in the table need not come first.
    fn entry_text<'a>(&self, bytes: &'a [u8], prefix: u8) -> Result<(Text<'a>, usize), Stop> {
        let (length, _) = integer::read(bytes, prefix)?;
        if length > self.table.capacity().saturating_mul(4) {
            return Err(TooLarge.into());
        }
        Ok(Text::read(bytes, prefix)?)
    }
}

#[derive(Clone, Copy)]
struct Prefix {
    required: u64,
    base: u64,
}

/// Why there is no instruction.
enum Stop {
    Short,
    Error(&'static str),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Short => Self::Short,
            Fault::Invalid => Self::Error("a malformed instruction"),
        }
    }
}

impl From<TooLarge> for Stop {
    fn from(TooLarge: TooLarge) -> Self {
        Self::Error("an entry larger than the table")
    }
}

/// The fields of one block.
struct Section<'a> {
    table: &'a DynamicTable,
    prefix: Prefix,
    rest: &'a [u8],
}

impl<'a> Section<'a> {
    fn decode(mut self, scratch: &mut Scratch, limits: Limits, sink: &mut impl Sink) -> Result<Decoded, Error> {
        let mut room = limits.max_size;
        let mut fields = limits.max_fields;
        while let Some(&first) = self.rest.first() {
            // RFC 9204 §4.5.2-4.5.6, the most frequent first.
            let (known, text, is_sensitive) = if first & 0x80 != 0 {
                (Some(self.reference(6, first & 0x40 != 0)?), None, false)
            } else if first & 0x40 != 0 {
                let (name, _) = self.reference(4, first & 0x10 != 0)?;
                (None, Some((FieldName::Known(name), self.text(7)?)), first & 0x20 != 0)
            } else if first & 0x20 != 0 {
                let name = self.text(3)?;
                if name.min_length() as u64 > room {
                    return Ok(Decoded::TooLarge);
                }
                let name = name.decode(&mut scratch.name).map_err(broken)?;
                (None, Some((FieldName::Text(name), self.text(7)?)), first & 0x10 != 0)
            } else if first & 0x10 != 0 {
                (Some(self.post_base(4)?), None, false)
            } else {
                let (name, _) = self.post_base(3)?;
                (None, Some((FieldName::Known(name), self.text(7)?)), first & 0x08 != 0)
            };
            let (name, value) = match (known, text) {
                (Some((name, value)), _) => (FieldName::Known(name), FieldValue::Known(value)),
                (None, Some((name, value))) => {
                    if value.min_length() as u64 > room {
                        return Ok(Decoded::TooLarge);
                    }
                    (name, FieldValue::Text(value.decode(&mut scratch.value).map_err(broken)?))
                }
                (None, None) => unreachable!("one of them is there"),
            };
            let (name_bytes, value_bytes) = (name.as_bytes(), value.as_bytes());
            // A reference of one byte may stand for a field of the whole table's size: counted before it is taken.
            let Some(left) = room.checked_sub(super::field::size(name_bytes, value_bytes)) else {
                return Ok(Decoded::TooLarge);
            };
            room = left;
            if name_bytes.first() != Some(&b':') {
                if fields == 0 {
                    return Ok(Decoded::TooLarge);
                }
                fields -= 1;
            }
            if sink.field(name, value, is_sensitive).is_break() {
                return Ok(Decoded::Refused);
            }
        }
        Ok(Decoded::Done)
    }

    /// An index of `prefix` bits, into the static table or back from the base.
    #[inline]
    fn reference(&mut self, prefix: u8, is_static: bool) -> Result<(&'a KnownName, &'a KnownValue), Error> {
        let index = self.integer(prefix)?;
        if is_static {
            let entry = static_table::get(index).ok_or(NO_FIELD)?;
            return Ok((&entry.name, &entry.value));
        }
        self.dynamic(self.prefix.base.checked_sub(index).and_then(|index| index.checked_sub(1)).ok_or(NO_FIELD)?)
    }

    fn post_base(&mut self, prefix: u8) -> Result<(&'a KnownName, &'a KnownValue), Error> {
        let index = self.integer(prefix)?;
        self.dynamic(self.prefix.base + index)
    }

    fn dynamic(&self, index: u64) -> Result<(&'a KnownName, &'a KnownValue), Error> {
        // RFC 9204 §2.2.1: whatever is there by now, what the block did not announce it may not use.
        if index >= self.prefix.required {
            return Err(failed("a reference beyond the required insert count"));
        }
        let entry = self.table.get(index).ok_or(NO_FIELD)?;
        Ok((&entry.name, &entry.value))
    }

    #[inline]
    fn integer(&mut self, prefix: u8) -> Result<u64, Error> {
        let (value, length) = integer::read(self.rest, prefix).map_err(broken)?;
        self.rest = &self.rest[length..];
        Ok(value)
    }

    #[inline]
    fn text(&mut self, prefix: u8) -> Result<Text<'a>, Error> {
        let (text, length) = Text::read(self.rest, prefix).map_err(broken)?;
        self.rest = &self.rest[length..];
        Ok(text)
    }
}

const fn failed(reason: &'static str) -> Error {
    Error::connection(Code::QPACK_DECOMPRESSION_FAILED, reason)
}

fn stream_fault(reason: &'static str) -> Error {
    Error::connection(Code::QPACK_ENCODER_STREAM_ERROR, reason)
}

fn broken(fault: Fault) -> Error {
    match fault {
        Fault::Short => failed("a field section that ends within a field"),
        Fault::Invalid => failed("a malformed number or string in a field section"),
    }
}

const NO_FIELD: Error = failed("a reference to a field that is not there");
const NO_ENTRY: Stop = Stop::Error("a reference to an entry that is not there");
/// Two integers and the pattern, whatever the size of the table.
const MAX_INSTRUCTION: u64 = 32;

#[cfg(test)]
mod tests;
