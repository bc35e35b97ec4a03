//! Which message a row came from. Every row of a batch carries a `__msg` column: an index into this list.
//!
//! The column survives views (filter, projection, unnest keep it), so that a SQL error can be pinned on one message and
//! DISTINCT ON has its total order: (order columns, source, topic, partition, position, ordinal in the message).

use crate::types::position::{PartitionId, Position};
use std::sync::Arc;

/// Name of the hidden UInt32 column that every stateless plan keeps as its LAST column. Ascending within a batch.
pub const MSG_COLUMN: &str = "__msg";

/// One entry per message of a slot batch, in the order in which `__msg` counts.
#[derive(Clone, Debug)]
pub struct Origin {
    pub partition: Arc<PartitionId>,
    pub partition_label: Arc<str>,
    pub topic: Option<Arc<str>>,
    pub position: Position,
}

#[derive(Clone, Debug, Default)]
pub struct Lineage {
    pub origins: Vec<Origin>,
}
