//! Where the live row of a key is: key -> (segment, row).
//!
//! No key is copied: an entry is half a hash and a place, and keys are compared with those the segments hold.

use crate::state::segment::Segment;
use arrow::array::{Array, BinaryArray};
use hashbrown::{HashTable, hash_table};
use std::mem;
use std::sync::Arc;

/// A row of a held segment. `slot` is the index's own number for the segment, reused once it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub slot: u32,
    pub row: u32,
}

/// Half of the hash: a table is three quarters as large with it, and finds and grows as well up to billions of keys.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    place: Place,
}

impl Entry {
    fn new(hash: u64, place: Place) -> Self {
        Entry { hash: hash as u32, place }
    }

    fn is_of(&self, hash: u64) -> bool {
        self.hash == hash as u32
    }

    fn spread(&self) -> u64 {
        spread(self.hash.into())
    }
}

/// The half that is kept, as a whole: the table takes a position from the low bits and a tag from the high ones.
fn spread(hash: u64) -> u64 {
    let half = hash & u64::from(u32::MAX);
    half << 32 | half
}

/// A key that was found; `entry` stays valid until the next insert.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    entry: usize,
    pub place: Place,
}

#[derive(Debug, Default)]
pub struct Index {
    entries: HashTable<Entry>,
    slots: Vec<Option<Arc<Segment>>>,
    free: Vec<u32>,
}

impl Index {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn hold(&mut self, segment: Arc<Segment>) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(segment);
            return slot;
        }
        self.slots.push(Some(segment));
        (self.slots.len() - 1) as u32
    }

    /// Entries that still point to a released slot find nothing until the slot is reused, so the caller moves or
    /// forgets them first.
    pub fn release(&mut self, slot: u32) -> Option<Arc<Segment>> {
        let released = self.slots[slot as usize].take();
        if released.is_some() {
            self.free.push(slot);
        }
        released
    }

    pub fn segment(&self, slot: u32) -> Option<&Arc<Segment>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Held segments with their slots, in slot order.
    pub fn segments(&self) -> impl Iterator<Item = (u32, &Arc<Segment>)> {
        self.slots.iter().enumerate().filter_map(|(slot, s)| Some((slot as u32, s.as_ref()?)))
    }

    pub fn find(&self, hash: u64, key: &[u8]) -> Option<Found> {
        let entry =
            self.entries.find_bucket_index(spread(hash), |e| e.is_of(hash) && self.key_at(e.place) == Some(key))?;
        let place = self.entries.get_bucket(entry)?.place;
        Some(Found { entry, place })
    }

    /// Looks up the keys of groups: `keys.value(rows[g])` with `hashes[g]`.
    ///
    /// Two passes, because a lookup is a chain of cache misses: first entries by their hash alone, then the keys they
    /// point to. Within a pass the lookups do not wait for each other.
    pub fn find_all(&self, keys: &BinaryArray, rows: &[u32], hashes: &[u64]) -> Vec<Option<Found>> {
        let mut found = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let entry = self.entries.find_bucket_index(spread(*hash), |e| e.is_of(*hash));
            found.push(entry.and_then(|entry| Some(Found { entry, place: self.entries.get_bucket(entry)?.place })));
        }
        for (group, row) in rows.iter().enumerate() {
            let Some(candidate) = found[group] else { continue };
            let key = keys.value(*row as usize);
            if self.key_at(candidate.place) != Some(key) {
                // Another key of the same hash stands first.
                found[group] = self.find(hashes[group], key);
            }
        }
        found
    }

    /// Moves a found key to another place.
    pub fn move_to(&mut self, found: Found, place: Place) {
        let entry = self.entries.get_bucket_mut(found.entry).expect("found since the last insert");
        assert!(entry.place == found.place, "an entry was moved twice in one append");
        entry.place = place;
    }

    /// Moves rows that the index points to: row n of `from` to row n of `slot`. Found by the old place alone, no key is
    /// compared; in two passes for the same reason as `find_all`.
    pub fn relocate(&mut self, hashes: &[u64], from: &[Place], slot: u32) {
        let mut entries = Vec::with_capacity(from.len());
        for (hash, place) in hashes.iter().zip(from) {
            entries.push(self.entries.find_bucket_index(spread(*hash), |e| e.place == *place));
        }
        for (row, entry) in entries.into_iter().enumerate() {
            let entry = entry.and_then(|e| self.entries.get_bucket_mut(e)).expect("a live row has an entry");
            entry.place = Place { slot, row: row as u32 };
        }
    }

    /// Makes room for so many keys, so that adding them one by one does not move the others about.
    pub fn reserve(&mut self, keys: usize) {
        self.entries.reserve(keys, Entry::spread);
    }

    /// Puts a key where it now is, in one lookup: the place it was at before, if it was there. The segment that holds the
    /// key must be held already.
    pub fn put(&mut self, hash: u64, key: &[u8], place: Place) -> Option<Place> {
        let Index { entries, slots, .. } = self;
        match entries.entry(spread(hash), |e| e.is_of(hash) && key_in(slots, e.place) == Some(key), Entry::spread) {
            hash_table::Entry::Occupied(mut entry) => Some(mem::replace(&mut entry.get_mut().place, place)),
            hash_table::Entry::Vacant(entry) => {
                entry.insert(Entry::new(hash, place));
                None
            }
        }
    }

    /// Adds a key that `find` did not find.
    pub fn insert(&mut self, hash: u64, place: Place) {
        self.entries.insert_unique(spread(hash), Entry::new(hash, place), Entry::spread);
    }

    /// Bytes of the index itself; segments are counted by their owner.
    pub fn bytes(&self) -> u64 {
        (self.entries.allocation_size() + self.slots.capacity() * size_of::<Option<Arc<Segment>>>()) as u64
    }

    fn key_at(&self, place: Place) -> Option<&[u8]> {
        key_in(&self.slots, place)
    }
}

fn key_in(slots: &[Option<Arc<Segment>>], place: Place) -> Option<&[u8]> {
    let segment = slots[place.slot as usize].as_ref()?;
    (segment.keys.len() > place.row as usize).then(|| segment.keys.value(place.row as usize))
}
