//! The dynamic table of an encoder: what the peer's decoder has by the time it has read our instructions (sans-io, RFC 9204
//! §3.2).

use std::collections::VecDeque;
use std::hash::Hasher;

use rustc_hash::{FxHashMap, FxHasher};

use crate::http3::qpack::field::Field;

/// The table.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
    /// The newest entry with each hash. A field with the hash of another is not found, which only costs bytes.
    newest: FxHashMap<u64, u64>,
    inserted: u64,
    size: u64,
    capacity: u64,
    /// Bytes that were ever inserted.
    written: u64,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    name_length: usize,
    /// The name and, behind it, the value.
    text: Box<[u8]>,
    size: u64,
    /// What was inserted before it, bytes.
    written: u64,
}

/// A field as it is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key(u64);

impl Key {
    #[inline]
    pub(super) fn of(field: &Field<'_>) -> Self {
        let mut hasher = FxHasher::default();
        hasher.write(field.name);
        hasher.write(field.value);
        Self(hasher.finish())
    }

    pub(super) fn hash(self) -> u64 {
        self.0
    }
}

impl Table {
    pub(super) fn inserted(&self) -> u64 {
        self.inserted
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// To be called before anything is inserted.
    pub(super) fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity;
    }

    /// The newest entry that is this field.
    #[inline]
    pub(super) fn find(&self, key: &Key, field: &Field<'_>) -> Option<u64> {
        let &index = self.newest.get(&key.0)?;
        let entry = self.get(index)?;
        let (name, value) = entry.text.split_at(entry.name_length);
        (name == field.name && value == field.value).then_some(index)
    }

    /// The size of an entry that is among the oldest quarter of the table.
    pub(super) fn size_of_draining(&self, index: u64) -> Option<u64> {
        let entry = self.get(index)?;
        (self.written - entry.written > self.capacity / 4 * 3).then_some(entry.size)
    }

    /// Evicts for an entry of `size` bytes, but none from the index `keep` on; whether there is room now.
    pub(super) fn make_room(&mut self, size: u64, keep: u64) -> bool {
        let (mut free, mut evicted) = (self.capacity - self.size, 0);
        let first = self.inserted - self.entries.len() as u64;
        while free < size {
            match self.entries.get(evicted) {
                Some(entry) if first + (evicted as u64) < keep => free += entry.size,
                _ => return false,
            }
            evicted += 1;
        }
        for (index, entry) in (first..).zip(self.entries.drain(..evicted)) {
            self.size -= entry.size;
            if self.newest.get(&entry.hash) == Some(&index) {
                self.newest.remove(&entry.hash);
            }
        }
        true
    }

    /// Inserts where [`make_room`](Self::make_room) said that there is room; gives the index.
    pub(super) fn insert(&mut self, key: &Key, field: &Field<'_>) -> u64 {
        let text = [field.name, field.value].concat().into_boxed_slice();
        self.push(Entry { hash: key.0, name_length: field.name.len(), text, size: field.size(), written: self.written })
    }

    /// As [`insert`](Self::insert), of an entry that is there already.
    pub(super) fn duplicate(&mut self, index: u64) -> u64 {
        let Some(entry) = self.get(index) else { return index };
        let Entry { hash, name_length, ref text, size, .. } = *entry;
        let text = text.clone();
        self.push(Entry { hash, name_length, text, size, written: self.written })
    }

    fn push(&mut self, entry: Entry) -> u64 {
        let index = self.inserted;
        self.size += entry.size;
        self.written += entry.size;
        self.newest.insert(entry.hash, index);
        self.entries.push_back(entry);
        self.inserted += 1;
        index
    }

    fn get(&self, index: u64) -> Option<&Entry> {
        let first = self.inserted - self.entries.len() as u64;
        self.entries.get(index.checked_sub(first)? as usize)
    }
}
