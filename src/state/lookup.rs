//! Point lookups in frozen views: which rows of a share hold some keys, as of the moment it was frozen.
//!
//! The owner's index moves on with every batch, so a frozen reader cannot use it, and copying what a batch touched of
//! it would cost the hot path more than the batch itself. Instead readers keep indexes of their own beside the share:
//! one is rolled forward to the view at hand by adding the live rows of the segments it has not seen. That is the rows
//! that batches touched in between, and it is paid by the reader who asks (the KV writer). The write path never
//! waits for a lock.

use crate::state::index::{Index, Place};
use crate::state::segment::Segment;
use arrow::array::{Array, BinaryArray};
use hashbrown::DefaultHashBuilder;
use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Indexes kept per share: one for each reader that goes forward at its own pace (one KV writer per sink that mirrors
/// the view). With more readers than that, the oldest index is given up and built anew.
const LOOKUPS_MAX: usize = 4;

/// Versions an index at rest may lag behind before it is given up: it holds on to segments that compaction replaced,
/// and a reader that is this late pays little more for a new one.
const LOOKUP_LAG_MAX: u64 = 1_024;

#[derive(Default)]
pub struct Lookups {
    /// Guards the indexes at rest. An index is taken out while it is used, so the lock is held for a push or a pop,
    /// and only by readers.
    idle: Mutex<Vec<Lookup>>,
    /// Version of the oldest index at rest.
    oldest: AtomicU64,
    bytes: AtomicU64,
}

impl Lookups {
    /// The rows of `segments` (alive at `version`, `live` in all) that hold the keys: (index into `segments`, row).
    pub fn rows(
        &self,
        segments: &[Arc<Segment>],
        version: u64,
        live: u64,
        keys: &BinaryArray,
        hasher: &DefaultHashBuilder,
    ) -> Vec<Option<(usize, usize)>> {
        let mut lookup = self.take(version);
        lookup.roll(segments, version, live, hasher);
        let places = (0..keys.len()).map(|row| {
            let key = keys.value(row);
            let found = lookup.index.find(hasher.hash_one(key), key)?;
            let segment = lookup.index.segment(found.place.slot)?;
            let number = segments.binary_search_by_key(&segment.born, |s| s.born).ok()?;
            Some((number, found.place.row as usize))
        });
        let places = places.collect();
        self.put_back(lookup);
        places
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Gives up indexes that lag far behind. Called by the owner of the share: when a reader is at the lock, it does not
    /// wait but comes again.
    pub fn forget(&self, version: u64) {
        if version.saturating_sub(self.oldest.load(Ordering::Relaxed)) <= LOOKUP_LAG_MAX {
            return;
        }
        let Ok(mut idle) = self.idle.try_lock() else { return };
        idle.retain(|l| version - l.version <= LOOKUP_LAG_MAX);
        self.note(&idle, version);
    }

    /// The newest index that is not ahead of the view.
    fn take(&self, version: u64) -> Lookup {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = (0..idle.len()).filter(|i| idle[*i].version <= version).max_by_key(|i| idle[*i].version);
        newest.map(|i| idle.swap_remove(i)).unwrap_or_default()
    }

    fn put_back(&self, lookup: Lookup) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(lookup);
        if idle.len() > LOOKUPS_MAX
            && let Some(oldest) = (0..idle.len()).min_by_key(|i| idle[*i].version)
        {
            idle.swap_remove(oldest);
        }
        self.note(&idle, u64::MAX);
    }

    fn note(&self, idle: &[Lookup], oldest_of_none: u64) {
        let oldest = idle.iter().map(|l| l.version).min().unwrap_or(oldest_of_none);
        self.oldest.store(oldest, Ordering::Relaxed);
        self.bytes.store(idle.iter().map(|l| l.index.bytes()).sum(), Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Lookup {
    version: u64,
    index: Index,
}

impl Lookup {
    /// Every key live at `version` is either in a segment born since `self.version`, or where it was.
    fn roll(&mut self, segments: &[Arc<Segment>], version: u64, live: u64, hasher: &DefaultHashBuilder) {
        self.index.reserve((live as usize).saturating_sub(self.index.len()));
        self.add(segments, version, hasher);
        if self.index.len() as u64 != live {
            // Keys went away as well (not only rows): start from nothing.
            *self = Lookup::default();
            self.add(segments, version, hasher);
        }
    }

    fn add(&mut self, segments: &[Arc<Segment>], version: u64, hasher: &DefaultHashBuilder) {
        for segment in segments.iter().filter(|s| s.born > self.version) {
            let slot = self.index.hold(Arc::clone(segment));
            for row in 0..segment.len() {
                if !segment.alive_at(row, version) {
                    continue;
                }
                let key = segment.keys.value(row);
                self.index.put(hasher.hash_one(key), key, Place { slot, row: row as u32 });
            }
        }
        let seen: HashSet<u64> = segments.iter().map(|s| s.born).collect();
        let gone: Vec<u32> =
            self.index.segments().filter(|(_, s)| !seen.contains(&s.born)).map(|(slot, _)| slot).collect();
        for slot in gone {
            self.index.release(slot);
        }
        self.version = version;
    }
}
