//! The log of one share: segments of state rows, the index to their live rows, cuts and compaction.
//!
//! A batch appends one segment and moves the index on; rows it replaced die at that version (segment.rs). Freezing
//! clones the list of segments. Nothing here knows what a row means: folds compute rows, the log keeps them.

use crate::state::index::{Found, Index, Place};
use crate::state::keys::text_keys;
use crate::state::segment::{Keys, Segment, gather, gather_keys};
use crate::types::error::Result;
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use hashbrown::DefaultHashBuilder;
use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

/// Rows of the largest segment that compaction or restore writes, and so the work of one compaction step: some
/// milliseconds. Smaller would mean more segments for readers to walk.
pub const SEGMENT_ROWS_MAX: usize = 32_768;

/// Segments of one size class that are merged into one. Each row is merged at most once per class, so small batches
/// cost log8(rows) copies of a row, and a share has few small segments.
const MERGE_FANOUT: usize = 8;

/// Segments with fewer live rows than this are merged with others of their class; larger ones are only rewritten when
/// most of their rows are dead.
const MERGE_ROWS_MAX: usize = SEGMENT_ROWS_MAX / MERGE_FANOUT;

/// State rows to append, one per key.
pub struct Arrival {
    pub rows: RecordBatch,
    pub keys: BinaryArray,
    pub hashes: Vec<u64>,
    /// What the index said about each key; nothing was appended since.
    pub found: Vec<Option<Found>>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    live: u32,
    /// Born since the last cut.
    fresh: bool,
}

pub struct Log {
    schema: SchemaRef,
    hasher: DefaultHashBuilder,
    /// The column of a state row that is its key, if one is.
    text_key: Option<usize>,
    /// Counts appends. A row is alive at the versions from its segment's birth until its death.
    version: u64,
    index: Index,
    /// By slot of the index.
    held: Vec<Held>,
    /// What readers get: the held segments, in order of birth.
    published: Arc<Vec<Arc<Segment>>>,
    /// Segments that compaction replaced; readers may hold them still.
    retired: Vec<Weak<Segment>>,
    held_bytes: u64,
}

impl Log {
    pub fn new(schema: SchemaRef, hasher: DefaultHashBuilder, text_key: Option<usize>) -> Self {
        Log {
            schema,
            hasher,
            text_key,
            version: 0,
            index: Index::default(),
            held: Vec::new(),
            published: Arc::default(),
            retired: Vec::new(),
            held_bytes: 0,
        }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn keys(&self) -> u64 {
        self.index.len() as u64
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    pub fn segments(&self) -> &Arc<Vec<Arc<Segment>>> {
        &self.published
    }

    /// Copies columns of the rows at some places.
    pub fn gather(&self, places: &[Place], columns: &[usize]) -> Result<Vec<ArrayRef>> {
        let (segments, picks) = self.picks(places);
        gather(&segments, &picks, columns)
    }

    /// Appends rows; each replaces the row of its key. Cannot fail: whatever can fail has been done before.
    pub fn append(&mut self, arrival: Arrival, fresh: bool) {
        if arrival.hashes.is_empty() {
            return;
        }
        let slot = self.hold(arrival.rows, arrival.keys, fresh);
        let mut emptied = Vec::new();
        // Moves first: an insert may rebuild the table, after which what was found is found elsewhere.
        for (row, found) in arrival.found.iter().enumerate() {
            let Some(found) = found else { continue };
            self.index.move_to(*found, Place { slot, row: row as u32 });
            if self.kill(found.place) == 0 {
                emptied.push(found.place.slot);
            }
        }
        for (row, found) in arrival.found.iter().enumerate() {
            if found.is_none() {
                self.index.insert(arrival.hashes[row], Place { slot, row: row as u32 });
            }
        }
        self.drop_slots(&emptied);
    }

    /// Makes room for so many more keys.
    pub fn expect(&mut self, keys: usize) {
        self.index.reserve(keys);
    }

    /// Appends rows that an earlier cut returned, as one segment and without asking first what the index knows. The last
    /// row of a key counts.
    pub fn load(&mut self, rows: RecordBatch, keys: BinaryArray) {
        if keys.is_empty() {
            return;
        }
        let hashes: Vec<u64> = (0..keys.len()).map(|row| self.hasher.hash_one(keys.value(row))).collect();
        let slot = self.hold(rows, keys.clone(), false);
        let mut emptied = Vec::new();
        for (row, hash) in hashes.into_iter().enumerate() {
            let replaced = self.index.put(hash, keys.value(row), Place { slot, row: row as u32 });
            if let Some(replaced) = replaced
                && self.kill(replaced) == 0
            {
                emptied.push(replaced.slot);
            }
        }
        self.drop_slots(&emptied);
    }

    /// The live rows born since the last cut, and from now on nothing is.
    pub fn cut(&mut self) -> Result<Option<RecordBatch>> {
        let fresh: Vec<u32> = self.index.segments().map(|(s, _)| s).filter(|s| self.held[*s as usize].fresh).collect();
        if fresh.is_empty() {
            return Ok(None);
        }
        let rows = match fresh.as_slice() {
            [slot] if self.is_whole(*slot) => self.index.segment(*slot).expect("listed above").rows.clone(),
            slots => {
                let columns: Vec<usize> = (0..self.schema.fields().len()).collect();
                RecordBatch::try_new(Arc::clone(&self.schema), self.gather(&self.live_places(slots), &columns)?)?
            }
        };
        for slot in fresh {
            self.held[slot as usize].fresh = false;
        }
        Ok(Some(rows))
    }

    /// One bounded step: rewrites segments most of whose rows are dead, or merges small ones of a size. Rows of this
    /// epoch and older ones are never mixed, so that a cut stays what was born since the last one.
    pub fn compact(&mut self) -> Result<bool> {
        self.retired.retain(|s| s.strong_count() > 0);
        let Some((victims, fresh)) = self.victims() else { return Ok(false) };
        let mut places = self.live_places(&victims);
        // A single segment may be larger (one batch of very many rows): it is emptied step by step.
        let whole = places.len() <= SEGMENT_ROWS_MAX;
        places.truncate(SEGMENT_ROWS_MAX);
        let columns: Vec<usize> = (0..self.schema.fields().len()).collect();
        let (segments, picks) = self.picks(&places);
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), gather(&segments, &picks, &columns)?)?;
        let keys = match self.text_key {
            Some(column) => text_keys(rows.column(column).as_string()),
            None => gather_keys(&segments, &picks)?.as_binary::<i32>().clone(),
        };

        let hashes: Vec<u64> = (0..keys.len()).map(|row| self.hasher.hash_one(keys.value(row))).collect();
        let slot = self.hold(rows, keys, fresh);
        self.index.relocate(&hashes, &places, slot);
        if whole {
            self.drop_slots(&victims);
        } else {
            for place in places {
                self.kill(place);
            }
        }
        Ok(true)
    }

    /// Segments, index, and what only readers still hold.
    pub fn bytes(&self) -> u64 {
        let retired: u64 = self.retired.iter().filter_map(Weak::upgrade).map(|s| s.bytes()).sum();
        self.held_bytes + retired + self.index.bytes()
    }

    /// Which segments one compaction step takes, and whether they are of this epoch.
    fn victims(&self) -> Option<(Vec<u32>, bool)> {
        for fresh in [false, true] {
            let mut dead_heavy = Bounded::default();
            let mut classes: Vec<Bounded> = vec![Bounded::default(); 1 + MERGE_ROWS_MAX.ilog(MERGE_FANOUT) as usize];
            for (slot, segment) in self.index.segments() {
                let Held { live, fresh: of_epoch } = self.held[slot as usize];
                if of_epoch != fresh {
                    continue;
                }
                if segment.len() > 2 * live as usize {
                    dead_heavy.take(slot, live);
                }
                if (live as usize) < MERGE_ROWS_MAX {
                    classes[live.ilog(MERGE_FANOUT as u32) as usize].take(slot, live);
                }
            }
            if !dead_heavy.slots.is_empty() {
                return Some((dead_heavy.slots, fresh));
            }
            if let Some(class) = classes.into_iter().find(|c| c.slots.len() >= MERGE_FANOUT) {
                return Some((class.slots, fresh));
            }
        }
        None
    }

    fn is_whole(&self, slot: u32) -> bool {
        self.index.segment(slot).is_some_and(|s| s.len() == self.held[slot as usize].live as usize)
    }

    fn live_places(&self, slots: &[u32]) -> Vec<Place> {
        let mut places = Vec::with_capacity(slots.iter().map(|s| self.held[*s as usize].live as usize).sum());
        for slot in slots {
            let Some(segment) = self.index.segment(*slot) else { continue };
            let live = (0..segment.len()).filter(|row| segment.alive_at(*row, self.version));
            places.extend(live.map(|row| Place { slot: *slot, row: row as u32 }));
        }
        places
    }

    /// Places as `gather` takes them: only the segments that are needed, and indices into those.
    fn picks(&self, places: &[Place]) -> (Vec<&Segment>, Vec<(usize, usize)>) {
        let mut numbers = vec![usize::MAX; self.held.len()];
        let mut segments: Vec<&Segment> = Vec::new();
        let mut picks = Vec::with_capacity(places.len());
        for place in places {
            let number = &mut numbers[place.slot as usize];
            if *number == usize::MAX {
                *number = segments.len();
                segments.push(self.index.segment(place.slot).expect("a place is in a held segment"));
            }
            picks.push((*number, place.row as usize));
        }
        (segments, picks)
    }

    /// A new segment, one version later.
    fn hold(&mut self, rows: RecordBatch, keys: BinaryArray, fresh: bool) -> u32 {
        self.version += 1;
        let keys = self.text_key.map_or(Keys::Encoded(keys), Keys::Text);
        let segment = Arc::new(Segment::new(self.version, rows, keys));
        let held = Held { live: segment.len() as u32, fresh };
        self.held_bytes += segment.bytes();
        Arc::make_mut(&mut self.published).push(Arc::clone(&segment));
        let slot = self.index.hold(segment);
        if slot as usize == self.held.len() {
            self.held.push(held);
        } else {
            self.held[slot as usize] = held;
        }
        slot
    }

    /// A row dies at the version at hand. Returns how many of its segment live on.
    fn kill(&mut self, place: Place) -> u32 {
        let segment = self.index.segment(place.slot).expect("a live row is in a held segment");
        self.held_bytes += segment.kill(place.row, self.version);
        let held = &mut self.held[place.slot as usize];
        held.live -= 1;
        held.live
    }

    fn drop_slots(&mut self, slots: &[u32]) {
        if slots.is_empty() {
            return;
        }
        let mut gone = HashSet::with_capacity(slots.len());
        for slot in slots {
            let Some(segment) = self.index.release(*slot) else { continue };
            self.held_bytes -= segment.bytes();
            self.retired.push(Arc::downgrade(&segment));
            gone.insert(segment.born);
        }
        Arc::make_mut(&mut self.published).retain(|s| !gone.contains(&s.born));
    }
}

/// Slots whose live rows fit into one segment; the first always does.
#[derive(Clone, Default)]
struct Bounded {
    slots: Vec<u32>,
    rows: usize,
}

impl Bounded {
    fn take(&mut self, slot: u32, live: u32) {
        if self.slots.is_empty() || self.rows + live as usize <= SEGMENT_ROWS_MAX {
            self.slots.push(slot);
            self.rows += live as usize;
        }
    }
}
