//! A segment: immutable state rows, their keys, and when each row died.
//!
//! Rows never change; what changes is the version at which a row was replaced. The owner of the state counts versions
//! (one per append); a reader that froze version v sees a row if it was born by v and had not died by v. Deaths that
//! happen later carry a later version, so a frozen reader's answer never changes, no bitmap is copied, and the cost of
//! a batch is the rows it touches.

use crate::state::keys::text_keys;
use crate::types::error::Result;
use arrow::array::{Array, ArrayData, ArrayRef, AsArray, BinaryArray, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::compute::interleave;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

const ALIVE: u64 = u64::MAX;

/// Where the encoded keys of a segment's rows come from.
pub enum Keys {
    Encoded(BinaryArray),
    /// They are this column's own bytes.
    Text(usize),
}

#[derive(Debug)]
pub struct Segment {
    /// The version that appended it; unique within a share.
    pub born: u64,
    /// By the fold's segment schema.
    pub rows: RecordBatch,
    /// The encoded key of each row.
    pub keys: BinaryArray,
    /// Version at which a row was replaced; absent until the first one is. Written by the owner alone and once per row.
    /// Relaxed is enough: a reader got its view through a synchronising hand-over, which orders every death up to the
    /// view's version before it, and of later deaths it does not matter whether it sees them.
    died: OnceLock<Box<[AtomicU64]>>,
    /// Of rows and keys.
    column_bytes: u64,
}

impl Segment {
    pub fn new(born: u64, rows: RecordBatch, keys: Keys) -> Self {
        let (schema, columns, _) = rows.into_parts();
        let columns = columns.into_iter().map(owned).collect();
        let rows = RecordBatch::try_new(schema, columns).expect("the same types and lengths as before");
        let keys = match keys {
            Keys::Encoded(keys) => keys,
            Keys::Text(column) => text_keys(rows.column(column).as_string()),
        };
        assert_eq!(rows.num_rows(), keys.len(), "every state row has a key");
        let column_bytes = held_bytes(&rows, &keys);
        Segment { born, rows, keys, died: OnceLock::new(), column_bytes }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns the bytes that the segment holds more for it.
    pub fn kill(&self, row: u32, version: u64) -> u64 {
        let mut more = 0;
        let died = self.died.get_or_init(|| {
            more = (self.len() * size_of::<AtomicU64>()) as u64;
            (0..self.len()).map(|_| AtomicU64::new(ALIVE)).collect()
        });
        died[row as usize].store(version, Ordering::Relaxed);
        more
    }

    pub fn alive_at(&self, row: usize, version: u64) -> bool {
        self.died.get().is_none_or(|died| died[row].load(Ordering::Relaxed) > version)
    }

    /// The rows alive at a version, as a filter.
    pub fn mask(&self, version: u64) -> BooleanArray {
        let alive = match self.died.get() {
            None => BooleanBuffer::new_set(self.len()),
            Some(died) => BooleanBuffer::collect_bool(self.len(), |row| died[row].load(Ordering::Relaxed) > version),
        };
        BooleanArray::new(alive, None)
    }

    pub fn bytes(&self) -> u64 {
        let died = self.died.get().map_or(0, |died| died.len() * size_of::<AtomicU64>());
        self.column_bytes + (died + size_of::<Segment>()) as u64
    }
}

/// Memory behind rows and keys. Columns that were read from one file share its memory, and keys may be a column: what is
/// shared counts once.
fn held_bytes(rows: &RecordBatch, keys: &BinaryArray) -> u64 {
    let mut buffers = Vec::new();
    for column in rows.columns() {
        add_buffers(&column.to_data(), &mut buffers);
    }
    add_buffers(&keys.to_data(), &mut buffers);
    buffers.sort_unstable();
    buffers.dedup();
    buffers.into_iter().map(|(_, bytes)| bytes as u64).sum()
}

/// Where each allocation begins, and its length.
fn add_buffers(data: &ArrayData, buffers: &mut Vec<(usize, usize)>) {
    let nulls = data.nulls().map(|n| n.buffer());
    buffers.extend(data.buffers().iter().chain(nulls).map(|b| (b.data_ptr().as_ptr() as usize, b.capacity())));
    for child in data.child_data() {
        add_buffers(child, buffers);
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
