//! The dynamic table of a decoder: what the peer inserted, as far as it has room (sans-io, RFC 9204 §3.2).

use std::collections::VecDeque;

use super::field::{self, KnownName, KnownValue};

/// The table.
#[derive(Debug, Default)]
pub(super) struct DynamicTable {
    entries: VecDeque<Entry>,
    /// How many were inserted in all; the index of the next one.
    inserted: u64,
    size: u64,
    capacity: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: KnownName,
    pub(super) value: KnownValue,
    /// Counted once, when it came.
    pub(super) size: u64,
}

/// An entry is larger than the table may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

impl DynamicTable {
    pub(super) fn inserted(&self) -> u64 {
        self.inserted
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The entry with an absolute index (RFC 9204 §3.2.4), unless it is gone or was never there.
    #[inline]
    pub(super) fn get(&self, index: u64) -> Option<&Entry> {
        let age = self.inserted.checked_sub(index)?.checked_sub(1)?;
        let place = (self.entries.len() as u64).checked_sub(age + 1)?;
        self.entries.get(place as usize)
    }

    /// The entry that was inserted last but `back`: how the encoder stream counts (RFC 9204 §3.2.5).
    pub(super) fn newest(&self, back: u64) -> Option<&Entry> {
        self.get(self.inserted.checked_sub(back)?.checked_sub(1)?)
    }

    pub(super) fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity;
        self.evict(0);
    }

    pub(super) fn insert(&mut self, name: KnownName, value: KnownValue) -> Result<(), TooLarge> {
        let size = field::size(name.as_bytes(), value.as_bytes());
        // RFC 9204 §3.2.2
        if size > self.capacity {
            return Err(TooLarge);
        }
        self.evict(size);
        self.entries.push_back(Entry { name, value, size });
        self.size += size;
        self.inserted += 1;
        Ok(())
    }

    fn evict(&mut self, room: u64) {
        while self.size + room > self.capacity
            && let Some(entry) = self.entries.pop_front()
        {
            self.size -= entry.size;
        }
    }
}
