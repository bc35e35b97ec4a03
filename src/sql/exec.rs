//! Runs a plan's nodes over one batch after the other: physical plans are built once per slot and executed again.
//!
//! A statement that fails on a message fails for its whole batch; `bisect` finds the guilty messages by halving the
//! batch and gives the rows of the others, before state or a sink has seen any of them.

use crate::sql::complaint::bare_message;
use crate::sql::function::{BatchClock, rebind_clock, session};
use crate::sql::leaf::{LeafTable, Refill};
use crate::sql::plan::{Input, Node, NodeRole, Plan};
use crate::types::error::Result;
use crate::types::limit::PLAN_EXECUTIONS_MAX;
use crate::types::reject::{Reject, RejectReason};
use arrow::array::{AsArray, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{SchemaRef, UInt32Type};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Polls of a stream that yield nothing before it is given up. Our plans wait for nothing outside; a poll that is
/// pending can only be a courtesy to a scheduler that is not there.
const IDLE_POLLS_MAX: u32 = 1_000;

/// What a sink could not take of an INSERT's rows, in words. It costs the guilty message, like an error of the SQL.
pub type RowCheck = Arc<dyn Fn(&RecordBatch) -> Result<(), String> + Send + Sync>;

/// One slot's physical plans. Synchronous to run; needs no async runtime.
pub struct Stateless {
    plan: Arc<Plan>,
    clock: BatchClock,
    /// Rows of the tables, then of the nodes: what the plans' leaves read.
    tables: Vec<Arc<Refill>>,
    nodes: Vec<Arc<Refill>>,
    physical: Vec<Arc<dyn ExecutionPlan>>,
    /// By node, where the sink wants one.
    checks: BTreeMap<usize, RowCheck>,
    context: Arc<TaskContext>,
    executions: u32,
}

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
    pub async fn new(plan: Arc<Plan>) -> Result<Self> {
        let session = session()?;
        let clock = BatchClock::default();
        let refills = |count: usize| (0..count).map(|_| Arc::new(Refill::default())).collect::<Vec<_>>();
        let (tables, nodes) = (refills(plan.tables.len()), refills(plan.nodes.len()));
        let mut physical = Vec::new();
        for node in &plan.nodes {
            let logical = rebind_clock(node.logical.clone(), &clock)?;
            let logical = fill_leaves(&plan, logical, &tables, &nodes)?;
            physical.push(physical_plan(&logical, &session).await?);
        }
        let context = session.task_ctx();
        Ok(Stateless { plan, clock, tables, nodes, physical, checks: BTreeMap::new(), context, executions: 0 })
    }

    /// From now on the rows of this node, an INSERT's, pass `check` before state or a sink sees the batch.
    pub fn check_rows(&mut self, node: usize, check: RowCheck) {
        self.checks.insert(node, check);
    }

    /// One batch: per table (index as in `Plan::tables`) its rows in `Table::leaf_schema`, `__msg` ascending; `None` or
    /// no rows where nothing arrived. `now_us` is what `now()` says.
    pub fn run(&mut self, tables: &[Option<RecordBatch>], now_us: i64) -> Result<NodeOutputs, NodeError> {
        assert_eq!(tables.len(), self.tables.len(), "one entry for each table of the plan");
        self.clock.set(now_us);
        for (refill, rows) in self.tables.iter().zip(tables) {
            refill.set(rows.iter().filter(|r| r.num_rows() > 0).cloned().collect());
        }
        let outputs = self.run_nodes();
        // Nothing of a batch outlives it here, whether it went well or not.
        self.tables.iter().chain(&self.nodes).for_each(|refill| refill.set(Vec::new()));
        outputs
    }

    fn run_nodes(&mut self) -> Result<NodeOutputs, NodeError> {
        let mut outputs = NodeOutputs { nodes: vec![Vec::new(); self.plan.nodes.len()] };
        self.reset_when_due()?;
        for index in 0..self.plan.nodes.len() {
            let node = &self.plan.nodes[index];
            let empty = node.reads.iter().all(|input| match input {
                Input::Table(i) => self.tables[*i].is_empty(),
                Input::Node(i) => self.nodes[*i].is_empty(),
            });
            if empty {
                continue;
            }
            let rows =
                execute(&self.physical[index], &self.context, &node.schema).map_err(|e| fail(index, node, &e))?;
            if let Some(check) = self.checks.get(&index) {
                let refused = |message| NodeError { node: index, statement: node.statement.clone(), message };
                rows.iter().try_for_each(|rows| check(rows)).map_err(refused)?;
            }
            match node.role {
                NodeRole::Shared => self.nodes[index].set(rows),
                NodeRole::ViewInput(_) | NodeRole::Insert(_) => outputs.nodes[index] = rows,
            }
        }
        Ok(outputs)
    }

    /// Every execution adds metrics to a plan; fresh state drops them.
    fn reset_when_due(&mut self) -> Result<(), NodeError> {
        self.executions += 1;
        if self.executions < PLAN_EXECUTIONS_MAX {
            return Ok(());
        }
        self.executions = 0;
        for (index, physical) in self.physical.iter_mut().enumerate() {
            let fresh = reset_plan_states(physical.clone());
            *physical = fresh.map_err(|e| fail(index, &self.plan.nodes[index], &e))?;
        }
        Ok(())
    }

    /// As `run`, but a message on which a statement fails is set aside and the others go on as if it had not been
    /// there. `Reject::index` is its `__msg`. Runs about 2 log2(messages) times for each guilty message.
    pub fn bisect(&mut self, tables: &[Option<RecordBatch>], now_us: i64) -> (NodeOutputs, Vec<Reject>) {
        let mut found = Found { outputs: vec![Vec::new(); self.plan.nodes.len()], rejects: Vec::new() };
        let first = tables.iter().flatten().filter_map(|t| messages(t).first().copied()).min();
        let last = tables.iter().flatten().filter_map(|t| messages(t).last().copied()).max();
        if let (Some(first), Some(last)) = (first, last) {
            self.halve(tables, first, last, now_us, &mut found);
        }
        let nodes = found.outputs.into_iter().zip(&self.plan.nodes);
        let nodes = nodes.map(|(pieces, node)| join(&node.schema, pieces)).collect();
        (NodeOutputs { nodes }, found.rejects)
    }

    /// Messages `first..=last`: their rows, or the half of them that fails, down to single messages.
    fn halve(&mut self, tables: &[Option<RecordBatch>], first: u32, last: u32, now_us: i64, found: &mut Found) {
        let part: Vec<Option<RecordBatch>> =
            tables.iter().map(|t| t.as_ref().map(|rows| rows_of_messages(rows, first, last))).collect();
        if part.iter().flatten().all(|rows| rows.num_rows() == 0) {
            return;
        }
        match self.run(&part, now_us) {
            Ok(outputs) => {
                for (all, rows) in found.outputs.iter_mut().zip(outputs.nodes) {
                    all.extend(rows);
                }
            }
            Err(error) if first == last => {
                let reason = RejectReason::Sql { statement: error.statement, message: error.message };
                found.rejects.push(Reject { index: first, reason });
            }
            Err(_) => {
                let middle = first + (last - first) / 2;
                self.halve(&part, first, middle, now_us, found);
                self.halve(&part, middle + 1, last, now_us, found);
            }
        }
    }
}

struct Found {
    outputs: Vec<Vec<RecordBatch>>,
    rejects: Vec<Reject>,
}

fn fail(index: usize, node: &Node, error: &DataFusionError) -> NodeError {
    NodeError { node: index, statement: node.statement.clone(), message: bare_message(error.find_root()) }
}

/// Puts the refillable leaves in the place of the plan's scans, which name tables and shared nodes.
fn fill_leaves(
    plan: &Plan,
    logical: LogicalPlan,
    tables: &[Arc<Refill>],
    nodes: &[Arc<Refill>],
) -> Result<LogicalPlan, DataFusionError> {
    let filled = logical.transform_up(|node| {
        let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
        let name = scan.table_name.table();
        let table = plan.tables.iter().position(|t| t.name.as_ref() == name);
        let shared = plan.nodes.iter().position(|n| n.role == NodeRole::Shared && n.statement.as_ref() == name);
        let refill = match (table, shared) {
            (Some(i), _) => &tables[i],
            (None, Some(i)) => &nodes[i],
            (None, None) => return Err(DataFusionError::Internal(format!("no rows for \"{name}\""))),
        };
        let leaf = LeafTable { schema: scan.source.schema(), refill: refill.clone() };
        scan.source = provider_as_source(Arc::new(leaf));
        Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
    })?;
    Ok(filled.data)
}

pub(super) async fn physical_plan(logical: &LogicalPlan, session: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(DefaultPhysicalPlanner::default().create_physical_plan(logical, session).await?)
}

/// All partitions one after the other (UNION ALL has one per branch), in the order of `__msg`, under `schema`.
pub(super) fn execute(
    plan: &Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
    schema: &SchemaRef,
) -> Result<Vec<RecordBatch>, DataFusionError> {
    let partitions = plan.properties().output_partitioning().partition_count();
    let mut batches = Vec::new();
    for partition in 0..partitions {
        let mut stream = plan.execute(partition, context.clone())?;
        while let Some(batch) = next(&mut stream)? {
            if batch.num_rows() > 0 {
                let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                batches.push(RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)?);
            }
        }
    }
    if partitions > 1 && batches.len() > 1 {
        return Ok(vec![in_message_order(schema, &batches)?]);
    }
    Ok(batches)
}

fn next(stream: &mut SendableRecordBatchStream) -> Result<Option<RecordBatch>, DataFusionError> {
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..IDLE_POLLS_MAX {
        if let Poll::Ready(batch) = stream.as_mut().poll_next(&mut context) {
            return batch.transpose();
        }
    }
    Err(DataFusionError::Internal("a stateless plan waits for something outside".into()))
}

fn in_message_order(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch, DataFusionError> {
    let rows = concat_batches(schema, batches)?;
    let messages = messages(&rows);
    let mut order: Vec<u64> = (0..rows.num_rows() as u64).collect();
    // Stable: rows of one message keep the order of the branches.
    order.sort_by_key(|row| messages[*row as usize]);
    Ok(take_record_batch(&rows, &UInt64Array::from(order))?)
}

/// The `__msg` of each row: the last column of tables and nodes alike.
fn messages(rows: &RecordBatch) -> &[u32] {
    let last = rows.columns().last().expect("rows carry __msg");
    last.as_primitive::<UInt32Type>().values()
}

fn rows_of_messages(rows: &RecordBatch, first: u32, last: u32) -> RecordBatch {
    let messages = messages(rows);
    let from = messages.partition_point(|m| *m < first);
    let to = messages.partition_point(|m| *m <= last);
    rows.slice(from, to - from)
}

/// Pieces of a bisected batch, as one.
fn join(schema: &SchemaRef, pieces: Vec<RecordBatch>) -> Vec<RecordBatch> {
    if pieces.len() < 2 {
        return pieces;
    }
    match concat_batches(schema, &pieces) {
        Ok(joined) => vec![joined],
        // More than 2 GiB of text in one column: the pieces say the same.
        Err(_) => pieces,
    }
}
