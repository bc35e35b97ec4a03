//! The record: the one durable object per epoch, written with create-if-absent. It is the decision, the fence and the
//! evidence; it never changes (I8), and everything it references is durable before it exists (I5).

use crate::types::count::Counts;
use crate::types::epoch::{ChainId, Epoch};
use crate::types::position::{PartitionId, Position, Span};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Bump when the shape changes; keep a sample of every version in testdata/compat.
///
/// 2: `feeds`, `floor`.
pub const RECORD_FORMAT: u32 = 2;

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
    /// Every table ever written, with the files of this epoch: `adds` is empty when the table received none. Kept so
    /// that its id and row total are in every head.
    pub tables: Vec<TableRecord>,
    /// What the tables are filled with, as the last claim found it. Empty: written by a build that did not say.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub feeds: Vec<FeedRecord>,
    /// Records below had been deleted by clean-up when this one was written: what stands under such a name is not part of
    /// the chain. It lags behind; 0: none is known to be gone.
    #[serde(skip_serializing_if = "is_nothing", default)]
    pub floor: Epoch,
    pub engine: String,
}

fn is_nothing(floor: &Epoch) -> bool {
    *floor == Epoch(0)
}

/// Why an object under `records/` is not a record we can go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Written by a newer build.
    Format { found: u32 },
    /// Not JSON of the shape its format promises.
    Damaged { why: String },
    /// A sound record, but not the one its place (or its chain) calls for.
    Misplaced { why: String },
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Format { found } => {
                write!(f, "it has record format {found}, this build reads formats up to {RECORD_FORMAT}")
            }
            Unreadable::Damaged { why } => write!(f, "it is damaged: {why}"),
            Unreadable::Misplaced { why } => write!(f, "{why}"),
        }
    }
}

impl Record {
    /// The object's bytes: one line of JSON per record, readable by people with any JSON tool.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a record holds only string keys and finite numbers");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the record stored under the name of `epoch`. `chain`: the chain it must belong to, where that is known
    /// (every record but the head).
    pub fn decode(bytes: &[u8], epoch: Epoch, chain: Option<&ChainId>) -> Result<Record, Unreadable> {
        // The format alone first, and loosely: a newer build may have changed everything else.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let damaged = |e: serde_json::Error| Unreadable::Damaged { why: e.to_string() };
        let head: Head = serde_json::from_slice(bytes).map_err(damaged)?;
        if head.format == 0 || head.format > RECORD_FORMAT {
            return Err(Unreadable::Format { found: head.format });
        }
        let record: Record = serde_json::from_slice(bytes).map_err(damaged)?;
        if record.epoch != epoch {
            let why = format!("it is named {epoch} but says it is epoch {}", record.epoch);
            return Err(Unreadable::Misplaced { why });
        }
        if let Some(chain) = chain
            && record.chain != *chain
        {
            let why = format!("it belongs to chain {}, not to chain {chain}", record.chain);
            return Err(Unreadable::Misplaced { why });
        }
        if record.parent.next() != record.epoch || record.applied_through > record.parent {
            let why = format!("parent {} and applied_through {} do not fit", record.parent, record.applied_through);
            return Err(Unreadable::Damaged { why });
        }
        Ok(record)
    }

    pub fn partition(&self, partition: &PartitionId) -> Option<&PartitionRecord> {
        self.partitions.iter().find(|p| p.partition == *partition)
    }

    /// Where the next start of every partition reads on.
    pub fn positions(&self) -> impl Iterator<Item = (&PartitionId, Position)> {
        self.partitions.iter().map(|p| (&p.partition, p.span.to))
    }

    /// The tables that this epoch changes: what APPLY has to commit.
    pub fn landings(&self) -> impl Iterator<Item = &TableRecord> {
        self.tables.iter().filter(|t| !t.adds.is_empty() || t.schema_action.is_some())
    }

    /// Whether any message has been read.
    pub fn has_read(&self) -> bool {
        self.partitions.iter().any(|p| p.span.to.0 > 0)
    }

    pub fn feed(&self, sink: &str, table: &str) -> Option<&FeedRecord> {
        self.feeds.iter().find(|f| f.sink == sink && f.table == table)
    }

    pub fn table(&self, sink: &str, table: &str) -> Option<&TableRecord> {
        self.tables.iter().find(|t| t.sink == sink && t.table == table)
    }

    pub fn view(&self, name: &str) -> Option<&ViewRecord> {
        self.views.iter().find(|v| v.name == name)
    }
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
    /// Base first (in one part or several, which have no key in common), then tail in order; per slot.
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

/// What one statement alone puts into a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedRecord {
    pub sink: String,
    pub table: String,
    pub columns: BTreeMap<String, ColumnFeed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnFeed {
    /// A digest over how the column and its rows come about.
    pub print: String,
    /// Every row that was emitted in this epoch or later has the column so.
    pub since: Epoch,
}
