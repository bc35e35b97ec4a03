//! Touched keys -> the key-value store: one writer merges the frozen shares of all slots.
//!
//! It runs ahead of the record, at batch latency. After a restart changes are held back until every partition has passed
//! the store's marker; then every key touched since the record is written, so that no value goes back in time (I13).
//! An absent or foreign store is rebuilt from state before the pipeline is ready.

use crate::checkpoint::record::Record;
use crate::engine::published::{Board, Published};
use crate::sinks::kv::KvSink;
use crate::sinks::kv::hold::{Hold, Held};
use crate::sinks::kv::store::{Marker, Version};
use crate::sql::plan::{Insert, InsertFrom, MaterializedView, Plan};
use crate::state::view::FrozenView;
use crate::types::change::Changes;
use crate::types::error::{Error, Result};
use crate::types::position::{PartitionId, Position};
use arrow::array::{Array, BooleanArray};
use arrow::compute::{concat_batches, filter_record_batch, not};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::physical_expr::PhysicalExpr;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, oneshot};

/// What slots and the checkpointer send.
pub enum Touched {
    /// Keys touched by one batch, by index in `Plan::views`. Empty lists count too: positions moved.
    Keys(Vec<(usize, RecordBatch)>),
    /// Everything sent before is durable when this is answered.
    Sync(oneshot::Sender<()>),
}
