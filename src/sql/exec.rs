//! Runs a plan's nodes over one batch after the other: physical plans are built once per slot and executed again.

use crate::sql::plan::Plan;
use crate::types::error::Result;
use crate::types::reject::Reject;
use arrow::record_batch::RecordBatch;
use std::fmt;
use std::sync::Arc;

/// One slot's physical plans. Synchronous to run; needs no async runtime.
pub struct Stateless {}

/// Per node of the plan its rows; `NodeRole::Shared` nodes are left empty.
#[derive(Clone, Debug, Default)]
pub struct NodeOutputs {
    pub nodes: Vec<Vec<RecordBatch>>,
}

/// A node failed on a batch; `Stateless::bisect` finds the guilty messages.
#[derive(Clone, Debug)]
pub struct NodeError {
    pub node: usize,
    pub statement: Arc<str>,
    pub message: String,
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sql:{}: {}", self.statement, self.message)
    }
}

impl std::error::Error for NodeError {}

impl Stateless {
    /// Builds the physical plans. Awaits DataFusion's planner; spawns nothing.
    pub async fn new(_plan: Arc<Plan>) -> Result<Self> {
        unimplemented!()
    }

    /// One batch: per table (index as in `Plan::tables`) its rows in `Table::leaf_schema`, `__msg` ascending; `None` or
    /// no rows where nothing arrived. `now_us` is what `now()` says.
    pub fn run(&mut self, _tables: &[Option<RecordBatch>], _now_us: i64) -> Result<NodeOutputs, NodeError> {
        unimplemented!()
    }

    /// As `run`, but a message on which a statement fails is set aside and the others go on as if it had not been
    /// there. `Reject::index` is its `__msg`.
    pub fn bisect(&mut self, _tables: &[Option<RecordBatch>], _now_us: i64) -> (NodeOutputs, Vec<Reject>) {
        unimplemented!()
    }
}
