//! A segment: immutable state rows, their keys, and when each row died.
//!
//! Rows never change; what changes is the version at which a row was replaced. The owner of the state counts versions
//! (one per append); a reader that froze version v sees a row if it was born by v and had not died by v. Deaths that
//! happen later carry a later version, so a frozen reader's answer never changes, no bitmap is copied, and the cost of
//! a batch is the rows it touches.

use crate::types::error::Result;
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::compute::interleave;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const ALIVE: u64 = u64::MAX;

#[derive(Debug)]
pub struct Segment {
    /// The version that appended it; unique within a share.
    pub born: u64,
    /// By the fold's segment schema.
    pub rows: RecordBatch,
    /// The encoded key of each row.
    pub keys: BinaryArray,
    /// Version at which a row was replaced. Written by the owner alone and once per row. Relaxed is enough: a reader
    /// got its view through a synchronising hand-over, which orders every death up to the view's version before it,
    /// and of later deaths it does not matter whether it sees them.
    died: Box<[AtomicU64]>,
}

impl Segment {
    pub fn new(born: u64, rows: RecordBatch, keys: BinaryArray) -> Self {
        assert_eq!(rows.num_rows(), keys.len(), "every state row has a key");
        let (schema, columns, _) = rows.into_parts();
        let columns = columns.into_iter().map(owned).collect();
        let rows = RecordBatch::try_new(schema, columns).expect("the same types and lengths as before");
        let died = (0..rows.num_rows()).map(|_| AtomicU64::new(ALIVE)).collect();
        Segment { born, rows, keys, died }
    }

    pub fn len(&self) -> usize {
        self.died.len()
    }

    pub fn kill(&self, row: u32, version: u64) {
        self.died[row as usize].store(version, Ordering::Relaxed);
    }

    pub fn alive_at(&self, row: usize, version: u64) -> bool {
        self.died[row].load(Ordering::Relaxed) > version
    }

    /// The rows alive at a version, as a filter.
    pub fn mask(&self, version: u64) -> BooleanArray {
        BooleanArray::new(BooleanBuffer::collect_bool(self.len(), |row| self.alive_at(row, version)), None)
    }

    pub fn bytes(&self) -> u64 {
        (self.rows.get_array_memory_size()
            + self.keys.get_array_memory_size()
            + self.died.len() * size_of::<AtomicU64>()
            + size_of::<Segment>()) as u64
    }
}

/// Brings a column to the buffers it needs: a state row lives long, and must hold on neither to spare capacity nor, as
/// views do, to the whole batch it came from.
fn owned(mut column: ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
        _ => {
            column.shrink_to_fit();
            column
        }
    }
}

/// Copies rows picked from several segments: (index into `segments`, row). One array per column of `columns`.
pub fn gather(segments: &[&Segment], picks: &[(usize, usize)], columns: &[usize]) -> Result<Vec<ArrayRef>> {
    let mut out = Vec::with_capacity(columns.len());
    for column in columns {
        let sources: Vec<&dyn Array> = segments.iter().map(|s| s.rows.column(*column).as_ref()).collect();
        out.push(interleave(&sources, picks)?);
    }
    Ok(out)
}

pub fn gather_keys(segments: &[&Segment], picks: &[(usize, usize)]) -> Result<ArrayRef> {
    let sources: Vec<&dyn Array> = segments.iter().map(|s| &s.keys as &dyn Array).collect();
    Ok(interleave(&sources, picks)?)
}
