//! The record: the one durable object per epoch, written with create-if-absent. It is the decision, the fence and the
//! evidence; it never changes (I8), and everything it references is durable before it exists (I5).

use crate::types::count::Counts;
use crate::types::epoch::{ChainId, Epoch};
use crate::types::position::{PartitionId, Span};
use serde::{Deserialize, Serialize};

/// Bump when the shape changes; keep a sample of every version in testdata/compat.
pub const RECORD_FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub format: u32,
    pub chain: ChainId,
    pub pipeline: String,
    pub epoch: Epoch,
    /// The epoch before; 0 for the first record of a chain.
    pub parent: Epoch,
    pub kind: RecordKind,
    /// Which PUT this was: read back after an ambiguous timeout.
    pub attempt: String,
    /// Counts process starts on this chain; every claim record raises it.
    pub incarnation: u64,
    /// host/pid/start, for people.
    pub owner: String,
    /// What `now()` was bound to.
    pub epoch_time_us: i64,
    pub slots: u32,
    /// Epochs up to here are known to be applied: the durable evidence, one record late.
    pub applied_through: Epoch,
    /// Every partition ever read, with its latest span and cumulative counts.
    pub partitions: Vec<PartitionRecord>,
    pub views: Vec<ViewRecord>,
    /// Tables that receive files in this epoch.
    pub tables: Vec<TableRecord>,
    pub engine: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// Written at every start, before any source connects: empty spans, a new incarnation.
    Claim,
    Epoch,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionRecord {
    pub partition: PartitionId,
    pub slot: u32,
    /// What this epoch covered; empty (`from == to`) when idle. `to` is where the next start reads on.
    pub span: Span,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub identity: Option<serde_json::Value>,
    /// Cumulative since the chain began.
    pub counts: Counts,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewRecord {
    pub name: String,
    pub fingerprint: String,
    /// Base first, then tail in order; per slot.
    pub segments: Vec<SegmentRef>,
    /// Set when the view started empty although its input had been read before: the epoch it is complete from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub complete_from: Option<Epoch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRef {
    pub slot: u32,
    pub epoch: Epoch,
    pub base: bool,
    /// Relative to the checkpoint location.
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
    /// Of the object's bytes.
    pub crc32: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableRecord {
    pub sink: String,
    pub table: String,
    /// The Delta table's own id.
    pub table_id: String,
    /// `pipe/<chain uuid>/<sink>.<table>`
    pub app_id: String,
    /// Delta `Add` actions, as they go into the log.
    pub adds: Vec<serde_json::Value>,
    /// A Delta `Metadata` action, when this epoch evolves the table.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub schema_action: Option<serde_json::Value>,
    pub rows: u64,
    /// Cumulative rows since the chain began.
    pub rows_total: u64,
}
