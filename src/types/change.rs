//! A change of a key: upsert or delete, as an upsert sink receives it.

use arrow::record_batch::RecordBatch;

/// Changes of one INSERT into an upsert sink. The key columns of `upserts` and `deletes` are the view's key.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Whole rows, by the sink table's columns. One row per key.
    pub upserts: RecordBatch,
    /// Keys alone (the key columns, in key order) that no longer yield a row.
    pub deletes: RecordBatch,
}
