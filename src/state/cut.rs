//! What one slot shows to readers at a batch boundary: frozen views and the rows the lake does not have yet.

use crate::state::view::FrozenView;
use crate::types::epoch::Epoch;
use arrow::record_batch::RecordBatch;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Published by the slot's worker after every batch; immutable. A query loads one per slot and sees one cut (I10).
#[derive(Clone, Default)]
pub struct SlotView {
    /// By index in `Plan::views`.
    pub views: Vec<FrozenView>,
    /// Rows not yet known to be in the lake, by table ("sink.table") and epoch, in order. A query adds those of epochs
    /// above the table snapshot it pinned AFTER loading this.
    pub uncommitted: BTreeMap<Arc<str>, Vec<UncommittedRows>>,
}

#[derive(Clone)]
pub struct UncommittedRows {
    pub epoch: Epoch,
    pub batches: Arc<Vec<RecordBatch>>,
}
