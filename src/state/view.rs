//! One slot's share of one materialized view.

use crate::sql::plan::MaterializedView;
use crate::types::error::Result;
use crate::types::lineage::Lineage;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;

/// One slot's share. Owned by the slot's worker; readers get `FrozenView`s.
pub struct ViewState {}

/// A consistent, immutable picture of one share: cheap to clone, valid for as long as it is held.
#[derive(Clone)]
pub struct FrozenView {}

impl ViewState {
    /// Plans the view's fold once. Awaits DataFusion's planner at most; spawns nothing.
    pub async fn new(_view: Arc<MaterializedView>) -> Result<Self> {
        unimplemented!()
    }

    /// Folds one batch (columns: `input_schema` then `__msg`). All or nothing: an error leaves the state as it was.
    /// Returns the touched keys as rows (key columns of the fold, in key order, distinct), for upsert sinks.
    pub fn apply(&mut self, _rows: &[RecordBatch], _lineage: &Lineage) -> Result<RecordBatch> {
        unimplemented!()
    }

    pub fn freeze(&self) -> FrozenView {
        unimplemented!()
    }

    /// The live state rows born since the last cut, coalesced (schema `segment_schema`); starts the next epoch.
    /// None when nothing changed.
    pub fn cut(&mut self) -> Result<Option<RecordBatch>> {
        unimplemented!()
    }

    /// Every live state row: a new base. Taken from a frozen view, so that it can run off the hot path.
    pub fn segment_schema(&self) -> SchemaRef {
        unimplemented!()
    }

    /// Loads one segment (base first, then tail in order); a key seen again is replaced within one share
    /// (`Merge::Replace`) or merged when the segment comes from another slot's share (`Merge::Combine`).
    pub fn restore(&mut self, _segment: &RecordBatch, _merge: Merge) -> Result<()> {
        unimplemented!()
    }

    /// Rewrites segments when more than half of their rows are dead. Called by the worker between batches.
    pub fn compact(&mut self) -> Result<()> {
        unimplemented!()
    }

    pub fn keys(&self) -> u64 {
        unimplemented!()
    }

    /// Bytes held, for the state budget: segments, index, and what only readers still hold.
    pub fn bytes(&self) -> u64 {
        unimplemented!()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    Replace,
    Combine,
}

impl FrozenView {
    /// All live state rows, coalesced (schema `segment_schema`): the new base of a checkpoint.
    pub fn base(&self) -> Result<RecordBatch> {
        unimplemented!()
    }

    pub fn keys(&self) -> u64 {
        unimplemented!()
    }

    /// Final rows (the view's `output_schema`) of the merged shares.
    pub fn read(_view: &MaterializedView, _shares: &[FrozenView]) -> Result<Vec<RecordBatch>> {
        unimplemented!()
    }

    /// Final rows of the given keys (rows as `ViewState::apply` returns them), merged over the shares; keys that yield
    /// no row (HAVING) are returned as the second batch (key columns only).
    pub fn read_keys(
        _view: &MaterializedView,
        _shares: &[FrozenView],
        _keys: &RecordBatch,
    ) -> Result<(RecordBatch, RecordBatch)> {
        unimplemented!()
    }
}
