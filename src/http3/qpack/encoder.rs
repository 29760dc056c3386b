//! Fields to blocks and instructions for the peer (sans-io, RFC 9204 §2.1, §4). What is sent for the second time goes into
//! the table, and is referred to from when the peer says that it has it: a block waits for nothing unless we were told
//! that it may.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::field::{Field, OVERHEAD};
use super::integer::{self, Fault, write, write_text};
use super::static_table::{self, Found};
use crate::http3::error::{Code, Error};

mod table;

use self::table::{Key, Table};

/// The encoder of a connection.
#[derive(Debug, Default)]
pub struct Encoder {
    table: Table,
    /// Of the peer's SETTINGS: what the required insert count is reckoned by (RFC 9204 §4.5.1.1).
    max_entries: u64,
    max_blocked: usize,
    /// The table's capacity, when the peer has not heard of it yet.
    unsaid_capacity: Option<u64>,
    /// Insertions that the peer has.
    acknowledged: u64,
    /// Sections with references that the peer has not acknowledged, by stream.
    sections: FxHashMap<u64, SmallVec<[Section; 1]>>,
    outstanding: usize,
    recent: Recent,
    /// The beginning of an instruction of the peer.
    partial: SmallVec<[u8; 16]>,
}

/// A section that is on its way, and what it refers to.
#[derive(Clone, Copy, Debug)]
struct Section {
    required: u64,
    oldest: u64,
}

/// A section is larger than the peer allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl Encoder {
    /// Without a dynamic table, until the peer's SETTINGS are known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what the peer's SETTINGS allow: `max_capacity` bytes of its table, of which we use `capacity`, and
    /// `max_blocked` streams that may wait for it. With 0 of them none ever does, which costs a round trip before a new
    /// entry is of use. To be called once.
    pub fn set_limits(&mut self, max_capacity: u64, capacity: u64, max_blocked: u64) {
        let capacity = capacity.min(max_capacity);
        self.max_entries = max_capacity / OVERHEAD;
        self.max_blocked = usize::try_from(max_blocked).unwrap_or(usize::MAX);
        self.table.set_capacity(capacity);
        self.unsaid_capacity = (capacity > 0).then_some(capacity);
    }

    /// Appends the block of a section, to be sent on `stream`, to `block`, and to `instructions` what has to be sent on
    /// the encoder stream, whatever comes of the section. Names must be in lower case.
    ///
    /// # Errors
    /// Where the section counts more than `max_size` bytes (RFC 9114 §4.2.2): it must not be sent.
    pub fn encode<'a>(
        &mut self,
        stream: u64,
        fields: impl Iterator<Item = Field<'a>>,
        max_size: u64,
        block: &mut Vec<u8>,
        instructions: &mut Vec<u8>,
    ) -> Result<(), TooLarge> {
        let start = block.len();
        // The prefix of a section without references, which most are of short connections.
        block.extend_from_slice(&[0, 0]);
        let base = self.table.inserted();
        let mut work = Work {
            stream,
            uses_table: self.table.capacity() > 0 && self.outstanding < MAX_OUTSTANDING,
            may_block: None,
            section: Section { required: 0, oldest: u64::MAX },
            base,
            pinned: None,
        };
        let mut size = 0u64;
        fields.for_each(|field| {
            size += field.size();
            if size <= max_size {
                self.field(&mut work, field, block, instructions);
            }
        });
        if size > max_size {
            block.truncate(start);
            return Err(TooLarge);
        }
        let section = work.section;
        if section.required > 0 {
            self.prefix(section.required, base, start, block);
            self.sections.entry(stream).or_default().push(section);
            self.outstanding += 1;
        }
        Ok(())
    }

    /// Takes what came on the peer's decoder stream, cut anywhere.
    ///
    /// # Errors
    /// Of the connection: QPACK_DECODER_STREAM_ERROR.
    pub fn on_decoder_bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = bytes;
        while let Some((&next, behind)) = rest.split_first() {
            let (first, prefix) = match *self.partial.first().unwrap_or(&next) {
                first @ 0x80.. => (first, 7),
                first => (first, 6),
            };
            let whole = if self.partial.is_empty() {
                integer::read(rest, prefix).map(|(value, length)| (value, &rest[length..]))
            } else {
                self.partial.push(next);
                integer::read(&self.partial, prefix).map(|(value, _)| (value, behind))
            };
            match whole {
                Ok((value, behind)) => {
                    self.partial.clear();
                    self.instruction(first, value)?;
                    rest = behind;
                }
                Err(Fault::Short) if self.partial.is_empty() => {
                    self.partial.extend_from_slice(rest);
                    return Ok(());
                }
                Err(Fault::Short) => rest = behind,
                Err(Fault::Invalid) => return Err(fault("a malformed instruction")),
            }
        }
        Ok(())
    }

    /// RFC 9204 §4.4
    fn instruction(&mut self, first: u8, value: u64) -> Result<(), Error> {
        match first {
            0x80.. => {
                let sections = self.sections.get_mut(&value).ok_or(fault("an acknowledgement of nothing"))?;
                let section = sections.remove(0);
                if sections.is_empty() {
                    self.sections.remove(&value);
                }
                self.outstanding -= 1;
                self.acknowledged = self.acknowledged.max(section.required);
            }
            0x40.. => {
                let cancelled = self.sections.remove(&value);
                self.outstanding -= cancelled.map_or(0, |sections| sections.len());
            }
            _ => {
                let unacknowledged = self.table.inserted() - self.acknowledged;
                if value == 0 || value > unacknowledged {
                    return Err(fault("an insert count that cannot be"));
                }
                self.acknowledged += value;
            }
        }
        Ok(())
    }

    #[inline]
    fn field(&mut self, work: &mut Work, field: Field<'_>, block: &mut Vec<u8>, instructions: &mut Vec<u8>) {
        let found = static_table::find(field.name, field.value);
        if let Some(Found::Field(index)) = found
            && !field.is_sensitive
        {
            write(u64::from(index), 6, 0xc0, block);
            return;
        }
        // RFC 9204 §7.1.3: what is secret is never in a table that other requests are compressed with.
        let is_secret = field.is_sensitive || is_secret(field.name);
        if work.uses_table && !is_secret {
            let key = Key::of(&field);
            let index = match self.table.find(&key, &field) {
                Some(index) => Some(self.renew(work, index, instructions)),
                None if self.recent.saw_before(&key) => self.insert(work, &key, &field, found, instructions),
                None => None,
            };
            if let Some(index) = index
                && self.may_refer(work, index)
            {
                work.refer(index, block);
                return;
            }
        }
        literal(&field, found, is_secret && field.is_sensitive, block);
    }

    /// RFC 9204 §4.3.2-4.3.3
    fn insert(
        &mut self,
        work: &mut Work,
        key: &Key,
        field: &Field<'_>,
        found: Option<Found>,
        instructions: &mut Vec<u8>,
    ) -> Option<u64> {
        // One that pushes everything else out is not worth it.
        if field.size() > self.table.capacity() / 4 || !self.make_room(work, field.size()) {
            return None;
        }
        self.say_capacity(instructions);
        match found {
            Some(Found::Field(name) | Found::Name(name)) => write(u64::from(name), 6, 0xc0, instructions),
            None => write_text(field.name, 5, 0x40, instructions),
        }
        write_text(field.value, 7, 0, instructions);
        Some(self.table.insert(key, field))
    }

    /// An entry that will be evicted soon goes to the other end of the table, so that it need not be kept for those that
    /// refer to it (RFC 9204 §2.1.1.1).
    fn renew(&mut self, work: &mut Work, index: u64, instructions: &mut Vec<u8>) -> u64 {
        let Some(size) = self.table.size_of_draining(index) else { return index };
        // The room may not be made by evicting the entry itself.
        let pinned = work.pinned(&self.sections).min(index);
        if !self.table.make_room(size, pinned.min(self.acknowledged)) {
            return index;
        }
        self.say_capacity(instructions);
        write(self.table.inserted() - index - 1, 5, 0, instructions);
        let newest = self.table.duplicate(index);
        // While the new one is waited for, the old one serves.
        if self.may_refer(work, newest) { newest } else { index }
    }

    fn make_room(&mut self, work: &mut Work, size: u64) -> bool {
        // RFC 9204 §2.1.1: neither what is referred to nor what the peer may not have yet.
        let keep = work.pinned(&self.sections).min(self.acknowledged);
        self.table.make_room(size, keep)
    }

    fn say_capacity(&mut self, instructions: &mut Vec<u8>) {
        if let Some(capacity) = self.unsaid_capacity.take() {
            write(capacity, 5, 0x20, instructions);
        }
    }

    /// RFC 9204 §2.1.2: whether the section may refer to what the peer may not have yet.
    fn may_refer(&self, work: &mut Work, index: u64) -> bool {
        index < self.acknowledged || *work.may_block.get_or_insert_with(|| self.may_block(work.stream))
    }

    fn may_block(&self, stream: u64) -> bool {
        if self.max_blocked == 0 {
            return false;
        }
        let blocks = |sections: &[Section]| sections.iter().any(|section| section.required > self.acknowledged);
        let others = self.sections.iter().filter(|(other, sections)| **other != stream && blocks(sections));
        others.count() < self.max_blocked
    }

    /// RFC 9204 §4.5.1
    fn prefix(&self, required: u64, base: u64, start: usize, block: &mut Vec<u8>) {
        let end = block.len();
        write(required % (2 * self.max_entries) + 1, 8, 0, block);
        if base >= required {
            write(base - required, 7, 0, block);
        } else {
            write(required - base - 1, 7, 0x80, block);
        }
        // Most need no more than the two bytes that were left for it.
        if let [requires, delta] = block[end..] {
            block[start..start + 2].copy_from_slice(&[requires, delta]);
            block.truncate(end);
        } else {
            let length = block.len() - end;
            block[start..].rotate_right(length);
            block.drain(start + length..start + length + 2);
        }
    }
}

/// One section under way.
struct Work {
    stream: u64,
    uses_table: bool,
    /// Whether it may wait for the table, once somebody asked.
    may_block: Option<bool>,
    section: Section,
    base: u64,
    /// The oldest entry that other sections refer to, once somebody asked.
    pinned: Option<u64>,
}

impl Work {
    /// The oldest entry that is referred to.
    fn pinned(&mut self, sections: &FxHashMap<u64, SmallVec<[Section; 1]>>) -> u64 {
        let oldest = || sections.values().flatten().map(|section| section.oldest).min().unwrap_or(u64::MAX);
        (*self.pinned.get_or_insert_with(oldest)).min(self.section.oldest)
    }

    /// RFC 9204 §4.5.2-4.5.3
    fn refer(&mut self, index: u64, block: &mut Vec<u8>) {
        self.section.required = self.section.required.max(index + 1);
        self.section.oldest = self.section.oldest.min(index);
        if index < self.base {
            write(self.base - index - 1, 6, 0x80, block);
        } else {
            write(index - self.base, 4, 0x10, block);
        }
    }
}

/// RFC 9204 §4.5.4, §4.5.6
fn literal(field: &Field<'_>, found: Option<Found>, never_indexed: bool, block: &mut Vec<u8>) {
    match found {
        Some(Found::Field(name) | Found::Name(name)) => {
            write(u64::from(name), 4, 0x50 | u8::from(never_indexed) << 5, block);
        }
        None => write_text(field.name, 3, 0x20 | u8::from(never_indexed) << 4, block),
    }
    write_text(field.value, 7, 0, block);
}

/// What differs from client to client and must not be guessed by one about another, and what never comes twice.
fn is_secret(name: &[u8]) -> bool {
    matches!(
        name,
        b"authorization"
            | b"cookie"
            | b"set-cookie"
            | b"proxy-authorization"
            | b"authentication-info"
            | b"proxy-authentication-info"
            | b"www-authenticate"
            | b":path"
            | b"content-length"
    )
}

/// What was sent lately, as far as it has not been overwritten: two fields to a place, so that those of one section do not
/// push each other out.
#[derive(Debug)]
struct Recent([[u32; 2]; RECENT]);

impl Default for Recent {
    fn default() -> Self {
        Self([[0; 2]; RECENT])
    }
}

impl Recent {
    fn saw_before(&mut self, key: &Key) -> bool {
        let (place, mark) = ((key.hash() >> 32) as usize % RECENT, key.hash() as u32);
        let [newer, older] = self.0[place];
        if mark != newer && mark != older {
            self.0[place] = [mark, newer];
            return false;
        }
        true
    }
}

/// What a section counts against limits (RFC 9114 §4.2.2).
pub fn section_size<'a>(fields: impl Iterator<Item = Field<'a>>) -> u64 {
    fields.map(|field| field.size()).sum()
}

const fn fault(reason: &'static str) -> Error {
    Error::connection(Code::QPACK_DECODER_STREAM_ERROR, reason)
}

/// Sections that a peer may leave unacknowledged before we go on without the table.
const MAX_OUTSTANDING: usize = 512;
const RECENT: usize = 64;

#[cfg(test)]
mod tests;
