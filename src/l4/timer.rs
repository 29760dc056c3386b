//! § The timer wheel of a worker (sans-io: time is an argument): six levels of 64 slots, with a tick of 16.8 ms.
//! Entries are named by the caller's number (a place in a slab) and cost 16 bytes. Setting, moving and clearing are a
//! few stores, so a million idle sessions cost nothing until a deadline is due.

use std::time::{Duration, Instant};

/// A moment, counted in ticks since the wheel was made.
pub type Tick = u64;

/// Nanoseconds of a tick, as a power of two.
const TICK_BITS: u32 = 24;
/// Slots of a level, as a power of two.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// 2³⁶ ticks: 36 years.
const LEVELS: usize = 6;
/// The furthest that anything is set ahead; a deadline past it never comes.
const HORIZON: Tick = (1 << (SLOT_BITS * LEVELS as u32)) - 1;
/// No entry.
const NONE: u32 = u32::MAX;
/// The slot of an entry that hangs nowhere.
const UNSET: u16 = u16::MAX;

/// What is due when.
#[derive(Debug)]
pub struct Wheel {
    began: Instant,
    /// Everything before it was given out.
    elapsed: Tick,
    /// The first entry of each slot.
    heads: [u32; LEVELS * SLOTS],
    /// Which slots of a level have entries.
    occupied: [u64; LEVELS],
    entries: Vec<Entry>,
    /// Due now: the first entry of a list on its own.
    due: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    previous: u32,
    next: u32,
    /// When it is due; 48 bits, the slot it hangs in below them.
    place: u64,
}

impl Wheel {
    /// A wheel that begins to turn `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            elapsed: 0,
            heads: [NONE; LEVELS * SLOTS],
            occupied: [0; LEVELS],
            entries: Vec::new(),
            due: NONE,
        }
    }

    /// The tick that `at` lies in.
    pub fn tick(&self, at: Instant) -> Tick {
        (at.saturating_duration_since(self.began).as_nanos() >> TICK_BITS) as Tick
    }

    /// How many ticks make up `duration`, rounded up: nothing is ever due early.
    pub fn ticks(duration: Duration) -> Tick {
        let ticks = duration.as_nanos().div_ceil(1 << TICK_BITS) + 1;
        Tick::try_from(ticks).unwrap_or(HORIZON).min(HORIZON)
    }

    /// The moment a tick begins.
    pub fn moment(&self, tick: Tick) -> Instant {
        self.began + Duration::from_nanos(tick.saturating_mul(1 << TICK_BITS))
    }

    /// Sets when `key` is due, in the place of what was set before.
    pub fn set(&mut self, key: u32, at: Tick) {
        self.clear(key);
        if self.entries.len() <= key as usize {
            self.entries.resize(key as usize + 1, Entry { previous: NONE, next: NONE, place: UNSET.into() });
        }
        self.hang(key, at.min(self.elapsed + HORIZON));
    }

    /// Takes `key` out.
    pub fn clear(&mut self, key: u32) {
        let Some(entry) = self.entries.get_mut(key as usize).filter(|entry| entry.slot() != UNSET) else { return };
        let Entry { previous, next, place } = *entry;
        let slot = entry.slot();
        *entry = Entry { previous: NONE, next: NONE, place: place | u64::from(UNSET) };
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if previous != NONE {
            self.entries[previous as usize].next = next;
        } else if slot == DUE {
            self.due = next;
        } else {
            self.heads[usize::from(slot)] = next;
            if next == NONE {
                self.occupied[usize::from(slot) / SLOTS] &= !(1 << (usize::from(slot) % SLOTS));
            }
        }
    }

    /// The next key that is due at `now`, taken out.
    pub fn pop(&mut self, now: Tick) -> Option<u32> {
        loop {
            if self.due != NONE {
                let key = self.due;
                self.clear(key);
                return Some(key);
            }
            match self.next_slot().filter(|(_, at)| *at <= now) {
                Some((slot, at)) => self.turn(slot, at),
                None => {
                    self.elapsed = self.elapsed.max(now);
                    return None;
                }
            }
        }
    }

    /// When to ask [`Wheel::pop`] again: never later than the next deadline, at times earlier, since far ones are only known
    /// roughly. `None`: nothing is set.
    pub fn next(&self) -> Option<Tick> {
        if self.due != NONE {
            return Some(self.elapsed);
        }
        self.next_slot().map(|(_, at)| at)
    }

    /// The slot whose time comes first, and when that is.
    fn next_slot(&self) -> Option<(usize, Tick)> {
        (0..LEVELS).find_map(|level| {
            let occupied = self.occupied[level];
            if occupied == 0 {
                return None;
            }
            let shift = level as u32 * SLOT_BITS;
            let current = (self.elapsed >> shift) as u32 & (SLOTS as u32 - 1);
            let ahead = occupied.rotate_right(current).trailing_zeros();
            // What hangs in the slot the level stands at was put there one round ahead, which only the last level can.
            let at = ((self.elapsed >> shift) + Tick::from(ahead)) << shift;
            Some((level * SLOTS + ((current + ahead) as usize & (SLOTS - 1)), at.max(self.elapsed)))
        })
    }

    /// Hangs what is in a slot whose time has come one level lower, or makes it due.
    fn turn(&mut self, slot: usize, at: Tick) {
        self.elapsed = at;
        let mut key = std::mem::replace(&mut self.heads[slot], NONE);
        self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
        while key != NONE {
            let entry = self.entries[key as usize];
            self.hang(key, entry.at());
            key = entry.next;
        }
    }

    fn hang(&mut self, key: u32, at: Tick) {
        let (slot, head) = if at <= self.elapsed {
            (DUE, &mut self.due)
        } else {
            // The level is that of the highest digit in which the two moments differ.
            let differ = (self.elapsed ^ at) | (SLOTS as u64 - 1);
            let level = ((u64::BITS - 1 - differ.leading_zeros()) / SLOT_BITS).min(LEVELS as u32 - 1);
            let digit = (at >> (level * SLOT_BITS)) as usize & (SLOTS - 1);
            self.occupied[level as usize] |= 1 << digit;
            let slot = level as usize * SLOTS + digit;
            (slot as u16, &mut self.heads[slot])
        };
        let next = std::mem::replace(head, key);
        self.entries[key as usize] = Entry { previous: NONE, next, place: at << 16 | u64::from(slot) };
        if next != NONE {
            self.entries[next as usize].previous = key;
        }
    }
}

/// The slot of what is due.
const DUE: u16 = UNSET - 1;

impl Entry {
    fn slot(&self) -> u16 {
        self.place as u16
    }

    fn at(&self) -> Tick {
        self.place >> 16
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The wheel beside a map that is plainly right.
    #[test]
    fn gives_out_what_a_sorted_map_would() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let mut wheel = Wheel::new(Instant::now());
            let mut expected = BTreeMap::new();
            let mut now = 0;
            for _ in 0..400 {
                match rng.u8(..10) {
                    0..5 => {
                        let key = rng.u32(..50);
                        let far = 1 << rng.u32(..30);
                        let at = (now + rng.u64(..far)).saturating_sub(rng.u64(..3));
                        wheel.set(key, at);
                        expected.insert(key, at);
                    }
                    5 => {
                        let key = rng.u32(..60);
                        wheel.clear(key);
                        expected.remove(&key);
                    }
                    _ => {
                        let far = 1 << rng.u32(..24);
                        now += rng.u64(..far);
                        if let Some(next) = expected.values().min() {
                            assert!(wheel.next().unwrap() <= (*next).max(wheel.elapsed), "would sleep past a deadline");
                        }
                        while let Some(key) = wheel.pop(now) {
                            let at = expected.remove(&key).expect("given out twice, or after it was cleared");
                            assert!(at <= now, "early");
                        }
                        assert!(expected.values().all(|at| *at > now), "late");
                        assert_eq!(wheel.next().is_none(), expected.is_empty());
                    }
                }
            }
        }
    }

    #[test]
    fn sleeping_until_the_next_turn_finds_every_deadline() {
        let mut wheel = Wheel::new(Instant::now());
        let deadlines = [1, 63, 64, 65, 4095, 4096, 300_000, 1 << 31];
        for (key, at) in deadlines.iter().enumerate() {
            wheel.set(key as u32, *at);
        }
        let mut found = Vec::new();
        let mut looks = 0;
        while let Some(now) = wheel.next() {
            looks += 1;
            while let Some(key) = wheel.pop(now) {
                assert_eq!(deadlines[key as usize], now, "a turn lies on the deadline itself");
                found.push(key);
            }
        }
        assert_eq!(found, (0..deadlines.len() as u32).collect::<Vec<_>>());
        // One look for each level that an entry comes down through, at most.
        assert!(looks <= deadlines.len() * LEVELS, "{looks}");
    }

    #[test]
    fn a_deadline_is_never_early_and_far_ones_are_never() {
        let began = Instant::now();
        let mut wheel = Wheel::new(began);
        let asked = Duration::from_millis(50);
        let now = wheel.tick(began + Duration::from_millis(10));
        wheel.set(0, now + Wheel::ticks(asked));
        assert!(wheel.moment(wheel.next().unwrap()) >= began + Duration::from_millis(60));
        assert_eq!(Wheel::ticks(Duration::MAX), HORIZON);
        wheel.set(0, HORIZON + 5);
        assert_eq!(wheel.pop(1 << 30), None);
    }

    #[test]
    fn an_entry_is_sixteen_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }
}
