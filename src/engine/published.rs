//! What a slot shows after every batch: frozen state, uncommitted rows, and how far it has read. Replaced as a whole,
//! so a reader that holds one sees one cut (I10).

use crate::state::cut::{SlotView, UncommittedRows};
use crate::types::count::Counts;
use crate::types::epoch::Epoch;
use crate::types::position::{PartitionId, Position};
use arrow::record_batch::RecordBatch;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Label of rows that no cut has sealed yet: above every epoch a table can hold.
pub const OPEN: Epoch = Epoch(u64::MAX);

/// Batches of one epoch are kept in chunks of this many, so that publishing copies a short list and never the rows.
const CHUNK_BATCHES: usize = 64;

#[derive(Clone, Debug, Default)]
pub struct PartitionProgress {
    pub position: Position,
    /// Cumulative since the chain began.
    pub counts: Counts,
}

/// One consistent picture of a slot.
#[derive(Clone, Default)]
pub struct Published {
    pub view: Arc<SlotView>,
    pub partitions: Arc<BTreeMap<PartitionId, PartitionProgress>>,
    /// Rejects by reason code since this process started.
    pub rejects: BTreeMap<&'static str, u64>,
    /// Unknown fields per source since this process started.
    pub unknown_fields: BTreeMap<Arc<str>, u64>,
    pub view_keys: Vec<u64>,
    pub view_bytes: Vec<u64>,
    pub batches: u64,
}

/// The place where a slot publishes. A std mutex: held only to swap or clone one `Arc`.
#[derive(Default)]
pub struct Board {
    current: Mutex<Arc<Published>>,
}

impl Board {
    pub fn publish(&self, published: Published) {
        *self.current.lock().expect("no holder panics") = Arc::new(published);
    }

    pub fn load(&self) -> Arc<Published> {
        self.current.lock().expect("no holder panics").clone()
    }
}

/// Rows the lake does not have yet, per table, chunked; owned by the worker.
#[derive(Default)]
pub struct Uncommitted {
    tables: BTreeMap<Arc<str>, Vec<UncommittedRows>>,
    bytes: BTreeMap<Epoch, u64>,
}

impl Uncommitted {
    /// Returns the bytes added.
    pub fn push(&mut self, table: &Arc<str>, rows: RecordBatch) -> u64 {
        let bytes = rows.get_array_memory_size() as u64;
        *self.bytes.entry(OPEN).or_default() += bytes;
        let chunks = self.tables.entry(table.clone()).or_default();
        match chunks.last_mut() {
            Some(last) if last.epoch == OPEN && last.batches.len() < CHUNK_BATCHES => {
                Arc::make_mut(&mut last.batches).push(rows);
            }
            _ => chunks.push(UncommittedRows { epoch: OPEN, batches: Arc::new(vec![rows]) }),
        }
        bytes
    }

    /// The rows so far belong to `epoch`. Returns false when there were none.
    pub fn seal(&mut self, epoch: Epoch) -> bool {
        for chunks in self.tables.values_mut() {
            for chunk in chunks.iter_mut().filter(|c| c.epoch == OPEN) {
                chunk.epoch = epoch;
            }
        }
        match self.bytes.remove(&OPEN) {
            Some(bytes) => {
                self.bytes.insert(epoch, bytes);
                true
            }
            None => false,
        }
    }

    /// The lake has everything up to `epoch`. Returns the bytes given back.
    pub fn applied(&mut self, epoch: Epoch) -> u64 {
        for chunks in self.tables.values_mut() {
            chunks.retain(|c| c.epoch > epoch);
        }
        let kept = self.bytes.split_off(&epoch.next());
        std::mem::replace(&mut self.bytes, kept).values().sum()
    }

    pub fn tables(&self) -> &BTreeMap<Arc<str>, Vec<UncommittedRows>> {
        &self.tables
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};

    fn rows(v: i64) -> RecordBatch {
        RecordBatch::try_from_iter([("v", Arc::new(Int64Array::from(vec![v])) as ArrayRef)]).unwrap()
    }

    #[test]
    fn applied_rows_go_and_open_rows_stay() {
        let mut u = Uncommitted::default();
        let table: Arc<str> = "lake.points".into();
        for v in 0..200 {
            u.push(&table, rows(v));
        }
        assert!(u.seal(Epoch(7)));
        assert!(!u.seal(Epoch(8)), "nothing since the last seal");
        u.push(&table, rows(200));
        assert_eq!(u.tables()[&table].iter().map(|c| c.batches.len()).sum::<usize>(), 201);
        assert!(u.applied(Epoch(6)) == 0);
        assert!(u.applied(Epoch(7)) > 0);
        let left: Vec<_> = u.tables()[&table].iter().map(|c| (c.epoch, c.batches.len())).collect();
        assert_eq!(left, vec![(OPEN, 1)]);
    }
}
