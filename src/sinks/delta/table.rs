//! One Delta table: open or create, write an epoch's files, apply a record, snapshot for readers.

use crate::types::epoch::{ChainId, Epoch};
use crate::types::error::Result;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a table must be. Columns are nullable; types are what Delta can hold (timestamps in microseconds UTC).
#[derive(Clone, Debug)]
pub struct TableSpec {
    pub name: String,
    pub schema: SchemaRef,
    pub partition_by: Vec<String>,
}

pub struct Table {}

/// The files of one epoch of one slot, being written. Nothing is visible until the record that lists them is applied.
pub struct EpochWriter {}

/// What `finish` gives: Delta Add actions as JSON, and how many rows they hold.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    pub adds: Vec<serde_json::Value>,
    pub rows: u64,
    pub bytes: u64,
}

/// What a record says about one table: the Adds of its epoch and the transaction they land under.
#[derive(Clone, Debug)]
pub struct Landing {
    pub app_id: String,
    pub adds: Vec<serde_json::Value>,
    pub schema_action: Option<serde_json::Value>,
}

/// A frozen table for readers, and the epoch of our chain up to which it holds our rows.
#[derive(Clone)]
pub struct LakeSnapshot {
    pub provider: Arc<dyn TableProvider>,
    pub applied: Epoch,
    pub version: i64,
}

impl Table {
    pub fn spec(&self) -> &TableSpec {
        unimplemented!()
    }

    /// The Delta table's own id; part of the record, so that a table swapped underneath is noticed.
    pub fn id(&self) -> String {
        unimplemented!()
    }

    /// The Delta metadata action that this table still needs (new nullable columns), for the first record that writes to it.
    pub fn pending_schema_action(&self) -> Option<serde_json::Value> {
        unimplemented!()
    }

    pub fn writer(&self) -> Result<EpochWriter> {
        unimplemented!()
    }

    /// Idempotent: skipped when the table already holds `epoch` or more under the landing's application id.
    pub async fn apply(&self, _epoch: Epoch, _landing: &Landing) -> Result<()> {
        unimplemented!()
    }

    /// Application ids in the table's log that start with "pipe/", with their versions: what refusals are decided on.
    pub async fn transactions(&self) -> Result<BTreeMap<String, i64>> {
        unimplemented!()
    }

    /// Pinned: what a query reads. Never older than the last `apply`.
    pub fn snapshot(&self) -> LakeSnapshot {
        unimplemented!()
    }

    pub fn app_id(_chain: &ChainId, _sink: &str, _table: &str) -> String {
        unimplemented!()
    }
}

impl EpochWriter {
    /// Columns as the spec's schema. Streams to the store; memory is bounded by one row group per partition.
    pub async fn write(&mut self, _rows: &RecordBatch) -> Result<()> {
        unimplemented!()
    }

    /// Files complete and durable (fsynced on local disk).
    pub async fn finish(self) -> Result<Prepared> {
        unimplemented!()
    }

    pub async fn abort(self) {}
}
